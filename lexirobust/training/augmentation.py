"""Random augmentation, taken out of a classifier: inputs are augmented first, and attacked then."""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf

from lexirobust.keras_internals import (
    IMAGE_PREPROCESSING,
    calls_of,
    layers_inside,
    random_states,
)
from lexirobust.training.first_look import random_inputs
from lexirobust.training.objectives import Batch
from lexirobust.warn import warn

# What disturbs features. Attacks see a classifier without it; that does training no harm.
_NOISE: Final = (
    keras.layers.Dropout,
    keras.layers.AlphaDropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
)
_INVERTIBLE: Final = (keras.layers.Rescaling, keras.layers.Normalization, keras.layers.Reshape)
_NOTHING: Final = (keras.layers.InputLayer, keras.layers.Identity)
_ROUNDING: Final = 1e-2
"""Changes of inputs up to this share of the way between the bounds are of few digits."""
_CLIPPED: Final = 2 / 3
"""More of a batch than images moved far to the side have at a bound, which fills the rest."""


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The augmentation of a classifier's inputs, and the classifier without it.

    Attributes:
        layers: What inputs run through up to the last random layer at the head, in turn: random
            layers, and between them such as can be undone.
        trained: The classifier with its random layers left out; all others are shared.
        left: The names of random layers that augment further on, where they cannot be left out.
    """

    layers: Sequence[keras.Layer]
    trained: keras.Model
    left: Sequence[str]

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Augments a batch `[N, ...]`; what comes out is an input of `trained`."""
        given = x
        undo: list[tuple[keras.Layer, tf.Tensor]] = []
        for layer in self.layers:
            if isinstance(layer, _INVERTIBLE):
                undo.append((layer, tf.shape(x)))
                x = layer(x)
            else:
                x = layer(x, training=True)
        for layer, shape in reversed(undo):
            x = _undone(layer, x, shape)
        return tf.ensure_shape(tf.cast(x, given.dtype), given.shape)

    def along(
        self, x: tf.Tensor, perturbations: Sequence[tf.Tensor]
    ) -> tuple[tf.Tensor, list[tf.Tensor], Callable[[tf.Tensor], tf.Tensor]]:
        """Augments a batch, and moves perturbations of it along.

        Args:
            x: `[N, ...]` inputs.
            perturbations: Each shaped like `x`.

        Returns:
            The augmented inputs; what was added to them by each perturbation; and a function that
            moves a perturbation of what is augmented back, to about what it would be of `x`: by
            the transposed derivative, which for flips, shifts and turns is the way back.
        """
        states = [state for layer in self.layers for state in random_states(layer)]
        before = [tf.identity(state.value) for state in states]
        # A tape that is asked several times, and after the attack.
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(x)
            augmented = self(x)
        moved_perturbations = []
        for perturbation in perturbations:
            for state, value in zip(states, before, strict=True):
                state.assign(value)  # The same draw again.
            moved_perturbations.append(self(x + perturbation) - augmented)

        def back(perturbation: tf.Tensor) -> tf.Tensor:
            zero = tf.UnconnectedGradients.ZERO
            try:
                return tape.gradient(augmented, x, perturbation, unconnected_gradients=zero)
            except LookupError:  # An operation without derivative: the next start is random.
                return tf.zeros_like(x)

        return augmented, moved_perturbations, back

    def of_batch(
        self,
        batch: Batch,
        perturbations: list[tf.Tensor],
        bounds: tuple[float, float] | None,
    ) -> tuple[Batch, list[tf.Tensor], Callable[[tf.Tensor], tf.Tensor]]:
        """Augments the inputs of a batch, as `along`, and clips them to bounds.

        Args:
            batch: The clean batch.
            perturbations: Each shaped like its inputs.
            bounds: Lowest and highest value of an input, or `None`.

        Returns:
            As `along`, the batch in place of its inputs.
        """
        if not self.layers:
            return batch, perturbations, tf.identity
        x, perturbations, back = self.along(batch.x, perturbations)
        if bounds is not None:
            x = tf.clip_by_value(x, *bounds)
        return batch._replace(x=x), perturbations, back

    def warn_of_moved_inputs(self) -> None:
        """Warns of random layers that move inputs after these have been perturbed."""
        if self.left:
            warn(
                f"Random layers {', '.join(map(repr, self.left))} cannot be taken "
                "out of the classifier. They move inputs after these have been perturbed, so that "
                "perturbations no longer fit: accuracies under attack come out too high, and "
                "training by them gives little robustness. Put them at the head of the "
                "classifier, before all but Rescaling, Normalization and Reshape, or pass them as "
                "`augmentation`."
            )

    def warn_of_clipped_inputs(
        self, shape: Sequence[int | None], bounds: tuple[float, float] | None
    ) -> None:
        """Warns of layers that leave most of a random batch at its bounds, by which it is clipped.

        Args:
            shape: `[N, ...]` of inputs.
            bounds: Lowest and highest value of an input, or `None`.
        """
        if not self.layers or bounds is None or None in shape[1:]:
            return
        low, high = bounds
        near = _ROUNDING * (high - low)
        with _undrawn(self.layers):
            x = self(random_inputs(shape, bounds))
        share = float(tf.reduce_mean(tf.cast((x < low + near) | (x > high - near), tf.float32)))
        if share > _CLIPPED:
            names = ", ".join(repr(layer.name) for layer in self.layers)
            warn(
                f"Augmentation takes {share:.0%} of the values of a random batch to the ends of "
                f"the attack's `bounds` {bounds}, or beyond, where they are clipped: little is "
                f"left of the inputs. Look at the range that layers {names} are made for, such as "
                "the `value_range` of RandomBrightness."
            )


