"""Trains a convolutional classifier on MNIST with one of the methods, measures it and saves it.

    python examples/mnist.py --method=olsrc --norm=l2 --magnitudes=4.0 --epochs=20 \
        --attack_steps=3 --data_dir=~/tensorflow_datasets --out=results/mnist

Reference: section 6.2 of "Finding a human-like classifier".
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import pathlib
import time
from typing import Any

import common
import keras
import numpy as np
from absl import app, flags, logging

import lexirobust as lr
from lexirobust import plotting

METHODS = {
    "standard": lambda classifier, attack, d: lr.Standard(classifier),
    "adversarial": lambda classifier, attack, d: lr.AdversarialTraining(classifier, attack, d[0]),
    "trades": lambda classifier, attack, d: lr.TRADES(classifier, attack, d[0]),
    "olsrc": lambda classifier, attack, d: lr.OLSRC(classifier, attack=attack, magnitudes=d),
    "olgrc": lambda classifier, attack, d: lr.OLGRC(classifier, attack=attack, magnitudes=d),
}

METHOD = flags.DEFINE_enum("method", "olsrc", list(METHODS), "How to train.")
NORM = flags.DEFINE_enum("norm", "l2", ["l1", "l2", "linf"], "Norm of the perturbations.")
MAGNITUDES = flags.DEFINE_list("magnitudes", ["4.0"], "Norms to train for, ascending.")
SAMPLES = flags.DEFINE_integer("samples", 2000, "Training images, at random.", 1, 60_000)
TEST_SAMPLES = flags.DEFINE_integer(
    "test_samples", 2000, "Test images to attack, at random.", 1, 10_000
)
EPOCHS = flags.DEFINE_integer("epochs", 200, "Full-batch steps.", lower_bound=1)
LEARNING_RATE = flags.DEFINE_float("learning_rate", 1e-3, "Adam's learning rate.", 0.0)
ATTACK_STEPS = flags.DEFINE_integer("attack_steps", 40, "Gradient steps of the attack.", 1)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the subset and the weights.", lower_bound=0)
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps MNIST.")
OUT = flags.DEFINE_string("out", "results/mnist", "Folder for everything that is written.")


def network() -> keras.Model:
    """The paper's network: two convolutions with pooling, then two dense layers."""
    convolution = {"kernel_size": 5, "padding": "same", "activation": "relu"}
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(32, **convolution),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(64, **convolution),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(1024, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


def measure(
    classifier: keras.Model,
    attack: lr.attacks.Attack,
    magnitudes: list[float],
    data_dir: str | None,
) -> dict[str, Any]:
    """Natural accuracy on all test images, accuracy under attack on a subset of them."""
    x, y = lr.datasets.mnist("test", data_dir)
    logits = classifier.predict(x, batch_size=500, verbose=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    attacked = lr.datasets.subset(x, y, TEST_SAMPLES.value, seed=SEED.value)
    curve = lr.evaluate_robustness(classifier, *attacked, attack, magnitudes)
    return {
        "natural_accuracy": float(np.mean(np.argmax(logits, axis=-1) == y)),
        "natural_loss": float(loss(y, logits)),
        "accuracy": {f"{d:g}": float(a) for d, a in zip(magnitudes, curve.accuracy, strict=True)},
        "loss": {f"{d:g}": float(v.mean()) for d, v in zip(magnitudes, curve.losses, strict=True)},
        "feasible": {
            f"{d:g}": float(v.mean()) for d, v in zip(magnitudes, curve.feasible, strict=True)
        },
    }


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    try:
        magnitudes = [float(magnitude) for magnitude in MAGNITUDES.value]
    except ValueError:
        raise app.UsageError(
            f"--magnitudes must be numbers. Received: {MAGNITUDES.value}."
        ) from None
    if METHOD.value in ("adversarial", "trades") and len(magnitudes) != 1:
        raise app.UsageError(f"--method={METHOD.value} trains for one magnitude.")
    out = pathlib.Path(OUT.value)
    keras.utils.set_random_seed(SEED.value)
    try:
        images, labels = lr.datasets.mnist("train", DATA_DIR.value)
    except OSError as error:
        raise SystemExit(f"{error} (--data_dir)") from None
    x, y = lr.datasets.subset(images, labels, SAMPLES.value, seed=SEED.value)

    attack = lr.attacks.PGD(norm=NORM.value, steps=ATTACK_STEPS.value, bounds=(0.0, 1.0))
    model = METHODS[METHOD.value](network(), attack, magnitudes)
    model.compile(optimizer=keras.optimizers.Adam(LEARNING_RATE.value), metrics=["accuracy"])
    start = time.perf_counter()
    history = model.fit(x, y, batch_size=len(x), epochs=EPOCHS.value, shuffle=False, verbose=2)
    seconds = time.perf_counter() - start

    result = {
        "method": METHOD.value,
        "seed": SEED.value,
        "norm": NORM.value,
        "magnitudes": magnitudes,
        "samples": SAMPLES.value,
        "test_samples": TEST_SAMPLES.value,
        "epochs": EPOCHS.value,
        "attack_steps": ATTACK_STEPS.value,
        **measure(model.classifier, attack, magnitudes, DATA_DIR.value),
        "boundaries": None,  # Places on a line: the toy problem's alone.
        "seconds": seconds,
    }
    common.write_results([result], out)
    model.save(out / "model.keras")
    model.export(out / "serving" / "1", verbose=False)
    plotting.training_curves({METHOD.value: history.history}).savefig(out / "training.png", dpi=150)
    common.show_table(
        "MNIST, test data",
        [
            {
                "method": METHOD.value,
                "natural accuracy": f"{result['natural_accuracy']:.4f}",
                **{f"at {NORM.value} {d}": f"{a:.4f}" for d, a in result["accuracy"].items()},
                "seconds": f"{seconds:.0f}",
            }
        ],
    )
    print(f"Results, model.keras, the SavedModel serving/1 and training.png are in {out}.")


if __name__ == "__main__":
    app.run(main)
