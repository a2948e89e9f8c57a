"""Adversarial training: a weighted sum, without priorities."""

from typing import Any

import keras

from lexirobust.attacks import Attack
from lexirobust.checks import check_number
from lexirobust.training.model import LexicographicModel
from lexirobust.training.objectives import Adversarial, Natural, WeightedSum


@keras.saving.register_keras_serializable(package="lexirobust")
class AdversarialTraining(LexicographicModel):
    """Adversarial training: `alpha` of the natural loss and the rest of the adversarial one.

    Args:
        classifier: Keras model that maps inputs to logits `[N, classes]`.
        attack: Perturbs the inputs.
        magnitude: Norm of the perturbation, above 0.
        alpha: Weight of the natural loss, from 0 to 1.
        **kwargs: As of `LexicographicModel`.

    Raises:
        ValueError: If the magnitude or `alpha` is out of range.

    Example:

    >>> import keras, lexirobust as lr
    >>> classifier = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    >>> attack = lr.attacks.PGD(norm="l2", bounds=None)
    >>> [rank.name for rank in lr.AdversarialTraining(classifier, attack, 4.0).objectives]
    ['natural+l2=4']

    Reference:
        Goodfellow et al., arXiv 1412.6572; section 1.0.2 of the paper.
    """

    def __init__(
        self,
        classifier: keras.Model,
        attack: Attack,
        magnitude: float,
        alpha: float = 0.5,
        **kwargs: Any,
    ) -> None:
        alpha = check_number("alpha", alpha, 0, 1)
        both = WeightedSum([Natural(), Adversarial(attack, magnitude)], [alpha, 1 - alpha])
        super().__init__(classifier, [both], **kwargs)
        self.attack = attack
        self.magnitude = float(magnitude)
        self.alpha = alpha
