"""HopSkipJump: along a boundary whose direction is estimated from decisions."""

from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf

from lexirobust.attacks.minimum_norm.base import (
    TOLERANCE,
    SearchProblem,
    SearchResult,
    binary_search,
    decide,
)
from lexirobust.attacks.minimum_norm.decisions import DecisionAttack
from lexirobust.checks import check_count
from lexirobust.geometry import balls
from lexirobust.tensors import choose, spread

# Most halvings of a step that does not end on the far side.
_SHORTEST: Final = 20


@keras.saving.register_keras_serializable(package="lexirobust")
class HopSkipJump(DecisionAttack):
    """Decisions alone: estimates which way the boundary faces, steps over it and comes back.

    It asks for classes, never for logits or gradients. Each step asks on which side random points
    around the boundary point are, in rounds of `gradient_queries`, the more the later: as many
    rounds as the root of the step's number. It moves by a length that is halved until the point is
    misclassified, and goes back by binary search: for l2 along the segment to the clean input, for
    linf within the ball around it to which the point is clipped. Points that are not nearer are
    dropped.

    Between several classes there are boundaries that are the nearest only around: `restarts` helps.
    A batch of N samples is asked for as N times `gradient_queries` inputs at once; `batch_size`
    limits that.

    Args:
        norm: Norm of distances: `"l2"` or `"linf"`.
        steps: Number of steps.
        gradient_queries: Number of queries in a round.
        restarts: Number of starts: each at the nearest other sample of the batch that is classified
            otherwise, and as no start before it, or where there is none at noise.
        tries: Most queries for a start of noise.
        bounds: Lowest and highest value of an input, or `None`.
        seed: Integer seed of starts and gradient queries.

    Raises:
        ValueError: If a setting is not one of those above.

    Example: the boundary of a linear classifier is at distance 0.5.

    >>> classifier = lambda x: x @ tf.constant([[0.6, -0.6], [0.8, -0.8]])
    >>> attack = HopSkipJump(steps=10, bounds=None, seed=0)
    >>> found = attack(classifier, tf.constant([[0.3, 0.4]]), tf.constant([0]))
    >>> print(found.distances.numpy().round(1), found.success.numpy())
    [0.5] [ True]

    Reference:
        Chen et al., arXiv 1904.02144.
    """

    def __init__(
        self,
        norm: str = "l2",
        steps: int = 40,
        gradient_queries: int = 100,
        restarts: int = 1,
        tries: int = 30,
        bounds: tuple[float, float] | None = (0.0, 1.0),
        seed: int | None = None,
    ) -> None:
        super().__init__(norm, restarts, tries, bounds, seed)
        check_count("steps", steps)
        check_count("gradient_queries", gradient_queries)
        self.steps = int(steps)
        self.gradient_queries = int(gradient_queries)

    def walk(self, problem: SearchProblem, start: SearchResult, seed: tf.Tensor) -> SearchResult:
        """Walks along the boundary; see `DecisionAttack.walk`."""
        x = problem.x
        size = int(np.prod(x.shape[1:]))
        # The paper's theta, and the probes' distance that it leads to, as shares of the distance.
        tolerance = max(size ** (-1.5 if self.norm == "l2" else -2.0), TOLERANCE)
        around = tolerance * (np.sqrt(size) if self.norm == "l2" else size)

        def step(number: tf.Tensor, found: SearchResult) -> tuple[tf.Tensor, SearchResult]:
            own = tf.random.experimental.stateless_fold_in(seed, number)
            distance = balls.norm(found.points - x, self.norm)
            rounds = tf.cast(tf.math.ceil(tf.sqrt(tf.cast(number, tf.float32))), tf.int32)
            facing = self._facing(problem, found.points, around * distance, rounds, own)
            asked = found.queries + self.gradient_queries * rounds * tf.cast(
                found.success, tf.int32
            )
            length = distance / tf.sqrt(tf.cast(number, x.dtype))
            over = self._over(problem, found._replace(queries=asked), facing, length)
            back = self._back(problem, over, tolerance)
            nearer = over.success & (balls.norm(back.points - x, self.norm) < distance)
            points = choose(nearer, back.points, found.points)
            return number + 1, SearchResult(points, found.success, back.queries)

        _, found = tf.while_loop(
            lambda number, found: (number <= self.steps) & tf.reduce_any(found.success),
            step,
            (tf.constant(1), self._back(problem, start, tolerance)),
        )
        return self._back(problem, found, TOLERANCE)

    def _back(self, problem: SearchProblem, found: SearchResult, tolerance: float) -> SearchResult:
        """Halves the way to the clean input, along the segment or through shrinking balls."""
        x, points = problem.x, found.points
        reach = balls.norm(points - x, "linf")

        def path(share: tf.Tensor) -> tf.Tensor:
            if self.norm == "l2":
                return self.between(x, points, share)
            end = spread(share * reach, x)
            return self.inside(x + tf.clip_by_value(points - x, -end, end))

        return binary_search(problem, found, path, tolerance)

    def _over(
        self, problem: SearchProblem, found: SearchResult, facing: tf.Tensor, length: tf.Tensor
    ) -> SearchResult:
        """Steps to where points are misclassified; no success where no length leads there."""
        active = found.success

        def going(number: tf.Tensor, _: tf.Tensor, over: SearchResult) -> tf.Tensor:
            return (number < _SHORTEST) & tf.reduce_any(active & ~over.success)

        def attempt(number: tf.Tensor, length: tf.Tensor, over: SearchResult) -> tuple[Any, ...]:
            moving = active & ~over.success
            points = self.inside(found.points + spread(length, facing) * facing)
            hit = moving & problem.wrong(points)
            queries = over.queries + tf.cast(moving, tf.int32)
            over = SearchResult(choose(hit, points, over.points), over.success | hit, queries)
            return number + 1, length / 2, over

        start = found._replace(success=tf.zeros_like(active))
        return tf.while_loop(going, attempt, (tf.constant(0), length, start))[2]

    def _facing(
        self,
        problem: SearchProblem,
        points: tf.Tensor,
        radius: tf.Tensor,
        rounds: tf.Tensor,
        seed: tf.Tensor,
    ) -> tf.Tensor:
        """The steepest direction out of the right class, estimated from decisions around points.

        It is the covariance of a probe and its outcome, 1 or -1: outcomes less their mean weigh
        the probes. Where all outcomes are the same, that is the probes' mean, or its opposite.
        """
        shape = tf.concat([[self.gradient_queries], tf.shape(points)], axis=0)
        reach = spread(radius, points)

        def ask(number: tf.Tensor, *sums: tf.Tensor) -> tuple[tf.Tensor, ...]:
            own = tf.random.experimental.stateless_fold_in(seed, number)
            asked = self.inside(points + reach * self._draw(shape, own, points.dtype))
            # What was asked, where bounds stopped a probe.
            directions = tf.math.divide_no_nan(asked - points, reach)
            given = decide(problem.classifier, tf.reshape(asked, (-1, *points.shape[1:])))
            wrong = tf.reshape(given, shape[:2]) != problem.labels
            outcomes = tf.where(wrong, tf.ones([], points.dtype), -1.0)
            weights = tf.reshape(outcomes, tf.concat([shape[:2], tf.ones_like(shape[2:])], axis=0))
            outcome, probe, both = sums
            return (
                number + 1,
                outcome + tf.reduce_sum(outcomes, axis=0),
                probe + tf.reduce_sum(directions, axis=0),
                both + tf.reduce_sum(weights * directions, axis=0),
            )

        none = tf.zeros_like(points)
        state = tf.constant(0), tf.zeros_like(radius), none, none
        _, outcome, probe, both = tf.while_loop(lambda number, *_: number < rounds, ask, state)
        mean = outcome / tf.cast(self.gradient_queries * rounds, points.dtype)
        tilt = spread(mean, points) * probe
        direction = choose(tf.abs(mean) < 1, both - tilt, tilt)
        return balls.steepest_direction(direction, self.norm)

    def _draw(self, shape: tf.Tensor, seed: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        """Random directions of l2 norm 1, `[gradient_queries, N, ...]`.

        They are normal for l2, and uniform for linf.
        """
        if self.norm == "l2":
            drawn = tf.random.stateless_normal(shape, seed, dtype=dtype)
        else:
            drawn = tf.random.stateless_uniform(shape, seed, -1.0, 1.0, dtype=dtype)
        axes = list(range(2, shape.shape[0]))
        size = tf.sqrt(tf.reduce_sum(tf.square(drawn), axis=axes, keepdims=True))
        return tf.math.divide_no_nan(drawn, size)
