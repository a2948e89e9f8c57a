"""Inner products between the gradients of ranked losses."""

import functools
import operator
from collections.abc import Sequence
from typing import Any, TypeAlias

import tensorflow as tf

Gradients: TypeAlias = Any
"""`[T, p]` tensor, or a list (per loss) of lists (per variable) of tensors, `None` allowed."""

# Elements that are held in float64 at a time. 4 MiB stay in a processor's cache, so that the
# gradients are read once and no copy of them is written back to memory.
_BLOCK = 2**19
# Where so few vectors are so long, products are summed pair by pair in one compiled pass, which
# converts on the way. Below, its compilation costs more than it saves; above, there are too many
# pairs, and blocks are multiplied as matrices.
_FEW, _LONG = 8, 2**16
# Sums that run side by side, as a processor adds several numbers at a time.
_LANES = 8


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
    return inner_products(gradients, gradients, metric)


def inner_products(
    left: Gradients, right: Gradients, metric: Sequence[Any] | Any | None = None
) -> tf.Tensor:
    """Computes the inner products of every vector of one set with every vector of another.

    Args:
        left: `[S, p]` tensor, or a list (per vector) of lists (per variable) of tensors, in which
            `None` stands for zeros.
        right: The same for T vectors.
        metric: As in `gramian`.

    Returns:
        `[S, T]` float64 tensor of `<left_s, metric * right_t>`.

    Raises:
        ValueError: As `gramian`.

    Example:

    >>> inner_products([[3.0, 1.0]], [[1.0, 2.0], [-1.0, 1.0]]).numpy().tolist()
    [[5.0, -2.0]]
    """
    lefts = per_variable(left)
    rights = lefts if right is left else per_variable(right)
    if len(lefts) != len(rights):
        raise ValueError(
            "`left` and `right` must hold the same number of variables. Received: "
            f"{len(lefts)} and {len(rights)}."
        )
    diagonals: list[Any] = [None] * len(lefts)
    if metric is not None:
        diagonals = list(metric) if isinstance(metric, list | tuple) else [metric]
        if len(diagonals) != len(lefts):
            raise ValueError(
                f"`metric` must hold one tensor per variable. Received: {len(diagonals)} for "
                f"{len(lefts)} variables."
            )
    total = tf.zeros((len(lefts[0]), len(rights[0])), tf.float64)
    long = []
    for rows, columns, diagonal in zip(lefts, rights, diagonals, strict=True):
        if diagonal is not None:
            diagonal = _checked_metric(diagonal, rows)
        flat = _flat(rows)
        others = flat if columns is rows else _flat(columns)
        if flat is None or others is None:
            continue
        if _is_long(flat) and max(len(rows), len(columns)) <= _FEW:
            long.append((flat, None if others is flat else others, diagonal))
        else:
            total += _variable_products(flat, others, diagonal)
    return total + _pairwise(long) if long else total


def _checked_metric(diagonal: Any, column: Sequence[Any]) -> tf.Tensor:
    """One variable's metric as a vector."""
    diagonal = tf.convert_to_tensor(diagonal)
    for gradient in column:
        if gradient is not None and not diagonal.shape.is_compatible_with(gradient.shape):
            raise ValueError(
                f"`metric` must be shaped like one gradient. Received: shape {diagonal.shape} for "
                f"a gradient of shape {gradient.shape}."
            )
    return tf.reshape(diagonal, [-1])


def _flat(column: Sequence[Any]) -> tf.Tensor | list[tf.Tensor] | None:
    """One variable's gradients as vectors, a missing one as zeros; `None` where all are missing."""
    if tf.is_tensor(column):
        return column
    present = [tf.reshape(g, [-1]) for g in column if g is not None]
    if not present:
        return None
    blank, remaining = tf.zeros_like(present[0]), iter(present)
    return [blank if g is None else next(remaining) for g in column]


def _is_long(vectors: tf.Tensor | list[tf.Tensor]) -> bool:
    size = vectors[0].shape[0]
    return size is not None and size >= _LONG


