"""OLSRC: ranked losses on plain perturbed inputs."""

from collections.abc import Sequence
from typing import Any

import keras

from lexirobust.attacks import Attack
from lexirobust.checks import check_magnitudes
from lexirobust.training.model import LexicographicModel
from lexirobust.training.objectives import Adversarial, Natural


@keras.saving.register_keras_serializable(package="lexirobust")
class OLSRC(LexicographicModel):
    """Optimal lexicographically standardly robust classifier: the natural loss, then the rest.

    The natural loss is rank 1; the losses on inputs perturbed by growing magnitudes follow.

    Args:
        classifier: Keras model that maps inputs to logits `[N, classes]`.
        attack: Perturbs the inputs.
        magnitudes: Norms of the perturbations, above 0 and ascending.
        alphas: One weight a rank, the natural one first, summing to 1. `None`: half for rank 1,
            the rest shared.
        **kwargs: As of `LexicographicModel`.

    Raises:
        ValueError: If the magnitudes or `alphas` are not as above.

    Example:

    >>> import keras, lexirobust as lr
    >>> classifier = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    >>> attack = lr.attacks.PGD(norm="l2", bounds=None)
    >>> model = lr.OLSRC(classifier, attack=attack, magnitudes=[1.0, 2.0])
    >>> [rank.name for rank in model.objectives], model.alphas
    (['natural', 'l2=1', 'l2=2'], (0.5, 0.25, 0.25))

    Reference:
        Sections 4.2, 4.3 and 6 of the paper.
    """

    def __init__(
        self,
        classifier: keras.Model,
        attack: Attack,
        magnitudes: Sequence[float],
        alphas: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        magnitudes = check_magnitudes(magnitudes)
        ranks = [Natural(), *(Adversarial(attack, magnitude) for magnitude in magnitudes)]
        super().__init__(classifier, ranks, alphas, **kwargs)
        self.attack = attack
        self.magnitudes = tuple(magnitudes)
