"""A Keras metric of many running means."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


class NamedMeans(keras.metrics.Metric):
    """Running means of several named scalars, in two variables.

    Keras resets and reads every metric by itself in every epoch. With one `keras.metrics.Mean`
    for each number that a ranked model reports, this took longer than a small model's step.

    Args:
        names: What the logs call the scalars.

    Example:

    >>> means = NamedMeans(["loss@natural", "loss@l2=1"])
    >>> means.update_state([1.0, 2.0], [1.0, 1.0])
    >>> means.update_state([3.0, 4.0], [3.0, 1.0])
    >>> {name: float(value) for name, value in means.result().items()}
    {'loss@natural': 2.5, 'loss@l2=1': 3.0}
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(name="means")
        self.names = tuple(names)
        self.total = self.add_variable((len(names),), "zeros", name="total")
        self.count = self.add_variable((len(names),), "zeros", name="count")

    def update_state(self, values: Any, weights: Any) -> None:
        """Adds one observation of every scalar.

        Args:
            values: The scalars, in the order of the names.
            weights: One weight a scalar.
        """
        values = tf.stack([tf.cast(value, self.total.dtype) for value in values])
        weights = tf.stack([tf.cast(weight, self.count.dtype) for weight in weights])
        self.total.assign_add(values * weights)
        self.count.assign_add(weights)

    def result(self) -> dict[str, tf.Tensor]:
        """Returns the mean of every scalar by its name; 0 before the first observation."""
        means = tf.math.divide_no_nan(self.total.value, self.count.value)
        return dict(zip(self.names, tf.unstack(means), strict=True))
