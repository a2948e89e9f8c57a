"""Targets: how good a rank is to be before it lets the ranks below it spend what is left."""

from collections.abc import Sequence
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf

from lexirobust.attacks.losses import most_likely
from lexirobust.tensors import classes_of
from lexirobust.training.objectives import Rank
from lexirobust.training.state.saved_variables import FixedState, replicated
from lexirobust.training.step.objective_losses import (
    ObjectiveLoss,
    ObjectiveLosses,
    counted_samples,
    sum_over_replicas,
)
from lexirobust.training.step.update import RankTargets

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
FREE: Final = -1e6
"""A bound that no step reaches: the rank does not constrain those below it."""


@keras.saving.register_keras_serializable(package="lexirobust")
class Target:
    """The loss or the accuracy at which a rank is good enough.

    While a rank misses its target, the ranks below it must let it descend: half as fast as it would
    alone if it is on its way there, and as fast as alone, in most of each step, if it would be late
    for the end of `fit`. Once it has met it, they may spend what is left: as much as brings it back
    to its target, and no more. Far above its target it keeps its alpha, which is shared by the
    ranks below it the more, the nearer it comes. So a model with `Target(accuracy=0.99)` for its
    natural rank is as robust as training finds at 99 % accuracy.

    What is compared with the target is a running mean over the last few training steps, or, with
    `callbacks.HeldOutTargets`, what held-out data say. A target that cannot be reached takes most
    of each step; `fit` warns of it at its end.

    Args:
        loss: The loss of the rank as it is logged, `loss@NAME`, above 0, without the classifier's
            regularization losses.
        accuracy: The share of samples that are classified rightly, above 0 and below 1: on
            perturbed inputs, if the rank sees such. Whatever samples weigh, each counts as one,
            and those of weight 0 do not. Only of a rank with logits.

    Raises:
        ValueError: If not one of both is given, or it is out of range.

    Example:

    >>> import keras, lexirobust as lr
    >>> x, y = lr.datasets.toy(100, seed=0)
    >>> attack = lr.attacks.PGD(norm="l2", steps=1, restarts=2, bounds=None)
    >>> classifier = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    >>> model = lr.OLSRC(classifier, attack, [4.0], targets=[lr.Target(accuracy=0.9)])
    >>> model.compile("adam")
    >>> logs = model.fit(x, y, epochs=1, verbose=0).history
    >>> sorted(name for name in logs if name.startswith(("distance", "estimate", "target")))
    ['distance@natural', 'estimate@natural', 'target@natural']

    Reference:
        Section 8 of the paper, "easing the lexicographical preference"; Gong, Liu and Liu,
        "Bi-objective trade-off with dynamic barrier gradient descent", NeurIPS 2021. Error rates
        constrained through a loss's gradient: Cotter et al., arXiv 1804.06500.
    """

    def __init__(self, *, loss: float | None = None, accuracy: float | None = None) -> None:
        if (loss is None) == (accuracy is None):
            raise ValueError(
                "`loss` or `accuracy` must be given, and not both. Received: "
                f"loss={loss!r}, accuracy={accuracy!r}."
            )
        if loss is not None and not 0 < loss < np.inf:
            raise ValueError(f"`loss` must be finite and above 0. Received: {loss!r}.")
        if accuracy is not None and not 0 < accuracy < 1:
            raise ValueError(
                f"`accuracy` must lie between 0 and 1, as in 0.99. Received: {accuracy!r}."
            )
        self.loss = None if loss is None else float(loss)
        self.accuracy = None if accuracy is None else float(accuracy)

    @property
    def value(self) -> float:
        """The loss, or the accuracy."""
        return self.error if self.accuracy is None else self.accuracy

    @property
    def error(self) -> float:
        """The largest loss, or the largest error rate, that meets the target."""
        if self.loss is not None:
            return self.loss
        assert self.accuracy is not None
        return 1.0 - self.accuracy

    def get_config(self) -> dict[str, Any]:
        """Returns the settings from which `from_config` makes an equal one."""
        return {"loss": self.loss, "accuracy": self.accuracy}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Target":
        """Makes one from what `get_config` returned."""
        return cls(**config)


