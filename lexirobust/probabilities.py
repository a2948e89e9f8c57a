"""Classifiers that end in a softmax or a sigmoid, made to give logits."""

from collections.abc import Callable
from typing import Any, Final

import keras
import tensorflow as tf

from lexirobust.data_forms import check_one_input
from lexirobust.keras_internals import made_by

_SOFTMAXES: Final = (keras.activations.softmax, keras.ops.softmax, tf.nn.softmax)
_SIGMOIDS: Final = (keras.activations.sigmoid, keras.ops.sigmoid, tf.nn.sigmoid)


def _operation_of(function: Callable[[Any], Any]) -> type:
    """What a function of `keras.ops` is in a functional model, which Keras does not export."""
    return type(made_by(function(keras.KerasTensor((None, 2))))[0])


_SOFTMAX_LAYERS: Final = (keras.layers.Softmax, _operation_of(keras.ops.softmax))
_SIGMOID_OPERATION: Final = _operation_of(keras.ops.sigmoid)


def probability_layer(model: Any) -> keras.Operation | None:
    """Finds the layer that turns a classifier's logits into probabilities.

    Args:
        model: A sequential or functional Keras model with one output, or anything else.

    Returns:
        The last layer, or operation outside of layers, if it is a softmax or sigmoid or has one as
        its activation, of nested models that of the last one; otherwise `None`.
    """
    outputs = getattr(model, "outputs", None) or []
    if len(outputs) != 1:
        return None
    # What made the output: in a functional model not always the last of `layers`.
    layer = made_by(outputs[0])[0]
    if isinstance(layer, keras.Model):
        return probability_layer(layer)
    several = outputs[0].shape[-1] != 1  # A softmax of one unit is always 1.
    return layer if _is_sigmoid(layer) or (several and _is_softmax(layer)) else None


def _is_softmax(layer: Any) -> bool:
    return isinstance(layer, _SOFTMAX_LAYERS) or getattr(layer, "activation", None) in _SOFTMAXES


def _is_sigmoid(layer: Any) -> bool:
    return isinstance(layer, _SIGMOID_OPERATION) or getattr(layer, "activation", None) in _SIGMOIDS


def is_of_labels(layer: keras.Operation | None) -> bool:
    """Tells if a layer is several sigmoids: probabilities of labels of their own, not of classes.

    Args:
        layer: What `probability_layer` found.
    """
    return layer is not None and _is_sigmoid(layer) and bool(layer.output.shape[-1] > 1)


def logits(model: keras.Model) -> keras.Model:
    """Takes the last softmax or sigmoid off a classifier.

    Attacks and training need logits: probabilities round to 0 and 1, and their gradients to 0.

    Args:
        model: A sequential or functional Keras model that ends in a softmax or a sigmoid: a layer,
            the activation of one, or an operation of `keras.ops`. One sigmoid unit is the
            probability of class 1.

    Returns:
        A new model with the same weights, not shared with `model`, that gives logits `[N, C]`. It
        is not compiled: the loss that `model` has is one of probabilities. One sigmoid unit becomes
        two classes with logits 0 and what the unit saw. Of several sigmoids the largest is the
        largest logit, too, but their softmax is another probability.

    Raises:
        TypeError: If `model` is no Keras model with layers that are known, or has several outputs.
        ValueError: If its last layer is no softmax and no sigmoid, or is called elsewhere, too.

    Example:

    >>> import keras, lexirobust as lr
    >>> given = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "softmax")])
    >>> classifier = lr.logits(given)
    >>> x = keras.random.normal((5, 2), seed=0)
    >>> bool(keras.ops.all(abs(keras.ops.softmax(classifier(x)) - given(x)) < 1e-6))
    True
    """
    if not isinstance(model, keras.Model) or not getattr(model, "outputs", None):
        raise TypeError(
            "`model` must be a sequential or functional Keras model that has been built. Received: "
            f"{type(model).__name__}; have a model of another kind return what its last activation "
            "is given."
        )
    if len(model.outputs) != 1:
        raise TypeError(f"`model` must have one output. Received: {len(model.outputs)}.")
    check_one_input(model)
    end = probability_layer(model)
    if end is None:
        raise ValueError(_no_end(model))
    calls = _count_calls(model, end)
    if calls > 1:
        raise ValueError(
            "`model` must call the layer that it ends in only there. Received: layer "
            f"{end.name!r} ({type(end).__name__}), which it calls {calls} times. Build it again "
            "with a layer of its own at the end, and give it the weights of this one."
        )
    twin = _without(model, end)
    twin.set_weights(model.get_weights())
    if model.outputs[0].shape[-1] > 1:
        return twin
    return keras.Model(twin.inputs[0], keras.ops.pad(twin.outputs[0], [[0, 0], [1, 0]]))


def _no_end(model: keras.Model) -> str:
    """Says what a model ends in where that is no softmax and no sigmoid."""
    last, units = made_by(model.outputs[0])[0], model.outputs[0].shape[-1]
    kind = "layer" if isinstance(last, keras.Layer) else "operation outside of layers"
    problem = (
        "`model` must end in a layer that is a softmax or a sigmoid. Received: "
        f"{kind} {last.name!r} ({type(last).__name__}) with {units} units."
    )
    if units == 1 and not _is_softmax(last):
        problem += (
            " If the unit is the logit of class 1, make two of it: keras.Model(model.inputs[0], "
            "keras.ops.pad(model.outputs[0], [[0, 0], [1, 0]]))."
        )
    return problem


def _count_calls(model: keras.Model, layer: keras.Operation) -> int:
    """How often a model calls a layer, inside the models that it calls, too."""
    count, met, waiting = 0, set(), [*model.outputs]
    while waiting:
        operation, call = made_by(waiting.pop())
        if id(call.outputs[0]) in met:
            continue
        met.add(id(call.outputs[0]))
        waiting += call.inputs
        if getattr(operation, "outputs", None):
            count += _count_calls(operation, layer)
        else:
            count += operation is layer
    return count


def _without(model: keras.Model, end: keras.Operation) -> keras.Model:
    """A copy without the activation of a layer, at any depth, that is not compiled."""

    def copied(layer: keras.Operation) -> keras.Operation:
        if getattr(layer, "outputs", None):
            return _without(layer, end)
        if layer is not end:
            return layer.__class__.from_config(layer.get_config())
        if hasattr(layer, "activation"):
            return layer.__class__.from_config({**layer.get_config(), "activation": "linear"})
        kind = getattr(layer, "dtype_policy", model.outputs[0].dtype)
        return keras.layers.Activation("linear", name=layer.name, dtype=kind)

    def called(layer: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        if layer.name == end.name:  # `Softmax` takes a mask, what stands in its place takes none.
            mask = kwargs.pop("mask", None)
            if mask is not None:
                raise ValueError("`model` must end in a softmax of all classes, without a mask.")
        return layer(*args, **kwargs)

    # The layers of a sequential model are not called as it is cloned.
    call = None if isinstance(model, keras.Sequential) else called
    twin = keras.models.clone_model(model, clone_function=copied, call_function=call)
    return _uncompiled(twin) if twin.compiled else twin


def _uncompiled(model: keras.Model) -> keras.Model:
    """A model of the same layers; a clone is compiled as what it is of."""
    if not isinstance(model, keras.Sequential):
        return keras.Model(model.input, model.output, name=model.name)
    given = model.inputs[0]
    first = keras.Input(batch_shape=given.shape, dtype=given.dtype, name=given.name)
    return keras.Sequential([first, *model.layers], name=model.name, trainable=model.trainable)
