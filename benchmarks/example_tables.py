"""Tables of docs/results.md from what the examples have measured.

    python benchmarks/example_tables.py --page=docs/results.md

Nothing is run: the commands beside the tables make the results.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import shared
from absl import app, flags

PAGE = flags.DEFINE_string("page", None, "Page to write the tables to, where it has them.")
RESULTS = pathlib.Path("docs/results")

NAMES = {
    "standard": "standard",
    "adversarial": "adversarial training",
    "trades": "TRADES",
    "average": "mean of the losses",
    "olsrc": "OLSRC",
    "olgrc": "OLGRC",
    "olgrc_nearest": 'OLGRC, `explored="nearest"`',
    # Of the circle and the line.
    "nearest": 'OLGRC, `explored="nearest"`',
    "discriminator": "OLGRC, discriminator",
    "neighbor": "1-nearest-neighbor",
    # Of the digits.
    "none": "no regularization",
    "weighted": "weighted sum",
    "ranked": "ranked",
    "per-rank": 'ranked, `update="per_rank"`',
}

Runs = list[dict[str, Any]]
Rows = list[list[str]]


def runs_of(file: str) -> Runs:
    """What an example has kept."""
    return json.loads((RESULTS / f"{file}.json").read_text(encoding="utf-8"))


def grouped(runs: Runs, *names: str) -> dict[tuple[Any, ...], Runs]:
    """The runs by the values of these settings."""
    groups: dict[tuple[Any, ...], Runs] = {}
    for run in runs:
        groups.setdefault(tuple(run[name] for name in names), []).append(run)
    return groups


def spread(values: Sequence[float], digits: str) -> str:
    """Smallest to largest."""
    ends = [f"{end:{digits}}" for end in (min(values), max(values))]
    return " to ".join(dict.fromkeys(ends))


def toy() -> Rows:
    """One row an experiment and method."""
    head = ["magnitudes", "method", "natural accuracy", "natural training loss"]
    rows = [[*head, "seeds with one boundary, within 0.25 of 0"]]
    for (_, method), runs in grouped(runs_of("toy"), "experiment", "method").items():
        middle = [len(run["boundaries"]) == 1 and abs(run["boundaries"][0]) <= 0.25 for run in runs]
        rows.append(
            [
                ", ".join(f"{magnitude:g}" for magnitude in runs[0]["magnitudes"]),
                NAMES[method],
                spread([run["natural_accuracy"] for run in runs], ".2f"),
                spread([run["natural_training_loss"] for run in runs], ".1e"),
                f"{sum(middle)} of {len(runs)}",
            ]
        )
    return rows


def mnist_ranked() -> Rows:
    """One row a run, the best of each column in bold."""
    runs = sorted(runs_of("mnist_ranked_h200"), key=lambda run: len(run["magnitudes"]))
    magnitudes = list(runs[0]["accuracy"])
    last = magnitudes[-1]
    columns = [
        marked([run["natural_accuracy"] for run in runs], ".2f"),
        *(marked([run["accuracy"][m] for run in runs], ".1f") for m in magnitudes),
    ]
    head = ["trained for", "method", "natural, %", *(f"l2 {m}" for m in magnitudes)]
    rows = [[*head[:-1], f"{head[-1]} (95 % interval)"]]
    for run, *cells in zip(runs, *columns, strict=True):
        outcomes = run["outcomes"][last]
        low, high = shared.Share.of(outcomes.count("1"), len(outcomes)).interval
        cells[-1] += f" ({100 * low:.1f} to {100 * high:.1f})"
        trained_for = ", ".join(f"{magnitude:g}" for magnitude in run["magnitudes"])
        rows.append([trained_for, NAMES[run["method"]], *cells])
    return rows


def marked(shares: Sequence[float], digits: str) -> list[str]:
    """Shares in per cent, the largest in bold."""
    texts = [f"{100 * share:{digits}}" for share in shares]
    best = int(np.argmax(shares))
    return [f"**{text}**" if index == best else text for index, text in enumerate(texts)]


def circle_and_line() -> Rows:
    """One row a method."""
    rows = [["method", "mean distance to the parabola", "columns not crossed once"]]
    groups = grouped(runs_of("circle_and_line"), "method")
    for method in ("nearest", "discriminator", "olsrc", "adversarial", "neighbor"):
        group = groups[method,]
        rows.append(
            [
                NAMES[method],
                spread([run["mean_distance"] for run in group], ".3f"),
                spread([run["columns_without_one_crossing"] for run in group], "d"),
            ]
        )
    return rows


def digits() -> Rows:
    """One row a method and coefficient: means over seeds."""
    rows = [["method", "coefficient", "training loss", "squared weights", "test accuracy, %"]]
    for (method, coefficient), runs in grouped(runs_of("digits"), "method", "coefficient").items():
        loss, weights, accuracy = (
            float(np.mean([run[name] for run in runs]))
            for name in ("natural_training_loss", "squared_weights", "natural_accuracy")
        )
        numbers = [f"{loss:.4f}", f"{weights:.0f}", f"{100 * accuracy:.1f}"]
        rows.append([NAMES[method], f"{coefficient:g}" if coefficient else "", *numbers])
    return rows


TABLES = {
    "toy": toy,
    "mnist ranked": mnist_ranked,
    "circle and line": circle_and_line,
    "digits": digits,
}


def main(_: list[str]) -> None:
    for name, table in TABLES.items():
        rows = table()
        shared.show(name, rows)
        if PAGE.value:
            shared.write_table(PAGE.value, name, rows)


if __name__ == "__main__":
    app.run(main)
