"""Variables that a model keeps beside its weights, and saves under a prefix of their own."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf


def replicated(value: Any) -> tf.Variable:
    """Makes a variable of which each replica writes its own copy, with what all of them found.

    Args:
        value: What it begins with.

    Returns:
        The variable, of which nothing is sent between replicas.
    """
    return tf.Variable(value, trainable=False, aggregation=tf.VariableAggregation.NONE)


def save_variables(store: Any, prefix: str, variables: Sequence[tf.Variable]) -> None:
    """Puts variables into what Keras saves.

    Args:
        store: Values by name.
        prefix: What their names begin with.
        variables: What to put there, in order.
    """
    for number, variable in enumerate(variables):
        store[f"{prefix}{number}"] = variable


def pop_variables(store: dict[str, Any], prefix: str) -> list[Any]:
    """Takes what `save_variables` put there out of what Keras has saved.

    Args:
        store: Values by name; those that are taken are removed.
        prefix: What their names begin with.

    Returns:
        The values, in order.
    """
    names = [name for name in store if name.startswith(prefix)]
    return [store.pop(name) for name in sorted(names, key=lambda name: int(name[len(prefix) :]))]
