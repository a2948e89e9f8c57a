"""Robustness on held-out data while a model trains."""

import copy
import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lexirobust.attacks.base import Attack
from lexirobust.attacks.check_attack import check_attack
from lexirobust.attacks.classifier import classifier_of, logits_of
from lexirobust.callbacks.board import Periodic
from lexirobust.checks import check_count, check_magnitudes
from lexirobust.data_checks import check_data
from lexirobust.data_forms import one_array
from lexirobust.evaluation import AccuracyCurve, evaluate_robustness
from lexirobust.evaluation.batches import check_one_label
from lexirobust.names import check_names_differ, magnitude_name


class RobustnessCurve(Periodic):
    """Measures accuracy as a function of the magnitude, every few epochs of `fit`.

    The logs, and with them `history`, hold `val_accuracy@natural` and for each magnitude above 0
    `val_accuracy@NORM=MAGNITUDE`, as `val_accuracy@l2=1` or `val_accuracy@l2=0_5`: of an epoch
    that was not measured the last value before it. The attack is the same each time, with the same
    random numbers, and need not be the one that trains.

    Args:
        x: `[N, ...]` held-out inputs, or a `tf.data.Dataset`, as of `evaluate_robustness`.
        y: `[N]` integer labels, or `None`.
        attack: Perturbs the inputs.
        magnitudes: `[K]` norms, at least 0; measured from the smallest up.
        every: Measures after every so many epochs, and after the first. Keras's `EarlyStopping` and
            `ReduceLROnPlateau` count epochs, not measurements: their `patience` must be longer.
        batch_size: Number of samples perturbed at a time.
        log_dir: Folder for TensorBoard, which gets the accuracies, the curve as a picture, and
            histograms of the losses; `None`: nothing is written.

    Attributes:
        curves: What was measured, an `AccuracyCurve` by epoch, counted from 0. A later `fit` keeps
            those of epochs before its first.

    Raises:
        TypeError: If the attack is none, inputs are no numbers or labels no integers.
        ValueError: If an argument is not as above, or in `fit`, if the logs hold one of these names
            already: with `validation_data`, our models measure under the training's attack. Also
            if magnitudes are so near to each other that they have one name, or no input can move
            by one of them inside the attack's bounds; of a dataset that is found in `fit`.

    Example:

    >>> import keras, lexirobust as lr
    >>> x, y = lr.datasets.toy(20, seed=0)
    >>> attack = lr.attacks.PGD(norm="l2", steps=1, restarts=2, bounds=None)
    >>> classifier = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    >>> model = lr.OLSRC(classifier, attack, [0.5])
    >>> model.compile("adam")
    >>> watch = RobustnessCurve(x, y, attack, [0, 0.5], every=2)
    >>> history = model.fit(x, y, epochs=4, verbose=0, callbacks=[watch]).history
    >>> len(history["val_accuracy@l2=0_5"]), sorted(watch.curves)
    (4, [0, 1, 3])
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        attack: Attack,
        magnitudes: Any,
        every: int = 1,
        batch_size: int = 500,
        log_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(every, log_dir)
        check_attack(attack)
        if attack.seed is None:
            # A seed of its own, so that watching changes nothing in training.
            config = attack.get_config()
            if "seed" in config:
                attack = type(attack).from_config({**config, "seed": 0})
            else:  # It draws for what it is made of.
                attack = copy.copy(attack)
                attack.seed, attack._generator = 0, None
        self.x, self.y, self.attack = one_array(x), y, attack
        check_count("batch_size", batch_size)
        if not isinstance(x, tf.data.Dataset):
            check_data(self.x, y, attack.bounds)  # Now, and not after the first epoch.
            check_one_label(y)
        self.magnitudes = sorted({*check_magnitudes(magnitudes, ranked=False)})
        if not isinstance(x, tf.data.Dataset):
            attack.check_room(self.magnitudes[-1], np.shape(self.x)[1:])
        self.batch_size = batch_size
        self.curves: dict[int, AccuracyCurve] = {}
        check_names_differ(self.magnitudes)

    @property
    def names(self) -> list[str]:
        """The log names of the accuracies, by magnitude."""
        return [
            f"val_accuracy@{magnitude_name(self.attack.norm, magnitude)}"
            if magnitude
            else "val_accuracy@natural"
            for magnitude in self.magnitudes
        ]

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Checks the data by the model, before anything is learned."""
        super().on_train_begin(logs)
        classifier = classifier_of(self.model)
        if isinstance(self.x, tf.data.Dataset):
            first = self.x.take(1)
            curve = evaluate_robustness(classifier, first, self.y, self.attack, [0.0], checks=False)
            if curve.shown is not None:
                self.attack.check_room(self.magnitudes[-1], curve.shown.x.shape[1:])
            return
        classes = logits_of(classifier, tf.cast(self.x[:1], keras.config.floatx())).shape[-1]
        check_data(self.x, self.y, self.attack.bounds, classes)

    def forget_from(self, epoch: int) -> None:
        """Drops curves of another training."""
        self.curves = {known: curve for known, curve in self.curves.items() if known < epoch}

    def on_epoch(self, epoch: int, logs: dict[str, Any]) -> None:
        """Measures."""
        there = sorted({*self.names} & {*logs})
        if there:  # Of a plain Keras model, or of another callback.
            raise ValueError(
                "A RobustnessCurve must measure what nothing else logs. Received: "
                f"{there} in the logs already."
            )
        curve = evaluate_robustness(
            classifier_of(self.model),
            self.x,
            self.y,
            self.attack,
            self.magnitudes,
            self.batch_size,
            checks=False,
        )
        self.curves[epoch] = curve
        logs.update(zip(self.names, map(float, curve.accuracy), strict=True))
        if self.log_dir is not None:
            # TensorBoard groups by what stands before a slash.
            names = [name.replace("@", "/") for name in self.names]
            losses = [name.replace("accuracy", "losses") for name in names]
            self.write(
                epoch,
                scalars=dict(zip(names, map(float, curve.accuracy), strict=True)),
                images={"val_accuracy/curve": curve.plot()},
                histograms=dict(zip(losses, curve.losses, strict=True)),
            )
