"""Parts of graphs that many graphs share, programs of XLA, and what is no finite number."""

import functools
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

import numpy as np
import tensorflow as tf

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


def traced_once(function: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
    """Makes a function of tensors trace once for all graphs that call it, and not in each.

    Each kind of tensors, and each value of other arguments, is traced by itself. Eager code calls
    the function as it is.

    Args:
        function: Depends on its arguments alone.
    """
    traced = _traced_apart(tf.function(function, autograph=False))

    @functools.wraps(function)
    def call(*args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        called = function if tf.executing_eagerly() else traced
        return called(*args, **kwargs)

    return call


def compiled(function: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
    """Makes a function of tensors a program of XLA, wherever it is called.

    Args:
        function: Depends on its arguments alone.
    """
    return _traced_apart(tf.function(function, jit_compile=True, autograph=False))


def _traced_apart(function: Any) -> Callable[..., Any]:
    """Has a `tf.function` traced without the checks of `tf.debugging.enable_check_numerics`.

    XLA cannot compile those, and graphs that are kept would have them when the checks are off
    again. They are made for operations of the thread that has asked for them alone.
    """
    signature = inspect.signature(function.python_function)

    @tf.autograph.experimental.do_not_convert  # It would warn that it cannot convert the thread.
    @functools.wraps(function.python_function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if tf.config.functions_run_eagerly():
            return function(*args, **kwargs)
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        specs = tf.nest.map_structure(_spec, given.args)
        with ThreadPoolExecutor(1) as thread:
            traced = thread.submit(function.get_concrete_function, *specs).result()
        return traced(*given.args)

    return call


def _spec(value: Any) -> Any:
    """The specification of a tensor for a graph; anything else as it is."""
    return tf.TensorSpec(value.shape, value.dtype) if tf.is_tensor(value) else value


def or_else(known: tf.Tensor, values: tf.Tensor, otherwise: float) -> tf.Tensor:
    """Is `tf.where` for results that are infinite or not a number on purpose.

    `tf.debugging.enable_check_numerics` looks at what operations give, and these need none: only
    graphs that give such results are reported.

    Args:
        known: Bool tensor: where `values` count.
        values: Float tensor.
        otherwise: What is put elsewhere.
    """
    if tf.executing_eagerly():
        return tf.constant(np.where(known, values, otherwise), values.dtype)
    return _where(known, values, otherwise)


@traced_once
def _where(known: tf.Tensor, values: tf.Tensor, otherwise: float) -> tf.Tensor:
    # Not in the caller's graph, where the constant by itself would be reported.
    return tf.where(known, values, otherwise)
