"""What the logs tell of a ranked step."""

from collections.abc import Sequence

import tensorflow as tf

from lexirobust.training.update import Taken


class Report:
    """Names what there is to tell of a step, and reads it off; nothing where there is one rank.

    Args:
        ranks: The ranks' names, the most important first.
        kept: Whether all ranks' gradients are at hand after the step, or the first one's alone.
        full: Whether to tell everything there is.
        held: Whether the ranks are held to what is remembered of them, too.

    Example:

    >>> Report(["natural", "l2=4"], kept=True, full=False).names
    ['min_cosine', 'step_cosine@natural', 'step_cosine@l2=4']
    """

    def __init__(self, ranks: Sequence[str], kept: bool, full: bool, held: bool = False) -> None:
        self._full = full
        self._held = held
        # All pairs of a lower and a higher rank.
        self._pairs = [(low, high) for low in range(len(ranks)) for high in range(low)]
        self.names: list[str] = []
        if not self._pairs:
            return
        aligned = ranks if kept else ranks[:1]
        self.names += ["min_cosine", *(f"step_cosine@{name}" for name in aligned)]
        if held:
            self.names += [f"memory_step_cosine@{name}" for name in ranks[:-1]]
            self.names += [f"memory_cosine@{ranks[h]},{ranks[low]}" for low, h in self._pairs]
        if full:
            self.names += ["violation", "kkt_residual", *(f"norm@{name}" for name in ranks)]
            self.names += [
                f"{quantity}@{ranks[high]},{ranks[low]}"
                for quantity in ("cosine", "multiplier", "active")
                for low, high in self._pairs
            ]

    def values(self, taken: Taken) -> list[tf.Tensor]:
        """Reads off what `names` names.

        Args:
            taken: What the step did.

        Returns:
            One scalar a name.
        """
        if not self._pairs:
            return []
        onestep, places = taken.onestep, taken.places
        pairs = [(places[low], places[high]) for low, high in self._pairs]
        least = tf.reduce_min(tf.stack([onestep.cosines[pair] for pair in pairs]))
        values = [least, *tf.unstack(taken.step_cosines)]
        if self._held:
            # What is remembered of a rank stands before its gradient.
            values += [onestep.cosines[low, high - 1] for low, high in pairs]
        if self._full:
            norms = tf.sqrt(tf.linalg.diag_part(onestep.gramian))
            values += [onestep.violation, onestep.kkt_residual]
            values += [norms[place] for place in places]
            for matrix in (onestep.cosines, onestep.multipliers, onestep.active):
                values += [matrix[pair] for pair in pairs]
        return values
