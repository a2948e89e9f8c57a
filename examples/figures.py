"""Draws figures of the paper that need no training.

    python examples/figures.py --out=results/figures
    python examples/figures.py --figures=2 --data_dir=~/tensorflow_datasets

Figure 2: how near the classes of MNIST come to each other, and the images that do. Figures 5 to 8:
the toy problem, its step classifiers, and what they keep at every perturbation norm. Figures 13 and
14: a problem where accuracy under exact norms has to rise again. Figure 3 is drawn by
examples/circle_and_line.py and Figures 9 to 12 by examples/toy.py, which train for them.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import functools
import pathlib
from collections.abc import Callable

import numpy as np
from absl import app, flags, logging
from matplotlib.figure import Figure

import lexirobust as lr
from lexirobust import plotting

SHOWN = 8  # Pairs of images, the nearest first.

FIGURES = flags.DEFINE_list(
    "figures", ["5", "6", "7", "8", "13", "14"], "Which figures to draw; 2 needs MNIST."
)
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps MNIST.")
OUT = flags.DEFINE_string("out", "results/figures", "Folder for the pictures.")


def nearest_digits() -> Figure:
    """Figure 2: l2 distances between the classes of MNIST, and the nearest pairs."""
    try:
        x, y = lr.datasets.mnist("train", DATA_DIR.value)
    except OSError as error:
        raise SystemExit(f"{error} (--data_dir)") from None
    pairs = lr.nearest_pairs(x, y)
    classes = len(pairs)
    upper = np.triu_indices(classes, 1)
    distances = np.full((classes, classes), np.nan)
    distances[upper] = np.linalg.norm(
        (x[pairs[upper][:, 0]] - x[pairs[upper][:, 1]]).reshape(len(upper[0]), -1), axis=1
    )
    figure = Figure(figsize=(10.5, 4.6), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1.15, 1.0))[0]

    axes = left.subplots()
    image = axes.imshow(distances, cmap="cividis")
    middle = np.nanmean(distances)
    for a, b in zip(*upper, strict=True):
        color = "white" if distances[a, b] < middle else "black"
        axes.text(b, a, f"{distances[a, b]:.1f}", color=color, ha="center", va="center", size=8)
    axes.set(xticks=range(classes), yticks=range(classes), xlabel="digit", ylabel="digit")
    left.colorbar(image, ax=axes, label="smallest l2 distance", shrink=0.8)

    grid = right.subplots(4, SHOWN // 2)
    order = np.argsort(distances[upper])[:SHOWN]
    for place, cell in enumerate(order):
        first, second = (int(index[cell]) for index in upper)
        for half, sample in enumerate(pairs[first, second]):
            shown = grid[2 * (place // (SHOWN // 2)) + half, place % (SHOWN // 2)]
            shown.imshow(x[sample, ..., 0], cmap="gray_r", vmin=0, vmax=1)
            shown.set(xticks=(), yticks=())
            if not half:
                shown.set_title(f"{first} and {second}: {distances[first, second]:.2f}", size=9)
    return figure


STEPS = ("f1", "f2", "f3")  # The paper's three; f4 came later.
closed_forms = plotting.toy_closed_forms
DRAWN: dict[str, Callable[[], Figure]] = {
    "2": nearest_digits,
    "5": functools.partial(closed_forms, STEPS, ["densities"]),
    "6": functools.partial(closed_forms, STEPS, ["classifier"]),
    "7": functools.partial(closed_forms, STEPS, ["standard"]),
    "8": functools.partial(closed_forms, STEPS, ["genuine"]),
    "13": functools.partial(closed_forms, ["supplement"], ["densities"]),
    "14": functools.partial(closed_forms, ["supplement"], ["classifier", "standard"]),
}


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    unknown = set(FIGURES.value or ()) - set(DRAWN)
    if unknown or not FIGURES.value:
        raise app.UsageError(f"--figures must be out of {', '.join(DRAWN)}. Received: {unknown}.")
    out = pathlib.Path(OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    for number in FIGURES.value:
        path = out / f"figure{number}.png"
        DRAWN[number]().savefig(path, dpi=130)
        print(f"Wrote {path}.")


if __name__ == "__main__":
    app.run(main)
