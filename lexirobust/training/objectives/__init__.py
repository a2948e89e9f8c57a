"""Objectives: what a rank sees, and how it is scored."""

from lexirobust.training.objectives.adversarial import Adversarial
from lexirobust.training.objectives.balanced_sum import BalancedSum
from lexirobust.training.objectives.base import Batch, Objective, Rank
from lexirobust.training.objectives.divergence import Divergence
from lexirobust.training.objectives.forward import Forward
from lexirobust.training.objectives.natural import Natural
from lexirobust.training.objectives.output import Output
from lexirobust.training.objectives.regularization import Regularization
from lexirobust.training.objectives.weighted_sum import WeightedSum

__all__ = [
    "Adversarial",
    "BalancedSum",
    "Batch",
    "Divergence",
    "Forward",
    "Natural",
    "Objective",
    "Output",
    "Rank",
    "Regularization",
    "WeightedSum",
]
