"""The steps that a training has left, for targets that are to be met by its end."""

from typing import Any

import keras

from lexirobust.training.state.target_progress import TargetProgress


class StepsLeft(keras.callbacks.Callback):
    """Tells targets, at the beginning of each epoch, how many steps of `fit` are still to come.

    Of data whose number of batches Keras does not know, each epoch is taken to be as long as the
    last one, and nothing is known in the first. A training that is resumed goes on with what it
    knew.

    Args:
        progress: How far the ranks with targets have come.
    """

    def __init__(self, progress: TargetProgress) -> None:
        super().__init__()
        self._progress = progress
        self._taken: int | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts steps to the end of the last epoch."""
        taken = self._progress.steps
        steps = self.params["steps"]
        if steps is None and self._taken is not None:
            steps = taken - self._taken
        self._taken = taken
        # What a resumed training expected holds until one of its epochs tells.
        goes_on = steps is None and epoch > 0 and self._progress.expected > 0
        if not goes_on:
            self._progress.expect(steps and (self.params["epochs"] - epoch) * steps)
