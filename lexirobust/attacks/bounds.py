"""Interval bounds: what a chain of Keras layers can give for any input in a box."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from lexirobust.attacks.classifier import classifier_of
from lexirobust.keras_internals import made_by

__all__ = ["LAYERS", "MONOTONE", "Relaxation", "interval_bounds", "relax"]


class Relaxation(NamedTuple):
    """Bounds of one layer's outputs over a box of inputs.

    Attributes:
        low: The outputs' lower bounds.
        high: Their upper bounds.
        line: The outputs of a stand-in that is linear over the box, at the point asked for.
    """

    low: tf.Tensor
    high: tf.Tensor
    line: tf.Tensor


def interval_bounds(
    classifier: keras.Model, low: tf.Tensor, high: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Bounds the outputs of a chain of layers, in use, over boxes of inputs.

    Every output of every input in the box lies between the bounds, rounding aside. They are exact
    for one affine layer and whatever monotone layers follow it, and grow loose with depth.

    Args:
        classifier: Keras model that is a chain of the layers in `LAYERS`: sequential or functional.
        low: `[N, ...]` lowest inputs.
        high: `[N, ...]` highest inputs, at least `low`.

    Returns:
        Lower and upper bounds of the outputs, `[N, ...]` each.

    Raises:
        ValueError: If the model is no chain, or has a layer of another kind, or, in eager code, a
            lowest input is above the highest.

    Example:

    >>> layer = keras.layers.Dense(1, use_bias=False)
    >>> model = keras.Sequential([keras.Input((2,)), layer])
    >>> _ = layer.kernel.assign([[2.0], [-1.0]])
    >>> [b.numpy().item() for b in interval_bounds(model, tf.zeros((1, 2)), tf.ones((1, 2)))]
    [-1.0, 2.0]

    Reference:
        Gowal et al., arXiv 1810.12715.
    """
    bounds = relax(classifier, low, high, low)
    return bounds.low, bounds.high


def relax(classifier: keras.Model, low: tf.Tensor, high: tf.Tensor, x: tf.Tensor) -> Relaxation:
    """Bounds the outputs, and puts a stand-in that is linear over the box in the model's place.

    The stand-in takes each activation's chord over its inputs' bounds: a ReLU that may be on or
    off gets the slope of its symbolic linear relaxation. Its gradient is the interval gradient.
    Max pooling takes the entry that is largest in the stand-in.

    Args:
        classifier: As of `interval_bounds`.
        low: `[N, ...]` lowest inputs.
        high: `[N, ...]` highest inputs, at least `low`.
        x: `[N, ...]` inputs inside the box: where to evaluate the stand-in.

    Returns:
        The bounds and the stand-in's outputs, each `[N, ...]`.

    Raises:
        ValueError: As of `interval_bounds`.

    Reference:
        Wang et al., arXiv 1906.02282 and arXiv 1809.08098.
    """
    if tf.executing_eagerly() and np.any(np.asarray(low) > np.asarray(high)):
        raise ValueError("`low` must be at most `high`. Received: lowest inputs above the highest.")
    known = Relaxation(low, high, x)
    for layer, rule in _rules(classifier):
        known = rule(layer, known)
    return known


def check_layers(classifier: Any) -> None:
    """Checks that bounds pass through all layers of a model.

    Args:
        classifier: As of `interval_bounds`, or a model of this package around one.

    Raises:
        ValueError: As of `interval_bounds`.

    Example:

    >>> check_layers(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))
    """
    _rules(classifier)


def _rules(classifier: Any) -> list[tuple[keras.Layer, Any]]:
    """The layers one after the other, each with how bounds pass through it."""
    return [(layer, _rule(layer)) for layer in _chain(classifier_of(classifier))]


def _chain(classifier: Any) -> list[keras.Layer]:
    """The layers one after the other, those of models inside the model included."""
    if isinstance(classifier, keras.Sequential):
        layers = classifier.layers
    elif isinstance(classifier, keras.Model) and hasattr(classifier, "outputs"):
        layers = _functional_chain(classifier)
    else:
        raise ValueError(
            "`classifier` must be a sequential or functional Keras model. Received: "
            f"{type(classifier).__name__}."
        )
    parts = [_chain(each) if isinstance(each, keras.Model) else [each] for each in layers]
    return [layer for part in parts for layer in part]


def _functional_chain(model: keras.Model) -> list[keras.Layer]:
    """From the output back to the input; only Keras's record of calls knows the way."""
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(
            f"`classifier` must have one input and one output. Received: {model.name!r} with "
            f"{len(model.inputs)} and {len(model.outputs)}."
        )
    layers, tensor = [], model.outputs[0]
    while tensor is not model.inputs[0]:
        operation, call = made_by(tensor)
        sources = call.inputs
        if len(sources) != 1:
            raise ValueError(
                f"`classifier` must be a chain of layers. Received: {operation.name!r}, which has "
                f"{len(sources)} inputs."
            )
        layers.append(operation)
        tensor = sources[0]
    return layers[::-1]