def augmentation_of(
    classifier: keras.Model,
    given: keras.Layer | None,
    shape: tuple[int | None, ...],
    bounds: tuple[float, float] | None,
    attacked: bool,
) -> Augmentation:
    """Finds the augmentation of training batches.

    Args:
        classifier: A Keras model that has been built.
        given: A layer that batches run through first, or `None`.
        shape: `[N, ...]` of inputs.
        bounds: Lowest and highest value of an input, or `None`.
        attacked: Whether inputs are perturbed. If not, the classifier augments them by itself.

    Returns:
        The augmentation, with the classifier without it.

    Raises:
        ValueError: If the layer changes the shape of inputs, or their values in use.
    """
    found = find_augmentation(classifier) if attacked else Augmentation([], classifier, [])
    if given is None:
        return found
    result = given(keras.KerasTensor(shape)).shape
    if tuple(result[1:]) != shape[1:]:
        raise ValueError(
            "`augmentation` must give inputs of the shape that it is given. Received: shape "
            f"{result} for {shape}."
        )
    if None not in shape[1:]:
        _check_unchanged(given, shape, bounds)
    return dataclasses.replace(found, layers=[given, *found.layers])


def _check_unchanged(
    augmentation: keras.Layer, shape: Sequence[int | None], bounds: tuple[float, float] | None
) -> None:
    """Checks that an augmentation does not preprocess inputs, by which others come out in use.

    These are images of one level each: what moves pixels leaves them as they are, whenever it runs.

    Raises:
        ValueError: If levels change in use, and always by the same.
    """
    low, high = bounds or (-1.0, 1.0)
    levels = random_inputs([None, *[1] * (len(shape) - 1)], bounds)
    x = tf.broadcast_to(levels, [levels.shape[0], *shape[1:]])

    def in_use(layer: keras.Layer) -> tf.Tensor:
        return tf.cast(layer(x, training=False), x.dtype)

    def alike(one: tf.Tensor, other: tf.Tensor) -> bool:
        near = _ROUNDING * (high - low)
        return one.shape == other.shape and np.allclose(one, other, rtol=0.0, atol=near)

    with _undrawn([augmentation]):
        first, second = in_use(augmentation), in_use(augmentation)
        # One that crops in training alone, or is random in use, too, may well be right.
        if alike(first, x) or first.shape != x.shape or not alike(first, second):
            return
        parts = augmentation.layers if isinstance(augmentation, keras.Sequential) else []
        (layer, *_) = [*(part for part in parts if not alike(in_use(part), x)), augmentation]
    raise ValueError(
        "`augmentation` must leave inputs as they are where it is called with training=False: the "
        f"classifier runs without it in use. Received: layer {layer.name!r} "
        f"({type(layer).__name__}), which changes them; make it a part of the classifier."
    )


@contextlib.contextmanager
def _undrawn(layers: Sequence[keras.Layer]) -> Iterator[None]:
    """Takes back what layers have drawn from their random generators."""
    states = [state for layer in layers for state in random_states(layer)]
    before = [tf.identity(state.value) for state in states]
    yield
    for state, value in zip(states, before, strict=True):
        state.assign(value)


