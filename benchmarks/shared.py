"""What benchmarks share: networks, intervals, tables, results that survive a stop."""

import dataclasses
import importlib.metadata
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import rich.console
import rich.table
import tabulate
import tensorflow as tf
from absl import flags
from scipy import stats

from lexirobust.atomic_files import write_whole


def small_network() -> keras.Model:
    """Two strided convolutions and two dense layers, 114,314 parameters."""
    convolution = {"kernel_size": 5, "strides": 2, "padding": "same", "activation": "relu"}
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(16, **convolution),
            keras.layers.Conv2D(32, **convolution),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10, dtype="float32"),  # Logits, whatever is computed in.
        ]
    )


def paper_network() -> keras.Model:
    """The paper's network for MNIST, 3,274,634 parameters."""
    convolution = {"kernel_size": 5, "padding": "same", "activation": "relu"}
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(32, **convolution),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(64, **convolution),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(1024, activation="relu"),
            keras.layers.Dense(10, dtype="float32"),  # Logits, whatever is computed in.
        ]
    )


def trades_network() -> keras.Model:
    """Four convolutions and three dense layers, as TRADES has for MNIST, 312,202 parameters."""
    convolution = {"kernel_size": 3, "activation": "relu"}
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(32, **convolution),
            keras.layers.Conv2D(32, **convolution),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(64, **convolution),
            keras.layers.Conv2D(64, **convolution),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(200, activation="relu"),
            keras.layers.Dense(200, activation="relu"),
            keras.layers.Dense(10, dtype="float32"),  # Logits, whatever is computed in.
        ]
    )


def normalized_network(shift: float = 0.0, turn: float = 0.0, dropout: float = 0.0) -> keras.Model:
    """Two convolutions with batch normalization and two dense layers, of inputs from 0 to 255.

    Args:
        shift: How far images are shifted in training, as a share of their size; 0: they are not
            augmented at all.
        turn: How far they are turned, as a share of a whole turn.
        dropout: Share of the last hidden layer that is left out.
    """
    layers = keras.layers
    random = [
        layers.RandomFlip("horizontal", seed=1),
        layers.RandomTranslation(shift, shift, seed=2),
        layers.RandomRotation(turn, seed=3),
    ]
    blocks = [
        layer
        for filters in (16, 32)
        for layer in (
            layers.Conv2D(filters, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
        )
    ]
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            *(random if shift else []),
            layers.Rescaling(1 / 255),
            *blocks,
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            *([layers.Dropout(dropout)] if dropout else []),
            layers.Dense(10),
        ]
    )


def train_once(
    classifier: keras.Model, path: pathlib.Path, train: Callable[[], object]
) -> keras.Model:
    """A classifier with the weights that were kept, or trained now.

    Args:
        classifier: What is trained.
        path: Where its weights are kept.
        train: Trains it.
    """
    if path.exists():
        classifier.load_weights(path)
        return classifier
    train()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, classifier.save_weights)
    return classifier


@dataclasses.dataclass(frozen=True, order=True)
class Mean:
    """A mean over seeds, and half the length of its 95 % interval by Student's t."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean":
        """Takes the mean; of one value there is no interval."""
        if len(values) == 1:
            return cls(values[0], np.nan)
        scale = stats.sem(values)
        return cls(float(np.mean(values)), float(scale * stats.t.ppf(0.975, len(values) - 1)))

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + ("" if np.isnan(self.half) else f" ± {self.half:.2f}")


@dataclasses.dataclass(frozen=True)
class Share:
    """A share of samples, and Wilson's 95 % interval of it."""

    share: float
    interval: Sequence[float]

    @classmethod
    def of(cls, right: int, count: int) -> "Share":
        """The share of so many of a count."""
        found = stats.binomtest(right, count).proportion_ci(method="wilson")
        return cls(right / count, [found.low, found.high])

    def rest(self) -> "Share":
        """The share of all others."""
        low, high = self.interval
        return Share(1 - self.share, [1 - high, 1 - low])

    def percent_with_interval(self, digits: int = 1, interval_digits: int = 1) -> str:
        """Both in per cent, with so many digits behind the point."""
        low, high = (f"{100 * value:.{interval_digits}f}" for value in self.interval)
        return f"{100 * self.share:.{digits}f} ({low} to {high})"


def versions(*packages: str) -> dict[str, Any]:
    """What was measured with: TensorFlow, Keras, and packages that are compared with."""
    others = {name: importlib.metadata.version(name) for name in packages}
    return {"versions": {"tensorflow": tf.__version__, "keras": keras.__version__, **others}}


def ratio_with_quartiles(quartiles: Sequence[float]) -> str:
    """The median of paired runs' ratios, and the other two quartiles."""
    low, middle, high = quartiles
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def show(title: str, rows: Sequence[Sequence[str]]) -> None:
    """Prints a table, whose first row is its head."""
    table = rich.table.Table(*rows[0], title=title, title_justify="left")
    for row in rows[1:]:
        table.add_row(*row)
    console = rich.console.Console()
    if not console.is_terminal:
        console.width = 120  # A pipe or a log has no width of its own.
    console.print(table)


def write_table(page: str, name: str, rows: Sequence[Sequence[str]]) -> None:
    """Writes a table anew where a page has it: between two comments with its name.

    Args:
        page: Markdown file.
        name: The table's.
        rows: Its cells, the head first.

    Raises:
        ValueError: If the page has no such place, or there is nothing below the head.
    """
    if len(rows) < 2:
        raise ValueError(f"There are no results for the table {name!r}.")
    file = pathlib.Path(page)
    start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    before, begun, rest = file.read_text(encoding="utf-8").partition(start)
    _, ended, after = rest.partition(end)
    if not (begun and ended):
        raise ValueError(f"{page} has no place for the table {name!r}.")
    table = tabulate.tabulate(rows[1:], headers=rows[0], tablefmt="github", disable_numparse=True)
    file.write_text(f"{before}{start}{table}\n{end}{after}", encoding="utf-8")


RUN = flags.DEFINE_bool(
    "run", True, "Makes the runs that are missing; not all scripts know --norun."
)


class Results:
    """Runs by their settings, in one JSON file that is rewritten whole after each.

    Args:
        path: The file; runs that it holds already are not repeated.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.runs: list[dict[str, Any]] = []
        if path.exists():
            self.runs = json.loads(path.read_text(encoding="utf-8"))

    def get(self, settings: dict[str, Any]) -> dict[str, Any] | None:
        """The run with these settings, or `None`."""
        return next((run for run in self.runs if settings.items() <= run.items()), None)

    def is_due(self, settings: dict[str, Any]) -> bool:
        """Tells if the run with these settings is to be made."""
        return RUN.value and self.get(settings) is None

    def add(self, run: dict[str, Any]) -> None:
        """Adds a run, and writes all of them: whole or not at all."""
        self.runs.append(run)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(json.dumps(run) for run in self.runs)
        text = f"[\n{lines}\n]\n"
        write_whole(self.path, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))
