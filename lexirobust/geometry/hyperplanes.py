"""Hyperplanes, and the shortest ways onto them."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from lexirobust.geometry import balls
from lexirobust.tensors import choose


class Boundaries(NamedTuple):
    """Linearized boundaries between a sample's label and K classes.

    A perturbation `d` of the inputs that they were found at meets boundary k where
    `sum(normals[:, k] * d) == gaps[:, k]`.

    Attributes:
        normals: `[N, K, ...]`, the gradients of the logits less that of the label.
        gaps: `[N, K]`, the label's logit less the logits; minus 0 where a class has won.
        usable: `[N, K]` bool: whether there is a boundary: not that of the label with itself, and
            none whose normal is 0 or not finite.
    """

    normals: tf.Tensor
    gaps: tf.Tensor
    usable: tf.Tensor


def nearest(
    boundaries: Boundaries, box: balls.Box | None, norm: str
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Finds the boundary that is nearest inside the box, and the way there.

    Where the box has no room for any, the one is taken that the box comes nearest to.

    Args:
        boundaries: The boundaries of each sample.
        box: How far each coordinate of the inputs may move, or `None`.
        norm: What distances are of: `"l1"`, `"l2"` or `"linf"`.

    Returns:
        Its normal `[N, ...]`, its gap `[N]`, and the shortest perturbation onto it, `[N, ...]`. All
        are 0 where no boundary is usable.
    """
    shape = tf.shape(boundaries.normals)
    classes = boundaries.normals.shape[1]
    normals = tf.reshape(boundaries.normals, tf.concat([[-1], shape[2:]], axis=0))
    normals = tf.ensure_shape(normals, [None, *boundaries.normals.shape[2:]])
    gaps = tf.reshape(boundaries.gaps, [-1])
    repeated = None if box is None else tuple(tf.repeat(side, classes, axis=0) for side in box)
    ways, feasible = project(normals, gaps, norm, repeated)
    missing = tf.abs(gaps - dot(normals, ways))
    distances = balls.norm(ways, norm)
    # Behind every boundary that can be reached: those that cannot, by how far they are missed.
    missed = tf.math.divide_no_nan(missing, balls.norm(normals, DUAL[norm]))
    distances = tf.reshape(tf.where(feasible, distances, missed), shape[:2])
    feasible = tf.reshape(feasible, shape[:2])
    never = tf.constant(distances.dtype.max, distances.dtype)
    reached = tf.where(boundaries.usable & feasible, distances, never)
    unreached = tf.where(boundaries.usable, distances, never)
    some = tf.reduce_any(boundaries.usable & feasible, axis=1)
    chosen = tf.where(some, tf.argmin(reached, axis=1), tf.argmin(unreached, axis=1))
    sound = tf.reduce_any(boundaries.usable, axis=1)

    def pick(rows: tf.Tensor) -> tf.Tensor:
        one = tf.gather(rows, chosen, batch_dims=1)
        return choose(sound, one, tf.zeros_like(one))

    ways = tf.reshape(ways, shape)
    ways = tf.ensure_shape(ways, boundaries.normals.shape)
    return pick(boundaries.normals), pick(boundaries.gaps), pick(ways)


DUAL = {"l1": "linf", "l2": "l2", "linf": "l1"}
"""The norm that a hyperplane's normal is measured in, by the norm of distances to it."""


