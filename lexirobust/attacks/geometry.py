"""Norms, balls, spheres and boxes: the plain maths under every attack.

Projections are differentiable in the perturbation, almost everywhere; derivatives are finite.

A perturbation is a tensor `[N, ...]`, one sample a row; its norm is taken over all other axes.
A box is a pair `(low, high)` of tensors shaped like the perturbation, with `low <= 0 <= high`:
how far each coordinate may move. `None` is no box.
"""

from typing import Final, TypeAlias

import numpy as np
import tensorflow as tf

from lexirobust.checks import of_dtype
from lexirobust.graphs import traced_once

Box: TypeAlias = tuple[tf.Tensor, tf.Tensor]

NORMS: Final = ("l1", "l2", "linf")

# The share of a radius that counts as all of it: a corner exactly at the radius is room, which
# rounding must not deny.
_ENOUGH = 1.0 - 1e-6


def check_norm(name: str, allowed: tuple[str, ...] = NORMS) -> str:
    """Returns `name` if it is an allowed norm, and raises `ValueError` otherwise."""
    if name not in allowed:
        raise ValueError(f"`norm` must be one of {allowed}. Received: {name!r}.")
    return name


def norm(perturbation: tf.Tensor, norm: str) -> tf.Tensor:
    """Computes the norm of every sample's perturbation.

    Args:
        perturbation: `[N, ...]` tensor.
        norm: `"l1"`, `"l2"` or `"linf"`.

    Returns:
        `[N]` tensor of the same dtype.

    Example:

    >>> norm(tf.constant([[3.0, -4.0]]), "l2").numpy().tolist()
    [5.0]
    """
    check_norm(norm)
    flat = _flat(tf.convert_to_tensor(perturbation))
    if norm == "l1":
        return tf.reduce_sum(tf.abs(flat), axis=-1)
    if norm == "linf":
        return tf.reduce_max(tf.abs(flat), axis=-1)
    # Scaled by the largest entry, so that no square underflows or overflows.
    largest = tf.reduce_max(tf.abs(flat), axis=-1, keepdims=True)
    scaled = tf.math.divide_no_nan(flat, largest)
    return largest[:, 0] * tf.sqrt(tf.reduce_sum(tf.square(scaled), axis=-1))


def box_around(inputs: tf.Tensor, bounds: tuple[float, float] | None) -> Box | None:
    """Says how far each coordinate of the inputs may move inside the bounds.

    Args:
        inputs: `[N, ...]` tensor inside `bounds`.
        bounds: Lowest and highest value of an input, or `None`.

    Returns:
        `(low, high)`, two tensors shaped like `inputs`, or `None`.
    """
    if bounds is None:
        return None
    return bounds[0] - inputs, bounds[1] - inputs


def farthest(box: Box | None, like: tf.Tensor, norm: str) -> tf.Tensor:
    """Computes the largest norm that a perturbation inside the box can have.

    Args:
        box: The box, or `None`.
        like: `[N, ...]` tensor of which only the shape and dtype count.
        norm: `"l1"`, `"l2"` or `"linf"`.

    Returns:
        `[N]` tensor; the largest number without a box.
    """
    if box is None:
        return tf.fill(tf.shape(like)[:1], tf.constant(like.dtype.max, like.dtype))
    return _norm(tf.maximum(-box[0], box[1]), norm)


