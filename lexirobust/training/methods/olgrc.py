"""OLGRC: ranked losses on perturbed inputs that leave the explored region."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import keras
import tensorflow as tf

from lexirobust.attacks import BIM, FGSM, PGD, GuidedPGD
from lexirobust.checks import check_magnitudes
from lexirobust.configs import arguments_of
from lexirobust.data_checks import check_inputs
from lexirobust.data_forms import one_array, only_input
from lexirobust.tensors import wide
from lexirobust.training.methods.discriminator import default_discriminator
from lexirobust.training.methods.regions import DiscriminatorRegion, NearestRegion, Region
from lexirobust.training.metrics import NamedMeans
from lexirobust.training.model import LexicographicModel
from lexirobust.training.objectives import Adversarial, Batch, Natural
from lexirobust.training.state.saved_variables import SavedState
from lexirobust.training.step.objective_losses import ObjectiveInputs

EXPLORED: Final = ("discriminator", "nearest")


@keras.saving.register_keras_serializable(package="lexirobust")
class OLGRC(LexicographicModel):
    """Optimal lexicographically genuinely robust classifier: no sample is considered twice.

    As `OLSRC`, but a point that is within a smaller magnitude of the data counts as explored, and
    perturbed inputs are first led out of the explored region and only then up the loss.

    A discriminator, trained in the same step, estimates the region: it is shown clean inputs and
    those perturbed by each magnitude, toward a larger and toward a smaller loss, and learns which
    magnitude their distance to the nearest sample of the batch is. Or the region is known exactly,
    from the training set itself: then perturbed inputs are kept out of it by projection, and a
    search for nearest points takes the discriminator's place, training samples times inputs in
    every step of the attack. Samples for which no perturbed input is found outside drop out of a
    rank.

    Args:
        classifier: Keras model that maps inputs to logits `[N, classes]`.
        attack: Perturbs the inputs; a `PGD`, best with an even number of `restarts`, `BIM` or
            `FGSM`.
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
        TypeError: If the attack is no `PGD`, `BIM` or `FGSM`. Others have a goal, a direction or a
            start of their own, which the guided attack would leave out.

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
        if type(attack) not in (PGD, BIM, FGSM):
            raise TypeError(
                "`attack` must be a PGD, BIM or FGSM: the guided attack would leave out what "
                f"others aim at. Received: {attack!r}."
            )
        if explored not in EXPLORED:
            raise ValueError(f"`explored` must be one of {EXPLORED}. Received: {explored!r}.")
        magnitudes = check_magnitudes(magnitudes)
        exact = explored == "nearest"
        if exact and not (discriminator is None and discriminator_optimizer is None):
            raise ValueError(
                "`discriminator` and its optimizer must be None where explored='nearest'. "
                f"Received: {discriminator!r}, {discriminator_optimizer!r}."
            )
        region: Region = (
            NearestRegion(attack.norm) if exact else DiscriminatorRegion(attack, magnitudes)
        )
        guided = GuidedPGD(region.guide, region.threshold, **arguments_of(attack, PGD))
        ranks = [Natural(), *(Adversarial(guided, magnitude) for magnitude in magnitudes)]
        super().__init__(classifier, ranks, alphas, **kwargs)
        self.attack = attack
        self.guided_attack = guided
        self.magnitudes = tuple(magnitudes)
        self.explored = explored
        self.region = region
        # Attributes, which Keras saves.
        self.discriminator = discriminator
        self.discriminator_optimizer: Any = discriminator_optimizer
        if isinstance(region, DiscriminatorRegion):
            self.discriminator = discriminator or default_discriminator(
                classifier, 1 + len(magnitudes)
            )
            self.discriminator_optimizer = _scaling(
                keras.optimizers.get(discriminator_optimizer or "adam"), self.discriminator
            )
            region.set_discriminator(self.discriminator, self.discriminator_optimizer)
        self._region_means = NamedMeans(region.log_names) if region.log_names else None

    @property
    def attacks_per_sample(self) -> int:
        """The number of perturbations that a training step makes of each sample."""
        return super().attacks_per_sample + self.region.attacks_per_sample

    @property
    def training_metrics(self) -> list[keras.Metric]:
        """Metrics that only a training step can update."""
        own = [] if self._region_means is None else [self._region_means]
        return [*super().training_metrics, *own]

    @property
    def saved_state(self) -> dict[str, SavedState | None]:
        """What Keras does not save by itself, by the prefix of its names in the file."""
        return {**super().saved_state, "explored": self.region.saved_state}

    def build(self, input_shape: Any) -> None:
        """Builds the classifier and the discriminator, and checks what they give."""
        super().build(input_shape)
        self.region.build(tuple(input_shape), self._augmentation)

    def adapt(self, x: Any) -> None:
        """Takes the explored region from a data set.

        Args:
            x: `[M, ...]` inputs; another data set of the same shape may replace them.

        Raises:
            ValueError: If `explored` is not `"nearest"`, or the inputs are empty, not finite or
                outside the attack's bounds.
        """
        if not isinstance(self.region, NearestRegion):
            raise ValueError(
                f"`explored` must be 'nearest' for `adapt`. Received: {self.explored!r}."
            )
        x = one_array(x)
        check_inputs(x, self.bounds)
        with tf.init_scope(), self.distribute_strategy.scope():
            self.region.guide.adapt(x)

    def begin_fit(
        self, arguments: Mapping[str, Any], callbacks: Sequence[keras.callbacks.Callback]
    ) -> list[keras.callbacks.Callback]:
        """Takes the explored region from the data, if it is exact and nothing was adapted yet."""
        own = super().begin_fit(arguments, callbacks)
        if isinstance(self.region, NearestRegion) and not self.region.variables:
            inputs = only_input(arguments["x"])
            if not hasattr(inputs, "shape"):
                raise ValueError(
                    "`x` must be an array where explored='nearest', or `adapt` be called before. "
                    f"Received: {inputs!r}."
                )
            # Keras holds back the last samples.
            held_back = arguments.get("validation_split") or 0.0
            self.adapt(inputs[: int(len(inputs) * (1.0 - held_back))])
        return own

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
        return self.region.log_unexplored(x, magnitude)

    def _perturb_in_training(
        self, batch: Batch, seed: tf.Tensor, starts: list[tf.Tensor] | None
    ) -> tuple[list[list[ObjectiveInputs]], list[tf.Tensor]]:
        """Lets the region learn before inputs are perturbed."""
        own, others = starts, None
        if starts is not None:
            own, others = starts[: len(self.magnitudes)], starts[len(self.magnitudes) :]
        size = self.settings.micro_batch_size
        logs, ends = self.region.learn(self.classifier, batch, seed, others, size)
        if self._region_means is not None:
            self._region_means.update_all(logs, batch.x)
        return self._training_step.perturb(batch, seed, own), ends

    def serving_endpoints(
        self, inputs: tf.TensorSpec
    ) -> dict[str, tuple[Callable[..., Any], list[tf.TensorSpec]]]:
        """`explored`: how likely inputs lie in the region explored before each magnitude."""

        def explored(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            logs = [self.log_unexplored(inputs, magnitude) for magnitude in self.magnitudes]
            estimates = 1.0 - tf.exp(tf.stack(logs, axis=1))
            return {"explored": estimates, "magnitudes": tf.constant(self.magnitudes)}

        return {**super().serving_endpoints(inputs), "explored": (explored, [inputs])}


def _scaling(
    optimizer: keras.optimizers.Optimizer, model: keras.Model
) -> keras.optimizers.Optimizer:
    """The optimizer, with losses scaled where Keras's own `compile` would scale them."""
    scales = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    if model.dtype_policy.name != "mixed_float16" or scales:
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer)
