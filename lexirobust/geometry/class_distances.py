"""Exact nearest neighbors and distances between classes, in blocks of bounded memory."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from lexirobust import progress
from lexirobust.data_checks import check_data
from lexirobust.data_forms import one_array
from lexirobust.geometry.balls import check_norm

# Entries of one block's distance matrix, and of the differences that l1 and linf need.
_BLOCK_ENTRIES = 2**22
_DIFFERENCE_ENTRIES = 2**24


def class_distances(x: Any, y: Any, norm: str = "l2") -> np.ndarray:
    """Measures how near the classes of a data set come to each other.

    Distances are exact: what a block's fast arithmetic leaves in doubt is measured again in
    float64. For l2 a block is one matrix product; l1 and linf take a difference for every pair and
    entry, which is some fifty times slower for images.

    Args:
        x: `[N, ...]` inputs.
        y: `[N]` integer labels from 0 on.
        norm: `"l1"`, `"l2"` or `"linf"`.

    Returns:
        `[C, C]` float64, symmetric: the smallest distance between samples of two classes; infinity
        on the diagonal, and where a class has no samples.

    Raises:
        ValueError: If there is no data, counts differ, values are not finite, labels are not as
            above or the norm is unknown.
        TypeError: If inputs are no numbers or labels no integers.

    Example:

    >>> class_distances([[0.0], [1.0], [4.0]], [0, 0, 1])
    array([[inf,  3.],
           [ 3., inf]])

    Reference:
        Section 1.2 and Figure 2 of the paper; Yang et al., arXiv 2003.02460: a data set is
        r-separated where the least of them is at least 2 r.
    """
    return _nearest(x, y, norm)[0]


def nearest_pairs(x: Any, y: Any, norm: str = "l2") -> np.ndarray:
    """Finds the two samples at which two classes come nearest to each other.

    Args:
        x: `[N, ...]` inputs.
        y: `[N]` integer labels from 0 on.
        norm: `"l1"`, `"l2"` or `"linf"`.

    Returns:
        `[C, C, 2]` int64 indices into `x`: at `[a, b]` first the sample of class `a`, then the one
        of class `b`; -1 on the diagonal, and where a class has no samples. Of several pairs at the
        same distance it is any one.

    Raises:
        ValueError: As `class_distances`.
        TypeError: As `class_distances`.

    Example:

    >>> nearest_pairs([[0.0], [1.0], [4.0]], [0, 0, 1])[0, 1]
    array([1, 2])

    Reference:
        Figure 2 of the paper.
    """
    return _nearest(x, y, norm)[1]


def _nearest(x: Any, y: Any, norm: str) -> tuple[np.ndarray, np.ndarray]:
    """Distances `[C, C]` between classes, and the pairs `[C, C, 2]` that have them."""
    check_norm(norm)
    x = one_array(x)
    check_data(x, y)
    x, y = np.asarray(x), np.asarray(y)
    if y.dtype.kind not in "iu" or y.ndim > 2 or y.size != len(x) or y.min() < 0:
        raise ValueError(f"`y` must be [N] labels from 0 on. Received: {y.dtype} {y.shape}.")
    x, y = x.reshape(len(x), -1), y.reshape(-1)
    classes = int(y.max()) + 1
    distances = np.full((classes, classes), np.inf)
    pairs = np.full((classes, classes, 2), -1, np.int64)
    members = [np.flatnonzero(y == label) for label in range(classes)]
    # Small entries round little: the mean is no part of a difference.
    centered = (x - x.mean(axis=0, dtype=np.float64)).astype(np.float32)
    entries = _BLOCK_ENTRIES if norm == "l2" else max(_DIFFERENCE_ENTRIES // x.shape[1], 1)
    size = int(entries**0.5)
    work = [
        (a, b, block)
        for a, b in itertools.combinations(range(classes), 2)
        for block in _blocks(members[a], members[b], size)
    ]
    for a, b, (rows, columns) in progress.bar(work, "distances"):
        found = _nearest_of_block(x, centered, rows, columns, norm, distances[a, b])
        if found is not None:
            distance, row, column = found
            distances[a, b] = distances[b, a] = distance
            pairs[a, b], pairs[b, a] = (row, column), (column, row)
    return distances, pairs


def _blocks(
    rows: np.ndarray, columns: np.ndarray, size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cuts index arrays so that no block has more than `size` squared pairs."""
    for i, j in itertools.product(range(0, len(rows), size), range(0, len(columns), size)):
        yield rows[i : i + size], columns[j : j + size]


