"""The toy problem's step classifiers with their exact accuracy functions."""

import itertools
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from lexirobust import datasets
from lexirobust.plotting.line import decision, draw_data
from lexirobust.plotting.style import CLASS_COLORS, CLASS_NAMES, check_not_empty


def toy_closed_forms(
    names: Sequence[str] = ("f1", "f2", "f3", "f4"),
    parts: Sequence[str] = ("densities", "classifier", "standard", "genuine"),
) -> Figure:
    """Draws toy problems, their step classifiers and the exact accuracy functions of these.

    Filled dots are values at a jump, rings are limits that the function does not take there.

    Args:
        names: Classifiers, as `datasets.toy_classifier` knows them, all of one problem.
        parts: What to draw, out of `"densities"` of the classes, on top, and for each classifier a
            row of itself, its `"standard"` accuracy functions (exact and maximum norm) and its
            `"genuine"` one.

    Returns:
        Figure with one axes for the densities, if they are asked for, and then those of each row.

    Raises:
        ValueError: If there are no names, or `parts` are not out of those above.

    Example:

    >>> len(toy_closed_forms().axes), len(toy_closed_forms(["supplement"], ["standard"]).axes)
    (13, 1)

    Reference: sections 2, 3.1 and 9.1, Figures 5 to 8, 13 and 14 of the paper.
    """
    check_not_empty("names", names)
    if not parts or not set(parts) <= {"densities", *_COLUMNS}:
        raise ValueError(
            f"`parts` must be out of densities, {', '.join(_COLUMNS)}. Received: {parts}."
        )
    columns = [part for part in _COLUMNS if part in parts]
    heights = ([2.0] if "densities" in parts else []) + ([1.75 * len(names)] if columns else [])
    width = 9.0 if len(columns) == 3 else 3.3 * max(len(columns), 1) + 1.2
    figure = Figure(figsize=(width, 0.3 + sum(heights)), layout="constrained")
    bands = list(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
    if "densities" in parts:
        _draw_densities(bands.pop(0).subplots(), names[0])
    if columns:
        grid = bands[0].subplots(
            len(names), len(columns), sharex="col", sharey="col", squeeze=False
        )
        for row, name in zip(grid, names, strict=True):
            row[0].set_ylabel(name, fontweight="bold")
            for axes, part in zip(row, columns, strict=True):
                _COLUMNS[part].draw(axes, name)
                axes.set_ylim(_COLUMNS[part].limits)
                axes.grid(alpha=0.25)
        for top, bottom, part in zip(grid[0], grid[-1], columns, strict=True):
            top.set_title(_COLUMNS[part].title)
            if part == "standard":
                top.legend(loc="upper right")
            bottom.set_xlabel(_COLUMNS[part].label)
    return figure


def _draw_densities(axes: Axes, name: str) -> None:
    intervals = datasets.toy_classifier(name).intervals
    for label in (0, 1):
        own = [interval for interval in intervals if interval.label == label]
        density = 1 / sum(interval.high - interval.low for interval in own)
        for index, interval in enumerate(own):
            axes.stairs(
                [density],
                [interval.low, interval.high],
                fill=True,
                facecolor=(*to_rgb(CLASS_COLORS[label]), 0.3),
                label=CLASS_NAMES[label] if index == 0 else None,
            )
    axes.set(title="density of each class", xlabel="input", xlim=(-8, 8), ylim=(0, 1.2))
    axes.grid(alpha=0.25)
    axes.legend(loc="upper right")


def _draw_step_classifier(axes: Axes, name: str) -> None:
    classifier = datasets.toy_classifier(name)
    draw_data(axes, classifier.intervals)
    jumps = np.round(datasets.decision_boundaries(classifier), 4) + 0.0
    edges = np.array([-8.0, *jumps, 8.0])
    pieces = 2 * decision(classifier, (edges[:-1] + edges[1:]) / 2) - 1
    at_jumps = 2 * decision(classifier, jumps) - 1
    _draw_pieces(axes, edges, pieces, jumps, at_jumps)
    axes.set(xlim=(-8, 8), yticks=(-1, 0, 1))


def _draw_standard_accuracy(axes: Axes, name: str) -> None:
    # Linear between integers, since the ends of the data and all boundaries are integers.
    norms = np.arange(0.0, 8.0)
    exact = datasets.toy_accuracy(name, norms)
    maximum = datasets.toy_accuracy(name, norms, constraint="maximum")
    axes.plot(norms, exact, color="black", linewidth=2.5, alpha=0.55, label="exact norm")
    axes.plot(norms, maximum, color="black", linewidth=1.2, linestyle="--", label="maximum norm")


def _draw_genuine_accuracy(axes: Axes, name: str) -> None:
    # Constant between integers, for the same reason.
    edges = np.arange(0.0, 8.0)
    pieces = datasets.toy_accuracy(name, (edges[:-1] + edges[1:]) / 2, genuine=True)
    at_edges = datasets.toy_accuracy(name, edges, genuine=True)
    _draw_pieces(axes, edges, pieces, edges[:-1], at_edges[:-1])


class _Column(NamedTuple):
    """One column of the closed forms: how to draw a classifier in it, and how to name it."""

    draw: Callable[[Axes, str], None]
    title: str
    label: str
    limits: tuple[float, float]


_COLUMNS: Final = {
    "classifier": _Column(_draw_step_classifier, "classifier", "input", (-1.2, 1.2)),
    "standard": _Column(
        _draw_standard_accuracy, "standard accuracy", "perturbation norm", (-0.06, 1.06)
    ),
    "genuine": _Column(
        _draw_genuine_accuracy, "genuine accuracy", "exact perturbation norm", (-0.06, 1.06)
    ),
}


def _draw_pieces(
    axes: Axes, edges: np.ndarray, pieces: np.ndarray, points: np.ndarray, values: np.ndarray
) -> None:
    """Draws a piecewise constant function, with dots and rings where it jumps."""
    for (low, high), value in zip(itertools.pairwise(edges), pieces, strict=True):
        axes.plot([low, high], [value, value], color="black", solid_capstyle="butt")
    for point, value in zip(points, values, strict=True):
        limits = {
            piece
            for piece, ends in zip(pieces, itertools.pairwise(edges), strict=True)
            if point in ends
        }
        if limits != {value}:
            rings = sorted(limits - {value})
            axes.plot(
                [point] * len(rings),
                rings,
                "o",
                color="black",
                markerfacecolor="white",
                markersize=4.5,
            )
            axes.plot([point], [value], "o", color="black", markersize=4.5)