# Compiled: products, conversions and sums are one pass over each pair of vectors.
@tf.function(jit_compile=True)
def _pairwise(variables: list[Any]) -> tf.Tensor:
    """`[S, T]` inner products, added up over variables.

    Args:
        variables: For each, the vectors of one set and of the other, `None` where it is the same
            set, and the metric or `None`.
    """
    totals = []
    for left, right, diagonal in variables:
        rows, columns = (tf.unstack(v) if tf.is_tensor(v) else v for v in (left, right))
        columns = rows if columns is None else columns
        entries: dict[tuple[int, int], tf.Tensor] = {}
        for s, row in enumerate(rows):
            for t, column in enumerate(columns):
                known = columns is rows and t < s
                entries[s, t] = entries[t, s] if known else _dot(row, column, diagonal)
        totals.append(tf.reshape(tf.stack(list(entries.values())), (len(rows), len(columns))))
    return tf.add_n(totals)


def _dot(one: tf.Tensor, other: tf.Tensor, diagonal: tf.Tensor | None) -> tf.Tensor:
    """The inner product of two vectors of known size in a metric, in float64."""
    width = one.shape[0] // _LANES

    def product(start: int, stop: int) -> tf.Tensor:
        factors = [one, other] if diagonal is None else [one, other, diagonal]
        return functools.reduce(
            operator.mul, (tf.cast(factor[start:stop], tf.float64) for factor in factors)
        )

    lanes = [product(lane * width, (lane + 1) * width) for lane in range(_LANES)]
    rest = product(_LANES * width, one.shape[0])
    return tf.reduce_sum(functools.reduce(operator.add, lanes)) + tf.reduce_sum(rest)


def _variable_products(
    rows: tf.Tensor | list[tf.Tensor],
    columns: tf.Tensor | list[tf.Tensor],
    diagonal: tf.Tensor | None,
) -> tf.Tensor:
    """`[S, T]` inner products over one variable of n elements, a block of elements at a time."""
    size = tf.size(rows[0]) if rows[0].shape[0] is None else rows[0].shape[0]
    width = _BLOCK // max(len(rows), len(columns)) + 1

    def products(start: Any, count: Any) -> tf.Tensor:
        left = _block(rows, start, count)
        right = left if columns is rows else _block(columns, start, count)
        if diagonal is not None:
            right *= tf.cast(tf.slice(diagonal, [start], [count]), tf.float64)
        return tf.linalg.matmul(left, right, transpose_b=True)

    if isinstance(size, int) and size <= width:
        return products(0, size)

    def step(index: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return index + 1, total + products(index * width, width)

    whole = size // width
    rest = products(whole * width, size - whole * width)
    return tf.while_loop(lambda index, _: index < whole, step, (tf.constant(0), rest))[1]


def _block(vectors: tf.Tensor | list[tf.Tensor], start: Any, count: Any) -> tf.Tensor:
    """Elements `start` to `start + count` of T vectors, as `[T, count]` float64."""
    if tf.is_tensor(vectors):
        return tf.cast(tf.slice(vectors, [0, start], [len(vectors), count]), tf.float64)
    parts = [tf.slice(vector, [start], [count]) for vector in vectors]
    if len({part.dtype for part in parts}) > 1:
        parts = [tf.cast(part, tf.float64) for part in parts]
    return tf.cast(tf.stack(parts), tf.float64)


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


def per_variable(gradients: Gradients) -> list[Any]:
    """Transposes gradients from `[loss][variable]` to `[variable][loss]`.

    A `[T, p]` tensor is one variable and stays whole.
    """
    if not _is_per_variable(gradients):
        matrix = tf.convert_to_tensor(gradients)
        if matrix.shape.rank != 2 or not matrix.shape[0]:
            raise ValueError(
                "`gradients` must be a [T, p] tensor, T known and at least 1, or a list (per loss) "
                f"of lists (per variable). Received: shape {matrix.shape}."
            )
        return [matrix]
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
