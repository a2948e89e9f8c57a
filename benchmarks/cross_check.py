"""Whether ART's strongest attacks find anything that ours do not, on the same saved models.

    pip install ".[plots,benchmarks]"
    python benchmarks/cross_check.py
    python benchmarks/cross_check.py --norun --page=docs/attacks.md

Both see the same test images of MNIST, the same maximum norm inside the box, and as many steps and
starts, or queries. Every attack's images are judged by the same lines here. What `--out` holds
already is not measured again, so an interrupted run goes on.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import functools
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import shared
import tensorflow as tf
import tqdm
from absl import app, flags, logging

import lexirobust as lr
from lexirobust.attacks.losses import LOSSES

DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps MNIST.")
SAMPLES = flags.DEFINE_integer("samples", 300, "Test images attacked.", 1)
STEPS = flags.DEFINE_integer("steps", 100, "Gradient steps of every start.", 1)
RESTARTS = flags.DEFINE_integer("restarts", 5, "Random starts.", 1)
QUERIES = flags.DEFINE_integer("queries", 1000, "Queries of the random searches.", 1)
MODELS = flags.DEFINE_string("models", "results/cross_check", "Folder for the trained models.")
PAGE = flags.DEFINE_string("page", None, "Page to write the table to, where it has it.")
OUT = flags.DEFINE_string("out", "docs/results/cross_check.json", "Where runs are kept.")

CASES = (
    ("plain", "l2", 1.0),
    ("plain", "linf", 0.08),
    ("robust", "l2", 2.0),
    ("robust", "linf", 0.15),
)
TRAINED_ON, EPOCHS, BATCH, RATE = 6000, 4, 100, 1e-3
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
    """A small network after a short training, or as it was kept."""
    settings = f"{TRAINED_ON} samples, {EPOCHS} epochs, batch {BATCH}, rate {RATE}"
    path = pathlib.Path(MODELS.value, settings, f"{name}.keras")
    if not path.exists():
        x, y = lr.datasets.mnist(f"train[:{TRAINED_ON}]", data_dir=DATA_DIR.value)
        keras.utils.set_random_seed(0)
        network = shared.small_network()
        attack = lr.attacks.PGD("l2", steps=5)
        robust = lr.AdversarialTraining(network, attack, 2.0)
        model = robust if name == "robust" else lr.Standard(network)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer=keras.optimizers.Adam(RATE), loss=loss)
        model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, verbose=2)
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


def target(network: keras.Model, x: np.ndarray, loss: str) -> Any:
    """ART's wrapper of a network."""
    from art.estimators.classification import TensorFlowV2Classifier

    class Target(TensorFlowV2Classifier):
        """For losses by sample ART asks `tf.keras` for names that Keras 3 has dropped."""

        def compute_loss(self, x: Any, y: Any, *_: Any, **__: Any) -> np.ndarray:
            logits = self.model(tf.constant(x, tf.float32), training=False)
            return self.loss_object.each(y, logits).numpy()

    return Target(
        network, 10, input_shape=x.shape[1:], loss_object=Loss(loss), clip_values=(0.0, 1.0)
    )


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
    from art.attacks.evasion import (
        AutoProjectedGradientDescent,
        ProjectedGradientDescent,
        SquareAttack,
    )

    np.random.seed(0)  # noqa: NPY002 - ART draws from it.
    classifier = functools.partial(target, network, x)
    settings = {"norm": NUMPY_NORMS[norm], "eps": size, "batch_size": len(x), "verbose": False}
    ascent = {**settings, "max_iter": STEPS.value}
    auto = {**ascent, "eps_step": 2 * size, "nb_random_init": RESTARTS.value}
    step, starts = 2.5 * size / STEPS.value, RESTARTS.value
    attacks = {
        "PGD": ProjectedGradientDescent(
            classifier("cross_entropy"), eps_step=step, num_random_init=starts, **ascent
        ),
        "AutoPGD": AutoProjectedGradientDescent(classifier("cross_entropy"), **auto),
        "AutoPGD, DLR": AutoProjectedGradientDescent(classifier("dlr"), **auto),
        "Square": SquareAttack(classifier("cross_entropy"), max_iter=QUERIES.value, **settings),
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
    versions = shared.versions("adversarial-robustness-toolbox")
    missing = []
    for name, norm, size in CASES:
        network = trained(name)
        for library, ways in (("ours", ours), ("ART", arts)):
            for attack, way in ways(network, x, y, norm, size).items():
                settings = {"model": name, "norm": norm, "magnitude": size, **budget()}
                settings |= {"library": library, "attack": attack}
                if results.is_due(settings):
                    missing.append((settings, way, network))
    for settings, way, network in tqdm.tqdm(missing, desc="attacks", disable=None):
        found = measure(way, network, x, y, settings["norm"], settings["magnitude"])
        results.add({**settings, **versions, **found})


def budget() -> dict[str, Any]:
    """What all attacks may use."""
    return {
        "samples": SAMPLES.value,
        "steps": STEPS.value,
        "restarts": RESTARTS.value,
        "queries": QUERIES.value,
    }


def stands(runs: Sequence[dict[str, Any]]) -> np.ndarray:
    """`[N]` bool: what no attack of several breaks."""
    return np.all([np.array([*run["right"]]) == "1" for run in runs], axis=0)


def row(ours: Sequence[dict[str, Any]], arts: Sequence[dict[str, Any]]) -> list[str]:
    """Who leaves what standing, in how long."""
    own, other = stands(ours), stands(arts)
    shares = [shared.Share.of(int(each.sum()), len(each)) for each in (own, other)]
    not_allowed, seconds = (
        [sum(run[name] for run in runs) for runs in (ours, arts)]
        for name in ("not_allowed", "seconds")
    )
    return [
        *(share.percent_with_interval() for share in shares),
        str(np.sum(other & ~own)),
        str(np.sum(own & ~other)),
        "{} / {}".format(*not_allowed),
        "{:.0f} / {:.0f}".format(*seconds),
    ]


def table(results: shared.Results) -> list[list[str]]:
    """Each kind of attack, and all together, of the cases that were measured."""
    head = ["model", "norm", "attacks", "ours, %", "ART, %", "only ours", "only ART"]
    rows = [[*head, "not allowed, ours / ART", "s, ours / ART"]]
    together = tuple(
        list(dict.fromkeys(attack for pair in KINDS.values() for attack in pair[side]))
        for side in (0, 1)
    )
    for name, norm, size in CASES:
        case = {"model": name, "norm": norm, "magnitude": size, **budget()}
        for kind, pair in {**KINDS, "all together": together}.items():
            ours, arts = (
                [
                    run
                    for attack in attacks
                    if (run := results.get({**case, "library": library, "attack": attack}))
                ]
                for library, attacks in zip(("ours", "ART"), pair, strict=True)
            )
            if [len(ours), len(arts)] == [*map(len, pair)]:
                rows.append([name, f"{norm} {size:g}", kind, *row(ours, arts)])
    return rows


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    results = shared.Results(pathlib.Path(OUT.value))
    if shared.RUN.value:
        run(results)
    rows = table(results)
    shared.show("What attacks leave right", rows)
    if PAGE.value:
        shared.write_table(PAGE.value, "cross check", rows)


if __name__ == "__main__":
    app.run(main)
