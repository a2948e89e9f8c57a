"""The loss on clean inputs."""

import keras
import tensorflow as tf

from lexirobust.training.objectives.base import Batch, Objective, Score
from lexirobust.training.objectives.forward import Forward


@keras.saving.register_keras_serializable(package="lexirobust")
class Natural(Objective):
    """The compiled loss on clean inputs: rank 1 of every method in the paper.

    Args:
        name: What the logs call it.

    Example:

    >>> Natural().terms[0][1].name
    'natural'
    """

    def __init__(self, name: str = "natural") -> None:
        super().__init__(name)

    def loss(
        self, forward: Forward, batch: Batch, inputs: tf.Tensor, score: Score
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Computes the loss on clean inputs; see `Objective.loss`."""
        logits = forward(inputs)
        return score(batch.y, logits, batch.sample_weight), logits
