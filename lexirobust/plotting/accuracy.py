"""Accuracy as a function of the magnitude."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

import numpy as np
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from lexirobust.plotting.line import Curve
from lexirobust.plotting.style import check_not_empty, series_styles

# In points. The axis is about as wide as that in a figure of 6.4 inches.
_AXIS_WIDTH: Final = 380.0
_LARGEST_STEP: Final = 4.0


class CurveWithInterval(Curve, Protocol):
    """A curve that knows how sure its accuracies are, such as an `AccuracyCurve`."""

    def interval(self) -> Any:
        """Returns the ends of the accuracies' confidence intervals, array `[K, 2]` in [0, 1]."""


def accuracy_curves(curves: Mapping[str, CurveWithInterval] | CurveWithInterval) -> Figure:
    """Draws accuracy by magnitude, with intervals, several classifiers on one axis.

    Training methods, such as "OLSRC" or "standard", have the same color in every picture.

    Args:
        curves: Mapping from a classifier's name to its `AccuracyCurve`, or one curve.

    Returns:
        Figure with one axes. A mark for each magnitude that was measured, with its 95 % interval:
        a band of one curve, bars of several, side by side where they would lie on each other.
        Magnitudes at which accuracy is undefined leave a gap. The axis names the norm if all
        curves have the same `norm`.

    Raises:
        ValueError: If there is no curve.
        TypeError: If something is no curve.

    Example:

    >>> import lexirobust as lr
    >>> correct = np.arange(10) < np.array([[9], [3]])
    >>> zeros = np.zeros((2, 10))
    >>> curve = lr.AccuracyCurve(np.array([0.0, 1.0]), correct, zeros, zeros, zeros == 0)
    >>> figure = accuracy_curves({"standard": curve})
    >>> figure.axes[0].get_ylabel()
    'accuracy, %'
    """
    curves = curves if isinstance(curves, Mapping) else {"": curves}
    check_not_empty("curves", curves)
    for curve in curves.values():
        if not hasattr(curve, "magnitudes"):
            raise TypeError(
                "`curves` must be a curve, or a mapping from names to curves. Received: "
                f"{type(curve).__name__}."
            )
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    measured = np.unique(np.concatenate([curve.magnitudes for curve in curves.values()]))
    step = _step(measured, len(curves))
    for number, (name, style) in enumerate(series_styles(curves).items()):
        curve = curves[name]
        order = np.argsort(curve.magnitudes)
        magnitudes = np.asarray(curve.magnitudes)[order]
        low, high = 100 * curve.interval()[order].T
        # Moved on the paper alone: what is drawn stays at its magnitude.
        aside = (number - (len(curves) - 1) / 2) * step / 72
        place = axes.transData + ScaledTranslation(aside, 0, figure.dpi_scale_trans)
        drawn = {"transform": place, "color": style["color"]}
        bars = np.ones(len(magnitudes), bool)
        if len(curves) == 1:
            axes.fill_between(magnitudes, low, high, alpha=0.18, linewidth=0, **drawn)
            known = np.pad(np.isfinite(low), 1)
            bars = ~(known[:-2] | known[2:])  # Between two points there is a band.
        axes.vlines(magnitudes[bars], low[bars], high[bars], linewidth=1.3, **drawn)
        accuracies = 100 * curve.accuracy[order]
        axes.plot(
            magnitudes, accuracies, label=name, markersize=4.5, linewidth=1.1, **style | drawn
        )
    # Not by itself: Matplotlib takes what is moved aside for values.
    margin = 0.05 * np.ptp(measured) or 0.5
    axes.set_xlim(measured[0] - margin, measured[-1] + margin)
    axes.set(xlabel=_label(curves.values()), ylabel="accuracy, %", ylim=(-2, 102))
    axes.grid(alpha=0.25)
    if any(curves):
        axes.legend()
    return figure


def _step(measured: np.ndarray, count: int) -> float:
    """How far apart, in points, neighbors stand at one magnitude, so that it has room for all."""
    if len(measured) == 1:
        return _LARGEST_STEP
    room = _AXIS_WIDTH * np.diff(measured).min() / np.ptp(measured)
    return min(_LARGEST_STEP, 0.7 * room / count)


def _label(curves: Iterable[Any]) -> str:
    norms = {getattr(curve, "norm", None) for curve in curves}
    norm = norms.pop() if len(norms) == 1 else None
    return "magnitude ε of the perturbation" + (f", {norm} norm" if norm else "")
