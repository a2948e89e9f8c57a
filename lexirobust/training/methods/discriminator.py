"""The discriminator that estimates if inputs were already considered at a smaller magnitude."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from lexirobust.keras_internals import calls_of
from lexirobust.tensors import wide
from lexirobust.training.augmentation import find_augmentation


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
    known = np.asarray(magnitudes)
    # Halfway between neighbors, so that rounding of a magnitude does not change its rank.
    thresholds = tf.constant((known[1:] + known[:-1]) / 2, magnitude.dtype)
    rank = tf.reduce_sum(tf.cast(magnitude[:, None] > thresholds, tf.int32), axis=1)
    considered = tf.range(len(known)) >= rank[:, None]
    logits = tf.nn.log_softmax(tf.cast(logits, wide(logits.dtype)))
    return tf.reduce_logsumexp(tf.where(considered, logits, logits.dtype.min), axis=1)


def discriminator_loss(
    discriminator: keras.Model, x: tf.Tensor, perturbed: Sequence[tf.Tensor]
) -> tf.Tensor:
    """Computes a discriminator's loss on clean inputs and on those perturbed by each magnitude.

    Args:
        discriminator: Maps inputs to logits `[N, T]`.
        x: `[N, ...]` clean inputs: class 0.
        perturbed: `[T - 1, N, ...]` tensors, the perturbed inputs of classes 1 to T - 1.

    Returns:
        Scalar cross entropy, every class with the same weight.
    """
    ranks = 1 + perturbed[0].shape[0]
    count = tf.shape(x)[0]
    shape = tf.concat([[-1], tf.shape(x)[1:]], axis=0)
    inputs = tf.concat([x, *(tf.reshape(x_adv, shape) for x_adv in perturbed)], axis=0)
    inputs = tf.ensure_shape(inputs, [None, *x.shape[1:]])
    own = tf.repeat(tf.range(1, ranks), count)
    labels = tf.concat([tf.zeros((count,), tf.int32), *[own] * len(perturbed)], axis=0)
    logits = discriminator(inputs, training=True)
    logits = tf.cast(logits, wide(logits.dtype))
    weights = tf.cast(tf.where(labels == 0, float(len(perturbed)), 1.0), logits.dtype)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return tf.reduce_sum(weights * losses) / tf.reduce_sum(weights)
