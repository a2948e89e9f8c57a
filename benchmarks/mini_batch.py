"""Ranked training by mini-batches of a whole data set: what it gives, and what a step costs.

    python benchmarks/mini_batch.py --part=train --data_dir=../shared/tfds
    python benchmarks/mini_batch.py --part=time,epoch --data_dir=../shared/tfds

All of MNIST's 60,000 training images in batches of 256, the paper's network, warm starts with the
free step. A run that was finished is not made again, one that was interrupted begins again.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import pathlib
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import shared
import tensorflow as tf
import tqdm.keras
from absl import app, flags, logging
from scipy import stats

import lexirobust as lr

PARTS = ("train", "time", "epoch")
PART = flags.DEFINE_list("part", ["train"], f"What to run, out of {', '.join(PARTS)}.")
MAGNITUDES = flags.DEFINE_list("magnitudes", ["2.0", "4.0"], "l2 magnitudes to train for.")
EPOCHS = flags.DEFINE_integer("epochs", 5, "Epochs.", 1)
SAMPLES = flags.DEFINE_integer("samples", 60_000, "Training images.", 1)
BATCH = flags.DEFINE_integer("batch", 256, "Batch size.", 1)
TURNS = flags.DEFINE_integer("turns", 10, "Paired turns after the first, untimed one.", 1)
WAYS = flags.DEFINE_list("ways", None, "Which ways of training; by default, all.")
SMALL = flags.DEFINE_bool("small", False, "Another network, of 117 thousand weights, for trials.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps MNIST.")
OUT = flags.DEFINE_string("out", "docs/results/mini_batch.json", "Where runs are kept.")

# Steps whose effect on the loss of fixed training images is looked at: every so many.
LOOKED_AT, FIXED = 25, 10_000
TESTED, TEST_STEPS, TEST_RESTARTS = 2000, 100, 5
FULL_BATCH = 2000
TIMED = 16  # Steps in a turn.

Make = Callable[..., lr.LexicographicModel]


def weighted(alpha: float) -> Make:
    return lambda classifier, attack, magnitude, start: lr.AdversarialTraining(
        classifier, attack, magnitude, alpha=alpha, warm_start=start
    )


def trades(inverse_lambda: float) -> Make:
    return lambda classifier, attack, magnitude, start: lr.TRADES(
        classifier, attack, magnitude, inverse_lambda=inverse_lambda, warm_start=start
    )


def ranked(alpha: float, memory: lr.RunningMean | None = None) -> Make:
    return lambda classifier, attack, magnitude, start: lr.OLSRC(
        classifier, attack, [magnitude], [alpha, 1 - alpha], warm_start=start, memory=memory
    )


METHODS: dict[str, Make] = {
    **{f"weighted {alpha:g}": weighted(alpha) for alpha in (0.2, 0.5, 0.8, 0.9, 0.95)},
    **{f"TRADES {weight:g}": trades(weight) for weight in (0.3, 1.0, 3.0)},
    **{f"ranked {alpha:g}": ranked(alpha) for alpha in (0.5, 0.8)},
    **{f"memory {alpha:g}": ranked(alpha, lr.RunningMean()) for alpha in (0.2, 0.5, 0.8, 0.9)},
    "full batch 0.5": ranked(0.5),
}


def model_of(way: str, magnitude: float) -> lr.LexicographicModel:
    """A compiled model."""
    keras.utils.set_random_seed(0)
    attack = lr.attacks.PGD(norm="l2", steps=3)
    start = lr.WarmStart(free=True)
    network = shared.small_network() if SMALL.value else shared.paper_network()
    model = METHODS[way](network, attack, magnitude, start)
    model.compile(keras.optimizers.Adam(1e-3))
    return model


class Rises(keras.callbacks.Callback):
    """Counts steps after which the natural loss of fixed images is higher than before.

    Args:
        x: The images.
        y: Their labels.
        every: One step in so many is looked at.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, every: int) -> None:
        super().__init__()
        self.risen: list[bool] = []
        self.seconds = 0.0
        self._data = (x, y)
        self._every = every
        self._before = 0.0

    def loss(self) -> float:
        x, y = self._data
        logits = self.model.classifier.predict(x, batch_size=1000, verbose=0)
        return float(np.mean(keras.losses.sparse_categorical_crossentropy(y, logits, True)))

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if batch % self._every == 0:
            self._before = self._timed()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch % self._every == 0:
            self.risen.append(self._timed() > self._before)

    def _timed(self) -> float:
        start = time.perf_counter()
        loss = self.loss()
        self.seconds += time.perf_counter() - start
        return loss


class StopAfter(keras.callbacks.Callback):
    """Ends training after so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def on_train_begin(self, logs: Any = None) -> None:
        self._end = time.perf_counter() + self._seconds

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.stop_training = time.perf_counter() > self._end


def share(right: np.ndarray) -> dict[str, Any]:
    """A share with Wilson's 95 % interval."""
    interval = stats.binomtest(int(right.sum()), right.size).proportion_ci(method="wilson")
    return {"share": float(right.mean()), "interval": [interval.low, interval.high]}


