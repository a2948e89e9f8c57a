"""Whether ART's strongest attacks find anything that ours do not, on the same saved models.

    pip install ".[plots,benchmarks]"
    python benchmarks/cross_check.py --out=docs/results/cross_check.json

Both see the same test images of MNIST, the same maximum norm inside the box, and as many steps and
starts, or queries. Every attack's images are judged by the same lines here. What `--out` holds
already is not measured again, so an interrupted run goes on.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import functools
import importlib.metadata
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
from art.attacks.evasion import (
    AutoProjectedGradientDescent,
    ProjectedGradientDescent,
    SquareAttack,
)
from art.estimators.classification import TensorFlowV2Classifier
from scipy import stats

import lexirobust as lr
from lexirobust.attacks.losses import LOSSES

DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps MNIST.")
SAMPLES = flags.DEFINE_integer("samples", 300, "Test images attacked.", 1)
STEPS = flags.DEFINE_integer("steps", 100, "Gradient steps of every start.", 1)
RESTARTS = flags.DEFINE_integer("restarts", 5, "Random starts.", 1)
QUERIES = flags.DEFINE_integer("queries", 1000, "Queries of the random searches.", 1)
MODELS = flags.DEFINE_string("models", "results/cross_check", "Folder for the trained models.")
OUT = flags.DEFINE_string("out", "results/cross_check/results.json", "JSON file for the results.")

CASES = (
    ("plain", "l2", 1.0),
    ("plain", "linf", 0.08),
    ("robust", "l2", 2.0),
    ("robust", "linf", 0.15),
)
NUMPY_NORMS = {"l2": 2, "linf": np.inf}
# Of the same kind: what is compared with what.
KINDS = {
    "cross entropy": (["PGD"], ["PGD", "AutoPGD"]),
    "DLR": (["PGD, DLR"], ["AutoPGD, DLR"]),
    "random search": (["Square"], ["Square"]),
}

Way = Callable[[], np.ndarray]
"""Runs an attack, and gives the perturbed images."""


def trained(name: str) -> keras.Model:
    """A small network after four epochs on 6000 images, as it was saved."""
    path = pathlib.Path(MODELS.value) / f"{name}.keras"
    if not path.exists():
        x, y = lr.datasets.mnist("train[:6000]", data_dir=DATA_DIR.value)
        keras.utils.set_random_seed(0)
        network = shared.small_network()
        attack = lr.attacks.PGD("l2", steps=5)
        robust = lr.AdversarialTraining(network, attack, 2.0)
        model = robust if name == "robust" else lr.Standard(network)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=loss)
        model.fit(x, y, batch_size=100, epochs=4, verbose=2)
        path.parent.mkdir(parents=True, exist_ok=True)
        network.save(path)
    return keras.models.load_model(path, compile=False)


class Loss:
    """A loss as ART calls it: of one-hot labels and logits, to be averaged."""

    reduction = "mean"

    def __init__(self, name: str) -> None:
        self.name = name

    def each(self, y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        return LOSSES[self.name](logits, tf.argmax(y, axis=1), tf.constant(False))

    def __call__(self, y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(self.each(y, logits))


class Target(TensorFlowV2Classifier):
    """ART's wrapper. For losses by sample it asks `tf.keras` for names that Keras 3 has dropped."""

    def compute_loss(self, x: Any, y: Any, *_: Any, **__: Any) -> np.ndarray:
        logits = self.model(tf.constant(x, tf.float32), training=False)
        return self.loss_object.each(y, logits).numpy()


def ours(
    network: keras.Model, x: np.ndarray, y: np.ndarray, norm: str, size: float
) -> dict[str, Way]:
    """This library's attacks."""
    settings: dict[str, Any] = {"norm": norm, "constraint": "maximum", "seed": 0}
    ascent: dict[str, Any] = {"steps": STEPS.value, "restarts": RESTARTS.value, "early_stop": True}
    attacks = {
        "PGD": lr.attacks.PGD(**settings, **ascent),
        "PGD, DLR": lr.attacks.PGD(**settings, **ascent, loss="dlr"),
        "Square": lr.attacks.Square(**settings, max_queries=QUERIES.value),
    }
    return {
        name: functools.partial(lambda attack: attack(network, x, y, size).numpy(), attack)
        for name, attack in attacks.items()
    }