def project(
    normal: tf.Tensor, gap: tf.Tensor, norm: str, box: balls.Box | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds the shortest perturbation that meets a hyperplane inside a box.

    Only the way along the normal's signs helps, so each coordinate has a room, and a price: what a
    unit of it adds to `sum(normal * d)`. For l1 the dearest coordinates go first, each as far as it
    may. For l2 all go in proportion to their prices and for linf all alike, up to their rooms; the
    scale of those solves a piecewise linear equation, to which Newton's method ascends in as many
    steps as pieces at most.

    Args:
        normal: `[N, ...]` float tensor.
        gap: `[N]`, what `sum(normal * d)` is to be, of either sign.
        norm: Which norm is to be least: `"l1"`, `"l2"` or `"linf"`.
        box: How far each coordinate may move, or `None`.

    Returns:
        The perturbation, shaped like `normal`, and a `[N]` bool tensor: whether the box has room.
        Where it has none, every coordinate goes as far as it may.

    Example: the first coordinate would do alone, but may not go beyond 1.

    >>> box = tf.constant([[-1.0, -9.0]]), tf.constant([[1.0, 9.0]])
    >>> way, feasible = project(tf.constant([[2.0, 1.0]]), tf.constant([4.0]), "l1", box)
    >>> way.numpy().tolist(), feasible.numpy().tolist()
    ([[1.0, 2.0]], [True])

    Reference:
        Hein and Andriushchenko, arXiv 1705.08475, for the problem.
    """
    balls.check_norm(norm)
    flat = tf.reshape(normal, (tf.shape(normal)[0], int(np.prod(normal.shape[1:]))))
    # Prices relative to the dearest: no product under- or overflows for steep or flat functions.
    largest = tf.reduce_max(tf.abs(flat), axis=1, keepdims=True)
    price = tf.math.divide_no_nan(tf.abs(flat), largest)
    side = tf.sign(flat) * tf.sign(gap)[:, None]
    target = tf.math.divide_no_nan(tf.abs(gap)[:, None], largest)
    # No coordinate need go farther than where it would do alone.
    room = tf.math.divide_no_nan(target, price)
    if box is not None:
        low, high = (tf.reshape(each, tf.shape(flat)) for each in box)
        room = tf.minimum(room, tf.maximum(tf.where(side > 0, high, -low), 0.0))
        room = tf.where(price > 0, room, 0.0)
    if norm == "l1":
        size = _dearest_first(price, target, room)
    else:
        size = _level(price, target, room, norm)
    worth = tf.reduce_sum(price * room, axis=1, keepdims=True)
    feasible = (largest > 0) & (worth >= target * (1.0 - 1e-6))
    return tf.reshape(side * size, tf.shape(normal)), feasible[:, 0]


def dot(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Computes the inner product `[N]` of the rows of two `[N, ...]` tensors."""
    return tf.reduce_sum(first * second, axis=list(range(1, first.shape.rank)))


def _dearest_first(price: tf.Tensor, target: tf.Tensor, room: tf.Tensor) -> tf.Tensor:
    """`[N, D]` sizes of least sum whose worth is the target, by filling rooms by price."""
    order = tf.argsort(price, axis=1, direction="DESCENDING", stable=True)
    price, room = (tf.gather(each, order, batch_dims=1) for each in (price, room))
    before = tf.cumsum(price * room, axis=1, exclusive=True)
    size = tf.clip_by_value(tf.math.divide_no_nan(target - before, price), 0.0, room)
    return tf.gather(size, tf.argsort(order, axis=1), batch_dims=1)


def _level(price: tf.Tensor, target: tf.Tensor, room: tf.Tensor, norm: str) -> tf.Tensor:
    """`[N, D]` sizes `min(scale * pace, room)` whose worth is the target."""
    pace = price if norm == "l2" else tf.ones_like(price)

    def raised(scale: tf.Tensor) -> tf.Tensor:
        free = scale * pace < room
        worth = tf.reduce_sum(tf.where(~free, price * room, 0.0), axis=1, keepdims=True)
        slope = tf.reduce_sum(tf.where(free, price * pace, 0.0), axis=1, keepdims=True)
        return tf.maximum(scale, tf.math.divide_no_nan(target - worth, slope))

    def grow(scale: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        higher = raised(scale)
        return higher, tf.reduce_any(higher > scale * (1.0 + 1e-6))

    start = raised(tf.zeros_like(target)), tf.constant(True)
    scale, _ = tf.while_loop(lambda _, more: more, grow, start, maximum_iterations=256)
    return tf.minimum(scale * pace, room)
