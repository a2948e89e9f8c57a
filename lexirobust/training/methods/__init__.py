"""Training methods, each a list of ranked objectives with settings of its own."""

from lexirobust.training.methods.adversarial_training import AdversarialTraining
from lexirobust.training.methods.mix_train import MixTrain
from lexirobust.training.methods.multi_perturbation import MultiPerturbationTraining
from lexirobust.training.methods.olgrc import OLGRC
from lexirobust.training.methods.olsrc import OLSRC
from lexirobust.training.methods.standard import Standard
from lexirobust.training.methods.trades import TRADES

__all__ = [
    "OLGRC",
    "OLSRC",
    "TRADES",
    "AdversarialTraining",
    "MixTrain",
    "MultiPerturbationTraining",
    "Standard",
]
