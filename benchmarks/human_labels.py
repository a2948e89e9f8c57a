"""Do robust classifiers change their mind where humans do?

    python benchmarks/human_labels.py --images=invariance_examples

`--images` is the folder `invariance_examples` of github.com/ftramer/Excessive-Invariance: digits of
MNIST, perturbed until humans saw another class, or tried to (Tramèr et al., arXiv 2002.04599). By
the paper that OLGRC is from, adversarial training at linf 0.3 and 0.4 should agree with humans less
than plain training does, and OLGRC more. Training runs take some minutes each; one that was
finished is not made again. With --figure and --page the results are drawn, and written to a page.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import dataclasses
import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import matplotlib.pyplot as plt
import numpy as np
import shared
from absl import app, flags, logging
from mnist_ways import WAYS, NearestNeighbor, classes_of, trained, training_data
from scipy import stats

import lexirobust as lr
from lexirobust.plotting.style import BLUE, RED

IMAGES = flags.DEFINE_string("images", "invariance_examples", "Folder of images and labels.")
CHOSEN_WAYS = flags.DEFINE_list("ways", [], "Ways of training; by default, all.")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of weights, order and perturbations.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps MNIST.")
PAGE = flags.DEFINE_string("page", None, "Page to write the table to, where it has it.")
FIGURE = flags.DEFINE_string("figure", None, "Where agreement is drawn.")
EXAMPLES = flags.DEFINE_string("examples", None, "Where images are drawn on which ways differ.")
OUT = flags.DEFINE_string("out", "docs/results/human_labels.json", "Where runs are kept.")

# Files of the folder, and the largest change of a pixel; `None`: few were changed, by any amount.
SETS = {
    "linf 0.3": ("linf/automated_eps03", 0.3),
    "linf 0.4": ("linf/automated_eps04", 0.4),
    "l0": ("l0/automated", None),
    "linf 0.4, by hand": ("linf/manual_eps04", 0.4),
}
# What classifiers are attacked at, on so many test images.
ROBUST = {"linf": 0.3, "l2": 2.0}
ATTACKED = 100


HUMANS = {"way": "humans"}  # What the results call the labels themselves.


@dataclasses.dataclass(frozen=True)
class Labels:
    """What humans saw.

    Attributes:
        sets: `[N]` names out of `SETS`.
        humans: `[N]` classes that humans saw.
        originals: `[N]` classes of the test images that theirs were made of.
        sources: `[N]` numbers of these test images: several may be made of one.
    """

    sets: np.ndarray
    humans: np.ndarray
    originals: np.ndarray
    sources: np.ndarray

    @property
    def changed(self) -> np.ndarray:
        """`[N]` whether humans saw another class than before."""
        return self.humans != self.originals

    def as_json(self) -> dict[str, list[Any]]:
        """Lists by names."""
        return {
            field.name: getattr(self, field.name).tolist() for field in dataclasses.fields(self)
        }

    @classmethod
    def of_json(cls, lists: dict[str, Any]) -> "Labels":
        """What `as_json` gave, and maybe more."""
        return cls(**{field.name: np.array(lists[field.name]) for field in dataclasses.fields(cls)})


def sources(x: np.ndarray, largest: float | None, test: np.ndarray) -> np.ndarray:
    """Looks up the test images that perturbed ones were made of.

    The folder's own indices are of the order in which MNIST was published, which is not that of
    TensorFlow Datasets.

    Args:
        x: `[N, 28, 28, 1]` perturbed images.
        largest: Largest change of a pixel, or `None` if few pixels were changed.
        test: `[M, 28, 28, 1]` test images.

    Returns:
        `[N]` their indices.

    Raises:
        ValueError: If an image within that change of one of them is within it of another, too.
    """
    byte = 1.5 / 255  # Values were rounded to bytes.
    if largest is None:
        pixels = [(np.abs(test - image) > byte).sum(axis=(1, 2, 3)) for image in x]
        return np.argmin(pixels, axis=1)
    changes = np.stack([np.abs(test - image).max(axis=(1, 2, 3)) for image in x])
    near = changes <= largest + byte
    if (near.sum(axis=1) != 1).any():
        raise ValueError(f"Within {largest} of each image there must be one test image.")
    return near.argmax(axis=1)


def load_images(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """`[n, 28, 28, 1]` images from 0 to 1 of each of `SETS`."""
    return {
        name: np.load(folder / f"{file}.npy").astype(np.float32)[..., None] / 255
        for name, (file, _) in SETS.items()
    }


def load_labels(folder: pathlib.Path, test: tuple[np.ndarray, np.ndarray]) -> Labels:
    """What humans saw in these images, in their order.

    Args:
        folder: Where they lie.
        test: MNIST's test images and their labels.

    Returns:
        The labels, and what the images were made of.
    """
    parts = []
    for name, images in load_images(folder).items():
        file, largest = SETS[name]
        humans = np.load(folder / f"{file}_labels.npy")
        made_of = sources(images, largest, test[0])
        parts.append((np.full(len(humans), name), humans, test[1][made_of], made_of))
    return Labels(*map(np.concatenate, zip(*parts, strict=True)))


NEIGHBOR = "1-nearest neighbor"


def robust(classifier: keras.Model, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Robust accuracy on a few test images, by norm: whether training did what it is named by."""
    found = {}
    for norm, magnitude in ROBUST.items():
        attack = lr.attacks.AutoAttack(norm, seed=0, steps=50, max_queries=500)
        curve = lr.evaluate_robustness(
            classifier, x[:ATTACKED], y[:ATTACKED], attack, [magnitude], checks=False
        )
        found[norm] = float(curve.accuracy[0])
    return found


