"""Checks of settings and logits before anything runs."""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from lexirobust.names import check_names_differ


def check_magnitudes(magnitudes: Any, ranked: bool = True, name: str = "magnitudes") -> list[float]:
    """Checks perturbation norms.

    Args:
        magnitudes: Sequence of numbers.
        ranked: Whether they are ranked below natural accuracy: above 0 and ascending.
        name: What the caller's argument is called.

    Returns:
        The magnitudes as a list of floats.

    Raises:
        ValueError: If there are none, they are no numbers, not finite or negative; where they are
            ranked, if one is 0, they do not ascend, or logs would give two of them one name.
    """
    values = np.atleast_1d(_as_numbers(magnitudes))
    if values.ndim != 1 or not values.size:
        raise ValueError(f"`{name}` must be a sequence of numbers. Received: {magnitudes!r}.")
    if not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"`{name}` must be finite and at least 0. Received: {values.tolist()}.")
    if ranked and (np.diff(values, prepend=0.0) <= 0).any():
        raise ValueError(
            f"`{name}` must be above 0 and ascending, each once; natural accuracy is a rank of "
            f"its own. Received: {values.tolist()}."
        )
    if ranked:
        check_names_differ(values.tolist(), name)
    return values.tolist()


def check_priors(priors: Any, classes: int | None = None) -> np.ndarray:
    """Checks how probable classes are.

    Args:
        priors: `[C]` numbers.
        classes: How many there must be; `None`: any number.

    Returns:
        `[C]` float64.

    Raises:
        ValueError: If they are not above 0 with a sum of 1, or not as many.
    """
    values = np.asarray(priors)
    numbers = values.ndim == 1 and values.dtype.kind == "f"
    if not numbers or not values.size or not (values > 0).all() or abs(values.sum() - 1) > 1e-3:
        raise ValueError(
            "`priors` must be [C] probabilities of the classes, above 0, with a sum of 1. "
            f"Received: {priors!r}."
        )
    if classes is not None and len(values) != classes:
        raise ValueError(
            f"`priors` must be one for each of {classes} classes. Received: {len(values)}."
        )
    return values.astype(np.float64)


def check_count(
    argument: str, value: Any, least: int = 1, most: int | None = None, optional: bool = False
) -> None:
    """Checks a number of things.

    Args:
        argument: Its name.
        value: The number.
        least: The least that is allowed.
        most: The most, or `None`.
        optional: Whether it may be `None`.

    Raises:
        ValueError: If it is no integer from the least to the most.
    """
    if optional and value is None:
        return
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_integer or value < least or (most is not None and value > most):
        allowed = f"of at least {least}" if most is None else f"from {least} to {most}"
        allowed += " or None" * optional
        raise ValueError(f"`{argument}` must be an integer {allowed}. Received: {value!r}.")


def check_number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    inside: bool = False,
) -> float:
    """Checks a finite number.

    Args:
        name: What the caller's argument is called.
        value: A number of any type, but a bool.
        low: The least that is allowed.
        high: The most that is allowed.
        inside: Whether the least and the most themselves are too little and too much.

    Returns:
        The same as a Python float.

    Raises:
        ValueError: If it is no number, not finite, or not from `low` to `high`.
    """
    known = np.isscalar(value) or hasattr(value, "__array__")
    number = np.asarray(value if known else None)
    is_number = number.ndim == 0 and number.dtype.kind in "iuf" and bool(np.isfinite(number))
    if not is_number or not low <= number <= high or (inside and number in (low, high)):
        raise ValueError(f"`{name}` must be a {_range_of(low, high, inside)}. Received: {value!r}.")
    return float(number)


def _range_of(low: float, high: float, inside: bool) -> str:
    """The numbers that are allowed, in words."""
    if math.isfinite(low) and math.isfinite(high):
        between = f"above {low:g} and below {high:g}" if inside else f"from {low:g} to {high:g}"
        return f"number {between}"
    if math.isfinite(low):
        return f"finite number {'above' if inside else 'of at least'} {low:g}"
    if math.isfinite(high):
        return f"finite number {'below' if inside else 'of at most'} {high:g}"
    return "finite number"


def check_bounds(bounds: Any) -> tuple[float, float] | None:
    """Checks the lowest and highest value of an input.

    Args:
        bounds: Two finite numbers, or `None`.

    Returns:
        The same as Python floats, or `None`.

    Raises:
        ValueError: If they are something else, or the first is not below the second.
    """
    if bounds is None:
        return None
    try:
        ends = np.asarray(bounds)
    except ValueError:  # Of several lengths.
        ends = np.empty(0)
    fits = ends.shape == (2,) and ends.dtype.kind in "iuf" and np.isfinite(ends).all()
    if not fits or ends[0] >= ends[1]:
        raise ValueError(
            "`bounds` must be (low, high), finite and low below high, or None. Received: "
            f"{bounds!r}."
        )
    return float(ends[0]), float(ends[1])


