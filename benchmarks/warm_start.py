"""Warm starts against forty steps from a random start: accuracy under attack, and time.

    python benchmarks/warm_start.py --part=toy,mnist,time
    python benchmarks/warm_start.py --norun --part=time --page=docs/attacks.md

Runs that docs/results/warm_start.json holds already are not repeated; to measure anew, name another
file by --out. `time` is of the paper's network, whose steps alternate in one process.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import itertools
import pathlib
import time
from typing import Any

import keras
import numpy as np
import shared
import tensorflow as tf
import tqdm
import tqdm.keras
from absl import app, flags, logging

import lexirobust as lr

PARTS = ("toy", "mnist", "time")
PART = flags.DEFINE_list("part", ["toy"], f"What to run, out of {', '.join(PARTS)}.")
SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds of the trainings.")
EPOCHS = flags.DEFINE_integer("epochs", 100, "Full-batch steps on MNIST.", 1)
SAMPLES = flags.DEFINE_integer("samples", 500, "Training images.", 1)
TURNS = flags.DEFINE_integer("turns", 3, "Paired turns of `time` after the first, untimed one.", 1)
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps MNIST.")
PAGE = flags.DEFINE_string("page", None, "Page to write the tables to, where it has them.")
OUT = flags.DEFINE_string("out", "docs/results/warm_start.json", "Where runs are kept.")

# Between 1 and 2 a right classifier of the toy problem cannot keep all samples, nor lose all.
MAGNITUDE = {"toy": 1.5, "mnist": 2.0, "time": 4.0}
TOY_EPOCHS = 1000
TESTED = {"toy": 100, "mnist": 2000}  # Test samples.

# The attack's steps, and what it starts from.
WAYS: dict[str, tuple[int, lr.WarmStart | None]] = {
    "40 steps, cold": (40, None),
    "3 steps, cold": (3, None),
    "3 steps, warm": (3, lr.WarmStart()),
    "3 steps, warm, afresh every 10th": (3, lr.WarmStart(reset_every=10)),
    "free step": (3, lr.WarmStart(free=True)),
}


def toy_network() -> keras.Model:
    """One hidden layer of 256, as in the paper's toy experiments."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((1,)),
            layers.Dense(256),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Dense(2),
        ]
    )


def model_of(way: str, part: str) -> lr.OLSRC:
    """OLSRC with one magnitude, compiled."""
    steps, warm_start = WAYS[way]
    toy = part == "toy"
    attack = lr.attacks.PGD(steps=steps, bounds=None if toy else (0.0, 1.0))
    network = {"toy": toy_network, "mnist": shared.small_network, "time": shared.paper_network}
    model = lr.OLSRC(network[part](), attack, [MAGNITUDE[part]], warm_start=warm_start)
    model.compile(keras.optimizers.SGD(0.015) if toy else keras.optimizers.Adam(1e-3))
    return model


