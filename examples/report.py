"""Measures three classifiers of scikit-learn's digits, and writes a page about them.

    python examples/report.py --out=results/report

One of them is the first with its softmax left on, which the page warns of.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import pathlib
import warnings

import keras
import numpy as np
from absl import app, flags, logging
from sklearn.datasets import load_digits

import lexirobust as lr

EPOCHS = flags.DEFINE_integer("epochs", 30, "Passes over the training images.", lower_bound=1)
SAMPLES = flags.DEFINE_integer("samples", 500, "Test images; all others train.", 10, 1700)
STEPS = flags.DEFINE_integer("steps", 40, "Steps of the attack measured with.", lower_bound=1)
OUT = flags.DEFINE_string("out", "results/report", "Folder for report.html.")

MAGNITUDES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)


def network() -> keras.Model:
    """One hidden layer of 128."""
    layers = keras.layers
    hidden = [layers.Flatten(), layers.Dense(128, activation="relu")]
    return keras.Sequential([keras.Input((8, 8, 1)), *hidden, layers.Dense(10)])


def classifiers(x: np.ndarray, y: np.ndarray) -> dict[str, keras.Model]:
    """Trains on images `[N, 8, 8, 1]`."""
    attack = lr.attacks.PGD(norm="l2", steps=5)
    standard = lr.Standard(network())
    ranked = lr.OLSRC(network(), attack, magnitudes=[0.5, 1.0])
    for model in (standard, ranked):
        model.compile("adam")
        model.fit(x, y, batch_size=200, epochs=EPOCHS.value, verbose=0)
    return {
        "standard": standard.classifier,
        "standard with softmax": keras.Sequential([standard.classifier, keras.layers.Softmax()]),
        "OLSRC": ranked.classifier,
    }


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    warnings.filterwarnings("ignore", "`classifier` must give logits")  # The page says so.
    keras.utils.set_random_seed(0)
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x = (images[order].reshape(-1, 8, 8, 1) / 16).astype(np.float32)
    y = labels[order].astype(np.int32)
    tested, trained = slice(None, SAMPLES.value), slice(SAMPLES.value, None)

    attack = lr.attacks.PGD(norm="l2", steps=STEPS.value, restarts=2, seed=0)
    curves = {
        name: lr.evaluate_robustness(classifier, x[tested], y[tested], attack, MAGNITUDES)
        for name, classifier in classifiers(x[trained], y[trained]).items()
    }
    page = pathlib.Path(OUT.value) / "report.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    lr.report(curves, page, data="test images of scikit-learn's digits")
    print(f"{page} can be opened in any browser.")


if __name__ == "__main__":
    app.run(main)
