"""Other ways to hold one loss at a target while another falls: what targets are compared with.

Each is a model of two ranks whose step is taken over: the rest of training is the same.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

import lexirobust as lr
from lexirobust import gem
from lexirobust.training.state.gradient_means import averages_taken
from lexirobust.training.state.target_estimates import FREE, TargetEstimates
from lexirobust.training.step.gradients import StoredGradients
from lexirobust.training.step.objective_losses import Gradient, ObjectiveLoss, ObjectiveLosses
from lexirobust.training.step.training_step import TrainingStep
from lexirobust.training.step.update import RankTargets, StepResult, apply_update

INTEGRAL, PROPORTIONAL = 0.1, 2.0
"""Gains of the multiplier for a target that is missed by all of itself, a step."""
LARGEST = 100.0
"""The largest multiplier: what integrates for long must come back."""


class _Multiplier(TargetEstimates):
    """A weighted sum whose first weight follows how far the first rank misses its target."""

    def __init__(self, estimates: TargetEstimates) -> None:
        super().__init__(estimates.targets, estimates.ranks)
        self.alphas: Any = None  # Of the batch that the estimates were updated on last.
        self._multiplier = tf.Variable(1.0, dtype=tf.float64, trainable=False)
        self._last = tf.Variable(0.0, dtype=tf.float64, trainable=False)

    def update(self, losses: ObjectiveLosses, scores: Sequence[ObjectiveLoss]) -> RankTargets:
        """Adds a batch to the estimates, and weighs the ranks."""
        targets = super().update(losses, scores)
        target = self.targets[0]
        assert target is not None
        weight = self.weight(targets.estimates[0] / target.error - 1.0)
        self.alphas = tf.stack([weight, 1.0 - weight])
        return targets._replace(bounds=tf.constant([FREE, 0.0], tf.float64))

    def weight(self, missed: tf.Tensor) -> tf.Tensor:
        """The first rank's weight, from 0 to 1, by the share of its target that it misses."""
        raise NotImplementedError


class DualAscent(_Multiplier):
    """Dual ascent on the Lagrangian (arXiv 2110.15767, 2504.01212)."""

    proportional = 0.0

    def weight(self, missed: tf.Tensor) -> tf.Tensor:
        """The multiplier's, which integrates what is missed."""
        moved = INTEGRAL * missed + self.proportional * (missed - self._last)
        multiplier = tf.clip_by_value(self._multiplier + moved, 0.0, LARGEST)
        self._last.assign(missed)
        self._multiplier.assign(multiplier)
        return multiplier / (1.0 + multiplier)


class PIControl(DualAscent):
    """Dual ascent with a proportional part, which damps it (arXiv 2406.04558)."""

    proportional = PROPORTIONAL


class Switching(_Multiplier):
    """Steps of the first rank alone while it misses its target, of the second alone otherwise."""

    def weight(self, missed: tf.Tensor) -> tf.Tensor:
        """All or nothing."""
        return tf.cast(missed > 0, tf.float64)


class _Summed:
    """Two gradients that are added, whether they conflict or not."""

    def __init__(
        self, rows: list[Gradient], kept: StoredGradients, means: Sequence[Gradient]
    ) -> None:
        self._rows, self._known = rows, [*kept.known(), *means]
        self.first, self.first_loss, self.scores = rows[0], kept.first_loss, kept.scores

    def gramian(self, metric: Any | None) -> tf.Tensor:
        """`[2, 2]` float64 inner products."""
        return gem.gramian(self._rows, metric)

    def combined(self, weights: Any) -> Gradient:
        """The sum of both, each with its weight out of `[2]`."""
        return gem.combine(self._rows, weights)

    def known(self) -> list[Gradient]:
        """The batch's, and the means, for the logs."""
        return self._known


class _WeighedStep(TrainingStep):
    """A step on ranks that a rule weighs anew on each batch."""

    def __init__(self, step: TrainingStep, rule: _Multiplier) -> None:
        vars(self).update(vars(step))
        self.targets: _Multiplier = rule

    def _apply(
        self, losses: ObjectiveLosses, gradients: Any, alphas: Any, *args: Any, **kwargs: Any
    ) -> StepResult:
        return super()._apply(losses, gradients, self.targets.alphas, *args, **kwargs)


class _BloopStep(TrainingStep):
    """The second rank without its part along the first one's running mean, plus the first."""

    def __init__(self, step: TrainingStep) -> None:
        vars(self).update(vars(step))

    def update(self, losses: ObjectiveLosses) -> tuple[StepResult, list[ObjectiveLoss]]:
        """Updates the weights."""
        kept = StoredGradients(losses, 2)
        first, second = kept.known()
        assert self.memory is not None
        means = self.memory.update([first, second])
        mean = means[0]
        inner = gem.gramian([mean, second], None)
        along = tf.math.divide_no_nan(inner[0, 1], inner[0, 0])
        orthogonal = gem.combine([second, mean], tf.stack([tf.ones_like(along), -along]))
        result = apply_update(
            self.optimizer,
            self.classifier.trainable_variables,
            _Summed([first, orthogonal], kept, means),
            self.alphas,
            1.0,
            0.0,
            in_metric=False,
            first_loss=None,
            bounds=tf.constant([FREE, 0.0], tf.float64),
        )
        self.memory.commit_state(averages_taken(self.optimizer))
        return result, kept.scores


class Multiplied(lr.OLSRC):
    """A model of two ranks with a target, whose weights one of the rules above finds.

    Args:
        rule: A `_Multiplier`.
        *args: As of `OLSRC`, like those below.
        **kwargs: As of `OLSRC`.
    """

    def __init__(self, rule: type[_Multiplier], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, metric="euclidean", **kwargs)
        self._rule = rule

    def _build_on_compiled(self) -> None:
        super()._build_on_compiled()
        assert self._targets is not None
        self._training_step = _WeighedStep(self._training_step, self._rule(self._targets))


class Bloop(lr.OLSRC):
    """Bloop (arXiv 2402.02998): an auxiliary loss's gradient, projected off the main one's mean."""

    def _build_on_compiled(self) -> None:
        super()._build_on_compiled()
        self._training_step = _BloopStep(self._training_step)
