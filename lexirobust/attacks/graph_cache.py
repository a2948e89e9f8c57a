"""Graphs of attacks, each kept for as long as what it was traced from stays as it was."""

import argparse
import collections
import contextlib
import enum
import functools
import pathlib
import sys
import sysconfig
import threading
import types
from collections.abc import Callable, Hashable
from typing import Any, Final, TypeAlias, TypeVar

import keras
import numpy as np
import tensorflow as tf

from lexirobust.keras_internals import BOOKKEEPING

_Kept = TypeVar("_Kept")
_Parts: TypeAlias = dict[Hashable, Any]
"""The parts of an object by name."""

_MOST_KEPT: Final = 32  # The latest: each holds on to its classifier.

# What is the same where type and value are. Of all else but arrays it is identity that tells.
_PLAIN: Final = (int, float, complex, bool, str, bytes, type(None), type(...))
# What has no parts that a graph could have been traced from: it reads tensors as it runs.
_WHOLE: Final = (tf.Tensor, tf.Variable, keras.Variable, np.generic, enum.Enum, types.ModuleType)
_LIBRARIES: Final = sys.stdlib_module_names | {"keras", "numpy", "tensorflow", "tqdm"}
_LIBRARY_PATHS: Final = (
    sysconfig.get_path("stdlib"),
    str(pathlib.Path(__file__).resolve().parents[1]),
)
_LENGTH: Final = object()

_KEPT: Final[collections.OrderedDict[Hashable, tuple[Any, "Snapshot", Any]]] = (
    collections.OrderedDict()
)
_LOCK: Final = threading.RLock()


def keep(
    classifier: Any, key: Hashable, others: tuple[Any, ...], make: Callable[[], _Kept]
) -> _Kept:
    """Returns what was made for a classifier, made anew if that or something else has changed.

    Args:
        classifier: Any callable.
        key: What tells apart what is made for one classifier.
        others: What else it is made of, and may change.
        make: Makes it.
    """
    # A method is a new object wherever it is asked for.
    bound = isinstance(classifier, types.MethodType)
    own = (classifier.__self__, classifier.__func__) if bound else (classifier,)
    place = (*map(id, own), key)
    with _LOCK:
        found = _KEPT.get(place)
        if found is not None and found[1].still_holds():
            _KEPT.move_to_end(place)
            return found[2]
    snapshot = Snapshot(*own, *others)
    made = make()
    snapshot.ignore_changes()
    with _LOCK:
        _KEPT[place] = own, snapshot, made
        _KEPT.move_to_end(place)
        if len(_KEPT) > _MOST_KEPT:
            _KEPT.popitem(last=False)
    return made


def clear() -> None:
    """Forgets all classifiers, and what was made for them."""
    with _LOCK:
        _KEPT.clear()


class Snapshot:
    """Tells whether some objects, and all that they are made of, are what they were.

    Looked at are attributes, of all that is reached through them; items of lists, dicts, sets and
    tuples; entries of NumPy arrays; what functions have in their closures, their defaults and the
    globals that they name; and what classes define that is called, those of libraries aside.
    Tensors, variables and modules are compared by identity. Of Keras layers what training, saving
    and calls leave behind is left out, and of other objects what their `untraced` names.

    Args:
        *roots: The objects, which are kept alive.

    Example:

    >>> scaled = types.SimpleNamespace(scale=2.0, shift=[0.0])
    >>> snapshot = Snapshot(scaled)
    >>> snapshot.still_holds()
    True
    >>> scaled.shift[0] = 1.0
    >>> snapshot.still_holds()
    False
    """

    def __init__(self, *roots: Any) -> None:
        self._roots = roots
        self._ignored: set[Hashable] = set()
        self._parts = self._look()

    def still_holds(self) -> bool:
        """Tells if all parts are unchanged."""
        return not self._changed(self._look())

    def ignore_changes(self) -> None:
        """Leaves out from now on what is not what it was.

        A classifier that counts its calls would otherwise never be the same.
        """
        self._ignored |= self._changed(self._look())
        self._parts = self._look()

    def _changed(self, now: _Parts) -> set[Hashable]:
        """The names of parts that are others, are new, or are no more."""
        before = self._parts
        changed = now.keys() ^ before.keys()
        return changed | {
            name for name in now.keys() & before.keys() if not _same(now[name], before[name])
        }

    def _look(self) -> _Parts:
        """All parts, each by what it is a part of and the name that it has there."""
        found: _Parts = {}
        met: set[int] = set()
        waiting = [*self._roots]
        while waiting:
            owner = waiting.pop()
            if isinstance(owner, _PLAIN) or id(owner) in met:
                continue
            met.add(id(owner))
            parts = _parts_of(owner)
            if parts is None or (id(owner), _LENGTH) in self._ignored:
                continue
            if isinstance(owner, list | dict | set | collections.deque):
                parts[_LENGTH] = len(owner)
            for name, part in parts.items():
                place = id(owner), name
                if place not in self._ignored:
                    found[place] = part
                    waiting.append(part)
        return found