def _nearest_of_block(
    x: np.ndarray,
    centered: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    norm: str,
    best: float,
) -> tuple[float, int, int] | None:
    """The nearest pair `(distance, row, column)` of a block, if it is nearer than `best`."""
    a, b = tf.constant(centered[rows]), tf.constant(centered[columns])
    low, high = (bound.numpy() for bound in _BOUNDS[norm](a, b))
    # The pair whose distance is surely smallest bounds what else is worth measuring.
    doubtful = np.argwhere(low <= min(high.min(), best))
    found = None
    step = max(_DIFFERENCE_ENTRIES // x.shape[1], 1)
    for start in range(0, len(doubtful), step):
        i, j = doubtful[start : start + step].T
        exact = _norms(x[rows[i]].astype(np.float64) - x[columns[j]], norm)
        least = int(exact.argmin())
        if exact[least] < best:
            best = float(exact[least])
            found = best, int(rows[i[least]]), int(columns[j[least]])
    return found


def _norms(differences: np.ndarray, norm: str) -> np.ndarray:
    """`[n]` norms of `[n, D]` rows."""
    order = {"l1": 1, "l2": 2, "linf": np.inf}[norm]
    return np.linalg.norm(differences, ord=order, axis=1)


def _unit() -> float:
    """The relative rounding error of the numbers of a matrix product."""
    tf32 = tf.config.experimental.tensor_float_32_execution_enabled()
    return 2.0**-11 if tf32 and tf.config.list_logical_devices("GPU") else 2.0**-24


@tf.function(reduce_retracing=True)
def _euclidean(a: tf.Tensor, b: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Lower and upper bounds `[n, m]` on l2 distances, from one matrix product."""
    squares_a, squares_b = (tf.reduce_sum(tf.square(t), axis=1) for t in (a, b))
    squares = squares_a[:, None] + squares_b - 2.0 * tf.matmul(a, b, transpose_b=True)
    # Both factors are rounded; a sum of D products, and what is around it, rounds in float32.
    dimensions = tf.cast(tf.shape(a)[1], tf.float32)
    error = 4.0 * _unit() + (dimensions + 8.0) * 2.0**-24
    error *= tf.square(tf.sqrt(tf.reduce_max(squares_a)) + tf.sqrt(tf.reduce_max(squares_b)))
    low, high = tf.maximum(squares - error, 0.0), tf.maximum(squares + error, 0.0)
    return tf.sqrt(low) * (1 - 2.0**-22), tf.sqrt(high) * (1 + 2.0**-22)


@tf.function(reduce_retracing=True)
def _by_differences(a: tf.Tensor, b: tf.Tensor, largest: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """Lower and upper bounds `[n, m]` on linf distances, if the largest is asked, or on l1."""
    differences = tf.abs(a[:, None] - b)
    reduce = tf.reduce_max if largest else tf.reduce_sum
    distances = reduce(differences, axis=-1)
    # Entries were rounded before they were subtracted; after it, sums round.
    size = reduce(tf.abs(a), axis=-1)[:, None] + reduce(tf.abs(b), axis=-1)
    dimensions = tf.cast(tf.shape(a)[1], tf.float32)
    error = 2.0**-23 * size + (dimensions + 8.0) * 2.0**-24 * distances
    return distances - error, distances + error


_BOUNDS = {
    "l1": lambda a, b: _by_differences(a, b, False),
    "l2": _euclidean,
    "linf": lambda a, b: _by_differences(a, b, True),
}
