"""The T dual problems of the ranked projection, solved together inside the graph."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from lexirobust.gem.gramian import as_floats, cosines, count
from lexirobust.graphs import traced_once

_EPSILON = float(np.finfo(np.float64).eps)
# Added to the diagonal of K while multipliers are searched for, in units in which every gradient
# has norm 1. By itself it lets a constraint fail by half its root at most, 3.6e-8 of the product of
# the norms; and a K that rounding made indefinite becomes definite again.
_RIDGE = 5e-15


class DualSolution(NamedTuple):
    """Multipliers of all ranks, and how exact they are.

    Attributes:
        multipliers: `[T, T]` float64, strictly lower triangular: the projected gradient t is
            `g_t + sum_k multipliers[t, k] * g_k`.
        violation: Scalar float64: the largest `-cos(projected_t, g_k)` over all `k < t`, at
            least 0. A projected gradient that vanished is measured against its original.
        kkt_residual: Scalar float64: the largest entry of `|min(v, Kv + q)|` in units in which
            every gradient has norm 1.
        active: `[T, T]` bool: whether rank k constrains rank t, its multiplier being above its
            lower bound.
    """

    multipliers: tf.Tensor
    violation: tf.Tensor
    kkt_residual: tf.Tensor
    active: tf.Tensor


def solve_dual(gram: Any, margin: float = 0.0, solver: str = "active_set") -> DualSolution:
    """Solves, for every rank t, the dual of its projection against all higher ranks.

    Rank t's problem is to minimize `v K v / 2 + q v` over `v >= margin`, with K the Gramian of
    the ranks above t and q their inner products with gradient t. All gradients are first scaled
    to norm 1, so the answer does not depend on their scale. However dependent they are, no
    projected gradient opposes a higher one by more than 1e-7 of the product of their norms before.

    Args:
        gram: `[T, T]` Gramian of the gradients, rank 1 first.
        margin: Lower bound of the multipliers, GEM's memory strength, at least 0.
        solver: `"active_set"` runs in the graph, with static shapes. `"cvxopt"` runs on the host,
            one interior-point solve a rank: a reference to check the other by, eager only.

    Returns:
        A `DualSolution`. Not-a-number where `gram` is not finite.

    Raises:
        ValueError: If `gram` is not a square matrix, `margin` is negative or not finite, or
            `solver` unknown.

    Example:

    >>> solution = solve_dual([[1.0, -1.0], [-1.0, 2.0]])
    >>> solution.multipliers.numpy().tolist()
    [[0.0, 0.0], [1.0, 0.0]]
    >>> float(solution.violation)
    0.0

    Reference:
        Equation 11 of Lopez-Paz and Ranzato, arXiv 1706.08840, without its constant on K's
        diagonal; Lawson and Hanson, "Solving least squares problems", chapter 23.
    """
    gram = as_square(gram)
    if not 0 <= margin < np.inf:
        raise ValueError(f"`margin` must be finite and at least 0. Received: {margin}.")
    if solver not in _SOLVERS:
        raise ValueError(f"`solver` must be one of {sorted(_SOLVERS)}. Received: {solver!r}.")
    if solver == "cvxopt" and not tf.executing_eagerly():
        raise ValueError("`solver` must be 'active_set' inside a graph. Received: 'cvxopt'.")

    return _solved(gram, tf.constant(margin, tf.float64), solver)


@traced_once
def _solved(gram: tf.Tensor, margin: tf.Tensor, solver: str) -> DualSolution:
    """Solves the dual problems of `solve_dual`."""
    # v >= margin is v = margin + u with u >= 0: the plain problem for g_t + margin * sum_k g_k.
    shift = margin * _lower_ones(count(gram))
    raised = tf.eye(count(gram), dtype=tf.float64) + shift
    lengths = tf.sqrt(tf.maximum(_quadratic(raised, gram), 0.0))
    problem = _in_units(gram, tf.linalg.matmul(raised, gram), lengths)
    scaled = _SOLVERS[solver](*problem)

    finite = tf.reduce_all(tf.math.is_finite(gram))
    nan = tf.constant(np.nan, tf.float64)
    return DualSolution(
        tf.where(finite, shift + scaled * _per_norm(lengths, gram), nan),
        tf.where(finite, _violation(scaled, *problem), nan),
        tf.where(finite, tf.reduce_max(_residuals(scaled, *problem)), nan),
        finite & (scaled > 0),
    )


def as_square(gram: Any) -> tf.Tensor:
    """A `[T, T]` float64 Gramian; T is known where one of both axes is.

    Raises:
        ValueError: If it is no square matrix.
    """
    gram = tf.cast(as_floats(gram), tf.float64)
    shape = gram.shape if gram.shape.rank is not None else tf.TensorShape([None, None])
    if shape.rank != 2 or not shape[:1].is_compatible_with(shape[1:]) or shape[0] == 0:
        raise ValueError(f"`gram` must be a [T, T] matrix. Received: shape {gram.shape}.")
    if shape.is_fully_defined():
        return gram
    known = shape[1] if shape[0] is None else shape[0]
    return tf.ensure_shape(gram, [known, known])


@traced_once
def correction(gram: tf.Tensor, inner: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
    """Multipliers that turn T given vectors, and not the gradients, to where they oppose none.

    Args:
        gram: `[T, T]` Gramian of the gradients, rank 1 first.
        inner: `[T, T]` inner products of every vector with every gradient.
        lengths: `[T]` norms of the vectors.

    Returns:
        `[T, T]` float64, strictly lower triangular, as in `DualSolution`.
    """
    return _active_set(*_in_units(gram, inner, lengths)) * _per_norm(lengths, gram)


def _in_units(
    gram: tf.Tensor, inner: tf.Tensor, lengths: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """K and q in units in which every vector has norm 1, and the rows that each problem may use.

    A vector of zeros keeps zeros. What is not finite gives a problem without any conflict.
    """
    ranks = count(gram)
    finite = tf.reduce_all(tf.math.is_finite(gram)) & tf.reduce_all(tf.math.is_finite(inner))
    gram = tf.where(finite, gram, tf.eye(ranks, dtype=tf.float64))
    inner = tf.where(finite, inner, 0.0)
    norms = tf.sqrt(tf.linalg.diag_part(gram))
    unit = tf.linalg.set_diag(cosines(gram), tf.cast(norms > 0, tf.float64))
    inner = tf.math.divide_no_nan(tf.math.divide_no_nan(inner, norms), lengths[:, None])
    return unit, inner, tf.cast(_lower_ones(ranks), tf.bool) & (norms > 0)


def _per_norm(lengths: tf.Tensor, gram: tf.Tensor) -> tf.Tensor:
    """`[T, T]` lengths as multiples of the gradients' norms: takes multipliers out of units."""
    return tf.math.divide_no_nan(lengths[:, None], tf.sqrt(tf.linalg.diag_part(gram)))


