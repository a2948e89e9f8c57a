"""A warning, while an attack is traced, if no gradient comes through the classifier."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any, Final

import tensorflow as tf

from lexirobust.attacks import graph_cache
from lexirobust.warn import warn


class _Trace:
    """Remembers of one trace whether a gradient was asked for that is not there."""

    def __init__(self) -> None:
        self.misses_gradient = False


_TRACE: Final[contextvars.ContextVar[_Trace | None]] = contextvars.ContextVar("trace", default=None)


def gradient_by(
    x: tf.Tensor, tape: tf.GradientTape, values: tf.Tensor, weights: tf.Tensor | None = None
) -> tf.Tensor:
    """Takes a gradient through a classifier; while an attack is traced, notes where there is none.

    Args:
        x: `[N, ...]` tensor, which the tape watches.
        tape: Has seen how `values` come from `x`.
        values: Tensor of what is differentiated. Only the classifier leads from `x` to it.
        weights: Tensor shaped like `values`, by which they are weighted; `None`: 1.

    Returns:
        The gradient of the weighted values' sum, shaped like `x`: zeros where nothing leads back.
    """
    gradient = tape.gradient(values, x, output_gradients=weights)
    if gradient is None:
        trace = _TRACE.get()  # Apart: autograph, in a user's pipeline, cannot read `:=`.
        if trace is not None:
            trace.misses_gradient = True
        return tf.zeros_like(x)
    gradient = tf.convert_to_tensor(gradient)
    gradient.set_shape(x.shape)  # `tf.py_function` does not know it.
    return gradient


@contextlib.contextmanager
def warn_without_gradient(classifier: Any) -> Iterator[None]:
    """Warns, once for a classifier, if an attack traced inside follows gradients and finds none.

    A gradient of zeros is one: what is there is known when a graph is traced, and no numbers.

    Args:
        classifier: Maps inputs to logits.
    """
    trace = _Trace()
    token = _TRACE.set(trace)
    try:
        yield
    finally:
        _TRACE.reset(token)
    if trace.misses_gradient:
        graph_cache.keep(classifier, "no gradient", (), _warn)


def _warn() -> None:
    warn(
        "`classifier` has no gradient by its inputs, and the attack follows gradients: it leaves "
        "inputs where it starts, and finds nothing. Rounding, argmax, tf.stop_gradient and "
        "tf.numpy_function cut gradients off. Use an attack that needs none: Square, HopSkipJump "
        "or BoundaryAttack."
    )
