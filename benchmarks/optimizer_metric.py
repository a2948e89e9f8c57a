"""What ranking in the optimizer's own metric changes, against GEM before the optimizer.

    python benchmarks/optimizer_metric.py --part=first,optimizers,frontier
    python benchmarks/optimizer_metric.py --part=second
    python benchmarks/optimizer_metric.py --norun --part=first,second --page=docs/guarantees.md

Runs that docs/results/optimizer_metric.json holds already are not repeated; to measure anew, name
another file by --out. Each prints a table; `frontier` draws docs/figures/frontier.png as well.

Reference: section 8 of "Finding a human-like classifier", which leaves adaptive optimizers open.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import matplotlib.pyplot as plt
import numpy as np
import shared
import tensorflow as tf
import tqdm.keras
from absl import app, flags, logging

import lexirobust as lr
from lexirobust.attacks import geometry
from lexirobust.attacks.classifier import logits_of
from lexirobust.attacks.losses import classification_loss
from lexirobust.names import magnitude_name
from lexirobust.plotting.style import label_points, series_styles

PARTS = ("first", "second", "optimizers", "frontier")
PART = flags.DEFINE_list("part", ["first"], f"What to run, out of {', '.join(PARTS)}.")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of the first trial.")
EPOCHS = flags.DEFINE_integer("epochs", None, "Full-batch steps, in place of each part's own.", 1)
SAMPLES = flags.DEFINE_integer("samples", None, "Images, in place of each part's own number.", 1)
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps MNIST.")
PAGE = flags.DEFINE_string("page", None, "Page to write the tables to, where it has them.")
OUT = flags.DEFINE_string("out", "docs/results/optimizer_metric.json", "Where runs are kept.")
FIGURE = flags.DEFINE_string("figure", "docs/figures/frontier.png", "Where the frontier is drawn.")

# A first-order rise below this is the rounding of the cosine that is logged.
TOLERANCE = 1e-6
METHODS: dict[str, dict[str, Any] | None] = {
    "weighted sum": None,
    "GEM, then the optimizer": {"metric": "euclidean"},
    "ours": {"metric": "optimizer"},
    "ours, safeguarded": {"metric": "optimizer", "safeguard": True},
}
PROBLEMS: dict[str, dict[str, Any]] = {
    "first": {"samples": 500, "network": "small", "magnitude": 2.0, "epochs": 200},
    "second": {"samples": 2000, "network": "paper", "magnitude": 4.0, "epochs": 100},
    "optimizers": {"samples": 500, "network": "small", "magnitude": 4.0, "epochs": 60},
    "frontier": {"samples": 500, "network": "small", "magnitude": 4.0, "epochs": 200},
}
NETWORKS = {"small": shared.small_network, "paper": shared.paper_network}
ALPHAS = (0.1, 0.3, 0.5, 0.7, 0.9)
OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "SGD": lambda: keras.optimizers.SGD(0.05),
    "SGD, momentum 0.9": lambda: keras.optimizers.SGD(0.02, momentum=0.9),
    "SGD, Nesterov 0.9": lambda: keras.optimizers.SGD(0.02, momentum=0.9, nesterov=True),
    "Adam": lambda: keras.optimizers.Adam(1e-3),
    "Adam, AMSGrad": lambda: keras.optimizers.Adam(1e-3, amsgrad=True),
    "Adam, clipnorm 0.1": lambda: keras.optimizers.Adam(1e-3, clipnorm=0.1),
    "Adam, clipvalue 0.001": lambda: keras.optimizers.Adam(1e-3, clipvalue=0.001),
    "AdamW, decay 0.1": lambda: keras.optimizers.AdamW(1e-3, weight_decay=0.1),
    "Nadam": lambda: keras.optimizers.Nadam(1e-3),
    "Adamax": lambda: keras.optimizers.Adamax(2e-3),
    "RMSprop": lambda: keras.optimizers.RMSprop(3e-4),
    "RMSprop, momentum, centered": lambda: keras.optimizers.RMSprop(
        1e-4, momentum=0.9, centered=True
    ),
    "Adagrad": lambda: keras.optimizers.Adagrad(2e-2),
    "Adadelta": lambda: keras.optimizers.Adadelta(1.0),
    "Lion": lambda: keras.optimizers.Lion(1e-4),
    "Adafactor": lambda: keras.optimizers.Adafactor(1e-3),
    "Ftrl": lambda: keras.optimizers.Ftrl(1e-2),
    "Lamb": lambda: keras.optimizers.Lamb(1e-3),
}


class WarmStart(lr.attacks.Attack):
    """A few l2 steps from where the last epoch's ended, for one full batch in fixed order.

    `lr.WarmStart` around a PGD adapts its steps. Here each is a quarter of the magnitude: the kept
    runs were made so, and new ones have to be comparable with them.

    Args:
        x: `[N, ...]` all inputs, inside [0, 1].
        magnitude: Exact norm of the perturbations.
        steps: Gradient steps an epoch.
        seed: Seed of the first perturbations.
    """

    def __init__(self, x: tf.Tensor, magnitude: float, steps: int = 3, seed: int = 0) -> None:
        super().__init__(norm="l2", bounds=(0.0, 1.0), seed=seed)
        self.steps = steps
        magnitudes = tf.fill([len(x)], magnitude)
        drawn = geometry.random_perturbation(x, magnitudes, "l2", tf.constant([seed, 1]), True)
        self.last = tf.Variable(drawn, trainable=False)

    def perturb(
        self, classifier: Any, x: tf.Tensor, y: tf.Tensor, magnitude: Any, seed: tf.Tensor
    ) -> tf.Tensor:
        """Perturbs the batch, and keeps where it ended."""
        del seed
        box = geometry.box_around(x, self.bounds)
        length = 0.25 * tf.reshape(magnitude, [-1, 1, 1, 1])
        here = self.last.value()
        for _ in range(self.steps):
            moved = x + here
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(moved)
                losses = classification_loss(logits_of(classifier, moved), y)
            direction = geometry.steepest_direction(tape.gradient(losses, moved), "l2")
            here, _ = geometry.project_sphere(here + length * direction, magnitude, "l2", box)
        self.last.assign(here)
        return tf.stop_gradient(tf.clip_by_value(x + here, 0.0, 1.0))


def train(settings: dict[str, Any]) -> dict[str, Any]:
    """Trains once, and returns the settings with what was measured."""
    keras.utils.set_random_seed(settings["seed"])
    images, labels = lr.datasets.mnist("train", DATA_DIR.value)
    x, y = lr.datasets.subset(images, labels, settings["samples"], seed=settings["seed"])
    attack = WarmStart(x, settings["magnitude"], seed=settings["seed"])
    classifier, alpha = NETWORKS[settings["network"]](), settings["alpha"]
    options = METHODS[settings["method"]]
    model: lr.LexicographicModel
    if options is None:
        model = lr.AdversarialTraining(classifier, attack, settings["magnitude"], alpha)
    else:
        alphas = [alpha, 1 - alpha]
        model = lr.OLSRC(classifier, attack, [settings["magnitude"]], alphas, **options)
    model.compile(optimizer=OPTIMIZERS[settings["optimizer"]]())
    start = time.perf_counter()
    history = model.fit(
        x,
        y,
        batch_size=len(x),
        epochs=settings["epochs"],
        shuffle=False,
        verbose=0,
        callbacks=[tqdm.keras.TqdmCallback(verbose=0, desc=f"{settings['method']}, a={alpha}")],
    ).history
    natural = np.array(history["loss@natural"])
    cosines = np.array(history.get("step_cosine@natural", []))
    return {
        **settings,
        "natural_loss": natural[-1],
        "adversarial_loss": history[f"loss@{magnitude_name('l2', settings['magnitude'])}"][-1],
        "rises_to_first_order": int(np.sum(cosines < -TOLERANCE)) if len(cosines) else None,
        "rises_in_fact": int(np.sum(np.diff(natural) > 0)),
        "seconds": time.perf_counter() - start,
    }


def runs_of(part: str) -> list[dict[str, Any]]:
    """The settings of all runs of one part."""
    problem = dict(PROBLEMS[part])
    problem["epochs"] = EPOCHS.value or problem["epochs"]
    problem["samples"] = SAMPLES.value or problem["samples"]
    seeds = [int(seed) for seed in SEEDS.value] if part == "first" else [0]
    optimizers = list(OPTIMIZERS) if part == "optimizers" else ["Adam"]
    alphas = ALPHAS if part == "frontier" else (0.5,)
    compared = ("GEM, then the optimizer", "ours")
    methods = [m for m in METHODS if part != "optimizers" or m in compared]
    return [
        {**problem, "method": method, "optimizer": optimizer, "alpha": alpha, "seed": seed}
        for seed in seeds
        for optimizer in optimizers
        for alpha in alphas
        for method in methods
    ]


def table(part: str, runs: Sequence[dict[str, Any]]) -> list[list[str]]:
    """One row a run."""
    varying = {"frontier": "alpha", "optimizers": "optimizer"}.get(part, "seed")
    head = [varying, "method", "natural loss", "adversarial loss"]
    rows = [[*head, "rises, first order", "rises, in fact"]]
    for run in runs:
        first_order = run["rises_to_first_order"]
        rows.append(
            [
                str(run[varying]),
                run["method"],
                f"{run['natural_loss']:.4f}",
                f"{run['adversarial_loss']:.3f}",
                "" if first_order is None else str(first_order),
                str(run["rises_in_fact"]),
            ]
        )
    return rows


def draw_frontier(runs: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Natural against adversarial training loss, one line a method, one point an alpha."""
    figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    labels: list[tuple[str, float, float, str]] = []
    names = {method.replace("ours", "OLSRC"): method for method in METHODS}
    for name, style in series_styles(names).items():
        points = [run for run in runs if run["method"] == names[name]]
        natural = [run["natural_loss"] for run in points]
        adversarial = [run["adversarial_loss"] for run in points]
        axes.plot(natural, adversarial, label=name, markersize=5, linewidth=0.8, **style)
        texts = [f"{run['alpha']:g}" for run in points]
        colors = [style["color"]] * len(points)
        labels += zip(texts, natural, adversarial, colors, strict=True)
    axes.set_xscale("log")
    axes.margins(x=0.08)
    axes.set_xlabel("natural training loss")
    axes.set_ylabel("adversarial training loss, l2 4")
    axes.legend(frameon=False, title="numbers: α₁, the weight of rank 1", title_fontsize=8)
    label_points(figure, axes, labels)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    unknown = set(PART.value) - set(PARTS)
    if unknown:
        raise app.UsageError(f"--part must be out of {PARTS}. Received: {sorted(unknown)}.")
    results = shared.Results(pathlib.Path(OUT.value))
    for part in PART.value:
        wanted = runs_of(part)
        for settings in filter(results.is_due, wanted):
            results.add(train(settings))
        runs = [run for run in map(results.get, wanted) if run is not None]
        rows = table(part, runs)
        shared.show(f"{part}: {PROBLEMS[part]}", rows)
        if PAGE.value:
            shared.write_table(PAGE.value, f"{part} trial", rows)
        if part == "frontier":
            draw_frontier(runs, pathlib.Path(FIGURE.value))


if __name__ == "__main__":
    app.run(main)
