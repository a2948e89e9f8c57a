"""Compiled graphs of attacks, each kept for as long as what it was traced from stays as it was."""

import argparse
import collections
import contextlib
import dis
import enum
import functools
import pathlib
import sys
import sysconfig
import threading
import types
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, Final, ParamSpec, TypeAlias, TypeVar

import keras
import numpy as np
import tensorflow as tf

Graph: TypeAlias = Callable[..., Any]
"""A compiled attack on one classifier."""

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")
_Parts: TypeAlias = dict[Any, Any]
"""What an object is made of, by name."""

# How many classifiers are remembered, and how many graphs of all of them: the latest.
_MOST_CLASSIFIERS: Final = 16
_MOST_GRAPHS: Final = 16

# What has no parts, and is the same where type and value are.
_PLAIN: Final = frozenset({int, float, complex, bool, str, bytes, type(None), type(...)})

# How what an object is made of is found. What is whole is told apart by identity: a graph reads it
# as it runs, or it cannot change.
_KINDS: Final[dict[str, tuple[type, ...]]] = {
    "whole": (tf.Tensor, tf.Variable, keras.Variable, np.generic, enum.Enum, types.ModuleType),
    "array": (np.ndarray,),
    "method": (types.MethodType,),
    "fixed": (tuple, frozenset),
    "items": (list, set, collections.deque),
    "dict": (dict,),
    "function": (types.FunctionType,),
    "partial": (functools.partial,),
    "layer": (keras.Operation,),  # A layer, a model, or a function in a graph of them.
    "class": (type,),
    "object": (types.SimpleNamespace, argparse.Namespace),
}
_LIBRARIES: Final = sys.stdlib_module_names | {"keras", "numpy", "tensorflow", "tqdm"}
_LIBRARY_PATHS: Final = (
    sysconfig.get_path("stdlib"),
    str(pathlib.Path(__file__).resolve().parents[1]),
)

# What a Keras layer or model knows of itself besides what it computes: how it is trained, saved and
# called, and what it was called on.
_NAMES: Final = """
    _allow_non_tensor_positional_args _auto_config _build_shapes_dict _call_context_args
    _call_has_context_arg _call_has_mask_arg _call_has_training_arg _call_signature _called
    _compile_config _compile_loss _compile_metrics _compiled_trainable_state
    _compute_loss_has_training_arg _convert_input_args _distribute_reduction_method
    _distribute_strategy _distributed_dataset _eval_epoch_iterator _functional _inbound_nodes
    _initial_epoch _input_spec _inputs _inputs_struct _jit_compile _lock _loss_ids _loss_tracker
    _losses _losses_override _metrics _nodes _nodes_by_depth _non_trainable_variables
    _operations_by_depth _outbound_nodes _outputs _outputs_struct _parent_path _path _remat_mode
    _run_eagerly _saved_model_arg_spec _saved_model_inputs_spec _seed_generators
    _self_name_based_restores _self_saveable_object_factories _self_setattr_tracking
    _self_unconditional_checkpoint_dependencies _self_unconditional_deferred_dependencies
    _self_unconditional_dependency_names _self_update_uid _supports_masking _tracked _tracker
    _trainable_variables activity_regularizer build built call_signature_parameters compiled
    history loss name optimizer output_names predict_function quantize steps_per_execution
    stop_evaluating stop_predicting stop_training supports_jit test_function train_function
    unrolled_steps_per_execution
"""
_BOOKKEEPING: Final = frozenset(_NAMES.split())


