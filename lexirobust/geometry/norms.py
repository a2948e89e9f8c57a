"""Norms of perturbations, and perturbations as rows."""

from typing import Final

import numpy as np
import tensorflow as tf

from lexirobust.tensors import of_dtype

NORMS: Final = ("l1", "l2", "linf")


def check_norm(name: str, allowed: tuple[str, ...] = NORMS) -> str:
    """Returns `name` if it is an allowed norm, and raises `ValueError` otherwise."""
    if name not in allowed:
        raise ValueError(f"`norm` must be one of {allowed}. Received: {name!r}.")
    return name


def norm(perturbation: tf.Tensor, norm: str) -> tf.Tensor:
    """Computes the norm of every sample's perturbation.

    Args:
        perturbation: `[N, ...]` tensor.
        norm: `"l1"`, `"l2"` or `"linf"`.

    Returns:
        `[N]` tensor of the same dtype.

    Example:

    >>> norm(tf.constant([[3.0, -4.0]]), "l2").numpy().tolist()
    [5.0]
    """
    check_norm(norm)
    flat = flat_rows(tf.convert_to_tensor(perturbation))
    if norm == "l1":
        return tf.reduce_sum(tf.abs(flat), axis=-1)
    if norm == "linf":
        return tf.reduce_max(tf.abs(flat), axis=-1)
    # Scaled by the largest entry, so that no square underflows or overflows.
    largest = tf.reduce_max(tf.abs(flat), axis=-1, keepdims=True)
    scaled = tf.math.divide_no_nan(flat, largest)
    return largest[:, 0] * tf.sqrt(tf.reduce_sum(tf.square(scaled), axis=-1))


def flat_rows(tensor: tf.Tensor) -> tf.Tensor:
    """`[N, p]` from `[N, ...]`, p known statically."""
    return tf.reshape(tensor, (tf.shape(tensor)[0], int(np.prod(tensor.shape[1:]))))


def one_per_sample(radius: tf.Tensor | float, flat: tf.Tensor) -> tf.Tensor:
    """`[N, 1]` from a scalar or `[N]`."""
    radius = of_dtype(radius, flat.dtype)
    return tf.broadcast_to(tf.reshape(radius, (-1, 1)), (tf.shape(flat)[0], 1))


def divide(numerator: tf.Tensor, denominator: tf.Tensor) -> tf.Tensor:
    """A quotient that is 0 where the denominator is."""
    return tf.math.divide_no_nan(numerator, denominator)


def unit_rows(flat: tf.Tensor) -> tf.Tensor:
    """Rows of l2 norm 1; scaled by the largest entry first, so that tiny rows keep theirs."""
    scaled = divide(flat, tf.reduce_max(tf.abs(flat), axis=-1, keepdims=True))
    square = tf.reduce_sum(tf.square(scaled), axis=-1, keepdims=True)
    # One entry is 1 or -1 unless all are 0, where the root would have no derivative.
    return scaled / tf.sqrt(tf.maximum(square, 1.0))
