"""Objectives: what a rank sees, and how it is scored."""

from lexirobust.training.objectives.adversarial import Adversarial
from lexirobust.training.objectives.base import Batch, Objective, Rank, perturb
from lexirobust.training.objectives.divergence import Divergence
from lexirobust.training.objectives.natural import Natural
from lexirobust.training.objectives.weighted_sum import WeightedSum

__all__ = [
    "Adversarial",
    "Batch",
    "Divergence",
    "Natural",
    "Objective",
    "Rank",
    "WeightedSum",
    "perturb",
]