def check_seed(seed: Any) -> int | None:
    """Checks a seed of random numbers.

    Args:
        seed: Integer from 0 to 2**32 - 1 of any type, or `None`.

    Returns:
        The same as a Python integer, which JSON and Keras take, or `None`.

    Raises:
        ValueError: If it is something else.
    """
    check_count("seed", seed, least=0, most=2**32 - 1, optional=True)
    return None if seed is None else int(seed)


def check_flag(argument: str, value: Any) -> bool:
    """Checks what is true or false.

    Args:
        argument: Its name.
        value: A bool, Python's or NumPy's.

    Returns:
        The same as Python's.

    Raises:
        TypeError: If it is something else: what a string or a number would mean is a guess.
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"`{argument}` must be a bool. Received: {value!r}.")
    return bool(value)


def check_steps(steps: Any, step_size: Any, restarts: Any, random_start: bool) -> None:
    """Checks the settings of gradient ascent.

    Args:
        steps: Number of gradient steps.
        step_size: Size of a step, or `None`.
        restarts: Number of starts.
        random_start: Whether they are random.

    Raises:
        ValueError: If a number is out of range, or starts would all be the same.
    """
    check_count("steps", steps)
    check_count("restarts", restarts)
    if step_size is not None:
        check_number("step_size", step_size, low=0, inside=True)
    if restarts > 1 and not random_start:
        raise ValueError(
            "`restarts` above 1 need `random_start=True`: from one start they all end alike. "
            f"Received: restarts={restarts}."
        )


def check_alphas(alphas: Sequence[float] | None, ranks: int) -> list[float]:
    """Checks the weights of the ranks, and fills in the default.

    Args:
        alphas: One weight a rank, or `None`: half for rank 1, the rest shared by the others.
        ranks: Number of ranks.

    Returns:
        `ranks` floats.

    Raises:
        ValueError: If the count is wrong, a weight is negative or not finite, or the sum not 1.
    """
    if alphas is None:
        return [1.0] if ranks == 1 else [0.5] + [0.5 / (ranks - 1)] * (ranks - 1)
    values = _as_numbers(alphas)
    if values.shape != (ranks,):
        raise ValueError(
            f"`alphas` must hold one weight for each of {ranks} ranks. Received: {alphas!r}."
        )
    if not np.isfinite(values).all() or (values < 0).any() or abs(values.sum() - 1.0) > 1e-6:
        raise ValueError(f"`alphas` must be at least 0 and sum to 1. Received: {alphas!r}.")
    return values.tolist()


def _as_numbers(values: Any) -> np.ndarray:
    """float64 array; an empty one where the values are no numbers."""
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        return np.empty(0)


def logits_problem(outputs: Any) -> str | None:
    """Says what is wrong with a classifier that gives probabilities.

    Every row of them is at least 0 and sums to 1, within 1e-3. Logits could do so only by chance.

    Args:
        outputs: `[N, C]` array or tensor.

    Returns:
        What is wrong and what to do, or `None`.
    """
    outputs = np.asarray(outputs, np.float64)
    if not ((outputs >= 0).all() and (np.abs(outputs.sum(axis=1) - 1) <= 1e-3).all()):
        return None
    return (
        "`classifier` must give logits, but what it gives looks like probabilities: every row is "
        "at least 0 and sums to 1. Their gradients mislead attacks, and accuracies come out too "
        "high. Take the final softmax or sigmoid off: lexirobust.logits(model)."
    )


UNITS: Final = (
    "Magnitudes are in the units of the inputs: what is 8 / 255 of images from 0 to 1 is 8 of "
    "images from 0 to 255."
)
"""What is said of a magnitude that is too small or too large for the bounds."""


def scale_problem(magnitude: float, norm: str, bounds: tuple[float, float] | None) -> str | None:
    """Says what is wrong with a magnitude that is next to nothing beside the bounds.

    Args:
        magnitude: The largest that is asked for, above 0.
        norm: What it is of: `"l1"`, `"l2"` or `"linf"`.
        bounds: Lowest and highest value of an input, or `None`.

    Returns:
        What is wrong and what to do, or `None`.
    """
    if bounds is None:
        return None
    # Of images of 8 bits one gray level of a single pixel; of every pixel a third of one, as half a
    # level is measured.
    level = (bounds[1] - bounds[0]) / 255
    if magnitude > (level / 3 if norm == "linf" else level):
        return None
    return (
        f"An {norm} norm of {magnitude:g} is next to nothing where inputs go from {bounds[0]:g} to "
        f"{bounds[1]:g}. {UNITS}"
    )


def randomness_problem(first: Any, second: Any) -> str | None:
    """Says what is wrong with a classifier that answers the same inputs in two ways.

    Args:
        first: `[N, C]` outputs of a call.
        second: `[N, C]` outputs of another call with the same inputs.

    Returns:
        What is wrong and what to do, or `None` where no output differs by more than 1e-4 of the
        largest, which rounding explains.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    apart = np.abs(first - second).max()
    if not apart > 1e-4 * np.abs([first, second]).max():
        return None
    return (
        "`classifier` is randomized: two calls with the same inputs and training=False gave "
        f"outputs that differ by {apart:.2g}. An attack on one call may fail on the next, and "
        "accuracies come out too high. Switch the randomness off, or attack the mean of many calls."
    )
