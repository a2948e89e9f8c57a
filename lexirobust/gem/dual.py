"""The T dual problems of the ranked projection, solved together inside the graph."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from lexirobust.gem.active_set import RIDGE, SOLVERS, active_set, residuals
from lexirobust.gem.gradients import as_floats, count
from lexirobust.gem.gramian import cosines
from lexirobust.graphs import traced_once

_EPSILON = float(np.finfo(np.float64).eps)


class DualSolution(NamedTuple):
    """Multipliers of all ranks, and how exact they are.

    Attributes:
        multipliers: `[T, T]` float64, strictly lower triangular: the projected gradient t is
            `g_t + sum_k multipliers[t, k] * g_k`.
        violation: Scalar float64: the largest `-cos(projected_t, g_k)` over all `k < t`, at
            least 0. A projected gradient that vanished is measured against its original. With
            bounds it is how far the cosine falls short of the one that keeps the bound.
        kkt_residual: Scalar float64: the largest entry of `|min(v, Kv + q)|` in units in which
            every gradient has norm 1. With bounds the norms of `g_t` and of its projection, added
            up, are the unit of rank t.
        active: `[T, T]` bool: whether rank k constrains rank t, its multiplier being above its
            lower bound.
    """

    multipliers: tf.Tensor
    violation: tf.Tensor
    kkt_residual: tf.Tensor
    active: tf.Tensor


def solve_dual(
    gram: Any,
    margin: float = 0.0,
    bounds: Sequence[float] | tf.Tensor | None = None,
    solver: str = "active_set",
) -> DualSolution:
    """Solves, for every rank t, the dual of its projection against all higher ranks.

    Rank t's problem is to minimize `v K v / 2 + q v` over `v >= margin`, with K the Gramian of
    the ranks above t and q their inner products with gradient t. All gradients are first scaled
    to norm 1, so the answer does not depend on their scale. However dependent they are, no
    projected gradient opposes a higher one by more than 1e-7 of the product of their norms before.

    With `bounds` a projected gradient keeps `<projected_t, g_k> >= b_k` in place of 0, and `q - b`
    is the linear term. A rank can ask for no more than its own projected gradient gives: `b_k` is
    the smaller of `bounds[k] * K[k, k]` and `<projected_k, g_k>`. So `projected_k` keeps the bounds
    of all ranks down to its own, which makes the problem of rank k + 1 feasible, and by induction
    every problem, with no projected gradient longer than twice all gradients together. A higher
    rank has its way where bounds contradict each other.

    A bound is missed by the more, the longer a higher gradient is than the rank's own, for what a
    projected gradient gives is known to about 1e-14 of `K[k, k]`. In units of the product of norms,
    before and after the projection added up, the worst of 34,000 random trials with nearly
    dependent rows of equal norms was 3e-8. With norms up to 1e9 apart 14 of 139,000 were above
    1e-7, the worst 9e-6. `violation` tells.

    Args:
        gram: `[T, T]` Gramian of the gradients, rank 1 first.
        margin: Lower bound of the multipliers, GEM's memory strength, at least 0.
        bounds: `[T]` numbers from `-inf` to 1, the least inner product with gradient k that the
            projected gradients below rank k keep, in units of `K[k, k]`: 1 descends rank k as fast
            as its own gradient does, 0 (GEM) does not raise it, a negative bound lets lower ranks
            spend it, and `-inf` is no constraint. The last entry is not used. What a tensor holds
            is not checked: above 1 counts as 1. `None` is 0 for all ranks.
        solver: `"active_set"` runs in the graph, with static shapes. `"cvxopt"` runs on the host,
            one interior-point solve a rank: a reference to check the other by, eager only.

    Returns:
        A `DualSolution`. Not-a-number where `gram` is not finite or a bound is not a number.

    Raises:
        ValueError: If `gram` is not a square matrix, `margin` is negative or not finite, or
            `solver` unknown; if there is not one of `bounds` for each rank, one is above 1 or not
            a number, or they come with a margin, which is another way to favor higher ranks.

    Example:

    >>> solution = solve_dual([[1.0, -1.0], [-1.0, 2.0]])
    >>> solution.multipliers.numpy().tolist()
    [[0.0, 0.0], [1.0, 0.0]]
    >>> float(solution.violation)
    0.0

    Rank 1 is to descend half as fast as along its own gradient.

    >>> solve_dual([[1.0, -1.0], [-1.0, 2.0]], bounds=[0.5, 0.0]).multipliers.numpy().tolist()
    [[0.0, 0.0], [1.5, 0.0]]

    Reference:
        Equation 11 of Lopez-Paz and Ranzato, arXiv 1706.08840, without its constant on K's
        diagonal; Lawson and Hanson, "Solving least squares problems", chapter 23. Bounds: Gong, Liu
        and Liu, "Bi-objective trade-off with dynamic barrier gradient descent", NeurIPS 2021.
    """
    return solve_and_cap(gram, margin, bounds, solver)[0]


def solve_and_cap(
    gram: Any, margin: float, bounds: Any, solver: str = "active_set"
) -> tuple[DualSolution, tf.Tensor | None]:
    """The answer of `solve_dual`, and the `[T]` least inner products that counted.

    Those are `None` where `bounds` are, and they are 0.
    """
    gram = as_square(gram)
    if not 0 <= margin < np.inf:
        raise ValueError(f"`margin` must be finite and at least 0. Received: {margin}.")
    if solver not in SOLVERS:
        raise ValueError(f"`solver` must be one of {sorted(SOLVERS)}. Received: {solver!r}.")
    if solver == "cvxopt" and not tf.executing_eagerly():
        raise ValueError("`solver` must be 'active_set' inside a graph. Received: 'cvxopt'.")

    if bounds is None:
        return _solved(gram, tf.constant(margin, tf.float64), solver), None
    if margin > 0:
        raise ValueError(f"`margin` must be 0 where there are `bounds`. Received: {margin}.")
    return _solved_with_bounds(gram, as_bounds(bounds, gram.shape[0]), solver)


@traced_once
def _solved(gram: tf.Tensor, margin: tf.Tensor, solver: str) -> DualSolution:
    """Solves the dual problems of `solve_dual`."""
    # v >= margin is v = margin + u with u >= 0: the plain problem for g_t + margin * sum_k g_k.
    shift = margin * _lower_ones(count(gram))
    raised = tf.eye(count(gram), dtype=tf.float64) + shift
    lengths = tf.sqrt(tf.maximum(_quadratic(raised, gram), 0.0))
    problem = _in_units(gram, tf.linalg.matmul(raised, gram), lengths)
    scaled = SOLVERS[solver](*problem)
    unit, inner, above = problem
    slack = inner + tf.linalg.matmul(scaled, unit)

    finite = tf.reduce_all(tf.math.is_finite(gram))
    nan = tf.constant(np.nan, tf.float64)
    return DualSolution(
        tf.where(finite, shift + scaled * _per_norm(lengths, gram), nan),
        tf.where(finite, _violation(slack, _lengths(scaled, inner, slack), above), nan),
        tf.where(finite, tf.reduce_max(residuals(scaled, *problem)), nan),
        finite & (scaled > 0),
    )


@traced_once
def _solved_with_bounds(
    gram: tf.Tensor, bounds: tf.Tensor, solver: str
) -> tuple[DualSolution, tf.Tensor]:
    """Solves the dual problems of `solve_dual` with bounds; returns, too, those that counted."""
    ranks, norms = count(gram), tf.sqrt(tf.linalg.diag_part(gram))
    # No projected gradient is so long that a bound below this one could bind.
    loosest = tf.math.divide_no_nan(-3.0 * tf.reduce_sum(norms), norms)
    # Bounds are kept as b_k / |g_k|, the least length along g_k.
    wanted = tf.clip_by_value(bounds, loosest, 1.0) * norms

    def problem_of(least: tf.Tensor) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        lengths = tf.maximum(norms, asked_lengths(least))
        return lengths, _in_units(gram, gram - least * norms, lengths)

    def unfinished_caps(
        count: tf.Tensor, least: tf.Tensor, scaled: tf.Tensor, changed: tf.Tensor
    ) -> tf.Tensor:
        del least, scaled
        return changed & (count < ranks)

    def cap_next(
        count: tf.Tensor, least: tf.Tensor, scaled: tf.Tensor, changed: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        del changed
        lengths, problem = problem_of(least)
        scaled = SOLVERS[solver](*problem)
        given = norms + lengths * tf.reduce_sum(scaled * problem[0], axis=-1)
        added = lengths * tf.reduce_sum(scaled, axis=-1)
        given -= 2.0 * RIDGE * tf.where(added > 0, norms + added, 0.0)
        # Zero keeps bounds of which none is positive. Nobody has to keep the last rank's.
        positive = tf.maximum(wanted, asked_lengths(least)) > 0
        capped = tf.minimum(wanted, given)
        capped = tf.where(positive & (tf.range(ranks) < ranks - 1), capped, wanted)
        return count + 1, capped, scaled, tf.reduce_any(capped != least)

    # The first round settles ranks 1 and 2, all of them unless one asks for more than it gives;
    # each further round settles the next.
    state = (tf.constant(0), wanted, tf.zeros_like(gram), tf.constant(True))
    _, least, scaled, _ = tf.while_loop(unfinished_caps, cap_next, state)

    lengths, problem = problem_of(least)
    unit, inner, above = problem
    slack = inner + tf.linalg.matmul(scaled, unit)
    own = tf.math.divide_no_nan(norms, lengths)
    along = tf.math.divide_no_nan(least, lengths[:, None])
    after = _lengths(scaled, inner + along, slack + along, own**2)
    unmet = residuals(scaled, *problem) / (own + after)

    known = tf.reduce_all(tf.math.is_finite(gram)) & ~tf.reduce_any(tf.math.is_nan(bounds))
    nan = tf.constant(np.nan, tf.float64)
    solution = DualSolution(
        tf.where(known, scaled * _per_norm(lengths, gram), nan),
        tf.where(known, _violation(slack, after, above), nan),
        tf.where(known, tf.reduce_max(unmet), nan),
        known & (scaled > 0),
    )
    return solution, tf.where(known, least * norms, nan)


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


def as_bounds(bounds: Any, ranks: int | None) -> tf.Tensor:
    """`[T]` float64 bounds.

    Raises:
        ValueError: As `solve_dual`.
    """
    if not tf.is_tensor(bounds):
        try:
            numbers = np.asarray(bounds, np.float64)
        except (TypeError, ValueError):
            numbers = np.full(1, np.nan)
        if not np.all(numbers <= 1):
            raise ValueError(f"`bounds` must be numbers of at most 1. Received: {bounds!r}.")
        # Finite, as `tf.debugging.enable_check_numerics` reports constants that are not.
        bounds = tf.constant(np.maximum(numbers, np.finfo(np.float64).min))
    bounds = tf.cast(bounds, tf.float64)
    if not bounds.shape.is_compatible_with([ranks]):
        raise ValueError(
            f"`bounds` must hold one for each of {ranks or 'T'} ranks. Received: shape "
            f"{bounds.shape}."
        )
    return tf.ensure_shape(bounds, [ranks])


def asked_lengths(least: tf.Tensor) -> tf.Tensor:
    """`[T]` norms that each rank's projected gradient has at least, for the bounds above it.

    Args:
        least: `[T]` the least length along each gradient.
    """
    return tf.reduce_max(_lower_ones(count(least)) * tf.maximum(least, 0.0), axis=-1)


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
    return active_set(*_in_units(gram, inner, lengths)) * _per_norm(lengths, gram)


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


def _violation(slack: tf.Tensor, lengths: tf.Tensor, above: tf.Tensor) -> tf.Tensor:
    """The largest `-cos(projected_t, g_k)`, at least 0."""
    return tf.reduce_max(tf.where(above, -slack / lengths[:, None], 0.0))


def _lengths(
    scaled: tf.Tensor, before: tf.Tensor, after: tf.Tensor, own: tf.Tensor | float = 1.0
) -> tf.Tensor:
    """`[T]` norms of the projected gradients.

    A Gramian in float64 holds lengths down to the root of its rounding error: a projected gradient
    that is shorter counts as that long.

    Args:
        scaled: `[T, T]` multipliers.
        before: `[T, T]` inner products with each gradient before the projection.
        after: `[T, T]` the same after it.
        own: `[T]` squared norms before it.
    """
    squared = own + tf.reduce_sum(scaled * (before + after), axis=-1)
    rounding = 4.0 * _EPSILON * (1.0 + tf.reduce_sum(scaled, axis=-1))
    return tf.sqrt(tf.maximum(squared, rounding))
