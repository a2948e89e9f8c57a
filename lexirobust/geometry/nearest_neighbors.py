"""Nearest of many points to each input, searched for in blocks inside the graph."""

from typing import Any, Final

import numpy as np
import tensorflow as tf

from lexirobust.geometry.norms import flat_rows

# Points, and entries of differences, that one block of a search holds for each input.
_BLOCK_POINTS: Final = 4096
_BLOCK_ENTRIES: Final = 8192
# What a product may be off by, as a share of the largest there can be: a GPU rounds factors to 10
# bits.
_ROUNDING: Final = 2.0**-9
# The same on a CPU, with what adds up over many entries, and how much of a squared distance it may
# be: where it is more, distances are computed in float64.
_FLOAT32_ROUNDING: Final = 2.0**-21
_DOUBT: Final = 1e-2


def nearest(
    x: tf.Tensor,
    points: tf.Tensor,
    norm: str,
    weights: tf.Tensor | None = None,
    other_than: tf.Tensor | None = None,
) -> tf.Tensor:
    """Finds the nearest point of each input.

    For l2 a block is one matrix product. Its rounding can only decide between points whose squared
    distances differ by less than a hundredth: it grows with the spread of the data, and where it
    is more, the product is taken in float64.

    Args:
        x: `[N, ...]` inputs.
        points: `[M, ...]` at least one.
        norm: `"l1"`, `"l2"` or `"linf"`.
        weights: `[M]` factors of distances, above 0.
        other_than: `[N]` int32 numbers of the points that are left out, -1 for none.

    Returns:
        `[N]` int32 numbers of points; one that is left out where there is no other.

    Example:

    >>> points = tf.constant([[0.0], [1.0]])
    >>> nearest(tf.constant([[0.4]]), points, "l2").numpy().tolist()
    [0]
    >>> nearest(tf.constant([[0.4]]), points, "l2", tf.constant([0.7, 0.3])).numpy().tolist()
    [1]
    """
    count = points.shape[0] or tf.shape(points)[0]
    size = _block_size(points, norm)
    # Small entries round little: the mean is no part of a difference.
    center = tf.cast(tf.reduce_mean(points, axis=0, keepdims=True), x.dtype)
    inputs = flat_rows(tf.stop_gradient(x) - center)

    def block(start: Any, best: tf.Tensor, index: tf.Tensor) -> tuple[tf.Tensor, ...]:
        # The last block looks at some points twice.
        rows = tf.minimum(start + tf.range(tf.minimum(size, count)), count - 1)
        some = flat_rows(tf.cast(tf.gather(points, rows), x.dtype) - center)

        def distances(dtype: tf.DType) -> tf.Tensor:
            far = tf.cast(_order(tf.cast(inputs, dtype), tf.cast(some, dtype), norm), x.dtype)
            if weights is not None:
                factors = tf.cast(tf.gather(weights, rows), x.dtype)
                far *= tf.square(factors) if norm == "l2" else factors
            if other_than is not None:
                far = tf.where(rows == other_than[:, None], far.dtype.max, far)
            return far

        far = distances(x.dtype)
        if norm == "l2" and x.dtype != tf.float64:
            doubt = tf.reduce_min(far) * _DOUBT < _rounding_of(inputs, some)
            far = tf.cond(doubt, lambda: distances(tf.float64), lambda: far)
        found = tf.argmin(far, axis=1, output_type=tf.int32)
        value = tf.gather(far, found, batch_dims=1)
        nearer = value < best
        return (
            start + size,
            tf.where(nearer, value, best),
            tf.where(nearer, tf.gather(rows, found), index),
        )

    none = tf.zeros_like(inputs[:, 0])
    nothing = tf.zeros_like(none, tf.int32) if other_than is None else tf.maximum(other_than, 0)
    found = tf.while_loop(
        lambda start, *_: start < count, block, (tf.constant(0), none + none.dtype.max, nothing)
    )
    return found[2]


def within(x: tf.Tensor, points: tf.Tensor, norm: str, radius: tf.Tensor) -> tf.Tensor:
    """Says which points are near any input; some that are just not may be among them.

    Args:
        x: `[N, ...]` inputs.
        points: `[M, ...]`, M known.
        norm: `"l1"`, `"l2"` or `"linf"`.
        radius: `[N]` how far is near.

    Returns:
        `[M]` bool tensor.

    Example:

    >>> points = tf.constant([[0.0], [1.0], [2.0]])
    >>> within(tf.constant([[0.4]]), points, "l1", tf.constant([1.0])).numpy().tolist()
    [True, True, False]
    """
    size = _block_size(points, norm)
    center = tf.cast(tf.reduce_mean(points, axis=0, keepdims=True), x.dtype)
    inputs = flat_rows(x - center)
    if norm == "l2":
        longest = tf.sqrt(tf.reduce_max(tf.reduce_sum(tf.square(inputs), axis=1)))
    parts = []
    for start in range(0, points.shape[0], size):
        block = flat_rows(tf.cast(points[start : start + size], x.dtype) - center)
        limit = radius * (1.0 + 1e-3)
        if norm == "l2":
            other = tf.sqrt(tf.reduce_max(tf.reduce_sum(tf.square(block), axis=1)))
            limit = tf.square(limit) + _ROUNDING * tf.square(longest + other)
        parts.append(tf.reduce_any(_order(inputs, block, norm) <= limit[:, None], axis=0))
    return tf.concat(parts, axis=0)


def _rounding_of(inputs: tf.Tensor, points: tf.Tensor) -> tf.Tensor:
    """What squared distances from a product may be off by: a scalar."""
    longest = [
        tf.sqrt(tf.reduce_max(tf.reduce_sum(tf.square(x), axis=1))) for x in (inputs, points)
    ]
    # A GPU may take products in TensorFloat-32.
    rounding = _ROUNDING if tf.config.list_physical_devices("GPU") else _FLOAT32_ROUNDING
    return rounding * tf.square(tf.add_n(longest))


def _block_size(points: tf.Tensor, norm: str) -> int:
    """The number of points in one block."""
    dimensions = int(np.prod(points.shape[1:]))
    return _BLOCK_POINTS if norm == "l2" else max(_BLOCK_ENTRIES // dimensions, 1)


def _order(inputs: tf.Tensor, points: tf.Tensor, norm: str) -> tf.Tensor:
    """`[N, m]` distances, for l2 their squares, of flat inputs `[N, D]` and points `[m, D]`."""
    if norm == "l2":
        squares = [tf.reduce_sum(tf.square(each), axis=1) for each in (inputs, points)]
        products = tf.matmul(inputs, points, transpose_b=True)
        return squares[0][:, None] + squares[1] - 2.0 * products
    differences = tf.abs(inputs[:, None] - points)
    reduce = tf.reduce_sum if norm == "l1" else tf.reduce_max
    return reduce(differences, axis=-1)
