"""Regions that were explored at smaller magnitudes: estimated by a discriminator, or exact."""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from lexirobust.attacks import PGD, ExploredRegion
from lexirobust.attacks.gradient.guided import Unexplored
from lexirobust.configs import arguments_of
from lexirobust.graphs import or_else
from lexirobust.training.augmentation import Augmentation
from lexirobust.training.methods.discriminator import (
    discriminator_loss,
    explored_from,
    log_unexplored,
)
from lexirobust.training.objectives import Batch
from lexirobust.training.replicas import gather_from_replicas
from lexirobust.training.state.saved_variables import SavedState
from lexirobust.training.step.micro_batches import map_micro_batches


class Region(Protocol):
    """The explored region, as `OLGRC` uses it."""

    @property
    def guide(self) -> Unexplored | ExploredRegion:
        """What a `GuidedPGD` avoids the region by."""

    @property
    def threshold(self) -> float | None:
        """From which value of a `guide` that is a function on inputs are outside."""

    @property
    def log_names(self) -> tuple[str, ...]:
        """The names of the scalars that `learn` returns."""

    @property
    def attacks_per_sample(self) -> int:
        """The number of perturbations of each sample that `learn` makes."""

    @property
    def saved_state(self) -> SavedState | None:
        """What is to be saved besides Keras layers, or `None`."""

    def build(self, shape: tuple[int | None, ...], augmentation: Augmentation) -> None:
        """Checks that the region suits inputs `[N, ...]` and their augmentation."""

    def log_unexplored(self, x: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
        """`[N]` logarithms of how likely inputs are unexplored, at magnitudes `[N]`."""

    def learn(
        self,
        classifier: keras.Model,
        batch: Batch,
        seed: tf.Tensor,
        initial: Sequence[tf.Tensor] | None,
        micro_batch_size: int | None,
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Learns from a batch; the scalars to log, and the perturbations `[N, ...]` it made."""


class DiscriminatorRegion:
    """The region as a discriminator estimates it, which is trained in the same steps.

    Args:
        attack: Perturbs inputs toward its goal.
        magnitudes: Ascending norms of the perturbations.
    """

    untraced = ("optimizer",)  # Attacks do not depend on it.
    threshold = math.log(0.5)  # Of inputs that are as likely outside as inside.
    log_names: tuple[str, ...] = ("loss@discriminator",)
    saved_state = None  # Keras saves the discriminator, a layer of the model.

    def __init__(self, attack: PGD, magnitudes: Sequence[float]) -> None:
        opposite = {"maximize": "minimize", "minimize": "maximize"}[attack.goal]
        opponent = PGD(**{**arguments_of(attack, PGD), "goal": opposite})
        self.attacks = (attack, opponent)
        self.magnitudes = tuple(magnitudes)
        self.attacks_per_sample = 2 * len(magnitudes)
        self.guide = self.log_unexplored

    def set_discriminator(self, discriminator: keras.Model, optimizer: Any) -> None:
        """Sets what estimates the region.

        Args:
            discriminator: Keras model that maps inputs to logits, one for magnitude 0 and for each
                of `magnitudes`.
            optimizer: Keras optimizer that trains it.
        """
        self.discriminator = discriminator
        self.optimizer = optimizer

    def build(self, shape: tuple[int | None, ...], augmentation: Augmentation) -> None:
        """Builds the discriminator, and checks its output.

        Args:
            shape: `[N, ...]` of inputs.
            augmentation: Of inputs; any.

        Raises:
            ValueError: If the discriminator does not give one logit for each magnitude with 0.
        """
        del augmentation
        outputs = self.discriminator(keras.KerasTensor(shape))
        ranks = 1 + len(self.magnitudes)
        if tuple(outputs.shape)[1:] != (ranks,):
            raise ValueError(
                f"`discriminator` must map inputs to logits of shape [N, {ranks}], one for each "
                f"magnitude with 0. Received: output {outputs!r}."
            )
        self.optimizer.build(self.discriminator.trainable_variables)

    def log_unexplored(self, x: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
        """Estimates how likely inputs lie outside the region.

        Args:
            x: `[N, ...]` inputs.
            magnitude: `[N]`, out of `magnitudes`.

        Returns:
            `[N]` natural logarithms of the probability.
        """
        logits = self.discriminator(x, training=False)
        return log_unexplored(logits, (0.0, *self.magnitudes), magnitude)

    def learn(
        self,
        classifier: keras.Model,
        batch: Batch,
        seed: tf.Tensor,
        initial: Sequence[tf.Tensor] | None,
        micro_batch_size: int | None,
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Trains the discriminator on clean and perturbed inputs.

        Args:
            classifier: Maps inputs to logits.
            batch: The clean batch.
            seed: `[2]` integer tensor.
            initial: `attacks_per_sample` perturbations to begin with, shaped like the clean inputs,
                or `None`.
            micro_batch_size: Most samples at a time, or `None`.

        Returns:
            Its loss, and, if there were `initial` ones, the perturbations that were found.
        """
        variables = self.discriminator.trainable_variables
        values = [variable.value for variable in variables]
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        count = len(self.magnitudes)
        # The nearest sample may be in any part of the batch.
        samples, shape = gather_from_replicas(batch.x), tf.shape(batch.x)[1:]

        def part(tensors: Any, number: tf.Tensor, share: Any) -> tuple[Any, Any]:
            batch, initial = tensors
            own = tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int32), number)
            starts: list[dict[str, Any]] = [{}, {}]
            if initial is not None:
                starts = [
                    {"initial_perturbation": tf.stack(half)}
                    for half in (initial[:count], initial[count:])
                ]
            perturbed = [
                attack.sweep_in_graph(classifier, batch.x, batch.y, self.magnitudes, own, **given)
                for attack, given in zip(self.attacks, starts, strict=True)
            ]
            moved = tf.reshape(tf.concat(perturbed, axis=0), tf.concat([[-1], shape], axis=0))
            moved = tf.ensure_shape(moved, [None, *batch.x.shape[1:]])
            labels = explored_from(moved, samples, (0.0, *self.magnitudes), self.attacks[0].norm)
            with tf.GradientTape() as tape:
                loss = discriminator_loss(self.discriminator, batch.x, moved, labels)
                loss = share * (loss + _penalties(variables))
                shared = self.optimizer.scale_loss(loss / replicas)
            ends = [] if initial is None else tf.unstack(tf.concat(perturbed, axis=0) - batch.x)
            return (tape.gradient(shared, values), loss), ends

        tensors = (batch, None if initial is None else list(initial))
        (gradients, loss), ends = map_micro_batches(part, tensors, micro_batch_size)
        self.optimizer.apply(gradients, variables)
        return [loss], ends


