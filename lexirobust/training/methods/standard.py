"""Plain training."""

from typing import Any

import keras

from lexirobust.training.model import LexicographicModel
from lexirobust.training.objectives import Natural


@keras.saving.register_keras_serializable(package="lexirobust")
class Standard(LexicographicModel):
    """Plain training on clean inputs: what the other methods are measured against.

    Args:
        classifier: Keras model that maps inputs to logits `[N, classes]`.
        **kwargs: As of `LexicographicModel`.

    Example:

    >>> import keras, lexirobust as lr
    >>> classifier = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    >>> [rank.name for rank in lr.Standard(classifier).objectives]
    ['natural']

    Reference:
        Section 6 of the paper.
    """

    def __init__(self, classifier: keras.Model, **kwargs: Any) -> None:
        super().__init__(classifier, [Natural()], **kwargs)
