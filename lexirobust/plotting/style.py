"""Colors and checks that the figures share."""

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
CLASS_COLORS = (RED, BLUE)
CLASS_NAMES = ("class −1", "class 1")


def check_not_empty(argument: str, value: Any) -> None:
    """Raises a `ValueError` where there is nothing to draw."""
    if len(value) == 0:
        raise ValueError(f"`{argument}` must not be empty. Received: {value!r}.")
