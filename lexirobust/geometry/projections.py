"""Projections of rows onto balls and spheres, each cut with a box."""

import tensorflow as tf

from lexirobust.geometry.norms import divide, unit_rows
from lexirobust.geometry.norms import norm as _norm
from lexirobust.graphs import traced_once

# The share of a radius that counts as all of it: a corner exactly at the radius is room, which
# rounding must not deny.
_ENOUGH = 1.0 - 1e-6


def _sides(flat: tf.Tensor, low: tf.Tensor, high: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The side (-1 or 1) that each coordinate is on, and its room there; 0 takes the roomier."""
    roomier = tf.where(high >= -low, 1.0, -1.0)
    side = tf.where(flat == 0, tf.cast(roomier, flat.dtype), tf.sign(flat))
    return side, tf.where(side > 0, high, -low)


def _grow(
    flat: tf.Tensor, radius: tf.Tensor, norm: str, low: tf.Tensor, high: tf.Tensor
) -> tf.Tensor:
    """Nearest point of norm `radius` in the box with every coordinate on its own side.

    Where there is none, the farthest point on those sides.
    """
    if norm == "l2":
        return _grow_l2(flat, radius, low, high)
    return _grow_l1(flat, radius, low, high)


def _grow_l2(flat: tf.Tensor, radius: tf.Tensor, low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
    """`clip(scale * flat)`, with the scale that gives the norm.

    With the coordinates that reach the box held there, the scale of the others has a closed form.
    From the scale without a box each round can only hold more coordinates and raise the scale, so
    the rounds end, after a few in practice, at the exact one.
    """
    direction = unit_rows(flat)
    # In units of the radius, so that no square underflows or overflows.
    least, most = divide(low, radius), divide(high, radius)

    def raised(scale: tf.Tensor) -> tf.Tensor:
        reached = scale * direction
        held = (reached > most) | (reached < least)
        bound = tf.where(held, tf.clip_by_value(reached, least, most), tf.zeros_like(reached))
        rest = tf.reduce_sum(tf.square(bound), axis=-1, keepdims=True)
        free = tf.where(held, tf.zeros_like(direction), direction)
        free = tf.reduce_sum(tf.square(free), axis=-1, keepdims=True)
        # No scale is below 1, and the root of 1 has a derivative where that of 0 has none.
        return tf.maximum(scale, tf.sqrt(tf.maximum(divide(1.0 - rest, free), 1.0)))

    def going(_scale: tf.Tensor, more: tf.Tensor) -> tf.Tensor:
        return more

    def step(scale: tf.Tensor, _more: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        larger = raised(scale)
        return larger, tf.reduce_any(larger > scale * (1.0 + 1e-6))

    first = (tf.ones_like(radius), tf.constant(True))
    scale, _ = tf.while_loop(going, step, first, maximum_iterations=256)
    return tf.clip_by_value(scale * direction * radius, low, high)


def _grow_l1(flat: tf.Tensor, radius: tf.Tensor, low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
    """Adds the same to every coordinate's size, within 0 and its room, to give the norm.

    The norm falls with what is taken off, linearly between kinks: Newton's method on the current
    piece, and bisection of a bracket where a step leaves it or does not halve the error.
    """
    side, room = _sides(flat, low, high)
    reachable = tf.reduce_sum(room, axis=-1, keepdims=True) > radius

    def going(
        _left: tf.Tensor, _below: tf.Tensor, _above: tf.Tensor, error: tf.Tensor
    ) -> tf.Tensor:
        return tf.reduce_any(error > 1e-6 * radius)

    def step(
        left: tf.Tensor, below: tf.Tensor, above: tf.Tensor, before: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        point = tf.clip_by_value(left, 0.0, room)
        excess = tf.reduce_sum(point, axis=-1, keepdims=True) - radius
        error = tf.where(reachable, tf.abs(excess), 0.0)
        # The tensor first: it says which type of zero is meant.
        below, above = tf.where(excess <= 0, below, 0.0), tf.where(excess > 0, above, 0.0)
        moving = (left > 0) & (left < room)
        slope = tf.reduce_sum(tf.cast(moving, flat.dtype), axis=-1, keepdims=True)
        newton = divide(excess, slope)
        usable = (newton > below) & (newton < above) & (error <= before / 2)
        off = tf.where(usable, newton, below / 2 + above / 2)
        off = tf.where(error > 1e-6 * radius, off, 0.0)
        return left - off, below - off, above - off, error

    # What is left of sizes, and the bracket, count from what is taken off so far: however large
    # the sizes are, those that matter, within their room of it, keep their digits.
    size = tf.abs(flat)
    below = tf.reduce_min(size - room, axis=-1, keepdims=True)
    above = tf.reduce_max(size, axis=-1, keepdims=True)
    never = tf.fill(tf.shape(radius), tf.constant(flat.dtype.max, flat.dtype))
    left, *_ = tf.while_loop(
        going, step, (size, tf.minimum(below, 0.0), above, never), maximum_iterations=256
    )
    point = tf.where(reachable, tf.clip_by_value(left, 0.0, room), room)
    # What rounding left over goes to the coordinates that are free to move.
    free = tf.where((point > 0) & (point < room), point, 0.0)
    missing = tf.where(reachable, radius - tf.reduce_sum(point, axis=-1, keepdims=True), 0.0)
    point += free * divide(missing, tf.reduce_sum(free, axis=-1, keepdims=True))
    return side * tf.clip_by_value(point, 0.0, room)


def _cross(
    flat: tf.Tensor,
    corner: tf.Tensor,
    radius: tf.Tensor,
    norm: str,
    low: tf.Tensor,
    high: tf.Tensor,
) -> tf.Tensor:
    """Lets coordinates change side, cheapest first, until the corner's norm is the radius.

    They are taken in the order of distance paid for norm gained, as is usual for a knapsack
    problem, and the last coordinate makes the norm exact.
    """
    power = 1.0 if norm == "l1" else 2.0
    far_side = tf.where(high >= -low, tf.ones_like(flat), -tf.ones_like(flat))
    end = tf.where(high >= -low, high, low)
    # In units of the farthest end, so that no square underflows.
    unit = tf.reduce_max(tf.abs(end), axis=-1, keepdims=True)
    near, far = divide(tf.abs(corner), unit), divide(tf.abs(end), unit)
    gain = tf.maximum(far**power - near**power, 0.0)
    cost = (end - corner) * ((end + corner) / 2 - flat)  # Half a difference of two squares.
    order = tf.argsort(tf.where(gain > 0, divide(cost, gain), flat.dtype.max), axis=-1)
    missing = divide(radius, unit) ** power - tf.reduce_sum(near**power, axis=-1, keepdims=True)
    before = tf.cumsum(tf.gather(gain, order, batch_dims=1), axis=-1, exclusive=True)
    before = tf.gather(before, tf.argsort(order, axis=-1), batch_dims=1)
    taken = tf.clip_by_value(missing - before, 0.0, gain)
    size = tf.where(taken > 0, near**power + taken, 1.0) ** (1.0 / power)
    result = tf.where(taken > 0, far_side * tf.minimum(size, far) * unit, corner)
    return tf.clip_by_value(result, low, high)


@traced_once
def in_ball(
    flat: tf.Tensor, radius: tf.Tensor, low: tf.Tensor, high: tf.Tensor, norm: str
) -> tf.Tensor:
    """Projects rows onto a ball; see `balls.project_ball`."""
    inside = tf.clip_by_value(flat, low, high)
    if norm == "linf":
        return inside
    edge = _grow(flat, radius, norm, low, high)
    return tf.where(_norm(inside, norm)[:, None] > radius, edge, inside)


@traced_once
def on_sphere(
    flat: tf.Tensor, radius: tf.Tensor, low: tf.Tensor, high: tf.Tensor, norm: str
) -> tuple[tf.Tensor, tf.Tensor]:
    """Projects rows onto a sphere; see `balls.project_sphere`."""
    if norm == "linf":
        return _linf_sphere(flat, radius, low, high)
    point = _grow(flat, radius, norm, low, high)
    _, room = _sides(flat, low, high)
    # A coordinate at 0 has no direction to be scaled along; for l1 it grows with the others.
    reach = _norm(room if norm == "l1" else tf.abs(tf.sign(flat)) * room, norm)
    short = reach < radius[:, 0]
    point = tf.cond(
        tf.reduce_any(short),
        lambda: tf.where(short[:, None], _cross(flat, point, radius, norm, low, high), point),
        lambda: point,
    )
    reach = _norm(tf.maximum(-low, high), norm)
    return point, reach >= radius[:, 0] * _ENOUGH


def _linf_sphere(
    flat: tf.Tensor, radius: tf.Tensor, low: tf.Tensor, high: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Clips, and where no coordinate reaches the radius moves the one that is cheapest to move."""
    inside = tf.clip_by_value(flat, low, high)
    never = tf.constant(flat.dtype.max, flat.dtype)
    upward, downward = high >= radius * _ENOUGH, low <= -radius * _ENOUGH
    # Half the differences of two squares, neither of which may overflow or hide the other.
    up = tf.where(upward, (high - inside) * ((high + inside) / 2 - flat), never)
    down = tf.where(downward, (low - inside) * ((low + inside) / 2 - flat), never)
    cheapest = tf.one_hot(tf.argmin(tf.minimum(up, down), axis=-1), flat.shape[-1], True, False)
    roomy = tf.reduce_any(upward | downward, axis=-1, keepdims=True)
    short = tf.reduce_max(tf.abs(inside), axis=-1, keepdims=True) < radius
    result = tf.where(cheapest & short & roomy, tf.where(up <= down, high, low), inside)
    roomier = tf.where(high >= -low, high, low)
    return tf.where(roomy, result, roomier), roomy[:, 0]
