"""The classifier that is attacked: its logits, and checks of it."""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import keras
import tensorflow as tf

from lexirobust.attacks import graph_cache
from lexirobust.checks import logits_problem, randomness_problem
from lexirobust.data_forms import check_one_input
from lexirobust.tensors import wide
from lexirobust.warn import warn

Classifier: TypeAlias = Callable[..., Any]
"""Maps inputs `[N, ...]` to logits `[N, C]`: a Keras model or any other callable."""


_WRAPPED: Final = (
    "For attacks that need no gradient (Square, HopSkipJump, BoundaryAttack, Spatial), wrap it: "
    "lambda x: tf.ensure_shape(tf.numpy_function(f, [x], tf.float32), [None, classes])."
)


def classifier_of(model: keras.Model) -> keras.Model:
    """Says what a model classifies by.

    Args:
        model: One of this package's, or any other.

    Returns:
        Of this package's models the classifier that they train; of any other the model itself,
        whatever its layers are called.
    """
    return model.classifier if hasattr(model, "objectives") else model


def logits_of(classifier: Classifier, x: tf.Tensor) -> tf.Tensor:
    """Calls a classifier as in use, not as in training.

    Args:
        classifier: Maps inputs to logits.
        x: `[N, ...]` tensor.

    Returns:
        `[N, C]` logits, float32 or wider.

    Raises:
        ValueError: If what comes out is not `[N, C]` with C of at least 2.
        TypeError: If the classifier does not work on tensors inside a graph, or gives several
            outputs.
    """
    owner = getattr(classifier, "__self__", None)
    if isinstance(owner, keras.Model) and classifier.__name__ in ("predict", "predict_on_batch"):
        raise TypeError(
            f"`classifier` must be the model itself, which has gradients. Received: its method "
            f"`{classifier.__name__}`."
        )
    named: dict[str, Any] = getattr(classifier, "structured_input_signature", ((), {}))[1]
    if named:
        (first, *_), outputs = named, classifier.structured_outputs  # type: ignore[attr-defined]
        raise TypeError(
            "`classifier` must map inputs to logits. A SavedModel's signature maps keywords to a "
            f"dict: wrap it, as in lambda x: signature({first}=x)[{_likely(outputs)!r}]."
        )
    if not callable(classifier):
        raise TypeError(
            "`classifier` must be a Keras model or another callable that maps inputs to logits. "
            f"Received: {classifier!r}; of a SavedModel take a function, such as `serve`."
        )
    check_one_input(classifier)
    return _logits(classifier, x)


def known_classes(classifier: Classifier, x: tf.Tensor) -> int:
    """The number of classes; the first time, warns if accuracy under attack cannot be trusted."""

    def look() -> int:
        first, second = logits_of(classifier, x), logits_of(classifier, x)
        for problem in (logits_problem(first), randomness_problem(first, second)):
            if problem:
                warn(problem)
        return int(first.shape[-1])

    return graph_cache.keep(classifier, ("classes", *x.shape[1:]), (), look)


def _likely(outputs: Any) -> Any:
    """The key of what are logits among several outputs, or of the first of them."""
    if not isinstance(outputs, dict):
        return 0
    return "logits" if "logits" in outputs else next(iter(outputs))


def _logits(classifier: Classifier, x: tf.Tensor) -> tf.Tensor:
    is_layer = isinstance(classifier, keras.Layer)
    try:
        logits = classifier(x, training=False) if is_layer else classifier(x)
    except NotImplementedError as error:
        if "numpy array" not in str(error):  # A tensor of a graph was asked for its values.
            raise
        raise TypeError(
            "`classifier` must work on tensors inside a graph, and this one makes NumPy arrays of "
            f"them. {_WRAPPED}"
        ) from error
    if isinstance(logits, dict | list | tuple):
        kind = f"a dict of {[*logits]}" if isinstance(logits, dict) else f"{len(logits)} outputs"
        raise TypeError(
            f"`classifier` must give one tensor of logits. Received: {kind}; choose one, as in "
            f"lambda x: classifier(x)[{_likely(logits)!r}]."
        )
    logits = tf.convert_to_tensor(logits)
    if logits.shape.rank is None:
        raise ValueError(f"`classifier` must give logits of known shape. {_WRAPPED}")
    if logits.shape.rank != 2 or (logits.shape[-1] or 2) < 2:
        remedy = (
            "; if it is the logit of class 1, lambda x: tf.pad(classifier(x), [[0, 0], [1, 0]]) "
            "gives two"
        )
        one = logits.shape.rank == 2 and logits.shape[-1] == 1
        raise ValueError(
            "`classifier` must map inputs to logits of shape [N, classes], at least two classes. "
            f"Received: shape {tuple(logits.shape)}{remedy * one}."
        )
    return tf.cast(logits, wide(logits.dtype))
