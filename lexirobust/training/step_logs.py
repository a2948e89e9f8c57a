"""Logs of a ranked step."""

from collections.abc import Sequence

import tensorflow as tf

from lexirobust.training.update import StepResult


class StepLogs:
    """Names what there is to tell of a step, and reads it off; nothing where there is one rank.

    Args:
        ranks: The ranks' names, the most important first.
        kept: Whether all ranks' gradients are at hand after the step, or the first one's alone.
        full: Whether to tell everything there is.
        averaged: Whether ranks are compared by their mean gradients.

    Example:

    >>> StepLogs(["natural", "l2=4"], kept=True, full=False).names
    ['min_cosine', 'step_cosine@natural', 'step_cosine@l2=4']
    """

    def __init__(
        self, ranks: Sequence[str], kept: bool, full: bool, averaged: bool = False
    ) -> None:
        self._full = full
        self._averaged = averaged
        # All pairs of a lower and a higher rank.
        self._pairs = [(low, high) for low in range(len(ranks)) for high in range(low)]
        self.names: list[str] = []
        if not self._pairs:
            return
        aligned = ranks if kept else ranks[:1]
        self.names += ["min_cosine", *(f"step_cosine@{name}" for name in aligned)]
        if averaged:
            self.names += [f"memory_step_cosine@{name}" for name in ranks]
        if full:
            self.names += ["violation", "kkt_residual", *(f"norm@{name}" for name in ranks)]
            quantities = ["cosine", "multiplier", "active"] + ["batch_cosine"] * averaged
            self.names += [
                f"{quantity}@{ranks[high]},{ranks[low]}"
                for quantity in quantities
                for low, high in self._pairs
            ]

    def values(self, result: StepResult) -> list[tf.Tensor]:
        """Reads off what `names` names.

        Args:
            result: What the step did.

        Returns:
            One scalar a name.
        """
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
        return values
