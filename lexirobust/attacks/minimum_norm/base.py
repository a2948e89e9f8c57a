"""The base class of minimum-norm attacks, which look for the nearest misclassified input."""

import abc
from collections.abc import Callable, Hashable
from typing import Any, Final, NamedTuple

import numpy as np
import tensorflow as tf

from lexirobust import progress
from lexirobust.attacks.classifier import Classifier, logits_of
from lexirobust.attacks.compiled_attack import CompiledAttack
from lexirobust.attacks.inputs import batches
from lexirobust.attacks.losses import most_likely
from lexirobust.geometry import balls
from lexirobust.graphs import or_else
from lexirobust.tensors import choose, classes_of, spread

TOLERANCE: Final = 1e-5
"""The distance of the last points from the boundary, relative to that from the inputs."""

_HALVINGS: Final = 40


class NearestPoints(NamedTuple):
    """The result of a minimum-norm attack for each sample.

    Attributes:
        inputs: `[N, ...]`: misclassified, on or just past the boundary, where `success`. The
            sample itself where that is misclassified already, or nothing was found.
        distances: `[N]` float32, norms of what was added: 0 where the sample is misclassified
            already, infinite where nothing was found.
        success: `[N]` bool: whether a misclassified input was found.
        queries: `[N]` int32: how often the classifier saw the sample before its search was over. A
            pass counts as one, with its gradients as without.
    """

    inputs: tf.Tensor
    distances: tf.Tensor
    success: tf.Tensor
    queries: tf.Tensor


class SearchProblem(NamedTuple):
    """The problem that a search solves.

    Attributes:
        classifier: Maps inputs to logits.
        x: `[N, ...]` clean inputs.
        labels: `[N]` int32, their right classes.
        given: `[N]` int32, the classes that the classifier gives them.
        enough: `[N]` distances: nearer points than that need not be looked for.
    """

    classifier: Classifier
    x: tf.Tensor
    labels: tf.Tensor
    given: tf.Tensor
    enough: tf.Tensor | float = 0.0

    @property
    def right(self) -> tf.Tensor:
        """`[N]` bool: which clean inputs are classified right, so that there is a search."""
        return self.given == self.labels

    def wrong(self, points: tf.Tensor) -> tf.Tensor:
        """`[N]` bool: which of `[N, ...]` points are misclassified."""
        return decide(self.classifier, points) != self.labels


class SearchResult(NamedTuple):
    """The result of a search, before it is refined.

    Attributes:
        points: `[N, ...]` misclassified inputs, where `success`.
        success: `[N]` bool.
        queries: `[N]` int32.
    """

    points: tf.Tensor
    success: tf.Tensor
    queries: tf.Tensor


