"""Times attacks inside the Voronoi cells of MNIST's 60,000 images.

    python benchmarks/genuine.py
    python benchmarks/genuine.py --norun --page=docs/evaluation.md

Every ratio compares medians of paired runs, in one process and in turns: the attack that searches
only among the points near enough to matter, one that searches all of them in every step, and a PGD
that knows no cells, which is the floor. A call finds the near points first, which counts.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import json
import pathlib
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import shared
import tensorflow as tf
import tqdm
from absl import app, flags

import lexirobust as lr
from lexirobust.atomic_files import write_json
from lexirobust.attacks import PGD, VoronoiCells, VoronoiPGD

MAGNITUDES = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)

SAMPLES = flags.DEFINE_integer("samples", 200, "Images perturbed at a time.", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 10, "Steps of each of two starts.", lower_bound=1)
TURNS = flags.DEFINE_integer("turns", 3, "Timed runs of each way.", lower_bound=1)
DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder that holds `mnist/3.0.1`.")
PAGE = flags.DEFINE_string("page", None, "Page to write the table to, where it has it.")
OUT = flags.DEFINE_string("out", "docs/results/genuine.json", "Where results are kept.")


class AllPoints(VoronoiCells):
    """Cells that leave no point out."""

    def near(self, x: tf.Tensor, radius: tf.Tensor) -> tf.Tensor:
        del x, radius
        return tf.range(len(self.points), dtype=tf.int64)


def measure(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Medians of each way's seconds, by magnitude."""
    points, labels = lr.datasets.mnist("train", DATA_DIR.value)
    x, y = points[: SAMPLES.value], labels[: SAMPLES.value]
    cells = VoronoiCells(points)
    ways = {
        "near": VoronoiPGD(cells, **settings),
        "all": VoronoiPGD(AllPoints(points), **settings),
        "floor": PGD(**settings),
    }
    classifier = shared.small_network()
    rows = []
    bar = tqdm.tqdm(total=len(MAGNITUDES) * len(ways) * (TURNS.value + 1), desc="attacks")
    with bar:
        for magnitude in MAGNITUDES:
            seconds: dict[str, list[float]] = {name: [] for name in ways}
            for turn in range(TURNS.value + 1):
                for name, attack in ways.items():
                    start = time.perf_counter()
                    attack(classifier, x, y, magnitude).numpy()
                    if turn:  # The first one compiles.
                        seconds[name].append(time.perf_counter() - start)
                    bar.update()
            medians = {name: statistics.median(taken) for name, taken in seconds.items()}
            near = cells.near(tf.constant(x), tf.fill([len(x)], np.float32(magnitude)))
            rows.append({"magnitude": magnitude, "points": len(near), "seconds": medians})
    return rows


def table(results: Sequence[dict[str, Any]]) -> list[list[str]]:
    """One row a magnitude."""
    rows = [["l2", "points near enough", "s", "ratio to a search of all points", "ratio to PGD"]]
    for result in results:
        near, whole, floor = (result["seconds"][name] for name in ("near", "all", "floor"))
        ratios = f"{near / whole:.3f}", f"{near / floor:.1f}"
        rows.append([f"{result['magnitude']:g}", f"{result['points']:,}", f"{near:.2f}", *ratios])
    return rows


def main(_: list[str]) -> None:
    path = pathlib.Path(OUT.value)
    if shared.RUN.value:
        settings = {"norm": "l2", "steps": STEPS.value, "restarts": 2, "seed": 0}
        kept = {**settings, "samples": SAMPLES.value}
        write_json(path, {"settings": kept, "rows": measure(settings)})
    rows = table(json.loads(path.read_text(encoding="utf-8"))["rows"])
    shared.show("Attacks inside Voronoi cells", rows)
    if PAGE.value:
        shared.write_table(PAGE.value, "voronoi cells", rows)


if __name__ == "__main__":
    app.run(main)
