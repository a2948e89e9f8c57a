"""A warning, while an attack is traced, if no gradient comes through the classifier."""

import contextlib
import contextvars
import pathlib
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final

import tensorflow as tf

from lexirobust.attacks import graph_cache

# Whose frames are not where an attack was called.
_OWN: Final = (str(pathlib.Path(__file__).resolve().parents[1]), contextlib.__file__)


class _Gradients:
    """Gradients of one trace: asked for at the logits, and arrived at the inputs."""

    def __init__(self) -> None:
        self.asked = self.reached = False


_WATCHED: Final[contextvars.ContextVar[_Gradients | None]] = contextvars.ContextVar(
    "gradients", default=None
)


def watched(classify: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    """Calls a classifier; while an attack is traced, notes which gradients are taken.

    Args:
        classify: Maps inputs to logits.
        x: `[N, ...]` tensor.

    Returns:
        The logits.
    """
    gradients = _WATCHED.get()
    if gradients is None:
        return classify(x)

    @tf.custom_gradient
    def entered(x: tf.Tensor) -> Any:
        def back(gradient: tf.Tensor) -> tf.Tensor:
            gradients.reached = True
            return gradient

        return tf.identity(x), back

    @tf.custom_gradient
    def left(logits: tf.Tensor, x: tf.Tensor) -> Any:
        # The inputs are there so that this is asked also where nothing else leads to them.
        def back(gradient: tf.Tensor) -> Any:
            gradients.asked = True
            return gradient, None

        return tf.identity(logits), back

    return left(classify(entered(x)), x)


@contextlib.contextmanager
def warn_without_gradient(classifier: Any) -> Iterator[None]:
    """Warns, once for a classifier, if an attack traced inside follows gradients and finds none.

    A gradient of zeros is one: what is there is known when a graph is traced, and no numbers.

    Args:
        classifier: Maps inputs to logits.
    """
    gradients = _Gradients()
    token = _WATCHED.set(gradients)
    try:
        yield
    finally:
        _WATCHED.reset(token)
    if gradients.asked and not gradients.reached:
        graph_cache.keep(classifier, "no gradient", (), _warn)


def _warn() -> None:
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OWN):
        frame, level = frame.f_back, level + 1
    warnings.warn(
        "`classifier` has no gradient by its inputs, and the attack follows gradients: it leaves "
        "inputs where it starts, and finds nothing. Rounding, argmax, tf.stop_gradient and "
        "tf.numpy_function cut gradients off. Use an attack that needs none: Square, HopSkipJump "
        "or BoundaryAttack.",
        UserWarning,
        stacklevel=level,
    )
