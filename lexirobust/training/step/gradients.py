"""Gradients of all ranks: stored, recomputed each time, or ranked by their means."""

from collections.abc import Sequence
from typing import Any, Protocol

import tensorflow as tf

from lexirobust import gem
from lexirobust.training.replicas import sum_over_replicas
from lexirobust.training.step.objective_losses import (
    Gradient,
    ObjectiveLoss,
    ObjectiveLosses,
)


class RankedGradients(Protocol):
    """The gradients of all ranks, as an update needs them.

    Attributes:
        first: What no step may oppose: rank 1's gradient, or its mean.
        first_loss: Rank 1's loss, summed over replicas.
        scores: Every rank's scores.
    """

    first: Gradient
    first_loss: tf.Tensor
    scores: list[ObjectiveLoss]

    def gramian(self, metric: Any | None) -> tf.Tensor:
        """`[T, T]` float64 inner products in a metric, by which ranks are compared."""

    def combined(self, weights: Any) -> Gradient:
        """The sum of all gradients, each with its weight out of `[T]`."""

    def known(self) -> list[Gradient]:
        """The ranks' gradients that are at hand, rank 1's first; then their means."""


class StoredGradients:
    """All gradients side by side: T passes, and T gradients in memory.

    Args:
        objective_losses: Differentiates.
        ranks: How many ranks take part, from the first.
    """

    def __init__(self, objective_losses: ObjectiveLosses, ranks: int) -> None:
        rows, scores = zip(*map(objective_losses.gradient, range(ranks)), strict=True)
        self._rows: list[Gradient] = list(rows)
        self.first = self._rows[0]
        self.scores: list[ObjectiveLoss] = list(scores)
        self.first_loss = sum_over_replicas([self.scores[0].total])[0]

    def gramian(self, metric: Any | None) -> tf.Tensor:
        """`[T, T]` float64 inner products in a metric."""
        return gem.gramian(self._rows, metric)

    def combined(self, weights: Any) -> Gradient:
        """The sum of all gradients, each with its weight out of `[T]`."""
        return gem.combine(self._rows, weights)

    def known(self) -> list[Gradient]:
        """All of them."""
        return self._rows


class MeanGradients:
    """Gradients on the batch, which are ranked by their means over many batches.

    Conflicts are measured between the means, since batches are mostly noise; the step is made of
    the batch's own gradients, since means lag behind. On average over batches no rank's part of it
    opposes the mean of a higher rank, as far as weights and metric do not depend on the batch.

    Args:
        kept: The gradients on the batch, all of them at hand.
        means: What is remembered, one mean a rank.
    """

    def __init__(self, kept: RankedGradients, means: Sequence[Gradient]) -> None:
        self._kept, self._means = kept, list(means)
        self.first = self._means[0]
        self.scores = kept.scores
        self.first_loss = kept.first_loss

    def gramian(self, metric: Any | None) -> tf.Tensor:
        """`[T, T]` float64 inner products of the means in a metric."""
        return gem.gramian(self._means, metric)

    def combined(self, weights: Any) -> Gradient:
        """The sum of the batch's gradients, each with its weight out of `[T]`."""
        return self._kept.combined(weights)

    def known(self) -> list[Gradient]:
        """The batch's, and the means."""
        return [*self._kept.known(), *self._means]


class RecomputedGradients:
    """No more than three gradients at a time, each computed anew where it is needed.

    The first Gramian takes T (T + 1) / 2 passes in place of T, a weighted sum T - 1. This pays
    where T gradients do not fit into memory.

    Args:
        objective_losses: Differentiates.
        ranks: How many ranks take part, from the first.
    """

    def __init__(self, objective_losses: ObjectiveLosses, ranks: int) -> None:
        self._objective_losses = objective_losses
        self._ranks = ranks
        self._last: list[tf.Tensor] = []
        self.first, scores = self._pass(0)
        self.scores: list[ObjectiveLoss] = [scores]
        self.first_loss = sum_over_replicas([scores.total])[0]

    def gramian(self, metric: Any | None) -> tf.Tensor:
        """`[T, T]` float64 inner products in a metric."""
        entries: dict[tuple[int, int], tf.Tensor] = {}
        for low in range(self._ranks):
            row = self._pass(low)[0] if low else self.first
            for high in range(low, self._ranks):
                other, scores = (row, None) if high == low else self._pass(high)
                if scores is not None and len(self.scores) == high:
                    self.scores.append(scores)
                product = gem.inner_products([row], [other], metric)[0, 0]
                entries[low, high] = entries[high, low] = product
                self._last = [product]
        ranks = range(self._ranks)
        return tf.stack([tf.stack([entries[low, high] for high in ranks]) for low in ranks])

    def combined(self, weights: Any) -> Gradient:
        """The sum of all gradients, each with its weight out of `[T]`."""
        weights = tf.unstack(tf.convert_to_tensor(weights))
        total = gem.combine([self.first], weights[:1])
        for index, weight in enumerate(weights[1:], 1):
            row, _ = self._pass(index)
            total = gem.combine([total, row], tf.stack([tf.ones_like(weight), weight]))
            self._last = [t for t in total if t is not None]
        return total

    def known(self) -> list[Gradient]:
        """Rank 1's alone."""
        return [self.first]

    def _pass(self, index: int) -> tuple[Gradient, ObjectiveLoss]:
        # One after the other: passes that ran side by side would be in memory side by side.
        with tf.control_dependencies(self._last):
            return self._objective_losses.gradient(index)
