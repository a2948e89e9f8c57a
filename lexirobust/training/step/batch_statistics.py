"""Batch normalization as training has it, for attacks that see a classifier as it is in use."""

import collections
import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from lexirobust.keras_internals import assign_past_scopes, layers_inside


@contextlib.contextmanager
def normalized_by(classifier: keras.Model, x: tf.Tensor) -> Iterator[None]:
    """Has batch normalization use a batch's own statistics in place of its running averages.

    A step trains on what the batch's statistics normalize. Averages lag behind, by a hundred steps
    with Keras's momentum of 0.99: an attack that sees them is weak against what is trained, and
    robustness is not learned until the learning rate has fallen. Outside of the context nothing
    has changed. What is not normalized by batches in training keeps its averages: layers that are
    not trainable, or are called with `training=False`, or renormalize. A layer that is called
    several times has one pair of averages for all its calls, and gets the mean of their statistics.

    Args:
        classifier: Keras model without random augmentation.
        x: `[N, ...]` the clean batch: one forward pass, if there is such a layer.
    """
    layers = [
        layer
        for layer in layers_inside(classifier)
        if isinstance(layer, keras.layers.BatchNormalization)
        and layer.momentum < 1.0
        and not getattr(layer, "renorm", False)
    ]
    if not layers:
        yield
        return
    state = classifier.non_trainable_variables
    before = {id(variable): tf.identity(variable.value) for variable in state}
    try:
        with _CountedUpdates() as updates:
            classifier(x, training=True)
        after = {id(variable): tf.identity(variable.value) for variable in state}
        for variable in state:
            variable.assign(before[id(variable)])
        for layer in layers:
            averages = layer.moving_mean, layer.moving_variance
            # After k updates an average has moved by this share of its distance from their mean.
            share = 1.0 - layer.momentum ** max(updates.counts[id(layer.moving_mean)], 1)
            old = [before[id(each)] for each in averages]
            mean, variance = (
                low + (after[id(each)] - low) / share
                for low, each in zip(old, averages, strict=True)
            )
            # In a loop of the graph there are more updates than can be counted here. A negative
            # variance shows it, unless it is within the rounding of the averages.
            known = tf.reduce_all(variance >= -1e-3 * (1.0 + old[1]))
            new = mean, tf.maximum(variance, 0.0)
            for average, low, value in zip(averages, old, new, strict=True):
                average.assign(tf.where(known, value, low))
        yield
    finally:
        for variable in state:
            variable.assign(before[id(variable)])


class _CountedUpdates(keras.StatelessScope):
    """Counts what is assigned to each variable, by its id, and assigns it all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: collections.Counter[int] = collections.Counter()

    def add_update(self, update: tuple[keras.Variable, Any]) -> None:
        """Notes one assignment."""
        self.counts[id(update[0])] += 1
        assign_past_scopes(*update)