def check_targets(targets: Any, ranks: Sequence[Rank]) -> list[Target | None]:
    """Checks targets, and fills them up.

    Args:
        targets: For each rank, the first one first, a `Target`, a number for a loss, or `None`;
            those that are left out are `None`.
        ranks: The ranked losses.

    Returns:
        One a rank.

    Raises:
        ValueError: If there are too many, one is out of range, the last rank has one, or one of
            accuracy is of a rank that has none.
        TypeError: If one is something else.
    """
    if isinstance(targets, str | Target) or not isinstance(targets, Sequence):
        raise TypeError(f"`targets` must be a list, one a rank. Received: {targets!r}.")
    checked: list[Target | None] = []
    for target in targets:
        if isinstance(target, int | float) and not isinstance(target, bool):
            target = Target(loss=target)
        if not (target is None or isinstance(target, Target)):
            raise TypeError(
                "`targets` must hold Target, numbers, which are losses, or None. Received: "
                f"{target!r}."
            )
        checked.append(target)
    names = [rank.name for rank in ranks]
    if len(names) == 1 and any(target is not None for target in checked):
        raise ValueError(
            "`targets` need two ranks at least: below the last one there is nothing. Received: "
            f"{len(checked)} targets for the one rank {names[0]!r}; OLSRC has several."
        )
    if len(checked) > len(names) or (len(checked) == len(names) and checked[-1] is not None):
        raise ValueError(
            f"`targets` must leave the last rank without one: nothing is below it. Received: "
            f"{len(checked)} targets for the ranks {names}."
        )
    for target, rank in zip(checked, ranks, strict=False):
        measured = len(rank.terms) == 1 and rank.terms[0][1].gives_logits
        if target is not None and target.accuracy is not None and not measured:
            raise ValueError(
                f"`targets` can be of accuracy for ranks of one objective with logits alone. "
                f"Received: accuracy={target.accuracy} for {rank.name!r}; give it a loss."
            )
    return checked + [None] * (len(names) - len(checked))


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
        self._slow_means, self._end = replicated(zeros), replicated(zeros)
        whole = tf.zeros([len(self.targets)], tf.int64)
        self._count = replicated(whole)
        # Of all steps since held-out data were measured.
        self._sums, self._summed = replicated(zeros), replicated(whole)
        means = [self._means, self._offsets, self._drift, self._spread, self._slow_means]
        super().__init__([*means, self._end, self._count, self._sums, self._summed])

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
        errors = [1.0 if target is None else target.error for target in self.targets]
        known = tf.constant([0.0 if target is None else 1.0 for target in self.targets], tf.float64)
        misses = known * (estimates / errors - 1.0)
        excess = tf.clip_by_value(misses / TOLERANCE, -1.0, 1.0)
        # Of its training data: more of each step does not help what only held-out data miss.
        in_training = tf.clip_by_value((means / errors - 1.0) / TOLERANCE, 0.0, 1.0)
        counted = tf.math.is_finite(tf.stack(values))
        rate = self._rate(estimates, counted) / errors
        times = times_over(rate, self._steps_left(), misses)
        late = tf.clip_by_value((ON_TIME - times) / (ON_TIME - LATE), 0.0, 1.0)
        return RankTargets(
            bounds=bound_of(excess, PACE + (1.0 - PACE) * late),
            directions=DIRECTION * late * tf.minimum(tf.maximum(excess, 0.0), in_training),
            estimates=estimates,
            kept=tf.clip_by_value(misses, 0.0, 1.0),
        )

    @property
    def steps(self) -> int:
        """The number of steps that counted, for the rank of which most did."""
        return int(np.max(self._count.numpy()))

    @property
    def expected(self) -> int:
        """The number of steps of a training that are still to come; 0: none, or it is not known."""
        return int(max(0.0, np.max(self._end.numpy() - self._count.numpy())))

    def expect(self, steps: int | None) -> None:
        """Sets the number of steps that are still to come; `None`: it is not known."""
        taken = tf.cast(self._count, tf.float64)
        self._end.assign(tf.zeros_like(taken) if steps is None else taken + float(steps))

    def _steps_left(self) -> tf.Tensor:
        """Counts the steps that are still to come; if that is not known, as many as there were."""
        taken, end = tf.cast(self._count, tf.float64), self._end.value()
        return tf.where(taken > end, taken, end - taken)

    def _rate(self, estimates: tf.Tensor, counted: tf.Tensor) -> tf.Tensor:
        """Updates the slow means, and tells by how much a step lowered estimates of late."""
        steps = tf.maximum(tf.cast(self._count, tf.float64), 1.0)
        old = self._slow_means.value()
        slow = old + RECENT / tf.maximum(steps, RECENT) * (estimates - old)
        slow = tf.where(counted, slow, old)
        self._slow_means.assign(slow)
        return (RECENT + 1.0) * (slow - estimates) / steps

    def _smoothed(self, now: tf.Tensor) -> tf.Tensor:
        """Updates the running means, which follow the faster the more they lag behind.

        A mean over many steps would be late where the loss moves fast, and steps that answer it
        would swing about the target. The lag shows: its differences from what comes in are of one
        sign, where those of noise cancel out (Trigg and Leach, 1967).
        """
        # Loss scaling skips steps that are not. NaN: no sample of the batch counts for the rank.
        finite = tf.math.is_finite(now)
        count = self._count + tf.cast(finite, tf.int64)
        old = self._means.value()
        error = tf.where(finite & (self._count.value() > 0), now - old, tf.zeros_like(now))
        drift = self._drift + (error - self._drift) / DRIFT_STEPS
        spread = self._spread + (tf.abs(error) - self._spread) / DRIFT_STEPS
        lag = tf.square(tf.math.divide_no_nan(drift, spread))
        share = tf.maximum(1.0 / tf.cast(tf.clip_by_value(count, 1, STEPS), tf.float64), lag)
        means = tf.where(finite, old + share * (now - old), old)
        for variable, value in (
            (self._means, means),
            (self._drift, tf.where(finite, drift, self._drift)),
            (self._spread, tf.where(finite, spread, self._spread)),
            (self._count, count),
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


def shared_alphas(
    alphas: Sequence[float], targets: Sequence[Target | None], kept: Sequence[Any]
) -> list[Any]:
    """Gives the weight of each rank with a target to the ranks below it, by their own.

    Args:
        alphas: Weights of the ranks, summing to 1.
        targets: A target for each rank, or `None`, as for the last.
        kept: The share of its weight that each rank with a target keeps.

    Returns:
        One weight a rank, summing to 1.

    Example:

    >>> shared_alphas([0.5, 0.25, 0.25], [Target(loss=0.1), None, None], [0.0, 0.0, 0.0])
    [0.0, 0.5, 0.5]
    """
    shared: list[Any] = list(alphas)
    for rank, target in enumerate(targets):
        if target is None:
            continue
        given = (1.0 - kept[rank]) * shared[rank]
        shared[rank] = kept[rank] * shared[rank]
        left = sum(alphas[rank + 1 :])
        for low in range(rank + 1, len(alphas)):
            part = alphas[low] / left if left else 1.0 / (len(alphas) - rank - 1)
            shared[low] += part * given
    return shared


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
