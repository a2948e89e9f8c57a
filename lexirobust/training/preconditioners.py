"""The metric that an optimizer measures gradients in: what it will multiply each of them by."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras
import tensorflow as tf

Diagonals: TypeAlias = list[tf.Tensor]
"""One positive tensor a variable, shaped like it."""
Preconditioner: TypeAlias = Callable[[Sequence[tf.Tensor | None]], Diagonals]
"""Maps the gradient that an optimizer is about to be given, one tensor a variable or `None`, to
what it will be multiplied by, up to a common factor."""


@functools.singledispatch
def preconditioner(optimizer: Any) -> Preconditioner | None:
    """The diagonal that an optimizer will multiply a gradient by, as a function of the gradient.

    Most adaptive optimizers divide by the root of a second moment to which the very gradient that
    they are given is added first, after clipping; so it is here. Momentum, weight decay and
    averages of weights are no part of a metric.

    Args:
        optimizer: Built Keras optimizer; of one that is wrapped for loss scaling, the inner one.

    Returns:
        The function. `None` is the Euclidean metric: of SGD, of Lion, whose signs no diagonal
        gives, and of optimizers that are unknown here. One of your own is made known by
        `@preconditioner.register(MyOptimizer)`.

    Example: before its first step, Adam divides a gradient by its own size.

    >>> variable = keras.Variable([0.0, 0.0])
    >>> optimizer = keras.optimizers.Adam(beta_2=0.75, epsilon=0.0)
    >>> optimizer.build([variable])
    >>> preconditioner(optimizer)([tf.constant([1.0, 4.0])])[0].numpy().tolist()
    [2.0, 0.5]

    Reference:
        Section 8 of the paper, which leaves adaptive optimizers open.
    """
    del optimizer
    return None


def _of_moments(
    diagonal: Callable[[Any, int, tf.Tensor], tf.Tensor],
) -> Callable[[Any], Preconditioner]:
    """Lifts a function of an optimizer, a variable's index and its clipped gradient."""

    def of_optimizer(optimizer: Any) -> Preconditioner:
        def of_gradient(gradient: Sequence[tf.Tensor | None]) -> Diagonals:
            # Keras has no public way to clip as the optimizer will.
            clipped = optimizer._clip_gradients(list(gradient))
            return [
                # A variable that no loss depends on is not moved: any metric does.
                tf.ones([]) if g is None else diagonal(optimizer, index, g)
                for index, g in enumerate(clipped)
            ]

        return of_gradient

    return of_optimizer


def _mixed(moment: Any, value: tf.Tensor, decay: float) -> tf.Tensor:
    """An exponential mean after its next step."""
    return decay * moment.value + (1.0 - decay) * value


@preconditioner.register(keras.optimizers.Adam)
@_of_moments
def _adam(optimizer: Any, index: int, gradient: tf.Tensor) -> tf.Tensor:
    moment = _mixed(optimizer._velocities[index], tf.square(gradient), optimizer.beta_2)
    if optimizer.amsgrad:
        moment = tf.maximum(optimizer._velocity_hats[index].value, moment)
    return 1.0 / (tf.sqrt(moment) + optimizer.epsilon)


@preconditioner.register(keras.optimizers.Nadam)
@_of_moments
def _nadam(optimizer: Any, index: int, gradient: tf.Tensor) -> tf.Tensor:
    moment = _mixed(optimizer._velocities[index], tf.square(gradient), optimizer.beta_2)
    step = tf.cast(optimizer.iterations.value + 1, moment.dtype)
    return 1.0 / (tf.sqrt(moment / (1.0 - optimizer.beta_2**step)) + optimizer.epsilon)


@preconditioner.register(keras.optimizers.Adamax)
@_of_moments
def _adamax(optimizer: Any, index: int, gradient: tf.Tensor) -> tf.Tensor:
    bound = tf.maximum(optimizer.beta_2 * optimizer._u[index].value, tf.abs(gradient))
    return 1.0 / (bound + optimizer.epsilon)


@preconditioner.register(keras.optimizers.RMSprop)
@_of_moments
def _rmsprop(optimizer: Any, index: int, gradient: tf.Tensor) -> tf.Tensor:
    moment = _mixed(optimizer._velocities[index], tf.square(gradient), optimizer.rho)
    if optimizer.centered:
        mean = _mixed(optimizer._average_gradients[index], gradient, optimizer.rho)
        moment -= tf.square(mean)
    return tf.math.rsqrt(moment + optimizer.epsilon)


@preconditioner.register(keras.optimizers.Adagrad)
@_of_moments
def _adagrad(optimizer: Any, index: int, gradient: tf.Tensor) -> tf.Tensor:
    total = optimizer._accumulators[index].value + tf.square(gradient)
    return tf.math.rsqrt(total + optimizer.epsilon)


@preconditioner.register(keras.optimizers.Adadelta)
@_of_moments
def _adadelta(optimizer: Any, index: int, gradient: tf.Tensor) -> tf.Tensor:
    moment = _mixed(optimizer._accumulated_grads[index], tf.square(gradient), optimizer.rho)
    moved = optimizer._accumulated_delta_vars[index].value
    return tf.sqrt((moved + optimizer.epsilon) / (moment + optimizer.epsilon))
