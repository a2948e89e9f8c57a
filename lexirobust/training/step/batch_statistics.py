"""Batch normalization as training has it, for attacks that see a classifier as it is in use."""

import collections
import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from lexirobust.keras_internals import layers_inside


@contextlib.contextmanager
def normalized_by(classifier: keras.Model, x: tf.Tensor) -> Iterator[None]:
    """Has batch normalization use a batch's own statistics in place of its running averages.

    A step trains on what the batch's statistics normalize. Averages lag behind, by a hundred steps
    with Keras's momentum of 0.99: an attack that sees them is weak against what is trained, and
    robustness is not learned until the learning rate has fallen. Outside of the context nothing
    has changed. What is not normalized by batches in training keeps its averages: layers that are
    not trainable, or are called with `training=False`. A layer that is called several times has one
    pair of averages for all its calls, and gets the mean of their statistics.

    Args:
        classifier: Keras model without random augmentation.
        x: `[N, ...]` the clean batch: one forward pass, if there is such a layer.
    """
    layers = [
        layer
        for layer in layers_inside(classifier)
        if isinstance(layer, keras.layers.BatchNormalization) and layer.momentum < 1.0
    ]
    if not layers:
        yield
        return
    averages = [each for layer in layers for each in (layer.moving_mean, layer.moving_variance)]
    momenta = [layer.momentum for layer in layers for _ in range(2)]
    before = [tf.identity(average.value) for average in averages]
    # From zero, k updates leave the mean of what they were given, times 1 - momentum ** k.
    with _Updates([(each, tf.zeros_like(each.value)) for each in averages]) as updates:
        classifier(x, training=True)
    try:
        for average, momentum in zip(averages, momenta, strict=True):
            calls = updates.counts[id(average)]
            if calls:
                average.assign(updates.get_current_value(average) / (1.0 - momentum**calls))
        yield
    finally:
        for average, old in zip(averages, before, strict=True):
            average.assign(old)


class _Updates(keras.StatelessScope):
    """Keeps what is assigned to variables away from them, and counts it."""

    def __init__(self, values: list[tuple[keras.Variable, tf.Tensor]]) -> None:
        super().__init__(values)
        self.counts: collections.Counter[int] = collections.Counter()

    def add_update(self, update: tuple[keras.Variable, Any]) -> None:
        """Notes one assignment."""
        self.counts[id(update[0])] += 1
        super().add_update(update)
