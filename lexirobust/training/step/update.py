"""From the ranks' gradients to the weights: metric, projection, optimizer, correction."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import ml_dtypes
import tensorflow as tf

from lexirobust import gem
from lexirobust.graphs import compiled
from lexirobust.keras_internals import clipped, places_in
from lexirobust.training.step.gradients import RankedGradients
from lexirobust.training.step.objective_losses import Gradient
from lexirobust.training.step.preconditioners import Diagonals, preconditioner


class RankTargets(NamedTuple):
    """What targets ask of one step.

    Attributes:
        bounds: `[T]` float64: how fast each rank is to descend at least, as of `gem.solve_dual`.
        directions: `[T]` float64: in which direction the step goes at least, as of `gem.onestep`.
        estimates: `[T]` loss or error rate of each rank; 0 without a target.
        kept: `[T]` float64: the share of its weight that each rank keeps from those below it.
    """

    bounds: tf.Tensor
    directions: tf.Tensor
    estimates: tf.Tensor
    kept: tf.Tensor


class StepResult(NamedTuple):
    """The result of a training step.

    Attributes:
        onestep: What the projection reports.
        step_cosines: `[known]` float64 cosines between the step that reached the weights and the
            descent direction of each gradient that is at hand, the first rank's first.
        batch_cosines: `[T, T]` float64 Euclidean cosines between the gradients on the batch, where
            ranks are compared by other ones; otherwise `None`.
        targets: What targets asked of the step; `None` without targets.
    """

    onestep: gem.Onestep
    step_cosines: tf.Tensor
    batch_cosines: tf.Tensor | None = None
    targets: RankTargets | None = None


def apply_update(
    optimizer: keras.optimizers.Optimizer,
    variables: Sequence[keras.Variable],
    gradients: RankedGradients,
    alphas: Sequence[float] | tf.Tensor,
    share: float,
    margin: float,
    in_metric: bool,
    first_loss: Callable[[], tf.Tensor] | None,
    bounds: tf.Tensor | None = None,
    directions: tf.Tensor | None = None,
) -> StepResult:
    """Takes one ranked step through a Keras optimizer.

    In the optimizer's metric, the Gramian is weighed by the preconditioner that the optimizer is
    about to apply. What a diagonal does not know of (momentum, weight decay, clipping) may still
    turn the step against rank 1: then the weights are moved by the smallest correction in that
    metric after which rank 1's loss does not rise to first order. Where ranks are compared by their
    means, rank 1's gradient is its mean, here and below.

    Args:
        optimizer: Built Keras optimizer, maybe wrapped for loss scaling.
        variables: What it was built on.
        gradients: The ranks' gradients, summed over replicas, unscaled.
        alphas: `[T]` weights of the ranks, summing to 1.
        share: What the update is multiplied by before the optimizer sees it.
        margin: Lower bound of the multipliers.
        in_metric: Whether to rank, and correct, in the optimizer's metric. Otherwise the
            projection is Euclidean, and the optimizer makes of it what it will.
        first_loss: Computes rank 1's loss at the present weights, summed over replicas. A step in
            the optimizer's metric is checked by it, shortened where the loss has risen, and not
            taken where that is not enough. `None`: it is not checked.
        bounds: `[T]` how fast each rank is to descend at least, as of `gem.solve_dual`; the step
            that reaches the weights is held to rank 1's. `None`: no rank is to rise.
        directions: `[T]` in which direction it goes at least, as of `gem.onestep`, in the
            optimizer's metric. One without a metric takes steps as long as its updates: a rank
            then descends as fast as it would alone by its bound.

    Returns:
        What the step did.
    """
    metric = None
    if in_metric:
        metric = _metric(optimizer, variables, gradients, alphas, share, margin, bounds, directions)
    if metric is None:
        directions = None
    onestep = gem.onestep(gradients.gramian(metric), alphas, margin, bounds, directions)
    before = _values(variables)
    update = gradients.combined(share * onestep.weights)
    _apply(optimizer, variables, update)
    if in_metric:
        descent = _Descent(gradients.first, metric, onestep.gramian[0, 0])
        most = tf.zeros([], tf.float64)
        if bounds is not None:
            most = -_step_size(variables, before, update, metric) * bounds[0] * descent.steepness
        slope = _correct(variables, before, descent, most)
        if first_loss is not None:
            rise = tf.cast(first_loss() - gradients.first_loss, tf.float64)
            _shorten(variables, before, descent, slope, rise)
            # What half a step does not mend is not taken.
            again = _where_risen(rise, first_loss, gradients.first_loss)
            kept = tf.where(again > gradients.first_loss, 0.0, 1.0)
            _move(variables, before, kept, descent, tf.zeros([], tf.float64))
    return StepResult(onestep, _descents(_values(variables), before, gradients.known()))


def _where_risen(rise: tf.Tensor, loss: Callable[[], tf.Tensor], before: tf.Tensor) -> tf.Tensor:
    """A loss computed again where it has risen; where it has not, what it was before."""
    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        return loss()  # It sums over replicas, which cannot depend on a condition.
    return tf.cond(rise > 0, loss, lambda: before)


class _Descent(NamedTuple):
    """Rank 1's gradient and metric, and how steep the way down is: `<g, metric * g>`."""

    gradient: Gradient
    metric: Diagonals | None
    steepness: tf.Tensor


