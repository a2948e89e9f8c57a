"""PGD on the paper's network: against the same loop by hand, against ART, and in a sweep.

    pip install ".[plots,benchmarks]"
    python benchmarks/attacks.py
    python benchmarks/attacks.py --norun --page=docs/attacks.md

Turns are paired and alternate in one process; ratios are medians of the pairs', with quartiles.
The floor is a gradient a step and what is needed to stay in the ball and the box, in one graph.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import functools
import json
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
from lexirobust.atomic_files import write_json
from lexirobust.attacks.losses import classification_loss

DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps MNIST.")
SAMPLES = flags.DEFINE_integer("samples", 500, "Test images attacked.", 1)
STEPS = flags.DEFINE_integer("steps", 40, "Gradient steps of every attack.", 1)
MAGNITUDE = flags.DEFINE_float("magnitude", 2.0, "l2 norm of the single attacks.")
TURNS = flags.DEFINE_integer("turns", 15, "Paired turns after the first, untimed one.", 1)
SWEEP_TURNS = flags.DEFINE_integer("sweep_turns", 5, "The same, of the sweeps.", 1)
PAGE = flags.DEFINE_string("page", None, "Page to write the tables to, where it has them.")
OUT = flags.DEFINE_string("out", "docs/results/attacks.json", "Where results are kept.")

MAGNITUDES = [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0]

Way = Callable[[], list[Any]]
"""Runs attacks, and gives the perturbed images of each."""


def trained_network() -> keras.Model:
    """The paper's network after three epochs of Adam on 6000 images."""
    x, y = lr.datasets.mnist("train[:6000]", data_dir=DATA_DIR.value)
    keras.utils.set_random_seed(0)
    network = shared.paper_network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(optimizer=keras.optimizers.Adam(1e-3), loss=loss)
    network.fit(x, y, batch_size=100, epochs=3, verbose=0)
    return network


def by_hand(network: keras.Model, x: tf.Tensor, y: tf.Tensor, exact: bool) -> Way:
    """Random start, fixed l2 steps, the best point by its loss: all that PGD has to do."""
    radius, steps = MAGNITUDE.value, STEPS.value

    def kept(perturbation: tf.Tensor) -> tf.Tensor:
        size = tf.norm(perturbation, axis=[1, 2], keepdims=True)
        scale = radius / size if exact else tf.minimum(1.0, radius / size)
        return tf.clip_by_value(x + scale * perturbation, 0.0, 1.0) - x

    def step(number: Any, here: tf.Tensor, best: tf.Tensor, most: tf.Tensor) -> tuple[Any, ...]:
        moved = x + here
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(moved)
            losses = classification_loss(network(moved, training=False), y)
        gradient = tape.gradient(losses, moved)
        better = losses > most
        best = tf.where(tf.reshape(better, (-1, 1, 1, 1)), here, best)
        length = 2.5 * radius / steps / (tf.norm(gradient, axis=[1, 2], keepdims=True) + 1e-12)
        return number + 1, kept(here + length * gradient), best, tf.where(better, losses, most)

    @functools.partial(tf.function, autograph=False)
    def run() -> tf.Tensor:
        here = kept(tf.random.normal(tf.shape(x)))
        state = (0, here, here, tf.fill([len(x)], -np.inf))
        _, here, best, most = tf.while_loop(lambda number, *_: number < steps, step, state)
        better = classification_loss(network(x + here, training=False), y) > most
        return x + tf.where(tf.reshape(better, (-1, 1, 1, 1)), here, best)

    return lambda: [run().numpy()]


def ours(network: keras.Model, x: tf.Tensor, y: tf.Tensor, **settings: Any) -> Way:
    """This library's PGD."""
    attack = lr.attacks.PGD(norm="l2", steps=STEPS.value, **settings)
    return lambda: [attack(network, x, y, MAGNITUDE.value).numpy()]


def art(network: keras.Model, x: tf.Tensor, y: tf.Tensor) -> Way:
    """ART's PGD, all images in one batch."""
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import TensorFlowV2Classifier

    classifier = TensorFlowV2Classifier(
        network,
        nb_classes=10,
        input_shape=x.shape[1:],
        loss_object=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        clip_values=(0.0, 1.0),
    )
    attack = ProjectedGradientDescent(
        classifier,
        norm=2,
        eps=MAGNITUDE.value,
        eps_step=2.5 * MAGNITUDE.value / STEPS.value,
        max_iter=STEPS.value,
        num_random_init=1,
        batch_size=len(x),
        verbose=False,
    )
    images, labels = x.numpy(), y.numpy()
    return lambda: [attack.generate(images, labels)]