def _lower_ones(ranks: int | tf.Tensor) -> tf.Tensor:
    """`[T, T]` ones strictly below the diagonal: who ranks above whom."""
    if isinstance(ranks, int):
        return tf.constant(np.tri(ranks, k=-1))
    order = tf.range(ranks)
    return tf.cast(order[:, None] > order, tf.float64)


def _quadratic(rows: tf.Tensor, gram: tf.Tensor) -> tf.Tensor:
    """`[T]`: `rows[t] gram rows[t]` for every t."""
    return tf.reduce_sum(rows * tf.linalg.matmul(rows, gram), axis=-1)


def _violation(scaled: tf.Tensor, unit: tf.Tensor, inner: tf.Tensor, above: tf.Tensor) -> tf.Tensor:
    """The largest `-cos(projected_t, g_k)`, at least 0.

    A Gramian in float64 holds lengths down to the root of its rounding error: a projected gradient
    that is shorter counts as that long.
    """
    slack = inner + tf.linalg.matmul(scaled, unit)
    squared = 1.0 + tf.reduce_sum(scaled * (inner + slack), axis=-1)
    rounding = 4.0 * _EPSILON * (1.0 + tf.reduce_sum(scaled, axis=-1))
    lengths = tf.sqrt(tf.maximum(squared, rounding))
    return tf.reduce_max(tf.where(above, -slack / lengths[:, None], 0.0))


