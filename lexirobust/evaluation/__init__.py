"""Evaluation: measures any classifier, ours or not, and never trains."""

from lexirobust.evaluation.curve import AccuracyCurve, ExampleInputs
from lexirobust.evaluation.evaluate import evaluate_robustness
from lexirobust.evaluation.flags import Flag
from lexirobust.evaluation.order import Order, compare, rank

__all__ = [
    "AccuracyCurve",
    "ExampleInputs",
    "Flag",
    "Order",
    "compare",
    "evaluate_robustness",
    "rank",
]