def arts(
    network: keras.Model, x: np.ndarray, y: np.ndarray, norm: str, size: float
) -> dict[str, Way]:
    """ART's, with the step sizes that its authors and those of the methods propose."""
    np.random.seed(0)  # noqa: NPY002 - ART draws from it.

    def target(loss: str) -> Target:
        return Target(
            network, 10, input_shape=x.shape[1:], loss_object=Loss(loss), clip_values=(0.0, 1.0)
        )

    settings = {"norm": NUMPY_NORMS[norm], "eps": size, "batch_size": len(x), "verbose": False}
    ascent = {**settings, "max_iter": STEPS.value}
    auto = {**ascent, "eps_step": 2 * size, "nb_random_init": RESTARTS.value}
    step, starts = 2.5 * size / STEPS.value, RESTARTS.value
    attacks = {
        "PGD": ProjectedGradientDescent(
            target("cross_entropy"), eps_step=step, num_random_init=starts, **ascent
        ),
        "AutoPGD": AutoProjectedGradientDescent(target("cross_entropy"), **auto),
        "AutoPGD, DLR": AutoProjectedGradientDescent(target("dlr"), **auto),
        "Square": SquareAttack(target("cross_entropy"), max_iter=QUERIES.value, **settings),
    }
    return {name: functools.partial(each.generate, x, y) for name, each in attacks.items()}


def measure(
    way: Way, network: keras.Model, x: np.ndarray, y: np.ndarray, norm: str, size: float
) -> dict[str, Any]:
    """What an attack breaks, and in how long; images that are not allowed break nothing."""
    start = time.perf_counter()
    moved = way()
    seconds = time.perf_counter() - start
    flat = (moved - x).reshape(len(x), -1).astype(np.float64)
    norms = np.linalg.norm(flat, ord=NUMPY_NORMS[norm], axis=1)
    inside = (moved >= 0).all(axis=(1, 2, 3)) & (moved <= 1).all(axis=(1, 2, 3))
    # Neither holds of what is not a number.
    allowed = inside & (norms <= size * (1 + 1e-5))
    judged = np.where(allowed[:, None, None, None], moved, x)
    right = np.argmax(network.predict(judged, verbose=0), axis=1) == y
    return {
        "seconds": seconds,
        "not_allowed": int(np.sum(~allowed)),
        "right": "".join("01"[int(each)] for each in right),
    }


def run(results: shared.Results) -> None:
    """Measures what is missing."""
    x, y = lr.datasets.mnist(f"test[:{SAMPLES.value}]", data_dir=DATA_DIR.value)
    missing = []
    for name, norm, size in CASES:
        network = trained(name)
        for library, ways in (("ours", ours), ("ART", arts)):
            for attack, way in ways(network, x, y, norm, size).items():
                settings = {"model": name, "norm": norm, "magnitude": size, **budget()}
                settings |= {"library": library, "attack": attack}
                if results.get(settings) is None:
                    missing.append((settings, way, network))
    for settings, way, network in tqdm.tqdm(missing, desc="attacks", disable=None):
        found = measure(way, network, x, y, settings["norm"], settings["magnitude"])
        results.add({**settings, **found})


def budget() -> dict[str, Any]:
    names = ("tensorflow", "keras", "adversarial-robustness-toolbox")
    return {
        "samples": SAMPLES.value,
        "steps": STEPS.value,
        "restarts": RESTARTS.value,
        "queries": QUERIES.value,
        "versions": {name: importlib.metadata.version(name) for name in names},
    }


def stands(
    results: shared.Results, case: dict[str, Any], attacks: list[str]
) -> tuple[np.ndarray, float]:
    """`[N]` bool: what no attack of several breaks; and how long they took, in seconds."""
    found = [results.get({**case, "attack": attack}) for attack in attacks]
    right = [np.array(list(each["right"])) == "1" for each in found if each]
    return np.all(right, axis=0), sum(each["seconds"] for each in found if each)


def show(results: shared.Results) -> None:
    """Prints each kind of attack and all together: who leaves what standing."""
    headings = ("model", "norm", "attacks", "ours, %", "ART, %", "only ours", "only ART", "s / s")
    table = rich.table.Table(*headings)
    all_ours, all_arts = (
        list(dict.fromkeys(attack for pair in KINDS.values() for attack in pair[side]))
        for side in (0, 1)
    )
    for name, norm, size in CASES:
        case = {"model": name, "norm": norm, "magnitude": size, **budget()}
        for kind, pair in {**KINDS, "all together": (all_ours, all_arts)}.items():
            own, seconds = stands(results, {**case, "library": "ours"}, pair[0])
            other, others = stands(results, {**case, "library": "ART"}, pair[1])
            counts = (int(np.sum(other & ~own)), int(np.sum(own & ~other)))
            table.add_row(
                name,
                f"{norm} {size:g}",
                kind,
                told(own),
                told(other),
                *map(str, counts),
                f"{seconds:.0f} / {others:.0f}",
            )
    console = rich.console.Console()
    if not console.is_terminal:
        console.width = 150  # A pipe or a log has no width of its own.
    console.print(table)


def told(right: np.ndarray) -> str:
    """Accuracy in per cent, with its 95 % interval."""
    test = stats.binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return f"{100 * right.mean():.1f} ({100 * test.low:.1f} to {100 * test.high:.1f})"


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    results = shared.Results(pathlib.Path(OUT.value))
    run(results)
    show(results)


if __name__ == "__main__":
    app.run(main)
