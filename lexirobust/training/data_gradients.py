"""Gradients of all ranks on a whole data set."""

import operator
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from lexirobust.attacks.graph_cache import Snapshot
from lexirobust.training.step.objective_losses import Gradient


class DataGradients:
    """Adds up gradients over a data set, by a graph that is kept while what it shows is the same.

    Args:
        differentiate: Maps a batch `(inputs, labels)` to one gradient a rank, of a mean loss, each
            with the number of samples that the mean is over, float64.
        depends_on: What its graph depends on.
    """

    def __init__(
        self, differentiate: Callable[[Any], list[tuple[Gradient, tf.Tensor]]], *depends_on: Any
    ) -> None:
        self._depends_on = Snapshot(*depends_on)
        self._differentiate = tf.function(differentiate, reduce_retracing=True)

    def still_hold(self) -> bool:
        """Tells if nothing has changed that the graph depends on."""
        return self._depends_on.still_holds()

    def __call__(self, x: Any, y: Any, batch_size: int) -> list[Gradient]:
        """Computes the gradients of the mean losses on a data set.

        Args:
            x: `[N, ...]` inputs.
            y: `[N]` integer labels, or `[N, C]` probabilities.
            batch_size: Number of samples in memory at a time.

        Returns:
            One gradient a rank.
        """
        sums: list[Gradient] = []
        counts: list[Any] = []
        for batch in tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size):
            ranks = self._differentiate(batch)
            rows = [_scaled(gradient, count) for gradient, count in ranks]
            sums = [*map(_added, sums, rows)] if sums else rows
            own = [count for _, count in ranks]
            counts = [*map(operator.add, counts, own)] if counts else own
        shares = [1.0 / max(1.0, float(count)) for count in counts]  # 0 where no sample counts.
        return [*map(_scaled, sums, shares)]


def _scaled(gradient: Gradient, factor: Any) -> Gradient:
    return [None if g is None else tf.cast(factor, g.dtype) * g for g in gradient]


def _added(one: Gradient, other: Gradient) -> Gradient:
    pairs = zip(one, other, strict=True)
    return [a if b is None else b if a is None else a + b for a, b in pairs]
