"""Is OLGRC first by the measure it is made for?

    python benchmarks/genuine_accuracy.py

Genuine accuracy of classifiers of MNIST: right on all perturbed inputs of a magnitude to which no
training sample is nearer than their own. Samples are test images, and training images. The attack
keeps to these inputs, in l2; as of any attack, what it leaves is an upper estimate. Training runs
take some minutes each, and are kept; a curve that was measured is not measured again. With --figure
and --page the results are drawn, and written to a page.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import shared
import tqdm
from absl import app, flags, logging
from mnist_ways import NearestNeighbor, trained, training_data

import lexirobust as lr
from lexirobust.plotting.style import series_styles

NEIGHBOR = "1-nearest neighbor"
WAYS = (
    "plain",
    "adversarial training at l2 2",
    "TRADES 6 at l2 2",
    "OLSRC at l2 2",
    "OLSRC at l2 2 and 4",
    "OLGRC (discriminator) at l2 2 and 4",
    "OLGRC (nearest) at l2 2 and 4",
    NEIGHBOR,
)
MAGNITUDES = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
SAMPLES = ("test", "training")
# Whether perturbations have the norm, or no larger one.
KINDS = {"exactly": True, "at most": False}

CHOSEN_NORMS = flags.DEFINE_list("norms", [*KINDS], "Whose norm is exact, or at most, a magnitude.")
CHOSEN_WAYS = flags.DEFINE_list("ways", [], "Ways of training; by default, all.")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of weights, order and perturbations.")
COUNT = flags.DEFINE_integer("count", 200, "Test images, and training images.", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 20, "Steps of each of two starts.", lower_bound=1)
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps MNIST.")
PAGE = flags.DEFINE_string("page", None, "Page to write the table to, where it has it.")
FIGURE = flags.DEFINE_string("figure", None, "Where curves are drawn.")
OUT = flags.DEFINE_string("out", "docs/results/genuine_accuracy.json", "Where runs are kept.")


def measured(
    classifier: Any, data: tuple[np.ndarray, np.ndarray], explored: np.ndarray, exact: bool
) -> lr.AccuracyCurve:
    """The genuine accuracy of a classifier on samples.

    Args:
        classifier: Maps inputs to logits.
        data: The samples and their labels.
        explored: `[M, ...]` points whose cells perturbed inputs must not enter.
        exact: Whether perturbations have the norm, or no larger one.
    """
    attack = lr.attacks.PGD(
        "l2",
        steps=STEPS.value,
        restarts=2,
        constraint="exact" if exact else "maximum",
        loss="margin",
        seed=0,
    )
    return lr.evaluate_robustness(
        classifier, *data, attack, MAGNITUDES, genuine=True, data=explored, checks=False
    )


def run(
    settings: dict[str, Any],
    training: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
) -> dict[str, Any]:
    """Trains a classifier, if that was not done, and measures a curve.

    Args:
        settings: The way, the seed, whose samples, and which norm.
        training: What all are trained on, whose cells perturbed inputs keep out of.
        test: Test images and labels.
    """
    way, seed = settings["way"], settings["seed"]
    classifier = NearestNeighbor(*training) if way == NEIGHBOR else trained(way, seed, *training)
    x, y = training if settings["samples"] == "training" else test
    x, y = x[: settings["count"]], y[: settings["count"]]
    curve = measured(classifier, (x, y), training[0], KINDS[settings["norm"]])
    return {**settings, "right": _bits(curve.correct), "counted": _bits(curve.valid)}


def _bits(rows: np.ndarray) -> list[str]:
    """`[K, N]` booleans as strings of zeros and ones."""
    return ["".join(np.where(row, "1", "0")) for row in rows]


def _booleans(rows: Sequence[str]) -> np.ndarray:
    """`[K, N]` booleans of strings of zeros and ones."""
    return np.array([[bit == "1" for bit in row] for row in rows])


def _curve(run: dict[str, Any]) -> lr.AccuracyCurve:
    """The curve of a run, as far as it was kept."""
    right, counted = _booleans(run["right"]), _booleans(run["counted"])
    unknown = np.full(right.shape, np.nan)
    return lr.AccuracyCurve(
        np.array(MAGNITUDES), right, unknown, unknown, np.ones_like(right), counted
    )


Curves = dict[str, dict[int, lr.AccuracyCurve]]


def curves_of(runs: Sequence[dict[str, Any]], samples: str, norm: str) -> Curves:
    """The curves of each way, by seed, in the order of `WAYS`."""
    wanted = {"samples": samples, "norm": norm, "count": COUNT.value, "steps": STEPS.value}
    chosen = [run for run in runs if wanted.items() <= run.items()]
    groups = {
        way: {run["seed"]: _curve(run) for run in chosen if run["way"] == way} for way in WAYS
    }
    return {way: curves for way, curves in groups.items() if curves}


def accuracies(curves: dict[int, lr.AccuracyCurve]) -> np.ndarray:
    """`[S, K]` genuine accuracy in %, NaN where no sample counts."""
    return 100 * np.array([curve.accuracy for curve in curves.values()])


def places(curves: Curves) -> dict[str, list[int]]:
    """The place of each way among those of a seed, in the order of genuine robustness.

    A way that was trained from one seed stands in the place that it has among those of that seed.
    Neighbors have no seed, and are compared in each.
    """
    found: dict[str, list[int]] = {way: [] for way in curves}
    for seed in sorted({seed for own in curves.values() for seed in own}):
        there = {
            way: own[0 if way == NEIGHBOR else seed]
            for way, own in curves.items()
            if way == NEIGHBOR or seed in own
        }
        for way, place in zip(there, lr.rank([*there.values()], significance=0.05), strict=True):
            found[way].append(place)
    return found


def table(curves: Curves) -> list[list[str]]:
    """One row a way: means over seeds, their range, and the places."""
    rows = [["way", "seeds", *(f"{m:g}" for m in MAGNITUDES), "least that count", "place, by seed"]]
    for (way, own), place in zip(curves.items(), places(curves).values(), strict=True):
        cells = []
        for column in accuracies(own).T:
            known = column[~np.isnan(column)]
            spread = f" ({known.min():.1f} to {known.max():.1f})" if len(known) > 1 else ""
            cells.append(f"{known.mean():.1f}{spread}" if len(known) else "none counts")
        least = min(curve.counts.min() for curve in own.values())
        rows.append([way, str(len(own)), *cells, str(least), ", ".join(map(str, place))])
    return rows


def draw(runs: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
    """Curves of all ways: a row of panels for each kind of norm, of test and training images."""
    norms = [norm for norm in KINDS if any(run["norm"] == norm for run in runs)]
    figure, panels = plt.subplots(
        len(norms),
        len(SAMPLES),
        figsize=(9, 3.3 * len(norms) + 1.2),
        layout="constrained",
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for (norm, samples), axes in zip(
        itertools.product(norms, SAMPLES), panels.ravel(), strict=True
    ):
        curves = curves_of(runs, samples, norm)
        styles = series_styles([way for way in WAYS if way != NEIGHBOR])
        styles[NEIGHBOR] = {"color": "gray", "linestyle": "-", "marker": "."}
        for way, own in curves.items():
            shares = accuracies(own)
            axes.plot(MAGNITUDES, np.nanmean(shares, axis=0), label=way, **styles[way])
            axes.fill_between(
                MAGNITUDES,
                np.nanmin(shares, axis=0),
                np.nanmax(shares, axis=0),
                color=styles[way]["color"],
                alpha=0.15,
            )
        axes.set_title(f"{samples} images, l2 norm {norm} the magnitude", fontsize=10)
        axes.grid(alpha=0.3)
    for axes in panels[:, 0]:
        axes.set_ylabel("genuine accuracy, %")
    for axes in panels[-1]:
        axes.set_xlabel("magnitude, l2")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)
    results = shared.Results(pathlib.Path(OUT.value))
    chosen = CHOSEN_WAYS.value or [*WAYS]
    if unknown := set(chosen) - {*WAYS}:
        raise app.UsageError(f"No ways: {sorted(unknown)}. There are {[*WAYS]}.")
    settings = [
        {"way": way, "seed": int(seed), "samples": samples, "norm": norm}
        | {"count": COUNT.value, "steps": STEPS.value}
        for seed, way, samples, norm in itertools.product(
            SEEDS.value, chosen, SAMPLES, CHOSEN_NORMS.value
        )
        if way != NEIGHBOR or seed == "0"
    ]
    due = [each for each in settings if results.is_due(each)]
    if due:
        training = training_data(DATA_DIR.value)
        test = lr.datasets.mnist("test", data_dir=DATA_DIR.value)
        for each in tqdm.tqdm(due, unit="curve", disable=None):
            results.add(run(each, training, test))
    for samples, norm in itertools.product(SAMPLES, KINDS):
        name = f"genuine accuracy, {samples}, {norm}"
        curves = curves_of(results.runs, samples, norm)
        if not curves:
            continue
        rows = table(curves)
        shared.show(name, rows)
        if PAGE.value:
            shared.write_table(PAGE.value, name, rows)
    if FIGURE.value:
        draw(results.runs, pathlib.Path(FIGURE.value))


if __name__ == "__main__":
    app.run(main)
