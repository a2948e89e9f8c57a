"""The progress of ranks toward their targets, compared with the steps that a training has left."""

from typing import Any, Final

import numpy as np
import tensorflow as tf

from lexirobust.training.state.saved_variables import replicated

RECENT: Final = 4.0
"""A mean whose share of each step is this over the number of steps so far tells recent progress.

Of a loss that falls at an even rate it lags behind by a fifth of what fell since the beginning:
one over this plus 1.
"""
ON_TIME: Final = 12.0
"""A rank is on its way that would make up for what it misses as often in the steps that are left.

Losses fall ever more slowly, so that what they do at present flatters.
"""
LATE: Final = 6.0
"""A rank is late that would make up for it no more often than this."""


class TargetProgress:
    """Tells which ranks will be late for their targets, at the rate that they made of late.

    Args:
        count: The number of ranks.
    """

    def __init__(self, count: int) -> None:
        zeros = tf.zeros([count], tf.float64)
        self._slow_means, self._end = replicated(zeros), replicated(zeros)
        self.taken = replicated(tf.zeros([count], tf.int64))
        """`[R]` int64: how many steps have counted for each rank."""

    @property
    def variables(self) -> list[Any]:
        """What is to be saved, in order."""
        return [self._slow_means, self._end, self.taken]

    @property
    def steps(self) -> int:
        """The number of steps that counted, for the rank of which most did."""
        return int(np.max(self.taken.numpy()))

    @property
    def expected(self) -> int:
        """The number of steps of a training that are still to come; 0: none, or it is not known."""
        return int(max(0.0, np.max(self._end.numpy() - self.taken.numpy())))

    def expect(self, steps: int | None) -> None:
        """Sets the number of steps that are still to come; `None`: it is not known."""
        taken = tf.cast(self.taken, tf.float64)
        self._end.assign(tf.zeros_like(taken) if steps is None else taken + float(steps))

    def steps_left(self) -> tf.Tensor:
        """Counts the steps that are still to come; if that is not known, as many as there were.

        Returns:
            `[R]` float64, one number a rank.
        """
        taken, end = tf.cast(self.taken, tf.float64), self._end.value()
        return tf.where(taken > end, taken, end - taken)

    def lateness(
        self, estimates: tf.Tensor, counted: tf.Tensor, errors: tf.Tensor, misses: tf.Tensor
    ) -> tf.Tensor:
        """Adds a step that `taken` has counted, and tells how late each rank is.

        Args:
            estimates: `[R]` float64: the ranks' losses or error rates.
            counted: `[R]` bool: for which ranks the step counts.
            errors: `[R]` float64: what meets the targets.
            misses: `[R]` float64: the share of its target by which each rank misses it.

        Returns:
            `[R]` float64: 0 for a rank that is on its way to its target, up to 1 for one that
            is late.
        """
        rate = self.rate(estimates, counted) / errors
        times = times_over(rate, self.steps_left(), misses)
        return tf.clip_by_value((ON_TIME - times) / (ON_TIME - LATE), 0.0, 1.0)

    def rate(self, estimates: tf.Tensor, counted: tf.Tensor) -> tf.Tensor:
        """Updates the slow means, and tells by how much a step lowered estimates of late.

        Args:
            estimates: `[R]` float64: the ranks' losses or error rates.
            counted: `[R]` bool: for which ranks the step counts.

        Returns:
            `[R]` float64, below 0 for what rose.
        """
        steps = tf.maximum(tf.cast(self.taken, tf.float64), 1.0)
        old = self._slow_means.value()
        slow = old + RECENT / tf.maximum(steps, RECENT) * (estimates - old)
        slow = tf.where(counted, slow, old)
        self._slow_means.assign(slow)
        return (RECENT + 1.0) * (slow - estimates) / steps

    def shift(self, by: tf.Tensor) -> None:
        """Moves what estimates have been so far, as if all had been higher by `[R]` numbers."""
        self._slow_means.assign_add(by)


def times_over(rate: tf.Tensor, steps_left: tf.Tensor, misses: tf.Tensor) -> tf.Tensor:
    """Tells how often a rank would make up for what it misses of its target.

    Args:
        rate: By how much of its target it comes nearer in a step.
        steps_left: How many steps are still to come.
        misses: By how much of its target it misses it; at 0 or below, it does not.

    Returns:
        How often, at this rate, in these steps; 0 if it misses nothing.

    Example:

    >>> rates = tf.constant([0.12, 0.0], tf.float64)
    >>> left, missed = tf.constant(50.0, tf.float64), tf.constant(0.5, tf.float64)
    >>> times_over(rates, left, missed).numpy().round(3).tolist()
    [12.0, 0.0]
    """
    return tf.math.divide_no_nan(rate * steps_left, tf.maximum(misses, 0.0))
