"""What random augmentation inside a classifier costs in robustness, and what the log says of it.

    python benchmarks/augmentation.py

6000 images of Fashion-MNIST, 0 to 255, l2 1.5 (times 255), as a new user would train: 12 epochs in
batches of 128, Adam annealed from 0.002 to 0, three steps of each attack from where it left the
sample, which begins at random every tenth time; or, "random starts", always. A run that was
finished is not made again.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import functools
import itertools
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import shared
import tqdm.keras
from absl import app, flags

import lexirobust as lr

SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of weights, order and perturbations.")
EPOCHS = flags.DEFINE_integer("epochs", 12, "Epochs.", 1)
CHOSEN = flags.DEFINE_list("methods", [], "Methods; by default, all of them.")
CHOSEN_WAYS = flags.DEFINE_list("ways", [], "Ways of augmenting; by default, all of them.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps Fashion-MNIST.")
PAGE = flags.DEFINE_string("page", None, "Page to write the table to, where it has it.")
OUT = flags.DEFINE_string("out", "docs/results/augmentation.json", "Where runs are kept.")

MAGNITUDE = 1.5 * 255
SAMPLES, BATCH, RATE = 6000, 128, 0.002
TESTED = 500
BOUNDS = (0.0, 255.0)

METHODS: dict[str, Callable[..., lr.LexicographicModel]] = {
    # What augmentation costs or brings by itself.
    "natural alone": lambda c, a, **options: lr.Standard(c),
    "adversarial training": lambda c, a, **options: lr.AdversarialTraining(
        c, a, MAGNITUDE, **options
    ),
    "TRADES": lambda c, a, **options: lr.TRADES(c, a, MAGNITUDE, **options),
    "OLSRC with memory": lambda c, a, **options: lr.OLSRC(
        c, a, [MAGNITUDE], memory=lr.RunningMean(), **options
    ),
}
# How far images are shifted, as a share of their size, and turned, as a share of a whole turn.
STRENGTHS = {"weak": (0.035, 0.015), "strong": (0.07, 0.03)}
WAYS = [f"{way}{starts}" for way in ("none", *STRENGTHS) for starts in ("", ", random starts")]


def network(way: str) -> keras.Model:
    """Two convolutions with batch normalization, after random layers if asked for."""
    strength = way.partition(",")[0]
    return shared.normalized_network(*STRENGTHS.get(strength, (0.0, 0.0)))


def run(settings: dict[str, Any], data: Any) -> dict[str, Any]:
    """Trains once, and measures."""
    (x, y), (x_test, y_test) = data
    keras.utils.set_random_seed(settings["seed"])
    attack = lr.attacks.PGD(norm="l2", steps=settings["attack_steps"], bounds=BOUNDS)
    random_starts = settings["augmentation"].endswith("random starts")
    start = None if random_starts else lr.WarmStart(reset_every=10)
    model = METHODS[settings["method"]](network(settings["augmentation"]), attack, warm_start=start)
    steps = settings["epochs"] * -(-len(x) // BATCH)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(RATE, steps)))
    bar = tqdm.keras.TqdmCallback(verbose=0, desc=f"{settings['method']}, {settings['seed']}")
    log = model.fit(
        x, y, batch_size=BATCH, epochs=settings["epochs"], verbose=0, callbacks=[bar]
    ).history
    logged = [values[-1] for name, values in log.items() if name.startswith("accuracy@l2")]
    classifier = model.classifier

    def robust(x: np.ndarray, y: np.ndarray, magnitudes: list[float], steps: int) -> Any:
        attacks = [
            lr.attacks.PGD("l2", steps, constraint="maximum", loss=loss, bounds=BOUNDS, seed=0)
            for loss in ("cross_entropy", "dlr")
        ]
        return lr.evaluate_robustness(classifier, x, y, attacks, magnitudes, checks=False).accuracy

    test = robust(x_test[:TESTED], y_test[:TESTED], [MAGNITUDE / 2, MAGNITUDE], 50)
    train = robust(x[:TESTED], y[:TESTED], [MAGNITUDE], 20)
    natural = np.mean(np.argmax(classifier.predict(x_test, verbose=0), axis=1) == y_test)
    return {
        **settings,
        "natural": float(natural),
        "robust_half": float(test[0]),
        "robust": float(test[1]),
        "logged": float(np.mean(logged)) if logged else None,
        "fresh_on_training_data": float(train[0]),
        "min_cosine": log.get("min_cosine", [None])[-1],
    }


def table(runs: list[dict[str, Any]]) -> list[list[str]]:
    """In %, means over seeds."""
    columns = {
        "natural": "natural",
        "robust_half": "robust, l2 0.75",
        "robust": "robust, l2 1.5",
        "logged": "training data, logged",
        "fresh_on_training_data": "training data, fresh attack",
    }
    rows = [["method", "augmentation", "epochs", "seeds", *columns.values()]]

    def key(run: dict[str, Any]) -> Any:
        return run["method"], run["augmentation"], run["epochs"]

    for settings, group in itertools.groupby(sorted(runs, key=key), key):
        values = np.array(
            [
                [100 * (np.nan if each[name] is None else each[name]) for name in columns]
                for each in group
            ]
        )
        cells = [_cell(column) for column in values.T]
        rows.append([*map(str, settings), str(len(values)), *cells])
    return rows


def _cell(values: np.ndarray) -> str:
    """The mean, and the range where there are several seeds."""
    if np.isnan(values).any():
        return ""
    spread = f" ({values.min():.1f} to {values.max():.1f})" if len(values) > 1 else ""
    return f"{values.mean():.1f}{spread}"


@functools.cache
def load() -> list[tuple[np.ndarray, np.ndarray]]:
    """Training and test data, with pixels from 0 to 255."""
    splits = (f"train[:{SAMPLES}]", "test")
    images = [lr.datasets.fashion_mnist(split, data_dir=DATA_DIR.value) for split in splits]
    return [(255.0 * x, y) for x, y in images]


def main(argv: list[str]) -> None:
    del argv
    results = shared.Results(pathlib.Path(OUT.value))
    for seed, method, way in itertools.product(
        map(int, SEEDS.value), CHOSEN.value or METHODS, CHOSEN_WAYS.value or WAYS
    ):
        settings = {
            "method": method,
            "augmentation": way,
            "attack_steps": 3,
            "epochs": EPOCHS.value,
            "seed": seed,
        }
        if results.is_due(settings):
            results.add(run(settings, load()))
            print(results.runs[-1])
    rows = table(results.runs)
    shared.show("Robustness with augmentation", rows)
    if PAGE.value:
        shared.write_table(PAGE.value, "augmentation", rows)


if __name__ == "__main__":
    app.run(main)
