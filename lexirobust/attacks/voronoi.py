"""The attack that keeps nearer to its own sample than to any other of a data set."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import tensorflow as tf

from lexirobust.attacks import geometry
from lexirobust.attacks.attack import Attack, Classifier
from lexirobust.attacks.explored import ExploredRegion
from lexirobust.attacks.loop import Goal, choose
from lexirobust.attacks.pgd import PGD

# By how much farther than its own sample all others must be from a perturbed input, as a share of
# the own distance: where two are equally far, no classifier is to be blamed.
_MARGIN: Final = 1e-5


class VoronoiPGD(PGD):
    """`PGD` inside the Voronoi cells of a data set: genuine adversarial samples.

    A perturbed input counts where no other point of the data set is nearer to it than its own
    sample is. The attack first gets there, by ranked gradients and by being led out of other
    points' balls after every step, and only then raises the loss. With an exact norm some samples
    have no such input at all; they do not count (`counted`).

    Args:
        region: The data set, with the norm of the attack, adapted to points that differ.
        **settings: As of `PGD`. Use an even number of `restarts`, so that both sides are tried.

    Raises:
        ValueError: If the norms differ, or `early_stop` is asked for.

    Example: 1.5 is nearer to 2 than to 0, so only the left side counts at norm 1.5.

    >>> import numpy as np
    >>> region = ExploredRegion("l2")
    >>> region.adapt(np.array([[0.0], [2.0]]))
    >>> attack = VoronoiPGD(region, norm="l2", steps=3, restarts=2, bounds=None)
    >>> x, y = tf.constant([[0.0]]), tf.constant([0])
    >>> moved = attack(lambda x: tf.concat([-x, x], 1), x, y, 1.5)
    >>> moved.numpy().tolist(), attack.counted(x, moved, 1.5).numpy().tolist()
    ([[-1.5]], [True])

    Reference:
        Definition 5 of the paper, for finite data; Khoury and Hadfield-Menell, arXiv 1905.01019,
        and Kilic et al., arXiv 2005.02540, for the maximum norm.
    """

    def __init__(self, region: ExploredRegion, **settings: Any) -> None:
        super().__init__(**settings)
        if self.early_stop:
            raise ValueError(
                "`early_stop` must be False: success is not all that is asked for inside cells."
            )
        if region.norm != self.norm:
            raise ValueError(
                f"`norm` must be that of the region. Received: {self.norm!r}, a region of "
                f"{region.norm!r}."
            )
        self.region = region

    def get_config(self) -> dict[str, Any]:
        """Returns the settings from which `from_config` makes an equal attack."""
        return {"region": self.region, **super().get_config()}

    def counted(self, x: Any, moved: tf.Tensor, magnitude: Any) -> tf.Tensor:
        """Those nearer to their own sample than to any other; see `Attack.counted`."""
        del magnitude
        x = tf.convert_to_tensor(x)
        return self._depth(x, moved, self.region.own(x)) >= 0

    def _depth(self, x: tf.Tensor, moved: tf.Tensor, own: tf.Tensor) -> tf.Tensor:
        """`[N]` how far inputs are from their cell, at most 0, in input units."""
        other = self.region.nearest_other(moved, own)
        own_distance = geometry.norm(moved - x, self.norm)
        other_distance = geometry.norm(moved - other, self.norm)
        return tf.minimum(other_distance - (1.0 + _MARGIN) * own_distance, 0.0)

    def _climb(
        self,
        goals: Sequence[Goal],
        x: tf.Tensor,
        magnitude: tf.Tensor,
        seed: tf.Tensor,
        **settings: Any,
    ) -> tf.Tensor:
        own = self.region.own(x)

        def lead_out(x: tf.Tensor, perturbation: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
            moved = x + perturbation
            other = self.region.nearest_other(moved, own)
            radius = geometry.norm(perturbation, self.norm)
            # Twice the margin, so that rounding on the way does not lead back inside.
            out = geometry.leave_ball(perturbation, other - x, radius, self.norm, 2 * _MARGIN)
            return choose(self._depth(x, moved, own) < 0, out, perturbation)

        ranked = [lambda inputs: self._depth(x, inputs, own), *goals]
        moved = super()._climb(ranked, x, magnitude, seed, lead_out=lead_out, **settings)
        if self.constraint == "exact":
            return moved
        return choose(self._depth(x, moved, own) < 0, x, moved)  # The input is in its own cell.

    def _ladder(
        self, classifier: Classifier, x: tf.Tensor, y: tf.Tensor, magnitudes: list[float]
    ) -> Iterator[tf.Tensor]:
        """Attacks each magnitude alone: what is allowed at one may not be at the next."""
        return Attack._ladder(self, classifier, x, y, magnitudes)
