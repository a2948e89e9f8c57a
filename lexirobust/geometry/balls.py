"""Norms, balls, spheres and boxes: the plain maths under every attack.

Projections are differentiable in the perturbation, almost everywhere; derivatives are finite.

A perturbation is a tensor `[N, ...]`, one sample a row; its norm is taken over all other axes.
A box is a pair `(low, high)` of tensors shaped like the perturbation, with `low <= 0 <= high`:
how far each coordinate may move. `None` is no box.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import tensorflow as tf

from lexirobust.geometry.norms import (
    NORMS,
    check_norm,
    divide,
    flat_rows,
    norm,
    one_per_sample,
    unit_rows,
)
from lexirobust.geometry.norms import norm as _norm  # Arguments of the same name hide it.
from lexirobust.geometry.projections import in_ball, on_sphere
from lexirobust.graphs import traced_once

__all__ = [
    "NORMS",
    "Box",
    "box_around",
    "check_norm",
    "farthest",
    "leave_ball",
    "norm",
    "project_ball",
    "project_sphere",
    "random_perturbation",
    "steepest_direction",
]

Box: TypeAlias = tuple[tf.Tensor, tf.Tensor]


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


def diagonal(bounds: tuple[float, float], shape: Sequence[int], norm: str) -> float:
    """Computes the norm of the way between two opposite corners of the box that inputs are in.

    Args:
        bounds: Lowest and highest value of an input.
        shape: Of one input.
        norm: `"l1"`, `"l2"` or `"linf"`.

    Returns:
        The norm; by more no input moves inside the bounds.
    """
    low, high = bounds
    return float(_norm(tf.constant(np.full((1, *shape), high - low, np.float64)), norm)[0])


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

    Raises:
        ValueError: If the norm is another one, or, in eager code, a radius is below 0.

    Example:

    >>> point, _ = project_ball(tf.constant([[3.0, 4.0]]), 1.0, "l2")
    >>> print(point.numpy().round(3))
    [[0.6 0.8]]

    Reference:
        Duchi et al., "Efficient projections onto the l1-ball for learning in high dimensions", ICML
        2008, for the case without a box.
    """
    flat, radius, low, high = _prepare(perturbation, radius, norm, box)
    point = in_ball(flat, radius, low, high, norm)
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

    Raises:
        ValueError: As `project_ball`.

    Example: the second coordinate cannot go below -0.5, so the first goes farther.

    >>> box = tf.constant([[-9.0, -0.5]]), tf.constant([[9.0, 9.0]])
    >>> point, feasible = project_sphere(tf.constant([[1.0, -1.0]]), 1.0, "l2", box)
    >>> print(point.numpy().round(3), feasible.numpy())
    [[ 0.866 -0.5  ]] [ True]
    """
    point, feasible = on_sphere(*_prepare(perturbation, radius, norm, box), norm)
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
    flat, center = flat_rows(perturbation), flat_rows(offset)
    ball = one_per_sample(radius if ball is None else ball, flat)
    radius = one_per_sample(radius, flat)
    side, size = tf.sign(center), tf.abs(center)
    if norm == "l2":
        away, axis = _norm(center, norm)[:, None], unit_rows(center)
        surplus = (ball - radius) * (ball + radius)
        half = 0.5 * (away - divide(surplus, away))
        across = flat - tf.reduce_sum(flat * axis, axis=1, keepdims=True) * axis
        # The squares' difference, as a product that does not cancel.
        height = tf.sqrt(tf.maximum((radius - half) * (radius + half), 0.0))
        out = half * axis + height * unit_rows(across)
    elif norm == "l1":
        # What both have in common brings them nearer to each other: for equal radii, half the
        # offset at most.
        common = tf.clip_by_value(flat * side, 0.0, size)
        half = 0.5 * tf.maximum(tf.reduce_sum(size, axis=1, keepdims=True) + radius - ball, 0.0)
        kept = divide(half, tf.reduce_sum(common, axis=1, keepdims=True)) * common
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
    flat = flat_rows(gradient)
    flat = tf.where(tf.math.is_finite(flat), flat, 0.0)
    free = flat
    if box is not None:
        low, high = flat_rows(box[0]), flat_rows(box[1])
        free = tf.where(((flat > 0) & (high > 0)) | ((flat < 0) & (low < 0)), flat, 0.0)
    if norm == "linf":
        direction = tf.sign(flat)
    else:
        # What cannot move is held well enough by this much: more would only cost the rest digits.
        size, most = ("linf", 1.0) if norm == "l1" else ("l2", 1e6)
        direction = divide(flat, _norm(free, size)[:, None])
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
    flat = flat_rows(like)
    seed = tf.cast(seed, tf.int32)
    drawn = _drawn(flat, one_per_sample(radius, flat), norm, seed, surface)
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
            draw = divide(draw, tf.reduce_max(tf.abs(draw), axis=-1, keepdims=True))
        return draw * radius
    if norm == "l2":
        draw = tf.random.stateless_normal(shape, seeds[0], dtype=flat.dtype)
    else:
        # Exponential sizes on random sides. Not `stateless_gamma`, which XLA does not know.
        tiny = np.finfo(flat.dtype.as_numpy_dtype).tiny
        size = -tf.math.log(tf.random.stateless_uniform(shape, seeds[0], tiny, 1.0, flat.dtype))
        sides = tf.random.stateless_uniform(shape, seeds[2], -1.0, 1.0, flat.dtype)
        draw = tf.where(sides < 0, -size, size)
    draw = divide(draw, _norm(draw, norm)[:, None])
    if not surface:
        share = tf.random.stateless_uniform((shape[0], 1), seeds[1], dtype=flat.dtype)
        draw *= share ** (1.0 / flat.shape[-1])
    return draw * radius


def _prepare(
    perturbation: tf.Tensor, radius: tf.Tensor | float, norm: str, box: Box | None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    check_norm(norm)
    flat = flat_rows(tf.convert_to_tensor(perturbation))
    radius = one_per_sample(radius, flat)
    if tf.executing_eagerly() and not np.all(radius.numpy() >= 0):
        raise ValueError(f"`radius` must be at least 0. Received: {radius.numpy().min():g}.")
    # No coordinate of a point in the ball is farther out than the radius.
    low, high = -radius * tf.ones_like(flat), radius * tf.ones_like(flat)
    if box is not None:
        low, high = tf.maximum(low, flat_rows(box[0])), tf.minimum(high, flat_rows(box[1]))
    return flat, radius, low, high
