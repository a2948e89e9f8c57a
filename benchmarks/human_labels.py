"""Do robust classifiers change their mind where humans do?

    python benchmarks/human_labels.py --images=invariance

`--images` is a folder with the images and labels of Tramèr et al. (arXiv 2002.04599): MNIST digits,
perturbed until humans saw another class, or tried to. The paper expects that adversarial training
at linf 0.3 and 0.4 agrees with humans less than plain training, and OLGRC more. Training runs of
some minutes each; a run that was finished is not made again. With --figure and --page the results
are drawn, and written to a page.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import matplotlib.pyplot as plt
import numpy as np
import shared
import tqdm.keras
from absl import app, flags, logging
from scipy import stats

import lexirobust as lr
from lexirobust.plotting.style import BLUE, RED

IMAGES = flags.DEFINE_string("images", "invariance", "Folder of images with human labels.")
CHOSEN_WAYS = flags.DEFINE_list("ways", [], "Ways of training; by default, all.")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of weights, order and perturbations.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps MNIST.")
PAGE = flags.DEFINE_string("page", None, "Page to write the table to, where it has it.")
FIGURE = flags.DEFINE_string("figure", None, "Where agreement is drawn.")
EXAMPLES = flags.DEFINE_string("examples", None, "Where images are drawn on which ways differ.")
OUT = flags.DEFINE_string("out", "docs/results/human_labels.json", "Where runs are kept.")

SAMPLES, BATCH, EPOCHS, RATE = 12_000, 256, 15, 0.002
# Files of the folder: images, labels, and which test images they were made of.
SETS = {
    "linf 0.3": ("linf/automated_eps03", "indexs"),
    "linf 0.4": ("linf/automated_eps04", "indexs"),
    "l0": ("l0/automated", "indexs"),
    "linf 0.4, by hand": ("linf/manual_eps04", "linf/manual_indexs"),
}

Make = Callable[[keras.Model], lr.LexicographicModel]


@dataclasses.dataclass(frozen=True)
class Labeled:
    """Images that humans looked at.

    Attributes:
        sets: `[N]` names out of `SETS`.
        x: `[N, 28, 28, 1]` images from 0 to 1.
        humans: `[N]` classes that humans saw.
        originals: `[N]` classes of the images that they were made of.
    """

    sets: np.ndarray
    x: np.ndarray
    humans: np.ndarray
    originals: np.ndarray

    @property
    def changed(self) -> np.ndarray:
        """`[N]` whether humans saw another class than before."""
        return self.humans != self.originals


def load(folder: pathlib.Path, test_labels: np.ndarray) -> Labeled:
    """Reads all images with human labels.

    Args:
        folder: Where they lie.
        test_labels: Labels of MNIST's test set.
    """
    parts = []
    for name, (images, indices) in SETS.items():
        x = np.load(folder / f"{images}.npy").astype(np.float32)[..., None] / 255
        humans = np.load(folder / f"{images}_labels.npy")
        originals = test_labels[np.load(folder / f"{indices}.npy")]
        parts.append((np.full(len(x), name), x, humans, originals))
    return Labeled(*map(np.concatenate, zip(*parts, strict=True)))


def pgd(norm: str) -> lr.attacks.PGD:
    return lr.attacks.PGD(norm=norm, steps=3, bounds=(0.0, 1.0))


def adversarial(norm: str, magnitude: float) -> Make:
    return lambda c: lr.AdversarialTraining(c, pgd(norm), magnitude, warm_start=lr.WarmStart())


def trades(norm: str, magnitude: float) -> Make:
    return lambda c: lr.TRADES(c, pgd(norm), magnitude, beta=6.0, warm_start=lr.WarmStart())


def ranked(norm: str, *magnitudes: float) -> Make:
    return lambda c: lr.OLSRC(
        c, pgd(norm), magnitudes, warm_start=lr.WarmStart(), memory=lr.RunningMean()
    )


def genuine(norm: str, *magnitudes: float) -> Make:
    return lambda c: lr.OLGRC(
        c,
        pgd(norm),
        magnitudes,
        explored="nearest",
        warm_start=lr.WarmStart(),
        memory=lr.RunningMean(),
    )


NEIGHBOR = "1-nearest neighbor"
WAYS: dict[str, Make] = {
    "plain": lr.Standard,
    "adversarial training at linf 0.3": adversarial("linf", 0.3),
    "adversarial training at linf 0.4": adversarial("linf", 0.4),
    "TRADES 6 at linf 0.3": trades("linf", 0.3),
    "OLSRC at linf 0.3": ranked("linf", 0.3),
    "OLSRC at linf 0.4": ranked("linf", 0.4),
    "adversarial training at l2 2": adversarial("l2", 2.0),
    "OLSRC at l2 2": ranked("l2", 2.0),
    "OLSRC at l2 2 and 4": ranked("l2", 2.0, 4.0),
    "OLGRC at l2 2 and 4": genuine("l2", 2.0, 4.0),
}


def trained(settings: dict[str, Any], x: np.ndarray, y: np.ndarray) -> keras.Model:
    """Trains a classifier of the small network."""
    keras.utils.set_random_seed(settings["seed"])
    model = WAYS[settings["way"]](shared.small_network())
    steps = EPOCHS * -(-len(x) // BATCH)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(RATE, steps)))
    bar = tqdm.keras.TqdmCallback(verbose=0, desc=f"{settings['way']}, seed {settings['seed']}")
    model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=[bar])
    return model.classifier


def nearest(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Says what the nearest training sample is, in l2."""
    points = x.reshape(len(x), -1)
    squares = np.square(points).sum(axis=1)

    def classes(inputs: np.ndarray) -> np.ndarray:
        products = inputs.reshape(len(inputs), -1) @ points.T
        return y[np.argmin(squares - 2 * products, axis=1)]

    return classes


