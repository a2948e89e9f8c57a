"""Are the accuracies of the paper's table reached, with a fraction of its 84,000 passes?

    python benchmarks/paper_table.py

Its network on 2,000 images of MNIST, trained for l2 4 in mini-batches. Clean accuracy is of all
10,000 test images, robust accuracy of 500. The paper does not say how long its 40 attack steps are,
and how long decides how much is left: several lengths are measured, and the one that is compared
with the paper leaves of plain training what the paper's attack left of it. A training takes ten
minutes on one core; one that was made is not made again, one that was stopped goes on.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import itertools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import matplotlib.pyplot as plt
import numpy as np
import paper
import shared
import tqdm.keras
from absl import app, flags, logging

import lexirobust as lr
from lexirobust.plotting.style import series_styles

MAGNITUDE, SAMPLES, TESTED = 4.0, 2_000, 500
BATCH, RATE, STEPS = 200, 1e-3, 7
BOX = (0.0, 1.0)
# What is measured besides the sizes of steps.
ADAPTIVE, STRONG, ADAPTIVE_IN_BOX, STRONG_IN_BOX = (
    "adaptive steps",
    "margin, 5 starts",
    "adaptive steps, in the box",
    "margin, 5 starts, in the box",
)

CHOSEN_WAYS = flags.DEFINE_list("ways", [], "Ways of training, besides plain; by default, all.")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of images, weights and perturbations.")
EPOCHS = flags.DEFINE_integer("epochs", 30, "How often all images are seen.", lower_bound=1)
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps MNIST.")
WEIGHTS = flags.DEFINE_string("weights", "results/paper_table", "Where trained weights are kept.")
PAGE = flags.DEFINE_string("page", None, "Page to write the table to, where it has it.")
FIGURE = flags.DEFINE_string("figure", None, "Where accuracy over the size of steps is drawn.")
OUT = flags.DEFINE_string("out", "docs/results/paper_table.json", "Where runs are kept.")

STANDARD, ADVERSARIAL, RANKED, NEVER_ANEW = (
    "standard",
    "adversarial training",
    "OLSRC at natural loss 0.06",
    "OLSRC whose attacks never start anew",
)


def pgd(**settings: Any) -> lr.attacks.PGD:
    """An attack of 40 steps that leaves pixels anywhere, but for these settings."""
    return lr.attacks.PGD(**{"norm": "l2", "steps": 40, "bounds": None, "seed": 0, **settings})


def shifts() -> keras.Layer:
    """Random shifts by up to a tenth of the size: 2.8 pixels."""
    return keras.layers.RandomTranslation(0.1, 0.1, fill_mode="constant", seed=1)


def adversarial(classifier: keras.Model) -> lr.AdversarialTraining:
    """Natural and robust losses are one sum."""
    return lr.AdversarialTraining(
        classifier,
        pgd(steps=STEPS),
        MAGNITUDE,
        augmentation=shifts(),
        warm_start=lr.WarmStart(reset_every=10),
    )


def ranked(reset_every: int | None) -> Callable[[keras.Model], lr.OLSRC]:
    """Ranks compared by running means; the robust one has what is left once the first is met."""
    return lambda classifier: lr.OLSRC(
        classifier,
        pgd(steps=STEPS),
        [MAGNITUDE],
        targets=[lr.Target(loss=0.06)],
        augmentation=shifts(),
        warm_start=lr.WarmStart(reset_every=reset_every),
        memory=lr.RunningMean(),
    )


WAYS: dict[str, Callable[[keras.Model], Any]] = {
    STANDARD: lr.Standard,
    ADVERSARIAL: adversarial,
    RANKED: ranked(reset_every=10),
    NEVER_ANEW: ranked(reset_every=None),
}


def trained(way: str, seed: int, epochs: int, data_dir: str | None) -> keras.Model:
    """The classifier of a way and a seed: trained, or as it was kept."""
    x, y = lr.datasets.mnist("train", data_dir=data_dir)
    chosen = np.random.default_rng(seed).choice(len(x), SAMPLES, replace=False)
    keras.utils.set_random_seed(seed)
    classifier = shared.paper_network()
    model = WAYS[way](classifier)
    rates = keras.optimizers.schedules.CosineDecay(RATE, epochs * SAMPLES // BATCH)
    model.compile(keras.optimizers.Adam(rates))
    folder = pathlib.Path(WEIGHTS.value, f"{epochs} epochs, batch {BATCH}, rate {RATE}")

    def fit() -> None:
        bar = tqdm.keras.TqdmCallback(verbose=0, desc=f"{way}, seed {seed}")
        backup = lr.callbacks.Backup(folder / f"{way}, {seed}", every=5)
        model.fit(
            x[chosen],
            y[chosen],
            batch_size=BATCH,
            epochs=epochs,
            verbose=0,
            callbacks=[bar, backup],
        )

    return shared.train_once(classifier, folder / f"{way}, {seed}.weights.h5", fit)


def right_under_attack(classifier: keras.Model, x: np.ndarray, y: np.ndarray) -> dict[str, int]:
    """How many images are classified rightly under each attack.

    Args:
        classifier: Maps inputs to logits.
        x: `[N, 28, 28, 1]` images from 0 to 1.
        y: `[N]` labels.
    """

    def left(attack: lr.attacks.PGD, among: np.ndarray) -> np.ndarray:
        if not len(among):
            return among
        curve = lr.evaluate_robustness(
            classifier, x[among], y[among], attack, [MAGNITUDE], checks=False
        )
        return among[curve.correct[0]]

    everything = np.arange(len(x))
    right = {f"{size:g}": len(left(pgd(step_size=size), everything)) for size in paper.STEP_SIZES}
    for adaptive, strong, bounds in (
        (ADAPTIVE, STRONG, None),
        (ADAPTIVE_IN_BOX, STRONG_IN_BOX, BOX),
    ):
        resist = left(pgd(bounds=bounds), everything)
        right[adaptive] = len(resist)
        # What the first attack breaks needs no other.
        hard = pgd(steps=100, restarts=5, loss="margin", bounds=bounds)
        right[strong] = len(left(hard, resist))
    return right


def run(settings: dict[str, Any], data_dir: str | None) -> dict[str, Any]:
    """Trains a classifier and attacks it.

    Args:
        settings: The way, the seed and the epochs.
        data_dir: Where TensorFlow Datasets keeps MNIST.
    """
    classifier = trained(**settings, data_dir=data_dir)
    x, y = lr.datasets.mnist("test", data_dir=data_dir)
    natural = lr.evaluate_robustness(classifier, x, y, pgd(), [0.0], checks=False)
    return {
        **settings,
        "natural": float(natural.accuracy[0]),
        "tested": TESTED,
        "right": right_under_attack(classifier, x[:TESTED], y[:TESTED]),
        **shared.versions(),
    }


Runs = Sequence[dict[str, Any]]


def by_way(runs: Runs) -> dict[str, list[dict[str, Any]]]:
    """The runs of each way, in the order of `WAYS`."""
    groups = {way: [run for run in runs if run["way"] == way] for way in WAYS}
    return {way: own for way, own in groups.items() if own}


def table(runs: Runs) -> list[list[str]]:
    """One row a way: means over seeds and their 95 % intervals, beside the paper's."""
    likely = {r["seed"]: paper.likely_attack(r) for r in runs if r["way"] == STANDARD}
    others = (ADAPTIVE, ADAPTIVE_IN_BOX, STRONG, STRONG_IN_BOX)
    rows = [["way", "seeds", "passes", "natural", "an attack as weak as the paper's", *others]]
    for way, shares in paper.TABLE.items():
        percent = [f"{100 * share:.2f}" for share in shares]
        rows.append([f"{way}, in the paper", "", "", *percent, *[""] * len(others)])
    for way, own in by_way(runs).items():
        natural = [run["natural"] for run in own]
        weak = [paper.left_by(likely[run["seed"]], run) for run in own]
        cells = [natural, weak]
        cells += [[paper.left_by(attack, run) for run in own] for attack in others]
        passes = own[0]["epochs"] * (1 if way == STANDARD else STEPS + 2)
        means = [str(shared.Mean.of([100 * value for value in cell])) for cell in cells]
        rows.append([way, str(len(own)), str(passes), *means])
    return rows


