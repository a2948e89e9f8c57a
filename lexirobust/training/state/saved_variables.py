"""Variables that a model keeps beside its weights, and saves under a prefix of their own."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import tensorflow as tf


def replicated(value: Any) -> tf.Variable:
    """Makes a variable of which each replica writes its own copy, with what all of them found.

    Args:
        value: What it begins with.

    Returns:
        The variable, of which nothing is sent between replicas.
    """
    return tf.Variable(value, trainable=False, aggregation=tf.VariableAggregation.NONE)


class SavedState(Protocol):
    """A part of a model's state that Keras does not save by itself."""

    @property
    def variables(self) -> Sequence[Any]:
        """All that is to be saved, in order."""

    def load(self, values: Sequence[Any]) -> None:
        """Sets the variables to values that were saved; there are none if none were kept."""


class FixedState:
    """Variables of which there are always as many.

    Args:
        variables: All of them, in order.
    """

    def __init__(self, variables: Sequence[Any]) -> None:
        self.variables = variables

    def load(self, values: Sequence[Any]) -> None:
        """Sets the variables to values that were saved.

        Args:
            values: One a variable.
        """
        for variable, value in zip(self.variables, values, strict=True):
            variable.assign(value)


def save_state(store: Any, parts: Mapping[str, SavedState | None]) -> None:
    """Puts parts of a model's state into what Keras saves.

    Args:
        store: Values by name.
        parts: What to save, by the prefix of its names; `None` has nothing.
    """
    for prefix, part in parts.items():
        for number, variable in enumerate([] if part is None else part.variables):
            store[f"{prefix}{number}"] = variable


def load_state(store: dict[str, Any], parts: Mapping[str, SavedState | None]) -> None:
    """Loads what `save_state` saved, and removes it from the rest.

    Args:
        store: Values by name; those of the parts are removed.
        parts: What to load, by prefix; what is saved for `None` is dropped.
    """
    for prefix, part in parts.items():
        names = [name for name in store if name.startswith(prefix)]
        ordered = sorted(names, key=lambda name: int(name[len(prefix) :]))
        values = [store.pop(name) for name in ordered]
        if part is not None:
            part.load(values)
