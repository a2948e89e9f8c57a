"""The classifier as an objective sees it."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


class Forward:
    """The classifier's passes for one rank: one pass for each tensor it is called with.

    Args:
        classifier: Keras model.
        training: Whether it is called in training, or in use.
        named: Turns what several outputs give into a dict by their names; `None` where there is
            one output.
    """

    def __init__(
        self,
        classifier: keras.Model,
        training: bool,
        named: Callable[[Any], dict[str, Any]] | None = None,
    ) -> None:
        self._classifier = classifier
        self._training = training
        self._named = named
        self._known: dict[Any, Any] = {}
        self._losses: list[tf.Tensor] = []

    def __call__(self, x: tf.Tensor) -> Any:
        """Returns the classifier's output at `x`, or a dict of its outputs by their names."""
        if x.ref() not in self._known:
            outputs = self._classifier(x, training=self._training)
            if not self._known:
                # Keras keeps the losses of the last pass alone.
                self._losses = list(self._classifier.losses)
            self._known[x.ref()] = self._named(outputs) if self._named else outputs
        return self._known[x.ref()]

    def known(self, x: tf.Tensor) -> list[Any]:
        """Returns the output at `x` as a list of one, or an empty list before the pass at `x`."""
        return [self._known[x.ref()]] if x.ref() in self._known else []

    def regularization(self) -> tf.Tensor:
        """Returns the classifier's own losses in the first pass, this replica's part of them."""
        if not self._losses:
            return tf.zeros([], keras.config.floatx())
        return tf.add_n(self._losses) / tf.distribute.get_strategy().num_replicas_in_sync
