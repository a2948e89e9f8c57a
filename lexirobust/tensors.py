"""Types and shapes of tensors, and classes of logits."""

from typing import Any

import tensorflow as tf


def wide(dtype: Any) -> tf.DType:
    """The type that numbers made of others are kept in: float32, or float64 where those are.

    Example:

    >>> wide(tf.float16).name, wide(tf.float64).name
    ('float32', 'float64')
    """
    return tf.float64 if tf.as_dtype(dtype) == tf.float64 else tf.float32


def of_dtype(values: Any, dtype: Any) -> tf.Tensor:
    """Numbers as a tensor of a floating type; Python's are not rounded to float32 on their way.

    Example:

    >>> float(of_dtype(0.7, tf.float64))
    0.7
    """
    return tf.cast(tf.convert_to_tensor(values, dtype_hint=dtype), dtype)


def spread(per_sample: Any, like: Any) -> tf.Tensor:
    """`[N]` as `[N, 1, ...]`, of the rank of another tensor, and of its type unless it is bool."""
    per_sample, like = tf.convert_to_tensor(per_sample), tf.convert_to_tensor(like)
    if not per_sample.dtype.is_bool:
        per_sample = tf.cast(per_sample, like.dtype)
    return tf.reshape(per_sample, [-1] + [1] * (like.shape.rank - 1))


def choose(condition: tf.Tensor, yes: Any, no: Any) -> Any:
    """Chooses sample by sample.

    Args:
        condition: `[N]` bool tensor.
        yes: Tensor `[N, ...]`, or a structure of them, taken where the condition holds.
        no: The same, taken where it does not.

    Returns:
        As `yes`.
    """
    return tf.nest.map_structure(
        lambda one, other: tf.where(spread(condition, one), one, other), yes, no
    )


def classes_of(logits: Any) -> tf.Tensor:
    """Says which class each row of logits decides for.

    Args:
        logits: `[N, C]` array or tensor.

    Returns:
        `[N]` int32 classes; -1, which equals no label, where a logit is not a number.

    Example:

    >>> classes_of([[0.0, 1.0], [2.0, float("nan")]]).numpy().tolist()
    [1, -1]
    """
    logits = tf.convert_to_tensor(logits)
    classes = tf.argmax(logits, axis=-1, output_type=tf.int32)
    if not logits.dtype.is_floating:
        return classes
    return tf.where(tf.reduce_any(tf.math.is_nan(logits), axis=-1), -1, classes)
