"""TRADES: the natural loss plus how far perturbation moves the prediction."""

from typing import Any

import keras

from lexirobust.attacks import Attack
from lexirobust.checks import check_number
from lexirobust.training.model import LexicographicModel
from lexirobust.training.objectives import Divergence, Natural, WeightedSum


@keras.saving.register_keras_serializable(package="lexirobust")
class TRADES(LexicographicModel):
    """TRADES: the natural loss, plus `beta` times the divergence under attack.

    Args:
        classifier: Keras model that maps inputs to logits `[N, classes]`.
        attack: Perturbs the inputs; here it raises the divergence from the clean prediction, and
            must have a random start, as of `objectives.Divergence`.
        magnitude: Norm of the perturbation, above 0.
        beta: Weight of the divergence, at least 0.
        **kwargs: As of `LexicographicModel`.

    Raises:
        ValueError: If the magnitude or `beta` is out of range, or the attack has no random start.

    Example:

    >>> import keras, lexirobust as lr
    >>> classifier = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    >>> attack = lr.attacks.PGD(norm="l2", bounds=None)
    >>> [rank.name for rank in lr.TRADES(classifier, attack, 4.0).objectives]
    ['natural+l2=4']

    Reference:
        Zhang et al., arXiv 1901.08573.
    """

    def __init__(
        self,
        classifier: keras.Model,
        attack: Attack,
        magnitude: float,
        beta: float = 1.0,
        **kwargs: Any,
    ) -> None:
        beta = check_number("beta", beta, 0)
        both = WeightedSum([Natural(), Divergence(attack, magnitude)], [1.0, beta])
        super().__init__(classifier, [both], **kwargs)
        self.attack = attack
        self.magnitude = float(magnitude)
        self.beta = beta
