"""All ranks' gradients, kept or computed anew each time, with what is remembered or without."""

from collections.abc import Sequence
from typing import Any, Protocol

import tensorflow as tf

from lexirobust import gem
from lexirobust.training.passes import Gradient, Passes, Scores, sum_over_replicas


class RankedGradients(Protocol):
    """What an update needs to know of the ranks' gradients, and of others that they are held to.

    Attributes:
        places: Which of all gradients are the ranks' own, the first rank's first.
        first: What no step may oppose: rank 1's gradient, or what is remembered of it.
        first_loss: Rank 1's loss, summed over replicas.
        scores: Every rank's scores.
    """

    places: list[int]
    first: Gradient
    first_loss: tf.Tensor
    scores: list[Scores]

    def gramian(self, metric: Any | None) -> tf.Tensor:
        """`[R, R]` float64 inner products in a metric, of all gradients."""

    def combined(self, weights: Any) -> Gradient:
        """The sum of all gradients, each with its weight out of `[R]`."""

    def known(self) -> list[Gradient]:
        """The ranks' gradients that are at hand, rank 1's first; then what is remembered."""


class _SideBySide:
    """Gradients that are all in memory."""

    _rows: list[Gradient]

    def gramian(self, metric: Any | None) -> tf.Tensor:
        """`[R, R]` float64 inner products in a metric, of all gradients."""
        return gem.gramian(self._rows, metric)

    def combined(self, weights: Any) -> Gradient:
        """The sum of all gradients, each with its weight out of `[R]`."""
        return gem.combine(self._rows, weights)


class Kept(_SideBySide):
    """All gradients side by side: T passes, and T gradients in memory.

    Args:
        passes: Differentiates.
        ranks: How many ranks take part, from the first.
    """

    def __init__(self, passes: Passes, ranks: int) -> None:
        rows, scores = zip(*map(passes.gradient, range(ranks)), strict=True)
        self._rows: list[Gradient] = list(rows)
        self.first = self._rows[0]
        self.scores: list[Scores] = list(scores)
        self.first_loss = sum_over_replicas([self.scores[0].total])[0]
        self.places = [*range(ranks)]

    def known(self) -> list[Gradient]:
        """All of them."""
        return self._rows


class Held(_SideBySide):
    """Gradients on the batch, each after what is remembered of it: ranks are held to both.

    Args:
        kept: The gradients on the batch, all of them at hand.
        recalled: What is remembered, of the first ranks.
    """

    def __init__(self, kept: RankedGradients, recalled: Sequence[Gradient]) -> None:
        self._own, self._recalled = kept.known(), list(recalled)
        self._rows: list[Gradient] = []
        self.places: list[int] = []
        for rank, own in enumerate(self._own):
            self._rows += self._recalled[rank : rank + 1]
            self.places.append(len(self._rows))
            self._rows.append(own)
        self.first = self._rows[0]
        self.scores = kept.scores
        self.first_loss = kept.first_loss

    def known(self) -> list[Gradient]:
        """All of them, the ranks' own before what is remembered."""
        return [*self._own, *self._recalled]


class Recomputed:
    """No more than three gradients at a time, each computed anew where it is needed.

    The Gramian takes T (T + 1) / 2 passes in place of T, and every weighted sum takes T. This
    pays where T gradients do not fit into memory.

    Args:
        passes: Differentiates.
        ranks: How many ranks take part, from the first.
    """

    def __init__(self, passes: Passes, ranks: int) -> None:
        self._passes = passes
        self._ranks = ranks
        self._last: list[tf.Tensor] = []
        self.places = [*range(ranks)]
        self.first, scores = self._pass(0)
        self.scores: list[Scores] = [scores]
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

    def _pass(self, index: int) -> tuple[Gradient, Scores]:
        # One after the other: passes that ran side by side would be in memory side by side.
        with tf.control_dependencies(self._last):
            return self._passes.gradient(index)