def run(
    settings: dict[str, Any],
    training: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    images: np.ndarray,
) -> dict[str, Any]:
    """Trains a classifier, and asks it for the classes of all images with human labels.

    Args:
        settings: Way and seed.
        training: What it is trained on.
        test: Where its accuracies are measured.
        images: `[N, 28, 28, 1]` with human labels.

    Returns:
        The settings and what was found.
    """
    classifier: Any
    under_attack: dict[str, float] | None = None
    if settings["way"] == NEIGHBOR:
        classifier = NearestNeighbor(*training)
    else:
        classifier = trained(**settings, x=training[0], y=training[1])
        under_attack = robust(classifier, *test)
    return {
        **settings,
        "natural": float((classes_of(classifier, test[0]) == test[1]).mean()),
        "robust": under_attack,
        "classes": classes_of(classifier, images).tolist(),
    }


def agreement(runs: Sequence[dict[str, Any]], humans: np.ndarray) -> np.ndarray:
    """`[N]` share of seeds that say what humans say, of each image."""
    return np.mean([np.array(each["classes"]) == humans for each in runs], axis=0)


def interval(values: np.ndarray, made_of: np.ndarray) -> tuple[float, float]:
    """95 % interval of a mean over images, by the bootstrap: not over seeds.

    Args:
        values: `[N]`.
        made_of: `[N]` test images that theirs were made of, which are drawn with all of theirs.
    """
    groups = np.unique(made_of, return_inverse=True)[1]
    sums, counts = np.bincount(groups, values), np.bincount(groups)
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    found = stats.bootstrap(
        (sums, counts),
        lambda sums, counts, axis: sums.sum(axis=axis) / counts.sum(axis=axis),
        paired=True,
        vectorized=True,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def by_way(runs: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The runs, by ways in their order."""
    groups = {way: [r for r in runs if r["way"] == way] for way in [*WAYS, NEIGHBOR]}
    return {way: group for way, group in groups.items() if group}


def cell(values: np.ndarray, labels: Labels, chosen: Any = slice(None)) -> str:
    """A mean over some images in %, and its interval."""
    low, high = interval(values[chosen], labels.sources[chosen])
    return f"{100 * values[chosen].mean():.1f} ({100 * low:.1f} to {100 * high:.1f})"


def more_than(
    first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]], labels: Labels
) -> np.ndarray:
    """`[N]` by how much more of the seeds say what humans say; of the seeds that both have."""
    both = {each["seed"] for each in first} & {each["seed"] for each in second}
    shares = [
        agreement([each for each in runs if each["seed"] in both], labels.humans)
        for runs in (first, second)
    ]
    return shares[0] - shares[1]


def table(runs: Sequence[dict[str, Any]], labels: Labels) -> list[list[str]]:
    """One row a way: agreement in %, and its difference from plain training's, image by image."""
    groups = by_way(runs)
    rows = [
        [
            "way",
            "seeds",
            "natural accuracy, %",
            *(f"robust accuracy, {norm} {magnitude:g}, %" for norm, magnitude in ROBUST.items()),
            "agreement with humans, %",
            "more than plain",
            "where humans changed their mind",
            "where they did not",
        ]
    ]
    for way, group in groups.items():
        own = agreement(group, labels.humans)
        natural = f"{100 * np.mean([each['natural'] for each in group]):.1f}"
        attacked = [
            ""
            if group[0]["robust"] is None
            # Whole: of a hundred images.
            else f"{100 * np.mean([each['robust'][norm] for each in group]):.0f}"
            for norm in ROBUST
        ]
        more = "" if way == "plain" else cell(more_than(group, groups["plain"], labels), labels)
        split = [cell(own, labels, chosen) for chosen in (labels.changed, ~labels.changed)]
        rows.append([way, str(len(group)), natural, *attacked, cell(own, labels), more, *split])
    return rows


def by_set(runs: Sequence[dict[str, Any]], labels: Labels) -> list[list[str]]:
    """One row a way: agreement in % on each set of images."""
    rows = [["way", *(f"{name} ({(labels.sets == name).sum()})" for name in SETS)]]
    for way, group in by_way(runs).items():
        own = agreement(group, labels.humans)
        rows.append([way, *(cell(own, labels, labels.sets == name) for name in SETS)])
    return rows


def draw(runs: Sequence[dict[str, Any]], labels: Labels, path: pathlib.Path) -> None:
    """Agreement by way, where humans changed their mind and where they did not."""
    groups = by_way(runs)
    figure, axes = plt.subplots(figsize=(8, 0.42 * len(groups) + 1.4), layout="constrained")
    for offset, color, marker, chosen, label in (
        (-0.14, RED, "o", labels.changed, "humans see another class than before"),
        (0.14, BLUE, "s", ~labels.changed, "humans see the same class"),
    ):
        for place, group in enumerate(groups.values()):
            own = 100 * agreement(group, labels.humans)[chosen]
            low, high = interval(own, labels.sources[chosen])
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


def draw_examples(
    runs: Sequence[dict[str, Any]], labels: Labels, images: np.ndarray, path: pathlib.Path
) -> None:
    """Images on which ways differ most: what humans see, and what each way says."""
    groups = by_way(runs)
    shares = np.array([agreement(group, labels.humans) for group in groups.values()])
    order = np.argsort(-shares.var(axis=0), kind="stable")
    halves = [order[labels.changed[order]][:5], order[~labels.changed[order]][:5]]
    figure, axes = plt.subplots(2, 5, figsize=(11, 8.6), layout="constrained")
    for index, panel in zip(np.concatenate(halves), axes.ravel(), strict=True):
        panel.imshow(images[index, :, :, 0], cmap="gray_r", vmin=0, vmax=1)
        panel.set(xticks=[], yticks=[])
        panel.set_title(
            f"humans: {labels.humans[index]}, before: {labels.originals[index]}", fontsize=10
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
    results = shared.Results(pathlib.Path(OUT.value))
    chosen = CHOSEN_WAYS.value or [*WAYS, NEIGHBOR]
    if unknown := set(chosen) - {*WAYS, NEIGHBOR}:
        raise app.UsageError(f"No ways: {sorted(unknown)}. There are {[*WAYS, NEIGHBOR]}.")
    settings = [
        {"way": way, "seed": seed}
        for seed, way in itertools.product(map(int, SEEDS.value), chosen)
        if way != NEIGHBOR or not seed
    ]
    due = [each for each in settings if results.is_due(each)]
    if due:
        training = training_data(DATA_DIR.value)
        test = lr.datasets.mnist("test", data_dir=DATA_DIR.value)
        folder = pathlib.Path(IMAGES.value)
        images = np.concatenate([*load_images(folder).values()])
        if results.get(HUMANS) is None:
            results.add(HUMANS | load_labels(folder, test).as_json())
        for each in due:
            results.add(run(each, training, test, images))
    known = results.get(HUMANS)
    runs = [each for each in results.runs if each is not known]
    if known is None or not any(each["way"] == "plain" for each in runs):
        return  # There is nothing to compare with yet.
    labels = Labels.of_json(known)
    for name, rows in (
        ("human labels", table(runs, labels)),
        ("human labels, by set", by_set(runs, labels)),
    ):
        shared.show(name, rows)
        if PAGE.value:
            shared.write_table(PAGE.value, name, rows)
    if FIGURE.value:
        draw(runs, labels, pathlib.Path(FIGURE.value))
    if EXAMPLES.value:
        images = np.concatenate([*load_images(pathlib.Path(IMAGES.value)).values()])
        draw_examples(runs, labels, images, pathlib.Path(EXAMPLES.value))


if __name__ == "__main__":
    app.run(main)