def draw(runs: Runs, path: pathlib.Path) -> None:
    """Accuracy by the size of the attack's steps, means over seeds and their range."""
    attacks = [*(f"{size:g}" for size in paper.STEP_SIZES), ADAPTIVE, STRONG]
    figure, axes = plt.subplots(figsize=(7.5, 4), layout="constrained")
    groups = by_way(runs)
    for (way, own), style in zip(groups.items(), series_styles(groups).values(), strict=True):
        shares = 100 * np.array([[paper.left_by(attack, run) for attack in attacks] for run in own])
        axes.plot(attacks, shares.mean(axis=0), label=way, **style)
        axes.fill_between(
            attacks, shares.min(axis=0), shares.max(axis=0), color=style["color"], alpha=0.15
        )
    for way, right in ((STANDARD, len(attacks) - 2.3), ("OLGRC", len(attacks) - 0.65)):
        share = 100 * paper.TABLE[way].robust
        axes.axhline(share, color="gray", linewidth=1, linestyle=":")
        text = f"the paper's {way}"
        axes.text(right, share, text, ha="right", va="bottom", color="dimgray", size=9)
    axes.set_xticks(range(len(attacks)), [*attacks[:-2], "adaptive", "margin,\n5 starts"])
    axes.set_xlabel("size of the 40 attack steps")
    axes.set_ylabel("accuracy at l2 4, %")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.ERROR)
    # The paper's attack is known by what it leaves of plain training.
    chosen = [*dict.fromkeys([STANDARD, *(CHOSEN_WAYS.value or WAYS)])]
    if unknown := set(chosen) - {*WAYS}:
        raise app.UsageError(f"No ways: {sorted(unknown)}. There are {[*WAYS]}.")
    results = shared.Results(pathlib.Path(OUT.value))
    for seed, way in itertools.product(map(int, SEEDS.value), chosen):
        settings = {"way": way, "seed": seed, "epochs": EPOCHS.value}
        if results.is_due(settings):
            results.add(run(settings, DATA_DIR.value))
    runs = [run for run in results.runs if run["epochs"] == EPOCHS.value]
    rows = table(runs)
    shared.show("The paper's table, accuracies in %", rows)
    if PAGE.value:
        shared.write_table(PAGE.value, "paper's table", rows)
    if FIGURE.value:
        draw(runs, pathlib.Path(FIGURE.value))


if __name__ == "__main__":
    app.run(main)
