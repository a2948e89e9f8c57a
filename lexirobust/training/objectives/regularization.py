"""The classifier's own regularization losses."""

import keras
import tensorflow as tf

from lexirobust.training.objectives.base import Batch, Objective, Score
from lexirobust.training.objectives.forward import Forward


@keras.saving.register_keras_serializable(package="lexirobust")
class Regularization(Objective):
    """The classifier's own losses (kernel and activity regularizers, `add_loss`) as one rank.

    Without this objective they are part of rank 1's loss. With it they belong to it alone: ranked
    below the main loss, no step spends the main loss on a smaller penalty.

    Args:
        name: What the logs call it.

    Example:

    >>> import keras, numpy as np, lexirobust as lr
    >>> layer = keras.layers.Dense(2, kernel_initializer="ones", kernel_regularizer="l2")
    >>> ranks = [lr.objectives.Natural(), lr.objectives.Regularization()]
    >>> model = lr.LexicographicModel(keras.Sequential([keras.Input((3,)), layer]), ranks)
    >>> model.compile("sgd")
    >>> logs = model.evaluate(np.eye(3), np.array([0, 1, 1]), return_dict=True, verbose=0)
    >>> round(logs["loss@regularization"], 6)  # 0.01 times six weights of 1
    0.06

    Reference:
        Section 4.2 of the paper.
    """

    gives_logits = False

    def __init__(self, name: str = "regularization") -> None:
        super().__init__(name)

    def loss(
        self, forward: Forward, batch: Batch, inputs: tf.Tensor, score: Score
    ) -> tuple[tf.Tensor, None]:
        """Sums the classifier's own losses on clean inputs; see `Objective.loss`."""
        del score
        forward(inputs)
        return forward.regularization(), None
