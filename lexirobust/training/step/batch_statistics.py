"""Batch normalization as training has it, for attacks that see a classifier as it is in use."""

import contextlib
from collections.abc import Iterator

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
    not trainable, or are called with `training=False`.

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
    state = classifier.non_trainable_variables
    before = [tf.identity(variable.value) for variable in state]
    # An average moves by this share of its distance from the batch's.
    shares = {
        id(variable): 1.0 - layer.momentum
        for layer in layers
        for variable in (layer.moving_mean, layer.moving_variance)
    }
    try:
        classifier(x, training=True)
        for variable, old in zip(state, before, strict=True):
            share = shares.get(id(variable))
            variable.assign(old if share is None else old + (variable.value - old) / share)
        yield
    finally:
        for variable, old in zip(state, before, strict=True):
            variable.assign(old)
