"""Minimum-norm attacks as attacks of a given magnitude: what they find counts where it is near."""

from collections.abc import Hashable, Iterator
from typing import Any

import keras
import tensorflow as tf

from lexirobust.attacks.base import Attack
from lexirobust.attacks.classifier import Classifier
from lexirobust.attacks.minimum_norm.base import MinimumNormAttack, NearestPoints
from lexirobust.configs import deserialized, serialized
from lexirobust.tensors import choose, of_dtype


@keras.saving.register_keras_serializable(package="lexirobust")
class WithinMagnitude(Attack):
    """A minimum-norm attack as one of a given magnitude, which is the most that may be added.

    Where the nearest misclassified input is farther away than the magnitude the input is left as it
    is. A sweep searches once, and a whole accuracy curve follows from the distances.

    Args:
        attack: A minimum-norm attack, such as `FAB` or `DeepFool`.

    Raises:
        TypeError: If it is another kind of attack.

    Example: the boundary of a linear classifier is at distance 0.5.

    >>> from lexirobust.attacks import DeepFool
    >>> classifier = lambda x: x @ tf.constant([[0.6, -0.6], [0.8, -0.8]])
    >>> attack = WithinMagnitude(DeepFool(norm="l2", bounds=None))
    >>> x, y = tf.constant([[0.3, 0.4]]), tf.constant([0])
    >>> moved = attack.sweep(classifier, x, y, [0.4, 0.6]) - x
    >>> print(attack.measure(moved[0]).numpy().round(2), attack.measure(moved[1]).numpy().round(2))
    [0.] [0.5]
    """

    constraint = "maximum"

    def __init__(self, attack: MinimumNormAttack) -> None:
        if not isinstance(attack, MinimumNormAttack):
            raise TypeError(f"`attack` must be a MinimumNormAttack. Received: {attack!r}.")
        super().__init__(attack.norm, attack.bounds, attack.seed)
        self.attack = attack

    def perturb(
        self, classifier: Classifier, x: tf.Tensor, y: tf.Tensor, magnitude: Any, seed: tf.Tensor
    ) -> tf.Tensor:
        """Perturbs a batch inside a graph; see `Attack.perturb`."""
        magnitude = tf.broadcast_to(of_dtype(magnitude, x.dtype), tf.shape(x)[:1])
        return _near(x, self.attack.search(classifier, x, y, seed, enough=magnitude), magnitude)

    def structure(self) -> Hashable:
        """That of the attack; see `Attack.structure`."""
        return type(self), self.attack.structure()

    def _run(
        self, classifier: Classifier, x: tf.Tensor, y: tf.Tensor, magnitude: tf.Tensor
    ) -> tf.Tensor:
        return _near(x, self._found(classifier, x, y, magnitude), magnitude)

    def _sweep(
        self,
        classifier: Classifier,
        x: tf.Tensor,
        y: tf.Tensor,
        scale: tf.Tensor,
        magnitudes: list[float],
    ) -> Iterator[tf.Tensor]:
        """Searches once for all magnitudes."""
        found = self._found(classifier, x, y, magnitudes[0] * scale)
        for magnitude in magnitudes:
            yield _near(x, found, magnitude * scale)

    def _found(
        self, classifier: Classifier, x: tf.Tensor, y: tf.Tensor, enough: tf.Tensor
    ) -> NearestPoints:
        # The attack's own graph, which serves it wherever it is called.
        seed = tf.cast(self._next_seed(), tf.int32)
        return self.attack._compiled(classifier, x=x, y=y, enough=enough, seed=seed)

    def get_config(self) -> dict[str, Any]:
        """Returns the settings from which `from_config` makes an equal attack."""
        return serialized({"attack": self.attack})

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "WithinMagnitude":
        """Makes an attack from what `get_config` returned."""
        return cls(**deserialized(config))


def _near(x: tf.Tensor, found: NearestPoints, magnitude: tf.Tensor) -> tf.Tensor:
    """The points that were found within a magnitude; elsewhere the inputs themselves."""
    near = found.success & (found.distances <= tf.cast(magnitude, found.distances.dtype))
    return choose(near, found.inputs, x)
