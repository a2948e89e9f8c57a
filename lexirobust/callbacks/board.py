"""The base class of callbacks that log to TensorBoard."""

import importlib.util
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lexirobust.checks import check_count


class Repeated(float):
    """A number in the logs of an epoch in which it was not measured: the last one again."""


class Periodic(keras.callbacks.Callback):
    """Does something after every so many epochs, and tells TensorBoard of it.

    What it logs is logged in every epoch, or other callbacks, a `CSVLogger` for one, could not make
    a table of it: between two times the last value again. The first epoch counts, too, then.

    Args:
        every: How many epochs from one time to the next; the first is after so many.
        log_dir: Folder for TensorBoard, or `None`.

    Raises:
        ValueError: If `every` is no integer of at least 1.
        ModuleNotFoundError: If TensorBoard is not installed.
    """

    def __init__(self, every: int, log_dir: str | os.PathLike[str] | None) -> None:
        super().__init__()
        check_count("every", every)
        self.every = every
        if log_dir is not None and importlib.util.find_spec("tensorboard") is None:
            raise ModuleNotFoundError(
                "`log_dir` needs TensorBoard and matplotlib: pip install 'lexirobust[tensorboard]'."
            )
        self.log_dir = None if log_dir is None else pathlib.Path(log_dir)
        self._writer: Any = None
        self._logged: dict[str, Any] = {}
        self._begun = False

    @property
    def names(self) -> list[str]:
        """The names that it adds to the logs."""
        return []

    def on_epoch(self, epoch: int, logs: dict[str, Any]) -> None:
        """The work of one epoch, counted from 0."""

    def forget_from(self, epoch: int) -> None:
        """Drops what an earlier `fit` left of this epoch and those after it."""

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Tells, where `fit` begins, what is of another training."""
        del logs
        if not self._begun:
            self._begun = True
            self.forget_from(epoch)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts epochs."""
        logs = {} if logs is None else logs
        unknown = [name for name in self.names if name not in self._logged]
        if (epoch + 1) % self.every == 0 or unknown:
            self.on_epoch(epoch, logs)
            self._logged = {name: logs[name] for name in self.names}
            if self._writer is not None:
                self._writer.flush()
        else:
            logs.update({name: Repeated(value) for name, value in self._logged.items()})

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Knows nothing yet, and looks for names that the logs will hold otherwise."""
        del logs
        self._logged, self._begun = {}, False
        taken = sorted({*self.names} & {*getattr(self.model, "validation_names", ())})
        if taken:
            raise ValueError(
                f"`validation_data` must be left out where {type(self).__name__} logs the same "
                f"names. Received: {taken} of both."
            )

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Closes what was written to."""
        del logs
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def write(
        self,
        epoch: int,
        scalars: Mapping[str, float] | None = None,
        images: Mapping[str, Any] | None = None,
        histograms: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Tells TensorBoard, if there is a `log_dir`.

        Args:
            epoch: Which, from 0.
            scalars: Numbers by name.
            images: Figures of matplotlib by name.
            histograms: Arrays by name.
        """
        if self.log_dir is None:
            return
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self.log_dir))
        with self._writer.as_default(step=epoch):
            for name, value in (scalars or {}).items():
                tf.summary.scalar(name, value)
            for name, figure in (images or {}).items():
                tf.summary.image(name, pixels(figure)[None])
            for name, values in (histograms or {}).items():
                tf.summary.histogram(name, values)


def pixels(figure: Any) -> np.ndarray:
    """Draws a figure of matplotlib.

    Args:
        figure: The figure.

    Returns:
        `[height, width, 4]` uint8.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())
