"""The paper's toy problem in closed form.

It lives on `X = [-2, -1) ∪ [1, 2)`: class 0 (the paper's -1) on the left, class 1 on the right,
equal priors. Its classifiers and their accuracy functions are known exactly, so they serve as
ground truth for attacks and evaluations.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras import ops

from lexirobust.checks import check_count
from lexirobust.tensors import classes_of


class Interval(NamedTuple):
    """A half-open interval `[low, high)` on which all data have class `label`.

    Attributes:
        low: float, the included end.
        high: float, the excluded end.
        label: int, 0 or 1.

    Example:

    >>> Interval(1.0, 2.0, label=1).high
    2.0

    Reference: sections 2 and 9.1 of the paper.
    """

    low: float
    high: float
    label: int


class _Problem(NamedTuple):
    """The intervals of the data, and the half-open cells that a classifier assigns to class 1."""

    data: tuple[Interval, ...]
    cells: tuple[tuple[float, float], ...]


TOY_INTERVALS = (Interval(-2.0, -1.0, 0), Interval(1.0, 2.0, 1))
_SUPPLEMENT_INTERVALS = tuple(Interval(float(low), low + 1.0, low % 2) for low in range(-2, 2))

_PROBLEMS = {
    "f1": _Problem(TOY_INTERVALS, ((1.0, math.inf),)),
    "f2": _Problem(TOY_INTERVALS, ((-math.inf, -4.0), (0.0, math.inf))),
    "f3": _Problem(TOY_INTERVALS, ((0.0, math.inf),)),
    "f4": _Problem(TOY_INTERVALS, ((0.0, 4.0),)),
    "supplement": _Problem(_SUPPLEMENT_INTERVALS, ((-4.0, -3.0), (-1.0, 0.0), (1.0, 3.0))),
}

# Added to the logit of class 1 where a step function says 1: far below any attack's step, yet
# enough that argmax still says 1 on the boundary itself, even after a float32 softmax.
_TIE_BREAK = 1e-6


def toy(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws a balanced, shuffled sample of the toy problem.

    Args:
        n: int, number of samples, at least 1. Class 0 gets `n // 2` of them, class 1 the rest.
        seed: int, seed of the draw: the same seed gives the same sample.

    Returns:
        Tuple of inputs, float32 `[n, 1]` in `[-2, -1) ∪ [1, 2)`, and labels, int32 `[n]` in
        {0, 1}.

    Raises:
        ValueError: if `n` is not a positive integer.

    Example:

    >>> x, y = toy(100, seed=0)
    >>> x.shape, int(y.sum()), bool(np.all((x[:, 0] > 0) == (y == 1)))
    ((100, 1), 50, True)

    Reference: sections 2 and 6.1 of the paper.
    """
    check_count("n", n)
    rng = np.random.default_rng(seed)
    labels = rng.permutation((np.arange(n) >= n // 2).astype(np.int32))
    # Multiples of 2^-23 are exact in float32 after the shift, so no point rounds up to an open end.
    offsets = rng.integers(2**23, size=n) / 2**23
    starts = np.array([interval.low for interval in TOY_INTERVALS])
    return (starts[labels] + offsets).astype(np.float32)[:, None], labels


def circle_and_line(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws a balanced, shuffled sample of two curves that touch: a circle on a line.

    What is equally far from the circle of radius 1 around (0, 1) and from the line x2 = 0 is the
    parabola x2 = x1²/4: the boundary of the problem's optimal genuinely robust classifier.

    Args:
        n: int, number of samples, at least 1. Class 0, the circle, gets `n // 2` of them.
        seed: int, seed of the draw: the same seed gives the same sample.

    Returns:
        Tuple of inputs, float32 `[n, 2]`, evenly distributed over the circle and over the line from
        x1 = -4 to 4, and labels, int32 `[n]` in {0, 1}.

    Raises:
        ValueError: if `n` is not a positive integer.

    Example:

    >>> x, y = circle_and_line(200, seed=0)
    >>> radii = np.linalg.norm(x[y == 0] - [0, 1], axis=1)
    >>> x.shape, bool(np.allclose(radii, 1)), bool(np.all(x[y == 1, 1] == 0))
    ((200, 2), True, True)

    Reference: Figure 3 of the paper.
    """
    check_count("n", n)
    rng = np.random.default_rng(seed)
    labels = rng.permutation((np.arange(n) >= n // 2).astype(np.int32))
    angles, places = 2 * np.pi * rng.uniform(size=n), rng.uniform(-4, 4, size=n)
    circle = np.stack([np.cos(angles), 1 + np.sin(angles)], axis=1)
    line = np.stack([places, np.zeros(n)], axis=1)
    return np.where(labels[:, None] == 0, circle, line).astype(np.float32), labels


@keras.saving.register_keras_serializable(package="lexirobust")
class ToyClassifier(keras.Model):
    """Step classifier of the toy problem, as logits whose gradients lead to its boundaries.

    The logits are `[0, s]`, with `s` the signed distance to the nearest decision boundary: positive
    in class 1, negative in class 0. On a boundary point the decision is that of the step functions.

    Args:
        rule: str, one of "f1", "f2", "f3", "f4" (`f3` is the toy problem's optimal classifier), or
            "supplement", the classifier of Figure 14 for the problem of Figure 13.
        **kwargs: passed on to `keras.Model` (`name`, `dtype`, ...).

    Attributes:
        intervals: tuple of `Interval`, where the data of its problem are.

    Raises:
        ValueError: if `rule` is not one of those names.

    Example:

    >>> classifier = ToyClassifier("f3")
    >>> classifier(np.array([[-1.5], [0.0], [1.0]], "float32")).numpy().argmax(axis=-1).tolist()
    [0, 1, 1]

    Reference: sections 2, 3.1 and 9.1, Figures 6 and 14 of the paper.
    """

    def __init__(self, rule: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.intervals, self._cells = _problem("rule", rule)
        self.rule = rule
        self.build((None, 1))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns the logits.

        Args:
            inputs: float tensor `[N, 1]`.
            training: ignored; accepted as every Keras model accepts it.

        Returns:
            Float tensor `[N, 2]`: 0, and the signed distance to the boundary in input units.
        """
        # Pairwise maximum, since a reduction would average two opposite gradients midway.
        distance = functools.reduce(
            ops.maximum, [ops.minimum(inputs - low, high - inputs) for low, high in self._cells]
        )
        decision = functools.reduce(
            ops.logical_or,
            [ops.logical_and(inputs >= low, inputs < high) for low, high in self._cells],
        )
        score = distance + _TIE_BREAK * ops.cast(decision, distance.dtype)
        return ops.concatenate([ops.zeros_like(score), score], axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the settings from which `from_config` rebuilds the classifier.

        Returns:
            Dict with `rule` and Keras' own entries.
        """
        return {**super().get_config(), "rule": self.rule}


def toy_classifier(name: str) -> ToyClassifier:
    """Returns one of the paper's step classifiers as a Keras model that gives logits.

    With `step(x) = 1` for `x >= 0` and -1 otherwise, class 1 where the value is 1:
    `f1 = step(x-1)`, `f2 = 1 - step(x+4) + step(x)`, `f3 = step(x)`,
    `f4 = -1 + step(x) - step(x-4)`; "supplement" is the classifier of Figure 14.

    Args:
        name: str, "f1", "f2", "f3", "f4" or "supplement".

    Returns:
        Model that maps float `[N, 1]` to logits `[N, 2]`; see `ToyClassifier`.

    Raises:
        ValueError: if `name` is not one of those names.

    Example:

    >>> toy_classifier("f1")(np.array([[0.5], [3.0]], "float32")).numpy()[:, 1].round(3).tolist()
    [-0.5, 2.0]

    Reference: section 2, Figure 6 of the paper.
    """
    _problem("name", name)
    return ToyClassifier(name)


def toy_accuracy(
    name: str,
    magnitudes: npt.ArrayLike,
    constraint: Literal["exact", "maximum"] = "exact",
    genuine: bool = False,
) -> np.ndarray:
    """Returns the exact accuracy function of a toy classifier, worked out from the intervals.

    The standard functions measure the part of the data that no allowed perturbation takes to the
    other class. The genuine one averages over those points of the closure of the data from which
    some perturbation of norm `d` ends no nearer than `d` to any data; two of them that end at one
    point count twice, and at `d = 0` it is the natural accuracy. Rational arithmetic keeps the
    jumps where they belong: the values at a jump are those at the point itself.

    Args:
        name: str, "f1", "f2", "f3", "f4" or "supplement" (which brings its own data).
        magnitudes: array-like `[K]`, perturbation norms in input units, finite and at least 0.
        constraint: "exact" for perturbations of norm `d`, "maximum" for norm at most `d`.
        genuine: bool, whether to leave out perturbed points that were already explored at a
            smaller norm.

    Returns:
        Accuracies, float64 `[K]` in [0, 1].

    Raises:
        ValueError: if an argument is none of the allowed, or `genuine` is asked for with the
            maximum norm, for which the paper defines no genuine accuracy function.

    Example:

    >>> toy_accuracy("f3", [0, 0.5, 1, 1.25, 2]).tolist()
    [1.0, 1.0, 1.0, 0.75, 0.0]
    >>> toy_accuracy("f3", [0, 0.5, 1, 1.25, 2], genuine=True).tolist()
    [1.0, 1.0, 0.75, 1.0, 1.0]

    Reference: definitions 4 and 5, sections 2.1, 2.2 and 9.1, Figures 7, 8 and 14 of the paper.
    """
    problem = _problem("name", name)
    if constraint not in ("exact", "maximum"):
        raise ValueError(f'`constraint` must be "exact" or "maximum". Received: {constraint!r}.')
    if genuine and constraint == "maximum":
        raise ValueError(
            '`genuine=True` needs `constraint="exact"`: the paper defines no genuine accuracy '
            'function by maximum norm. Received: `constraint="maximum"`.'
        )
    norms = np.asarray(magnitudes, dtype=np.float64)
    if norms.ndim != 1 or not np.all(np.isfinite(norms)) or np.any(norms < 0):
        raise ValueError(
            "`magnitudes` must be one-dimensional, finite and at least 0. "
            f"Received: {magnitudes!r}."
        )
    values = []
    for norm in map(Fraction, norms.tolist()):
        if genuine and norm > 0:
            values.append(_genuine_accuracy(problem, norm))
        else:
            values.append(_standard_accuracy(problem, norm, constraint))
    return np.array(values, dtype=np.float64)


def decision_boundaries(
    classifier: Callable[[Any], Any], low: float = -8.0, high: float = 8.0, points: int = 4001
) -> list[float]:
    """Finds where the decision of a classifier of one input changes.

    A grid brackets the changes and bisection narrows every bracket to float32 resolution. A pair of
    changes inside one grid cell cancels out and is missed.

    Args:
        classifier: callable that maps float32 `[N, 1]` to logits `[N, C]`.
        low: float, left end of the searched range.
        high: float, right end of the searched range.
        points: int, number of grid points, at least 2.

    Returns:
        Sorted list of floats, in input units, each within about 1e-6 of a change of the argmax, or
        of an end of where logits are not numbers.

    Raises:
        ValueError: if the range is empty or `points` is less than 2.

    Example:

    >>> [round(boundary, 4) for boundary in decision_boundaries(toy_classifier("f1"))]
    [1.0]

    Reference: sections 2 and 6.1 of the paper.
    """
    if not low < high:
        raise ValueError(f"`low` must be less than `high`. Received: {low} and {high}.")
    check_count("points", points, least=2)

    def decide(x: np.ndarray) -> np.ndarray:
        logits = classifier(tf.constant(x[:, None], dtype=tf.float32))
        return np.asarray(classes_of(logits))

    grid = np.linspace(low, high, points)
    decisions = decide(grid)
    changes = np.flatnonzero(decisions[:-1] != decisions[1:])
    left, right, before = grid[changes], grid[changes + 1], decisions[changes]
    if changes.size:
        for _ in range(math.ceil(math.log2((high - low) / (points - 1) / 1e-7))):
            middle = (left + right) / 2
            same = decide(middle) == before
            left, right = np.where(same, middle, left), np.where(same, right, middle)
    return ((left + right) / 2).tolist()


def _problem(argument: str, name: str) -> _Problem:
    if name not in _PROBLEMS:
        allowed = ", ".join(map(repr, _PROBLEMS))
        raise ValueError(f"`{argument}` must be one of {allowed}. Received: {name!r}.")
    return _PROBLEMS[name]


def _label(cells: Iterable[tuple[float, float]], x: Fraction) -> int:
    return int(any(low <= x < high for low, high in cells))


def _standard_accuracy(problem: _Problem, norm: Fraction, constraint: str) -> float:
    """Measures the data that stay right, cut where staying right can begin or end."""
    data, cells = problem
    ends = [Fraction(end) for cell in cells for end in cell if math.isfinite(end)]
    cuts = {end + shift for end in ends for shift in (-norm, 0, norm)}

    def stays_right(x: Fraction, label: int) -> bool:
        if constraint == "maximum":
            return _label(cells, x) == label and all(abs(x - end) >= norm for end in ends)
        return _label(cells, x - norm) == label == _label(cells, x + norm)

    right = total = Fraction(0)
    for low, high, label in data:
        edges = sorted({Fraction(low), Fraction(high), *(c for c in cuts if low < c < high)})
        for left, end in itertools.pairwise(edges):
            total += end - left
            if stays_right((left + end) / 2, label):
                right += end - left
    return float(right / total)


def _genuine_accuracy(problem: _Problem, norm: Fraction) -> float:
    """Averages over the ends of the data: from an inner point, no step of this norm is allowed."""
    data, cells = problem

    def explored(x: Fraction) -> bool:
        return any(Fraction(low) - norm < x < Fraction(high) + norm for low, high, _ in data)

    outcomes = []
    for low, high, label in data:
        for end in (Fraction(low), Fraction(high)):
            allowed = [x for x in (end - norm, end + norm) if not explored(x)]
            if allowed:
                outcomes.append(all(_label(cells, x) == label for x in allowed))
    return sum(outcomes) / len(outcomes)
