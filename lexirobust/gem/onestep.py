"""The Onestep update: one weighted sum of the gradients that hurts no higher rank."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from lexirobust.checks import check_alphas
from lexirobust.gem.directions import turned
from lexirobust.gem.dual import as_square, asked_lengths, correction, solve_and_cap
from lexirobust.gem.gradients import Gradients, as_floats, count, matrix_of, per_variable
from lexirobust.gem.gramian import cosines, gramian, inner_products
from lexirobust.graphs import compiled

_EPSILON = float(np.finfo(np.float64).eps)


class Onestep(NamedTuple):
    """The weights of one update, and all there is to report about it.

    Attributes:
        weights: `[T]` float64: the update direction is `sum_k weights[k] * g[k]`.
        gramian: `[T, T]` float64 inner products of the gradients.
        cosines: `[T, T]` float64 cosines between them.
        multipliers: As in `DualSolution`.
        active: As in `DualSolution`.
        violation: As in `DualSolution`.
        kkt_residual: As in `DualSolution`.
        descent: `[T]` float64: how fast the update lowers the loss of each rank, in units of the
            rank's own gradient: its inner product with `g[k]` over `gramian[k, k]`. Below 0 the
            update spends the rank; 0 where the gradient is zero.
    """

    weights: tf.Tensor
    gramian: tf.Tensor
    cosines: tf.Tensor
    multipliers: tf.Tensor
    active: tf.Tensor
    violation: tf.Tensor
    kkt_residual: tf.Tensor
    descent: tf.Tensor


def onestep(
    gram: Any,
    alphas: Sequence[float] | tf.Tensor,
    margin: float = 0.0,
    bounds: Sequence[float] | tf.Tensor | None = None,
    directions: Sequence[float] | tf.Tensor | None = None,
) -> Onestep:
    """Computes the weights of the Onestep update and what there is to report about them.

    With bounds, the shares of rank k and of those below it keep rank k's bound, and so does their
    mix. The shares of higher ranks owe it nothing.

    An update that descends rank k as fast as its own gradient may still be many times as long,
    along gradients of lower ranks. Optimizers that normalize steps shorten all of it. Directions
    turn it.

    Args:
        gram: `[T, T]` Gramian of the gradients, rank 1 first.
        alphas: `[T]` non-negative weights of the ranks, summing to 1.
        margin: Lower bound of the multipliers, GEM's memory strength.
        bounds: As in `solve_dual`: how fast each rank is to descend at least; `None` is GEM.
        directions: `[T]` least cosines, below 1, between the projected gradient of rank k and the
            mix of it and those below it, which is turned where it has less and keeps its length;
            at 0 and below it is left alone. The last entry is not used. `None` turns nothing.

    Returns:
        An `Onestep`.

    Raises:
        ValueError: As `solve_dual`, or if there is not one of `alphas`, or of `directions`, for
            each rank. Where they are numbers and not a tensor, also if an alpha is negative or they
            do not sum to 1, or if a direction is 1 or above.

    Example:

    >>> step = onestep(gramian([[1.0, 0.0], [-1.0, 1.0]]), [0.5, 0.5])
    >>> step.weights.numpy().tolist(), step.active.numpy().tolist()
    ([1.0, 0.5], [[False, False], [True, False]])

    Where rank 1 may be spent, rank 2 descends, too.

    >>> step.descent.numpy().tolist()
    [0.5, 0.0]
    >>> onestep(step.gramian, [0.5, 0.5], bounds=[-0.5, 0.0]).descent.numpy().tolist()
    [0.25, 0.125]

    Turned toward rank 1, the update is as long as before.

    >>> step = onestep(gramian([[1.0, 0.0], [0.0, 3.0]]), [0.5, 0.5], directions=[0.8, 0.0])
    >>> [round(float(weight), 3) for weight in step.weights]
    [1.265, 0.316]

    Reference:
        Section 4.3 of "Finding a human-like classifier".
    """
    gram = as_square(gram)
    ranks = gram.shape[0]
    if not tf.is_tensor(alphas):
        # Where a graph does not know how many ranks there are, it is their weights that tell.
        known = np.size(alphas) if ranks is None else ranks
        alphas = tf.constant(check_alphas(alphas, known), tf.float64)
    alphas = tf.cast(alphas, tf.float64)
    if not alphas.shape.is_compatible_with([ranks]):
        raise ValueError(
            f"`alphas` must hold one weight for each of {ranks} ranks. Received: shape "
            f"{alphas.shape}."
        )
    if not alphas.shape.is_fully_defined():
        alphas = tf.ensure_shape(alphas, [ranks])
    if ranks is None and alphas.shape[0] is not None:
        gram = tf.ensure_shape(gram, [alphas.shape[0]] * 2)
    solution, least = solve_and_cap(gram, margin, bounds)
    if directions is not None:
        alphas = turned(gram, solution.multipliers, least, alphas, directions)
    weights = alphas + tf.linalg.matvec(solution.multipliers, alphas, transpose_a=True)
    return Onestep(
        weights=weights,
        gramian=gram,
        cosines=cosines(gram),
        multipliers=solution.multipliers,
        active=solution.active,
        violation=solution.violation,
        kkt_residual=solution.kkt_residual,
        descent=tf.math.divide_no_nan(tf.linalg.matvec(gram, weights), tf.linalg.diag_part(gram)),
    )


def onestep_weights(
    gram: Any,
    alphas: Sequence[float] | tf.Tensor,
    margin: float = 0.0,
    bounds: Sequence[float] | tf.Tensor | None = None,
    directions: Sequence[float] | tf.Tensor | None = None,
) -> tf.Tensor:
    """Computes the weight of every gradient in the Onestep update.

    The update direction is `sum_k weights[k] * g[k]`, the mix `sum_t alphas[t] * projected[t]` of
    the projected gradients written in terms of the original ones. Being a convex mix of vectors
    that do not oppose any higher rank, it lowers rank 1 to first order, or leaves it alone.

    From a Gramian alone, no projected gradient opposes a higher one by more than 1e-7 of the
    product of their norms before the projection. One that keeps a thousandth of its norm, of rows
    no closer to dependent than that, opposes none by more than 1e-7 after it either. What almost
    vanishes is not resolved here (see `violation`); `project`, which sees the vectors, resolves it.

    Args:
        gram: `[T, T]` Gramian of the gradients, rank 1 first.
        alphas: `[T]` non-negative weights of the ranks, summing to 1.
        margin: Lower bound of the multipliers, GEM's memory strength.
        bounds: As in `solve_dual`: how fast each rank is to descend at least; `None` is GEM.
        directions: As in `onestep`: in what direction the update goes; `None` turns nothing.

    Returns:
        `[T]` float64 tensor.

    Raises:
        ValueError: As `onestep`.

    Example: the second gradient opposes the first, so the first is counted twice in its place.

    >>> gram = gramian([[1.0, 0.0], [-1.0, 1.0]])
    >>> onestep_weights(gram, [0.5, 0.5]).numpy().tolist()
    [1.0, 0.5]

    Reference:
        Section 4.3 of "Finding a human-like classifier".
    """
    return onestep(gram, alphas, margin, bounds, directions).weights


def project(
    gradients: Any,
    margin: float = 0.0,
    bounds: Sequence[float] | tf.Tensor | None = None,
) -> tf.Tensor:
    """Projects every gradient to the nearest vector that opposes no higher rank.

    Opposes: has a cosine below -1e-7, measured on the float64 result itself, however short it is.
    That held in all of 1,400 random trials with nearly dependent rows, and is not proven. A
    float32 result is rounded besides, which can turn one that almost vanished by more. What is
    shorter than the rounding of its own sum, about T * 1e-16 of the terms, is set to zero.

    With bounds it is the nearest vector that keeps all bounds of higher ranks. What a rank's own
    projected gradient gives, which is the most that it can ask for, is read off the Gramian.

    Args:
        gradients: `[T, p]` float tensor of gradients, rank 1 first.
        margin: Lower bound of the multipliers, GEM's memory strength.
        bounds: As in `solve_dual`: how fast each rank is to descend at least; `None` is GEM.

    Returns:
        `[T, p]` tensor of `gradients`' dtype. Not-a-number where `gradients` are not finite.

    Raises:
        ValueError: As `solve_dual`, or if `gradients` is not a `[T, p]` float tensor.

    Example:

    >>> project([[1.0, 0.0], [-1.0, 1.0]]).numpy().tolist()
    [[1.0, 0.0], [0.0, 1.0]]

    Reference:
        Section 4.2 of "Finding a human-like classifier"; Lopez-Paz and Ranzato, arXiv 1706.08840.
        Bounds: as in `solve_dual`.
    """
    dtype = tf.convert_to_tensor(gradients).dtype
    if not dtype.is_floating:
        raise ValueError(f"`gradients` must be floats. Received: {dtype}.")
    gradients = matrix_of(gradients)
    rows = tf.cast(gradients, tf.float64)
    gram = gramian(rows)
    solution, least = solve_and_cap(gram, margin, bounds)
    multipliers = solution.multipliers
    norms = tf.sqrt(tf.linalg.diag_part(gram))
    # Of a vector that is shorter than the rounding of its own sum, no digit is known.
    rounding = (
        _EPSILON * tf.cast(count(rows), tf.float64) * (norms + tf.linalg.matvec(multipliers, norms))
    )
    if least is not None:
        # Nothing vanishes that keeps a positive bound: the rounds below give it its length.
        asked = asked_lengths(tf.math.divide_no_nan(least, norms))
        rounding = tf.where(asked > 0, tf.zeros_like(asked), rounding)

    def combined(vectors: tf.Tensor, multipliers: tf.Tensor) -> tf.Tensor:
        vectors += tf.linalg.matmul(multipliers, rows)
        known = tf.norm(vectors, axis=-1, keepdims=True) > rounding[:, None]
        return vectors * tf.cast(known, tf.float64)

    projected = combined(rows, multipliers)
    # The Gramian shows what is left only to about 1e-8 of what was. The vectors themselves show
    # more: each round resolves lengths that are smaller by that factor, down to rounding.
    for _ in range(5):
        inner, lengths = inner_products(projected, rows), tf.norm(projected, axis=-1)
        if least is not None:
            inner, lengths = inner - least, tf.maximum(lengths, asked)
        projected = combined(projected, correction(gram, inner, lengths))
    return tf.cast(projected, gradients.dtype)


def combine(gradients: Gradients, weights: tf.Tensor) -> list[tf.Tensor | None]:
    """Adds up the gradients of all ranks, each with its weight.

    Args:
        gradients: `[T, p]` tensor, of which a graph need not know T or p, or a list (per loss) of
            lists (per variable) of tensors.
        weights: `[T]` tensor, as `onestep_weights` gives it.

    Returns:
        List of one tensor per variable, of the gradients' dtype, float64 where that is an integer
        or they have several; `None` where no loss depends on the variable.

    Raises:
        ValueError: If there is not one of `weights` for each loss, or as `gramian`.

    Example:

    >>> one, two = tf.constant([1.0, 0.0]), tf.constant([-1.0, 1.0])
    >>> combine([[one], [two]], tf.constant([1.0, 0.5]))[0].numpy().tolist()
    [0.5, 0.5]
    """
    columns, weights = per_variable(gradients), as_floats(weights)
    number = count(columns[0])
    known = number if isinstance(number, int) else None
    if not weights.shape.is_compatible_with([known]):
        raise ValueError(
            f"`weights` must hold one weight for each of {known or 'T'} losses. Received: shape "
            f"{weights.shape}."
        )
    if not weights.shape.is_fully_defined():
        weights = tf.ensure_shape(weights, [known])
    return _weighted_sums(columns, weights)


# Compiled, the sum is one pass over the gradients. Otherwise every product would go to memory.
@compiled
def _weighted_sums(columns: list[Any], weights: tf.Tensor) -> list[tf.Tensor | None]:
    """The sum of each variable's gradients, those that are missing left out."""
    sums: list[tf.Tensor | None] = []
    for column in columns:
        if tf.is_tensor(column) and column.shape[0] is None:
            matrix = as_floats(column)
            sums.append(tf.reduce_sum(tf.cast(weights, matrix.dtype)[:, None] * matrix, axis=0))
            continue
        rows = tf.unstack(column) if tf.is_tensor(column) else column
        present = [g if g is None else as_floats(g) for g in rows]
        terms = [
            tf.cast(weight, g.dtype) * g
            for weight, g in zip(tf.unstack(weights), present, strict=True)
            if g is not None
        ]
        if len({term.dtype for term in terms}) > 1:
            terms = [tf.cast(term, tf.float64) for term in terms]
        sums.append(tf.add_n(terms) if terms else None)
    return sums
