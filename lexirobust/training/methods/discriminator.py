"""The discriminator that estimates if inputs were already considered at a smaller magnitude."""

from collections.abc import Sequence
from typing import Final

import keras
import numpy as np
import tensorflow as tf

from lexirobust.geometry import balls
from lexirobust.geometry.nearest_neighbors import nearest
from lexirobust.keras_internals import calls_of
from lexirobust.tensors import wide
from lexirobust.training.augmentation import find_augmentation

_REACHED: Final = 0.75
"""The share of the way between two magnitudes from which on the larger one explores a point."""


def default_discriminator(classifier: keras.Model, classes: int) -> keras.Model:
    """Makes a discriminator like the classifier, with fresh weights and its own last layer.

    The classifier's random augmentation is left out: what it sees has been augmented.

    Args:
        classifier: Built sequential or functional model that ends in a dense layer.
        classes: Number of magnitudes, 0 among them.

    Returns:
        Keras model that maps inputs to logits `[N, classes]`.

    Raises:
        ValueError: If the classifier is of another kind.
    """
    known = isinstance(classifier, keras.Sequential) or hasattr(classifier, "operations")
    if not (known and classifier.built and isinstance(classifier.layers[-1], keras.layers.Dense)):
        raise ValueError(
            "`discriminator` must be given where the classifier is not a built sequential or "
            f"functional model with a dense last layer. Received: {classifier!r}."
        )
    # A layer that models share has an input in each.
    (output,), calls = classifier.outputs, calls_of(classifier.layers[-1])
    (last,) = (call.inputs[0] for call in calls if call.outputs[0] is output)
    if any(last is each for each in classifier.inputs):
        last = keras.layers.Identity()(last)  # Keras 3.12 makes no model of an input alone.
    features = keras.Model(classifier.inputs, last)
    features = keras.models.clone_model(find_augmentation(features).trained)
    return keras.Sequential([features, keras.layers.Dense(classes)], name="discriminator")


def log_unexplored(
    logits: tf.Tensor, magnitudes: Sequence[float], magnitude: tf.Tensor
) -> tf.Tensor:
    """Estimates how likely inputs lie outside the region explored before their magnitude.

    Args:
        logits: `[N, T]` of the discriminator at the inputs, one class a magnitude.
        magnitudes: `[T]` ascending, 0 first.
        magnitude: `[N]`, the magnitude that each input is considered at.

    Returns:
        `[N]` natural logarithms of `sum_{s >= t} D(x)_s`.

    Example:

    >>> logits = tf.math.log([[0.2, 0.3, 0.5]])
    >>> tf.exp(log_unexplored(logits, [0.0, 1.0, 2.0], tf.constant([1.0]))).numpy().round(3)
    array([0.8], dtype=float32)

    Reference:
        Section 4.1 of the paper.
    """
    rank = _place(magnitude, magnitudes, 0.5)  # A magnitude may have been rounded.
    considered = tf.range(len(magnitudes)) >= rank[:, None]
    logits = tf.nn.log_softmax(tf.cast(logits, wide(logits.dtype)))
    return tf.reduce_logsumexp(tf.where(considered, logits, logits.dtype.min), axis=1)


def explored_from(
    points: tf.Tensor, x: tf.Tensor, magnitudes: Sequence[float], norm: str
) -> tf.Tensor:
    """Says which magnitude explores points, from the nearest of some samples.

    What is far from the sample that it is a perturbation of may be near to another one.

    Args:
        points: `[M, ...]` inputs.
        x: `[N, ...]` samples.
        magnitudes: `[T]` ascending, 0 first.
        norm: `"l1"`, `"l2"` or `"linf"`.

    Returns:
        `[M]` int32 places of the largest magnitudes that the distances to the nearest samples reach
        all but a quarter of the way from the magnitude before. Where they had to be reached whole,
        only samples at the very edge of dense data would have points of a large magnitude.

    Example: 1.9 is 1.1 from a sample.

    >>> points, x = tf.constant([[0.0], [1.9], [-2.0]]), tf.constant([[0.0], [3.0]])
    >>> explored_from(points, x, (0.0, 1.0, 2.0), "l2").numpy().tolist()
    [0, 1, 2]
    """
    far = balls.norm(points - tf.gather(x, nearest(points, x, norm)), norm)
    return _place(far, magnitudes, _REACHED)


def _place(values: tf.Tensor, magnitudes: Sequence[float], share: float) -> tf.Tensor:
    """`[N]` int32: the place of the magnitude that each value has come this share of the way to."""
    known = np.asarray(magnitudes)
    limits = tf.constant(known[:-1] + share * np.diff(known), values.dtype)
    return tf.reduce_sum(tf.cast(values[:, None] > limits, tf.int32), axis=1)


def discriminator_loss(
    discriminator: keras.Model, x: tf.Tensor, perturbed: tf.Tensor, labels: tf.Tensor
) -> tf.Tensor:
    """Computes a discriminator's loss on clean inputs and on those perturbed by each magnitude.

    Args:
        discriminator: Maps inputs to logits `[N, T]`.
        x: `[N, ...]` clean inputs: class 0.
        perturbed: `[M, ...]` perturbed inputs, as many by each magnitude but 0.
        labels: `[M]` int32 their classes.

    Returns:
        Scalar cross entropy, every magnitude with the same weight.
    """
    count = tf.shape(x)[0]
    logits = discriminator(tf.concat([x, perturbed], axis=0), training=True)
    logits = tf.cast(logits, wide(logits.dtype))
    classes = tf.concat([tf.zeros((count,), tf.int32), labels], axis=0)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits)
    share = 1.0 / logits.shape[1]
    return share * tf.reduce_mean(losses[:count]) + (1.0 - share) * tf.reduce_mean(losses[count:])
