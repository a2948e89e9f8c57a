"""Colors and checks that the figures share."""

import itertools
from collections.abc import Iterable
from typing import Any, Final

# Red and blue as in the paper, in shades that stay apart for color-blind readers and in gray.
RED = "#d1261f"
BLUE = "#1f5fb4"
# Okabe and Ito's colors, each with a marker and a line, so that gray prints tell them apart, too.
SERIES: Final[list[dict[str, Any]]] = [
    {"color": color, "marker": marker, "linestyle": line}
    for color, marker, line in zip(
        ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "black"),
        "osv^DPX",
        ("-", "--", "-.", ":", "-", "--", "-."),
        strict=True,
    )
]
# Where a training method's style stands there: it is the same in every picture.
METHODS: Final = {
    "olsrc": 0,
    "adversarial": 1,
    "weighted sum": 1,
    "olgrc": 2,
    "trades": 4,
    "mixtrain": 5,
    "standard": 6,
}
CLASS_COLORS = (RED, BLUE)
CLASS_NAMES = ("class −1", "class 1")


def series_styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Gives each name a color, a marker and a line of its own.

    Args:
        names: What is drawn. A name that begins with a training method's, such as "OLSRC, alpha
            0.5", has that method's style, if no shorter name has it already. The others have what
            is left, in their order; beyond seven names, styles repeat.

    Returns:
        Mapping from the names, in their order, to keywords of Matplotlib's `plot`.

    Example:

    >>> series_styles(["mine", "OLSRC"])["OLSRC"] == series_styles(["OLSRC"])["OLSRC"]
    True
    """
    names = list(names)
    places: dict[str, int] = {}
    for name in sorted(names, key=len):
        place = next((p for m, p in METHODS.items() if name.casefold().startswith(m)), None)
        if place is not None and place not in places.values():
            places[name] = place
    left = [place for place in range(len(SERIES)) if place not in places.values()]
    others = itertools.chain(left, itertools.cycle(range(len(SERIES))))
    return {name: SERIES[places[name] if name in places else next(others)] for name in names}


def check_not_empty(argument: str, value: Any) -> None:
    """Raises a `ValueError` where there is nothing to draw."""
    if len(value) == 0:
        raise ValueError(f"`{argument}` must not be empty. Received: {value!r}.")
