"""Inner products between the gradients of ranked losses."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import tensorflow as tf

Gradients: TypeAlias = Any
"""`[T, p]` tensor, or a list (per loss) of lists (per variable) of tensors, `None` allowed."""


def gramian(gradients: Gradients, metric: Sequence[Any] | Any | None = None) -> tf.Tensor:
    """Computes all inner products between the gradients of T ranked losses.

    Sums run in float64, so that gradients of any float32 scale keep their angles.

    Args:
        gradients: `[T, p]` tensor, or a list (per loss) of lists (per variable) of tensors.
            `None` stands for a variable that a loss does not depend on.
        metric: Positive diagonal of a preconditioner, shaped like one gradient: `[p]`, or a list
            of one tensor per variable. `None` is the Euclidean metric.

    Returns:
        `[T, T]` float64 tensor, `K[s, t] = <g_s, metric * g_t>`.

    Raises:
        ValueError: If there are no gradients, the losses do not all have the same number of
            variables, or `metric` is not shaped like one gradient.

    Example:

    >>> K = gramian([[3.0, 0.0], [1.0, 2.0]])
    >>> K.numpy().tolist()
    [[9.0, 3.0], [3.0, 5.0]]

    Reference:
        Section 4.2 of "Finding a human-like classifier"; Lopez-Paz and Ranzato, arXiv 1706.08840.
    """
    columns = per_variable(gradients)
    diagonals: list[Any] = [None] * len(columns)
    if metric is not None:
        diagonals = list(metric) if isinstance(metric, list | tuple) else [metric]
        if len(diagonals) != len(columns):
            raise ValueError(
                f"`metric` must hold one tensor per variable. Received: {len(diagonals)} for "
                f"{len(columns)} variables."
            )
    ranks = len(columns[0])
    total = tf.zeros((ranks, ranks), tf.float64)
    for column, diagonal in zip(columns, diagonals, strict=True):
        present = [g for g in column if g is not None]
        if not present:
            continue
        # A missing gradient is a row of zeros: it adds nothing to any inner product.
        blank = tf.zeros_like(tf.cast(present[0], tf.float64))
        rows = tf.stack([blank if g is None else tf.cast(g, tf.float64) for g in column])
        scaled = rows
        if diagonal is not None:
            diagonal = tf.cast(diagonal, tf.float64)
            if not diagonal.shape.is_compatible_with(rows.shape[1:]):
                raise ValueError(
                    "`metric` must be shaped like one gradient. Received: shape "
                    f"{diagonal.shape} for a gradient of shape {rows.shape[1:]}."
                )
            scaled = rows * diagonal
        rows, scaled = tf.reshape(rows, (ranks, -1)), tf.reshape(scaled, (ranks, -1))
        total += tf.linalg.matmul(scaled, rows, transpose_b=True)
    return total


def cosines(gram: tf.Tensor) -> tf.Tensor:
    """Computes the cosine between every two gradients from their Gramian.

    Args:
        gram: `[T, T]` Gramian.

    Returns:
        `[T, T]` tensor of `gram`'s dtype; 0 where a gradient is zero.

    Example:

    >>> cosines(gramian([[2.0, 0.0], [3.0, 4.0]])).numpy().round(3).tolist()
    [[1.0, 0.6], [0.6, 1.0]]
    """
    norms = tf.sqrt(tf.linalg.diag_part(gram))
    # One division at a time: the product of two tiny norms would underflow first.
    return tf.math.divide_no_nan(tf.math.divide_no_nan(gram, norms[:, None]), norms[None, :])


def per_variable(gradients: Gradients) -> list[list[Any]]:
    """Transposes gradients from `[loss][variable]` to `[variable][loss]`."""
    if not _is_per_variable(gradients):
        matrix = tf.convert_to_tensor(gradients)
        if matrix.shape.rank != 2 or not matrix.shape[0]:
            raise ValueError(
                "`gradients` must be a [T, p] tensor, T known and at least 1, or a list (per loss) "
                f"of lists (per variable). Received: shape {matrix.shape}."
            )
        return [tf.unstack(matrix)]
    counts = {len(row) for row in gradients}
    if len(counts) != 1 or counts == {0}:
        raise ValueError(
            "`gradients` must hold the same number of variables, at least one, for every loss. "
            f"Received: {[len(row) for row in gradients]} variables."
        )
    return [list(column) for column in zip(*gradients, strict=True)]


def _is_per_variable(gradients: Gradients) -> bool:
    """Tells lists of tensors per variable from a matrix, nested lists of numbers among them."""
    if not isinstance(gradients, list | tuple):
        return False
    if not all(isinstance(row, list | tuple) for row in gradients):
        return False
    values = [value for row in gradients for value in row]
    return not values or not all(isinstance(value, int | float) for value in values)
