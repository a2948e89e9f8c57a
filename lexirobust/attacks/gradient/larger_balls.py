"""Where to start on an l1 ball: at the end of sparse steps inside larger balls."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias

import tensorflow as tf

from lexirobust.attacks.gradient.step_size import is_better
from lexirobust.geometry.balls import Box
from lexirobust.geometry.norms import flat_rows
from lexirobust.tensors import choose, spread

Follow: TypeAlias = Callable[[tf.Tensor], tuple[list[tf.Tensor], tf.Tensor]]
"""Maps perturbations to the goals' values there, `[N]` each, and the gradient to follow."""

LEAST_STEPS: Final = 20
"""Fewer steps than these have none to spare for larger balls."""
# The larger balls' radii, as multiples; the share of all steps in each of them.
_LARGEST, _SMALLEST, _STEPS = 3.0, 2.0, 0.3
# Of the coordinates: the share that the first steps change, the share of those that the best point
# has changed which the next ones do, and the share that must be left for their number to fall.
_FIRST_SHARE, _KEPT, _FEWER = 0.2, 1 / 1.5, 0.95
# Steps grow shorter, from the radius to a share of it, where the number does not fall; it is
# looked at after each share of a ball's steps.
_SHORTER, _SHORTEST, _CHECKED = 1 / 1.5, 0.1, 0.04


class _State(NamedTuple):
    """What changes from step to step.

    Attributes:
        perturbation: `[N, ...]`, where the search is.
        best: `[N, ...]`, the best point in this ball.
        values: Its goals' values, `[N]` each.
        gradient: `[N, ...]`, the one that is followed from there.
        share: `[N]`, the share of all coordinates that a step changes.
        changed: `[N]`, how many coordinates the best point had changed when last looked at.
        length: `[N]`, l1 norms of steps.
    """

    perturbation: tf.Tensor
    best: tf.Tensor
    values: list[tf.Tensor]
    gradient: tf.Tensor
    share: tf.Tensor
    changed: tf.Tensor
    length: tf.Tensor


def steps_in_each(steps: Any) -> tf.Tensor:
    """Tells how many steps are made in each of the two larger balls.

    Args:
        steps: Number of all steps, scalar.

    Returns:
        Scalar int32; 0 for fewer steps than `LEAST_STEPS`.

    Example:

    >>> [int(steps_in_each(steps)) for steps in (19, 20, 100)]
    [0, 6, 30]
    """
    share = tf.cast(_STEPS * tf.cast(steps, tf.float32), tf.int32)
    return tf.where(tf.less(steps, LEAST_STEPS), 0, share)