def _penalties(variables: Sequence[keras.Variable]) -> Any:
    """The sum of the variables' regularization losses."""
    return sum(
        variable.regularizer(variable)
        for variable in variables
        if getattr(variable, "regularizer", None) is not None
    )


class NearestRegion:
    """The region as it is: all that is nearer to a training sample than the magnitude.

    Args:
        norm: The attack's norm.
    """

    log_names: tuple[str, ...] = ()
    attacks_per_sample = 0
    threshold = None

    def __init__(self, norm: str) -> None:
        self.guide = ExploredRegion(norm)

    @property
    def saved_state(self) -> SavedState:
        """The samples that the region is made of."""
        return self

    @property
    def variables(self) -> list[tf.Variable]:
        """All that is to be saved."""
        return [] if self.guide.points is None else [self.guide.points]

    def load(self, values: Sequence[Any]) -> None:
        """Takes the region from samples that were saved.

        Args:
            values: The samples; empty if there were none.
        """
        for points in values:
            self.guide.adapt(points)

    def build(self, shape: tuple[int | None, ...], augmentation: Augmentation) -> None:
        """Checks that inputs are not augmented.

        Args:
            shape: `[N, ...]` of inputs; any.
            augmentation: Of inputs.

        Raises:
            ValueError: If they are.
        """
        del shape
        if augmentation.layers:
            raise ValueError(
                "`explored` must be 'discriminator' where inputs are augmented: 'nearest' knows "
                "the points that it was given, and no others. Received: random layers "
                f"{', '.join(layer.name for layer in augmentation.layers)}."
            )

    def log_unexplored(self, x: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
        """Says which inputs lie outside the region.

        Args:
            x: `[N, ...]` inputs.
            magnitude: `[N]`.

        Returns:
            `[N]`: 0 outside, minus infinity inside.
        """
        return or_else(self.guide.has_outside(x, magnitude), tf.zeros_like(magnitude), -np.inf)

    def learn(self, *given: Any) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Learns nothing from a batch: the region is known."""
        del given
        return [], []
