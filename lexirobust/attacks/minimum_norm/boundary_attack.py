"""The boundary attack: a random walk along the boundary, towards the clean input."""

from typing import Any, ClassVar, Final, NamedTuple

import keras
import tensorflow as tf

from lexirobust.attacks.minimum_norm.base import (
    TOLERANCE,
    SearchProblem,
    SearchResult,
    binary_search,
)
from lexirobust.attacks.minimum_norm.decisions import DecisionAttack
from lexirobust.checks import check_count, check_number
from lexirobust.geometry import balls
from lexirobust.tensors import choose, spread

# By which factor sizes shrink after a failure.
_SHRINK: Final = 1 / 1.05

# How many failures one success makes up for: half of the steps around are to succeed, and a quarter
# of the steps inwards.
_AROUND: Final = 1
_INWARD: Final = 3


@keras.saving.register_keras_serializable(package="lexirobust")
class BoundaryAttack(DecisionAttack):
    """Decisions alone: a random walk that stays misclassified and comes nearer.

    It asks for classes, never for logits or gradients. A step goes around the clean input first, by
    a random vector projected onto the sphere, and then inwards; it is kept where the point is
    misclassified after both. How far each goes is adapted to each sample: the way around so that
    half of its ends are misclassified, the way inwards so that a quarter of these still are.

    Args:
        norm: Norm of distances: `"l2"`.
        steps: Number of steps, of two queries each.
        spherical_step: First length of a step around, as a share of the distance; below 1.
        source_step: First length of a step inwards, as a share of the distance; below 1.
        restarts: Number of starts: each at the nearest other sample of the batch that is classified
            otherwise, and as no start before it, or where there is none at noise.
        tries: Most queries for a start of noise.
        bounds: Lowest and highest value of an input, or `None`.
        seed: Integer seed of noise and steps.

    Raises:
        ValueError: If a setting is not one of those above.

    Example: the boundary of a linear classifier is at distance 0.5.

    >>> classifier = lambda x: x @ tf.constant([[0.6, -0.6], [0.8, -0.8]])
    >>> attack = BoundaryAttack(steps=300, bounds=None, seed=0)
    >>> found = attack(classifier, tf.constant([[0.3, 0.4]]), tf.constant([0]))
    >>> print(found.distances.numpy().round(1), found.success.numpy())
    [0.5] [ True]

    Reference:
        Brendel et al., arXiv 1712.04248.
    """

    norms: ClassVar[tuple[str, ...]] = ("l2",)

    def __init__(
        self,
        norm: str = "l2",
        steps: int = 5000,
        spherical_step: float = 0.1,
        source_step: float = 0.1,
        restarts: int = 1,
        tries: int = 30,
        bounds: tuple[float, float] | None = (0.0, 1.0),
        seed: int | None = None,
    ) -> None:
        super().__init__(norm, restarts, tries, bounds, seed)
        check_count("steps", steps)
        self.steps = int(steps)
        self.spherical_step = check_number("spherical_step", spherical_step, 0, 1, inside=True)
        self.source_step = check_number("source_step", source_step, 0, 1, inside=True)

    def walk(self, problem: SearchProblem, start: SearchResult, seed: tf.Tensor) -> SearchResult:
        """Walks along the boundary; see `DecisionAttack.walk`."""
        x, searched = problem.x, start.success
        start = self._back(problem, start)

        def step(number: tf.Tensor, points: tf.Tensor, size: _Size) -> tuple[Any, ...]:
            own = tf.random.experimental.stateless_fold_in(seed, number)
            distance = balls.norm(points - x, self.norm)
            drawn = balls.random_perturbation(x, distance, self.norm, own, surface=True)
            turned = points - x + spread(size.spherical_step, x) * drawn
            turned = spread(distance, x) * balls.steepest_direction(turned, "l2")
            turned = self.inside(x + turned)
            ended = self.between(x, turned, 1.0 - size.source_step)
            is_around, is_ended = problem.wrong(turned), problem.wrong(ended)
            # Bounds can shorten the way around, but nothing can make the end farther.
            points = choose(is_around & is_ended, ended, points)
            source_step = tf.where(
                is_around, _adapted(size.source_step, is_ended, _INWARD), size.source_step
            )
            return (
                number + 1,
                points,
                _Size(_adapted(size.spherical_step, is_around, _AROUND), source_step),
            )

        one = tf.ones_like(balls.norm(x, self.norm))
        _, points, _ = tf.while_loop(
            lambda number, *_: (number < self.steps) & tf.reduce_any(searched),
            step,
            (
                tf.constant(0),
                start.points,
                _Size(self.spherical_step * one, self.source_step * one),
            ),
        )
        queries = start.queries + 2 * self.steps * tf.cast(searched, tf.int32)
        return self._back(problem, SearchResult(points, searched, queries))

    def _back(self, problem: SearchProblem, found: SearchResult) -> SearchResult:
        """Halves the segment to the clean input."""
        return binary_search(
            problem, found, lambda share: self.between(problem.x, found.points, share), TOLERANCE
        )


class _Size(NamedTuple):
    """Step lengths as shares of the distance, `[N]` each."""

    spherical_step: tf.Tensor
    source_step: tf.Tensor


def _adapted(size: tf.Tensor, success: tf.Tensor, gain: int) -> tf.Tensor:
    """Larger sizes after success, smaller ones after failure, below 1."""
    grown = tf.minimum(size * _SHRINK**-gain, 1.0 - TOLERANCE)
    return tf.where(success, grown, size * _SHRINK)