def _rule(layer: Any) -> Callable[[Any, Relaxation], Relaxation]:
    # Not `isinstance`: a subclass may compute anything.
    rule = LAYERS.get(type(layer))
    if rule is None:
        known = sorted(kind.__name__ for kind in LAYERS)
        raise ValueError(
            f"`classifier` must be made of layers with known bounds: {', '.join(known)}. Received: "
            f"{layer.name!r} of type {type(layer).__name__}."
        )
    activation = getattr(layer, "activation", keras.activations.linear)
    if not any(activation is known for known in MONOTONE):
        known = [function.__name__ for function in MONOTONE]
        raise ValueError(
            f"`classifier` must have activations that only rise: {', '.join(known)}. Received: "
            f"{layer.name!r} with {getattr(activation, '__name__', activation)!r}."
        )
    if getattr(layer, "quantization_mode", None):
        raise ValueError(f"`classifier` must not have quantized layers. Received: {layer.name!r}.")
    return rule


def _ends(function: Callable[[tf.Tensor], tf.Tensor], known: Relaxation) -> list[tf.Tensor]:
    """The values of a function at both bounds, in their precision."""
    return [tf.cast(function(end), end.dtype) for end in (known.low, known.high)]


def _affine(layer: keras.Layer, known: Relaxation) -> Relaxation:
    """A layer whose every output rises with all its inputs, or falls with its only one."""

    def in_use(x: tf.Tensor) -> tf.Tensor:
        return tf.cast(layer(x, training=False), known.low.dtype)

    one, other = _ends(in_use, known)
    return Relaxation(tf.minimum(one, other), tf.maximum(one, other), in_use(known.line))


def _rising(function: Callable[[tf.Tensor], tf.Tensor], known: Relaxation) -> Relaxation:
    """An activation that only rises, and its chord from one bound to the other."""
    low, high = _ends(function, known)
    slope = tf.math.divide_no_nan(high - low, known.high - known.low)
    return Relaxation(low, high, low + slope * (known.line - known.low))


def _activation(layer: keras.Layer, known: Relaxation) -> Relaxation:
    return _rising(layer, known)


def _dense(layer: keras.Layer, known: Relaxation) -> Relaxation:
    return _weighted(layer, known, keras.ops.matmul, "channels_last")


def _convolution(layer: keras.Layer, known: Relaxation) -> Relaxation:
    def convolve(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return keras.ops.conv(
            x,
            kernel,
            strides=layer.strides,
            padding=layer.padding,
            data_format=layer.data_format,
            dilation_rate=layer.dilation_rate,
        )

    return _weighted(layer, known, convolve, layer.data_format)


def _weighted(
    layer: keras.Layer,
    known: Relaxation,
    product: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    data_format: str,
) -> Relaxation:
    """Center and radius: the center goes through the layer, the radius through its sizes."""
    kernel = tf.cast(tf.convert_to_tensor(layer.kernel), known.low.dtype)

    def biased(x: tf.Tensor) -> tf.Tensor:
        if layer.bias is None:
            return product(x, kernel)
        bias = tf.cast(tf.convert_to_tensor(layer.bias), x.dtype)
        form = "NHWC" if data_format == "channels_last" else "NCHW"
        return tf.nn.bias_add(product(x, kernel), bias, form)

    center = biased((known.low + known.high) / 2.0)
    radius = product((known.high - known.low) / 2.0, tf.abs(kernel))
    summed = Relaxation(center - radius, center + radius, biased(known.line))
    if layer.activation is keras.activations.linear:
        return summed
    return _rising(layer.activation, summed)


LAYERS: Final[dict[type, Callable[[Any, Relaxation], Relaxation]]] = {
    keras.layers.Dense: _dense,
    keras.layers.Conv2D: _convolution,
    keras.layers.Activation: _activation,
    keras.layers.ReLU: _activation,
    keras.layers.LeakyReLU: _activation,
    **dict.fromkeys(
        [
            keras.layers.InputLayer,
            keras.layers.Flatten,
            keras.layers.Reshape,
            keras.layers.Rescaling,
            keras.layers.BatchNormalization,
            keras.layers.Dropout,
            keras.layers.MaxPooling2D,
            keras.layers.AveragePooling2D,
            keras.layers.GlobalMaxPooling2D,
            keras.layers.GlobalAveragePooling2D,
        ],
        _affine,
    ),
}
"""The layers with known bounds."""

MONOTONE: Final = (
    keras.activations.linear,
    keras.activations.relu,
    keras.activations.relu6,
    keras.activations.leaky_relu,
    keras.activations.elu,
    keras.activations.selu,
    keras.activations.celu,
    keras.activations.exponential,
    keras.activations.softplus,
    keras.activations.softsign,
    keras.activations.tanh,
    keras.activations.hard_tanh,
    keras.activations.sigmoid,
    keras.activations.hard_sigmoid,
    keras.activations.log_sigmoid,
)
"""Activations that only rise."""
