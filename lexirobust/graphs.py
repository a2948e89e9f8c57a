"""Parts of graphs that many graphs share."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

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
    compiled = tf.function(function, autograph=False)

    @functools.wraps(function)
    def call(*args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        called = function if tf.executing_eagerly() else compiled
        return called(*args, **kwargs)

    return call
