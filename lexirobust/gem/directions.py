"""Directions: an update that goes a rank's way, and not only far enough along it."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

_ROUNDING = 1e-13
"""The share of a squared length below which a Gramian shows nothing but its rounding."""
_SHORT = 0.01
"""The share of an update's length below which a gradient asks for the less of its direction.

One that vanishes beside those below it is at its best, and does not hold them up.
"""


def as_directions(directions: Sequence[float] | tf.Tensor, ranks: int | None) -> tf.Tensor:
    """`[T]` float64 cosines.

    Raises:
        ValueError: If there is not one a rank, the number of ranks is not known, or a number is 1
            or above, or none.
    """
    if not tf.is_tensor(directions):
        try:
            numbers = np.asarray(directions, np.float64)
        except (TypeError, ValueError):
            numbers = np.full(1, np.nan)
        if not np.all(numbers < 1):
            raise ValueError(f"`directions` must be numbers below 1. Received: {directions!r}.")
        directions = tf.constant(numbers)
    directions = tf.cast(directions, tf.float64)
    if ranks is None or not directions.shape.is_compatible_with([ranks]):
        raise ValueError(
            f"`directions` must hold one cosine for each of {ranks or 'a known number of'} ranks. "
            f"Received: shape {directions.shape}."
        )
    return tf.ensure_shape(directions, [ranks])


def turned(
    gram: tf.Tensor,
    multipliers: tf.Tensor,
    least: tf.Tensor | None,
    alphas: tf.Tensor,
    directions: Sequence[float] | tf.Tensor,
) -> tf.Tensor:
    """Weighs projected gradients anew, so that their mix goes the way of ranks that ask for it.

    From the lowest rank up: the mix of what is at a rank and below it is turned in the plane of
    that mix and the rank's own projected gradient, and keeps its length. It is shortened only
    where it would take more from a higher rank than that one gives.

    Args:
        gram: `[T, T]` Gramian of the gradients, rank 1 first, T known.
        multipliers: `[T, T]` as in `DualSolution`.
        least: `[T]` inner products with each gradient that a mix of weights that sum to 1 keeps,
            below 0 where a rank gives some away; `None` if they are 0.
        alphas: `[T]` non-negative weights of the projected gradients.
        directions: As in `onestep`.

    Returns:
        `[T]` weights, which need not sum to 1.

    Raises:
        ValueError: As `onestep`.
    """
    ranks = alphas.shape[0]
    directions = tf.clip_by_value(as_directions(directions, ranks), 0.0, 1.0)
    rows = multipliers + tf.eye(ranks, dtype=tf.float64)
    with_gradients = tf.linalg.matmul(rows, gram)
    inner = tf.linalg.matmul(with_gradients, rows, transpose_b=True)
    squares = tf.linalg.diag_part(inner)
    norms = tf.sqrt(tf.where(squares > _ROUNDING * tf.linalg.diag_part(gram), squares, 0.0))

    def squared(weights: tf.Tensor) -> tf.Tensor:
        return tf.maximum(tf.tensordot(weights, tf.linalg.matvec(inner, weights), 1), 0.0)

    for rank in reversed(range(ranks - 1)):
        higher, of_mix = np.arange(ranks) < rank, np.arange(ranks) >= rank
        mix = tf.where(of_mix, alphas, 0.0)
        below = tf.where(np.arange(ranks) > rank, alphas, 0.0)
        own, length = norms[rank], tf.sqrt(squared(mix))
        along = tf.math.divide_no_nan(tf.tensordot(inner[rank], below, 1), own)
        aside = squared(below) - tf.square(along)
        across = tf.sqrt(tf.where(aside > _ROUNDING * squared(below), aside, 0.0))
        shown = tf.minimum(tf.math.divide_no_nan(own, _SHORT * length), 1.0)
        cosine = shown * directions[rank]
        asks = (cosine > 0) & (across > 0) & (alphas[rank] * own + along < cosine * length)
        kept = length * tf.math.divide_no_nan(tf.sqrt(1.0 - tf.square(cosine)), across)
        led = kept * below + tf.one_hot(rank, ranks, dtype=tf.float64) * tf.math.divide_no_nan(
            length * cosine - kept * along, own
        )
        if least is not None:
            # Longer along its own gradient, it may spend more of a higher rank than before.
            spent = tf.linalg.matvec(with_gradients, led, transpose_a=True)
            most = tf.reduce_sum(mix) * least
            beyond = higher & (most < 0) & (spent < most)
            led *= tf.reduce_min(tf.where(beyond, tf.math.divide_no_nan(most, spent), 1.0))
        alphas = tf.where(of_mix & asks, led, alphas)
    return alphas
