"""Names of magnitudes and objectives in logs."""

from collections.abc import Sequence
from typing import Final

_OF_FORMATS: Final = ".[]{}:!"
"""The characters that `str.format` interprets, as in `ModelCheckpoint("{accuracy@NAME:.2f}")`."""


def magnitude_name(norm: str, magnitude: float) -> str:
    """Names a magnitude for the logs, with "_" for the decimal point.

    Args:
        norm: The attack's norm.
        magnitude: Norm of the perturbation.

    Returns:
        The norm and the magnitude, as a format string can hold them.

    Example:

    >>> magnitude_name("l2", 0.5), magnitude_name("linf", 4.0)
    ('l2=0_5', 'linf=4')
    """
    return f"{norm}={magnitude:g}".replace(".", "_")


def check_names_differ(magnitudes: Sequence[float], name: str = "magnitudes") -> None:
    """Checks that logs can tell magnitudes apart.

    Args:
        magnitudes: Different numbers.
        name: What the caller's argument is called.

    Raises:
        ValueError: If two have the same first six digits.
    """
    if len({magnitude_name("", magnitude) for magnitude in magnitudes}) < len(magnitudes):
        raise ValueError(
            f"`{name}` must differ in their first six digits, by which logs name them. "
            f"Received: {list(magnitudes)}."
        )


def check_name(name: str) -> str:
    """Checks what a user calls an objective.

    Args:
        name: The name.

    Returns:
        The name.

    Raises:
        ValueError: If it holds a character that has a meaning in format strings.
    """
    for character in _OF_FORMATS:
        if character in name:
            raise ValueError(
                f"`name` must not hold {character!r}, which has a meaning in format strings, such "
                f"as those of keras.callbacks.ModelCheckpoint. Received: {name!r}."
            )
    return name
