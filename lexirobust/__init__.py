"""Ranked training for Keras: no step spends a higher rank to buy a lower one."""

from lexirobust import attacks, callbacks, datasets, gem, pretrained
from lexirobust.evaluation import AccuracyCurve, compare, evaluate_robustness, rank
from lexirobust.geometry.class_distances import class_distances, nearest_pairs
from lexirobust.interpretation import nearest_boundary, negative_adversarial_remover
from lexirobust.probabilities import logits
from lexirobust.reporting import report
from lexirobust.serving import export
from lexirobust.training import (
    LexicographicModel,
    RunningMean,
    Target,
    WarmStart,
    methods,
    objectives,
    preconditioner,
)
from lexirobust.training.methods import *  # noqa: F403
from lexirobust.version import __version__

__all__ = [
    "AccuracyCurve",
    "LexicographicModel",
    "RunningMean",
    "Target",
    "WarmStart",
    "__version__",
    "attacks",
    "callbacks",
    "class_distances",
    "compare",
    "datasets",
    "evaluate_robustness",
    "export",
    "gem",
    "logits",
    "nearest_boundary",
    "nearest_pairs",
    "negative_adversarial_remover",
    "objectives",
    "preconditioner",
    "pretrained",
    "rank",
    "report",
]
__all__ += methods.__all__
