"""Configurations, read off the attributes that constructors keep their arguments in."""

import functools
import inspect
from collections.abc import Container
from typing import Any

import keras


def arguments_of(
    instance: Any,
    kind: type | None = None,
    inherited: bool = True,
    without: Container[str] = (),
) -> dict[str, Any]:
    """Reads the arguments of a constructor off the attributes of their names.

    Args:
        instance: Keeps each argument as an attribute, as scikit-learn's estimators do.
        kind: The class whose arguments are read; `None`: the instance's own.
        inherited: Whether what the constructor takes as `**kwargs` is what its base class names.
        without: Names that are left out.

    Returns:
        The arguments by name, tuples as lists.

    Example:

    >>> from lexirobust import attacks
    >>> arguments_of(attacks.FGSM(norm="linf", bounds=(0.0, 1.0)))
    {'norm': 'linf', 'constraint': 'exact', 'goal': 'maximize', 'bounds': [0.0, 1.0]}
    """
    names = [n for n in _names(kind or type(instance), inherited) if n not in without]
    values = {name: getattr(instance, name) for name in names}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def serialized(arguments: dict[str, Any]) -> dict[str, Any]:
    """Makes arguments what JSON can hold."""
    return {name: keras.saving.serialize_keras_object(value) for name, value in arguments.items()}


def deserialized(config: dict[str, Any], custom_objects: Any = None) -> dict[str, Any]:
    """Makes what `serialized` made arguments again."""
    return {
        name: keras.saving.deserialize_keras_object(value, custom_objects)
        for name, value in config.items()
    }


@functools.cache
def _names(kind: type, inherited: bool) -> tuple[str, ...]:
    """The names of a constructor's arguments."""
    names: list[str] = []
    for base in kind.__mro__:
        if "__init__" in vars(base):
            _, *parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
            kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
            names += [p.name for p in parameters if p.kind not in kinds and p.name not in names]
            if not inherited or not any(p.kind is kinds[1] for p in parameters):
                break
    return tuple(names)
