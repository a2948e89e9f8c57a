"""Draws what makes an image what a classifier says it is, on MNIST, in four ways.

    python examples/interpretation.py --data_dir=~/tensorflow_datasets --out=results/interpretation

Two classifiers of one shape see the same images: one trained as usual, one by OLSRC. Beside the
negative adversarial remover, from the nearest boundary point to the image, are Integrated Gradients
and SmoothGrad, both by the package `saliency`. The nearest points are looked for by gradients
(DeepFool, FAB) and by decisions alone (HopSkipJump), and their distances compared.

Reference: section 9.3 of "Finding a human-like classifier"; arXiv 1703.01365 and 1706.03825.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import pathlib
from typing import Any

import common
import keras
import numpy as np
import saliency.core as saliency
import tensorflow as tf
import tqdm
import tqdm.keras
from absl import app, flags, logging

import lexirobust as lr
from lexirobust import plotting

SAMPLES = flags.DEFINE_integer("samples", 2000, "Training images, at random.", 10, 60_000)
EPOCHS = flags.DEFINE_integer("epochs", 15, "Epochs of either classifier.", lower_bound=1)
MAGNITUDES = flags.DEFINE_list("magnitudes", ["1.0", "2.0"], "l2 norms that OLSRC trains for.")
STEPS = flags.DEFINE_integer("steps", 50, "Steps of DeepFool and FAB.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the subset, the weights and the searches.", 0)
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps MNIST.")
OUT = flags.DEFINE_string("out", "results/interpretation", "Folder for results and pictures.")

DIGITS = (0, 2, 4, 7, 9)
IMAGE, BOUNDARY = "image", "nearest\nboundary"


def network() -> keras.Model:
    """Two strided convolutions and two dense layers."""
    convolution = {"kernel_size": 5, "strides": 2, "padding": "same", "activation": "relu"}
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(16, **convolution),
            keras.layers.Conv2D(32, **convolution),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


def train(method: str, x: np.ndarray, y: np.ndarray) -> keras.Model:
    """A classifier trained in one of both ways, in batches."""
    keras.utils.set_random_seed(SEED.value)
    classifier = network()
    attack = lr.attacks.PGD("l2", steps=5)
    norms = [float(norm) for norm in MAGNITUDES.value]
    model = lr.Standard(classifier) if method == "standard" else lr.OLSRC(classifier, attack, norms)
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    bar = tqdm.keras.TqdmCallback(verbose=0, desc=method)
    model.fit(x, y, batch_size=100, epochs=EPOCHS.value, verbose=0, callbacks=[bar])
    return classifier


def methods() -> dict[str, lr.attacks.MinimumNormAttack]:
    """Ways to look for the nearest boundary point."""
    return {
        "DeepFool": lr.attacks.DeepFool("l2", steps=STEPS.value),
        "FAB": lr.attacks.FAB("l2", steps=STEPS.value, seed=SEED.value),
        "HopSkipJump": lr.attacks.HopSkipJump("l2", seed=SEED.value),
    }


def gradients(classifier: keras.Model) -> Any:
    """What `saliency` asks for: the gradient of the given class's probability."""

    @tf.function
    def of_inputs(images: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(images)
            chosen = tf.nn.softmax(classifier(images, training=False))[:, label]
        return tape.gradient(chosen, images)

    def call(images: Any, call_model_args: Any = None, expected_keys: Any = None) -> Any:
        del expected_keys
        images = tf.constant(np.asarray(images), tf.float32)
        found = of_inputs(images, tf.constant(call_model_args["label"]))
        return {saliency.INPUT_OUTPUT_GRADIENTS: found.numpy()}

    return call


def classes(classifier: keras.Model, x: Any) -> np.ndarray:
    """The classes `[N]` that a classifier gives inputs."""
    return np.argmax(classifier.predict(np.asarray(x), verbose=0), axis=1)


def captions(
    classifier: keras.Model, columns: dict[str, Any], y: np.ndarray
) -> dict[str, list[str]]:
    """Labels and predictions, of the images and of the points just past the boundary."""
    given = zip(y, classes(classifier, columns[IMAGE]), strict=True)
    beyond = classes(classifier, columns[BOUNDARY])
    return {
        IMAGE: [f"label {label}, classified {found}" for label, found in given],
        BOUNDARY: [f"classified {found}" for found in beyond],
    }


def explained(classifier: keras.Model, x: np.ndarray) -> tuple[dict[str, Any], dict[str, Any]]:
    """Columns of a picture, and the distances and queries of each way."""
    columns: dict[str, Any] = {IMAGE: x}
    found = {}
    for name, method in tqdm.tqdm(methods().items(), desc="boundaries", leave=False):
        points = lr.nearest_boundary(classifier, x, method)
        found[name] = {
            "distances": points.distances.numpy().tolist(),
            "queries": points.queries.numpy().tolist(),
        }
        if name == "FAB":
            columns[BOUNDARY] = points.inputs
            columns["remover\nby FAB"] = x - points.inputs
        if name == "HopSkipJump":
            columns["remover\nby HopSkipJump"] = x - points.inputs
    call = gradients(classifier)
    arguments = [{"label": int(label)} for label in classes(classifier, x)]
    ways = {
        "Integrated\nGradients": lambda image, label: saliency.IntegratedGradients().GetMask(
            image, call, label, x_steps=50, x_baseline=np.zeros_like(image), batch_size=50
        ),
        "SmoothGrad": lambda image, label: saliency.GradientSaliency().GetSmoothedMask(
            image, call, label, nsamples=50, magnitude=False
        ),
    }
    for name, way in ways.items():
        columns[name] = np.stack([way(*pair) for pair in zip(x, arguments, strict=True)])
    return columns, found


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    out = pathlib.Path(OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    x, y = lr.datasets.subset(
        *lr.datasets.mnist("train", data_dir=DATA_DIR.value), SAMPLES.value, seed=SEED.value
    )
    test_x, test_y = lr.datasets.mnist("test", data_dir=DATA_DIR.value)
    results, rows = [], []
    trained = {method: train(method, x, y) for method in ("standard", "olsrc")}
    rights = {name: classes(each, test_x) == test_y for name, each in trained.items()}
    # Of each digit the first image that both get right, so that distances can be compared.
    both = np.logical_and(*rights.values())
    chosen = np.concatenate([np.flatnonzero(both & (test_y == digit))[:1] for digit in DIGITS])
    for method, classifier in trained.items():
        right = rights[method]
        columns, found = explained(classifier, test_x[chosen])
        figure = plotting.explanations(columns, captions(classifier, columns, test_y[chosen]))
        figure.savefig(out / f"{method}.png", dpi=130)
        result: dict[str, Any] = {"method": method, "seed": SEED.value, "samples": SAMPLES.value}
        result["images"] = chosen.tolist()
        result |= {"epochs": EPOCHS.value, "natural_accuracy": float(np.mean(right))}
        results.append({**result, "nearest": found, **common.surroundings()})
        for name, each in found.items():
            row = {"method": method, "natural": f"{100 * np.mean(right):.1f} %", "search": name}
            row["mean distance"] = f"{np.mean(each['distances']):.3f}"
            rows.append({**row, "mean queries": f"{np.mean(each['queries']):.0f}"})
    common.write_results(results, out)
    common.show_table("Nearest boundary points, l2", rows)
    print(f"Pictures: {out / 'standard.png'}, {out / 'olsrc.png'}")


if __name__ == "__main__":
    app.run(main)