def project_ball(
    perturbation: tf.Tensor, radius: tf.Tensor | float, norm: str, box: Box | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Projects onto a ball around 0, cut with a box: the nearest point in the Euclidean sense.

    Args:
        perturbation: `[N, ...]` float tensor.
        radius: Scalar or `[N]` tensor, at least 0.
        norm: The norm that the ball is of: `"l1"`, `"l2"` or `"linf"`.
        box: How far each coordinate may move, or `None`.

    Returns:
        The projected perturbation, shaped like the first argument, and a `[N]` bool tensor: where
        there was room. A ball always has room.

    Example:

    >>> point, _ = project_ball(tf.constant([[3.0, 4.0]]), 1.0, "l2")
    >>> print(point.numpy().round(3))
    [[0.6 0.8]]

    Reference:
        Duchi et al., "Efficient projections onto the l1-ball", 2008, for the case without a box.
    """
    flat, radius, low, high = _prepare(perturbation, radius, norm, box)
    point = _in_ball(flat, radius, low, high, norm)
    return tf.reshape(point, tf.shape(perturbation)), tf.ones_like(radius[:, 0], tf.bool)


def project_sphere(
    perturbation: tf.Tensor, radius: tf.Tensor | float, norm: str, box: Box | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Projects onto a sphere around 0, cut with a box: norm exact and box kept.

    The result is the nearest point in the Euclidean sense, for l1 the nearest with every
    coordinate on its own side. Where the sphere cannot be reached without a coordinate changing
    its side, those that lose least by it change theirs; which ones lead to the nearest point is a
    subset-sum problem, for which no fast method is known. Where the box ends inside the sphere, the
    result is the box's farthest corner.

    Args:
        perturbation: `[N, ...]` float tensor.
        radius: Scalar or `[N]` tensor, at least 0.
        norm: The norm that the sphere is of: `"l1"`, `"l2"` or `"linf"`.
        box: How far each coordinate may move, or `None`.

    Returns:
        The projected perturbation, shaped like the first argument, and a `[N]` bool tensor: where
        the box has room for the radius.

    Example: the second coordinate cannot go below -0.5, so the first goes farther.

    >>> box = tf.constant([[-9.0, -0.5]]), tf.constant([[9.0, 9.0]])
    >>> point, feasible = project_sphere(tf.constant([[1.0, -1.0]]), 1.0, "l2", box)
    >>> print(point.numpy().round(3), feasible.numpy())
    [[ 0.866 -0.5  ]] [ True]
    """
    point, feasible = _on_sphere(*_prepare(perturbation, radius, norm, box), norm)
    return tf.reshape(point, tf.shape(perturbation)), feasible


def leave_ball(
    perturbation: tf.Tensor,
    offset: tf.Tensor,
    radius: tf.Tensor | float,
    norm: str,
    ball: tf.Tensor | float | None = None,
) -> tf.Tensor:
    """Moves perturbations of one norm out of a ball around another point.

    For l2 the result is the nearest point on their sphere that is as far from the offset as the
    ball is wide, where there is one. For l1 and linf it need not be on the sphere.

    Args:
        perturbation: `[N, ...]` float tensor of norm `radius`, inside the ball.
        offset: The ball's center, shaped like the first argument.
        radius: Scalar or `[N]` tensor, above 0.
        norm: The norm of the ball: `"l1"`, `"l2"` or `"linf"`.
        ball: Radius of the ball, scalar or `[N]`; `None`: the same.

    Returns:
        The moved perturbation, shaped like the first argument.

    Example:

    >>> point = leave_ball(tf.constant([[0.8, 0.6]]), tf.constant([[1.0, 0.0]]), 1.0, "l2")
    >>> print(point.numpy().round(3))
    [[0.5   0.866]]
    """
    check_norm(norm)
    flat, center = _flat(perturbation), _flat(offset)
    ball = _per_sample(radius if ball is None else ball, flat)
    radius = _per_sample(radius, flat)
    side, size = tf.sign(center), tf.abs(center)
    if norm == "l2":
        away, axis = _norm(center, norm)[:, None], _unit(center)
        surplus = (ball - radius) * (ball + radius)
        half = 0.5 * (away - _divide(surplus, away))
        across = flat - tf.reduce_sum(flat * axis, axis=1, keepdims=True) * axis
        # The squares' difference, as a product that does not cancel.
        height = tf.sqrt(tf.maximum((radius - half) * (radius + half), 0.0))
        out = half * axis + height * _unit(across)
    elif norm == "l1":
        # What both have in common brings them nearer to each other: for equal radii, half the
        # offset at most.
        common = tf.clip_by_value(flat * side, 0.0, size)
        half = 0.5 * tf.maximum(tf.reduce_sum(size, axis=1, keepdims=True) + radius - ball, 0.0)
        kept = _divide(half, tf.reduce_sum(common, axis=1, keepdims=True)) * common
        out = tf.where(common > 0, kept * side, flat)
    else:
        # One coordinate is enough: the one that has the least way to go.
        target = size - ball
        way = tf.where(size > 0, flat * side - target, flat.dtype.max)
        chosen = tf.one_hot(tf.argmin(way, axis=1), flat.shape[1], on_value=True, off_value=False)
        out = tf.where(chosen, side * target, flat)
    return tf.reshape(out, tf.shape(perturbation))


@traced_once
def steepest_direction(gradient: tf.Tensor, norm: str, box: Box | None = None) -> tf.Tensor:
    """Computes the direction in which steps, projected back, raise a linear function fastest.

    For l1 and l2 it is the gradient itself: of l2 norm 1, or for l1 with a largest entry of 1. The
    projection makes it sparse on an l1 ball, the sparser the longer the step. For linf it is the
    gradient's sign. Coordinates whose derivative is not finite are left out.

    Args:
        gradient: `[N, ...]` gradient of the function.
        norm: The norm that steps are projected to.
        box: How far each coordinate may still move, or `None`. Only coordinates that may move
            count for the size. The others are pushed on all the same, or projecting a long step
            to a norm would draw them back.

    Returns:
        Tensor shaped like `gradient`, or 0 where no coordinate can rise. Any scale of gradient,
        however small, gives the same direction.

    Example:

    >>> print(steepest_direction(tf.constant([[3e-30, -4e-30]]), "l2").numpy().round(3))
    [[ 0.6 -0.8]]

    Reference:
        Section 1.0.1 of the paper.
    """
    flat = _flat(gradient)
    flat = tf.where(tf.math.is_finite(flat), flat, 0.0)
    free = flat
    if box is not None:
        low, high = _flat(box[0]), _flat(box[1])
        free = tf.where(((flat > 0) & (high > 0)) | ((flat < 0) & (low < 0)), flat, 0.0)
    if norm == "linf":
        direction = tf.sign(flat)
    else:
        # What cannot move is held well enough by this much: more would only cost the rest digits.
        size, most = ("linf", 1.0) if norm == "l1" else ("l2", 1e6)
        direction = _divide(flat, _norm(free, size)[:, None])
        direction = tf.clip_by_value(direction, -most, most)
    return tf.reshape(direction, tf.shape(gradient))


def random_perturbation(
    like: tf.Tensor, radius: tf.Tensor | float, norm: str, seed: tf.Tensor, surface: bool
) -> tf.Tensor:
    """Draws perturbations, uniform on the sphere's surface or in the ball it bounds.

    Args:
        like: `[N, ...]` float tensor of which only the shape and dtype count.
        radius: Scalar or `[N]` tensor.
        norm: `"l1"`, `"l2"` or `"linf"`.
        seed: `[2]` integer tensor.
        surface: Whether to draw from the surface. For l1 and l2 uniform in the cone measure.

    Returns:
        Tensor shaped like `like`.
    """
    flat = _flat(like)
    seed = tf.cast(seed, tf.int32)
    drawn = _drawn(flat, _per_sample(radius, flat), norm, seed, surface)
    return tf.reshape(drawn, tf.shape(like))


@traced_once
def _drawn(
    flat: tf.Tensor, radius: tf.Tensor, norm: str, seed: tf.Tensor, surface: bool
) -> tf.Tensor:
    """`random_perturbation` for rows."""
    seeds = tf.random.experimental.stateless_split(seed, 3)
    shape = tf.shape(flat)
    if norm == "linf":
        draw = tf.random.stateless_uniform(shape, seeds[0], -1.0, 1.0, flat.dtype)
        if surface:
            draw = _divide(draw, tf.reduce_max(tf.abs(draw), axis=-1, keepdims=True))
        return draw * radius
    if norm == "l2":
        draw = tf.random.stateless_normal(shape, seeds[0], dtype=flat.dtype)
    else:
        # Exponential sizes on random sides. Not `stateless_gamma`, which XLA does not know.
        tiny = np.finfo(flat.dtype.as_numpy_dtype).tiny
        size = -tf.math.log(tf.random.stateless_uniform(shape, seeds[0], tiny, 1.0, flat.dtype))
        sides = tf.random.stateless_uniform(shape, seeds[2], -1.0, 1.0, flat.dtype)
        draw = tf.where(sides < 0, -size, size)
    draw = _divide(draw, _norm(draw, norm)[:, None])
    if not surface:
        share = tf.random.stateless_uniform((shape[0], 1), seeds[1], dtype=flat.dtype)
        draw *= share ** (1.0 / flat.shape[-1])
    return draw * radius


_norm = norm  # The argument of the same name hides it inside the functions above.


def _flat(tensor: tf.Tensor) -> tf.Tensor:
    return tf.reshape(tensor, (tf.shape(tensor)[0], int(np.prod(tensor.shape[1:]))))


def _per_sample(radius: tf.Tensor | float, flat: tf.Tensor) -> tf.Tensor:
    """`[N, 1]` from a scalar or `[N]`."""
    radius = of_dtype(radius, flat.dtype)
    return tf.broadcast_to(tf.reshape(radius, (-1, 1)), (tf.shape(flat)[0], 1))


def _divide(numerator: tf.Tensor, denominator: tf.Tensor) -> tf.Tensor:
    return tf.math.divide_no_nan(numerator, denominator)


def _unit(flat: tf.Tensor) -> tf.Tensor:
    """Rows of l2 norm 1; scaled by the largest entry first, so that tiny rows keep theirs."""
    scaled = _divide(flat, tf.reduce_max(tf.abs(flat), axis=-1, keepdims=True))
    square = tf.reduce_sum(tf.square(scaled), axis=-1, keepdims=True)
    # One entry is 1 or -1 unless all are 0, where the root would have no derivative.
    return scaled / tf.sqrt(tf.maximum(square, 1.0))


def _prepare(
    perturbation: tf.Tensor, radius: tf.Tensor | float, norm: str, box: Box | None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    check_norm(norm)
    flat = _flat(tf.convert_to_tensor(perturbation))
    radius = _per_sample(radius, flat)
    # No coordinate of a point in the ball is farther out than the radius.
    low, high = -radius * tf.ones_like(flat), radius * tf.ones_like(flat)
    if box is not None:
        low, high = tf.maximum(low, _flat(box[0])), tf.minimum(high, _flat(box[1]))
    return flat, radius, low, high


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
    direction = _unit(flat)
    # In units of the radius, so that no square underflows or overflows.
    least, most = _divide(low, radius), _divide(high, radius)

    def raised(scale: tf.Tensor) -> tf.Tensor:
        reached = scale * direction
        held = (reached > most) | (reached < least)
        bound = tf.where(held, tf.clip_by_value(reached, least, most), tf.zeros_like(reached))
        rest = tf.reduce_sum(tf.square(bound), axis=-1, keepdims=True)
        free = tf.where(held, tf.zeros_like(direction), direction)
        free = tf.reduce_sum(tf.square(free), axis=-1, keepdims=True)
        # No scale is below 1, and the root of 1 has a derivative where that of 0 has none.
        return tf.maximum(scale, tf.sqrt(tf.maximum(_divide(1.0 - rest, free), 1.0)))

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
        newton = _divide(excess, slope)
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
    point += free * _divide(missing, tf.reduce_sum(free, axis=-1, keepdims=True))
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
    near, far = _divide(tf.abs(corner), unit), _divide(tf.abs(end), unit)
    gain = tf.maximum(far**power - near**power, 0.0)
    cost = (end - corner) * ((end + corner) / 2 - flat)  # Half a difference of two squares.
    order = tf.argsort(tf.where(gain > 0, _divide(cost, gain), flat.dtype.max), axis=-1)
    missing = _divide(radius, unit) ** power - tf.reduce_sum(near**power, axis=-1, keepdims=True)
    before = tf.cumsum(tf.gather(gain, order, batch_dims=1), axis=-1, exclusive=True)
    before = tf.gather(before, tf.argsort(order, axis=-1), batch_dims=1)
    taken = tf.clip_by_value(missing - before, 0.0, gain)
    size = tf.where(taken > 0, near**power + taken, 1.0) ** (1.0 / power)
    result = tf.where(taken > 0, far_side * tf.minimum(size, far) * unit, corner)
    return tf.clip_by_value(result, low, high)


@traced_once
def _in_ball(
    flat: tf.Tensor, radius: tf.Tensor, low: tf.Tensor, high: tf.Tensor, norm: str
) -> tf.Tensor:
    """`project_ball` for rows."""
    inside = tf.clip_by_value(flat, low, high)
    if norm == "linf":
        return inside
    edge = _grow(flat, radius, norm, low, high)
    return tf.where(_norm(inside, norm)[:, None] > radius, edge, inside)


@traced_once
def _on_sphere(
    flat: tf.Tensor, radius: tf.Tensor, low: tf.Tensor, high: tf.Tensor, norm: str
) -> tuple[tf.Tensor, tf.Tensor]:
    """`project_sphere` for rows."""
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
