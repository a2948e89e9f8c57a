"""DeepFool: onto the nearest linearized boundary, again and again."""

from typing import Any

import keras
import tensorflow as tf

from lexirobust.attacks.minimum_norm.base import MinimumNormAttack, SearchProblem, SearchResult
from lexirobust.attacks.minimum_norm.linearization import linearize
from lexirobust.checks import check_count, check_number, check_steps
from lexirobust.geometry import balls, hyperplanes
from lexirobust.tensors import choose


@keras.saving.register_keras_serializable(package="lexirobust")
class DeepFool(MinimumNormAttack):
    """Steps onto the nearest of all linearized boundaries until the class changes.

    Each step is the shortest inside the bounds. What is found is drawn back to the boundary, along
    the segment to the clean input. On a linear classifier without bounds the point is the nearest.

    Args:
        norm: Norm of distances: `"l1"`, `"l2"` or `"linf"`.
        steps: Most steps.
        overshoot: By which share of all steps so far a sample goes beyond where they lead.
        bounds: Lowest and highest value of an input, or `None`.
        candidates: How many other classes are looked at in each step, the most likely there. Each
            costs a backward pass.

    Raises:
        ValueError: If a setting is not one of those above.

    Example: the boundary of a linear classifier is at distance 0.5.

    >>> classifier = lambda x: x @ tf.constant([[0.6, -0.6], [0.8, -0.8]])
    >>> attack = DeepFool(norm="l2", bounds=None)
    >>> found = attack(classifier, tf.constant([[0.3, 0.4]]), tf.constant([0]))
    >>> print(found.distances.numpy().round(3), found.success.numpy())
    [0.5] [ True]

    Reference:
        Moosavi-Dezfooli et al., arXiv 1511.04599.
    """

    def __init__(
        self,
        norm: str = "l2",
        steps: int = 50,
        overshoot: float = 0.02,
        bounds: tuple[float, float] | None = (0.0, 1.0),
        candidates: int = 10,
    ) -> None:
        super().__init__(norm=norm, bounds=bounds, seed=None)
        check_steps(steps, None, 1, random_start=False)
        check_count("candidates", candidates)
        self.steps = int(steps)
        self.candidates = int(candidates)
        self.overshoot = check_number("overshoot", overshoot, low=0)

    def find(self, problem: SearchProblem, seed: tf.Tensor) -> SearchResult:
        """Steps until the class changes; see `MinimumNormAttack.find`."""
        del seed
        x = problem.x

        def going(number: tf.Tensor, _: tf.Tensor, found: SearchResult) -> tf.Tensor:
            return (number < self.steps) & tf.reduce_any(problem.right & ~found.success)

        def step(number: tf.Tensor, points: tf.Tensor, found: SearchResult) -> tuple[Any, ...]:
            active = problem.right & ~found.success
            boundaries = linearize(problem.classifier, points, problem.labels, self.candidates)
            box = balls.box_around(points, self.bounds)
            _, _, way = hyperplanes.nearest(boundaries, box, self.norm)
            stepped = self.inside(points + way)
            beyond = self.inside(x + (1.0 + self.overshoot) * (stepped - x))
            new = SearchResult(
                choose(active, beyond, found.points),
                found.success | (active & problem.wrong(beyond)),
                found.queries + 2 * tf.cast(active, tf.int32),
            )
            return number + 1, choose(active, stepped, points), new

        none = tf.zeros_like(problem.labels)
        start = tf.constant(0), x, SearchResult(x, tf.zeros_like(none, tf.bool), none)
        return tf.while_loop(going, step, start)[2]
