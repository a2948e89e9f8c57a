"""Figures of the paper, drawn from whatever was trained or measured.

Every function returns a `matplotlib.figure.Figure` of its own: nothing touches pyplot's state, so
the figures can be drawn on a server and saved with `figure.savefig(path)`.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import tensorflow as tf
from keras import ops
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lexirobust import datasets
from lexirobust.evaluation import AccuracyCurve

# Red and blue as in the paper, in shades that stay apart for colour-blind readers and in grey.
RED = "#d1261f"
BLUE = "#1f5fb4"
# Okabe and Ito's colours, each with a marker and a line, so that grey prints tell them apart, too.
_SERIES: Final[list[dict[str, Any]]] = [
    {"color": colour, "marker": marker, "linestyle": line}
    for colour, marker, line in zip(
        ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "black"),
        "osv^DPX",
        ("-", "--", "-.", ":", "-", "--", "-."),
        strict=True,
    )
]
_CLASS_COLOURS = (RED, BLUE)
_CLASS_NAMES = ("class −1", "class 1")


class Curve(Protocol):
    """What is drawn as one accuracy function: accuracies at perturbation magnitudes."""

    @property
    def magnitudes(self) -> Any:
        """Returns the magnitudes, array `[K]`."""

    @property
    def accuracy(self) -> Any:
        """Returns the accuracies, array `[K]` in [0, 1]."""


def training_curves(histories: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Draws accuracies and losses by epoch, one row for each training method.

    Training data are red, test data blue; rank 1 is solid and dark, every rank below it is dashed
    and lighter. Losses that span more than two decades get a logarithmic axis.

    Args:
        histories: mapping from a method's name to its history, as in Keras' `History.history`: a
            list of values per epoch under keys such as "accuracy@natural" or "loss@l2=4", with
            "val_" before them for test data, which may be measured at every n-th epoch only. Keys
            without "@" are left out.

    Returns:
        Figure with a row of two axes, accuracy and loss, for each method.

    Raises:
        ValueError: if there is no history, or a history has no key with "@".

    Example:

    >>> history = {"accuracy@natural": [0.5, 1.0], "loss@natural": [0.7, 0.1]}
    >>> figure = training_curves({"Standard": history, "OLSRC": history})
    >>> len(figure.axes)
    4

    Reference: section 6.1.1, Figure 9 of the paper.
    """
    _check_not_empty("histories", histories)
    for method, history in histories.items():
        if not any("@" in key for key in history):
            raise ValueError(
                f"`histories[{method!r}]` must have keys such as 'loss@natural'. "
                f"Received: {sorted(history)}."
            )
    ranks = sorted(
        {key.split("@", 1)[1] for h in histories.values() for key in h if "@" in key},
        key=_rank_order,
    )
    styles = {
        (prefix, rank): _rank_style(colour, index, len(ranks))
        for prefix, colour in (("", RED), ("val_", BLUE))
        for index, rank in enumerate(ranks)
    }

    figure = Figure(figsize=(9.0, 1.2 + 1.9 * len(histories)), layout="constrained")
    grid = figure.subplots(len(histories), 2, sharex=True, sharey="col", squeeze=False)
    for row, (method, history) in zip(grid, histories.items(), strict=True):
        for axes, quantity in zip(row, ("accuracy", "loss"), strict=True):
            # Rank 1 matters most, so it is drawn last and on top.
            for (prefix, rank), style in reversed(styles.items()):
                values = history.get(f"{prefix}{quantity}@{rank}")
                if values is not None:
                    # Test data may be measured every few epochs only (`validation_freq`).
                    every = max(len(history[key]) for key in history) // len(values)
                    epochs = every * np.arange(1, len(values) + 1)
                    axes.plot(epochs, values, label=f"{prefix}{quantity}@{rank}", **style)
            axes.grid(alpha=0.25)
            axes.margins(x=0.02)
        row[0].set_ylabel(method, fontweight="bold")
    grid[0, 0].set(title="accuracy", ylim=(-0.04, 1.04))
    grid[0, 1].set_title("loss")
    losses = [v for h in histories.values() for k, vs in h.items() if "loss@" in k for v in vs]
    if _spans_decades(losses):
        grid[0, 1].set_yscale("log", nonpositive="mask")
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    tested = any(key.startswith("val_") for h in histories.values() for key in h)
    handles = [
        Line2D([], [], color=RED, label="train"),
        *([Line2D([], [], color=BLUE, label="test")] if tested else []),
        *(
            Line2D([], [], label=r, **_rank_style("black", i, len(ranks)))
            for i, r in enumerate(ranks)
        ),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5))
    return figure


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
        "test", grey for others.

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
    _check_not_empty("classifiers", classifiers)
    figure = Figure(figsize=(9.0, 0.9 + 1.9 * len(classifiers)), layout="constrained")
    grid = figure.subplots(len(classifiers), 2, sharex="col", sharey=True, squeeze=False)
    x = np.linspace(-8.0, 8.0, 1601)
    grid[0, 0].set(xlim=(x[0], x[-1]), ylim=(-0.06, 1.06))
    for row, (name, (classifier, curves)) in zip(grid, classifiers.items(), strict=True):
        left, right = row
        _draw_data(left)
        left.plot(x, _probability(classifier, x), color="black", label="p(class 1)")
        for boundary in datasets.decision_boundaries(classifier, low=x[0], high=x[-1]):
            _annotate_boundary(left, boundary)
        for label, curve in curves.items():
            right.plot(curve.magnitudes, curve.accuracy, label=label, **_curve_style(label))
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
    _check_not_empty("magnitudes", magnitudes)
    rows = math.ceil(len(magnitudes) / 4)
    columns = math.ceil(len(magnitudes) / rows)
    figure = Figure(figsize=(2.9 * columns, 1.0 + 2.1 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    x = np.linspace(-9.0, 9.0, 721, dtype=np.float32)
    for axes, magnitude in zip(grid.flat, magnitudes, strict=False):
        for low, high in _explored(magnitude):
            axes.axvspan(low, high, color="0.9", linewidth=0, label="explored")
        _draw_data(axes)
        axes.plot(x, unexplored(x[:, None], magnitude), color="black", label="estimate")
        if magnitude in samples:
            inputs, labels = samples[magnitude]
            for label, (colour, height) in enumerate(
                zip(_CLASS_COLOURS, (-0.1, -0.2), strict=True)
            ):
                chosen = np.ravel(inputs)[np.ravel(labels) == label]
                axes.plot(
                    chosen,
                    np.full(chosen.shape, height),
                    linestyle="none",
                    marker="|",
                    markeredgewidth=1.2,
                    color=colour,
                    label=f"samples, {_CLASS_NAMES[label]}",
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
    drawn = dict(_labelled(figure.axes[::-1]))
    figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=3)
    return figure


def accuracy_curves(curves: Mapping[str, AccuracyCurve]) -> Figure:
    """Draws accuracy by magnitude, with intervals, several classifiers on one axis.

    Args:
        curves: mapping from a classifier's name to its `AccuracyCurve`.

    Returns:
        Figure with one axes. A mark for each magnitude that was measured; bands are 95 % intervals.
        Magnitudes at which accuracy is undefined leave a gap.

    Raises:
        ValueError: if there is no curve.

    Example:

    >>> import lexirobust as lr
    >>> correct = np.arange(10) < np.array([[9], [3]])
    >>> zeros = np.zeros((2, 10))
    >>> curve = lr.AccuracyCurve(np.array([0.0, 1.0]), correct, zeros, zeros, zeros == 0)
    >>> figure = accuracy_curves({"standard": curve})
    >>> figure.axes[0].get_ylabel()
    'accuracy, %'
    """
    _check_not_empty("curves", curves)
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for (name, curve), style in zip(curves.items(), itertools.cycle(_SERIES), strict=False):
        order = np.argsort(curve.magnitudes)
        magnitudes = np.asarray(curve.magnitudes)[order]
        low, high = 100 * curve.interval()[order].T
        axes.fill_between(magnitudes, low, high, color=style["color"], alpha=0.18, linewidth=0)
        axes.plot(magnitudes, 100 * curve.accuracy[order], label=name, markersize=4.5, **style)
    axes.set(xlabel="magnitude of the perturbation", ylabel="accuracy, %", ylim=(-2, 102))
    axes.grid(alpha=0.25)
    if any(curves):
        axes.legend()
    return figure


def pairs(names: Sequence[str], values: Any) -> Figure:
    """Draws what there is to say of each pair of ranks, red where it is below 0.

    Args:
        names: the ranks, the most important first.
        values: array `[T, T]`, the higher rank of each pair in rows; not a number: left empty.

    Returns:
        Figure with one axes, a number in every cell.

    Raises:
        ValueError: if the shape does not fit.

    Example:

    >>> figure = pairs(["natural", "l2=4"], [[np.nan, -0.5], [np.nan, np.nan]])
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['−0.50']
    """
    values = np.asarray(values, float)
    if values.shape != (len(names), len(names)):
        raise ValueError(
            f"`values` must be [T, T] for T names. Received: shape {values.shape}, "
            f"{len(names)} names."
        )
    figure = Figure(figsize=(2.0 + 0.9 * len(names), 1.2 + 0.7 * len(names)), layout="constrained")
    axes = figure.subplots()
    most = np.nanmax(np.abs(values), initial=1e-9)
    axes.imshow(values, cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
    for row, column in np.argwhere(np.isfinite(values)):
        value = values[row, column]
        shade = "white" if abs(value) > 0.6 * most else "black"
        text = f"{value:.2f}".replace("-", "−")
        axes.text(column, row, text, ha="center", va="center", color=shade)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="lower rank", ylabel="higher rank")
    return figure


def explanations(columns: Mapping[str, Any]) -> Figure:
    """Draws images, one a row, and beside each what was found out about it.

    Columns with values below 0 show signs: red above 0, blue below, each image by its own largest.
    The others are grey, from black at 0 to white at 1.

    Args:
        columns: mapping from a title to `[N, height, width]` or `[N, height, width, 1]`.

    Returns:
        Figure with an axes for each image and column.

    Raises:
        ValueError: if there is none, or the columns are not of the same images.

    Example:

    >>> image = np.linspace(0, 1, 64).reshape(1, 8, 8)
    >>> len(explanations({"image": image, "way from 0.5": image - 0.5}).axes)
    2

    Reference: section 9.3 of the paper.
    """
    _check_not_empty("columns", columns)
    images = {
        title: np.squeeze(np.asarray(each), -1) if np.ndim(each) == 4 else np.asarray(each)
        for title, each in columns.items()
    }
    shapes = {each.shape for each in images.values()}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 3 or not shape[0]:
        raise ValueError(
            "`columns` must be of the same images, [N, height, width]. Received: "
            f"{ {title: np.shape(each) for title, each in columns.items()} }."
        )
    figure = Figure(figsize=(1.35 * len(images), 0.3 + 1.3 * shape[0]), layout="constrained")
    grid = figure.subplots(shape[0], len(images), squeeze=False)
    for column, (title, each) in zip(grid.T, images.items(), strict=True):
        column[0].set_title(title, fontsize=8.5)
        signed = np.nanmin(each) < 0
        for axes, image in zip(column, each, strict=True):
            most = np.nanmax(np.abs(image)) or 1.0
            limits = (-most, most) if signed else (0.0, 1.0)
            colours = "RdBu_r" if signed else "gray"
            axes.imshow(image, cmap=colours, vmin=limits[0], vmax=limits[1])
            axes.set(xticks=[], yticks=[])
    return figure


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

    Reference: sections 2 and 9.1, Figures 5 to 8, 13 and 14 of the paper.
    """
    _check_not_empty("names", names)
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
                facecolor=(*to_rgb(_CLASS_COLOURS[label]), 0.3),
                label=_CLASS_NAMES[label] if index == 0 else None,
            )
    axes.set(title="density of each class", xlabel="input", xlim=(-8, 8), ylim=(0, 1.2))
    axes.grid(alpha=0.25)
    axes.legend(loc="upper right")


def _draw_step_classifier(axes: Axes, name: str) -> None:
    classifier = datasets.toy_classifier(name)
    _draw_data(axes, classifier.intervals)
    jumps = np.round(datasets.decision_boundaries(classifier), 4) + 0.0
    edges = np.array([-8.0, *jumps, 8.0])
    pieces = 2 * _decision(classifier, (edges[:-1] + edges[1:]) / 2) - 1
    at_jumps = 2 * _decision(classifier, jumps) - 1
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


def _draw_data(axes: Axes, intervals: Sequence[datasets.Interval] = datasets.TOY_INTERVALS) -> None:
    for low, high, label in intervals:
        colour = _CLASS_COLOURS[label]
        axes.axvspan(low, high, color=colour, alpha=0.15, linewidth=0, label=_CLASS_NAMES[label])
        for end in (low, high):
            axes.axvline(end, color=colour, linestyle="--", linewidth=0.9)


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


def _decision(classifier: Callable[[Any], Any], x: np.ndarray) -> np.ndarray:
    return np.argmax(ops.convert_to_numpy(_logits(classifier, x)), axis=-1)


def _rank_order(name: str) -> tuple[float, str]:
    """Sorts "natural" first, "l2=4" by its magnitude, and what has none last."""
    if name == "natural":
        return 0.0, name
    try:
        return float(name.partition("=")[2]), name
    except ValueError:
        return math.inf, name


def _rank_style(colour: str, index: int, ranks: int) -> dict[str, Any]:
    """Fades from the full colour at rank 1 towards white, with dashes below rank 1."""
    fade = 0.0 if index == 0 else 0.25 + 0.3 * (index - 1) / max(ranks - 2, 1)
    red, green, blue = (part + (1 - part) * fade for part in to_rgb(colour))
    dashes = ("-", "--", "-.", ":")
    style = dashes[0] if index == 0 else dashes[1 + (index - 1) % 3]
    return {
        "color": (red, green, blue),
        "linestyle": style,
        "linewidth": 1.2 if index == 0 else 1.0,
        "alpha": 0.8,
    }


def _curve_style(label: str) -> dict[str, Any]:
    # Train and test often lie on each other: the wider solid line shows through the dashes.
    styles = {
        "train": {"color": RED, "linewidth": 2.2},
        "test": {"color": BLUE, "linewidth": 1.5, "linestyle": "--"},
    }
    return styles.get(label, {"color": "0.25", "linewidth": 1.2, "linestyle": "-."})


def _spans_decades(values: Sequence[float]) -> bool:
    positive = [value for value in values if 0 < value < math.inf]
    return bool(positive) and max(positive) > 100 * min(positive)


def _labelled(all_axes: Sequence[Axes]) -> list[tuple[str, Any]]:
    """Collects every labelled artist as (label, artist), for one legend of the whole figure."""
    found: list[tuple[str, Any]] = []
    for axes in all_axes:
        handles, labels = axes.get_legend_handles_labels()
        found.extend(zip(labels, handles, strict=True))
    return found


def _check_not_empty(argument: str, value: Any) -> None:
    if len(value) == 0:
        raise ValueError(f"`{argument}` must not be empty. Received: {value!r}.")
