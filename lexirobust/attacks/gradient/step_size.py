"""Step sizes that adapt to each sample."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf


class StepSizeState(NamedTuple):
    """The step size of each sample, and what it is adapted by at the next checkpoint."""

    length: tf.Tensor
    rises: tf.Tensor
    before: list[tf.Tensor]
    halved: tf.Tensor
    gap: tf.Tensor
    checkpoint: tf.Tensor


def initial_step_size_state(
    length: tf.Tensor, steps: Any, lowest: list[tf.Tensor]
) -> StepSizeState:
    """The step sizes before the first step.

    Args:
        length: `[N]` sizes of the first step.
        steps: Number of steps, scalar.
        lowest: Values of the goals, `[N]` each, that any point exceeds.

    Returns:
        The state that `adapt_step_size` changes.
    """
    none = tf.zeros_like(length, tf.int32)
    gap = _share(steps, 0.22)
    return StepSizeState(length, none, lowest, tf.ones_like(none, tf.bool), gap, gap)


def adapt_step_size(
    sizes: StepSizeState, number: tf.Tensor, steps: Any, rose: tf.Tensor, best: list[tf.Tensor]
) -> tuple[StepSizeState, tf.Tensor]:
    """Halves the step size of samples that have stalled, and doubles that of those that only rise.

    As in APGD (arXiv 2003.01690), a sample has stalled if fewer than three quarters of its steps
    since the last checkpoint rose, or if its best value is what it was there, at the same step
    size. Doubling is what brings a linear goal to its exact end, for l1 above all.

    Args:
        sizes: The step sizes so far.
        number: How many steps were made, scalar.
        steps: How many there are, scalar.
        rose: `[N]` bool: whether the last step did not lower the goals.
        best: The best point's values, `[N]` each.

    Returns:
        The step sizes from here on, and `[N]` bool: which samples go back to their best point.
    """
    at = number >= sizes.checkpoint
    rises = sizes.rises + tf.cast(rose, tf.int32)
    few = 4 * rises < 3 * sizes.gap
    stuck = ~sizes.halved & ~is_better(best, sizes.before)
    stalled = at & (few | stuck)
    growing = at & ~stalled & (rises >= tf.maximum(sizes.gap, 4))
    factor = tf.where(stalled, 0.5, tf.where(growing, 2.0, 1.0))
    gap = tf.maximum(sizes.gap - _share(steps, 0.03), _share(steps, 0.06))
    gap = tf.where(at, gap, sizes.gap)
    judged = StepSizeState(
        sizes.length * tf.cast(factor, sizes.length.dtype),
        tf.where(at, 0, rises),
        [tf.where(at, new, old) for new, old in zip(best, sizes.before, strict=True)],
        tf.where(at, stalled, sizes.halved),
        gap,
        tf.where(at, number + gap, sizes.checkpoint),
    )
    return judged, stalled


def _share(steps: Any, share: float) -> tf.Tensor:
    """A share of the steps, at least one."""
    return tf.maximum(tf.cast(share * tf.cast(steps, tf.float32), tf.int32), 1)


def is_better(
    values: Sequence[tf.Tensor], best: Sequence[tf.Tensor], ties: bool = False
) -> tf.Tensor:
    """Compares values of goals lexicographically.

    Args:
        values: The values, `[N]` each, the most important goal's first.
        best: What they are compared to.
        ties: Whether equal values are better: where values round to the same, the later point is
            as good, and farther along.

    Returns:
        `[N]` bool tensor. Not-a-number is better than any number, so that it is not hidden.
    """
    better = tf.zeros_like(values[0], tf.bool)
    equal = tf.ones_like(better)
    for value, old in zip(values, best, strict=True):
        better |= equal & ((value > old) | tf.math.is_nan(value))
        equal &= value == old
    return better | equal if ties else better
