"""OLGRC: ranked losses on perturbed inputs that leave the explored region."""

import inspect
from collections.abc import Sequence
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf

from lexirobust.attacks import DAA, PGD, ExploredRegion, GuidedPGD, IntervalAttack
from lexirobust.checks import check_magnitudes
from lexirobust.data_checks import check_inputs
from lexirobust.data_forms import one_array, only_input
from lexirobust.graphs import or_else
from lexirobust.tensors import wide
from lexirobust.training.discriminator import (
    default_discriminator,
    discriminator_loss,
    log_unexplored,
)
from lexirobust.training.micro_batches import map_micro_batches
from lexirobust.training.model import LexicographicModel
from lexirobust.training.objectives import Adversarial, Batch, Natural

EXPLORED: Final = ("discriminator", "nearest")


@keras.saving.register_keras_serializable(package="lexirobust")
class OLGRC(LexicographicModel):
    """Optimal lexicographically genuinely robust classifier: no sample is considered twice.

    As `OLSRC`, but a point that is within a smaller magnitude of the data counts as explored, and
    perturbed inputs are first led out of the explored region and only then up the loss.

    A discriminator, trained in the same step, estimates the region: it tells clean inputs and those
    perturbed by each magnitude, toward a larger and toward a smaller loss, from each other. Or the
    region is known exactly, from the training set itself: then perturbed inputs are kept out of it
    by projection, and samples for which no allowed one is found drop out of a rank. A search for
    nearest points takes the discriminator's place: training samples times inputs, every step of
    the attack.

    Args:
        classifier: Keras model that maps inputs to logits `[N, classes]`.
        attack: Perturbs the inputs; a `PGD`, best with an even number of `restarts`.
        magnitudes: Norms of the perturbations, above 0 and ascending.
        alphas: One weight a rank, the natural one first, summing to 1. `None`: half for rank 1,
            the rest shared.
        explored: `"discriminator"`, or `"nearest"` for the exact region. `fit` takes it from the
            arrays that it is given first; `adapt` from any others.
        discriminator: Keras model that maps inputs to logits, one for magnitude 0 and for each of
            `magnitudes`. `None` makes one like the classifier.
        discriminator_optimizer: Keras optimizer or its name. `None` is Adam with its defaults.
        **kwargs: As of `LexicographicModel`.

    Raises:
        ValueError: If the magnitudes or `alphas` are not as above, the discriminator's output
            does not fit, or none can be made like the classifier; with `explored="nearest"`, if
            a discriminator is given or the attack's norm is not exact.
        TypeError: If the attack is no `PGD`, or one with a direction or a start of its own, which
            the guided attack would leave out: `DAA`, `IntervalAttack`.

    Example:

    >>> import keras, lexirobust as lr
    >>> classifier = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    >>> attack = lr.attacks.PGD(norm="l2", restarts=2, bounds=None)
    >>> model = lr.OLGRC(classifier, attack=attack, magnitudes=[1.0, 2.0])
    >>> model.discriminator.output_shape
    (None, 3)

    Example: the explored region as it is. Far left of the data, nothing is explored.

    >>> model = lr.OLGRC(classifier, attack=attack, magnitudes=[1.0, 2.0], explored="nearest")
    >>> model.adapt(lr.datasets.toy(20, seed=0)[0])
    >>> model.log_unexplored([[-5.0], [1.5]], 2.0).numpy().tolist()
    [0.0, -inf]

    Reference:
        Sections 4.1 and 6 of the paper.
    """

    def __init__(
        self,
        classifier: keras.Model,
        attack: PGD,
        magnitudes: Sequence[float],
        alphas: Sequence[float] | None = None,
        explored: str = "discriminator",
        discriminator: keras.Model | None = None,
        discriminator_optimizer: keras.optimizers.Optimizer | str | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(attack, PGD) or isinstance(attack, DAA | IntervalAttack):
            raise TypeError(
                f"`attack` must be a PGD, and no DAA or IntervalAttack. Received: {attack!r}."
            )
        if explored not in EXPLORED:
            raise ValueError(f"`explored` must be one of {EXPLORED}. Received: {explored!r}.")
        magnitudes = check_magnitudes(magnitudes)
        settings = PGD.get_config(attack)
        self.explored = explored
        exact = explored == "nearest"
        self._region = ExploredRegion(attack.norm) if exact else None
        guided = GuidedPGD(self._region or self.log_unexplored, **settings)
        ranks = [Natural(), *(Adversarial(guided, magnitude) for magnitude in magnitudes)]
        super().__init__(classifier, ranks, alphas, **kwargs)
        self.attack = attack
        self.guided_attack = guided
        self.magnitudes = tuple(magnitudes)
        opposite = {"maximize": "minimize", "minimize": "maximize"}[attack.goal]
        self._opponent = PGD(**{**settings, "goal": opposite})
        if exact and not (discriminator is None and discriminator_optimizer is None):
            raise ValueError(
                "`discriminator` and its optimizer must be None where explored='nearest'. "
                f"Received: {discriminator!r}, {discriminator_optimizer!r}."
            )
        if not exact:
            discriminator = discriminator or default_discriminator(classifier, 1 + len(magnitudes))
            discriminator_optimizer = keras.optimizers.get(discriminator_optimizer or "adam")
        self.discriminator = discriminator
        self.discriminator_optimizer: Any = discriminator_optimizer

    def build(self, input_shape: Any) -> None:
        """Builds the classifier and the discriminator, and checks what they give."""
        super().build(input_shape)
        if self._region is not None and self._augmentation.layers:
            raise ValueError(
                "`explored` must be 'discriminator' where inputs are augmented: 'nearest' knows "
                "the points that it was given, and no others. Received: random layers "
                f"{', '.join(layer.name for layer in self._augmentation.layers)}."
            )
        if self.discriminator is None:
            return
        outputs = self.discriminator(keras.KerasTensor(tuple(input_shape)))
        ranks = len(self.objectives)
        if tuple(outputs.shape)[1:] != (ranks,):
            raise ValueError(
                f"`discriminator` must map inputs to logits of shape [N, {ranks}], one for each "
                f"magnitude with 0. Received: output {outputs!r}."
            )
        self.discriminator_optimizer.build(self.discriminator.trainable_variables)

    def adapt(self, x: Any) -> None:
        """Takes the explored region from a data set.

        Args:
            x: `[M, ...]` inputs; another data set of the same shape may replace them.

        Raises:
            ValueError: If `explored` is not `"nearest"`, or the inputs are empty, not finite or
                outside the attack's bounds.
        """
        if self._region is None:
            raise ValueError(
                f"`explored` must be 'nearest' for `adapt`. Received: {self.explored!r}."
            )
        x = one_array(x)
        check_inputs(x, self.bounds)
        with tf.init_scope(), self.distribute_strategy.scope():
            self._region.adapt(x)

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains the classifier; see `LexicographicModel.fit`.

        Where the explored region is exact and nothing was adapted yet, it is that of `x`.
        """
        if self._region is not None and self._region.points is None:
            inputs = only_input(x)
            if not hasattr(inputs, "shape"):
                raise ValueError(
                    "`x` must be an array where explored='nearest', or `adapt` be called before. "
                    f"Received: {x!r}."
                )
            # Keras holds back the last samples.
            call = inspect.signature(keras.Model.fit).bind(self, x, y, *args, **kwargs)
            held_back = call.arguments.get("validation_split") or 0.0
            learned = int(len(inputs) * (1.0 - held_back))
            self.adapt(inputs[:learned])
        return super().fit(x, y, *args, **kwargs)

    def log_unexplored(self, x: tf.Tensor, magnitude: Any) -> tf.Tensor:
        """Says how likely inputs lie outside the region explored before a magnitude.

        Args:
            x: `[N, ...]` inputs.
            magnitude: Scalar or `[N]`, out of this model's magnitudes.

        Returns:
            `[N]` natural logarithms of the probability: the discriminator's estimate, or 0 and
            minus infinity where the region is exact.
        """
        x = tf.convert_to_tensor(x)
        magnitude = tf.broadcast_to(tf.cast(magnitude, wide(x.dtype)), tf.shape(x)[:1])
        if self.discriminator is None:
            assert self._region is not None
            outside = self._region.has_outside(x, magnitude)
            return or_else(outside, tf.zeros_like(magnitude), -np.inf)
        logits = self.discriminator(x, training=False)
        return log_unexplored(logits, (0.0, *self.magnitudes), magnitude)

    @property
    def auxiliary_names(self) -> tuple[str, ...]:
        """The log names of the discriminator; empty if there is none."""
        return () if self.explored == "nearest" else ("loss@discriminator",)

    @property
    def auxiliary_attacks(self) -> int:
        """Toward a larger and toward a smaller loss, at every magnitude."""
        return 0 if self.explored == "nearest" else 2 * len(self.magnitudes)

    def learn_auxiliaries(
        self, batch: Batch, seed: tf.Tensor, initial: Sequence[tf.Tensor] | None
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Trains the discriminator on one batch; see `LexicographicModel.learn_auxiliaries`."""
        if self.discriminator is None:
            return super().learn_auxiliaries(batch, seed, initial)
        variables = self.discriminator.trainable_variables
        values = [variable.value for variable in variables]
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        count = len(self.magnitudes)

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
                attack.sweep_in_graph(
                    self.classifier, batch.x, batch.y, self.magnitudes, own, **given
                )
                for attack, given in zip((self.attack, self._opponent), starts, strict=True)
            ]
            with tf.GradientTape() as tape:
                loss = share * discriminator_loss(self.discriminator, batch.x, perturbed)
                shared = loss / replicas
            ends = [] if initial is None else tf.unstack(tf.concat(perturbed, axis=0) - batch.x)
            return (tape.gradient(shared, values), loss), ends

        tensors = (batch, None if initial is None else list(initial))
        (gradients, loss), ends = map_micro_batches(part, tensors, self.micro_batch_size)
        self.discriminator_optimizer.apply(gradients, variables)
        return [loss], ends

    def save_own_variables(self, store: Any) -> None:
        """Saves the data that the exact region is made of, too."""
        super().save_own_variables(store)
        if self._region is not None and self._region.points is not None:
            store["explored"] = self._region.points

    def load_own_variables(self, store: Any) -> None:
        """Loads what `save_own_variables` saved."""
        own = {**store}
        points = own.pop("explored", None)
        if points is not None and self._region is not None:
            self.adapt(points)
        super().load_own_variables(own)

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, those that all methods share aside."""
        return {
            "classifier": self.classifier,
            "attack": self.attack,
            "magnitudes": list(self.magnitudes),
            "alphas": list(self.alphas),
            "explored": self.explored,
            "discriminator": self.discriminator,
            "discriminator_optimizer": self.discriminator_optimizer,
        }