def data_of(part: str, split: str, samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels."""
    if part == "toy":
        return lr.datasets.toy(100, seed=seed + 1000 * (split == "test"))
    images, labels = lr.datasets.mnist(split, DATA_DIR.value)
    return lr.datasets.subset(images, labels, samples, seed=seed)


def train(settings: dict[str, Any]) -> dict[str, Any]:
    """Trains once, attacks what came of it, and returns the settings with what was measured."""
    part, seed = settings["part"], settings["seed"]
    keras.utils.set_random_seed(seed)
    x, y = data_of(part, "train", settings["samples"], seed)
    model = model_of(settings["way"], part)
    options = {"batch_size": len(x), "shuffle": False, "verbose": 0}
    model.fit(x, y, **options)  # Compilation is not what is timed.
    bar = tqdm.keras.TqdmCallback(verbose=0, desc=settings["way"])
    start = time.perf_counter()
    model.fit(x, y, epochs=settings["epochs"] - 1, callbacks=[bar], **options)
    seconds = (time.perf_counter() - start) / (settings["epochs"] - 1)
    strong = lr.attacks.PGD(
        steps=100, restarts=5, bounds=None if part == "toy" else (0.0, 1.0), seed=0
    )
    tested = data_of(part, "test", settings["tested"], seed)
    magnitudes = [0.0, MAGNITUDE[part]]
    curve = lr.evaluate_robustness(model.classifier, *tested, strong, magnitudes, checks=False)
    return {
        **settings,
        "natural_accuracy": float(curve.accuracy[0]),
        "adversarial_accuracy": float(curve.accuracy[1]),
        "seconds_an_epoch": seconds,
    }


def time_steps() -> list[dict[str, Any]]:
    """Medians of one epoch on noise, in turns, and the ratio to forty cold steps."""
    x = np.random.default_rng(0).uniform(size=(SAMPLES.value, 28, 28, 1)).astype(np.float32)
    y = np.random.default_rng(1).integers(10, size=SAMPLES.value)
    models = {way: model_of(way, "time") for way in WAYS}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in tqdm.trange(TURNS.value + 1, desc="paper's network", disable=None):
        for way in list(WAYS) if turn % 2 else reversed(WAYS):
            start = time.perf_counter()
            models[way].fit(x, y, batch_size=len(x), shuffle=False, verbose=0)
            if turn:
                seconds[way].append(time.perf_counter() - start)
    floor = np.array(seconds["40 steps, cold"])
    return [
        {
            "part": "time",
            "way": way,
            "samples": SAMPLES.value,
            "seconds_an_epoch": float(np.median(times)),
            "share": float(np.median(np.array(times) / floor)),
        }
        for way, times in seconds.items()
    ]


def wanted(part: str, seed: int, way: str) -> dict[str, Any]:
    """The settings of one training."""
    epochs, samples = (TOY_EPOCHS, 100) if part == "toy" else (EPOCHS.value, SAMPLES.value)
    settings = {"part": part, "way": way, "seed": seed, "epochs": epochs}
    return {**settings, "samples": samples, "tested": TESTED[part]}


def make(part: str, results: shared.Results) -> None:
    """Makes the runs of one part that are not there yet."""
    if part == "time":
        if results.is_due({"part": "time", "samples": SAMPLES.value}):
            for run in time_steps():
                results.add(run)
        return
    for seed, way in itertools.product(map(int, SEEDS.value), WAYS):
        if results.is_due(wanted(part, seed, way)):
            results.add(train(wanted(part, seed, way)))


def accuracies(part: str, results: shared.Results) -> list[list[str]]:
    """One row a way: accuracy under attack by seed."""
    rows = [["attacks in training", *(f"seed {seed}, %" for seed in SEEDS.value)]]
    for way in WAYS:
        runs = [results.get(wanted(part, int(seed), way)) for seed in SEEDS.value]
        rows.append([way, *map(cell, runs)])
    return rows


def cell(run: dict[str, Any] | None) -> str:
    """Accuracy under attack, with its interval; nothing of a run that was not made."""
    if run is None:
        return ""
    right = round(run["adversarial_accuracy"] * run["tested"])
    return shared.Share.of(right, run["tested"]).percent_with_interval()


def times(results: shared.Results) -> list[list[str]]:
    """One row a way: an epoch, and its share of forty cold steps' time."""
    rows = [["attacks in training", "s an epoch", "share"]]
    for way in WAYS:
        run = results.get({"part": "time", "way": way, "samples": SAMPLES.value})
        if run is not None:
            rows.append([way, f"{run['seconds_an_epoch']:.2f}", f"{run['share']:.3f}"])
    return rows


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    unknown = set(PART.value) - set(PARTS)
    if unknown:
        raise app.UsageError(f"--part must be out of {PARTS}. Received: {sorted(unknown)}.")
    tf.get_logger().setLevel("ERROR")
    results = shared.Results(pathlib.Path(OUT.value))
    for part in PART.value:
        make(part, results)
        rows = times(results) if part == "time" else accuracies(part, results)
        shared.show(f"{part}, l2 {MAGNITUDE[part]:g}", rows)
        if PAGE.value:
            shared.write_table(PAGE.value, f"warm starts, {part}", rows)


if __name__ == "__main__":
    app.run(main)