def _same(one: Any, other: Any) -> bool:
    return one is other or (
        type(one) is type(other) and isinstance(one, _PLAIN) and bool(one == other)
    )


def _parts_of(owner: Any) -> _Parts | None:
    """The parts of an object that a graph may have been traced from."""
    if isinstance(owner, _WHOLE):
        return None
    if isinstance(owner, np.ndarray):
        return {"entries": _digest(owner)}
    if isinstance(owner, dict):
        return dict(owner)
    if isinstance(owner, set | frozenset):
        return {id(item): item for item in owner}
    if isinstance(owner, list | tuple | collections.deque):
        return dict(enumerate(owner))
    if isinstance(owner, types.MethodType):
        return {
            "self": owner.__self__,
            "function": owner.__func__,
            **_code_of(type(owner.__self__), owner.__name__),
        }
    if isinstance(owner, types.FunctionType):
        return _parts_of_function(owner)
    if isinstance(owner, functools.partial):
        return {"function": owner.func, "args": owner.args, "keywords": owner.keywords}
    if isinstance(owner, keras.Operation):  # A layer, a model, or a function in a graph of them.
        if hasattr(owner, "objectives"):  # This package's models are what they train.
            return {"classifier": owner.classifier}
        parts = {name: part for name, part in vars(owner).items() if name not in BOOKKEEPING}
        return parts | _code_of(type(owner), "call")
    known = types.SimpleNamespace, argparse.Namespace
    if isinstance(owner, type) or (_is_library(type(owner)) and not isinstance(owner, known)):
        return None
    return _parts_of_object(owner)


def _digest(array: np.ndarray) -> int | None:
    """A number that is another where entries are; what cannot change has none."""
    fixed = array.base is None and not array.flags.writeable
    return None if fixed or array.dtype.hasobject else hash((array.shape, array.tobytes()))


def _parts_of_object(owner: Any) -> _Parts:
    parts = dict(getattr(owner, "__dict__", {}))
    for base in type(owner).__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(owner, name):
                parts[name] = getattr(owner, name)
    for name in getattr(owner, "untraced", ()):
        parts.pop(name, None)
    return parts | _code_of(type(owner), "__call__")


def _parts_of_function(function: types.FunctionType) -> _Parts:
    code = function.__code__
    parts: _Parts = {}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # Not assigned yet.
            parts[name] = cell.cell_contents
    if _is_library_code(code):
        return parts
    parts |= {".defaults": function.__defaults__, ".keywords": function.__kwdefaults__}
    parts[".attributes"] = function.__dict__
    known, names = function.__globals__, _names_in(code)
    for name in names & known.keys():
        parts[f"global {name}"] = part = known[name]
        if isinstance(part, types.ModuleType) and not _is_library_module(part.__name__):
            settings = vars(part)
            parts |= {f"{name}.{each}": settings[each] for each in names & settings.keys()}
    return parts


def _code_of(kind: type, *names: str) -> _Parts:
    """The definitions of some names in a class and its bases, and of names in their code."""
    classes = [base for base in kind.__mro__ if not _is_library(base)]
    found: _Parts = {}
    waiting = [*names] if classes else []
    while waiting:
        name = waiting.pop()
        for base in classes:
            part = vars(base).get(name)
            part = getattr(part, "fget", None) or getattr(part, "__func__", part)
            place = f"{base.__qualname__}.{name}"
            if part is not None and place not in found:
                found[place] = part
                if isinstance(part, types.FunctionType):
                    waiting += _names_in(part.__code__)
    return found


@functools.lru_cache(maxsize=256)
def _names_in(code: types.CodeType) -> frozenset[str]:
    """The globals and attributes that code names, and code inside of it."""
    inner = (part for part in code.co_consts if isinstance(part, types.CodeType))
    return frozenset(code.co_names).union(*map(_names_in, inner))


@functools.lru_cache(maxsize=256)
def _is_library_code(code: types.CodeType) -> bool:
    return code.co_filename.startswith(_LIBRARY_PATHS) or "site-packages" in code.co_filename


def _is_library(kind: type) -> bool:
    return _is_library_module(kind.__module__)


def _is_library_module(module: str) -> bool:
    return module.partition(".")[0] in _LIBRARIES
