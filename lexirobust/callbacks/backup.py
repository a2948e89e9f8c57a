"""Training that goes on after it was killed."""

import contextlib
import os
import pathlib
import re
from typing import Any

import keras

from lexirobust.atomic_files import write_whole
from lexirobust.checks import check_count
from lexirobust.keras_internals import begin_at


class Backup(keras.callbacks.Callback):
    """Goes on where a `fit` that was killed made its last backup, as if nothing had happened.

    As `keras.callbacks.BackupAndRestore`, with one difference: weights and the number of the epoch
    change together, whenever the process dies. Keras writes one after the other, and between the
    two a kill has an epoch trained twice.

    What is restored is all that a model of this package saves: weights, optimizers, discriminator,
    perturbations, random states. With deterministic operations
    (`tf.config.experimental.enable_op_determinism`) the weights at the end are then those of a run
    that was not killed, to the last bit, if the data come in the same order: with `shuffle=False`,
    or a dataset that shuffles by the epoch. Keras's own shuffling begins anew. It comes last in the
    list of `fit`: what callbacks after it change, as `HeldOutTargets` does, it does not hold.

    Args:
        folder: Where the backup is kept, one folder for each training. Several workers share it:
            the first one writes what all of them read.
        every: A backup is made after every so many epochs, and after the last.
        delete: Whether the backup is removed when training ends. If it is not, the same `fit` made
            again has nothing left to do, or the epochs that it has not come to.

    Raises:
        ValueError: If `every` is no integer of at least 1, or in `fit`, if the model is not built.

    Example:

    >>> import keras, tempfile
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> epochs = []
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for number in (2, 5):
    ...         callback = Backup(folder, delete=False)
    ...         data = keras.ops.ones((4, 1)), keras.ops.ones((4, 1))
    ...         epochs += model.fit(*data, epochs=number, verbose=0, callbacks=[callback]).epoch
    >>> epochs
    [0, 1, 2, 3, 4]
    """

    def __init__(self, folder: str | os.PathLike[str], every: int = 1, delete: bool = True) -> None:
        super().__init__()
        check_count("every", every)
        self.folder = pathlib.Path(folder)
        self.every = every
        self.delete = delete

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Goes on with the latest backup, if there is one."""
        del logs
        if not self.model.built:
            raise ValueError(
                "`model` must be built before `fit`, to be restored: give it a keras.Input, or "
                "call it on a batch."
            )
        # Keras would begin there for ever, whatever `fit` it is.
        begin_at(self.model, None)
        if self._latest:
            epoch = max(self._latest)
            if not self.model.optimizer.built:
                self.model.optimizer.build(self.model.trainable_variables)
            self.model.load_weights(self._latest[epoch])
            begin_at(self.model, epoch)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Makes a backup, and removes older ones."""
        del logs
        done = epoch + 1
        last = done == self.params["epochs"] or self.model.stop_training
        if not self._writes or (done % self.every and not last):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / f"epoch-{done}.weights.h5", self.model.save_weights)
        for number, path in self._latest.items():
            if number < done:
                path.unlink()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Removes the backup, unless it is to stay."""
        del logs
        begin_at(self.model, None)
        if self.delete and self._writes:
            for path in (*self._latest.values(), *self.folder.glob(".part-epoch-*")):
                path.unlink()
            with contextlib.suppress(OSError):  # Not empty: what else is there is not ours.
                self.folder.rmdir()

    @property
    def _writes(self) -> bool:
        return self.model.distribute_strategy.extended.should_checkpoint

    @property
    def _latest(self) -> dict[int, pathlib.Path]:
        """Whole backups by how many epochs were done."""
        found = {}
        for path in self.folder.glob("epoch-*.weights.h5"):
            number = re.fullmatch(r"epoch-(\d+)\.weights\.h5", path.name)
            if number:
                found[int(number[1])] = path
        return found
