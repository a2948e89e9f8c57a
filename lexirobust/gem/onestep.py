"""The Onestep update: one weighted sum of the gradients that hurts no higher rank."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from lexirobust.gem.dual import solve_dual
from lexirobust.gem.gramian import Gradients, gramian, per_variable


def onestep_weights(
    gram: Any, alphas: Sequence[float] | tf.Tensor, margin: float = 0.0
) -> tf.Tensor:
    """Computes the weight of every gradient in the Onestep update.

    The update direction is `sum_k weights[k] * g[k]`, the mix `sum_t alphas[t] * projected[t]` of
    the projected gradients written in terms of the original ones. Being a convex mix of vectors
    that do not oppose any higher rank, it lowers rank 1 to first order, or leaves it alone.

    Args:
        gram: `[T, T]` Gramian of the gradients, rank 1 first.
        alphas: `[T]` non-negative weights of the ranks, summing to 1.
        margin: Lower bound of the multipliers, GEM's memory strength.

    Returns:
        `[T]` float64 tensor.

    Raises:
        ValueError: As `solve_dual`, or if there is not one of `alphas` for each rank.

    Example: the second gradient opposes the first, so the first is counted twice in its place.

    >>> gram = gramian([[1.0, 0.0], [-1.0, 1.0]])
    >>> onestep_weights(gram, [0.5, 0.5]).numpy().tolist()
    [1.0, 0.5]

    Reference:
        Section 4.3 of "Finding a human-like classifier".
    """
    alphas = tf.convert_to_tensor(alphas, tf.float64)
    multipliers = solve_dual(gram, margin=margin).multipliers
    if not alphas.shape.is_compatible_with(multipliers.shape[:1]):
        raise ValueError(
            f"`alphas` must hold one weight for each of {multipliers.shape[0]} ranks. Received: "
            f"shape {alphas.shape}."
        )
    return alphas + tf.linalg.matvec(multipliers, alphas, transpose_a=True)


def project(gradients: Any, margin: float = 0.0) -> tf.Tensor:
    """Projects every gradient to the nearest vector that opposes no higher rank.

    Args:
        gradients: `[T, p]` float tensor of gradients, rank 1 first.
        margin: Lower bound of the multipliers, GEM's memory strength.

    Returns:
        `[T, p]` tensor of `gradients`' dtype.

    Raises:
        ValueError: As `solve_dual`, or if `gradients` is not a `[T, p]` float tensor.

    Example:

    >>> project([[1.0, 0.0], [-1.0, 1.0]]).numpy().tolist()
    [[1.0, 0.0], [0.0, 1.0]]

    Reference:
        Section 4.2 of "Finding a human-like classifier"; Lopez-Paz and Ranzato, arXiv 1706.08840.
    """
    gradients = tf.convert_to_tensor(gradients)
    if not gradients.dtype.is_floating:
        raise ValueError(f"`gradients` must be floats. Received: {gradients.dtype}.")
    rows = tf.cast(gradients, tf.float64)
    multipliers = solve_dual(gramian(rows), margin=margin).multipliers
    return tf.cast(rows + tf.linalg.matmul(multipliers, rows), gradients.dtype)


def combine(gradients: Gradients, weights: tf.Tensor) -> list[tf.Tensor | None]:
    """Adds up the gradients of all ranks, each with its weight.

    Args:
        gradients: List (per loss) of lists (per variable) of tensors, `None` allowed.
        weights: `[T]` tensor, as `onestep_weights` gives it.

    Returns:
        List of one tensor per variable, of the gradient's dtype; `None` where no loss depends on
        the variable.

    Raises:
        ValueError: If there is not one of `weights` for each loss.

    Example:

    >>> one, two = tf.constant([1.0, 0.0]), tf.constant([-1.0, 1.0])
    >>> combine([[one], [two]], tf.constant([1.0, 0.5]))[0].numpy().tolist()
    [0.5, 0.5]
    """
    combined: list[tf.Tensor | None] = []
    columns, weights = per_variable(gradients), tf.convert_to_tensor(weights)
    if not weights.shape.is_compatible_with([len(columns[0])]):
        raise ValueError(
            f"`weights` must hold one weight for each of {len(columns[0])} losses. Received: shape "
            f"{weights.shape}."
        )
    for column in columns:
        terms = [
            tf.cast(weight, g.dtype) * g
            for weight, g in zip(tf.unstack(weights), column, strict=True)
            if g is not None
        ]
        combined.append(tf.add_n(terms) if terms else None)
    return combined
