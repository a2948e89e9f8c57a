"""Evaluation: measures any classifier, ours or not, and never trains."""

from lexirobust.evaluation.curve import AccuracyCurve, evaluate_robustness

__all__ = ["AccuracyCurve", "evaluate_robustness"]