class Known:
    """What is known of a classifier for as long as it stays what it is.

    Args:
        classifier: The classifier.
        parts: What it consists of for as long as it lives: a method is an object's.
        forget: Called once one of these is no more.

    Attributes:
        classes: How many classes it has, by the shape of an input.
    """

    def __init__(self, classifier: Any, parts: Sequence[Any], forget: Callable[[], object]) -> None:
        self.classes: dict[tuple[int | None, ...], int] = {}
        self.graphs: collections.OrderedDict[Hashable, tuple[Graph, Watch]] = (
            collections.OrderedDict()
        )
        self._parts = [_Part(part, lambda _: forget()) for part in parts]
        self._watch = Watch(classifier)

    def is_up_to_date(self, parts: Sequence[Any]) -> bool:
        """Whether the classifier is made of these parts, and all of them are what they were."""
        same = [held.value is part for held, part in zip(self._parts, parts, strict=True)]
        return all(same) and not self._watch.sees_change()

    @contextlib.contextmanager
    def calling(self) -> Iterator[None]:
        """Has what the classifier changes about itself in here count as bookkeeping from now on.

        A count of its calls, for one, would otherwise never be what it was.
        """
        yield
        with _LOCK:
            self._watch.ignore_changes()

    def graph(self, key: Hashable, attacks: Iterable[Any], compiled: Callable[[], Graph]) -> Graph:
        """Returns the graph of a key, compiled anew if there is none, or the attack has changed.

        Args:
            key: What tells graphs of this classifier apart, all that is equal in equal attacks.
            attacks: What else graphs of this key are made of, and may change.
            compiled: Compiles one.
        """
        with _LOCK:
            found = self.graphs.get(key)
            if found is not None and not found[1].sees_change():
                self.graphs.move_to_end(key)
                return found[0]
        watch = Watch(*attacks)
        with self.calling():
            graph = compiled()
        with _LOCK:
            watch.ignore_changes()
            self.graphs[key] = graph, watch
            self.graphs.move_to_end(key)
            _drop_oldest()
        return graph


_LOCK: Final = threading.RLock()
_KNOWN: Final[collections.OrderedDict[tuple[int, ...], Known]] = collections.OrderedDict()


class _Looked(threading.local):
    """What a thread has looked at in the call that it is in, if it is in one."""

    known: dict[int, tuple[Any, Known]] | None = None


_LOOKED: Final = _Looked()