class MinimumNormAttack(CompiledAttack):
    """Looks for the nearest misclassified input of each sample.

    A subclass writes `find`, in TensorFlow operations only, and `get_config`, which must hold all
    its settings: attacks that agree in them share one graph.

    Args:
        norm: Norm of distances: one of `norms`.
        bounds: Lowest and highest value an input may take, both finite, or `None`.
        seed: Integer seed of the attack's own random generator. `None` draws one.

    Raises:
        ValueError: If a setting is not one of those above.
    """

    def __call__(
        self, classifier: Classifier, x: Any, y: Any, batch_size: int | None = None
    ) -> NearestPoints:
        """Finds misclassified inputs nearby.

        Args:
            classifier: Maps inputs to logits: a Keras model or any other callable.
            x: `[N, ...]` float array or tensor, inside the bounds.
            y: `[N]` integer labels, or `[N, C]` probabilities, of which the largest counts.
            batch_size: Number of samples searched for at a time. `None`, or inside a graph: all.

        Returns:
            The points, their distances, where there are any, and what they cost.

        Raises:
            ValueError: If the data, the batch size, or the shape of the logits is not as above.
            TypeError: If inputs are no numbers, or labels neither integers nor probabilities.
        """
        x, y = self._checked(classifier, x, y, batch_size)
        parts = batches(batch_size, x, y)
        found = [
            self._compiled(classifier, x=x, y=y)
            for x, y in progress.bar(parts, "attack", delay=3.0)
        ]
        return _with_infinity(*(tf.concat(each, axis=0) for each in zip(*found, strict=True)))

    def search(
        self,
        classifier: Classifier,
        x: tf.Tensor,
        y: tf.Tensor,
        seed: tf.Tensor,
        enough: tf.Tensor | float = 0.0,
    ) -> NearestPoints:
        """Does what a call does, unchecked, as part of a graph that supplies the seed.

        Args:
            classifier: Maps inputs to logits.
            x: `[N, ...]` float tensor.
            y: `[N]` integer labels, or `[N, C]` probabilities.
            seed: `[2]` integer tensor.
            enough: `[N]` distances: nearer points than that need not be looked for.

        Returns:
            As for a call.
        """
        return _with_infinity(*self._searched(classifier, x, y, seed, enough))

    def _searched(
        self,
        classifier: Classifier,
        x: tf.Tensor,
        y: tf.Tensor,
        seed: tf.Tensor,
        enough: tf.Tensor | float = 0.0,
    ) -> NearestPoints:
        """Does what `search` does, but for distances of 0 where nothing was found."""
        problem = SearchProblem(classifier, x, most_likely(y), decide(classifier, x), enough)
        found = self.refine(problem, self.find(problem, tf.cast(seed, tf.int32)))
        inputs = choose(found.success & problem.right, found.points, x)
        distances = tf.cast(balls.norm(inputs - x, self.norm), tf.float32)
        success = found.success | ~problem.right
        points = NearestPoints(inputs, distances, success, 1 + found.queries)
        return NearestPoints(*(tf.stop_gradient(each) for each in points))

    @abc.abstractmethod
    def find(self, problem: SearchProblem, seed: tf.Tensor) -> SearchResult:
        """Finds misclassified inputs inside a graph.

        Args:
            problem: What the search is about. Nothing is to be found where a clean input is
                misclassified, and no query to be counted.
            seed: `[2]` int32 tensor.

        Returns:
            The points, where there are any, and queries beside that of the clean inputs.
        """

    def refine(self, problem: SearchProblem, found: SearchResult) -> SearchResult:
        """Moves points back to the boundary: along the segment to the clean input, by halving.

        Args:
            problem: What the search is about.
            found: What it found.

        Returns:
            Nearer points, and all queries so far.
        """
        return binary_search(
            problem, found, lambda share: self.between(problem.x, found.points, share)
        )

    def between(self, x: tf.Tensor, points: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
        """Moves a share `[N]` of the way from inputs to points, inside the bounds."""
        return self.inside(x + spread(share, x) * (points - x))

    def inside(self, points: tf.Tensor) -> tf.Tensor:
        """Clips points to the bounds."""
        return points if self.bounds is None else tf.clip_by_value(points, *self.bounds)

    def structure(self) -> Hashable:
        """All settings but the seed and `values`; see `Attack.structure`."""
        return self._settings()

    def _traced(self, classifier: Classifier, **given: Any) -> NearestPoints:
        """The part of a call that runs inside a graph."""
        return self._searched(classifier, **given)


def _with_infinity(
    inputs: tf.Tensor, distances: tf.Tensor, success: tf.Tensor, queries: tf.Tensor
) -> NearestPoints:
    """Points with infinite distances where nothing was found."""
    return NearestPoints(inputs, or_else(success, distances, np.inf), success, queries)


def decide(classifier: Classifier, x: tf.Tensor) -> tf.Tensor:
    """Classifies inputs.

    Args:
        classifier: Maps inputs to logits.
        x: `[N, ...]` tensor.

    Returns:
        `[N]` int32 classes, -1 where logits are not numbers.
    """
    return classes_of(logits_of(classifier, x))


def binary_search(
    problem: SearchProblem,
    found: SearchResult,
    path: Callable[[tf.Tensor], tf.Tensor],
    tolerance: float = TOLERANCE,
) -> SearchResult:
    """Finds where paths from clean inputs to misclassified points cross the boundary.

    The end that is misclassified is kept, and moved on by `TOLERANCE` where it remains so: rounding
    must not tell the next who looks that it is on the other side.

    Args:
        problem: What the search is about.
        found: The ends of the paths, and where there are any.
        path: Maps shares `[N]` of the way, from 0 to 1, to points `[N, ...]`.
        tolerance: Relative error of the share that is allowed.

    Returns:
        Misclassified points, and all queries so far.
    """
    searched = found.success & problem.right

    def unsettled(low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
        return searched & (high - low > tolerance * high)

    def step(low: tf.Tensor, high: tf.Tensor, queries: tf.Tensor) -> tuple[tf.Tensor, ...]:
        moving = unsettled(low, high)
        middle = low + (high - low) / 2
        wrong = problem.wrong(path(middle))
        return (
            tf.where(moving & ~wrong, middle, low),
            tf.where(moving & wrong, middle, high),
            queries + tf.cast(moving, tf.int32),
        )

    none = tf.zeros(tf.shape(searched), found.points.dtype)
    _, share, queries = tf.while_loop(
        lambda low, high, _: tf.reduce_any(unsettled(low, high)),
        step,
        (none, tf.ones_like(none), found.queries),
        maximum_iterations=_HALVINGS,
    )
    nearest = choose(share < 1, path(share), found.points)
    beyond = path(tf.minimum(share * (1 + TOLERANCE), 1.0))
    points = choose(problem.wrong(beyond), beyond, nearest)
    return SearchResult(
        choose(searched, points, found.points), found.success, queries + tf.cast(searched, tf.int32)
    )
