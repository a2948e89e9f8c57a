"""The forms that gradients of several losses come in, and what their shapes must be."""

from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

Gradients: TypeAlias = Any
"""`[T, p]` tensor, or a list (per loss) of lists (per variable) of tensors, `None` allowed."""


def as_floats(values: Any) -> tf.Tensor:
    """Numbers as a tensor: of their own type where that is a floating one, otherwise float64.

    Python's own numbers are float64, too: float32 would lose what is far from 1.
    """
    if _are_numbers(values):
        return tf.constant(np.asarray(values, np.float64))
    values = tf.convert_to_tensor(values)
    return values if values.dtype.is_floating else tf.cast(values, tf.float64)


def per_variable(gradients: Gradients) -> list[Any]:
    """Transposes gradients from `[loss][variable]` to `[variable][loss]`.

    A `[T, p]` tensor is one variable and stays whole.
    """
    if not _is_per_variable(gradients):
        return [matrix_of(gradients)]
    counts = {len(row) for row in gradients}
    if len(counts) != 1 or counts == {0}:
        raise ValueError(
            "`gradients` must hold the same number of variables, at least one, for every loss. "
            f"Received: {[len(row) for row in gradients]} variables."
        )
    columns = [list(column) for column in zip(*gradients, strict=True)]
    for column in columns:
        common_shape(column)
        for gradient in column:
            _check_real(gradient)
    return columns


def matrix_of(gradients: Any) -> tf.Tensor:
    """A `[T, p]` tensor, as it is or of a list of vectors or of numbers."""
    try:
        numbers = _are_numbers(gradients)
        matrix = as_floats(gradients) if numbers else tf.convert_to_tensor(gradients)
    except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
        raise ValueError(
            "`gradients` must be a [T, p] tensor, or vectors of one length. Received: "
            f"{gradients!r}."
        ) from error
    if matrix.shape.rank is None:
        matrix = tf.ensure_shape(matrix, [None, None])
    if matrix.shape.rank != 2 or matrix.shape[0] == 0:
        raise ValueError(
            "`gradients` must be a [T, p] tensor, T at least 1, or a list (per loss) of lists (per "
            f"variable). Received: shape {matrix.shape}."
        )
    _check_real(matrix)
    return matrix


def _check_real(gradient: Any) -> None:
    if gradient is None or isinstance(gradient, int | float):
        return
    own = gradient.dtype if hasattr(gradient, "dtype") else np.asarray(gradient).dtype
    dtype = tf.as_dtype(own)
    if not (dtype.is_floating or dtype.is_integer):
        raise ValueError(f"`gradients` must be real numbers. Received: {dtype.name}.")


def _are_numbers(values: Any) -> bool:
    """Tells if values are nested lists of Python numbers, or one number."""
    if isinstance(values, list | tuple):
        return all(_are_numbers(value) for value in values)
    return isinstance(values, int | float)


def _is_per_variable(gradients: Gradients) -> bool:
    """Tells lists of tensors per variable from a matrix, nested lists of numbers among them."""
    if not isinstance(gradients, list | tuple):
        return False
    if not all(isinstance(row, list | tuple) for row in gradients):
        return False
    values = [value for row in gradients for value in row]
    return not values or not all(isinstance(value, int | float) for value in values)


def count(vectors: tf.Tensor | list[Any]) -> int | tf.Tensor:
    """The number of vectors, an integer if it is known statically."""
    if isinstance(vectors, list):
        return len(vectors)
    known = vectors.shape[0]
    return tf.shape(vectors)[0] if known is None else int(known)


def size_of(vectors: tf.Tensor | list[tf.Tensor]) -> int | tf.Tensor:
    """The number of elements of each vector, an integer if it is known statically."""
    if not isinstance(vectors, list):
        known = vectors.shape[1]
        return tf.shape(vectors)[1] if known is None else int(known)
    known = vectors[0].shape[0]
    return tf.size(vectors[0]) if known is None else int(known)


def common_shape(column: tf.Tensor | list[Any]) -> tf.TensorShape:
    """The static shape of one variable's gradients, which all of them have."""
    if not isinstance(column, list):
        return column.shape[1:]
    shape = tf.TensorShape(None)
    for gradient in column:
        if gradient is not None:
            same = "`gradients` must have one shape for each variable"
            shape = merged(shape, _static(gradient), same)
    return shape


def _static(gradient: Any) -> tf.TensorShape:
    return tf.TensorShape(gradient.shape if hasattr(gradient, "shape") else np.shape(gradient))


def merged(one: tf.TensorShape, other: tf.TensorShape, rule: str) -> tf.TensorShape:
    """The static shape that two tensors must share."""
    if not one.is_compatible_with(other):
        raise ValueError(f"{rule}. Received: shapes {one} and {other}.")
    return one.merge_with(other)


def as_vectors(
    column: tf.Tensor | list[Any], shape: tf.TensorShape
) -> tf.Tensor | list[tf.Tensor] | None:
    """One variable's gradients as vectors, a missing one as zeros; `None` where all are missing."""
    if not isinstance(column, list):
        known = column.shape[1:].is_fully_defined()
        return column if known else tf.ensure_shape(column, [column.shape[0], *shape])
    present = [g for g in column if g is not None]
    if not present:
        return None
    size = shape.num_elements()
    size = tf.size(present[0]) if size is None else size
    rule = "`gradients` must have one shape for each variable."
    present = [as_vector(g, size, rule) for g in present]
    blank, remaining = tf.zeros_like(present[0]), iter(present)
    return [blank if g is None else next(remaining) for g in column]


def as_vector(values: Any, size: int | tf.Tensor, rule: str) -> tf.Tensor:
    """Numbers in a row; where a graph does not know how many, what are others fails as it runs."""
    if isinstance(size, int):
        return tf.reshape(values, [size])
    # XLA leaves assertions out and compares the shapes; TensorFlow leaves out the reshaping.
    values = tf.convert_to_tensor(values)
    with tf.control_dependencies([tf.debugging.assert_equal(tf.size(values), size, rule)]):
        return tf.reshape(values, [size])