def looks_once(function: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
    """Makes a function take classifiers as they are when they are first met in a call of it."""

    @functools.wraps(function)
    def looking(*args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        if _LOOKED.known is not None:
            return function(*args, **kwargs)
        _LOOKED.known = {}
        try:
            return function(*args, **kwargs)
        finally:
            _LOOKED.known = None

    return looking


def known(classifier: Any) -> Known:
    """Returns what is known of a classifier: nothing, if it is not what it was.

    Args:
        classifier: Any callable. It is forgotten with its last reference.
    """
    looked = _LOOKED.known
    if looked is not None and id(classifier) in looked:
        return looked[id(classifier)][1]
    # A method is a new object wherever it is asked for.
    is_method = isinstance(classifier, types.MethodType)
    parts = (classifier.__self__, classifier.__func__) if is_method else (classifier,)
    key = tuple(map(id, parts))
    with _LOCK:
        found = _KNOWN.get(key)
        if found is None or not found.is_up_to_date(parts):
            found = _KNOWN[key] = Known(classifier, parts, lambda: _KNOWN.pop(key, None))
            while len(_KNOWN) > _MOST_CLASSIFIERS:
                _KNOWN.popitem(last=False)
        _KNOWN.move_to_end(key)
    if looked is not None:
        looked[id(classifier)] = classifier, found
    return found


def clear() -> None:
    """Forgets all classifiers, and what was compiled for them."""
    with _LOCK:
        _KNOWN.clear()


def _drop_oldest() -> None:
    """Drops graphs of those classifiers first that were attacked last the longest ago."""
    many = sum(len(each.graphs) for each in _KNOWN.values()) - _MOST_GRAPHS
    for each in [*_KNOWN.values()]:
        while many > 0 and each.graphs:
            each.graphs.popitem(last=False)
            many -= 1


class Watch:
    """Tells whether some objects, and all that they are made of, are what they were.

    Looked at are attributes, of all that is reached through them; items of lists, dicts, sets and
    tuples; entries of NumPy arrays; what functions have in their closures, their defaults and the
    globals that they name; and what classes define, those of libraries aside. Tensors, variables
    and modules are told apart by identity. Of Keras layers what training, saving and calls leave
    behind is left out, and of other objects what their `untraced` names.

    It keeps none of the objects alive, lists and the like aside.

    Args:
        *roots: The objects.

    Example:

    >>> scaled = types.SimpleNamespace(scale=2.0, shift=[0.0])
    >>> watch = Watch(scaled)
    >>> watch.sees_change()
    False
    >>> scaled.shift[0] = 1.0
    >>> watch.sees_change()
    True
    """

    def __init__(self, *roots: Any) -> None:
        self._places: list[_Place] = []
        self._gone: list[Any] = []
        met: set[int] = set()
        waiting = [*roots]
        while waiting:
            value = waiting.pop()
            if type(value) in _PLAIN or id(value) in met:
                continue
            met.add(id(value))
            kind: Any = type(value)
            how = _way_to_look(kind)
            if how == "fixed":
                waiting += value
            elif how == "method":
                called = _code_of(type(value.__self__), value.__func__.__name__)
                waiting += (value.__self__, value.__func__, *called)
            elif how == "partial":
                waiting += (value.func, value.args, value.keywords)
            elif how != "whole":
                place = _Place(value, how, self._gone.append)
                if place.parts:
                    self._places.append(place)
                waiting += place.inner(value)

    def sees_change(self) -> bool:
        """Whether a part is not what it was."""
        # What is gone may have left its id to what took its place.
        sure = not self._gone
        self._gone.clear()
        for place in self._places:
            if not (sure and place.looks_the_same()) and place.changes():
                self._gone.append(None)
                return True
        return False

    def ignore_changes(self) -> None:
        """Leaves out from now on what is not what it was."""
        for place in self._places:
            place.ignore_changes()


class _Place:
    """An object, and the parts that it had: plain values, and references to all others.

    Args:
        owner: The object.
        how: How its parts are found.
        gone: Told of a part, or the object, that is no more.
    """

    def __init__(self, owner: Any, how: str, gone: Callable[[Any], object]) -> None:
        self._how = how
        self._parts_of, self._ids_of = _LOOKS[how]
        self._gone = gone
        self._owner = _Part(owner, gone)
        self._ignored: set[Any] = set()
        self._is_ignored = False
        self._note(owner, self._parts_of(owner))

    def _note(self, owner: Any, parts: _Parts) -> None:
        self.parts = {name: _Part(part, self._gone) for name, part in parts.items()}
        self._ids = self._ids_of(owner)

    def inner(self, owner: Any) -> list[Any]:
        """What is to be looked at besides."""
        if self._how == "array":
            return []
        parts = self._parts_of(owner)
        if self._how == "class":  # Its code is looked at where it is called.
            return [part for part in parts.values() if _function_in(part) is None]
        if self._how in ("layer", "object") and len(classes := _classes_of(type(owner))):
            return [*parts.values(), *classes, *_code_of(type(owner), "__call__", "call")]
        return [*parts.values()]

    def looks_the_same(self) -> bool:
        """Whether all parts have the ids that they had."""
        owner = self._owner.value
        return owner is None or self._is_ignored or self._ids_of(owner) == self._ids

    def changes(self) -> set[Any]:
        """The names of parts that are not what they were."""
        owner = self._owner.value
        # Of what is gone, whatever it was a part of has changed, if anything.
        if owner is None or self._is_ignored:
            return set()
        now = self._parts_of(owner)
        names = (now.keys() | self.parts.keys()) - self._ignored
        changed = {
            name
            for name in names
            if not (name in now and name in self.parts and self.parts[name].equals(now[name]))
        }
        if not changed:  # What has been ignored, or replaced by an equal, has new ids.
            self._note(owner, now)
        return changed

    def ignore_changes(self) -> None:
        """Leaves out what has changed; all of it, if it is what grows."""
        changed = self.changes()
        if changed:
            grows = self._how in ("items", "dict") and not changed <= self.parts.keys()
            self._is_ignored = grows or self._how == "items"
            self._ignored |= changed
            self.changes()


class _Part:
    """A reference to a part, or the part itself if it is plain or a container."""

    __slots__ = ("_held", "_reference")

    def __init__(self, part: Any, gone: Callable[[Any], object]) -> None:
        self._held = self._reference = None
        if type(part) in _PLAIN:
            self._held = part
            return
        try:
            self._reference = weakref.ref(part, gone)
        except TypeError:
            self._held = part

    @property
    def value(self) -> Any:
        """The part; `None` once it is gone."""
        return self._held if self._reference is None else self._reference()

    def equals(self, part: Any) -> bool:
        """Whether a part is this one; plain values are by what they are."""
        value = self.value
        if value is part:
            return True
        return type(part) in _PLAIN and type(part) is type(value) and bool(part == value)


@functools.lru_cache(maxsize=256)
def _way_to_look(kind: type) -> str:
    """How what an object of a kind is made of is found."""
    for how, kinds in _KINDS.items():
        if issubclass(kind, kinds):
            return how
    return "whole" if _package(kind.__module__) in _LIBRARIES else "object"


def _parts_of_items(items: Any) -> _Parts:
    return dict(enumerate(items))


def _parts_of_array(array: np.ndarray) -> _Parts:
    return {"entries": _digest(array)}


def _digest(array: np.ndarray) -> int | None:
    fixed = array.base is None and not array.flags.writeable
    return None if fixed or array.dtype.hasobject else hash((array.shape, array.tobytes()))


def _parts_of_layer(layer: Any) -> _Parts:
    parts = {name: part for name, part in vars(layer).items() if name not in _BOOKKEEPING}
    # This package's models are what they train.
    return {"classifier": layer.classifier} if "objectives" in parts else parts


def _parts_of_object(value: Any) -> _Parts:
    parts = dict(getattr(value, "__dict__", {}))
    for base in type(value).__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name):
                parts[name] = getattr(value, name)
    for name in getattr(type(value), "untraced", ()):
        parts.pop(name, None)
    return parts


def _parts_of_class(kind: type) -> _Parts:
    if _package(kind.__module__) in _LIBRARIES:
        return {}
    return {name: part for name, part in vars(kind).items() if not name.startswith("__")}


def _parts_of_function(function: types.FunctionType) -> _Parts:
    code = function.__code__
    parts: _Parts = {}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # Not assigned yet.
            parts[name] = cell.cell_contents
    if _is_library_code(code):
        return parts
    parts |= {".defaults": function.__defaults__, ".keywords": function.__kwdefaults__}
    if function.__dict__:
        parts[".attributes"] = function.__dict__
    known, (named, attributes) = function.__globals__, _names_in(code)
    for name in named:
        if name in known:
            parts[f"global {name}"] = part = known[name]
            if isinstance(part, types.ModuleType) and _package(part.__name__) not in _LIBRARIES:
                settings = vars(part)
                parts |= {f"{name}.{one}": settings[one] for one in attributes if one in settings}
    return parts


_LOOKS: Final[dict[str, tuple[Callable[[Any], _Parts], Callable[[Any], Any]]]] = {
    "array": (_parts_of_array, _digest),
    "items": (_parts_of_items, lambda items: [*map(id, items)]),
    "dict": (dict, lambda items: [*map(id, items), *map(id, items.values())]),
    "function": (_parts_of_function, lambda value: [*map(id, _parts_of_function(value).values())]),
    "layer": (_parts_of_layer, lambda layer: [*map(id, vars(layer).values())]),
    "class": (_parts_of_class, lambda kind: [*map(id, vars(kind).values())]),
    "object": (_parts_of_object, lambda value: [*map(id, _parts_of_object(value).values())]),
}
"""What things are made of, and quickly found numbers that are others where that is."""


def _classes_of(kind: type) -> tuple[type, ...]:
    """A class and its bases, without those of libraries and of this package."""
    ours = _LIBRARIES | {"lexirobust"}
    return tuple(base for base in kind.__mro__ if _package(base.__module__) not in ours)


def _code_of(kind: type, *names: str) -> list[types.FunctionType]:
    """The methods of these names, and those that they name, of a class and its bases."""
    classes, found, waiting = _classes_of(kind), {}, [*names]
    while waiting:
        name = waiting.pop()
        for base in classes:
            function = _function_in(vars(base).get(name))
            if function is not None and (base, name) not in found:
                found[base, name] = function
                waiting += _names_in(function.__code__)[1]
    return [*found.values()]


def _function_in(part: Any) -> types.FunctionType | None:
    """The function of a method or property."""
    part = getattr(part, "fget", None) or getattr(part, "__func__", part)
    return part if isinstance(part, types.FunctionType) else None


@functools.lru_cache(maxsize=256)
def _names_in(code: types.CodeType) -> tuple[frozenset[str], frozenset[str]]:
    """The globals and the attributes that code names, and code inside of it."""
    named: set[str] = set()
    attributes: set[str] = set()
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            named.add(step.argval)
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            attributes.add(step.argval)
        elif isinstance(step.argval, types.CodeType):
            more_named, more_attributes = _names_in(step.argval)
            named |= more_named
            attributes |= more_attributes
    return frozenset(named), frozenset(attributes)


@functools.lru_cache(maxsize=256)
def _is_library_code(code: types.CodeType) -> bool:
    return code.co_filename.startswith(_LIBRARY_PATHS) or "site-packages" in code.co_filename


def _package(module: str) -> str:
    return module.partition(".")[0]