def search_larger_balls(
    follow: Follow,
    project: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    start: tf.Tensor,
    radius: tf.Tensor,
    is_good: tf.Tensor,
    steps: tf.Tensor,
    lowest: list[tf.Tensor],
    box: Box | None,
) -> tf.Tensor:
    """Follows gradients inside balls of three times and twice a radius.

    On an l1 ball good points change few coordinates, and once steps are small, those that were
    chosen early stay. Here a step changes the coordinates with the largest derivatives alone, all
    by as much, and fewer and fewer of them.

    Args:
        follow: Tells where the goals rise; it is asked twice `steps` times.
        project: Projects perturbations onto balls of given radii, `[N]`.
        start: `[N, ...]` perturbations of any size.
        radius: `[N]` l1 norms in the end.
        is_good: `[N]` bool: which starts are known to be good, and keep to their own ball.
        steps: Number of steps in each ball, scalar, at least 1.
        lowest: Values of the goals, `[N]` each, that any point exceeds.
        box: How far each coordinate may move, or `None`.

    Returns:
        `[N, ...]` perturbations, the best found within twice the radius.

    Reference:
        Croce and Hein, arXiv 2103.01208, sections 3.2 and 3.3.
    """
    coordinates = tf.cast(tf.reduce_prod(tf.shape(start)[1:]), start.dtype)
    gap = tf.maximum(tf.cast(_CHECKED * tf.cast(steps, tf.float32), tf.int32), 1)

    def inside(factor: tf.Tensor, begun: tf.Tensor, share: tf.Tensor) -> tuple[tf.Tensor, ...]:
        ball = tf.where(is_good, radius, factor * radius)

        def step(number: tf.Tensor, state: _State) -> tuple[tf.Tensor, _State]:
            values, gradient = follow(state.perturbation)
            better = is_better(values, state.values, ties=True)
            found = state._replace(best=state.perturbation, values=values, gradient=gradient)
            state = choose(better, found, state)
            # Every so often the search goes back to the best point, if that has become sparser.
            changed = _count_changed(state.best)
            sparser = changed < _FEWER * state.changed
            looked = state._replace(
                share=_KEPT * changed / coordinates,
                changed=changed,
                length=tf.where(
                    sparser, ball, tf.maximum(_SHORTER * state.length, _SHORTEST * ball)
                ),
            )
            looks = (number > 0) & (number % gap == 0) & tf.ones_like(sparser)
            state = choose(looks, looked, state)
            at = choose(looks & sparser, state.best, state.perturbation)
            upward = choose(looks & sparser, state.gradient, gradient)
            left = None if box is None else (box[0] - at, box[1] - at)
            direction = sparse_direction(upward, state.share, left)
            stepped = project(at + spread(state.length, at) * direction, ball)
            return number + 1, state._replace(perturbation=stepped)

        first = project(begun, ball)
        changed = tf.where(factor == _LARGEST, coordinates, _count_changed(first))
        state = _State(first, first, lowest, tf.zeros_like(first), share, changed, ball)
        _, state = tf.while_loop(lambda number, _: number < steps, step, (tf.constant(0), state))
        return factor - 1.0, state.best, _KEPT * _count_changed(state.best) / coordinates

    begun = tf.constant(_LARGEST, radius.dtype), start, _FIRST_SHARE * tf.ones_like(radius)
    return tf.while_loop(lambda factor, *_: factor >= _SMALLEST, inside, begun)[1]


def sparse_direction(gradient: tf.Tensor, share: tf.Tensor, box: Box | None = None) -> tf.Tensor:
    """Computes the direction that changes the steepest coordinates alone, all by as much.

    Args:
        gradient: `[N, ...]` gradient of what is to rise.
        share: `[N]`, which share of all coordinates changes, at least one of them.
        box: How far each coordinate may still move, or `None`. Those that cannot move do not count.

    Returns:
        Tensor of l1 norm 1, shaped like `gradient`; 0 where nothing can rise.

    Example:

    >>> gradient = tf.constant([[4.0, -3.0, 2.0, 1.0]])
    >>> sparse_direction(gradient, tf.constant([0.5])).numpy().tolist()
    [[0.5, -0.5, 0.0, 0.0]]
    """
    flat = flat_rows(gradient)
    flat = tf.where(tf.math.is_finite(flat), flat, 0.0)
    if box is not None:
        low, high = flat_rows(box[0]), flat_rows(box[1])
        flat = tf.where(((flat > 0) & (high > 0)) | ((flat < 0) & (low < 0)), flat, 0.0)
    sizes = tf.abs(flat)
    last = tf.shape(flat)[1] - 1
    least = tf.cast((1.0 - share) * tf.cast(last + 1, share.dtype), tf.int32)
    level = tf.gather(tf.sort(sizes, axis=1), tf.clip_by_value(least, 0, last), batch_dims=1)
    chosen = tf.where(sizes >= level[:, None], tf.sign(flat), 0.0)
    count = tf.reduce_sum(tf.abs(chosen), axis=1, keepdims=True)
    return tf.reshape(tf.math.divide_no_nan(chosen, count), tf.shape(gradient))


def _count_changed(perturbation: tf.Tensor) -> tf.Tensor:
    """`[N]`: how many coordinates are not 0."""
    return tf.math.count_nonzero(flat_rows(perturbation), axis=1, dtype=perturbation.dtype)
