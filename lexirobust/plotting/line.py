"""Classifiers of inputs on a line, as the paper's toy problem has them."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from keras import ops
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lexirobust import datasets
from lexirobust.plotting.style import BLUE, CLASS_COLORS, CLASS_NAMES, RED, check_not_empty
from lexirobust.tensors import classes_of


class Curve(Protocol):
    """Any object with accuracies at perturbation magnitudes, which can be drawn as a curve."""

    @property
    def magnitudes(self) -> Any:
        """Returns the magnitudes, array `[K]`."""

    @property
    def accuracy(self) -> Any:
        """Returns the accuracies, array `[K]` in [0, 1]."""


def classifiers_and_curves(
    classifiers: Mapping[str, tuple[Callable[[Any], Any], Mapping[str, Curve]]],
) -> Figure:
    """Draws classifiers of the toy problem beside their accuracy functions, one row for each.

    Args:
        classifiers: mapping from a name to a pair: a callable that maps float32 `[N, 1]` to logits
            `[N, 2]`, and a mapping from "train" and "test" (or any other name) to an object with
            arrays `magnitudes` `[K]` and `accuracy` `[K]`.

    Returns:
        Figure with a row of two axes for each classifier. Left: the probability of class 1, the
        decision boundaries as rings with their places, and the data of class -1 in red and of
        class 1 in blue. Right: accuracy by exact perturbation norm, red for "train", blue for
        "test", gray for others.

    Raises:
        ValueError: if there is no classifier.

    Example:

    >>> from types import SimpleNamespace
    >>> magnitudes = np.linspace(0.0, 6.0, 61)
    >>> accuracy = datasets.toy_accuracy("f3", magnitudes)
    >>> curves = {"test": SimpleNamespace(magnitudes=magnitudes, accuracy=accuracy)}
    >>> figure = classifiers_and_curves({"f3": (datasets.toy_classifier("f3"), curves)})
    >>> [axes.get_xlabel() for axes in figure.axes]
    ['input', 'exact perturbation norm']

    Reference: section 6.1, Figures 10 and 12 of the paper.
    """
    check_not_empty("classifiers", classifiers)
    figure = Figure(figsize=(9.0, 0.9 + 1.9 * len(classifiers)), layout="constrained")
    grid = figure.subplots(len(classifiers), 2, sharex="col", sharey=True, squeeze=False)
    x = np.linspace(-8.0, 8.0, 1601)
    grid[0, 0].set(xlim=(x[0], x[-1]), ylim=(-0.06, 1.06))
    for row, (name, (classifier, curves)) in zip(grid, classifiers.items(), strict=True):
        left, right = row
        draw_data(left)
        left.plot(x, _probability(classifier, x), color="black", label="p(class 1)")
        for boundary in datasets.decision_boundaries(classifier, low=x[0], high=x[-1]):
            _annotate_boundary(left, boundary)
        for label, curve in curves.items():
            order = np.argsort(curve.magnitudes)
            magnitudes = np.asarray(curve.magnitudes)[order]
            right.plot(magnitudes, curve.accuracy[order], label=label, **_curve_style(label))
        right.legend(loc="best")
        left.set_ylabel(name, fontweight="bold")
        for axes in row:
            axes.grid(alpha=0.25)
    grid[0, 0].set_title("probability of class 1")
    grid[0, 1].set_title("accuracy")
    grid[-1, 0].set_xlabel("input")
    grid[-1, 1].set_xlabel("exact perturbation norm")
    return figure


def discriminator_estimate(
    unexplored: Callable[[np.ndarray, float], np.ndarray],
    magnitudes: Sequence[float],
    samples: Mapping[Any, tuple[np.ndarray, np.ndarray]],
) -> Figure:
    """Draws the estimated probability that an input is unexplored, one panel for each magnitude.

    The region that truly was explored is shaded. Perturbed samples are ticks under the curve: class
    -1 in red, class 1 in blue. A sample on the shade went wrong.

    Args:
        unexplored: callable that maps inputs, float32 `[M, 1]`, and a magnitude to probabilities
            `[M]`.
        magnitudes: sequence of floats, the perturbation norms to draw.
        samples: mapping from a magnitude to perturbed inputs, `[N]` or `[N, 1]`, and their labels,
            `[N]` in {0, 1}. A magnitude that is not there gets no ticks.

    Returns:
        Figure with one axes for each magnitude, in the order given.

    Raises:
        ValueError: if there is no magnitude.

    Example:

    >>> def unexplored(x, magnitude):
    ...     return (np.abs(x[:, 0]) > 2.0 + magnitude).astype("float32")
    >>> samples = {4.0: (np.array([-5.8, 5.8]), np.array([0, 1]))}
    >>> figure = discriminator_estimate(unexplored, [3.0, 4.0], samples)
    >>> [axes.get_title() for axes in figure.axes]
    ['norm 3', 'norm 4']

    Reference: sections 4.1 and 6.1.2, Figure 11 of the paper.
    """
    check_not_empty("magnitudes", magnitudes)
    rows = math.ceil(len(magnitudes) / 4)
    columns = math.ceil(len(magnitudes) / rows)
    figure = Figure(figsize=(2.9 * columns, 1.0 + 2.1 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    x = np.linspace(-9.0, 9.0, 721, dtype=np.float32)
    for axes, magnitude in zip(grid.flat, magnitudes, strict=False):
        for low, high in _explored(magnitude):
            axes.axvspan(low, high, color="0.9", linewidth=0, label="explored")
        draw_data(axes)
        axes.plot(x, unexplored(x[:, None], magnitude), color="black", label="estimate")
        if magnitude in samples:
            inputs, labels = samples[magnitude]
            for label, (color, height) in enumerate(zip(CLASS_COLORS, (-0.1, -0.2), strict=True)):
                chosen = np.ravel(inputs)[np.ravel(labels) == label]
                axes.plot(
                    chosen,
                    np.full(chosen.shape, height),
                    linestyle="none",
                    marker="|",
                    markeredgewidth=1.2,
                    color=color,
                    label=f"samples, {CLASS_NAMES[label]}",
                )
        axes.set_title(f"norm {magnitude:g}")
    for axes in grid.flat[len(magnitudes) :]:
        axes.remove()
    for axes in grid.flat[max(len(magnitudes) - columns, 0) : len(magnitudes)]:
        axes.set_xlabel("input")
        axes.tick_params(labelbottom=True)
    grid[0, 0].set(xlim=(x[0], x[-1]), xticks=(-8, -4, 0, 4, 8))
    grid[0, 0].set(ylim=(-0.28, 1.06), yticks=(0.0, 0.5, 1.0))
    figure.supylabel("probability of being unexplored", fontsize="medium")
    drawn = dict(_labeled(figure.axes[::-1]))
    figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=3)
    return figure


def draw_data(axes: Axes, intervals: Sequence[datasets.Interval] = datasets.TOY_INTERVALS) -> None:
    """Shades where the classes have data, with their ends."""
    for low, high, label in intervals:
        color = CLASS_COLORS[label]
        axes.axvspan(low, high, color=color, alpha=0.15, linewidth=0, label=CLASS_NAMES[label])
        for end in (low, high):
            axes.axvline(end, color=color, linestyle="--", linewidth=0.9)


def _annotate_boundary(axes: Axes, boundary: float) -> None:
    axes.plot(boundary, 0.5, "o", color="black", markerfacecolor="white", zorder=3)
    # The text turns inwards near the right end; adding 0 makes a plain zero of a rounded -0.
    inwards = boundary > 0.7 * axes.get_xlim()[1]
    axes.annotate(
        f"{round(boundary, 2) + 0.0:.2f}".replace("-", "−"),
        (boundary, 0.5),
        xytext=(-7 if inwards else 7, 0),
        textcoords="offset points",
        ha="right" if inwards else "left",
        va="center",
        fontsize="small",
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1},
    )


def _explored(magnitude: float) -> list[tuple[float, float]]:
    """Unites the open balls of this radius about the toy data; those of radius 0 are empty."""
    if magnitude == 0:
        return []
    merged: list[tuple[float, float]] = []
    for low, high, _ in datasets.TOY_INTERVALS:
        low, high = low - magnitude, high + magnitude
        if merged and low < merged[-1][1]:
            low, high = merged.pop()[0], high
        merged.append((low, high))
    return merged


def _logits(classifier: Callable[[Any], Any], x: np.ndarray) -> Any:
    return classifier(tf.constant(x[:, None], dtype=tf.float32))


def _probability(classifier: Callable[[Any], Any], x: np.ndarray) -> np.ndarray:
    return ops.convert_to_numpy(ops.softmax(_logits(classifier, x), axis=-1))[:, 1]


def decision(classifier: Callable[[Any], Any], x: np.ndarray) -> np.ndarray:
    """The classes `[M]` of inputs `[M]` on the line; not a number where logits are not."""
    classes = np.asarray(classes_of(_logits(classifier, x)))
    return np.where(classes < 0, np.nan, classes)


def _curve_style(label: str) -> dict[str, Any]:
    # Train and test often lie on each other: the wider solid line shows through the dashes.
    styles = {
        "train": {"color": RED, "linewidth": 2.2},
        "test": {"color": BLUE, "linewidth": 1.5, "linestyle": "--"},
    }
    return styles.get(label, {"color": "0.25", "linewidth": 1.2, "linestyle": "-."})


def _labeled(all_axes: Sequence[Axes]) -> list[tuple[str, Any]]:
    """Collects every labeled artist as (label, artist), for one legend of the whole figure."""
    found: list[tuple[str, Any]] = []
    for axes in all_axes:
        handles, labels = axes.get_legend_handles_labels()
        found.extend(zip(labels, handles, strict=True))
    return found
