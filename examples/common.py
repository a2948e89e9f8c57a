"""What the examples share: how results are written and shown."""

import csv
import json
import os
import pathlib
import platform
import time
from typing import Any

import keras
import numpy as np
import rich.console
import rich.table
import tensorflow as tf

import lexirobust as lr
from lexirobust.atomic_files import write_json


class EpochTimes(keras.callbacks.Callback):
    """Notes when each epoch ended; the first holds the compilation."""

    def __init__(self, clock: Any) -> None:
        super().__init__()
        self.clock = clock
        self.ends: list[float] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        del epoch, logs
        self.ends.append(self.clock())


class Seconds(keras.callbacks.Callback):
    """Adds `seconds` to what later callbacks are told of an epoch; the first holds compilation."""

    def on_train_begin(self, logs: Any = None) -> None:
        del logs
        self.last = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        del epoch
        now = time.perf_counter()
        logs["seconds"] = now - self.last
        self.last = now


def is_positive(text: str) -> bool:
    """Tells if a flag's text is a finite number above 0."""
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False


def are_seeds(texts: list[str]) -> bool:
    """Tells if a flag's texts are one integer of at least 0, or more."""
    return bool(texts) and all(text.isdigit() for text in texts)


def begin(out: pathlib.Path, settings: dict[str, Any]) -> None:
    """Makes the folder of a run, unless it holds the backup of a run with other settings.

    Raises:
        SystemExit: If it does.
    """
    kept = out / "settings.json"
    if (out / "backup").exists() and json.loads(kept.read_text(encoding="utf-8")) != settings:
        raise SystemExit(
            f"{out} holds a run with other settings that was interrupted ({kept}): finish it, "
            "remove the folder, or name another one. (--out)"
        )
    write_json(kept, settings)


def read_history(path: pathlib.Path) -> dict[str, list[float]]:
    """What `CSVLogger` wrote, a list for each column; of an epoch taken twice, the second time."""
    with path.open(encoding="utf-8", newline="") as file:
        epochs = {int(row.pop("epoch")): row for row in csv.DictReader(file)}
    rows = [epochs[epoch] for epoch in sorted(epochs)]
    # Keras fills the columns of validation data that are not there.
    return {name: [float(row[name]) for row in rows] for name in rows[0] if rows[0][name] != "NA"}


def bits(outcomes: np.ndarray) -> str:
    """`[N]` booleans as a string of zeros and ones, the first sample first."""
    return "".join(np.where(outcomes, "1", "0"))


def surroundings() -> dict[str, Any]:
    """The machine and the versions that a result was made with."""
    gpus = tf.config.list_physical_devices("GPU")
    device = f"{os.cpu_count()} CPU cores, {platform.machine()}"
    if gpus:
        device = tf.config.experimental.get_device_details(gpus[0])["device_name"]
    modules = {"lexirobust": lr, "tensorflow": tf, "keras": keras, "numpy": np}
    versions = {name: module.__version__ for name, module in modules.items()}
    return {"device": device, "versions": {"python": platform.python_version(), **versions}}


def write_results(results: list[dict[str, Any]], out: pathlib.Path) -> None:
    """Writes `results.json`, whole or not at all."""
    write_json(out / "results.json", results)


def show_table(title: str, rows: list[dict[str, str]]) -> None:
    """Prints one line a result; the keys of the first are the headings."""
    table = rich.table.Table(title=title, title_justify="left")
    for heading in rows[0]:
        table.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row.values())
    console = rich.console.Console()
    if not console.is_terminal:
        console.width = 110  # A pipe or a log has no width of its own.
    console.print(table)