def run(
    settings: dict[str, Any],
    training: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    labeled: Labeled,
) -> dict[str, Any]:
    """Trains a classifier, and asks it for the classes of all images with human labels."""
    if settings["way"] == NEIGHBOR:
        classes = nearest(*training)
    else:
        classifier = trained(settings, *training)

        def classes(inputs: np.ndarray) -> np.ndarray:
            return classifier.predict(inputs, batch_size=1000, verbose=0).argmax(axis=1)

    return {
        **settings,
        "natural": float((classes(test[0]) == test[1]).mean()),
        "classes": classes(labeled.x).tolist(),
    }


def agreement(runs: Sequence[dict[str, Any]], humans: np.ndarray) -> np.ndarray:
    """`[N]` share of seeds that say what humans say, of each image."""
    return np.mean([np.array(each["classes"]) == humans for each in runs], axis=0)


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of a mean over images, by the bootstrap."""
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    found = stats.bootstrap((values,), np.mean, rng=np.random.default_rng(0)).confidence_interval
    return float(found.low), float(found.high)


def by_way(runs: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The runs, by ways in their order."""
    groups = {way: [r for r in runs if r["way"] == way] for way in [*WAYS, NEIGHBOR]}
    return {way: group for way, group in groups.items() if group}


def cell(values: np.ndarray) -> str:
    """A mean in %, and its interval."""
    low, high = interval(values)
    return f"{100 * values.mean():.1f} ({100 * low:.1f} to {100 * high:.1f})"


def table(runs: Sequence[dict[str, Any]], labeled: Labeled) -> list[list[str]]:
    """One row a way: agreement in %, and its difference from plain training's, image by image."""
    groups = by_way(runs)
    plain = agreement(groups["plain"], labeled.humans)
    rows = [
        [
            "way",
            "seeds",
            "natural accuracy, %",
            "agreement with humans, %",
            "more than plain",
            "where humans changed their mind",
            "where they did not",
        ]
    ]
    for way, group in groups.items():
        own = agreement(group, labeled.humans)
        natural = f"{100 * np.mean([each['natural'] for each in group]):.1f}"
        more = "" if way == "plain" else cell(own - plain)
        split = [cell(own[labeled.changed]), cell(own[~labeled.changed])]
        rows.append([way, str(len(group)), natural, cell(own), more, *split])
    return rows


