"""The ranking of classifiers as a page tells it: places, what decides, and the strict order."""

import itertools
import operator
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from lexirobust.evaluation import AccuracyCurve, Order
from lexirobust.evaluation.order import decide, standings

SIGNIFICANCE: Final = 0.05


class Place(NamedTuple):
    """Classifiers that share a place, and why.

    Attributes:
        number: The place.
        names: The classifiers, by the strict order.
        p_value: The smallest corrected p-value among them; `None` for one alone.
        circle: Whether some are significantly ahead of others, which are ahead of them in turn.
    """

    number: int
    names: list[str]
    p_value: float | None
    circle: bool


class Pair(NamedTuple):
    """Two classifiers, what decides between them, and their accuracies there."""

    ahead: str
    behind: str
    order: Order
    accuracies: list[float]


def places_of(curves: Mapping[str, AccuracyCurve]) -> list[Place]:
    """Places with names, the most robust first, where chance decides nothing."""
    numbers = standings(list(curves.values()), significance=SIGNIFICANCE)
    strict = dict(zip(curves, standings(list(curves.values())), strict=True))
    shared: dict[int, list[str]] = {}
    for number, name in sorted(
        zip(numbers, curves, strict=True), key=lambda p: (p[0], strict[p[1]])
    ):
        shared.setdefault(number, []).append(name)
    return [_place(curves, number, names) for number, names in shared.items()]


def _place(curves: Mapping[str, AccuracyCurve], number: int, names: list[str]) -> Place:
    orders = [
        decide(curves[one], curves[other], significance=SIGNIFICANCE)
        for one, other in itertools.combinations(names, 2)
    ]
    p_value = min((order.p_value for order in orders), default=None)
    return Place(number, names, p_value, circle=any(order.order for order in orders))


def pairs_of(curves: Mapping[str, AccuracyCurve], places: Sequence[Place]) -> list[Pair]:
    """For each classifier the first in the place before its own that is ahead of it."""
    pairs: list[Pair] = []
    for before, place in itertools.pairwise(places):
        for behind in place.names:
            found = (_pair(curves, ahead, behind) for ahead in before.names)
            # In a circle some are behind by way of others alone.
            pairs.extend(itertools.islice((pair for pair in found if pair.order.order > 0), 1))
    return pairs


def strict_order(curves: Mapping[str, AccuracyCurve]) -> list[tuple[int, str, Order | None]]:
    """Places in the strict order with names, and what puts each behind the one before it."""
    places = zip(standings(list(curves.values())), curves, strict=True)
    ranked = sorted(places, key=operator.itemgetter(0))
    names = [name for _, name in ranked]
    orders = [decide(curves[one], curves[other]) for one, other in itertools.pairwise(names)]
    decided = [None, *(order if order.order else None for order in orders)]
    return [(*place, order) for place, order in zip(ranked, decided, strict=True)]


def _pair(curves: Mapping[str, AccuracyCurve], ahead: str, behind: str) -> Pair:
    both = curves[ahead], curves[behind]
    order = decide(*both, significance=SIGNIFICANCE)
    at = both[0].magnitudes == order.at
    accuracies = [float(curve.accuracy[at][0]) for curve in both if order.order]
    return Pair(ahead, behind, order, accuracies)
