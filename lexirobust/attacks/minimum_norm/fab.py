"""FAB: fast adaptive boundary attack, along the boundary towards the clean input."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import keras
import tensorflow as tf

from lexirobust.attacks.classifier import logits_of
from lexirobust.attacks.losses import wrong_class
from lexirobust.attacks.minimum_norm.base import (
    MinimumNormAttack,
    SearchProblem,
    SearchResult,
    binary_search,
)
from lexirobust.attacks.minimum_norm.linearization import linearize, linearize_toward
from lexirobust.checks import check_count, check_number, check_steps
from lexirobust.geometry import balls, hyperplanes
from lexirobust.geometry.hyperplanes import Boundaries
from lexirobust.tensors import choose, spread


@keras.saving.register_keras_serializable(package="lexirobust")
class FAB(MinimumNormAttack):
    """Steps onto the nearest of all linearized boundaries, drawn towards the clean input.

    Each step mixes the shortest ways there, inside the bounds, from where the search is and from
    the clean input, and goes a little beyond. Where the class has changed, the search goes back
    towards the clean input and on. At the end the nearest point found is drawn back to the
    boundary. The shortest way towards that boundary, linearized there, ends in a point that takes
    its place where it is misclassified and nearer: on a linear classifier the nearest of all.

    Args:
        norm: Norm of distances: `"l1"`, `"l2"` or `"linf"`.
        steps: Number of steps of each start.
        restarts: Number of starts. The first is the clean input, the others are random, within half
            the distance found so far; or half the bounds' reach, without bounds within 1, where
            nothing was found.
        alpha_max: Largest weight of the way from the clean input, from 0 to 1.
        eta: Factor by which steps go beyond the boundary, at least 1.
        beta: Distance from the clean input at which the search goes on after a change of class, as
            a share of the distance there, above 0 and below 1.
        bounds: Lowest and highest value of an input, or `None`.
        seed: Integer seed of the random starts.
        candidates: How many other classes are looked at in each step, the most likely there. Each
            costs a backward pass.
        target_rank: Toward which one of the other classes alone: 1 for the most likely at the clean
            input, 2 for the next, ...; with fewer classes, the least likely. `None`: toward the
            nearest of all candidates.

    Raises:
        ValueError: If a setting is not one of those above.

    Example: the first coordinate counts twice as much as the second, but ends at 1.

    >>> classifier = lambda x: x @ tf.constant([[2.0, 0.0], [1.0, 0.0]]) - [2.4, 0.0]
    >>> found = FAB(norm="l1", steps=5)(classifier, tf.constant([[0.8, 0.2]]), tf.constant([1]))
    >>> print(found.distances.numpy().round(3), found.inputs.numpy().round(3))
    [0.4] [[1.  0.4]]

    Reference:
        Croce and Hein, arXiv 1907.02044.
    """

    values: ClassVar[tuple[str, ...]] = ("target_rank",)

    def __init__(
        self,
        norm: str = "l2",
        steps: int = 100,
        restarts: int = 1,
        alpha_max: float = 0.1,
        eta: float = 1.05,
        beta: float = 0.9,
        bounds: tuple[float, float] | None = (0.0, 1.0),
        seed: int | None = None,
        candidates: int = 10,
        target_rank: int | None = None,
    ) -> None:
        super().__init__(norm=norm, bounds=bounds, seed=seed)
        check_steps(steps, None, restarts, random_start=True)
        check_count("candidates", candidates)
        check_count("target_rank", target_rank, optional=True)
        self.target_rank = None if target_rank is None else int(target_rank)
        self.steps = int(steps)
        self.candidates = int(candidates)
        self.restarts = int(restarts)
        self.alpha_max = check_number("alpha_max", alpha_max, 0, 1)
        self.eta = check_number("eta", eta, low=1)
        self.beta = check_number("beta", beta, 0, 1, inside=True)

    def find(self, problem: SearchProblem, seed: tf.Tensor) -> SearchResult:
        """Searches from all starts; see `MinimumNormAttack.find`."""
        x, boundaries = problem.x, self._boundaries(problem)

        def sought(best: _Best) -> tf.Tensor:
            return problem.right & ~(best.distance <= problem.enough)

        def step(
            number: tf.Tensor, points: tf.Tensor, best: _Best, queries: tf.Tensor
        ) -> tuple[Any, ...]:
            queries += 2 * tf.cast(sought(best), tf.int32)
            stepped = self._step_toward_boundary(x, points, boundaries(points))
            distance = balls.norm(stepped - x, self.norm)
            wrong = problem.wrong(stepped)
            best = choose(wrong & (distance < best.distance), _Best(stepped, distance), best)
            return number + 1, choose(wrong, self._back(x, stepped), stepped), best, queries

        def restart(
            index: tf.Tensor, best: _Best, queries: tf.Tensor
        ) -> tuple[tf.Tensor, _Best, tf.Tensor]:
            own = tf.random.experimental.stateless_fold_in(seed, index)
            start = choose(index > 0, self._start(x, best, own), x)
            state = tf.constant(0), start, best, queries
            _, _, best, queries = tf.while_loop(
                lambda number, _, best, __: (number < self.steps) & tf.reduce_any(sought(best)),
                step,
                state,
            )
            return index + 1, best, queries

        best = _Best(x, tf.fill(tf.shape(x)[:1], tf.constant(x.dtype.max, x.dtype)))
        _, best, queries = tf.while_loop(
            lambda index, best, _: (index < self.restarts) & tf.reduce_any(sought(best)),
            restart,
            (tf.constant(0), best, tf.zeros_like(problem.labels)),
        )
        return SearchResult(best.points, problem.right & best.found, queries)

    def refine(self, problem: SearchProblem, found: SearchResult) -> SearchResult:
        """Halves twice: the segment to the clean input, then the family of shortest ways.

        Those lead from the clean input to parallels of the boundary linearized where the first
        halving ends, the farthest beyond it; see `MinimumNormAttack.refine`.
        """
        x, searched = problem.x, problem.right & found.success
        found = super().refine(problem, found)
        boundaries = self._boundaries(problem)(found.points)
        # Without bounds: the boundary that the point has just crossed, as near as rounding.
        normal, gap, _ = hyperplanes.nearest(boundaries, None, self.norm)

        def path(share: tf.Tensor) -> tf.Tensor:
            far = self.eta * share
            return self.inside(x + self._from_clean(x, found.points, normal, gap, far))

        end = path(tf.ones_like(gap))
        queries = found.queries + 2 * tf.cast(searched, tf.int32)
        tried = binary_search(
            problem, SearchResult(end, searched & problem.wrong(end), queries), path
        )
        before, after = (balls.norm(each.points - x, self.norm) for each in (found, tried))
        points = choose(tried.success & (after < before), tried.points, found.points)
        return SearchResult(points, found.success, tried.queries)

    def _boundaries(self, problem: SearchProblem) -> Callable[[tf.Tensor], Boundaries]:
        """Linearizes around points the boundaries that are looked at."""
        classifier, x, labels = problem.classifier, problem.x, problem.labels
        if self.target_rank is None:
            return lambda points: linearize(classifier, points, labels, self.candidates)
        targets = wrong_class(logits_of(classifier, x), labels, self.target_rank)
        return lambda points: linearize_toward(classifier, points, labels, targets)

    def _step_toward_boundary(
        self, x: tf.Tensor, points: tf.Tensor, boundaries: Boundaries
    ) -> tf.Tensor:
        """The next point: beyond the nearest boundary, between where two ways lead."""
        box = balls.box_around(points, self.bounds)
        normal, gap, way = hyperplanes.nearest(boundaries, box, self.norm)
        clean_way = self._from_clean(x, points, normal, gap)
        own, clean = (balls.norm(each, self.norm) for each in (way, clean_way))
        alpha = spread(tf.minimum(tf.math.divide_no_nan(own, own + clean), self.alpha_max), x)
        ahead, clean_ahead = points + self.eta * way, x + self.eta * clean_way
        return self.inside((1.0 - alpha) * ahead + alpha * clean_ahead)

    def _from_clean(
        self, x: tf.Tensor, points: tf.Tensor, normal: tf.Tensor, gap: tf.Tensor, share: Any = 1.0
    ) -> tf.Tensor:
        """The shortest way from the clean inputs to a boundary linearized elsewhere.

        Or to where a share of the gap is closed, which may be above 1.
        """
        gap = gap + hyperplanes.dot(normal, points - x)
        box = balls.box_around(x, self.bounds)
        return hyperplanes.project(normal, share * gap, self.norm, box)[0]

    def _back(self, x: tf.Tensor, stepped: tf.Tensor) -> tf.Tensor:
        return self.inside(x + self.beta * (stepped - x))

    def _start(self, x: tf.Tensor, best: "_Best", seed: tf.Tensor) -> tf.Tensor:
        """A random start around the clean inputs."""
        box = balls.box_around(x, self.bounds)
        reach = 2.0 if box is None else balls.farthest(box, x, self.norm)
        radius = tf.where(best.found, best.distance, reach) / 2
        drawn = balls.random_perturbation(x, radius, self.norm, seed, surface=False)
        return self.inside(x + drawn)


class _Best(NamedTuple):
    """The nearest misclassified points so far; their distances, the largest number without."""

    points: tf.Tensor
    distance: tf.Tensor

    @property
    def found(self) -> tf.Tensor:
        """`[N]` bool: where there are any."""
        return self.distance < self.distance.dtype.max
