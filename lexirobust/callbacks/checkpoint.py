"""The best model, by ranks."""

import json
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from lexirobust.atomic_files import write_json, write_whole
from lexirobust.callbacks.board import Repeated
from lexirobust.checks import check_count
from lexirobust.warn import warn


class LexicographicCheckpoint(keras.callbacks.Callback):
    """Keeps the best model by rank 1, among equals by rank 2, and so on, and stops if asked to.

    An epoch is better if it exceeds the best one by more than the tolerance in some rank, and in no
    higher rank falls short by more than that of the most that was reached there. So what rank 1
    loses to the tolerance does not add up. A rank that is not a number, as where no sample counted
    for it, is worse than any that is; an epoch of which rank 1 is none is never kept.

    Epochs that a `RobustnessCurve` did not measure, or whose logs hold none of the ranks, are
    passed over, and do not count for `patience`; a warning names the ranks after the first of the
    latter. A `RobustnessCurve` must come before this in `callbacks`.

    Where `fit` begins after epoch 0, as it does after a `Backup`, what was the best is known again:
    a file beside the model, with `.json` after its name, says so. At epoch 0 all begins anew. A
    `Backup` must come after this in `callbacks`: an epoch that is not to be made again has been
    judged then. Several workers share the folder of `path`, in which the first one writes.

    Args:
        path: Where the best model is written, whole or not at all: a name that ends in `.keras`, or
            in `.weights.h5` for weights alone.
        ranks: Names in the logs, the most important first, such as `"val_accuracy@natural"` and
            `"val_accuracy@l2=2"`; `RobustnessCurve.names` are such.
        tolerance: Largest difference that still is a tie.
        patience: Training stops after so many epochs in a row without a better one; `None`: never.
        mode: `"max"`, or `"min"` for losses.
        targets: For each rank a number at which it is good enough, or `None`; beyond it, epochs
            tie in that rank. Those that are left out are `None`. So of the epochs that meet all
            targets the one is kept that is best by the other ranks.

    Attributes:
        best: `[T]` the ranks' values of the epoch that was kept, or `None`.
        best_epoch: Which that is, from 0, or `None`.

    Raises:
        ValueError: If an argument is not as above, or in `fit`, if an epoch's logs hold some of the
            ranks and not the others, or training goes on whose best was chosen by other ranks.

    Example: the second epoch is better by rank 2, the third is not, as rank 1 has lost too much.

    >>> keeper = LexicographicCheckpoint("best.keras", ["natural", "l2=2"], tolerance=0.01)
    >>> epochs = [(0.95, 0.20), (0.945, 0.30), (0.935, 0.90)]
    >>> [keeper.improves({"natural": natural, "l2=2": robust}) for natural, robust in epochs]
    [True, True, False]

    Example: with a target for rank 1, the last epoch is the best that meets it.

    >>> keeper = LexicographicCheckpoint("best.keras", ["natural", "l2=2"], targets=[0.93])
    >>> [keeper.improves({"natural": natural, "l2=2": robust}) for natural, robust in epochs]
    [True, True, True]
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        ranks: Sequence[str],
        tolerance: float = 0.0,
        patience: int | None = None,
        mode: str = "max",
        targets: Sequence[float | None] = (),
    ) -> None:
        super().__init__()
        self.path = pathlib.Path(path)
        if not self.path.name.endswith((".keras", ".weights.h5")):
            raise ValueError(
                f"`path` must end in '.keras' or '.weights.h5'. Received: {str(path)!r}."
            )
        if isinstance(ranks, str) or not ranks or len(set(ranks)) != len(ranks):
            raise ValueError(f"`ranks` must be different names, one at least. Received: {ranks!r}.")
        if not 0 <= tolerance < float("inf"):
            raise ValueError(f"`tolerance` must be finite and at least 0. Received: {tolerance!r}.")
        if patience is not None:
            check_count("patience", patience)
        if mode not in ("max", "min"):
            raise ValueError(f"`mode` must be 'max' or 'min'. Received: {mode!r}.")
        self.ranks = list(ranks)
        self.tolerance = tolerance
        self.patience = patience
        self.mode = mode
        given = [np.nan if target is None else float(target) for target in targets]
        if len(given) > len(self.ranks) or np.isinf(given).any():
            raise ValueError(
                f"`targets` must be finite numbers or None, one a rank. Received: {targets!r}."
            )
        self.targets = list(targets)
        sign = 1.0 if mode == "max" else -1.0
        missing = [np.nan] * (len(self.ranks) - len(given))
        self._enough = np.nan_to_num(sign * np.array([*given, *missing]), nan=np.inf)
        self._started = False
        self._warned = False
        self._forget()

    def _forget(self) -> None:
        self.best: np.ndarray | None = None
        self.best_epoch: int | None = None
        self._most = np.full(len(self.ranks), -np.inf)
        # Measured epochs after the best one.
        self._others: list[int] = []

    def improves(self, logs: dict[str, Any]) -> bool:
        """Compares an epoch with the best one, and makes it the best one if it is better.

        Args:
            logs: The epoch's logs, with all of the ranks.

        Returns:
            Whether it is better. Where rank 1 is not a number it never is.
        """
        sign = 1.0 if self.mode == "max" else -1.0
        exact = sign * np.array([float(logs[name]) for name in self.ranks])
        if np.isnan(exact[0]):
            return False
        best = np.full_like(exact, -np.inf) if self.best is None else sign * self.best
        # Any number is better than none.
        values, best = (
            np.minimum(np.where(np.isnan(each), -np.inf, each), self._enough)
            for each in (exact, best)
        )
        for rank, value in enumerate(values):
            if not value >= self._most[rank] - self.tolerance:
                return False
            if value > best[rank] + self.tolerance:
                # What the ranks below reached, they reached at a lower level of this one.
                self._most = np.concatenate([np.maximum(self._most, values)[:rank], values[rank:]])
                self.best = sign * exact
                return True
        return False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Waits for the first epoch, whose number says whether training goes on."""
        del logs
        self._started = False
        self._warned = False

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Takes up what was the best, where training goes on."""
        del logs
        if self._started:
            return
        self._started = True
        if not epoch:
            self._forget()
            if self._writes:
                self._record.unlink(missing_ok=True)  # Of another training.
        elif self.best is None and self._record.exists():
            self._resume(epoch)
        else:
            self._others = [other for other in self._others if other < epoch]

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves the model if it is better."""
        logs = logs or {}
        missing = [name for name in self.ranks if name not in logs]
        if len(missing) == len(self.ranks):
            self._warn_of_missing_ranks(epoch, logs)
            return
        if missing:
            raise ValueError(f"`ranks` must be in the logs: {missing} are not. There: {[*logs]}.")
        if any(isinstance(logs[name], Repeated) for name in self.ranks):
            return
        if self.improves(logs):
            self.best_epoch, self._others = epoch, []
            self._save()
        elif self.best_epoch is None or epoch > self.best_epoch:
            # Those before it have been judged already, and are made again after a stop.
            self._others.append(epoch)
        if self.best is not None and self._writes:
            self._remember(self.best)
        if self.patience is not None and len(self._others) >= self.patience:
            self.model.stop_training = True

    def _warn_of_missing_ranks(self, epoch: int, logs: dict[str, Any]) -> None:
        """Warns once, and not of an epoch without the validation that others have."""
        validates = bool(getattr(self.model, "validation_names", ()))
        skipped = validates and not any(name.startswith("val_") for name in logs)
        if self._warned or skipped:
            return
        self._warned = True
        warn(
            f"`ranks` {self.ranks} are not in the logs of epoch {epoch + 1}: there is nothing to "
            f"choose by. There: {[*logs]}. What logs them, such as RobustnessCurve, must come "
            "before LexicographicCheckpoint in `callbacks`."
        )

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Warns if nothing was kept, or what does not meet the targets."""
        del logs
        if not self._started and self.best is None and self._record.exists():
            self._resume(math.inf)  # No epoch was left to be made.
        if self.best is None:
            # No error: what was trained is still there.
            warn(
                f"`ranks` {self.ranks} were in no epoch's logs, or {self.ranks[0]!r} was no "
                f"number: nothing was written to {str(self.path)!r}."
            )
            return
        sign = 1.0 if self.mode == "max" else -1.0
        missed = [
            f"{name!r} is {value:.4g}, asked {target:.4g}"
            for name, value, target in zip(self.ranks, self.best, self.targets, strict=False)
            # A little less is rounding: logs are of single precision.
            if target is not None and not sign * (value - target) >= -1e-6 * abs(target)
        ]
        if missed:
            warn(
                f"The best epoch, which is kept, does not meet its `targets`: {', '.join(missed)}."
            )

    def _save(self) -> None:
        if not self._writes:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = self.path.name.endswith(".keras")
        write_whole(self.path, self.model.save if whole else self.model.save_weights)

    def _remember(self, best: np.ndarray) -> None:
        """Writes down what `_resume` needs, after the model.

        A kill between the two leaves an older record: the epoch is made again, and judged again.
        """
        state = {
            "ranks": self.ranks,
            "mode": self.mode,
            "best": best.tolist(),
            "most": self._most.tolist(),
            "epoch": self.best_epoch,
            "others": self._others,
        }
        write_json(self._record, state)

    def _resume(self, epoch: float) -> None:
        try:
            state = json.loads(self._record.read_text(encoding="utf-8"))
            chosen = state["ranks"], state["mode"]
            best, most = np.array(state["best"]), np.array(state["most"])
            best_epoch, others = state["epoch"], state["others"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{str(self._record)!r} must say what is in {self.path.name!r}. Without it, "
                f"training goes on and the best begins anew. Received: {error!r}."
            ) from None
        if chosen != (self.ranks, self.mode):
            raise ValueError(
                f"`ranks` and `mode` must be those by which {str(self.path)!r} was chosen, "
                f"{chosen[0]} and {chosen[1]!r}, or `path` another one. Received: "
                f"{self.ranks} and {self.mode!r}."
            )
        self.best, self._most, self.best_epoch = best, most, best_epoch
        # Later ones are made again.
        self._others = [other for other in others if other < epoch]

    @property
    def _record(self) -> pathlib.Path:
        return self.path.with_name(self.path.name + ".json")

    @property
    def _writes(self) -> bool:
        return self.model.distribute_strategy.extended.should_checkpoint