def _metric(
    optimizer: keras.optimizers.Optimizer,
    variables: Sequence[keras.Variable],
    gradients: RankedGradients,
    alphas: Sequence[float] | tf.Tensor,
    share: float,
    margin: float,
    bounds: tf.Tensor | None,
    directions: tf.Tensor | None,
) -> Diagonals | None:
    """The preconditioner of this very step, which depends on the update that it decides.

    It is found by one round of substitution: ranked as if no rank conflicted, the update gives a
    metric; ranked in that metric, it gives one that is close to the one that will be applied.
    """
    innermost = getattr(optimizer, "inner_optimizer", optimizer)
    of_all = preconditioner(innermost)
    if of_all is None:
        return None
    places, number = places_in(innermost, variables)

    def metric_of(gradient: Gradient) -> Diagonals:
        # The optimizer may have been built on more: some were frozen since.
        spread: Gradient = [None] * number
        for place, part in zip(places, gradient, strict=True):
            spread[place] = part
        diagonals = of_all(spread)
        return [diagonals[place] for place in places]

    metric = metric_of(gradients.combined(share * tf.convert_to_tensor(alphas, tf.float64)))
    weights = gem.onestep_weights(gradients.gramian(metric), alphas, margin, bounds, directions)
    return metric_of(gradients.combined(share * weights))


def _apply(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable], update: Gradient
) -> None:
    """Hands the optimizer what it expects: scaled, and to be summed over replicas."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if replicas > 1:
        # Each replica's part would be clipped by itself; of what is clipped already none is.
        innermost = getattr(optimizer, "inner_optimizer", optimizer)
        # What is not finite stays so: a clipped value would hide it from loss scaling.
        update = [
            g if c is g else tf.where(tf.math.is_finite(g), c, g)
            for g, c in zip(update, clipped(innermost, update), strict=True)
        ]
    scale = optimizer.scale_loss(1.0) / replicas
    optimizer.apply([None if g is None else g * scale for g in update], variables)


def _values(variables: Sequence[keras.Variable]) -> list[tf.Tensor]:
    """The present values, as tensors: a variable that is mirrored differs between replicas."""
    return [tf.convert_to_tensor(variable.value) for variable in variables]


def _descents(
    after: Sequence[tf.Tensor], before: Sequence[tf.Tensor], gradients: Sequence[Gradient]
) -> tf.Tensor:
    """`[len(gradients)]` float64 cosines between a step and the way down of each gradient."""
    step = _difference(after, before)
    inner = gem.inner_products([step], [step, *gradients])[0]
    squares = [gem.inner_products([gradient], [gradient])[0, 0] for gradient in gradients]
    cosines = tf.math.divide_no_nan(inner[1:], tf.sqrt(tf.stack(squares)))
    return -tf.math.divide_no_nan(cosines, tf.sqrt(inner[0]))


# Compiled, here and below: one pass over the variables. Products of what a pass makes are taken
# outside of it: inside, each of them would make it anew, and more slowly.
@compiled
def _difference(after: Sequence[tf.Tensor], before: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The change of the variables."""
    return [new - old for new, old in zip(after, before, strict=True)]


def _step_size(
    variables: Sequence[keras.Variable],
    before: Sequence[tf.Tensor],
    update: Gradient,
    metric: Diagonals | None,
) -> tf.Tensor:
    """Scalar float64: how often the optimizer's step is as long as its update in the metric."""
    step, update = _scaled(_values(variables), before, update, metric)
    squares = [gem.inner_products([part], [part])[0, 0] for part in (step, update)]
    return tf.sqrt(tf.math.divide_no_nan(*squares))


