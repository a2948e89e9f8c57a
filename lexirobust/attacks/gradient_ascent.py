"""Projected gradient ascent with adaptive step sizes and restarts, the loop of gradient attacks."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import tensorflow as tf

from lexirobust.geometry import balls
from lexirobust.tensors import of_dtype, wide

Goal: TypeAlias = Callable[[tf.Tensor], tf.Tensor]
"""Maps inputs `[N, ...]` to what is to be raised, `[N]`."""

CombineGradients: TypeAlias = Callable[[tf.Tensor, Sequence[tf.Tensor]], tf.Tensor]
"""Maps the perturbed inputs `[N, ...]` and each goal's gradient there to the one gradient that is
followed, all shaped like the inputs."""

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


def gradient_ascent(
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
    combine_gradients: CombineGradients = ranked,
    initial_perturbation: tf.Tensor | None = None,
    is_adversarial: Callable[[tf.Tensor], tf.Tensor] | None = None,
    move_into_region: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
) -> tf.Tensor:
    """Maximizes one or two ranked goals by projected gradient ascent, and keeps the best point.

    Restarts come in pairs that start at opposite points: the sphere of an input with one
    dimension is two points, and no gradient leads from one to the other.

    Args:
        goals: What to raise: one goal, or two with the more important first.
        x: `[N, ...]` inputs.
        magnitude: `[N]` norms.
        seed: `[2]` integer tensor.
        norm: `"l1"`, `"l2"` or `"linf"`.
        steps: Number of gradient steps, scalar.
        step_size: Size of a step; `None` adapts it to each sample.
        exact: Whether the norm is the magnitude, or at most the magnitude.
        restarts: Number of starts, scalar.
        bounds: Lowest and highest value of an input, or `None`.
        random_start: Whether to start at a random perturbation, or at the input itself.
        combine_gradients: Makes one gradient of all goals' gradients.
        initial_perturbation: Perturbations that the first pair of restarts begins with, shaped like
            `x`, or `None`. A sample whose row is 0 begins as it does without.
        is_adversarial: Maps inputs to `[N]` bool: which samples are finished. They are left alone
            from then on, and the loop ends when all are. `None`: none ever is.
        move_into_region: Maps inputs, perturbations and magnitudes to perturbations that end nearer
            to the region where adversarial examples are allowed; those that end inside stay as they
            are. It alternates with the projection. `None`: they are allowed everywhere.

    Returns:
        The perturbed inputs, shaped like `x`.
    """
    magnitude = of_dtype(magnitude, x.dtype)
    box = balls.box_around(x, bounds)
    to_norm = balls.project_sphere if exact else balls.project_ball
    initial_perturbation = (
        None if initial_perturbation is None else tf.cast(initial_perturbation, x.dtype)
    )
    # The lowest number, and not minus infinity, which `enable_check_numerics` would report.
    lowest = tf.constant(wide(x.dtype).min, wide(x.dtype))
    nowhere = [tf.fill(tf.shape(magnitude), lowest) for _ in goals]

    def project(perturbation: tf.Tensor) -> tf.Tensor:
        here = to_norm(perturbation, magnitude, norm, box)[0]
        if move_into_region is None:
            return here

        def lead(number: tf.Tensor, here: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, ...]:
            out = move_into_region(x, here, magnitude)
            changed = tf.reduce_any(out != here)
            return number + 1, to_norm(out, magnitude, norm, box)[0], changed

        start = tf.constant(0), here, tf.constant(True)
        return tf.while_loop(lambda number, _, on: on & (number < _ROUNDS), lead, start)[1]

    def perturbed(perturbation: tf.Tensor) -> tf.Tensor:
        # Adding rounds: the box is kept to the last bit all the same.
        shifted = x + perturbation
        return shifted if bounds is None else tf.clip_by_value(shifted, *bounds)

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
            drawn = choose(
                _any(initial_perturbation) & (index < 2), side * initial_perturbation, drawn
            )
        # The input itself is no answer where the norm must be exact, but may be a start.
        return choose(_any(drawn), project(drawn), drawn)

    def first_step_size(index: tf.Tensor) -> tf.Tensor:
        if step_size is not None:
            return of_dtype(step_size, x.dtype) * tf.ones_like(magnitude)
        # From anywhere at first across the ball, from a start that was given half as far.
        known = False if initial_perturbation is None else _any(initial_perturbation) & (index < 2)
        return tf.where(known, magnitude, 2.0 * magnitude)

    def is_answer(perturbation: tf.Tensor) -> tf.Tensor:
        return _any(perturbation) | (magnitude == 0) if exact else tf.ones_like(magnitude, tf.bool)

    def is_finished(inputs: tf.Tensor) -> tf.Tensor:
        return (
            tf.zeros_like(magnitude, tf.bool) if is_adversarial is None else is_adversarial(inputs)
        )

    def visit(here: tf.Tensor, best: _Best, values: Any, gradient: Any, inputs: Any) -> _Best:
        """The better of a point and the best one so far; finished samples keep theirs."""
        counts = is_answer(here)
        # Not-a-number is kept: what reaches it has won.
        kept = [counts & ((value >= lowest) | tf.math.is_nan(value)) for value in values]
        values = [tf.where(keep, value, lowest) for keep, value in zip(kept, values, strict=True)]
        done = counts & is_finished(inputs)
        better = (done | _is_better(values, best.values, ties=True)) & ~best.done
        return choose(better, _Best(here, values, gradient, done), best)

    def step(
        number: tf.Tensor,
        here: tf.Tensor,
        best: _Best,
        last_values: list[tf.Tensor],
        sizes: StepSizeState,
    ) -> tuple[Any, ...]:
        inputs = perturbed(here)
        values, gradients = _differentiate(goals, inputs)
        gradient = combine_gradients(inputs, gradients)
        best = visit(here, best, values, gradient, inputs)
        if step_size is None:
            rose = _is_better(values, last_values, ties=True) & (number > 0)
            sizes, back = adapt_step_size(sizes, number, steps, rose, best.values)
            here = choose(back, best.perturbation, here)
            gradient = choose(back, best.gradient, gradient)
            values = choose(back, best.values, list(values))
        left = None if box is None else (box[0] - here, box[1] - here)
        direction = balls.steepest_direction(gradient, norm, left)
        onward = here + _spread(sizes.length, x) * direction
        here = choose(best.done, here, project(onward))
        return number + 1, here, best, list(values), sizes

    def restart(index: tf.Tensor, best: _Best) -> tuple[tf.Tensor, _Best]:
        here = start(index)
        own = _Best(here, nowhere, tf.zeros_like(x), best.done)
        sizes = initial_step_size_state(first_step_size(index), steps, nowhere)
        state = (tf.constant(0), here, own, nowhere, sizes)
        _, here, own, *_ = tf.while_loop(
            lambda number, _here, own, *_: (number < steps) & ~tf.reduce_all(own.done), step, state
        )
        inputs = perturbed(here)
        values = [tf.cast(goal(inputs), wide(inputs.dtype)) for goal in goals]
        own = visit(here, own, values, own.gradient, inputs)
        better = (own.done | _is_better(own.values, best.values, ties=True)) & ~best.done
        return index + 1, choose(better, own, best)

    worst = _Best(tf.zeros_like(x), nowhere, tf.zeros_like(x), tf.zeros_like(magnitude, tf.bool))
    _, best = tf.while_loop(
        lambda index, best: (index < restarts) & ~tf.reduce_all(best.done),
        restart,
        (tf.constant(0), worst),
    )
    return perturbed(best.perturbation)


class _Best(NamedTuple):
    """The best point of each sample so far."""

    perturbation: tf.Tensor
    values: list[tf.Tensor]
    gradient: tf.Tensor
    done: tf.Tensor


class StepSizeState(NamedTuple):
    """The step size of each sample, and what it is adapted by at the next checkpoint."""

    length: tf.Tensor
    rises: tf.Tensor
    before: list[tf.Tensor]
    halved: tf.Tensor
    gap: tf.Tensor
    checkpoint: tf.Tensor


def initial_step_size_state(
    length: tf.Tensor, steps: Any, nowhere: list[tf.Tensor]
) -> StepSizeState:
    """The step sizes before the first step.

    Args:
        length: `[N]` sizes of the first step.
        steps: Number of steps, scalar.
        nowhere: Values of the goals, `[N]` each, that any point exceeds.

    Returns:
        The state that `adapt_step_size` changes.
    """
    none = tf.zeros_like(length, tf.int32)
    gap = _share(steps, 0.22)
    return StepSizeState(length, none, nowhere, tf.ones_like(none, tf.bool), gap, gap)


def adapt_step_size(
    sizes: StepSizeState, number: tf.Tensor, steps: Any, rose: tf.Tensor, best: list[tf.Tensor]
) -> tuple[StepSizeState, tf.Tensor]:
    """Halves the step size of samples that have stalled, and doubles that of those that only rise.

    As in APGD (arXiv 2003.01690), a sample has stalled if fewer than three quarters of its steps
    since the last checkpoint rose, or if its best value is what it was there, at the same step
    size. Doubling is what brings a linear goal to its exact end, for l1 above all.

    Args:
        sizes: The step sizes so far.
        number: How many steps were made, scalar.
        steps: How many there are, scalar.
        rose: `[N]` bool: whether the last step did not lower the goals.
        best: The best point's values, `[N]` each.

    Returns:
        The step sizes from here on, and `[N]` bool: which samples go back to their best point.
    """
    at = number >= sizes.checkpoint
    rises = sizes.rises + tf.cast(rose, tf.int32)
    few = 4 * rises < 3 * sizes.gap
    stuck = ~sizes.halved & ~_is_better(best, sizes.before)
    stalled = at & (few | stuck)
    growing = at & ~stalled & (rises >= tf.maximum(sizes.gap, 4))
    factor = tf.where(stalled, 0.5, tf.where(growing, 2.0, 1.0))
    gap = tf.maximum(sizes.gap - _share(steps, 0.03), _share(steps, 0.06))
    gap = tf.where(at, gap, sizes.gap)
    judged = StepSizeState(
        sizes.length * tf.cast(factor, sizes.length.dtype),
        tf.where(at, 0, rises),
        [tf.where(at, new, old) for new, old in zip(best, sizes.before, strict=True)],
        tf.where(at, stalled, sizes.halved),
        gap,
        tf.where(at, number + gap, sizes.checkpoint),
    )
    return judged, stalled


def _share(steps: Any, share: float) -> tf.Tensor:
    """A share of the steps, at least one."""
    return tf.maximum(tf.cast(share * tf.cast(steps, tf.float32), tf.int32), 1)


def _differentiate(goals: Sequence[Goal], x: tf.Tensor) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Each goal's values `[N]`, and its gradient, shaped like `x`."""
    # One tape for all: goals may share a pass of the classifier.
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(x)
        values = [goal(x) for goal in goals]
    zero = tf.UnconnectedGradients.ZERO
    gradients = [tape.gradient(value, x, unconnected_gradients=zero) for value in values]
    for gradient in gradients:
        gradient.set_shape(x.shape)  # `tf.py_function` does not know it.
    return [tf.cast(value, wide(x.dtype)) for value in values], gradients


