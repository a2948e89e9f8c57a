"""Pictures of a model while it trains."""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import keras

from lexirobust.attacks.classifier import classifier_of
from lexirobust.callbacks.board import Periodic


class FigureCallback(Periodic):
    """Draws the classifier every few epochs, as files, on TensorBoard, or both.

    Args:
        draw: Maps the classifier to a figure of matplotlib; see `lexirobust.plotting`.
        folder: Folder for `epoch-0001.png` and so on, epochs counted from 1, or `None`.
        log_dir: Folder for TensorBoard, or `None`.
        every: Draws after every so many epochs.
        name: What TensorBoard calls the picture.

    Raises:
        TypeError: If `draw` is not callable.
        ValueError: If there is neither a folder nor a `log_dir`.

    Example: the toy problem's classifier.

    >>> import lexirobust as lr
    >>> from lexirobust import plotting
    >>> def draw(classifier):
    ...     return plotting.classifiers_and_curves({"OLSRC": (classifier, {})})
    >>> callback = lr.callbacks.FigureCallback(draw, folder="pictures", every=100)
    """

    def __init__(
        self,
        draw: Callable[[keras.Model], Any],
        folder: str | os.PathLike[str] | None = None,
        log_dir: str | os.PathLike[str] | None = None,
        every: int = 1,
        name: str = "classifier",
    ) -> None:
        super().__init__(every, log_dir)
        if not callable(draw):
            raise TypeError(f"`draw` must be callable. Received: {draw!r}.")
        if folder is None and log_dir is None:
            raise ValueError("`folder` or `log_dir` must be given. Received: None for both.")
        self.draw = draw
        self.folder = None if folder is None else pathlib.Path(folder)
        self.name = name

    def on_epoch(self, epoch: int, logs: dict[str, Any]) -> None:
        """Draws."""
        del logs
        figure = self.draw(classifier_of(self.model))
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(self.folder / f"epoch-{epoch + 1:04d}.png", dpi=100)
        self.write(epoch, images={self.name: figure})
