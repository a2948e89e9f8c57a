"""Inputs of attacks: tensors of their types, in batches."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lexirobust.tensors import of_dtype


def batches(batch_size: int | None, *tensors: tf.Tensor) -> list[tuple[tf.Tensor, ...]]:
    """Cuts tensors along their first axis, where they are at hand."""
    if batch_size is None or not tf.executing_eagerly():
        return [tensors]
    starts = range(0, len(tensors[0]), batch_size)
    return [tuple(each[start : start + batch_size] for each in tensors) for start in starts]


def one_per_input(argument: str, values: Any, x: tf.Tensor) -> tf.Tensor:
    """`[N]`: a number for each sample, of the inputs' type."""
    values = of_dtype(_as_real(argument, values), x.dtype)
    if values.shape.rank and not values.shape.is_compatible_with(x.shape[:1]):
        raise ValueError(
            f"`{argument}` must be a scalar, or hold one number for each of {x.shape[0]} samples. "
            f"Received: shape {values.shape}."
        )
    return tf.broadcast_to(values, tf.shape(x)[:1])


def scales_of(scale: Any | None, x: tf.Tensor) -> tf.Tensor:
    """`[N]`: the factor of each sample's magnitude, above 0; 1 where there is none."""
    scale = one_per_input("scale", 1.0 if scale is None else scale, x)
    if tf.executing_eagerly() and not np.all((scale.numpy() > 0) & np.isfinite(scale.numpy())):
        raise ValueError(f"`scale` must be finite and above 0. Received: {scale.numpy()}.")
    return scale


def _as_real(argument: str, values: Any) -> tf.Tensor:
    if not tf.is_tensor(values):
        try:
            values = tf.convert_to_tensor(np.asarray(values))
        except ValueError:  # Rows of several lengths, or no numbers at all.
            kind = type(values).__name__
            raise TypeError(f"`{argument}` must be real numbers. Received: {kind}.") from None
    if not (values.dtype.is_floating or values.dtype.is_integer or values.dtype.is_bool):
        raise TypeError(f"`{argument}` must be real numbers. Received: {values.dtype.name}.")
    return values


def as_float(x: Any) -> tf.Tensor:
    """Inputs as floats: integers become those of Keras."""
    x = _as_real("x", x)
    return x if x.dtype.is_floating else tf.cast(x, keras.config.floatx())


def channels_first(x: tf.Tensor) -> str | None:
    """Says what to do where images seem to have their channels first.

    Args:
        x: `[N, ...]` inputs.

    Returns:
        What came, and what to give in its place, or `None`.
    """
    if x.shape.rank != 4 or x.shape[1] not in (1, 3):
        return None
    if not all(size is not None and size > 4 for size in x.shape[2:]):
        return None
    return (
        f"shape {tuple(x.shape)}, whose channels seem to come first; begin the classifier with "
        "keras.layers.Permute((3, 1, 2)) and give it images of shape [N, height, width, channels]."
    )
