"""What the examples share: how results are written and shown."""

import json
import pathlib
from typing import Any

import keras
import rich.console
import rich.table


class EpochTimes(keras.callbacks.Callback):
    """Notes when each epoch ended; the first holds the compilation."""

    def __init__(self, clock: Any) -> None:
        super().__init__()
        self.clock = clock
        self.ends: list[float] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        del epoch, logs
        self.ends.append(self.clock())


def write_results(results: list[dict[str, Any]], out: pathlib.Path) -> None:
    """Writes `results.json`, whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    unfinished = out / "results.json.part"
    unfinished.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(out / "results.json")


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