def train(settings: dict[str, Any], results: shared.Results) -> dict[str, Any]:
    """Trains once, and measures what came of it."""
    x, y = lr.datasets.mnist("train", DATA_DIR.value)
    x, y = lr.datasets.subset(x, y, settings["samples"], seed=0)
    rises = Rises(x[:FIXED], y[:FIXED], LOOKED_AT)
    model = model_of(settings["way"], settings["magnitude"])
    bar = tqdm.keras.TqdmCallback(
        verbose=0, desc=f"{settings['way']}, l2 {settings['magnitude']:g}"
    )
    epochs, size, callbacks = settings["epochs"], settings["batch"], [bar, rises]
    if "full batch" in settings["way"]:
        other = results.get({**settings, "way": "memory 0.5"})
        if other is None:
            raise app.UsageError("The full batch takes as long as ranking with memory: run that.")
        x, y = x[:FULL_BATCH], y[:FULL_BATCH]
        epochs, size = 100_000, FULL_BATCH
        callbacks = [bar, StopAfter(other["seconds"])]
    start = time.perf_counter()
    logs = model.fit(x, y, batch_size=size, epochs=epochs, verbose=0, callbacks=callbacks).history
    seconds = time.perf_counter() - start - rises.seconds
    steps = -(-len(x) // size) * len(logs["loss"])
    x, y = lr.datasets.mnist("test", DATA_DIR.value)
    natural = model.classifier.predict(x, verbose=0).argmax(axis=1) == y
    attack = lr.attacks.PGD(
        norm="l2", steps=TEST_STEPS, restarts=TEST_RESTARTS, early_stop=True, seed=0
    )
    curve = lr.evaluate_robustness(
        model.classifier, x[:TESTED], y[:TESTED], attack, [settings["magnitude"]], checks=False
    )
    return {
        **settings,
        "natural": share(natural),
        "adversarial": share(curve.correct[0]),
        "risen": share(np.array(rises.risen)) if rises.risen else None,
        "seconds": seconds,
        "steps": steps,
        "logs": {name: [round(v, 5) for v in values] for name, values in logs.items()},
    }


def time_steps() -> list[dict[str, Any]]:
    """Medians of a step's seconds, in turns, and ratios to a weighted sum's.

    Those of the processors too: what other programs on the machine do shows there the least.
    """
    ways = ["weighted 0.5", "ranked 0.5", "memory 0.5"]
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(TIMED * BATCH.value, 28, 28, 1)).astype(np.float32)
    y = rng.integers(10, size=len(x))
    models = {way: model_of(way, 2.0) for way in ways}
    clocks = {"wall": time.perf_counter, "processors": time.process_time}
    seconds: dict[str, dict[str, list[float]]] = {way: {c: [] for c in clocks} for way in ways}
    for turn in tqdm.trange(TURNS.value + 1, desc="steps", disable=None):
        for way in ways if turn % 2 else reversed(ways):
            starts = {clock: read() for clock, read in clocks.items()}
            models[way].fit(x, y, batch_size=BATCH.value, shuffle=False, verbose=0)
            for clock, read in clocks.items() if turn else ():
                seconds[way][clock].append((read() - starts[clock]) / TIMED)
    return [
        {
            "part": "time",
            "way": way,
            "batch": BATCH.value,
            "clock": clock,
            "seconds_a_step": float(np.median(times)),
            "ratio_quartiles": np.quantile(
                np.array(times) / seconds[ways[0]][clock], [0.25, 0.5, 0.75]
            ).tolist(),
        }
        for way, by_clock in seconds.items()
        for clock, times in by_clock.items()
    ]


def time_epochs() -> list[dict[str, Any]]:
    """An epoch of two ranks with the free step, two plain ones, and a pass back to the inputs."""
    x, y = lr.datasets.mnist("train", DATA_DIR.value)
    x, y = x[: SAMPLES.value], y[: SAMPLES.value]
    plain = shared.paper_network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    plain.compile(keras.optimizers.Adam(1e-3), loss)
    model = model_of("memory 0.5", 2.0)

    @tf.function(autograph=False)
    def back(x: Any, y: Any) -> tf.Tensor:
        x = tf.convert_to_tensor(x)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            value = loss(y, plain(x))
        return tape.gradient(value, x)

    def once(trained: keras.Model, **options: Any) -> None:
        trained.fit(x, y, batch_size=BATCH.value, verbose=0, **options)

    def back_once() -> None:
        for inputs, labels in tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH.value):
            back(inputs, labels).numpy()

    once(plain, steps_per_epoch=1)
    once(model, steps_per_epoch=1)
    back(x[: BATCH.value], y[: BATCH.value])
    seconds = {}
    jobs = {"plain": lambda: once(plain), "inputs": back_once, "ranked": lambda: once(model)}
    for name, job in jobs.items():
        start = time.perf_counter()
        job()
        seconds[name] = time.perf_counter() - start
    parts = 2 * seconds["plain"] + seconds["inputs"]
    return [{"part": "epoch", "samples": len(x), **seconds, "ratio": seconds["ranked"] / parts}]


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    unknown = set(PART.value) - set(PARTS) | (set(WAYS.value or METHODS) - set(METHODS))
    if unknown:
        raise app.UsageError(f"Neither parts nor ways: {sorted(unknown)}.")
    results = shared.Results(pathlib.Path(OUT.value))
    for part, measure in (("time", time_steps), ("epoch", time_epochs)):
        if part in PART.value:
            for run in [] if results.get({"part": part}) else measure():
                results.add(run)
    if "train" in PART.value:
        for magnitude in map(float, MAGNITUDES.value):
            for way in WAYS.value or METHODS:
                settings = {
                    "part": "train",
                    "way": way,
                    "magnitude": magnitude,
                    "samples": SAMPLES.value,
                    "batch": BATCH.value,
                    "epochs": EPOCHS.value,
                    "network": "small" if SMALL.value else "paper",
                }
                if results.get(settings) is None:
                    results.add(train(settings, results))


if __name__ == "__main__":
    app.run(main)
