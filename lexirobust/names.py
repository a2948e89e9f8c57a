"""Names of magnitudes and objectives in logs."""

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
