"""The loss on perturbed inputs."""

import numbers

import keras
import tensorflow as tf

from lexirobust.attacks import Attack
from lexirobust.attacks.check_attack import check_attack
from lexirobust.names import magnitude_name
from lexirobust.training.objectives.base import Batch, Objective, Score
from lexirobust.training.objectives.forward import Forward


@keras.saving.register_keras_serializable(package="lexirobust")
class Adversarial(Objective):
    """The compiled loss on inputs that an attack has perturbed by one magnitude.

    Args:
        attack: Perturbs the inputs. Objectives that share one attack are perturbed together.
        magnitude: Norm of the perturbation, above 0.
        name: What the logs call it; `None` is the norm and the magnitude, as in `"l2=4"` and
            `"l2=0_5"`.

    Raises:
        ValueError: If the magnitude is not finite and above 0.
        TypeError: If `attack` is not an attack, or one that keeps to no magnitude.

    Example:

    >>> from lexirobust.attacks import PGD
    >>> Adversarial(PGD(norm="l2"), 4.0).name
    'l2=4'

    Reference:
        Section 1.0.2 of the paper.
    """

    def __init__(self, attack: Attack, magnitude: float, name: str | None = None) -> None:
        check_attack(attack)
        if not isinstance(magnitude, numbers.Real) or not 0 < magnitude < float("inf"):
            raise ValueError(
                "`magnitude` must be one number, finite and above 0; OLSRC ranks several. "
                f"Received: {magnitude!r}."
            )
        super().__init__(name or magnitude_name(attack.norm, magnitude), attack, float(magnitude))

    def loss(
        self, forward: Forward, batch: Batch, inputs: tf.Tensor, score: Score
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Computes the loss on perturbed inputs; see `Objective.loss`."""
        logits = forward(inputs)
        return score(batch.y, logits, batch.sample_weight), logits
