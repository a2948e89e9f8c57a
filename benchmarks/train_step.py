"""What ranking adds to a training step: against a weighted sum with the same attack and batch.

    python benchmarks/train_step.py --page=docs/guarantees.md --out=docs/results/train_step.json

Turns are paired and alternate in one process, whose ratio is the median of its pairs'. Processes
differ by several percent, though the work is the same: there are several of them.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import itertools
import json
import multiprocessing
import pathlib
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import shared
import tensorflow as tf
import tqdm
from absl import app, flags, logging

import lexirobust as lr
from lexirobust.atomic_files import write_json

BATCHES = flags.DEFINE_list("batches", ["128"], "Batch sizes.")
PROCESSES = flags.DEFINE_integer("processes", 3, "Processes, one after the other.", 1)
TURNS = flags.DEFINE_integer("turns", 7, "Paired turns after the first, untimed one.", 1)
ATTACK_STEPS = flags.DEFINE_integer("attack_steps", 3, "Gradient steps of the attack.", 1)
PAGE = flags.DEFINE_string("page", None, "Page to write the table to, where it has it.")
OUT = flags.DEFINE_string("out", "docs/results/train_step.json", "Where results are kept.")


def residual_network() -> keras.Model:
    """A small ResNet: three stages of two blocks, 16 to 64 channels, batch normalization."""
    inputs = keras.Input((28, 28, 1))
    x = keras.layers.Conv2D(16, 3, padding="same", use_bias=False)(inputs)
    for stage, channels in enumerate((16, 32, 64)):
        for block in range(2):
            strides = 2 if stage and not block else 1
            shortcut = x
            for index in range(2):
                x = keras.layers.BatchNormalization()(x)
                x = keras.layers.ReLU()(x)
                step = strides if not index else 1
                x = keras.layers.Conv2D(channels, 3, step, "same", use_bias=False)(x)
            if strides > 1:
                shortcut = keras.layers.Conv2D(channels, 1, strides, use_bias=False)(shortcut)
            x = keras.layers.Add()([x, shortcut])
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    return keras.Model(inputs, keras.layers.Dense(10)(x))


NETWORKS = {"paper's network": shared.paper_network, "small ResNet": residual_network}
METHODS: dict[str, Callable[[keras.Model, lr.attacks.Attack], lr.LexicographicModel]] = {
    "weighted sum": lambda c, attack: lr.AdversarialTraining(c, attack, 2.0),
    "ranked": lambda c, attack: lr.OLSRC(c, attack, [2.0]),
    "ranked, Euclidean": lambda c, attack: lr.OLSRC(c, attack, [2.0], metric="euclidean"),
    "ranked, safeguarded": lambda c, attack: lr.OLSRC(c, attack, [2.0], safeguard=True),
    "ranked with memory": lambda c, attack: lr.OLSRC(c, attack, [2.0], memory=lr.RunningMean()),
    "ranked with memory, a target": lambda c, attack: lr.OLSRC(
        c, attack, [2.0], memory=lr.RunningMean(), targets=[lr.Target(accuracy=0.5)]
    ),
}
# What each is a variant of; those that are not named, of a weighted sum.
FLOORS = {"ranked with memory": "ranked", "ranked with memory, a target": "ranked with memory"}


def step_of(method: str, network: str, batch: int, attack_steps: int) -> Callable[[], None]:
    """A compiled training step on one batch of noise, ready to be called."""
    keras.utils.set_random_seed(0)
    x = tf.random.uniform((batch, 28, 28, 1), seed=0)
    y = tf.random.uniform((batch,), maxval=10, dtype=tf.int32, seed=0)
    attack = lr.attacks.PGD(norm="l2", steps=attack_steps)
    model = METHODS[method](NETWORKS[network](), attack)
    model.compile(optimizer=keras.optimizers.Adam(1e-4))
    train = tf.function(model.train_step, autograph=False)

    def run() -> None:
        float(train((x, y))["loss"])  # Reading a result waits for the step.

    return run


def measure(network: str, batch: int, attack_steps: int, turns: int) -> dict[str, list[float]]:
    """Seconds of every method's step, in turns."""
    tf.get_logger().setLevel("ERROR")  # It warns that steps of several models are traced.
    steps = {method: step_of(method, network, batch, attack_steps) for method in METHODS}
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for turn in range(turns + 1):
        for method in list(METHODS) if turn % 2 else reversed(METHODS):
            start = time.perf_counter()
            steps[method]()
            if turn:
                seconds[method].append(time.perf_counter() - start)
    return seconds


def summarized(
    network: str, batch: int, attack_steps: int, runs: list[dict[str, list[float]]]
) -> list[dict[str, Any]]:
    """What was measured by each process, by method."""
    floors = {method: FLOORS.get(method, "weighted sum") for method in METHODS}
    return [
        {
            "network": network,
            "batch": batch,
            "attack_steps": attack_steps,
            "method": method,
            "median_seconds": float(np.median([run[method] for run in runs])),
            "floor": floors[method],
            "ratios": [
                float(np.median(np.array(run[method]) / np.array(run[floors[method]])))
                for run in runs
            ],
        }
        for method in METHODS
    ]


def table(results: list[dict[str, Any]]) -> list[list[str]]:
    """One row a network, batch size and method."""
    rows = [["network", "batch", "method", "ms", "of the time of", "ratio (range)"]]
    for result in results:
        ratios = result["ratios"]
        ratio = f"{np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        alone = result["floor"] == result["method"]
        rows.append(
            [
                result["network"],
                str(result["batch"]),
                result["method"],
                f"{1e3 * result['median_seconds']:.0f}",
                "" if alone else result["floor"],
                "" if alone else ratio,
            ]
        )
    return rows


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    out = pathlib.Path(OUT.value)
    if shared.RUN.value:
        steps: list[dict[str, Any]] = []
        settings = itertools.product(NETWORKS, map(int, BATCHES.value))
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            for network, batch in settings:
                arguments = network, batch, ATTACK_STEPS.value, TURNS.value
                title = f"{network}, batch {batch}, processes"
                runs = [
                    pool.apply(measure, arguments)
                    for _ in tqdm.trange(PROCESSES.value, desc=title, leave=False, disable=None)
                ]
                steps += summarized(*arguments[:3], runs)
        write_json(out, {**shared.versions(), "steps": steps})
    rows = table(json.loads(out.read_text(encoding="utf-8"))["steps"])
    shared.show("A training step", rows)
    if PAGE.value:
        shared.write_table(PAGE.value, "train_step", rows)


if __name__ == "__main__":
    app.run(main)
