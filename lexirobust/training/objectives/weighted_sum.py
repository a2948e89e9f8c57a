"""Several losses in one rank."""

from collections.abc import Sequence

import keras
import numpy as np

from lexirobust.training.objectives.base import Objective, Rank


@keras.saving.register_keras_serializable(package="lexirobust")
class WeightedSum(Rank):
    """Several objectives added up with fixed weights, as one rank: none has priority.

    Args:
        objectives: The objectives.
        weights: One weight an objective, finite and at least 0.

    Raises:
        ValueError: If one is no objective, counts differ, or a weight is negative or not finite.

    Example:

    >>> from lexirobust.training.objectives import Natural
    >>> both = WeightedSum([Natural(), Natural("again")], [0.5, 0.5])
    >>> [(weight, term.name) for weight, term in both.terms]
    [(0.5, 'natural'), (0.5, 'again')]
    """

    def __init__(self, objectives: Sequence[Objective], weights: Sequence[float]) -> None:
        if not objectives or not all(isinstance(each, Objective) for each in objectives):
            raise ValueError(
                f"`objectives` must be a non-empty list of objectives. Received: {objectives!r}."
            )
        if len(objectives) != len(weights):
            raise ValueError(
                "`weights` must hold one weight for each objective. Received: "
                f"{len(weights)} weights for {len(objectives)} objectives."
            )
        if not (np.isfinite(weights).all() and min(weights) >= 0):
            raise ValueError(f"`weights` must be finite and at least 0. Received: {weights!r}.")
        super().__init__("+".join(objective.name for objective in objectives))
        self.objectives = list(objectives)
        self.weights = [float(weight) for weight in weights]

    @property
    def terms(self) -> list[tuple[float, Objective]]:
        """The weighted terms of the sum."""
        return list(zip(self.weights, self.objectives, strict=True))
