"""Comparison of classifiers by the lexicographic order of their accuracy curves."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from lexirobust.checks import check_number
from lexirobust.evaluation.curve import AccuracyCurve, check_pair
from lexirobust.warn import warn


@dataclasses.dataclass(frozen=True)
class Order:
    """The result of comparing two curves.

    Attributes:
        order: 1 where the first is more robust, -1 where the second is, 0 where they tie.
        at: The magnitude that decided; `None` for a tie.
        p_value: How likely a difference as large as the deciding one is between classifiers that
            are equally accurate there, corrected for looking at all magnitudes; for a tie, the
            smallest of all magnitudes.
    """

    order: int
    at: float | None
    p_value: float


def compare(
    first: AccuracyCurve,
    second: AccuracyCurve,
    tolerance: float = 0.0,
    significance: float | None = None,
) -> Order:
    """Compares two classifiers by the smallest magnitude at which their accuracies differ.

    On standard curves this is the order of lexicographic standard robustness (LSR), on genuine ones
    that of lexicographic genuine robustness (LGR). Magnitudes where an accuracy is undefined decide
    nothing.

    Without a tolerance it is the paper's strict order, a total preorder: a hundredth of a point at
    the first magnitude decides. With a tolerance, or a significance, near equals tie, and ties are
    no longer transitive; `rank` makes places of them all the same.

    The statistics are paired: only samples that one classifier gets right and the other wrong tell
    the two apart, and if both were equally accurate, each would be as likely to go either way
    (McNemar's test, exact). The p-values of all magnitudes are corrected by Holm's method.

    Args:
        first: A curve.
        second: One of the same samples and magnitudes.
        tolerance: Largest difference between accuracies, from 0 to 1, that still is a tie.
        significance: Largest corrected p-value at which a magnitude may decide, above 0 and below
            1; `None`: any difference above the tolerance decides.

    Returns:
        An `Order`.

    Raises:
        ValueError: If the curves are not of the same samples, magnitudes, priors, kind and norm, or
            a number is not as above.
        TypeError: If one is no curve.

    Example: the paper's third classifier is more robust than the first one, by what happens at the
    smallest magnitude.

    >>> import lexirobust as lr
    >>> x, y = lr.datasets.toy(100, seed=0)
    >>> attack = lr.attacks.PGD(norm="l2", steps=1, restarts=2, bounds=None)
    >>> f1, f3 = (
    ...     lr.evaluate_robustness(classifier, x, y, attack, [0, 0.5, 1.5], checks=False)
    ...     for classifier in map(lr.datasets.toy_classifier, ("f1", "f3"))
    ... )
    >>> order = compare(f3, f1)
    >>> order.order, order.at, order.p_value < 0.001
    (1, 0.5, True)

    Reference:
        Definitions 6 and 7 of the paper, the first without its misprint.
    """
    order = decide(first, second, tolerance, significance)
    _warn_of_different_attacks([first, second])
    return order


def decide(
    first: AccuracyCurve,
    second: AccuracyCurve,
    tolerance: float = 0.0,
    significance: float | None = None,
) -> Order:
    """Compares two curves as `compare` does, whatever attacks they are of."""
    check_comparable(first, second)
    check_number("tolerance", tolerance, 0, 1)
    if significance is not None:
        check_number("significance", significance, 0, 1, inside=True)
    p_values = _holm(_mcnemar(first, second))
    # NaN, where one is undefined, is not above anything.
    apart = first.accuracy - second.accuracy
    # Accuracies are ratios: their differences are rounded.
    decides = np.abs(apart) > tolerance + 1e-9
    if significance is not None:
        decides &= p_values <= significance
    ascending = np.argsort(first.magnitudes, kind="stable")
    deciding = ascending[decides[ascending]]
    if not deciding.size:
        return Order(0, None, float(p_values.min()))
    at = deciding[0]
    return Order(int(np.sign(apart[at])), float(first.magnitudes[at]), float(p_values[at]))


def rank(
    curves: Sequence[AccuracyCurve], tolerance: float = 0.0, significance: float | None = None
) -> list[int]:
    """Gives places to several classifiers, the most robust first.

    Place 1 holds all that no other is ahead of, as `compare` says with this tolerance and
    significance; place 2 those that only classifiers in place 1 are ahead of, and so on. So nobody
    stands before a classifier that is ahead of it, and places are a total preorder, though ties may
    not be transitive. Classifiers that are ahead of each other in a circle, which a tolerance or a
    significance allows, share a place.

    Args:
        curves: Curves of the same samples and magnitudes.
        tolerance: As of `compare`.
        significance: As of `compare`.

    Returns:
        The place of each curve, in the order given: 1 for the best; those that share one leave out
        none behind them.

    Raises:
        ValueError: As `compare`, or if there is no curve.

    Example: the paper's second and fourth classifier mirror each other, and share a place once
    chance may not decide.

    >>> import lexirobust as lr
    >>> x, y = lr.datasets.toy(100, seed=0)
    >>> attack = lr.attacks.PGD(norm="l2", steps=1, restarts=2, bounds=None)
    >>> curves = [
    ...     lr.evaluate_robustness(classifier, x, y, attack, [0, 0.5, 5.5], checks=False)
    ...     for classifier in map(lr.datasets.toy_classifier, ("f1", "f2", "f3", "f4"))
    ... ]
    >>> rank(curves, significance=0.05)
    [3, 1, 2, 1]

    Reference:
        Sections 3.1 and 3.2 of the paper.
    """
    curves = [*curves]
    if not curves:
        raise ValueError("`curves` must be at least one. Received: none.")

    found = standings(curves, tolerance, significance)
    _warn_of_different_attacks(curves)
    return found


def standings(
    curves: Sequence[AccuracyCurve], tolerance: float = 0.0, significance: float | None = None
) -> list[int]:
    """Gives places as `rank` does, whatever attacks the curves are of."""
    ahead = np.zeros((len(curves), len(curves)), bool)
    # Each with itself, too: so one alone is checked.
    for i, j in itertools.combinations_with_replacement(range(len(curves)), 2):
        order = decide(curves[i], curves[j], tolerance, significance).order
        ahead[i, j], ahead[j, i] = order > 0, order < 0
    for between in range(len(curves)):  # Those ahead by way of others, too (Warshall).
        ahead |= ahead[:, [between]] & ahead[[between]]
    ahead &= ~ahead.T  # In a circle nobody is ahead.
    found = np.ones(len(curves), int)
    for _ in curves:
        found = 1 + np.max(ahead * found[:, None], axis=0)
    return found.tolist()


def _warn_of_different_attacks(curves: Sequence[AccuracyCurve]) -> None:
    """Warns the caller of `compare` or `rank`."""
    if not under_same_attacks(curves):
        warn(
            "The curves are of different attacks, or of different settings of one: what a weaker "
            "attack leaves is no robustness. Measure all classifiers with the same."
        )


def _mcnemar(first: AccuracyCurve, second: AccuracyCurve) -> np.ndarray:
    """`[K]` exact two-sided p-values of equal accuracy on the samples that count for both."""
    both = first.valid & second.valid
    only_first = np.sum(both & first.correct & ~second.correct, axis=1)
    only_second = np.sum(both & second.correct & ~first.correct, axis=1)
    return np.array(
        [
            stats.binomtest(int(a), int(a + b)).pvalue if a + b else 1.0
            for a, b in zip(only_first, only_second, strict=True)
        ]
    )


def _holm(p_values: np.ndarray) -> np.ndarray:
    """`[K]` p-values corrected for their number."""
    ascending = np.argsort(p_values)
    scaled = p_values[ascending] * np.arange(len(p_values), 0, -1)
    corrected = np.empty_like(p_values)
    corrected[ascending] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return corrected


def check_comparable(first: AccuracyCurve, second: AccuracyCurve) -> None:
    """Checks that two curves may be compared: as `check_pair`, and of the same norm.

    Args:
        first: A curve.
        second: Another.

    Raises:
        ValueError: If they may not.
        TypeError: If one is no curve.
    """
    check_pair(first, second)
    norms = [first.norm, second.norm]
    if None not in norms and norms[0] != norms[1]:
        raise ValueError(
            "Curves must be of the same norm: magnitudes of different norms are not comparable. "
            f"Received: {norms[0]} and {norms[1]}."
        )


def under_same_attacks(curves: Iterable[AccuracyCurve]) -> bool:
    """Tells if curves were measured with the same attacks, as far as they say.

    Args:
        curves: Curves.

    Returns:
        Whether those of them that say what their attacks were differ in seeds alone.
    """
    kinds = [_kinds_of(c.settings["attacks"]) for c in curves if "attacks" in c.settings]
    return all(kind == kinds[0] for kind in kinds)


def _kinds_of(attacks: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Attacks' classes and settings without their seeds, in any order."""

    def seedless(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: seedless(inner) for name, inner in value.items() if name != "seed"}
        return [seedless(inner) for inner in value] if isinstance(value, list) else value

    kinds = [[each.get("class_name"), seedless(each.get("config"))] for each in attacks]
    return sorted(kinds, key=repr)
