"""The base class of attacks whose adversarial examples are allowed in a region alone."""

import abc
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from lexirobust.attacks.base import Attack
from lexirobust.attacks.gradient.gradient_ascent import AllowedRegion
from lexirobust.attacks.gradient.pgd import PGD
from lexirobust.tensors import of_dtype


class RegionPGD(PGD):
    """`PGD` by two ranked goals: into the region that is allowed first, then up the loss.

    A subclass writes `allowed_region`.

    Args:
        **settings: As of `PGD`.

    Raises:
        ValueError: If `early_stop` is asked for.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if self.early_stop:
            raise ValueError(
                "`early_stop` must be False: success is not all that is asked for inside a region."
            )

    @abc.abstractmethod
    def allowed_region(self, x: tf.Tensor, magnitude: tf.Tensor) -> AllowedRegion:
        """The region where adversarial examples are allowed; see `PGD.allowed_region`."""

    def valid(self, x: Any, x_adv: tf.Tensor, magnitude: Any) -> tf.Tensor | None:
        """Those in the region, if that is known; see `Attack.valid`."""
        x = tf.convert_to_tensor(x)
        magnitude = tf.broadcast_to(of_dtype(magnitude, x.dtype), tf.shape(x)[:1])
        holds = self.allowed_region(x, magnitude).holds
        return None if holds is None else holds(tf.convert_to_tensor(x_adv))

    def _sweep(self, *given: Any) -> Iterator[tf.Tensor]:
        """Attacks each magnitude alone: what is allowed at one may not be at the next."""
        return Attack._sweep(self, *given)