def by_set(runs: Sequence[dict[str, Any]], labeled: Labeled) -> list[list[str]]:
    """One row a way: agreement in % on each set of images."""
    rows = [["way", *(f"{name} ({(labeled.sets == name).sum()})" for name in SETS)]]
    for way, group in by_way(runs).items():
        own = agreement(group, labeled.humans)
        rows.append([way, *(cell(own[labeled.sets == name]) for name in SETS)])
    return rows


def draw(runs: Sequence[dict[str, Any]], labeled: Labeled, path: pathlib.Path) -> None:
    """Agreement by way, where humans changed their mind and where they did not."""
    groups = by_way(runs)
    figure, axes = plt.subplots(figsize=(8, 0.42 * len(groups) + 1.4), layout="constrained")
    for offset, color, marker, chosen, label in (
        (-0.14, RED, "o", labeled.changed, "humans see another class than before"),
        (0.14, BLUE, "s", ~labeled.changed, "humans see the same class"),
    ):
        for place, group in enumerate(groups.values()):
            own = 100 * agreement(group, labeled.humans)[chosen]
            low, high = interval(own)
            axes.errorbar(
                own.mean(),
                place + offset,
                xerr=[[own.mean() - low], [high - own.mean()]],
                color=color,
                marker=marker,
                label=None if place else f"{label} ({chosen.sum()} images)",
            )
    axes.set_yticks(range(len(groups)), groups)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("agreement with humans, % of images, and its 95 % interval")
    axes.set_title("Who says what humans say about perturbed MNIST digits?")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def draw_examples(runs: Sequence[dict[str, Any]], labeled: Labeled, path: pathlib.Path) -> None:
    """Images on which ways differ most: what humans see, and what each way says."""
    groups = by_way(runs)
    shares = np.array([agreement(group, labeled.humans) for group in groups.values()])
    order = np.argsort(-shares.var(axis=0), kind="stable")
    halves = [order[labeled.changed[order]][:5], order[~labeled.changed[order]][:5]]
    figure, axes = plt.subplots(2, 5, figsize=(11, 7.6), layout="constrained")
    for index, panel in zip(np.concatenate(halves), axes.ravel(), strict=True):
        panel.imshow(labeled.x[index, :, :, 0], cmap="gray_r", vmin=0, vmax=1)
        panel.set(xticks=[], yticks=[])
        panel.set_title(
            f"humans: {labeled.humans[index]}, before: {labeled.originals[index]}", fontsize=10
        )
        said = [
            f"{way}: {stats.mode([each['classes'][index] for each in group]).mode}"
            for way, group in groups.items()
        ]
        panel.set_xlabel("\n".join(said), fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)
    training = lr.datasets.mnist(f"train[:{SAMPLES}]", data_dir=DATA_DIR.value)
    test = lr.datasets.mnist("test", data_dir=DATA_DIR.value)
    labeled = load(pathlib.Path(IMAGES.value), test[1])
    results = shared.Results(pathlib.Path(OUT.value))
    chosen = CHOSEN_WAYS.value or [*WAYS, NEIGHBOR]
    if unknown := set(chosen) - {*WAYS, NEIGHBOR}:
        raise app.UsageError(f"No ways: {sorted(unknown)}. There are {[*WAYS, NEIGHBOR]}.")
    for seed, way in itertools.product(map(int, SEEDS.value), chosen):
        settings = {"way": way, "seed": 0 if way == NEIGHBOR else seed}
        if results.get(settings) is None:
            results.add(run(settings, training, test, labeled))
    if not any(each["way"] == "plain" for each in results.runs):
        return  # There is nothing to compare with yet.
    for name, rows in (
        ("human labels", table(results.runs, labeled)),
        ("human labels, by set", by_set(results.runs, labeled)),
    ):
        shared.show(name, rows)
        if PAGE.value:
            shared.write_table(PAGE.value, name, rows)
    if FIGURE.value:
        draw(results.runs, labeled, pathlib.Path(FIGURE.value))
    if EXAMPLES.value:
        draw_examples(results.runs, labeled, pathlib.Path(EXAMPLES.value))


if __name__ == "__main__":
    app.run(main)
