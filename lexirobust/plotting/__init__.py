"""Figures of the paper, drawn from whatever was trained or measured.

Every function returns a `matplotlib.figure.Figure` of its own: nothing touches pyplot's state, so
the figures can be drawn on a server and saved with `figure.savefig(path)`.
"""

from lexirobust.plotting.accuracy import accuracy_curves
from lexirobust.plotting.closed_forms import toy_closed_forms
from lexirobust.plotting.images import explanations
from lexirobust.plotting.line import Curve, classifiers_and_curves, discriminator_estimate
from lexirobust.plotting.style import BLUE, RED
from lexirobust.plotting.training import pairs, target_curves, training_curves

__all__ = [
    "BLUE",
    "RED",
    "Curve",
    "accuracy_curves",
    "classifiers_and_curves",
    "discriminator_estimate",
    "explanations",
    "pairs",
    "target_curves",
    "toy_closed_forms",
    "training_curves",
]
