"""Training: Keras models whose losses are ranked, and the paper's methods as compositions."""

from lexirobust.training import objectives
from lexirobust.training.adversarial_training import AdversarialTraining
from lexirobust.training.gradient_means import RunningMean
from lexirobust.training.mix_train import MixTrain
from lexirobust.training.model import LexicographicModel
from lexirobust.training.multi_perturbation import MultiPerturbationTraining
from lexirobust.training.olgrc import OLGRC
from lexirobust.training.olsrc import OLSRC
from lexirobust.training.standard import Standard
from lexirobust.training.trades import TRADES
from lexirobust.training.warm_start import WarmStart

__all__ = [
    "OLGRC",
    "OLSRC",
    "TRADES",
    "AdversarialTraining",
    "LexicographicModel",
    "MixTrain",
    "MultiPerturbationTraining",
    "RunningMean",
    "Standard",
    "WarmStart",
    "objectives",
]
