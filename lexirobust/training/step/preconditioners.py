"""The metric that an optimizer measures gradients in: what it will multiply each of them by."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from lexirobust.graphs import compiled
from lexirobust.keras_internals import clipped

Diagonals: TypeAlias = list[tf.Tensor]
"""One positive tensor a variable, shaped like it."""
Moments: TypeAlias = dict[str, tf.Tensor]
Values: TypeAlias = dict[str, Any]
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
        `@lr.preconditioner.register(MyOptimizer)`.

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
    slots: Sequence[str], settings: Sequence[str]
) -> Callable[[Callable[..., tf.Tensor]], Callable[..., Preconditioner]]:
    """Makes a preconditioner of a formula for one variable.

    Args:
        slots: The optimizer's attributes that hold one moment a variable. Those that it does not
            keep, as it is set, are left out.
        settings: Its attributes that are plain values.

    Returns:
        A decorator of functions that map a clipped gradient, the variable's moments and the
        settings, both by name, and the number of steps that were taken to a diagonal.
    """

    def lift(formula: Callable[..., tf.Tensor]) -> Callable[..., Preconditioner]:
        # Compiled, each diagonal is one pass over the variable.
        @compiled
        def diagonals(gradient: Any, moments: Any, values: Any, steps: tf.Tensor) -> Diagonals:
            return [
                # A variable that no loss depends on is not moved: any metric does.
                tf.ones([]) if g is None else formula(g, own, values, steps)
                for g, own in zip(gradient, moments, strict=True)
            ]

        def of_optimizer(optimizer: Any) -> Preconditioner:
            kept = [slot for slot in slots if getattr(optimizer, slot, None)]

            def of_gradient(gradient: Sequence[tf.Tensor | None]) -> Diagonals:
                applied = clipped(optimizer, gradient)
                # As tensors: a variable that is mirrored differs between replicas.
                moments = [
                    {slot: _tensor(getattr(optimizer, slot)[index]) for slot in kept}
                    for index in range(len(applied))
                ]
                values = {name: getattr(optimizer, name) for name in settings}
                return diagonals(applied, moments, values, _tensor(optimizer.iterations))

            return of_gradient

        return of_optimizer

    return lift


def _tensor(variable: keras.Variable) -> tf.Tensor:
    return tf.convert_to_tensor(variable.value)


def _mixed(moment: tf.Tensor, value: tf.Tensor, decay: float) -> tf.Tensor:
    """An exponential mean after its next step."""
    return decay * moment + (1.0 - decay) * value


@preconditioner.register(keras.optimizers.Adam)
@_of_moments(["_velocities", "_velocity_hats"], ["beta_2", "epsilon", "amsgrad"])
def _adam(gradient: tf.Tensor, moments: Moments, values: Values, steps: tf.Tensor) -> tf.Tensor:
    moment = _mixed(moments["_velocities"], tf.square(gradient), values["beta_2"])
    if values["amsgrad"]:
        moment = tf.maximum(moments["_velocity_hats"], moment)
    return 1.0 / (tf.sqrt(moment) + values["epsilon"])


@preconditioner.register(keras.optimizers.Nadam)
@_of_moments(["_velocities"], ["beta_2", "epsilon"])
def _nadam(gradient: tf.Tensor, moments: Moments, values: Values, steps: tf.Tensor) -> tf.Tensor:
    moment = _mixed(moments["_velocities"], tf.square(gradient), values["beta_2"])
    bias = 1.0 - values["beta_2"] ** tf.cast(steps + 1, moment.dtype)
    return 1.0 / (tf.sqrt(moment / bias) + values["epsilon"])


@preconditioner.register(keras.optimizers.Adamax)
@_of_moments(["_u"], ["beta_2", "epsilon"])
def _adamax(gradient: tf.Tensor, moments: Moments, values: Values, steps: tf.Tensor) -> tf.Tensor:
    bound = tf.maximum(values["beta_2"] * moments["_u"], tf.abs(gradient))
    return 1.0 / (bound + values["epsilon"])


@preconditioner.register(keras.optimizers.RMSprop)
@_of_moments(["_velocities", "_average_gradients"], ["rho", "epsilon", "centered"])
def _rmsprop(gradient: tf.Tensor, moments: Moments, values: Values, steps: tf.Tensor) -> tf.Tensor:
    moment = _mixed(moments["_velocities"], tf.square(gradient), values["rho"])
    if values["centered"]:
        moment -= tf.square(_mixed(moments["_average_gradients"], gradient, values["rho"]))
    return tf.math.rsqrt(moment + values["epsilon"])


@preconditioner.register(keras.optimizers.Adagrad)
@_of_moments(["_accumulators"], ["epsilon"])
def _adagrad(gradient: tf.Tensor, moments: Moments, values: Values, steps: tf.Tensor) -> tf.Tensor:
    return tf.math.rsqrt(moments["_accumulators"] + tf.square(gradient) + values["epsilon"])


@preconditioner.register(keras.optimizers.Adadelta)
@_of_moments(["_accumulated_grads", "_accumulated_delta_vars"], ["rho", "epsilon"])
def _adadelta(gradient: tf.Tensor, moments: Moments, values: Values, steps: tf.Tensor) -> tf.Tensor:
    moment = _mixed(moments["_accumulated_grads"], tf.square(gradient), values["rho"])
    update_moment = moments["_accumulated_delta_vars"]
    return tf.sqrt((update_moment + values["epsilon"]) / (moment + values["epsilon"]))
