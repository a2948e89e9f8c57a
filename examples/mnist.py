"""Trains a convolutional classifier on MNIST with one of the methods, measures it and saves it.

    python examples/mnist.py --method=olsrc --norm=l2 --magnitudes=4.0 --epochs=20 \
        --attack_steps=3 --data_dir=~/tensorflow_datasets --out=results/mnist

All methods are measured under one attack. A run that was interrupted goes on where its last backup
was made, if the same command is given again; mini-batches then come in another order. `--paper`
trains as the paper does: 2000 epochs, and 40 steps from a random start in each. All images in
mini-batches:

    python examples/mnist.py --method=olsrc --samples=60000 --batch_size=256 --memory --epochs=5 \
        --attack_steps=3 --warm_start=steps --reset_every=0 --backup_every=1

Reference: section 6.2 of "Finding a human-like classifier".
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import dataclasses
import pathlib
import shutil
from typing import Any

import common
import keras
import numpy as np
import tqdm.keras
from absl import app, flags, logging

import lexirobust as lr
from lexirobust import plotting

METHODS = {
    "standard": lambda classifier, attack, d, **options: lr.Standard(classifier, **options),
    "adversarial": lambda classifier, attack, d, **options: lr.AdversarialTraining(
        classifier, attack, d[0], **options
    ),
    "trades": lambda classifier, attack, d, **options: lr.TRADES(
        classifier, attack, d[0], **options
    ),
    "average": lambda classifier, attack, d, **options: lr.MultiPerturbationTraining(
        classifier, [attack] * len(d), d, "avg", **options
    ),
    "olsrc": lambda classifier, attack, d, **options: lr.OLSRC(classifier, attack, d, **options),
    "olgrc": lambda classifier, attack, d, **options: lr.OLGRC(classifier, attack, d, **options),
    "olgrc_nearest": lambda classifier, attack, d, **options: lr.OLGRC(
        classifier, attack, d, explored="nearest", **options
    ),
}
WARM_STARTS = ("none", "steps", "free")
# Where the curves are measured.
CURVES = {
    "l1": [2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0],
    "l2": [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0],
    "linf": [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4],
}
PAPER = {
    "epochs": 2000,
    "batch_size": 0,
    "memory": False,
    "attack_steps": 40,
    "warm_start": "none",
}

METHOD = flags.DEFINE_enum("method", "olsrc", list(METHODS), "How to train.")
NORM = flags.DEFINE_enum("norm", "l2", list(CURVES), "Norm of the perturbations.")
MAGNITUDES = flags.DEFINE_list("magnitudes", ["4.0"], "Norms to train for, ascending.")
BOX = flags.DEFINE_bool("box", True, "Whether perturbed pixels stay in [0, 1].")
SAMPLES = flags.DEFINE_integer("samples", 2000, "Training images, at random.", 1, 60_000)
EPOCHS = flags.DEFINE_integer("epochs", 200, "How often all of them are seen.", lower_bound=1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 0, "Images in a step; 0: all of them.", 0)
MEMORY = flags.DEFINE_bool(
    "memory", False, "Whether ranks are compared by their mean gradients over the last steps."
)
MICRO_BATCH_SIZE = flags.DEFINE_integer(
    "micro_batch_size", 500, "Images held at a time: it bounds the memory.", 1
)
LEARNING_RATE = flags.DEFINE_float("learning_rate", 1e-3, "Adam's learning rate.", 0.0)
ATTACK_STEPS = flags.DEFINE_integer("attack_steps", 40, "Gradient steps of the attack.", 1)
WARM_START = flags.DEFINE_enum(
    "warm_start",
    "none",
    WARM_STARTS,
    "Where attacks in training begin: at random, where the last one ended, or there and without "
    "steps of their own.",
)
RESET_EVERY = flags.DEFINE_integer(
    "reset_every", 10, "Epochs after which --warm_start=steps starts at random; 0: never.", 0
)
PRESET = flags.DEFINE_bool(
    "paper", False, "Train as the paper does: " + ", ".join(f"--{k}={v}" for k, v in PAPER.items())
)
TEST_SAMPLES = flags.DEFINE_integer(
    "test_samples", 2000, "Test images to attack, at random.", 1, 10_000
)
CURVE_SAMPLES = flags.DEFINE_integer(
    "curve_samples", 500, "Those to attack at every magnitude of the curves; 0: no curves.", 0
)
TEST_STEPS = flags.DEFINE_integer("test_steps", 100, "Gradient steps of the test's attack.", 1)
TEST_RESTARTS = flags.DEFINE_integer("test_restarts", 5, "Starts of the test's attack.", 1)
BACKUP_EVERY = flags.DEFINE_integer("backup_every", 50, "Epochs from one backup to the next.", 1)
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


def settings() -> dict[str, Any]:
    """What the run is made of, the preset applied."""
    names = (
        "method",
        "norm",
        "box",
        "samples",
        "epochs",
        "batch_size",
        "memory",
        "micro_batch_size",
        "learning_rate",
        "attack_steps",
        "warm_start",
        "reset_every",
        "test_samples",
        "curve_samples",
        "test_steps",
        "test_restarts",
        "seed",
    )
    chosen: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}
    for name, value in PAPER.items() if PRESET.value else ():
        if flags.FLAGS[name].present and chosen[name] != value:
            raise app.UsageError(f"--paper sets --{name} to {value}. Received: {chosen[name]}.")
        chosen[name] = value
    try:
        chosen["magnitudes"] = [float(magnitude) for magnitude in MAGNITUDES.value]
    except ValueError:
        raise app.UsageError(
            f"--magnitudes must be numbers. Received: {MAGNITUDES.value}."
        ) from None
    if METHOD.value in ("adversarial", "trades") and len(chosen["magnitudes"]) != 1:
        raise app.UsageError(f"--method={METHOD.value} trains for one magnitude.")
    if METHOD.value == "average" and len(chosen["magnitudes"]) < 2:
        raise app.UsageError("--method=average trains for two magnitudes at least.")
    if chosen["batch_size"] > chosen["samples"]:
        raise app.UsageError("--batch_size must be at most --samples, or 0 for all of them.")
    if chosen["memory"] and not METHOD.value.startswith("ol"):
        raise app.UsageError(f"--memory is for ranked methods. Received: --method={METHOD.value}.")
    chosen["curve_samples"] = min(chosen["curve_samples"], chosen["test_samples"])
    return chosen


def make_model(chosen: dict[str, Any], bounds: tuple[float, float] | None) -> keras.Model:
    """The method's model, compiled."""
    attack = lr.attacks.PGD(norm=chosen["norm"], steps=chosen["attack_steps"], bounds=bounds)
    in_memory, batch = chosen["micro_batch_size"], chosen["batch_size"] or chosen["samples"]
    options: dict[str, Any] = {"micro_batch_size": in_memory if in_memory < batch else None}
    if chosen["memory"]:
        options["memory"] = lr.RunningMean()
    if chosen["method"] != "standard" and chosen["warm_start"] != "none":
        # A free step is too little to catch up from a random start before the next one.
        options["warm_start"] = (
            lr.WarmStart(free=True)
            if chosen["warm_start"] == "free"
            else lr.WarmStart(reset_every=chosen["reset_every"] or None)
        )
    model = METHODS[chosen["method"]](network(), attack, chosen["magnitudes"], **options)
    model.compile(optimizer=keras.optimizers.Adam(chosen["learning_rate"]), metrics=["accuracy"])
    return model


