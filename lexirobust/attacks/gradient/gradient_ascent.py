"""Projected gradient ascent with adaptive step sizes and restarts, the loop of gradient attacks."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import tensorflow as tf

from lexirobust.attacks.gradient import larger_balls
from lexirobust.attacks.gradient.step_size import (
    StepSizeState,
    adapt_step_size,
    initial_step_size_state,
    is_better,
)
from lexirobust.attacks.gradient_check import gradient_by
from lexirobust.geometry import balls
from lexirobust.tensors import choose, of_dtype, spread, wide

Goal: TypeAlias = Callable[[tf.Tensor], tf.Tensor]
"""Maps inputs `[N, ...]` to what is to be raised, `[N]`."""

CombineGradients: TypeAlias = Callable[[tf.Tensor, Sequence[tf.Tensor]], tf.Tensor]
"""Maps the perturbed inputs `[N, ...]` and each goal's gradient there to the one gradient that is
followed, all shaped like the inputs."""


class AscentSettings(NamedTuple):
    """How a goal is raised.

    Attributes:
        norm: `"l1"`, `"l2"` or `"linf"`.
        steps: Number of gradient steps, scalar.
        step_size: Size of a step; `None` adapts it to each sample.
        exact: Whether the norm is the magnitude, or at most the magnitude.
        restarts: Number of starts, scalar. They come in pairs that start at opposite points: the
            sphere of an input with one dimension is two points, and no gradient leads from one to
            the other.
        bounds: Lowest and highest value of an input, or `None`.
        random_start: Whether to start at a random perturbation, or at the input itself.
        combine_gradients: Makes one gradient of all goals' gradients.
    """

    norm: str
    steps: Any
    step_size: Any | None
    exact: bool
    restarts: Any
    bounds: tuple[float, float] | None
    random_start: bool
    combine_gradients: CombineGradients


class AllowedRegion(NamedTuple):
    """The region where adversarial examples of some inputs are allowed.

    Attributes:
        depth: Maps inputs `[N, ...]` to `[N]` numbers, the larger the nearer they are to being
            allowed, with a gradient: the goal that ranks above the attack's own.
        move: Maps perturbations to ones that end nearer to the region, those that end inside as
            they are; it alternates with the projection. `None`: gradients alone lead there.
        holds: Maps inputs to `[N]` bool: which are allowed. `None` if that is not known.
    """

    depth: Goal
    move: Callable[[tf.Tensor], tf.Tensor] | None = None
    holds: Callable[[tf.Tensor], tf.Tensor] | None = None


# Most rounds of moving a perturbation into the allowed region, and projecting it back.
_ROUNDS = 3


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
    higher, lower = (balls.steepest_direction(g, "l2") for g in gradients)
    axes = list(range(1, higher.shape.rank))
    inner = tf.reduce_sum(higher * lower, axis=axes, keepdims=True)
    projected = lower - tf.minimum(inner, 0.0) * higher
    return higher + balls.steepest_direction(projected, "l2")


def averaged(goal: Goal, draws: int) -> Goal:
    """The mean of a random goal over several draws.

    Args:
        goal: What to raise.
        draws: Number of draws, at least 1.

    Returns:
        A goal, whose gradient is the mean of the draws' gradients.

    Reference:
        Expectation over transformation: Athalye et al., arXiv 1802.00420.
    """
    if draws == 1:
        return goal

    def mean(inputs: tf.Tensor) -> tf.Tensor:
        drawn = tf.TensorSpec([None], wide(inputs.dtype))
        values = tf.map_fn(
            lambda _: tf.cast(goal(inputs), drawn.dtype),
            tf.range(draws),
            fn_output_signature=drawn,
        )
        return tf.reduce_mean(values, axis=0)

    return mean


def gradient_ascent(
    goal: Goal,
    x: tf.Tensor,
    magnitude: tf.Tensor,
    seed: tf.Tensor,
    settings: AscentSettings,
    initial_perturbation: tf.Tensor | None = None,
    is_adversarial: Callable[[tf.Tensor], tf.Tensor] | None = None,
    region: AllowedRegion | None = None,
) -> tf.Tensor:
    """Maximizes a goal by projected gradient ascent, and keeps the best point.

    If adversarial examples are not allowed everywhere, being allowed is a goal that ranks above.

    Args:
        goal: What to raise.
        x: `[N, ...]` inputs.
        magnitude: `[N]` norms.
        seed: `[2]` integer tensor.
        settings: How to raise it.
        initial_perturbation: Perturbations that the first pair of restarts begins with, shaped like
            `x`, or `None`. A sample whose row is 0 begins as it does without.
        is_adversarial: Maps inputs to `[N]` bool: which samples are finished. They are left alone
            from then on, and the loop ends when all are. `None`: none ever is.
        region: Where adversarial examples are allowed; `None`: everywhere.

    Returns:
        The perturbed inputs, shaped like `x`.
    """
    norm, steps, step_size, exact, restarts, bounds, random_start, combine_gradients = settings
    goals = [goal] if region is None else [region.depth, goal]
    magnitude = of_dtype(magnitude, x.dtype)
    box = balls.box_around(x, bounds)
    to_norm = balls.project_sphere if exact else balls.project_ball
    initial_perturbation = (
        None if initial_perturbation is None else tf.cast(initial_perturbation, x.dtype)
    )
    # The lowest number, and not minus infinity, which `enable_check_numerics` would report.
    lowest = tf.constant(wide(x.dtype).min, wide(x.dtype))
    lowest_values = [tf.fill(tf.shape(magnitude), lowest) for _ in goals]

    def project(perturbation: tf.Tensor, radius: tf.Tensor = magnitude) -> tf.Tensor:
        projected = to_norm(perturbation, radius, norm, box)[0]
        move = None if region is None else region.move
        if move is None:
            return projected

        def alternate(number: tf.Tensor, old: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, ...]:
            moved = move(old)
            changed = tf.reduce_any(moved != old)
            return number + 1, to_norm(moved, radius, norm, box)[0], changed

        state = tf.constant(0), projected, tf.constant(True)
        return tf.while_loop(lambda number, _, on: on & (number < _ROUNDS), alternate, state)[1]

    def perturbed(perturbation: tf.Tensor) -> tf.Tensor:
        # Adding rounds: the box is kept to the last bit all the same.
        shifted = x + perturbation
        return shifted if bounds is None else tf.clip_by_value(shifted, *bounds)

    def follow(inputs: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
        values, gradients = _differentiate(goals, inputs)
        return values, combine_gradients(inputs, gradients)

    def is_given(index: tf.Tensor) -> tf.Tensor:
        if initial_perturbation is None:
            return tf.zeros_like(magnitude, tf.bool)
        return _any(initial_perturbation) & (index < 2)

    def start(index: tf.Tensor) -> tf.Tensor:
        side = tf.cast(1 - 2 * (index % 2), x.dtype)
        if random_start:
            pair = tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int32), index // 2)
            drawn = side * balls.random_perturbation(x, magnitude, norm, pair, surface=True)
            if not exact:
                # Cut off by the box, it would start deep inside the ball, and starts be more alike.
                drawn = balls.project_sphere(drawn, magnitude, norm, box)[0]
        else:
            drawn = tf.zeros_like(x)
        if initial_perturbation is not None:
            drawn = choose(is_given(index), side * initial_perturbation, drawn)
        # The input itself is no answer where the norm must be exact, but may be a start.
        return choose(_any(drawn), project(drawn), drawn)

    # The steps of a search for a better start, in each of two balls.
    searches = norm == "l1" and step_size is None and random_start and region is None
    searched: Any = larger_balls.steps_in_each(steps) if searches else 0
    left_steps = steps - 2 * searched

    def searched_start(index: tf.Tensor) -> tf.Tensor:
        given, begun = is_given(index), start(index)
        # The other one of a pair begins far out, where gradients are not those at the input.
        own = tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int32), index)
        far = tf.sign(begun) * tf.abs(tf.random.stateless_normal(tf.shape(x), own, dtype=x.dtype))
        begun = choose((index % 2 == 1) & ~given, far, begun)
        found = larger_balls.search_larger_balls(
            lambda perturbation: follow(perturbed(perturbation)),
            project,
            begun,
            magnitude,
            given,
            searched,
            lowest_values,
            box,
        )
        return project(found)

    def better_start(index: tf.Tensor) -> tf.Tensor:
        if not searches:
            return start(index)
        return tf.cond(searched > 0, lambda: searched_start(index), lambda: start(index))

    def first_step_size(index: tf.Tensor) -> tf.Tensor:
        if step_size is not None:
            return of_dtype(step_size, x.dtype) * tf.ones_like(magnitude)
        # From anywhere at first across the ball, from a start that is known to be good half as far.
        return tf.where(is_given(index) | (searched > 0), magnitude, 2.0 * magnitude)

    def is_answer(perturbation: tf.Tensor) -> tf.Tensor:
        return _any(perturbation) | (magnitude == 0) if exact else tf.ones_like(magnitude, tf.bool)

    def is_finished(inputs: tf.Tensor) -> tf.Tensor:
        return (
            tf.zeros_like(magnitude, tf.bool) if is_adversarial is None else is_adversarial(inputs)
        )

    def visit(
        perturbation: tf.Tensor, best: _Best, values: Any, gradient: Any, inputs: Any
    ) -> _Best:
        """The better of a point and the best one so far; finished samples keep theirs."""
        counts = is_answer(perturbation)
        # Not-a-number is kept: what reaches it has won.
        kept = [counts & ((value >= lowest) | tf.math.is_nan(value)) for value in values]
        values = [tf.where(keep, value, lowest) for keep, value in zip(kept, values, strict=True)]
        done = counts & is_finished(inputs)
        better = (done | is_better(values, best.values, ties=True)) & ~best.done
        return choose(better, _Best(perturbation, values, gradient, done), best)

    def step(
        number: tf.Tensor,
        perturbation: tf.Tensor,
        best: _Best,
        last_values: list[tf.Tensor],
        sizes: StepSizeState,
    ) -> tuple[Any, ...]:
        inputs = perturbed(perturbation)
        values, gradient = follow(inputs)
        best = visit(perturbation, best, values, gradient, inputs)
        if step_size is None:
            rose = is_better(values, last_values, ties=True) & (number > 0)
            sizes, back = adapt_step_size(sizes, number, left_steps, rose, best.values)
            perturbation = choose(back, best.perturbation, perturbation)
            gradient = choose(back, best.gradient, gradient)
            values = choose(back, best.values, list(values))
        left = None if box is None else (box[0] - perturbation, box[1] - perturbation)
        direction = balls.steepest_direction(gradient, norm, left)
        stepped = perturbation + spread(sizes.length, x) * direction
        perturbation = choose(best.done, perturbation, project(stepped))
        return number + 1, perturbation, best, list(values), sizes

    def restart(index: tf.Tensor, best: _Best) -> tuple[tf.Tensor, _Best]:
        perturbation = better_start(index)
        own = _Best(perturbation, lowest_values, tf.zeros_like(x), best.done)
        sizes = initial_step_size_state(first_step_size(index), left_steps, lowest_values)
        state = (tf.constant(0), perturbation, own, lowest_values, sizes)
        _, perturbation, own, *_ = tf.while_loop(
            lambda number, _, own, *rest: (number < left_steps) & ~tf.reduce_all(own.done),
            step,
            state,
        )
        inputs = perturbed(perturbation)
        values = [tf.cast(goal(inputs), wide(inputs.dtype)) for goal in goals]
        own = visit(perturbation, own, values, own.gradient, inputs)
        better = (own.done | is_better(own.values, best.values, ties=True)) & ~best.done
        return index + 1, choose(better, own, best)

    worst = _Best(
        tf.zeros_like(x), lowest_values, tf.zeros_like(x), tf.zeros_like(magnitude, tf.bool)
    )
    _, best = tf.while_loop(
        lambda index, best: (index < restarts) & ~tf.reduce_all(best.done),
        restart,
        (tf.constant(0), worst),
    )
    x_adv = perturbed(best.perturbation)
    if region is not None and region.holds is not None and not exact:
        x_adv = choose(region.holds(x_adv), x_adv, x)  # An input is in its own region.
    return x_adv


class _Best(NamedTuple):
    """The best point of each sample so far."""

    perturbation: tf.Tensor
    values: list[tf.Tensor]
    gradient: tf.Tensor
    done: tf.Tensor


def _differentiate(goals: Sequence[Goal], x: tf.Tensor) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Each goal's values `[N]`, and its gradient, shaped like `x`."""
    # One tape for all: goals may share a pass of the classifier.
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(x)
        values = [goal(x) for goal in goals]
    zero = tf.UnconnectedGradients.ZERO
    above = [tape.gradient(value, x, unconnected_gradients=zero) for value in values[:-1]]
    gradients = [*above, gradient_by(x, tape, values[-1])]  # The last goal is the classifier's.
    return [tf.cast(value, wide(x.dtype)) for value in values], gradients


def _any(tensor: tf.Tensor) -> tf.Tensor:
    """`[N]` bool: whether a row has an entry that is not 0."""
    return tf.reduce_any(tensor != 0, axis=list(range(1, tensor.shape.rank)))
