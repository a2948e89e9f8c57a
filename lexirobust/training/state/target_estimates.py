"""Running estimates of what targets are of, and what these ask of a step."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import tensorflow as tf

from lexirobust.attacks.losses import most_likely
from lexirobust.tensors import classes_of
from lexirobust.training.objectives import Rank
from lexirobust.training.replicas import sum_over_replicas
from lexirobust.training.state.saved_variables import FixedState, replicated
from lexirobust.training.state.target_progress import TargetProgress
from lexirobust.training.step.objective_losses import (
    ObjectiveLoss,
    ObjectiveLosses,
    counted_samples,
)
from lexirobust.training.step.update import RankTargets
from lexirobust.training.targets import Target

STEPS: Final = 20
"""The longest time constant of running estimates, in training steps.

Noise alone shortens it to about 4. A longer one is steadier and later, and what answers it swings.
"""
DRIFT_STEPS: Final = 5.0
"""The time constant of what tells drift from noise, in training steps."""
TOLERANCE: Final = 0.1
"""The distance from its target, as a share of it, from which on a rank has all or nothing."""
PACE: Final = 0.5
"""The speed at which a rank that misses its target is to descend, as a share of its own.

A rank that goes first all the way leaves the ranks below behind, who then have the rest of the
training to catch up in.
"""
DIRECTION: Final = 0.98
"""The least cosine between a step and the descent of a rank that is late.

