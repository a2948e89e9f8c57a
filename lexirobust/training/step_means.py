"""Keras metrics of what a ranked step has done."""

from collections.abc import Sequence
from typing import Final

import tensorflow as tf

from lexirobust.training.metrics import NamedMeans
from lexirobust.training.step.update import StepResult
from lexirobust.training.targets import Target

# The target, the estimate that is compared with it, by how much it is missed, and how fast the step
# descends the rank, as a share of what it would alone: below 0 the rank is spent.
_OF_TARGETS: Final = ("target", "estimate", "violation", "descent")


class StepMeans(NamedMeans):
    """Means of how ranks conflict and what the step made of it; nothing if there is one rank.

    Args:
        ranks: The ranks' names, the most important first.
        kept: Whether all ranks' gradients are at hand after the step, or the first one's alone.
        full: Whether to tell everything there is.
        averaged: Whether ranks are compared by their mean gradients.
        targets: One a rank, or `None`.
        further: Names of other scalars of a step.

    Example:

    >>> StepMeans(["natural", "l2=4"], kept=True, full=False).names
    ('min_cosine', 'step_cosine@natural', 'step_cosine@l2=4')
    """

    def __init__(
        self,
        ranks: Sequence[str],
        kept: bool,
        full: bool,
        averaged: bool = False,
        targets: Sequence[Target | None] = (),
        further: Sequence[str] = (),
    ) -> None:
        self._full = full
        self._targets = [(rank, target) for rank, target in enumerate(targets) if target]
        # All pairs of a lower and a higher rank.
        self._pairs = [(low, high) for low in range(len(ranks)) for high in range(low)]
        super().__init__([*self._step_names(ranks, kept, averaged), *further])

    def _step_names(self, ranks: Sequence[str], kept: bool, averaged: bool) -> list[str]:
        if not self._pairs:
            return []
        aligned = ranks if kept else ranks[:1]
        names = ["min_cosine", *(f"step_cosine@{name}" for name in aligned)]
        if averaged:
            names += [f"memory_step_cosine@{name}" for name in ranks]
        if self._full:
            names += ["violation", "kkt_residual", *(f"norm@{name}" for name in ranks)]
            quantities = ["cosine", "multiplier", "active"] + ["batch_cosine"] * averaged
            names += [
                f"{quantity}@{ranks[high]},{ranks[low]}"
                for quantity in quantities
                for low, high in self._pairs
            ]
        for rank, _ in self._targets:
            names += [f"{what}@{ranks[rank]}" for what in _OF_TARGETS]
        return names

    def update(self, result: StepResult, further: Sequence[tf.Tensor], x: tf.Tensor) -> None:
        """Adds one step.

        Args:
            result: What the step did.
            further: The other scalars.
            x: `[N, ...]` its batch.
        """
        if self.names:
            self.update_all([*self._values(result), *further], x)

    def _values(self, result: StepResult) -> list[tf.Tensor]:
        """The scalars that are named after ranks."""
        if not self._pairs:
            return []
        onestep = result.onestep
        least = tf.reduce_min(tf.stack([onestep.cosines[pair] for pair in self._pairs]))
        values = [least, *tf.unstack(result.step_cosines)]
        if self._full:
            norms = tf.sqrt(tf.linalg.diag_part(onestep.gramian))
            values += [onestep.violation, onestep.kkt_residual, *tf.unstack(norms)]
            matrices = [onestep.cosines, onestep.multipliers, onestep.active]
            if result.batch_cosines is not None:
                matrices.append(result.batch_cosines)
            for matrix in matrices:
                values += [matrix[pair] for pair in self._pairs]
        for rank, target in self._targets:
            assert result.targets is not None
            estimate = result.targets.estimates[rank]
            violation = estimate - target.error
            if target.accuracy is not None:
                estimate = 1.0 - estimate
            goal = tf.constant(target.value, tf.float64)
            values += [goal, estimate, violation, onestep.descent[rank]]
        return values
