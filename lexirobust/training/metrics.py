"""Keras metrics of many running means, and those of objectives."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from lexirobust.attacks.losses import most_likely
from lexirobust.tensors import classes_of
from lexirobust.training.objectives import Batch, Objective
from lexirobust.training.replicas import sum_over_replicas
from lexirobust.training.step.objective_losses import (
    ObjectiveLoss,
    ObjectiveLosses,
    counted_samples,
)


class NamedMeans(keras.metrics.Metric):
    """Running means of several named scalars, in two variables.

    Keras resets and reads every metric by itself in every epoch. With one `keras.metrics.Mean`
    for each number that a ranked model reports, this took longer than a small model's step.

    Args:
        names: What the logs call the scalars.
        name: The metric's own name.

    Example:

    >>> means = NamedMeans(["loss@natural", "loss@l2=1"])
    >>> means.update_state([1.0, 2.0], [1.0, 1.0])
    >>> means.update_state([3.0, 4.0], [3.0, 1.0])
    >>> {name: float(value) for name, value in means.result().items()}
    {'loss@natural': 2.5, 'loss@l2=1': 3.0}
    """

    def __init__(self, names: Sequence[str], name: str = "means") -> None:
        super().__init__(name=name)
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

    def update_all(self, values: Sequence[tf.Tensor], x: tf.Tensor) -> None:
        """Adds one observation of every scalar, weighted by the size of a batch.

        Args:
            values: The scalars, in the order of the names.
            x: `[N, ...]` the batch.
        """
        self.update_state(values, [tf.shape(x)[0]] * len(values))

    def result(self) -> dict[str, tf.Tensor]:
        """Returns the mean of every scalar by its name; 0 before the first observation."""
        means = tf.math.divide_no_nan(self.total.value, self.count.value)
        return dict(zip(self.names, tf.unstack(means), strict=True))


class RankedLoss(NamedMeans):
    """The `loss` of the logs: the weighted sum of the ranks' mean losses.

    Each mean is over the samples that its rank counts: a batch without any has no part in it. A
    rank that has counted none so far adds nothing.

    Args:
        names: The ranks' names.
        alphas: One weight a rank.
    """

    def __init__(self, names: Sequence[str], alphas: Sequence[float]) -> None:
        super().__init__(names, name="loss")
        self.alphas = tuple(alphas)

    def update(self, losses: ObjectiveLosses, scores: Sequence[ObjectiveLoss]) -> None:
        """Adds one batch.

        Args:
            losses: What the ranks see of it.
            scores: The losses of every rank, this replica's part of them.
        """
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        counts = tf.stack([losses.counted(rank) for rank in range(len(scores))])
        # A replica's `total` is its part of the mean over all; counts are the same on each of them.
        (counts,) = sum_over_replicas([counts])
        self.update_state(
            [score.total * replicas for score in scores], tf.unstack(counts / replicas)
        )

    def result(self) -> tf.Tensor:
        """Returns the weighted sum, a scalar."""
        means = tf.math.divide_no_nan(self.total.value, self.count.value)
        return tf.tensordot(tf.constant(self.alphas, means.dtype), means, 1)


class ObjectiveMeans(NamedMeans):
    """The mean loss of every objective, and the accuracy of each that gives logits.

    Where no sample counted there is no mean: it is not a number, and not 0.

    Args:
        terms: The objectives, in order.
    """

    def __init__(self, terms: Sequence[Objective]) -> None:
        self._gives_logits = [term.gives_logits for term in terms]
        super().__init__(
            [
                *(f"loss@{term.name}" for term in terms),
                *(f"accuracy@{term.name}" for term in terms if term.gives_logits),
            ]
        )

    def result(self) -> dict[str, tf.Tensor]:
        """Returns the mean of every scalar by its name; NaN of what no sample counted for."""
        # A quotient: a constant that is NaN would be reported by `enable_check_numerics`.
        means = self.total.value / self.count.value
        return dict(zip(self.names, tf.unstack(means), strict=True))

    def update(self, losses: ObjectiveLosses, scores: Sequence[ObjectiveLoss]) -> None:
        """Adds one batch.

        Args:
            losses: What the objectives see of it.
            scores: The losses and logits of every rank.
        """
        batch = losses.batch
        count = tf.shape(batch.x)[0]
        # Keras divides a loss by the number of replicas; the means over replicas do once more.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        weights = [each.weight for inputs in losses.objective_inputs for each in inputs]
        means = [loss * replicas for score in scores for loss in score.losses]
        # The mean over samples that are valid on this replica; others may have more of them.
        means = [
            loss if weight is None else loss * _mean_reciprocal(weight)
            for loss, weight in zip(means, weights, strict=True)
        ]
        # 1 or 0 a sample: a batch weighs by how many of its samples are valid.
        valid = [None if weight is None else tf.sign(weight) for weight in weights]
        scored = [mask for given, mask in zip(self._gives_logits, valid, strict=True) if given]
        logits = [values for score in scores for values in score.logits]
        accuracies = [
            _accuracy(batch, mask, values) for mask, values in zip(scored, logits, strict=True)
        ]
        self.update_state(
            [*means, *(accuracy for accuracy, _ in accuracies)],
            [
                *(count if mask is None else tf.reduce_sum(mask) for mask in valid),
                *(weight for _, weight in accuracies),
            ],
        )


def _mean_reciprocal(weight: tf.Tensor) -> tf.Tensor:
    """The factor from a mean of weighted values to a weighted mean; 0 if all weights are."""
    return tf.math.divide_no_nan(1.0, tf.reduce_mean(weight))


def _accuracy(
    batch: Batch, valid: tf.Tensor | None, logits: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The accuracy of logits `[N, C]`, and how many samples it is of."""
    counts = counted_samples(batch, valid)
    right = tf.cast(classes_of(logits) == most_likely(batch.y), counts.dtype)
    total = tf.reduce_sum(counts)
    return tf.math.divide_no_nan(tf.reduce_sum(right * counts), total), total
