"""A monitor of conflicts between ranks while a model trains."""

import os
from typing import Any, Final

import numpy as np

from lexirobust import gem
from lexirobust.callbacks.board import Periodic
from lexirobust.checks import check_count
from lexirobust.data_forms import in_memory
from lexirobust.training.settings import TrainingSettings

_WATCHED: Final = (
    "cosine@",
    "multiplier@",
    "active@",
    "norm@",
    "step_cosine@",
    "batch_cosine@",
    "memory_step_cosine@",
)
_ALONE: Final = ("min_cosine", "violation", "kkt_residual")


class ConflictMonitor(Periodic):
    """Keeps what a model reports of its ranks' conflicts, and shows it on TensorBoard.

    For each pair of ranks the cosine of their gradients (below 0 they conflict), the multiplier
    of the projection and how often it was at work; for each rank the norm of its gradient, and the
    cosine between the step that was taken and the rank's descent direction; how exact the
    projection was. Where the model has a `memory`, these are of its mean gradients but for
    `step_cosine@NAME`, and `batch_cosine@HIGHER,LOWER` tells of conflict on the batch. Means over
    each epoch's steps.

    Given a data set, it also tells conflict on batches from conflict on the data set: after an
    epoch it differentiates every rank's loss on all of it, and keeps for each pair of ranks
    `data_cosine@HIGHER,LOWER`, and where the model has a `memory`, for each rank
    `data_memory_cosine@NAME`, how far the memory points where the whole gradient does. These, those
    of steps and those of batches are Euclidean, the others in the metric that ranks are compared
    in.

    Args:
        log_dir: Folder for TensorBoard, which gets all of it as scalars, and as pictures the
            matrices of cosines and of multipliers, the higher rank of each pair in rows; `None`:
            nothing is written.
        every: Looks after every so many epochs.
        x: `[N, ...]` inputs of the data set, or `None`: only what batches report is kept.
        y: `[N]` their labels.
        batch_size: How many of them are in memory at a time.

    Attributes:
        history: Lists by name, as `History.history`, of what is named above alone. A later `fit`
            keeps what is of epochs before its first.

    Raises:
        ValueError: If only one of `x` and `y` is given, or in `fit`, if the model does not report:
            it must be a `LexicographicModel` with `detailed_logs=True`.
        TypeError: If `x` is no array, but a dataset.

    Example:

    >>> import keras, lexirobust as lr
    >>> x, y = lr.datasets.toy(20, seed=0)
    >>> attack = lr.attacks.PGD(norm="l2", steps=1, restarts=2, bounds=None)
    >>> classifier = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    >>> model = lr.OLSRC(classifier, attack, [4.0], detailed_logs=True)
    >>> model.compile("adam")
    >>> monitor = ConflictMonitor()
    >>> history = model.fit(x, y, batch_size=20, epochs=3, verbose=0, callbacks=[monitor])
    >>> (
    ...     len(monitor.history["cosine@natural,l2=4"]),
    ...     min(monitor.history["step_cosine@natural"]) >= 0,
    ... )
    (3, True)
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None = None,
        every: int = 1,
        x: Any = None,
        y: Any = None,
        batch_size: int = 500,
    ) -> None:
        super().__init__(every, log_dir)
        check_count("batch_size", batch_size)
        if (x is None) != (y is None):
            raise ValueError("`x` and `y` must be given both, or neither.")
        if x is not None:
            in_memory(x)
        self.x, self.y, self.batch_size = x, y, batch_size
        self.history: dict[str, list[float]] = {}
        self._epochs: dict[str, list[int]] = {}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Checks that there is something to watch."""
        super().on_train_begin(logs)
        settings = getattr(self.model, "settings", None)
        if not (isinstance(settings, TrainingSettings) and settings.detailed_logs):
            raise ValueError(
                "`ConflictMonitor` needs a LexicographicModel with `detailed_logs=True`. Received: "
                f"{self.model!r}."
            )
        if self.x is not None:
            self.model.check_data(self.x, self.y)

    def forget_from(self, epoch: int) -> None:
        """Drops what is of another training."""
        for name, epochs in list(self._epochs.items()):
            kept = [known for known in epochs if known < epoch]
            self._epochs[name], self.history[name] = kept, self.history[name][: len(kept)]
            if not kept:
                del self._epochs[name], self.history[name]

    def on_epoch(self, epoch: int, logs: dict[str, Any]) -> None:
        """Keeps what is watched."""
        values = {
            name: float(value)
            for name, value in logs.items()
            if name in _ALONE or name.startswith(_WATCHED)
        }
        values |= self._on_data()
        for name, value in values.items():
            self.history.setdefault(name, []).append(value)
            self._epochs.setdefault(name, []).append(epoch)
        if self.log_dir is not None:
            from lexirobust import plotting

            names = [rank.name for rank in self.model.objectives]
            matrices = {
                f"conflict/{what}s": plotting.pairs(names, _matrix(values, what, names))
                for what in ("cosine", "multiplier")
                if len(names) > 1
            }
            # TensorBoard groups by what stands before a slash.
            grouped = {
                name.replace("@", "/") if "@" in name else f"conflict/{name}": value
                for name, value in values.items()
            }
            self.write(epoch, grouped, matrices)

    def _on_data(self) -> dict[str, float]:
        """Cosines between the gradients on the whole data set, and with what is remembered."""
        if self.x is None:
            return {}
        names = [rank.name for rank in self.model.objectives]
        rows = self.model.gradients(self.x, self.y, self.batch_size)
        remembered = self.model.mean_gradients
        cosines = gem.cosines(gem.gramian([*rows, *remembered])).numpy()
        values = {
            f"data_cosine@{names[high]},{names[low]}": float(cosines[low, high])
            for low in range(len(names))
            for high in range(low)
        }
        for rank in range(len(remembered)):
            values[f"data_memory_cosine@{names[rank]}"] = float(cosines[rank, len(names) + rank])
        return values


def _matrix(values: dict[str, float], what: str, names: list[str]) -> np.ndarray:
    """`[T, T]`, the higher rank of each pair in rows; not a number elsewhere."""
    return np.array(
        [[values.get(f"{what}@{higher},{lower}", np.nan) for lower in names] for higher in names]
    )
