"""What a curve holds of each sample: as arrays, and as JSON."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def as_array(name: str, values: Any, kind: type) -> np.ndarray:
    """Turns what a curve is made of into an array of its kind.

    Args:
        name: What it is called.
        values: An array, tensor or nested lists.
        kind: `bool`, which 0 and 1 are, too, or a floating type: that of what is no floats yet.

    Returns:
        The array.

    Raises:
        TypeError: If they are of another kind.
    """
    try:
        array = np.asarray(values)
    except ValueError:  # Rows of several lengths.
        array = np.asarray(None)
    fits = array.dtype.kind in "biuf"
    if not fits or (kind is bool and not np.isin(array, (0, 1)).all()):
        allowed = "an array of bools" if kind is bool else "an array of numbers"
        raise TypeError(f"`{name}` must be {allowed}. Received: {_described(values, array)}.")
    return array if kind is not bool and array.dtype.kind == "f" else array.astype(kind, copy=False)


def number_or_none(value: float) -> float | None:
    """Values for JSON; numbers that it has no word for become null."""
    return float(value) if np.isfinite(value) else None


def encode_row(row: np.ndarray) -> str | list[float | None]:
    """A row of outcomes: zeros and ones as text, numbers with as many digits as they hold."""
    if row.dtype == bool:
        return "".join(np.where(row, "1", "0"))
    return [number_or_none(float(str(value))) for value in row.astype(np.float32)]


def decode_rows(rows: Sequence[Any], kind: Any) -> np.ndarray:
    """The rows that `encode_row` made, of bools or of a floating type.

    Args:
        rows: What stands in JSON.
        kind: `bool`, or a floating type.

    Returns:
        `[K, N]`.

    Raises:
        ValueError: If bools are no texts of zeros and ones.
        ArithmeticError: If a number is too large for the type.
    """
    if kind is not bool:
        # A number too large for the type is an error, not infinity.
        with np.errstate(over="raise"):
            return np.array([[np.nan if v is None else v for v in row] for row in rows], kind)
    if not all(isinstance(row, str) and set(row) <= {"0", "1"} for row in rows):
        raise ValueError("outcomes must be texts of zeros and ones")
    return np.array([[character == "1" for character in row] for row in rows])


def _described(values: Any, array: np.ndarray) -> str:
    """The kind of values, which may be many."""
    if array.dtype.hasobject:
        return type(values).__name__
    return f"shape {array.shape}, dtype {array.dtype}"
