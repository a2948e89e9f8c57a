"""OLGRC: ranked losses on perturbed inputs that leave the explored region."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from lexirobust.attacks import DAA, PGD, GuidedPGD, IntervalAttack
from lexirobust.checks import check_magnitudes
from lexirobust.training.model import LexicographicModel
from lexirobust.training.objectives import Adversarial, Batch, Natural
from lexirobust.training.parts import over_parts
from lexirobust.training.region import (
    default_discriminator,
    discriminator_loss,
    log_unexplored,
)


@keras.saving.register_keras_serializable(package="lexirobust")
class OLGRC(LexicographicModel):
    """Optimal lexicographically genuinely robust classifier: no sample is considered twice.

    As `OLSRC`, but a point that is within a smaller magnitude of the data counts as explored, and
    perturbed inputs are first led out of the explored region and only then up the loss. A
    discriminator, trained in the same step, estimates the region: it tells clean inputs and those
    perturbed by each magnitude, toward a larger and toward a smaller loss, from each other.

    Args:
        classifier: Keras model that maps inputs to logits `[N, classes]`.
        attack: Perturbs the inputs; a `PGD`, best with an even number of `restarts`.
        magnitudes: Norms of the perturbations, above 0 and ascending.
        alphas: One weight a rank, the natural one first, summing to 1. `None`: half for rank 1,
            the rest shared.
        discriminator: Keras model that maps inputs to logits, one for magnitude 0 and for each of
            `magnitudes`. `None` makes one like the classifier.
        discriminator_optimizer: Keras optimizer or its name. `None` is Adam with its defaults.
        **kwargs: As of `LexicographicModel`.

    Raises:
        ValueError: If the magnitudes or `alphas` are not as above, the discriminator's output
            does not fit, or none can be made like the classifier.
        TypeError: If the attack is no `PGD`, or one with a direction or a start of its own, which
            the guided attack would leave out: `DAA`, `IntervalAttack`.

    Example:

    >>> import keras, lexirobust as lr
    >>> classifier = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    >>> attack = lr.attacks.PGD(norm="l2", restarts=2, bounds=None)
    >>> model = lr.OLGRC(classifier, attack=attack, magnitudes=[1.0, 2.0])
    >>> model.discriminator.output_shape
    (None, 3)

    Reference:
        Sections 4.1 and 6 of the paper.
    """

    auxiliary_names = ("loss@discriminator",)

    def __init__(
        self,
        classifier: keras.Model,
        attack: PGD,
        magnitudes: Sequence[float],
        alphas: Sequence[float] | None = None,
        discriminator: keras.Model | None = None,
        discriminator_optimizer: keras.optimizers.Optimizer | str | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(attack, PGD) or isinstance(attack, DAA | IntervalAttack):
            raise TypeError(
                f"`attack` must be a PGD, and no DAA or IntervalAttack. Received: {attack!r}."
            )
        magnitudes = check_magnitudes(magnitudes)
        settings = PGD.get_config(attack)
        guided = GuidedPGD(self.log_unexplored, **settings)
        ranks = [Natural(), *(Adversarial(guided, magnitude) for magnitude in magnitudes)]
        super().__init__(classifier, ranks, alphas, **kwargs)
        self.attack = attack
        self.guided_attack = guided
        self.magnitudes = tuple(magnitudes)
        opposite = {"maximize": "minimize", "minimize": "maximize"}[attack.goal]
        self._opponent = PGD(**{**settings, "goal": opposite})
        if discriminator is None:
            discriminator = default_discriminator(classifier, 1 + len(magnitudes))
        self.discriminator = discriminator
        self.discriminator_optimizer = keras.optimizers.get(discriminator_optimizer or "adam")

    def build(self, input_shape: Any) -> None:
        """Builds the classifier and the discriminator, and checks what they give."""
        super().build(input_shape)
        outputs = self.discriminator(keras.KerasTensor(tuple(input_shape)))
        ranks = len(self.objectives)
        if tuple(outputs.shape)[1:] != (ranks,):
            raise ValueError(
                f"`discriminator` must map inputs to logits of shape [N, {ranks}], one for each "
                f"magnitude with 0. Received: output {outputs!r}."
            )
        self.discriminator_optimizer.build(self.discriminator.trainable_variables)

    def log_unexplored(self, x: tf.Tensor, magnitude: Any) -> tf.Tensor:
        """Estimates how likely inputs lie outside the region explored before a magnitude.

        Args:
            x: `[N, ...]` inputs.
            magnitude: Scalar or `[N]`, out of this model's magnitudes.

        Returns:
            `[N]` natural logarithms of the estimated probability.
        """
        magnitude = tf.broadcast_to(tf.cast(magnitude, tf.float32), tf.shape(x)[:1])
        logits = self.discriminator(x, training=False)
        return log_unexplored(logits, (0.0, *self.magnitudes), magnitude)

    @property
    def auxiliary_attacks(self) -> int:
        """Toward a larger and toward a smaller loss, at every magnitude."""
        return 2 * len(self.magnitudes)

    def learn_auxiliaries(
        self, batch: Batch, seed: tf.Tensor, first: Sequence[tf.Tensor] | None
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Trains the discriminator on one batch; see `LexicographicModel.learn_auxiliaries`."""
        variables = self.discriminator.trainable_variables
        values = [variable.value for variable in variables]
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        count = len(self.magnitudes)

        def part(tensors: Any, number: tf.Tensor, share: Any) -> tuple[Any, Any]:
            batch, first = tensors
            own = tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int32), number)
            starts: list[dict[str, Any]] = [{}, {}]
            if first is not None:
                starts = [{"first": tf.stack(half)} for half in (first[:count], first[count:])]
            perturbed = [
                attack.sweep_in_graph(
                    self.classifier, batch.x, batch.y, self.magnitudes, own, **given
                )
                for attack, given in zip((self.attack, self._opponent), starts, strict=True)
            ]
            with tf.GradientTape() as tape:
                loss = share * discriminator_loss(self.discriminator, batch.x, perturbed)
                shared = loss / replicas
            ends = [] if first is None else tf.unstack(tf.concat(perturbed, axis=0) - batch.x)
            return (tape.gradient(shared, values), loss), ends

        tensors = (batch, None if first is None else list(first))
        (gradients, loss), ends = over_parts(part, tensors, self.micro_batch_size)
        self.discriminator_optimizer.apply(gradients, variables)
        return [loss], ends

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, those that all methods share aside."""
        return {
            "classifier": self.classifier,
            "attack": self.attack,
            "magnitudes": list(self.magnitudes),
            "alphas": list(self.alphas),
            "discriminator": self.discriminator,
            "discriminator_optimizer": self.discriminator_optimizer,
        }
