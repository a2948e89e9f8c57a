"""Colors and checks that the figures share."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

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
# Where a text may stand beside its point, in points, the best first.
_PLACES: Final = [
    (round(length * right, 1), round(length * up, 1))
    for length in (7, 12, 18, 25)
    for right, up in (
        (0.8, 0.7),
        (1, 0),
        (0.8, -0.7),
        (-0.8, 0.7),
        (-1, 0),
        (-0.8, -0.7),
        (0, 1.2),
        (0, -1.2),
    )
]
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


def label_points(
    figure: Figure, axes: Axes, labels: Sequence[tuple[str, float, float, str]]
) -> None:
    """Writes a text at each point, where it overlaps no point and no text.

    Call it last: limits and size of the axes must not change after it. A text that finds no room
    has the place that overlaps least.

    Args:
        figure: The whole figure.
        axes: What the points are drawn on, in it.
        labels: A text, its point's x and y, and its color, each.
    """
    figure.draw_without_rendering()  # Lays the axes out.
    points = [axes.transData.transform((x, y)) for _, x, y, _ in labels]
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in points]
    legend = axes.get_legend()
    taken += [] if legend is None else [legend.get_window_extent()]
    for text, x, y, color in labels:
        drawn = axes.annotate(
            text,
            (x, y),
            _PLACES[0],
            textcoords="offset points",
            color=color,
            fontsize=7,
            va="center",
        )
        tried = []
        for place in _PLACES:
            drawn.xyann, (right, _) = place, place
            drawn.set_horizontalalignment(
                "center" if right == 0 else "left" if right > 0 else "right"
            )
            box = drawn.get_window_extent()
            overlap = sum(_area(box, other) for other in taken)
            outside = box.width * box.height - _area(box, axes.bbox)
            tried.append((overlap + outside, place, box, drawn.get_horizontalalignment()))
        _, place, box, side = min(tried, key=lambda each: each[0])
        drawn.xyann = place
        drawn.set_horizontalalignment(side)
        taken.append(box)


def _area(one: Bbox, other: Bbox) -> float:
    """How much two boxes overlap."""
    both = Bbox.intersection(one, other)
    return 0.0 if both is None else float(both.width * both.height)