def _active_set(unit: tf.Tensor, inner: tf.Tensor, above: tf.Tensor) -> tf.Tensor:
    """Minimizes `v K v / 2 + q v` over `v >= 0` for T problems at once, after Lawson and Hanson.

    Every pass of the loop solves each problem on its active rows, then either steps back to the
    first multiplier that would turn negative, or lets the most violated row in.

    Args:
        unit: `[T, T]` K, with a unit or zero diagonal, shared by all problems.
        inner: `[T, T]` one q a problem.
        above: `[T, T]` bool: the rows that each problem may use.

    Returns:
        `[T, T]` one v a problem.
    """
    ranks = count(unit)
    nobody = tf.zeros((ranks, ranks), tf.bool)

    def most_violated(v: tf.Tensor, open_rows: tf.Tensor) -> tf.Tensor:
        slack = inner + tf.linalg.matmul(v, unit)
        rounding = 8.0 * _EPSILON * (1.0 + tf.reduce_sum(v, axis=-1, keepdims=True))
        worst = tf.one_hot(tf.argmin(tf.where(open_rows, slack, 0.0), axis=-1), ranks, True, False)
        return worst & open_rows & (slack < -rounding)

    def unfinished(count: tf.Tensor, *state: tf.Tensor) -> tf.Tensor:
        *_, entering, blocked = state
        # Each problem needs about one pass a row; the bound is for rounding, not for the method.
        return (tf.reduce_any(entering) | tf.reduce_any(blocked)) & (count < 10 * ranks)

    def step(
        count: tf.Tensor,
        v: tf.Tensor,
        active: tf.Tensor,
        barred: tf.Tensor,
        entering: tf.Tensor,
        blocked: tf.Tensor,
    ) -> tuple[tf.Tensor, ...]:
        del blocked
        newcomer = tf.reduce_any(entering, axis=-1, keepdims=True)
        column = tf.linalg.matmul(tf.cast(entering, tf.float64), unit)
        shared = tf.reduce_sum(column * _solve_on(active, unit, column), axis=-1, keepdims=True)
        # Where rounding ate the ridge, the row depends on the active ones: it stays out.
        independent = newcomer & (1.0 + _RIDGE - shared > _RIDGE / 2)
        target = _solve_on(active | (entering & independent), unit, -inner)
        gain = tf.reduce_sum(tf.where(entering, target, 0.0), axis=-1, keepdims=True)
        accepted = independent & (gain > 0)
        refused = newcomer & ~accepted
        barred = tf.where(accepted, nobody, barred | (entering & refused))
        trial = active | (entering & accepted)
        target = tf.where(refused, v, target)

        stops = trial & (target <= 0)
        ratio = tf.where(stops, tf.math.divide_no_nan(v, v - target), 1.0)
        reach = tf.reduce_min(ratio, axis=-1, keepdims=True)
        active = trial & ~(stops & (ratio <= reach))
        v = tf.where(active, v + reach * (target - v), 0.0)
        blocked = tf.reduce_any(stops, axis=-1, keepdims=True)
        entering = most_violated(v, above & ~active & ~barred) & ~blocked
        return count + 1, v, active, barred, entering, blocked

    v = tf.zeros_like(inner)
    nothing = tf.zeros((ranks, 1), tf.bool)
    state = (tf.constant(0), v, nobody, nobody, most_violated(v, above), nothing)
    _, v, active, *_ = tf.while_loop(unfinished, step, state)
    # One round of refinement takes the ridge out again, where that does no harm.
    missing = -inner - tf.linalg.matmul(v, unit)
    refined = tf.maximum(v + _solve_on(active, unit, missing), 0.0)
    better = _residuals(refined, unit, inner, above) <= _residuals(v, unit, inner, above)
    return tf.where(better[:, None], refined, v)


def _residuals(v: tf.Tensor, unit: tf.Tensor, inner: tf.Tensor, above: tf.Tensor) -> tf.Tensor:
    """`[T]` the largest entry of `|min(v, Kv + q)|` of each problem."""
    slack = inner + tf.linalg.matmul(v, unit)
    return tf.reduce_max(tf.where(above, tf.abs(tf.minimum(v, slack)), 0.0), axis=-1)


def _solve_on(active: tf.Tensor, unit: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """Solves `K v = right`, K with its ridge, on each problem's active rows; v is 0 elsewhere."""
    mask = tf.cast(active, tf.float64)
    blocks = unit[None] * mask[:, :, None] * mask[:, None, :]
    blocks = tf.linalg.set_diag(blocks, (1.0 + _RIDGE) * tf.ones_like(mask))
    solution = tf.linalg.cholesky_solve(tf.linalg.cholesky(blocks), (right * mask)[:, :, None])
    return solution[:, :, 0]


def _cvxopt(unit: tf.Tensor, inner: tf.Tensor, above: tf.Tensor) -> tf.Tensor:
    """The same problems, one by one, by cvxopt's interior-point method on the host."""
    import cvxopt

    options = {"show_progress": False, "abstol": 1e-15, "reltol": 1e-15, "feastol": 1e-15}
    unit, inner, above = unit.numpy(), inner.numpy(), above.numpy()
    solution = np.zeros_like(inner)
    for rank, rows in enumerate(above):
        if not rows.any():
            continue
        count = int(rows.sum())
        result = cvxopt.solvers.qp(
            cvxopt.matrix(unit[np.ix_(rows, rows)]),
            cvxopt.matrix(inner[rank, rows]),
            cvxopt.spmatrix(-1.0, range(count), range(count)),
            cvxopt.matrix(0.0, (count, 1)),
            options=options,
        )
        solution[rank, rows] = np.maximum(np.array(result["x"]).ravel(), 0.0)
    return tf.constant(solution)


_SOLVERS = {"active_set": _active_set, "cvxopt": _cvxopt}
