"""The base class of decision-based attacks: starting points and restarts."""

import abc
from typing import Any, ClassVar, Final

import tensorflow as tf

from lexirobust.attacks.minimum_norm.base import MinimumNormAttack, SearchProblem, SearchResult
from lexirobust.checks import check_count
from lexirobust.geometry import balls
from lexirobust.tensors import choose

# Without bounds, noise grows from this share of the inputs' root mean square, or of 1 for inputs
# that are 0, twice as large at every try.
_FIRST_NOISE: Final = 0.1


class DecisionAttack(MinimumNormAttack):
    """Asks for classes, never for logits or gradients, and begins at what is misclassified.

    A subclass writes `walk`, which leads such a point near, and ends on the boundary.

    Args:
        norm: Norm of distances: one of `norms`.
        restarts: Number of starts: each at the nearest other sample, for l2, of a class where none
            has begun yet, as long as the batch has any, and then at noise.
        tries: Most queries for a start of noise.
        bounds: Lowest and highest value of an input, or `None`.
        seed: Integer seed.

    Raises:
        ValueError: If a setting is not one of those above.
    """

    norms: ClassVar[tuple[str, ...]] = ("l2", "linf")

    def __init__(
        self,
        norm: str,
        restarts: int,
        tries: int,
        bounds: tuple[float, float] | None,
        seed: int | None,
    ) -> None:
        super().__init__(norm=norm, bounds=bounds, seed=seed)
        check_count("restarts", restarts)
        check_count("tries", tries)
        self.restarts = int(restarts)
        self.tries = int(tries)

    @abc.abstractmethod
    def walk(self, problem: SearchProblem, start: SearchResult, seed: tf.Tensor) -> SearchResult:
        """Leads misclassified points near, inside a graph.

        Args:
            problem: What the search is about.
            start: Where it begins, and what that has cost. Nothing is asked without success there.
            seed: `[2]` int32 tensor.

        Returns:
            Nearer points on the boundary, the same success, and all queries.
        """

    def find(self, problem: SearchProblem, seed: tf.Tensor) -> SearchResult:
        """Walks from every start, and keeps the nearest point; see `MinimumNormAttack.find`."""
        x = problem.x

        def restart(index: tf.Tensor, closed: tf.Tensor, best: SearchResult) -> tuple[Any, ...]:
            own = tf.random.experimental.stateless_fold_in(seed, index)
            seeds = tf.random.experimental.stateless_split(own, 2)
            start, closed = find_starts(problem, self.bounds, self.tries, seeds[0], closed)
            found = self.walk(problem, start, seeds[1])
            before, after = (balls.norm(each.points - x, self.norm) for each in (best, found))
            better = found.success & (~best.success | (after < before))
            success = best.success | found.success
            points = choose(better, found.points, best.points)
            return index + 1, closed, SearchResult(points, success, best.queries + found.queries)

        nothing = SearchResult(x, tf.zeros_like(problem.right), tf.zeros_like(problem.labels))
        return tf.while_loop(
            lambda index, *_: (index < self.restarts) & tf.reduce_any(problem.right),
            restart,
            (tf.constant(0), _same(problem), nothing),
        )[2]

    def refine(self, problem: SearchProblem, found: SearchResult) -> SearchResult:
        """Nothing is left to refine: walks end on the boundary."""
        del problem
        return found


def find_starts(
    problem: SearchProblem,
    bounds: tuple[float, float] | None,
    tries: int,
    seed: tf.Tensor,
    closed: tf.Tensor | None = None,
) -> tuple[SearchResult, tf.Tensor]:
    """Finds a misclassified input for each sample.

    It is the nearest other sample of the batch, for l2, that is classified as another class than
    the right one; its class is known already, and costs no query. Where there is none it is noise:
    uniform inside the bounds, or without bounds normal around the sample, and ever larger.

    Args:
        problem: What the search is about.
        bounds: Lowest and highest value of an input, or `None`.
        tries: Most queries for noise.
        seed: `[2]` int32 tensor.
        closed: `[N, N]` bool: which samples (columns) none may begin at. `None`: those classified
            as what is right.

    Returns:
        Misclassified inputs, where there are any, and queries; and `closed` for the next start,
        which has the class of this one in it too.

    Example: of the second class the third sample is nearer to the first one.

    >>> x = tf.constant([[0.0], [3.0], [2.0]])
    >>> given = tf.constant([0, 1, 1])
    >>> problem = SearchProblem(lambda x: tf.concat([1.5 - x, x - 1.5], axis=1), x, given, given)
    >>> start, _ = find_starts(problem, None, 1, tf.constant([0, 0]))
    >>> start.points.numpy().tolist()
    [[2.0], [0.0], [0.0]]
    """
    x, given = problem.x, problem.given
    closed = _same(problem) if closed is None else closed
    nearest, some = (
        tf.argmin(tf.where(closed, x.dtype.max, _apart(x)), axis=1),
        ~tf.reduce_all(closed, axis=1),
    )
    others, taken = tf.gather(x, nearest), tf.gather(given, nearest)
    closed |= some[:, None] & (taken[:, None] == given[None])
    start = SearchResult(others, problem.right & some, tf.zeros_like(problem.labels))

    def searched(found: SearchResult) -> tf.Tensor:
        return problem.right & ~found.success

    def attempt(number: tf.Tensor, found: SearchResult) -> tuple[tf.Tensor, SearchResult]:
        active = searched(found)
        own = tf.random.experimental.stateless_fold_in(seed, number)
        points = _noise(x, bounds, number, own)
        hit = active & problem.wrong(points)
        queries = found.queries + tf.cast(active, tf.int32)
        return number + 1, SearchResult(
            choose(hit, points, found.points), found.success | hit, queries
        )

    def going(number: tf.Tensor, found: SearchResult) -> tf.Tensor:
        return (number < tries) & tf.reduce_any(searched(found))

    return tf.while_loop(going, attempt, (tf.constant(0), start))[1], closed


def _same(problem: SearchProblem) -> tf.Tensor:
    """`[N, N]` bool: which samples (columns) are given the class that is right for which."""
    return problem.labels[:, None] == problem.given[None]


def _apart(x: tf.Tensor) -> tf.Tensor:
    """`[N, N]` squares of l2 distances."""
    flat = tf.reshape(x, (tf.shape(x)[0], -1))
    flat -= tf.reduce_mean(flat, axis=0)  # Differences of squares keep their digits.
    squares = tf.reduce_sum(tf.square(flat), axis=1)
    return squares[:, None] + squares[None] - 2.0 * tf.matmul(flat, flat, transpose_b=True)


def _noise(
    x: tf.Tensor, bounds: tuple[float, float] | None, number: tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
    if bounds is not None:
        return tf.random.stateless_uniform(tf.shape(x), seed, *bounds, dtype=x.dtype)
    size = tf.sqrt(tf.reduce_mean(tf.square(x)))
    size = _FIRST_NOISE * tf.where(size > 0, size, 1.0) * 2.0 ** tf.cast(number, x.dtype)
    return x + size * tf.random.stateless_normal(tf.shape(x), seed, dtype=x.dtype)
