"""The worst of what several attacks find: the union of what each may do."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lexirobust.attacks.base import Attack
from lexirobust.attacks.check_attack import check_attack
from lexirobust.attacks.classifier import Classifier, logits_of
from lexirobust.attacks.losses import cross_entropy
from lexirobust.checks import check_magnitudes
from lexirobust.graphs import or_else
from lexirobust.tensors import choose, of_dtype


@keras.saving.register_keras_serializable(package="lexirobust")
class WorstCase(Attack):
    """The worst of several attacks for each sample: perturbations of all their norms in one.

    Every attack perturbs the whole batch, and each sample keeps the input of largest cross entropy;
    of equals, the first attack's. The magnitude is a share: at 1 each attack moves by its own of
    `magnitudes`, at 0.5 by half of it. A rank at magnitude 1 is "Max" training over several norms;
    ascending magnitudes rank a union of norms as it grows.

    Args:
        attacks: At least two attacks that raise the loss, have the same `bounds`, and allow
            perturbed inputs anywhere, as a `VoronoiPGD` and a `GuidedPGD` do not.
        magnitudes: What each attack moves by at magnitude 1, above 0, in its own norm.
        seed: Integer seed of the attack's own random generator; those of `attacks` play no part.

    Raises:
        TypeError: If one of `attacks` is not an attack.
        ValueError: If a setting is not one of those above.

    Example: against a linear classifier a linf perturbation gains its size times the weights' l1
    norm, an l2 perturbation its size times their l2 norm: here 0.5 * 1.4 and 0.6 * 1.

    >>> classifier = lambda x: x @ tf.constant([[0.6, -0.6], [0.8, -0.8]])
    >>> from lexirobust.attacks import PGD
    >>> norms = [PGD(norm=norm, bounds=None) for norm in ("linf", "l2")]
    >>> attack = WorstCase(norms, magnitudes=[0.5, 0.6])
    >>> x = attack(classifier, tf.zeros((1, 2)), tf.constant([0]), 1.0)
    >>> print(x.numpy().round(2))
    [[-0.5 -0.5]]

    Reference:
        Tramer and Boneh, arXiv 1904.13000, the max strategy.
    """

    norms = ("worst",)

    def __init__(
        self, attacks: Sequence[Attack], magnitudes: Sequence[float], seed: int | None = None
    ) -> None:
        attacks, magnitudes = check_union(attacks, magnitudes)
        # Otherwise opponents would be compared with adversarial samples.
        if any(getattr(attack, "goal", "maximize") != "maximize" for attack in attacks):
            raise ValueError('`attacks` must have goal="maximize". Received: goal="minimize".')
        # Samples that do not count for one attack would count by another's input.
        choosy = [type(each).__name__ for each in attacks if type(each).valid is not Attack.valid]
        if choosy:
            raise ValueError(
                "`attacks` must count all samples, not only those with an input in a region. "
                f"Received: {choosy}."
            )
        bounds = [attack.bounds for attack in attacks]
        if any(each != bounds[0] for each in bounds):
            raise ValueError(f"`attacks` must have the same `bounds`. Received: {bounds}.")
        super().__init__(self.norms[0], bounds[0], seed)
        self.attacks = tuple(attacks)
        self.magnitudes = tuple(magnitudes)

    def perturb(
        self, classifier: Classifier, x: tf.Tensor, y: tf.Tensor, magnitude: Any, seed: tf.Tensor
    ) -> tf.Tensor:
        """Perturbs a batch inside a graph, by one attack after the other; see `Attack.perturb`."""
        magnitude = of_dtype(magnitude, x.dtype)
        found = [
            attack.perturb(classifier, x, y, own * magnitude, folded)
            for attack, own, folded in self._each(seed)
        ]
        return _worst(classifier, y, found)

    def sweep_in_graph(
        self,
        classifier: Classifier,
        x: tf.Tensor,
        y: tf.Tensor,
        magnitudes: Any,
        seed: tf.Tensor,
        **given: tf.Tensor,
    ) -> tf.Tensor:
        """Sweeps each attack in its own way, as some see a batch as one; see `Attack`."""
        del given
        magnitudes = of_dtype(magnitudes, x.dtype)
        found = [
            attack.sweep_in_graph(classifier, x, y, own * magnitudes, folded)
            for attack, own, folded in self._each(seed)
        ]
        flat = [tf.reshape(x_adv, (-1, *x.shape[1:])) for x_adv in found]
        times = tf.concat([tf.shape(magnitudes)[:1], tf.ones_like(tf.shape(y)[1:])], axis=0)
        return tf.reshape(_worst(classifier, tf.tile(y, times), flat), tf.shape(found[0]))

    def _each(self, seed: tf.Tensor) -> Iterator[tuple[Attack, float, tf.Tensor]]:
        """Every attack with its magnitude and a seed of its own."""
        seed = tf.cast(seed, tf.int32)
        for number, pair in enumerate(zip(self.attacks, self.magnitudes, strict=True)):
            yield *pair, tf.random.experimental.stateless_fold_in(seed, number)

    def measure(self, perturbation: Any) -> tf.Tensor:
        """Measures the smallest magnitude whose union of balls holds the perturbation.

        Args:
            perturbation: `[N, ...]` float array or tensor, perturbed less clean inputs.

        Returns:
            `[N]` tensor; not a number where the magnitude of one of the attacks is no norm.
        """
        sizes = [attack.measure(perturbation) for attack in self.attacks]
        known = [~tf.math.is_nan(size) for size in sizes]
        shares = [
            tf.where(one, size, 0.0) / own
            for one, size, own in zip(known, sizes, self.magnitudes, strict=True)
        ]
        return or_else(tf.reduce_all(known, axis=0), tf.reduce_min(shares, axis=0), np.nan)

    def check_room(self, magnitude: float, shape: Sequence[int]) -> None:
        """Checks that the bounds hold the perturbations of all attacks.

        Args:
            magnitude: The share.
            shape: Of one input.

        Raises:
            ValueError: If they do not hold one of them.
        """
        for attack, own in zip(self.attacks, self.magnitudes, strict=True):
            attack.check_room(own * magnitude, shape)

    def feasible(self, x: Any, magnitude: Any) -> tf.Tensor:
        """Says where the bounds leave room for the perturbations of all attacks.

        Args:
            x: `[N, ...]` float array or tensor.
            magnitude: Scalar or `[N]`.

        Returns:
            `[N]` bool tensor.
        """
        rooms = [
            attack.feasible(x, own * tf.convert_to_tensor(magnitude))
            for attack, own in zip(self.attacks, self.magnitudes, strict=True)
        ]
        return tf.reduce_all(tf.stack(rooms), axis=0)

    def get_config(self) -> dict[str, Any]:
        """Returns the settings from which `from_config` makes an equal attack."""
        return {
            "attacks": [keras.saving.serialize_keras_object(attack) for attack in self.attacks],
            "magnitudes": list(self.magnitudes),
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "WorstCase":
        """Makes an attack from what `get_config` returned."""
        attacks = [keras.saving.deserialize_keras_object(each) for each in config["attacks"]]
        return cls(**{**config, "attacks": attacks})


def _worst(classifier: Classifier, y: tf.Tensor, found: Sequence[tf.Tensor]) -> tf.Tensor:
    """Of several perturbed inputs of each sample, the one of largest loss."""
    worst: tuple[tf.Tensor, ...] | None = None
    for x_adv in found:
        # As the attacks see it: no ties where a float32 cross entropy rounds to 0.
        loss = cross_entropy(logits_of(classifier, x_adv), y, tf.constant(False))
        if worst is None:
            worst = x_adv, loss
        else:
            worse = (loss > worst[1]) | tf.math.is_nan(loss)
            worst = choose(worse, (x_adv, loss), worst)
    assert worst is not None
    return tf.stop_gradient(worst[0])


def check_union(
    attacks: Sequence[Attack], magnitudes: Sequence[float]
) -> tuple[list[Attack], list[float]]:
    """Checks several attacks and the magnitude of each.

    Args:
        attacks: The attacks.
        magnitudes: One magnitude an attack, in any order: their norms differ.

    Returns:
        Both as lists.

    Raises:
        TypeError: If one of `attacks` is not an attack.
        ValueError: If there are fewer than two, or not one magnitude above 0 for each.
    """
    if not isinstance(attacks, list | tuple):
        raise TypeError(f"`attacks` must be a list of attacks. Received: {attacks!r}.")
    for attack in attacks:
        check_attack(attack)
    if len(attacks) < 2:
        raise ValueError(f"`attacks` must be at least two. Received: {attacks!r}.")
    magnitudes = check_magnitudes(magnitudes, ranked=False)
    if len(magnitudes) != len(attacks) or min(magnitudes) == 0:
        raise ValueError(
            f"`magnitudes` must hold one number above 0 for each of {len(attacks)} attacks. "
            f"Received: {magnitudes}."
        )
    return list(attacks), magnitudes
