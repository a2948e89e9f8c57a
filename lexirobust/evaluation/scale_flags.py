"""Warnings that ask for no further attack: of scales, bounds, and what is no number."""

from collections.abc import Iterator, Sequence

import numpy as np

from lexirobust.attacks import Attack
from lexirobust.checks import UNITS, scale_problem
from lexirobust.evaluation.flags import Flag
from lexirobust.geometry import balls


def infeasible(feasible: np.ndarray, magnitudes: np.ndarray, exact: bool) -> Flag | None:
    """Says where the bounds are too tight for perturbations of an exact norm.

    Args:
        feasible: `[K, N]` bool.
        magnitudes: `[K]`.
        exact: Whether the attack's norm is meant to be the magnitude.

    Returns:
        A flag, or `None`.
    """
    shares = _shares_by_magnitude(np.mean(~feasible, axis=1), magnitudes)
    if not exact or not shares:
        return None
    return Flag(
        "exact norms out of reach",
        f"The bounds leave no room for a perturbation of the exact norm for some samples: {shares}."
        " Those are perturbed by less.",
        "Read those accuracies as of a smaller magnitude, or measure smaller ones.",
    )


def in_reach(largest: float, shape: Sequence[int], attacks: Sequence[Attack]) -> Flag | None:
    """Says where no input is out of an attack's reach, as by a magnitude in other units.

    Args:
        largest: Of all norms that a sample is perturbed by; 0 if none is.
        shape: Of one input.
        attacks: The attacks, which have the same bounds.

    Returns:
        A flag, or `None`.
    """
    for attack in attacks:
        if attack.bounds is None or attack.norm not in balls.NORMS:
            continue
        longest = balls.diagonal(attack.bounds, shape, attack.norm)
        if largest > longest * (1.0 + 1e-6):
            return Flag(
                "every input in reach",
                f"An {attack.norm} norm of {largest:g} is more than the {longest:g} between two "
                "opposite corners of the bounds: every input is in reach of every other, and "
                f"accuracies there say nothing of a classifier. {UNITS}",
                "Measure smaller magnitudes.",
            )
    return None


def of_another_scale(
    lowest: float, highest: float, largest: float, attacks: Sequence[Attack]
) -> Iterator[Flag]:
    """Says where inputs or magnitudes do not fit the range that the bounds say inputs have.

    Args:
        lowest: Of all inputs.
        highest: Of all inputs.
        largest: Of all norms that a sample is perturbed by; 0 if none is.
        attacks: The attacks, which have the same bounds.

    Yields:
        A flag each.
    """
    bounds = attacks[0].bounds
    if bounds is None:
        return
    if 0 < highest - lowest < (bounds[1] - bounds[0]) / 100:
        yield Flag(
            "inputs of another scale",
            f"Inputs go from {lowest:g} to {highest:g}, less than a hundredth of the attack's "
            f"bounds {bounds}.",
            "Give the classifier the inputs that it was made for, and the attack their range.",
        )
    for norm in dict.fromkeys(attack.norm for attack in attacks):
        problem = None
        if largest > 0 and norm in balls.NORMS:
            problem = scale_problem(largest, norm, bounds)
        if problem is not None:
            yield Flag("magnitudes next to nothing", problem, "Measure larger magnitudes.")
            return


def not_finite(losses: np.ndarray, magnitudes: np.ndarray) -> Flag | None:
    """Says where logits are not numbers, or infinite.

    Args:
        losses: `[K, N]` cross entropies.
        magnitudes: `[K]`.

    Returns:
        A flag, or `None`.
    """
    shares = _shares_by_magnitude(np.mean(~np.isfinite(losses), axis=1), magnitudes)
    if not shares:
        return None
    return Flag(
        "logits not finite",
        "The classifier's logits are not numbers, or infinite, for some samples: "
        f"{shares}. What is not a number counts as wrong.",
        "Look at the weights, and for roots, logarithms and divisions; "
        "`tf.debugging.enable_check_numerics()` finds the first operation at fault.",
    )


def _shares_by_magnitude(shares: np.ndarray, magnitudes: np.ndarray) -> str:
    """The affected share of the samples, for each magnitude at which there are any."""
    pairs = zip(magnitudes, shares, strict=True)
    return ", ".join(f"{share:.1%} at {m:g}" for m, share in pairs if share)
