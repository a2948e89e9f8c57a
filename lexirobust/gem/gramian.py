"""Inner products between the gradients of ranked losses."""

import functools
import operator
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from lexirobust.gem.gradients import (
    Gradients,
    as_floats,
    as_vector,
    as_vectors,
    common_shape,
    count,
    merged,
    per_variable,
    size_of,
)
from lexirobust.graphs import compiled

# Elements that are held in float64 at a time. 4 MiB stay in a processor's cache, so that the
# gradients are read once and no copy of them is written back to memory.
_BLOCK = 2**19
# Where so few vectors are so long, products are summed pair by pair in one compiled pass, which
# converts on the way. Below, its compilation costs more than it saves; above, there are too many
# pairs, and blocks are multiplied as matrices.
_FEW, _LONG = 8, 2**16
# Variables of at most so many elements are one vector: operations cost more than numbers there.
_SHORT = 2**12
# Sums that run side by side, as a processor adds several numbers at a time.
_LANES = 8


def gramian(gradients: Gradients, metric: Sequence[Any] | Any | None = None) -> tf.Tensor:
    """Computes all inner products between the gradients of T ranked losses.

    Sums run in float64, so that gradients of any float32 scale keep their angles.

    Args:
        gradients: `[T, p]` tensor, of which a graph need not know T or p, or a list (per loss) of
            lists (per variable) of tensors. `None` stands for a variable that a loss does not
            depend on.
        metric: Positive diagonal of a preconditioner, shaped like one gradient: `[p]`, or a list
            of one tensor per variable. `None` is the Euclidean metric.

    Returns:
        `[T, T]` float64 tensor, `K[s, t] = <g_s, metric * g_t>`.

    Raises:
        ValueError: If there are no gradients, they are no real numbers, the losses do not all have
            the same number of variables and of the same shapes, or `metric` is not shaped like one
            gradient.

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
    total = tf.zeros((count(lefts[0]), count(rights[0])), tf.float64)
    long, short = [], []
    for rows, columns, diagonal in zip(lefts, rights, diagonals, strict=True):
        shape = common_shape(rows)
        if columns is not rows:
            shape = merged(
                shape, common_shape(columns), "`left` and `right` must be of the same shapes"
            )
        if diagonal is not None:
            diagonal = tf.convert_to_tensor(diagonal)
            merged(shape, diagonal.shape, "`metric` must be shaped like one gradient")
        flat = as_vectors(rows, shape)
        others = flat if columns is rows else as_vectors(columns, shape)
        if flat is None or others is None:
            continue
        if diagonal is not None:
            rule = "`metric` must be shaped like one gradient."
            diagonal = as_vector(diagonal, size_of(flat), rule)
        if _is_long(flat) and _is_few(flat) and _is_few(others):
            long.append((flat, None if others is flat else others, diagonal))
        elif _is_short(flat) and isinstance(others, list):
            short.append((flat, others, diagonal))
        else:
            total += _variable_products(flat, others, diagonal)
    if short:
        total += _variable_products(*_joined(short))
    return total + _pairwise(long) if long else total


def _is_long(vectors: tf.Tensor | list[tf.Tensor]) -> bool:
    size = size_of(vectors)
    return isinstance(size, int) and size >= _LONG


def _is_short(vectors: tf.Tensor | list[tf.Tensor]) -> bool:
    size = size_of(vectors)
    return isinstance(vectors, list) and isinstance(size, int) and size <= _SHORT


def _joined(variables: list[Any]) -> tuple[Any, Any, tf.Tensor | None]:
    """Vectors of one set and of the other, and the metric, of several variables as of one."""
    if len(variables) == 1:
        return variables[0]
    lefts, rights, diagonals = zip(*variables, strict=True)
    rows = [_joined_vectors(parts) for parts in zip(*lefts, strict=True)]
    same = all(left is right for left, right in zip(lefts, rights, strict=True))
    columns = rows if same else [_joined_vectors(parts) for parts in zip(*rights, strict=True)]
    return rows, columns, None if diagonals[0] is None else _joined_vectors(diagonals)


def _joined_vectors(parts: Sequence[tf.Tensor]) -> tf.Tensor:
    return tf.concat(_of_one_dtype(parts), axis=0)


def _of_one_dtype(parts: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
    """The same tensors, in float64 where their types differ."""
    mixed = len({part.dtype for part in parts}) > 1
    return [tf.cast(part, tf.float64) for part in parts] if mixed else parts


def _is_few(vectors: tf.Tensor | list[tf.Tensor]) -> bool:
    number = count(vectors)
    return isinstance(number, int) and number <= _FEW


# Compiled: products, conversions and sums are one pass over each pair of vectors.
@compiled
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
    size, counts = size_of(rows), (count(rows), count(columns))
    if not all(isinstance(number, int) for number in counts):
        # Of how many vectors is unknown, nothing says how many elements are a block.
        columns = columns if diagonal is None else _block(columns) * tf.cast(diagonal, tf.float64)
        return tf.linalg.matmul(_block(rows), _block(columns), transpose_b=True)
    width = _BLOCK // max(counts) + 1

    def products(start: Any = None, number: Any = None) -> tf.Tensor:
        left = _block(rows, start, number)
        right = left if columns is rows else _block(columns, start, number)
        if diagonal is not None:
            right *= tf.cast(_part(diagonal, start, number), tf.float64)
        return tf.linalg.matmul(left, right, transpose_b=True)

    if isinstance(size, int) and size <= width:
        return products()
    if not isinstance(size, int):
        # XLA compiles the loop for fewer elements, too, none of whose rounds it takes.
        width = tf.minimum(width, tf.maximum(size, 1))

    def step(index: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return index + 1, total + products(index * width, width)

    whole = size // width
    rest = products(whole * width, size - whole * width)
    return tf.while_loop(lambda index, _: index < whole, step, (tf.constant(0), rest))[1]


def _part(vector: tf.Tensor, start: Any, number: Any) -> tf.Tensor:
    """Elements `start` to `start + number`; all where no start is given."""
    return vector if start is None else tf.slice(vector, [start], [number])


def _block(
    vectors: tf.Tensor | list[tf.Tensor], start: Any = None, number: Any = None
) -> tf.Tensor:
    """Elements `start` to `start + number` of T vectors, or all, as `[T, number]` float64."""
    if tf.is_tensor(vectors):
        if start is not None:
            vectors = tf.slice(vectors, [0, start], [count(vectors), number])
        return tf.cast(vectors, tf.float64)
    parts = [_part(vector, start, number) for vector in vectors]
    return tf.cast(tf.stack(_of_one_dtype(parts)), tf.float64)


def cosines(gram: Any) -> tf.Tensor:
    """Computes the cosine between every two gradients from their Gramian.

    Args:
        gram: `[T, T]` Gramian.

    Returns:
        `[T, T]` tensor of `gram`'s dtype, float64 for integers; 0 where a gradient is zero.

    Raises:
        ValueError: If `gram` is no matrix.

    Example:

    >>> cosines(gramian([[2.0, 0.0], [3.0, 4.0]])).numpy().round(3).tolist()
    [[1.0, 0.6], [0.6, 1.0]]
    """
    gram = as_floats(gram)
    if gram.shape.rank not in (None, 2):
        raise ValueError(f"`gram` must be a [T, T] matrix. Received: shape {gram.shape}.")
    norms = tf.sqrt(tf.linalg.diag_part(gram))
    # One division at a time: the product of two tiny norms would underflow first.
    return tf.math.divide_no_nan(tf.math.divide_no_nan(gram, norms[:, None]), norms[None, :])
