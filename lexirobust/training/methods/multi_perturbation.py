"""Adversarial training against several attacks: the worst of them, or all."""

from collections.abc import Sequence
from typing import Any, Final

import keras

from lexirobust.attacks import Attack, WorstCase
from lexirobust.attacks.worst_case import check_union
from lexirobust.checks import check_number
from lexirobust.training.model import LexicographicModel
from lexirobust.training.objectives import Adversarial, Natural, WeightedSum

STRATEGIES: Final = ("max", "avg")


@keras.saving.register_keras_serializable(package="lexirobust")
class MultiPerturbationTraining(LexicographicModel):
    """Adversarial training against several attacks: `alpha` of the natural loss, the rest theirs.

    Args:
        classifier: Keras model that maps inputs to logits `[N, classes]`.
        attacks: At least two attacks; for `"max"` they must suit `attacks.WorstCase`.
        magnitudes: What each attack moves by, above 0, in its own norm.
        strategy: `"max"`: each sample is trained on where its loss is largest among all attacks.
            `"avg"`: it is trained on all of them, with equal weights; those of one norm and
            magnitude are numbered in the logs, as in `"l2=2 (1)"`.
        alpha: Weight of the natural loss, from 0 to 1; 0 in the reference.
        **kwargs: As of `LexicographicModel`.

    Raises:
        TypeError: If one of `attacks` is not an attack.
        ValueError: If another argument is not as above.

    Example:

    >>> import keras, lexirobust as lr
    >>> classifier = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    >>> attacks = [lr.attacks.PGD(norm=norm, bounds=None) for norm in ("linf", "l2")]
    >>> for strategy in ("max", "avg"):
    ...     model = lr.MultiPerturbationTraining(classifier, attacks, [0.3, 2.0], strategy)
    ...     print([(weight, term.name) for weight, term in model.objectives[0].terms])
    [(0.5, 'natural'), (0.5, 'max')]
    [(0.5, 'natural'), (0.25, 'linf=0_3'), (0.25, 'l2=2')]

    Reference:
        Tramer and Boneh, arXiv 1904.13000.
    """

    def __init__(
        self,
        classifier: keras.Model,
        attacks: Sequence[Attack],
        magnitudes: Sequence[float],
        strategy: str = "max",
        alpha: float = 0.5,
        **kwargs: Any,
    ) -> None:
        attacks, magnitudes = check_union(attacks, magnitudes)
        if strategy not in STRATEGIES:
            raise ValueError(f"`strategy` must be one of {STRATEGIES}. Received: {strategy!r}.")
        alpha = check_number("alpha", alpha, 0, 1)
        if strategy == "max":
            attacked = [Adversarial(WorstCase(attacks, magnitudes), 1.0, name="max")]
        else:
            pairs = [*zip(attacks, magnitudes, strict=True)]
            names = _apart([Adversarial(*pair).name for pair in pairs])
            attacked = [Adversarial(*p, name=name) for p, name in zip(pairs, names, strict=True)]
        weights = [alpha, *[(1 - alpha) / len(attacked)] * len(attacked)]
        super().__init__(classifier, [WeightedSum([Natural(), *attacked], weights)], **kwargs)
        self.attacks = tuple(attacks)
        self.magnitudes = tuple(magnitudes)
        self.strategy = strategy
        self.alpha = alpha


def _apart(names: Sequence[str]) -> list[str]:
    """The same names, numbered where attacks share their norm and magnitude."""
    return [
        f"{name} ({names[: place + 1].count(name)})" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    ]
