"""The one loop behind all gradient attacks."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from lexirobust.attacks import geometry

Goal: TypeAlias = Callable[[tf.Tensor], tf.Tensor]
"""Maps inputs `[N, ...]` to what is to be raised, `[N]`."""

Mix: TypeAlias = Callable[[tf.Tensor, Sequence[tf.Tensor]], tf.Tensor]
"""Maps the perturbed inputs `[N, ...]` and each goal's gradient there to the one gradient that is
followed, all shaped like the inputs."""


def ranked(inputs: tf.Tensor, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
    """Mixes up to two goals' gradients so that the first goal never falls, sample by sample.

    It is the projection of `lexirobust.gem` for two gradients of norm 1, in closed form.

    Args:
        inputs: `[N, ...]` perturbed inputs, which do not matter here.
        gradients: One or two gradients, the more important goal's first.

    Returns:
        The gradient to follow, shaped like the inputs.
    """
    del inputs
    if len(gradients) == 1:
        return gradients[0]
    first, second = (geometry.steepest_direction(g, "l2") for g in gradients)
    axes = list(range(1, first.shape.rank))
    inner = tf.reduce_sum(first * second, axis=axes, keepdims=True)
    projected = second - tf.minimum(inner, 0.0) * first
    return first + geometry.steepest_direction(projected, "l2")


def climb(
    goals: Sequence[Goal],
    x: tf.Tensor,
    magnitude: tf.Tensor,
    seed: tf.Tensor,
    *,
    norm: str,
    steps: Any,
    step_size: Any | None,
    exact: bool,
    restarts: Any,
    bounds: tuple[float, float] | None,
    random_start: bool,
    mix: Mix = ranked,
    first: tf.Tensor | None = None,
) -> tf.Tensor:
    """Climbs one or two ranked goals by projected gradient steps, and keeps the best point seen.

    Restarts come in pairs that start at opposite points: the sphere of an input with one
    dimension is two points, and no gradient leads from one to the other.

    Args:
        goals: What to raise: one goal, or two with the more important first.
        x: `[N, ...]` inputs.
        magnitude: `[N]` norms.
        seed: `[2]` integer tensor.
        norm: `"l1"`, `"l2"` or `"linf"`.
        steps: Number of gradient steps, scalar.
        step_size: Norm of a step; `None` is 2.5 times the magnitude over the steps.
        exact: Whether the norm is the magnitude, or at most the magnitude.
        restarts: Number of starts, scalar.
        bounds: Lowest and highest value of an input, or `None`.
        random_start: Whether to start at a random perturbation, or at the input itself.
        mix: Makes one gradient of all goals' gradients.
        first: Perturbation that the first start is projected from, shaped like `x`, or `None`.

    Returns:
        The perturbed inputs, shaped like `x`.
    """
    magnitude = tf.cast(magnitude, x.dtype)
    box = geometry.box_around(x, bounds)
    project = geometry.project_sphere if exact else geometry.project_ball
    if step_size is None:
        step_size = 2.5 * magnitude / tf.cast(steps, x.dtype)
    length = tf.cast(step_size, x.dtype) * tf.ones_like(magnitude)
    length = tf.reshape(length, [-1] + [1] * (x.shape.rank - 1))

    def moved(perturbation: tf.Tensor) -> tf.Tensor:
        # Adding rounds: the box is kept to the last bit all the same.
        shifted = x + perturbation
        return shifted if bounds is None else tf.clip_by_value(shifted, *bounds)

    def start(index: tf.Tensor) -> tf.Tensor:
        if first is None:
            return drawn_start(index)
        return tf.cond(
            tf.equal(index, 0),
            lambda: project(first, magnitude, norm, box)[0],
            lambda: drawn_start(index),
        )

    def drawn_start(index: tf.Tensor) -> tf.Tensor:
        if not random_start:
            return tf.zeros_like(x)
        pair = tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int32), index // 2)
        drawn = geometry.random_perturbation(x, magnitude, norm, pair, surface=exact)
        side = tf.cast(1 - 2 * (index % 2), x.dtype)
        return project(side * drawn, magnitude, norm, box)[0]

    def keep(
        best: list[tf.Tensor], values: Sequence[tf.Tensor], here: tf.Tensor
    ) -> list[tf.Tensor]:
        better = _is_better(values, best[1:])
        spread = tf.reshape(better, [-1] + [1] * (x.shape.rank - 1))
        kept = [tf.where(better, new, old) for new, old in zip(values, best[1:], strict=True)]
        return [tf.where(spread, here, best[0]), *kept]

    starts_count = not exact or random_start or first is not None

    def step(number: tf.Tensor, here: tf.Tensor, best: list[tf.Tensor]) -> tuple[Any, ...]:
        values, gradients = zip(*[_differentiate(goal, moved(here)) for goal in goals], strict=True)
        # The input itself is no answer where the norm must be exact.
        counts = tf.constant(True) if starts_count else number > 0
        best = keep(best, [tf.where(counts, value, -np.inf) for value in values], here)
        left = None if box is None else (box[0] - here, box[1] - here)
        direction = geometry.steepest_direction(mix(moved(here), gradients), norm, left)
        here, _ = project(here + length * direction, magnitude, norm, box)
        return number + 1, here, best

    def restart(index: tf.Tensor, best: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        state = (tf.constant(0), start(index), best)
        _, here, best = tf.while_loop(lambda number, *_: number < steps, step, state)
        values = [tf.cast(goal(moved(here)), tf.float32) for goal in goals]
        return index + 1, keep(best, values, here)

    worst = [tf.fill(tf.shape(magnitude), -np.inf) for _ in goals]
    state = (tf.constant(0), [tf.zeros_like(x), *worst])
    _, best = tf.while_loop(lambda index, _: index < restarts, restart, state)
    return moved(best[0])


def _differentiate(goal: Goal, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """A goal's values `[N]` in float32, and its gradient, shaped like `x`."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        values = goal(x)
    gradient = tape.gradient(values, x, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return tf.cast(values, tf.float32), gradient


def _is_better(values: Sequence[tf.Tensor], best: Sequence[tf.Tensor]) -> tf.Tensor:
    """`[N]` bool: lexicographically above; not-a-number counts, so that it is not hidden."""
    better = tf.zeros_like(values[0], tf.bool)
    equal = tf.ones_like(better)
    for value, old in zip(values, best, strict=True):
        better |= equal & ((value > old) | tf.math.is_nan(value))
        equal &= value == old
    return better