def sweeps(network: keras.Model, x: tf.Tensor, y: tf.Tensor, constraint: str) -> dict[str, Way]:
    """One sweep, and one run a magnitude."""
    attack = lr.attacks.PGD(norm="l2", steps=STEPS.value, constraint=constraint)
    return {
        "separate runs": lambda: [attack(network, x, y, each).numpy() for each in MAGNITUDES],
        "sweep": lambda: list(attack.sweep(network, x, y, MAGNITUDES).numpy()),
    }


def measure(
    title: str, ways: dict[str, Way], turns: int, network: keras.Model, y: tf.Tensor
) -> list[dict[str, Any]]:
    """Seconds and accuracies of every way, in turns; ratios are to the first."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    accuracies: dict[str, list[list[float]]] = {way: [] for way in ways}
    for turn in tqdm.trange(turns + 1, desc=title, leave=False, disable=None):
        for way in list(ways) if turn % 2 else reversed(ways):
            start = time.perf_counter()
            moved = ways[way]()
            if turn:
                seconds[way].append(time.perf_counter() - start)
                given = [np.argmax(network(each, training=False), axis=-1) for each in moved]
                accuracies[way].append([float(np.mean(labels == y)) for labels in given])
    floor = np.array(next(iter(seconds.values())))
    return [
        {
            "comparison": title,
            "way": way,
            "median_seconds": float(np.median(times)),
            "ratio_quartiles": np.quantile(np.array(times) / floor, [0.25, 0.5, 0.75]).tolist(),
            "accuracies": np.mean(accuracies[way], axis=0).tolist(),
        }
        for way, times in seconds.items()
    ]


def table(results: Sequence[dict[str, Any]]) -> list[list[str]]:
    """One row a comparison and way."""
    rows = [["comparison", "way", "s", "ratio to the first (quartiles)", "accuracy, %"]]
    for result in results:
        rows.append(
            [
                result["comparison"],
                result["way"],
                f"{result['median_seconds']:.1f}",
                shared.ratio_with_quartiles(result["ratio_quartiles"]),
                ", ".join(f"{100 * accuracy:.1f}" for accuracy in result["accuracies"]),
            ]
        )
    return rows


def run() -> list[dict[str, Any]]:
    """All comparisons, one after the other."""
    network = trained_network()
    x, y = lr.datasets.mnist(f"test[:{SAMPLES.value}]", data_dir=DATA_DIR.value)
    x, y = tf.constant(x), tf.constant(y)
    results: list[dict[str, Any]] = []
    for constraint in ("maximum", "exact"):
        exact = constraint == "exact"
        fixed = 2.5 * MAGNITUDE.value / STEPS.value
        ways = {
            "by hand": by_hand(network, x, y, exact),
            "ours": ours(network, x, y, constraint=constraint),
            "ours, fixed step": ours(network, x, y, constraint=constraint, step_size=fixed),
        }
        if not exact:
            ways["ART"] = art(network, x, y)
        results += measure(f"{constraint} norm", ways, TURNS.value, network, y)
        ways = sweeps(network, x, y, constraint)
        results += measure(
            f"{len(MAGNITUDES)} magnitudes, {constraint}", ways, SWEEP_TURNS.value, network, y
        )
    return results


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    path = pathlib.Path(OUT.value)
    if shared.RUN.value:
        settings = {
            "samples": SAMPLES.value,
            "steps": STEPS.value,
            "magnitude": MAGNITUDE.value,
            "magnitudes": MAGNITUDES,
        }
        versions = shared.versions("adversarial-robustness-toolbox")
        write_json(path, {**versions, "settings": settings, "results": run()})
    results = json.loads(path.read_text(encoding="utf-8"))["results"]
    single = table([result for result in results if "magnitudes" not in result["comparison"]])
    several = table([result for result in results if "magnitudes" in result["comparison"]])
    shared.show("PGD on the paper's network, l2", single)
    shared.show("The same at several magnitudes", several)
    if PAGE.value:
        shared.write_table(PAGE.value, "pgd", single)
        shared.write_table(PAGE.value, "sweeps", several)


if __name__ == "__main__":
    app.run(main)
