"""The attack that first leaves the explored region, and only then raises the loss."""

from collections.abc import Callable
from typing import Any, TypeAlias

import tensorflow as tf

from lexirobust.attacks.gradient.gradient_ascent import AllowedRegion
from lexirobust.attacks.gradient.region import RegionPGD
from lexirobust.checks import check_number
from lexirobust.geometry.explored_region import ExploredRegion

Unexplored: TypeAlias = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""Maps inputs `[N, ...]` and magnitudes `[N]` to how surely each input lies outside the region
explored before its magnitude, `[N]`: any increasing function of the probability."""


class GuidedPGD(RegionPGD):
    """`PGD` by two ranked goals: out of the explored region first, then up the loss.

    The loss's gradient is projected against the first goal's, sample by sample, so that a step
    does not lower the first goal to first order; the way back onto the sphere, which follows, may.
    Among all points visited, from every start, the one that is lexicographically best is kept.

    Args:
        unexplored: Maps inputs `[N, ...]` and magnitudes `[N]` to how surely each input lies
            outside the region explored before its magnitude, `[N]`: any increasing function of
            the probability, differentiable where gradients should lead out of the region. Or an
            `ExploredRegion`, which is known exactly: after every step, points are led out of it
            and back to their norm in turn, and those that end inside all the same do not count.
        threshold: From which value of the function `unexplored` on inputs count as outside; what
            ends below it does not count (`valid`). `None`: the surer, the better, and all count.
        **settings: As of `PGD`. Use an even number of `restarts`, so that both sides are tried.

    Example: at norm 3 around 1.5 the classifier is fooled at -1.5, but that is explored already.

    >>> attack = GuidedPGD(
    ...     lambda x, d: tf.abs(x[:, 0]), norm="l2", steps=5, restarts=2, bounds=None
    ... )
    >>> x = attack(lambda x: tf.concat([-x, x], 1), tf.constant([[1.5]]), tf.constant([1]), 3.0)
    >>> x.numpy().tolist()
    [[4.5]]

    Reference:
        Section 4.1 of the paper.
    """

    def __init__(
        self,
        unexplored: Unexplored | ExploredRegion,
        threshold: float | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.unexplored = unexplored
        self.threshold = None if threshold is None else check_number("threshold", threshold)
        self.region = unexplored if isinstance(unexplored, ExploredRegion) else None
        if self.region is not None:
            if threshold is not None:
                raise ValueError(
                    "`threshold` must be None where the explored region is known exactly. "
                    f"Received: {threshold!r}."
                )
            # The region within a maximum norm is another at each perturbation's own norm.
            if self.constraint != "exact":
                raise ValueError(
                    "`constraint` must be 'exact' where the explored region is known exactly. "
                    f"Received: {self.constraint!r}."
                )
            if self.region.norm != self.norm:
                raise ValueError(
                    "`norm` must be that of the explored region's balls. Received: "
                    f"{self.norm!r}, balls of {self.region.norm!r}."
                )

    def allowed_region(self, x: tf.Tensor, magnitude: tf.Tensor) -> AllowedRegion:
        """All that was not explored before the magnitude; see `PGD.allowed_region`."""
        region = self.region
        if region is None:
            assert callable(self.unexplored)
            unexplored, threshold = self.unexplored, self.threshold
            if threshold is None:
                return AllowedRegion(lambda x_adv: unexplored(x_adv, magnitude))
            # Surer than that is no better: it would be taken for a larger loss.
            return AllowedRegion(
                depth=lambda x_adv: tf.minimum(unexplored(x_adv, magnitude) - threshold, 0.0),
                holds=lambda x_adv: unexplored(x_adv, magnitude) >= threshold,
            )
        return AllowedRegion(
            depth=lambda x_adv: region.depth(x_adv, magnitude),
            move=lambda perturbation: region.move_outside(x, perturbation, magnitude),
            holds=lambda x_adv: region.has_outside(x_adv, magnitude),
        )