@compiled
def _scaled(
    after: Sequence[tf.Tensor],
    before: Sequence[tf.Tensor],
    update: Gradient,
    metric: Diagonals | None,
) -> tuple[list[tf.Tensor], Gradient]:
    """A step and an update whose Euclidean lengths are those of both in the metric."""
    step = _difference(after, before)
    if metric is None:
        return step, update
    roots = [tf.sqrt(diagonal) for diagonal in metric]
    return (
        [s / tf.cast(root, s.dtype) for s, root in zip(step, roots, strict=True)],
        [
            u if u is None else u * tf.cast(root, u.dtype)
            for u, root in zip(update, roots, strict=True)
        ],
    )


def _correct(
    variables: Sequence[keras.Variable],
    before: Sequence[tf.Tensor],
    descent: _Descent,
    most: tf.Tensor,
) -> tf.Tensor:
    """Takes out of a step what raises rank 1's loss by more than `most` to first order.

    Returns:
        Scalar float64: by how much that loss changes to first order.
    """
    slope, rounding = _slope(_values(variables), before, descent.gradient)
    excess = tf.where(slope > most, slope - most + rounding, 0.0)
    _move(variables, before, 1.0, descent, excess)
    return slope - excess


def _slope(
    after: Sequence[tf.Tensor], before: Sequence[tf.Tensor], gradient: Gradient
) -> tuple[tf.Tensor, tf.Tensor]:
    """A step's inner product with a gradient, and the most that rounding of weights adds to it."""
    step, rounding, steep = _sizes(after, before, gradient)
    return (
        gem.inner_products([step], [gradient])[0, 0],
        gem.inner_products([rounding], [steep])[0, 0],
    )


@compiled
def _sizes(
    after: Sequence[tf.Tensor], before: Sequence[tf.Tensor], gradient: Gradient
) -> tuple[list[tf.Tensor], list[tf.Tensor], Gradient]:
    """A step, the most by which rounding moves each weight, and the size of a gradient."""
    rounding = [float(ml_dtypes.finfo(v.dtype.as_numpy_dtype).eps) * tf.abs(v) for v in after]
    steep = [None if g is None else tf.abs(g) for g in gradient]
    return _difference(after, before), rounding, steep


def _shorten(
    variables: Sequence[keras.Variable],
    before: Sequence[tf.Tensor],
    descent: _Descent,
    slope: tf.Tensor,
    rise: tf.Tensor,
) -> None:
    """Mends a step after which rank 1's loss is higher, to second order.

    Where it has risen by `rise`, the parabola through both losses tells the curvature along the
    step. Half the step feels a quarter of it; twice what is left of the rise is taken back by a
    descent of rank 1, no longer than the half step.
    """
    curvature = rise - slope
    left = tf.maximum(0.5 * slope + 0.25 * curvature, 0.0)
    step = _difference(_values(variables), before)
    reciprocal = None if descent.metric is None else [1.0 / d for d in descent.metric]
    length = tf.sqrt(gem.gramian([step], reciprocal)[0, 0])
    bound = 0.5 * length * tf.sqrt(descent.steepness)
    fall = tf.where(rise > 0, tf.minimum(2.0 * left, bound), 0.0)
    _move(variables, before, tf.where(rise > 0, 0.5, 1.0), descent, fall)


def _move(
    variables: Sequence[keras.Variable],
    before: Sequence[tf.Tensor],
    kept: tf.Tensor | float,
    descent: _Descent,
    fall: tf.Tensor,
) -> None:
    """Keeps a part of a step, and moves down until rank 1's loss falls by `fall` to first order.

    Of all ways down it is the shortest in the metric. Where nothing is to be done, nothing that
    is not finite is written: a step that loss scaling has skipped stays skipped.
    """
    amount = tf.where(fall > 0, tf.math.divide_no_nan(fall, descent.steepness), 0.0)
    values = _new_values(_values(variables), before, kept, descent.gradient, descent.metric, amount)
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
        if variable.constraint is not None:
            variable.assign(variable.constraint(variable))


@compiled
def _new_values(
    after: Sequence[tf.Tensor],
    before: Sequence[tf.Tensor],
    kept: tf.Tensor,
    gradient: Gradient,
    metric: Diagonals | None,
    amount: tf.Tensor,
) -> list[tf.Tensor]:
    """A part of a step, less a multiple of `metric * gradient`."""
    values = []
    for new, old, g, diagonal in zip(
        after, before, gradient, metric or [1.0] * len(after), strict=True
    ):
        # Exactly where it was, or is, at both ends: a step that is not taken leaves no rounding.
        there = tf.where(kept < 1, old + tf.cast(kept, old.dtype) * (new - old), new)
        if g is not None:
            there -= tf.math.multiply_no_nan(diagonal * g, tf.cast(amount, g.dtype))
        values.append(there)
    return values