def _is_better(
    values: Sequence[tf.Tensor], best: Sequence[tf.Tensor], ties: bool = False
) -> tf.Tensor:
    """`[N]` bool: lexicographically above; not-a-number counts, so that it is not hidden.

    Where values round to the same, the later point is as good, and farther along: `ties`.
    """
    better = tf.zeros_like(values[0], tf.bool)
    equal = tf.ones_like(better)
    for value, old in zip(values, best, strict=True):
        better |= equal & ((value > old) | tf.math.is_nan(value))
        equal &= value == old
    return better | equal if ties else better


def _any(tensor: tf.Tensor) -> tf.Tensor:
    """`[N]` bool: whether a row has an entry that is not 0."""
    return tf.reduce_any(tensor != 0, axis=list(range(1, tensor.shape.rank)))


def _spread(per_sample: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """`[N]` as `[N, 1, ...]`, of the rank of another tensor."""
    return tf.reshape(per_sample, [-1] + [1] * (like.shape.rank - 1))


def choose(condition: tf.Tensor, yes: Any, no: Any) -> Any:
    """Chooses sample by sample.

    Args:
        condition: `[N]` bool tensor.
        yes: Tensor `[N, ...]`, or a structure of them, taken where the condition holds.
        no: The same, taken where it does not.

    Returns:
        As `yes`.
    """
    return tf.nest.map_structure(
        lambda one, other: tf.where(_spread(condition, one), one, other), yes, no
    )
