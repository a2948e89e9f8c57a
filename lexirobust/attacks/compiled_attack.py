"""What all attacks share: settings, checks, and one compiled graph for equal settings."""

import abc
import contextlib
import copy
import random
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Final, Self

import keras
import numpy as np
import tensorflow as tf

from lexirobust.attacks import gradient_check, graph_cache
from lexirobust.attacks.classifier import Classifier, known_classes
from lexirobust.attacks.inputs import as_float
from lexirobust.checks import check_bounds, check_count, check_seed
from lexirobust.configs import arguments_of
from lexirobust.data_checks import check_data, check_labels, flat_labels
from lexirobust.data_forms import check_dense, check_sizes, one_array
from lexirobust.geometry import balls

_LOOKED_AT: Final = 64  # Samples of the first batch: enough to tell, and few enough to hold.


class CompiledAttack(abc.ABC):
    """The base class of all attacks: settings, checks, and one graph for equal settings.

    Args:
        norm: Norm of the perturbation: one of `norms`.
        bounds: Lowest and highest value an input may take, both finite, or `None`.
        seed: Integer seed of the attack's own random generator, from 0 to 2**32 - 1. `None` draws
            one, by what `keras.utils.set_random_seed` has set.

    Raises:
        ValueError: If a setting is not one of those above.
    """

    values: ClassVar[tuple[str, ...]] = ()
    untraced: ClassVar[tuple[str, ...]] = ("seed", "_generator")
    norms: ClassVar[tuple[str, ...]] = balls.NORMS
    """The norms that magnitudes may be of. A subclass whose magnitudes are others names their
    kind here, and writes `measure` and `feasible`."""

    def __init__(self, norm: str, bounds: tuple[float, float] | None, seed: int | None) -> None:
        self.norm = balls.check_norm(norm, self.norms)
        self.bounds = check_bounds(bounds)
        self.seed = check_seed(seed)
        self._generator: keras.random.SeedGenerator | None = None

    def __copy__(self) -> Self:
        """Returns an attack that draws from the same generator."""
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        return other

    def __getstate__(self) -> dict[str, Any]:
        """Returns what a pickle holds: where the generator is, and not its variable."""
        drawn = None if self._generator is None else np.asarray(self._generator.state)
        return {**vars(self), "_generator": drawn}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Goes on drawing from where the attack was that was pickled or copied."""
        drawn = state["_generator"]
        vars(self).update(state, _generator=None)
        if drawn is not None:
            with tf.init_scope():
                self._generator = keras.random.SeedGenerator(0)
                self._generator.state.assign(drawn)

    def get_config(self) -> dict[str, Any]:
        """Returns the settings from which `from_config` makes an equal attack.

        A subclass that keeps each argument of its constructor as an attribute of the same name
        need not override this.
        """
        return arguments_of(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes an attack from what `get_config` returned."""
        return cls(**config)

    def structure(self) -> Hashable:
        """The key that attacks with a common graph share; the attack itself if it shares none."""
        return self

    def _settings(self) -> Hashable:
        """A key of all settings but the seed and `values`."""
        fixed = {**self.get_config(), **dict.fromkeys(("seed", *self.values))}
        return type(self), repr(sorted(fixed.items()))

    def _compiled(self, classifier: Classifier, **given: Any) -> Any:
        """Calls the graph for this classifier and this kind of attack and data.

        `given` holds other values of numbers, and what `_traced` takes beside a seed.
        """
        numbers = {name: given.pop(name, getattr(self, name)) for name in self.values}
        numbers = {name: tf.constant(value) for name, value in numbers.items() if value is not None}
        tensors = {"seed": tf.cast(self._next_seed(), tf.int32), **given, **numbers}
        kinds = tuple([_kind_of(name, tensor) for name, tensor in tensors.items()])
        structure = self.structure()
        # Another device has its own copies of mirrored weights, which its own graph reads.
        device = tf.zeros([]).device
        graph = graph_cache.keep(
            classifier,
            (structure, kinds, tuple(numbers), device),
            (structure,),
            lambda: self._compile(classifier, kinds, tuple(numbers)),
        )
        return graph(**tensors)

    def _compile(
        self,
        classifier: Classifier,
        kinds: Iterable[tuple[str, Sequence[int | None] | None, tf.DType]],
        numbers: Iterable[str],
    ) -> Callable[..., Any]:
        """Compiles for all attacks that equal this one but for numbers, tensors in the graph."""
        attack = copy.copy(self)

        def perturb(**given: tf.Tensor) -> Any:
            for name in numbers:
                setattr(attack, name, given.pop(name))
            return attack._traced(classifier, **given)

        specs = {name: tf.TensorSpec(shape, dtype) for name, shape, dtype in kinds}
        with gradient_check.warn_without_gradient(classifier):
            return tf.function(perturb, autograph=False).get_concrete_function(**specs)

    @abc.abstractmethod
    def _traced(self, classifier: Classifier, **given: Any) -> Any:
        """The part of a call that runs inside a graph."""

    def _checked(
        self, classifier: Classifier, x: Any, y: Any, batch_size: int | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        check_count("batch_size", batch_size, optional=True)
        check_dense(y, "`y`")
        x, y = as_float(one_array(x)), tf.convert_to_tensor(y)
        if tf.executing_eagerly():
            check_data(x, y, bounds=self.bounds)
        else:
            check_sizes(x.shape)
        y = flat_labels(y)
        if isinstance(classifier, keras.Layer) and not classifier.built:
            classifier(x[:1])  # Variables cannot be made while the attack is being compiled.
        if tf.executing_eagerly():
            first = x[: min(batch_size or _LOOKED_AT, _LOOKED_AT)]
            check_labels(y, known_classes(classifier, first))
        return x, y

    @contextlib.contextmanager
    def drawing_from(self, seed: int) -> Iterator[None]:
        """Has calls inside the context draw from a generator of their own.

        Args:
            seed: Integer seed of that generator.

        Example: the same starts twice.

        >>> from lexirobust.attacks import PGD
        >>> attack = PGD(norm="linf", steps=1, bounds=None)
        >>> classifier = lambda x: x @ tf.constant([[1.0, -1.0], [2.0, 1.0]])
        >>> x_adv = []
        >>> for _ in range(2):
        ...     with attack.drawing_from(3):
        ...         x_adv.append(attack(classifier, tf.zeros((1, 2)), tf.constant([0]), 1.0))
        >>> bool(tf.reduce_all(x_adv[0] == x_adv[1]))
        True
        """
        kept, self._generator = self._generator, keras.random.SeedGenerator(check_seed(seed))
        try:
            yield
        finally:
            self._generator = kept

    def _next_seed(self) -> tf.Tensor:
        if self._generator is None:
            with tf.init_scope():
                self._generator = keras.random.SeedGenerator(self.seed)
        return self._generator.next()


def draw_seed() -> int:
    """Draws a seed where a user gives none; `keras.utils.set_random_seed` makes it repeat.

    Returns:
        An integer from 0 to 2**31 - 1, from the source that Keras draws its seeds from.
    """
    return random.randrange(2**31)


def _kind_of(name: str, tensor: tf.Tensor) -> tuple[str, tuple[int | None, ...] | None, tf.DType]:
    """The specification of a tensor for a graph: its first axis, if any, is that of the samples."""
    shape = None if tensor.shape.rank is None else tuple(tensor.shape)
    return name, (None, *shape[1:]) if shape and name != "seed" else shape, tensor.dtype
