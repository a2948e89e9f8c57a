"""Keras's progress bar with the numbers that are read while a model trains."""

from collections.abc import Mapping
from typing import Any, Final

import keras

_DIAGNOSTIC: Final = (
    "step_cosine@",
    "memory_step_cosine@",
    "random_starts",
    "target@",
    "violation@",
    "descent@",
)
"""Beginnings of names that the history holds and the bar leaves out."""


class ProgressBar(keras.callbacks.ProgbarLogger):
    """The bar of `fit`, without what only looks into a step, and without a number twice."""

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Shows the numbers of a batch."""
        super().on_train_batch_end(batch, shown(logs or {}))

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Shows the numbers of an epoch."""
        super().on_epoch_end(epoch, shown(logs or {}))


def shown(logs: Mapping[str, Any]) -> dict[str, Any]:
    """The logs that a bar shows.

    Args:
        logs: All logs.

    Returns:
        Those that are read while a model trains. Accuracy on clean inputs is left out where a
        metric of the user's measures it.

    Example:

    >>> shown({"accuracy": 0.9, "accuracy@natural": 0.9, "step_cosine@natural": 0.2})
    {'accuracy': 0.9}
    """
    twice = [f"{name}@natural" for name in ("accuracy", "val_accuracy") if name in logs]
    return {
        name: value
        for name, value in logs.items()
        if not name.startswith(_DIAGNOSTIC) and name not in twice
    }