def train(
    model: keras.Model, x: np.ndarray, y: np.ndarray, chosen: dict[str, Any], out: pathlib.Path
) -> None:
    """Trains from the last backup on; a line an epoch goes to training.csv."""
    backup = out / "backup"
    if not backup.exists():
        (out / "training.csv").unlink(missing_ok=True)
    model.fit(
        x,
        y,
        batch_size=chosen["batch_size"] or len(x),
        epochs=chosen["epochs"],
        # A full batch in one order goes on to the last bit after a stop.
        shuffle=0 < chosen["batch_size"] < len(x),
        verbose=0,
        callbacks=[
            lr.callbacks.Backup(backup, BACKUP_EVERY.value, delete=False),
            common.Seconds(),
            keras.callbacks.CSVLogger(out / "training.csv", append=True),
            tqdm.keras.TqdmCallback(verbose=0, desc=METHOD.value, mininterval=1),
        ],
    )


def measure(
    classifier: keras.Model, chosen: dict[str, Any], bounds: tuple[float, float] | None
) -> dict[str, Any]:
    """Natural accuracy on all test images, and what one strong attack leaves of a subset."""
    x, y = lr.datasets.mnist("test", DATA_DIR.value)
    logits = classifier.predict(x, batch_size=500, verbose=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    x_attacked, y_attacked = lr.datasets.subset(x, y, chosen["test_samples"], seed=chosen["seed"])
    attack = {
        "norm": chosen["norm"],
        "steps": chosen["test_steps"],
        "restarts": chosen["test_restarts"],
        "bounds": bounds,
        "seed": chosen["seed"],
    }
    measured = lr.evaluate_robustness(
        classifier, x_attacked, y_attacked, lr.attacks.PGD(**attack), chosen["magnitudes"]
    )
    names = [f"{magnitude:g}" for magnitude in chosen["magnitudes"]]
    result: dict[str, Any] = {
        "natural_accuracy": float(np.mean(np.argmax(logits, axis=-1) == y)),
        "natural_loss": float(loss(y, logits)),
        "accuracy": dict(zip(names, measured.accuracy.tolist(), strict=True)),
        "loss": dict(zip(names, measured.losses.mean(axis=1).tolist(), strict=True)),
        "feasible": dict(zip(names, measured.feasible.mean(axis=1).tolist(), strict=True)),
        "outcomes": dict(zip(names, map(common.bits, measured.correct), strict=True)),
        "flags": [dataclasses.asdict(flag) for flag in measured.flags],
        "curves": {},
    }
    count = chosen["curve_samples"]
    for constraint in ("exact", "maximum") if count else ():
        # Only success is asked here, and the classifiers differ most where attacks fail.
        curve = lr.evaluate_robustness(
            classifier,
            x_attacked[:count],
            y_attacked[:count],
            lr.attacks.PGD(**attack, constraint=constraint, early_stop=True),
            [0.0, *CURVES[chosen["norm"]]],
            checks=False,
        )
        result["curves"][constraint] = {
            "magnitudes": curve.magnitudes.tolist(),
            "accuracy": curve.accuracy.tolist(),
            "outcomes": list(map(common.bits, curve.correct)),
        }
    return result


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    chosen = settings()
    out = pathlib.Path(OUT.value)
    common.begin(out, chosen)
    bounds = (0.0, 1.0) if chosen["box"] else None
    keras.utils.set_random_seed(chosen["seed"])
    try:
        images, labels = lr.datasets.mnist("train", DATA_DIR.value)
    except OSError as error:
        raise SystemExit(f"{error} (--data_dir)") from None
    x, y = lr.datasets.subset(images, labels, chosen["samples"], seed=chosen["seed"])

    model = make_model(chosen, bounds)
    train(model, x, y, chosen, out)
    history = common.read_history(out / "training.csv")
    seconds = sum(history.pop("seconds"))
    model.save(out / "model.keras")
    model.export(out / "serving" / "1", verbose=False)
    plotting.training_curves({METHOD.value: history}).savefig(out / "training.png", dpi=150)
    result = {
        **chosen,
        **measure(model.classifier, chosen, bounds),
        "boundaries": None,  # Places on a line: the toy problem's alone.
        "seconds": seconds,
        **common.surroundings(),
    }
    common.write_results([result], out)
    shutil.rmtree(out / "backup")  # Kept until now, so that a stop while measuring loses nothing.
    common.show_table(
        f"MNIST, test data; {chosen['test_steps']} steps from {chosen['test_restarts']} starts",
        [
            {
                "method": METHOD.value,
                "natural accuracy": f"{result['natural_accuracy']:.4f}",
                **{f"at {NORM.value} {d}": f"{a:.4f}" for d, a in result["accuracy"].items()},
                "seconds": f"{seconds:.0f}",
            }
        ],
    )
    for flag in result["flags"]:
        print(f"Do not trust these yet: {flag['name']}. {flag['message']} {flag['advice']}")
    print(f"Results, model.keras, the SavedModel serving/1 and training.png are in {out}.")


if __name__ == "__main__":
    app.run(main)
