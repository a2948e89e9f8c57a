"""Classifiers that end in a softmax or a sigmoid, made to give logits."""

from typing import Any

import keras

from lexirobust.data_forms import check_one_input
from lexirobust.keras_internals import made_by


def probability_layer(model: Any) -> keras.Layer | None:
    """Finds the layer that turns a classifier's logits into probabilities.

    Args:
        model: A sequential or functional Keras model with one output, or anything else.

    Returns:
        The last layer if it is a softmax or has the activation softmax or sigmoid, of nested models
        that of the last one; otherwise `None`.
    """
    outputs = getattr(model, "outputs", None) or []
    if len(outputs) != 1:
        return None
    # What made the output: in a functional model not always the last of `layers`.
    layer = made_by(outputs[0])[0]
    if isinstance(layer, keras.Model):
        return probability_layer(layer)
    known = [keras.activations.sigmoid]
    if outputs[0].shape[-1] != 1:  # A softmax of one unit is always 1.
        known.append(keras.activations.softmax)
    if getattr(layer, "activation", None) in known:
        return layer
    return layer if isinstance(layer, keras.layers.Softmax) else None


def is_of_labels(layer: keras.Layer | None) -> bool:
    """Tells if a layer is several sigmoids: probabilities of labels of their own, not of classes.

    Args:
        layer: What `probability_layer` found.
    """
    if layer is None or getattr(layer, "activation", None) is not keras.activations.sigmoid:
        return False
    return bool(layer.output.shape[-1] > 1)


def logits(model: keras.Model) -> keras.Model:
    """Takes the last softmax or sigmoid off a classifier.

    Attacks and training need logits: probabilities round to 0 and 1, and their gradients to 0.

    Args:
        model: A sequential or functional Keras model whose last layer has the activation softmax
            or sigmoid, or is a `Softmax`. One sigmoid unit is the probability of class 1.

    Returns:
        A new model with the same weights, not shared with `model`, that gives logits `[N, C]`. One
        sigmoid unit becomes two classes with logits 0 and what the unit saw. Of several sigmoids
        the largest is the largest logit, too, but their softmax is another probability.

    Raises:
        TypeError: If `model` is no Keras model with layers that are known, or has several outputs.
        ValueError: If its last layer is no softmax and no sigmoid.

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
        last = made_by(model.outputs[0])[0]
        kind = "layer" if isinstance(last, keras.Layer) else "operation outside of layers"
        raise ValueError(
            "`model` must end in a layer that is a softmax or a sigmoid. Received: "
            f"{kind} {last.name!r} ({type(last).__name__}) with {model.outputs[0].shape[-1]} units."
        )
    twin = _without(model, end)
    twin.set_weights(model.get_weights())
    if model.outputs[0].shape[-1] > 1:
        return twin
    return keras.Model(twin.inputs[0], keras.ops.pad(twin.outputs[0], [[0, 0], [1, 0]]))


def _without(model: keras.Model, end: keras.Layer) -> keras.Model:
    """A copy without the activation of a layer, at any depth."""

    def copied(layer: keras.Layer) -> keras.Layer:
        if getattr(layer, "outputs", None):
            return _without(layer, end)
        if layer is not end:
            return layer.__class__.from_config(layer.get_config())
        if isinstance(layer, keras.layers.Softmax):
            return keras.layers.Activation("linear", name=layer.name, dtype=layer.dtype_policy)
        return layer.__class__.from_config({**layer.get_config(), "activation": "linear"})

    def called(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        if layer.name == end.name:  # `Softmax` takes a mask, what stands in its place takes none.
            mask = kwargs.pop("mask", None)
            if mask is not None:
                raise ValueError("`model` must end in a softmax of all classes, without a mask.")
        return layer(*args, **kwargs)

    # The layers of a sequential model are not called as it is cloned.
    call = None if isinstance(model, keras.Sequential) else called
    return keras.models.clone_model(model, clone_function=copied, call_function=call)
