"""Training: Keras models whose losses are ranked."""

from lexirobust.training import methods, objectives
from lexirobust.training.methods import *  # noqa: F403
from lexirobust.training.model import LexicographicModel
from lexirobust.training.state.gradient_means import RunningMean
from lexirobust.training.state.warm_start import WarmStart
from lexirobust.training.step.preconditioners import preconditioner
from lexirobust.training.targets import Target

__all__ = [
    "LexicographicModel",
    "RunningMean",
    "Target",
    "WarmStart",
    "methods",
    "objectives",
    "preconditioner",
]
__all__ += methods.__all__
