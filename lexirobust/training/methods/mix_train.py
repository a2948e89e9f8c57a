"""Dynamic mixed training: a sum of two losses whose weights follow the losses."""

from typing import Any

import keras

from lexirobust.attacks import Attack
from lexirobust.training.model import LexicographicModel
from lexirobust.training.objectives import Adversarial, BalancedSum, Natural


@keras.saving.register_keras_serializable(package="lexirobust")
class MixTrain(LexicographicModel):
    """Adversarial training whose weights follow the losses: the worse of the two counts more.

    A step minimizes `(1 - w) * natural + w * adversarial`, where `w` is the adversarial loss's
    share of the two losses' sum on the batch, before the step: all weight goes to robustness once
    clean inputs are right for sure, and comes back as their loss rises. Weights can be read off
    the logs, `loss@natural` and `loss@NORM=MAGNITUDE`.

    What is MixTrain's here is a weight between the two losses that adapts in training. The rule for
    it is this library's own, and applies step by step, not epoch by epoch. The adversarial loss is
    that of an attack, no bound on the loss: nothing is verified, and the choice of a few samples
    that makes bounds cheap is not needed.

    Args:
        classifier: Keras model that maps inputs to logits `[N, classes]`.
        attack: Perturbs the inputs.
        magnitude: Norm of the perturbation, above 0.
        **kwargs: As of `LexicographicModel`.

    Raises:
        ValueError: If the magnitude is out of range.

    Example:

    >>> import keras, lexirobust as lr
    >>> classifier = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    >>> attack = lr.attacks.PGD(norm="l2", bounds=None)
    >>> [rank.name for rank in lr.MixTrain(classifier, attack, 4.0).objectives]
    ['natural+l2=4']

    Reference:
        After Wang et al., arXiv 1811.02625, dynamic mixed training.
    """

    def __init__(
        self, classifier: keras.Model, attack: Attack, magnitude: float, **kwargs: Any
    ) -> None:
        both = BalancedSum([Natural(), Adversarial(attack, magnitude)])
        super().__init__(classifier, [both], **kwargs)
        self.attack = attack
        self.magnitude = float(magnitude)
