"""Solvers of small quadratic problems over non-negative multipliers, many at once."""

import numpy as np
import tensorflow as tf

from lexirobust.gem.gradients import count

_EPSILON = float(np.finfo(np.float64).eps)
# Added to the diagonal of K while multipliers are searched for, in units in which every gradient
# has norm 1. By itself it lets a constraint fail by half its root at most, 3.6e-8 of the product of
# the norms; and a K that rounding made indefinite becomes definite again.
RIDGE = 5e-15


def active_set(unit: tf.Tensor, inner: tf.Tensor, above: tf.Tensor) -> tf.Tensor:
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
        independent = newcomer & (1.0 + RIDGE - shared > RIDGE / 2)
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
    better = residuals(refined, unit, inner, above) <= residuals(v, unit, inner, above)
    return tf.where(better[:, None], refined, v)


def residuals(v: tf.Tensor, unit: tf.Tensor, inner: tf.Tensor, above: tf.Tensor) -> tf.Tensor:
    """Says how far solutions are from optimal.

    Args:
        v: `[T, T]` one v a problem.
        unit: As in `active_set`, like the others.
        inner: `[T, T]`.
        above: `[T, T]` bool.

    Returns:
        `[T]` the largest entry of `|min(v, Kv + q)|` of each problem.
    """
    slack = inner + tf.linalg.matmul(v, unit)
    return tf.reduce_max(tf.where(above, tf.abs(tf.minimum(v, slack)), 0.0), axis=-1)


def _solve_on(active: tf.Tensor, unit: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """Solves `K v = right`, K with its ridge, on each problem's active rows; v is 0 elsewhere."""
    mask = tf.cast(active, tf.float64)
    blocks = unit[None] * mask[:, :, None] * mask[:, None, :]
    blocks = tf.linalg.set_diag(blocks, (1.0 + RIDGE) * tf.ones_like(mask))
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


SOLVERS = {"active_set": active_set, "cvxopt": _cvxopt}
