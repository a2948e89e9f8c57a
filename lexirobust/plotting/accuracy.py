"""Accuracy as a function of the magnitude."""

import itertools
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from matplotlib.figure import Figure

from lexirobust.plotting.line import Curve
from lexirobust.plotting.style import SERIES, check_not_empty


class CurveWithInterval(Curve, Protocol):
    """A curve that knows how sure its accuracies are, such as an `AccuracyCurve`."""

    def interval(self) -> Any:
        """Returns the ends of the accuracies' confidence intervals, array `[K, 2]` in [0, 1]."""


def accuracy_curves(curves: Mapping[str, CurveWithInterval]) -> Figure:
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
    check_not_empty("curves", curves)
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for (name, curve), style in zip(curves.items(), itertools.cycle(SERIES), strict=False):
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
