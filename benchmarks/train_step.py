"""What ranking adds to a training step: against a weighted sum with the same attack and batch.

    python benchmarks/train_step.py --out=docs/results/train_step.json

Turns are paired and alternate in one process; ratios are medians of the pairs', with quartiles.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import pathlib
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import rich.console
import rich.table
import shared
import tensorflow as tf
import tqdm
from absl import app, flags, logging

import lexirobust as lr
from lexirobust.atomic_files import write_json

BATCHES = flags.DEFINE_list("batches", ["128", "1000"], "Batch sizes.")
TURNS = flags.DEFINE_integer("turns", 15, "Paired turns after the first, untimed one.", 1)
ATTACK_STEPS = flags.DEFINE_integer("attack_steps", 3, "Gradient steps of the attack.", 1)
OUT = flags.DEFINE_string("out", None, "Where to write a small JSON, or nowhere.")


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
}


def step_of(method: str, network: str, batch: int) -> Callable[[], None]:
    """A compiled training step on one batch of noise, ready to be called."""
    keras.utils.set_random_seed(0)
    x = tf.random.uniform((batch, 28, 28, 1), seed=0)
    y = tf.random.uniform((batch,), maxval=10, dtype=tf.int32, seed=0)
    attack = lr.attacks.PGD(norm="l2", steps=ATTACK_STEPS.value)
    model = METHODS[method](NETWORKS[network](), attack)
    model.compile(optimizer=keras.optimizers.Adam(1e-4))
    train = tf.function(model.train_step, autograph=False)

    def run() -> None:
        float(train((x, y))["loss"])  # Reading a result waits for the step.

    return run


def measure(network: str, batch: int) -> list[dict[str, Any]]:
    """Seconds of every method's step, in turns."""
    steps = {method: step_of(method, network, batch) for method in METHODS}
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    description = f"{network}, batch {batch}"
    for turn in tqdm.trange(TURNS.value + 1, desc=description, leave=False, disable=None):
        for method in list(METHODS) if turn % 2 else reversed(METHODS):
            start = time.perf_counter()
            steps[method]()
            if turn:
                seconds[method].append(time.perf_counter() - start)
    floor = np.array(seconds["weighted sum"])
    return [
        {
            "network": network,
            "batch": batch,
            "attack_steps": ATTACK_STEPS.value,
            "method": method,
            "median_seconds": float(np.median(times)),
            "ratio_quartiles": np.quantile(np.array(times) / floor, [0.25, 0.5, 0.75]).tolist(),
        }
        for method, times in seconds.items()
    ]


def show(results: list[dict[str, Any]]) -> None:
    """Prints one line a method, network and batch size."""
    table = rich.table.Table(title="A training step", title_justify="left")
    for heading in ("network", "batch", "method", "ms", "ratio to the weighted sum (quartiles)"):
        table.add_column(heading, no_wrap=True)
    for result in results:
        low, middle, high = result["ratio_quartiles"]
        table.add_row(
            result["network"],
            str(result["batch"]),
            result["method"],
            f"{1e3 * result['median_seconds']:.0f}",
            f"{middle:.2f} ({low:.2f} to {high:.2f})",
        )
    console = rich.console.Console()
    if not console.is_terminal:
        console.width = 110  # A pipe or a log has no width of its own.
    console.print(table)


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    results: list[dict[str, Any]] = []
    for network in NETWORKS:
        for batch in BATCHES.value:
            results += measure(network, int(batch))
    show(results)
    if OUT.value:
        versions = {"tensorflow": tf.__version__, "keras": keras.__version__}
        write_json(pathlib.Path(OUT.value), {"versions": versions, "steps": results})


if __name__ == "__main__":
    app.run(main)