1 would leave nothing to the ranks below.
"""
FREE: Final = -1e6
"""A bound that no step reaches: the rank does not constrain those below it."""


class TargetEstimates(FixedState):
    """Running estimates of what targets are of.

    Args:
        targets: A target for each rank, or `None`.
        ranks: The ranked losses.
    """

    def __init__(self, targets: Sequence[Target | None], ranks: Sequence[Rank]) -> None:
        self.targets = list(targets)
        self.ranks = list(ranks)
        zeros = tf.zeros([len(self.targets)], tf.float64)
        self._means, self._offsets = replicated(zeros), replicated(zeros)
        self._drift, self._spread = replicated(zeros), replicated(zeros)
        self.progress = TargetProgress(len(self.targets))
        # Of all steps since held-out data were measured.
        self._sums, self._summed = replicated(zeros), replicated(tf.cast(zeros, tf.int64))
        means = [self._means, self._offsets, self._drift, self._spread]
        super().__init__([*means, *self.progress.variables, self._sums, self._summed])

    def update(self, losses: ObjectiveLosses, scores: Sequence[ObjectiveLoss]) -> RankTargets:
        """Adds one batch to the estimates.

        Args:
            losses: Knows the batch and its inputs.
            scores: Every rank's losses and logits on it.

        Returns:
            What targets ask of the step on this batch.
        """
        values = [
            tf.zeros([], tf.float64)
            if target is None
            else _measured(target, losses, rank, scores[rank])
            for rank, target in enumerate(self.targets)
        ]
        means = self._smoothed(tf.stack(values))
        estimates = means + self._offsets
        # 1 stands for what has no target.
        errors = tf.constant(
            [1.0 if target is None else target.error for target in self.targets], tf.float64
        )
        known = tf.constant([0.0 if target is None else 1.0 for target in self.targets], tf.float64)
        misses = known * (estimates / errors - 1.0)
        excess = tf.clip_by_value(misses / TOLERANCE, -1.0, 1.0)
        # Of its training data: more of each step does not help what only held-out data miss.
        in_training = tf.clip_by_value((means / errors - 1.0) / TOLERANCE, 0.0, 1.0)
        counted = tf.math.is_finite(tf.stack(values))
        late = self.progress.lateness(estimates, counted, errors, misses)
        return RankTargets(
            bounds=bound_of(excess, PACE + (1.0 - PACE) * late),
            directions=DIRECTION * late * tf.minimum(tf.maximum(excess, 0.0), in_training),
            estimates=estimates,
            kept=tf.clip_by_value(misses, 0.0, 1.0),
        )

    def _smoothed(self, now: tf.Tensor) -> tf.Tensor:
        """Updates the running means, which follow the faster the more they lag behind.

        A mean over many steps would be late where the loss moves fast, and steps that answer it
        would swing about the target. The lag shows: its differences from what comes in are of one
        sign, where those of noise cancel out (Trigg and Leach, 1967).
        """
        # Loss scaling skips steps that are not. NaN: no sample of the batch counts for the rank.
        finite = tf.math.is_finite(now)
        taken = self.progress.taken
        count = taken + tf.cast(finite, tf.int64)
        old = self._means.value()
        error = tf.where(finite & (taken.value() > 0), now - old, tf.zeros_like(now))
        drift = self._drift + (error - self._drift) / DRIFT_STEPS
        spread = self._spread + (tf.abs(error) - self._spread) / DRIFT_STEPS
        lag = tf.square(tf.math.divide_no_nan(drift, spread))
        share = tf.maximum(1.0 / tf.cast(tf.clip_by_value(count, 1, STEPS), tf.float64), lag)
        means = tf.where(finite, old + share * (now - old), old)
        for variable, value in (
            (self._means, means),
            (self._drift, tf.where(finite, drift, self._drift)),
            (self._spread, tf.where(finite, spread, self._spread)),
            (taken, count),
            (self._sums, self._sums + tf.where(finite, now, tf.zeros_like(now))),
            (self._summed, self._summed + tf.cast(finite, tf.int64)),
        ):
            variable.assign(value)
        return means

    @property
    def by_name(self) -> dict[str, Target]:
        """The targets by the names of their ranks."""
        pairs = zip(self.ranks, self.targets, strict=True)
        return {rank.name: target for rank, target in pairs if target is not None}

    def hold_to_training(self) -> None:
        """Takes back what `hold_to` did, as a `fit` does that has no callback for it."""
        self.progress.shift(-self._offsets.value())
        for variable in (self._offsets, self._sums, self._summed):
            variable.assign(tf.zeros_like(variable.value()))

    def hold_to(self, results: dict[str, float]) -> dict[str, float]:
        """Moves estimates to what was measured elsewhere, from here on by as much.

        The shift is what was measured minus the mean of the last steps, or minus the mean of all
        steps since the last time, whichever is larger. At the end of an epoch samples were seen
        longest ago, so that the last steps' mean is too high; while the model still learns fast,
        that of all steps is.

        Args:
            results: The logs of an evaluation.

        Returns:
            The loss or the accuracy of each rank with a target, by its name.
        """
        offsets, measured = self._offsets.numpy(), {}
        whole = self._sums.numpy() / np.maximum(1, self._summed.numpy())
        least = np.minimum(self._means.numpy(), whole)
        for rank, target in enumerate(self.targets):
            if target is None:
                continue
            terms, name = self.ranks[rank].terms, self.ranks[rank].name
            if target.accuracy is None:
                losses = [results[f"loss@{term.name}"] for _, term in terms]
                weights = self.ranks[rank].weigh(tf.constant(losses, tf.float64))
                measured[name] = float(np.dot(np.asarray(weights, np.float64), losses))
                error = measured[name]
            else:
                measured[name] = results[f"accuracy@{terms[0][1].name}"]
                error = 1.0 - measured[name]
            offsets[rank] = error - least[rank]
        self._offsets.assign(offsets)
        self._sums.assign(np.zeros_like(whole))
        self._summed.assign(np.zeros_like(self._summed.numpy()))
        return measured


def bound_of(excess: tf.Tensor, pace: tf.Tensor) -> tf.Tensor:
    """Tells how fast a rank is to descend at least.

    Args:
        excess: How far it misses its target, from -1 to 1, both ends included.
        pace: How fast it is to descend at an excess of 1.

    Returns:
        As a share of how fast it would alone: from 0 at the target to `pace` if it misses it; below
        0 it may be spent, the more the farther it is from its target, at -1 without a limit.

    Example:

    >>> [float(bound_of(tf.constant(e, tf.float64), PACE)) for e in (1.0, 0.5, 0.0, -0.5)]
    [0.5, 0.25, 0.0, -1.0]
    """
    left = tf.maximum(1.0 + excess, -1.0 / FREE)
    return tf.where(excess < 0, tf.maximum(excess / left, FREE), pace * excess)


def _measured(
    target: Target, losses: ObjectiveLosses, rank: int, score: ObjectiveLoss
) -> tf.Tensor:
    """The loss or the error rate of a rank on a batch, over all replicas; NaN if none counts."""
    if target.accuracy is None:
        sums = tf.stack([tf.cast(score.data_loss, tf.float64), losses.counted(rank)])
        total, counted = tf.unstack(sum_over_replicas([sums])[0])
        return tf.where(counted > 0, total, np.nan)
    batch = losses.batch
    wrong = tf.cast(classes_of(score.logits[0]) != most_likely(batch.y), tf.float64)
    counts = tf.cast(counted_samples(batch, losses.objective_inputs[rank][0].weight), tf.float64)
    sums = tf.stack([tf.reduce_sum(counts * wrong), tf.reduce_sum(counts)])
    total, counted = tf.unstack(sum_over_replicas([sums])[0])
    return tf.where(counted > 0, tf.math.divide_no_nan(total, counted), np.nan)
