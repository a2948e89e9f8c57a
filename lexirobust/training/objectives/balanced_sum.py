"""Several losses in one rank, the larger ones with more weight."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from lexirobust.training.objectives.base import Objective, Rank


@keras.saving.register_keras_serializable(package="lexirobust")
class BalancedSum(Rank):
    """Several objectives added up in one rank, each weighted by its share of the sum of losses.

    With losses `l_k` on the whole batch, weights are `l_k / (l_1 + ... + l_K)`, anew in each step,
    and constants to the gradient, which then points along that of `l_1^2 + ... + l_K^2`. Where all
    losses are 0, weights are equal; a loss below 0 counts as 0. The weights take one more forward
    pass a step.

    Args:
        objectives: The objectives, whose losses should not fall below 0.

    Raises:
        ValueError: If there are none.

    Example:

    >>> from lexirobust.training.objectives import Natural
    >>> both = BalancedSum([Natural(), Natural("again")])
    >>> [float(weight) for weight in both.weigh(tf.constant([1.0, 3.0]))]
    [0.25, 0.75]
    """

    by_losses = True

    def __init__(self, objectives: Sequence[Objective]) -> None:
        if not objectives or not all(isinstance(each, Objective) for each in objectives):
            raise ValueError(
                f"`objectives` must be a non-empty list of objectives. Received: {objectives!r}."
            )
        super().__init__("+".join(objective.name for objective in objectives))
        self.objectives = list(objectives)

    @property
    def terms(self) -> list[tuple[float, Objective]]:
        """The terms of the sum, with the weights that equal losses give them."""
        return [(1.0 / len(self.objectives), objective) for objective in self.objectives]

    def weigh(self, losses: tf.Tensor | None) -> list[Any]:
        """Returns each loss's share of their sum; see `Rank.weigh`."""
        assert losses is not None
        positive = tf.nn.relu(tf.stop_gradient(losses))
        total = tf.reduce_sum(positive)
        return tf.unstack(tf.where(total > 0, positive / total, 1.0 / len(self.objectives)))