def find_augmentation(classifier: keras.Model) -> Augmentation:
    """Finds the random augmentation at the head of a classifier.

    These are the layers there that are random in training, and in use give back what they are
    given. Before and between them `Rescaling`, `Normalization` and `Reshape` are passed over. Noise
    and dropout are no augmentation.

    Args:
        classifier: A Keras model that has been built.

    Returns:
        The augmentation; without layers, and with the classifier itself, if there is none.
    """
    head: list[keras.Layer] = []
    end = 0
    for layer in _head(classifier):
        if _augments(layer):
            head.append(layer)
            end = len(head)
        elif isinstance(layer, _INVERTIBLE):
            head.append(layer)
        elif not isinstance(layer, _NOTHING):
            break
    removed = [layer for layer in head[:end] if not isinstance(layer, _INVERTIBLE)]
    left = [
        layer.name
        for layer in layers_inside(classifier)
        if isinstance(layer, IMAGE_PREPROCESSING)
        and _is_random(layer)
        and not _is_in(layer, removed)
    ]
    return Augmentation(head[:end], _without(classifier, removed) if removed else classifier, left)


def _head(model: keras.Model) -> Generator[keras.Layer, None, bool]:
    """The layers that a model's input runs through until it branches, those of inner models too.

    Returns:
        Whether that is as far as the model's output.
    """
    if isinstance(model, keras.Sequential):
        for layer in model.layers:
            if not (yield from _entered(layer)):
                return False
        return True
    inputs = getattr(model, "inputs", None) or []
    tensor = inputs[0] if len(inputs) == 1 else None
    while not any(tensor is output for output in getattr(model, "outputs", None) or []):
        steps = [
            (layer, call)
            for layer in model.layers
            for call in calls_of(layer)
            if any(tensor is given for given in call.inputs)
        ]
        if len(steps) != 1:
            return False
        ((layer, call),) = steps
        if not (yield from _entered(layer)):
            return False
        tensor = call.outputs[0]
    return True


def _entered(layer: keras.Layer) -> Generator[keras.Layer, None, bool]:
    """The layer itself, or the head of a model."""
    if isinstance(layer, keras.Model):
        return (yield from _head(layer))
    yield layer
    return True


def _augments(layer: keras.Layer) -> bool:
    """Tells if a layer is random in training and the identity in inference."""
    if isinstance(layer, _NOISE) or layer.weights or not _is_random(layer):
        return False
    if layer.output.shape != layer.input.shape:
        return False
    shape = [1 if size is None else size for size in layer.input.shape[1:]]
    x = tf.constant(np.random.default_rng(0).uniform(0, 1, (2, *shape)), layer.input.dtype)
    given = layer(x, training=False)
    return given.shape == x.shape and bool(np.allclose(given, x, atol=1e-3))


def _is_random(layer: keras.Layer) -> bool:
    """Tells if a layer, or one inside of it, draws random numbers in training."""
    takes_training = "training" in inspect.signature(layer.call).parameters
    return takes_training and bool(random_states(layer))


def _is_in(layer: keras.Layer, layers: Sequence[keras.Layer]) -> bool:
    return any(layer is each or layer in layers_inside(each) for each in layers)


@keras.saving.register_keras_serializable(package="lexirobust")
class LeftOut(keras.layers.Layer):
    """Gives back its input in place of a layer, whatever else that took."""

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Returns the inputs."""
        del training, mask
        return inputs


def _without(model: keras.Model, removed: Sequence[keras.Layer]) -> keras.Model:
    """A model without some layers that shares all others."""

    def replaced(layer: keras.Layer) -> keras.Layer:
        if _is_in(layer, removed):
            return LeftOut(dtype=layer.dtype_policy.name)
        inner = layers_inside(layer)
        if isinstance(layer, keras.Model) and any(_is_in(each, removed) for each in inner):
            return _without(layer, removed)
        return layer

    return keras.models.clone_model(model, clone_function=replaced)


def _undone(layer: keras.Layer, x: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """Inverts a layer: the input, of the given shape, that it made `x` of."""
    if isinstance(layer, keras.layers.Reshape):
        return tf.reshape(x, shape)
    zero = layer(tf.zeros_like(x[:1]))
    return (x - zero) / (layer(tf.ones_like(x[:1])) - zero)
