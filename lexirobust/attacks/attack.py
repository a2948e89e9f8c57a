"""What every attack is: settings, a perturbation in the graph, and one compiled call."""

import abc
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from lexirobust.attacks import geometry
from lexirobust.checks import check_data, check_magnitudes, flat_labels

Classifier: TypeAlias = Callable[..., Any]
"""Maps inputs `[N, ...]` to logits `[N, C]`: a Keras model or any other callable."""


class Attack(abc.ABC):
    """Moves inputs by a given norm, to make a classifier's loss as large or small as it can.

    A subclass writes `perturb`, in TensorFlow operations only, and `get_config`.

    Args:
        norm: Norm of the perturbation: `"l1"`, `"l2"` or `"linf"`.
        bounds: Lowest and highest value an input may take, both finite, or `None`.
        seed: Integer seed of the attack's own random generator, used when the attack is called.
            `None` draws one. Inside `fit` the model's generator is used, which is saved with it.

    Raises:
        ValueError: If a setting is not one of those above.
    """

    def __init__(self, norm: str, bounds: tuple[float, float] | None, seed: int | None) -> None:
        self.norm = geometry.check_norm(norm)
        if bounds is not None:
            ends = np.asarray(bounds)
            if ends.shape != (2,) or not np.isfinite(ends).all() or ends[0] >= ends[1]:
                raise ValueError(
                    "`bounds` must be (low, high), finite and low below high, or None. Received: "
                    f"{bounds!r}."
                )
        self.bounds = None if bounds is None else (float(bounds[0]), float(bounds[1]))
        self.seed = seed
        self._generator: keras.random.SeedGenerator | None = None
        # One graph for a classifier and a shape of its samples, whatever the batch, the
        # magnitudes and their number. The most recent few are kept.
        self._graph = functools.lru_cache(maxsize=8)(self._trace)

    @abc.abstractmethod
    def perturb(
        self, classifier: Classifier, x: tf.Tensor, y: tf.Tensor, magnitude: Any, seed: tf.Tensor
    ) -> tf.Tensor:
        """Perturbs a batch inside a graph.

        Args:
            classifier: Maps inputs to logits.
            x: `[N, ...]` float tensor.
            y: `[N]` integer labels, or `[N, C]` probabilities.
            magnitude: Scalar or `[N]` tensor.
            seed: `[2]` integer tensor.

        Returns:
            The perturbed inputs, shaped like `x`.
        """

    @abc.abstractmethod
    def get_config(self) -> dict[str, Any]:
        """Returns the settings from which `from_config` makes an equal attack."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Attack":
        """Makes an attack from what `get_config` returned."""
        return cls(**config)

    def __call__(self, classifier: Classifier, x: Any, y: Any, magnitude: Any) -> tf.Tensor:
        """Perturbs inputs.

        Args:
            classifier: Maps inputs to logits: a Keras model or any other callable.
            x: `[N, ...]` float array or tensor, inside the bounds.
            y: `[N]` integer labels, or `[N, C]` probabilities.
            magnitude: Norm of the perturbation, scalar or `[N]`.

        Returns:
            The perturbed inputs, shaped like `x`.

        Raises:
            ValueError: If the data, the magnitude, or the shape of the logits is not as above.
        """
        x, y = self._checked(classifier, x, y)
        if tf.executing_eagerly():
            check_magnitudes(np.ravel(magnitude), ranked=False, name="magnitude")
        magnitude = tf.cast(magnitude, x.dtype)
        if magnitude.shape.rank and not magnitude.shape.is_compatible_with(x.shape[:1]):
            raise ValueError(
                f"`magnitude` must be a scalar, or hold one norm for each of {x.shape[0]} samples. "
                f"Received: shape {magnitude.shape}."
            )
        magnitude = tf.broadcast_to(magnitude, tf.shape(x)[:1])
        return self._run(classifier, x, y, magnitude[None])[0]

    def sweep(
        self, classifier: Classifier, x: Any, y: Any, magnitudes: Sequence[float] | tf.Tensor
    ) -> tf.Tensor:
        """Perturbs the same inputs by several magnitudes, in one compiled call.

        Args:
            classifier: Maps inputs to logits.
            x: `[N, ...]` float array or tensor, inside the bounds.
            y: `[N]` integer labels, or `[N, C]` probabilities.
            magnitudes: `[K]` norms.

        Returns:
            `[K, N, ...]` tensor.

        Raises:
            ValueError: As for a call.
        """
        x, y = self._checked(classifier, x, y)
        if tf.executing_eagerly():
            check_magnitudes(magnitudes, ranked=False)
        magnitudes = tf.reshape(tf.cast(magnitudes, x.dtype), (-1, 1))
        return self._run(classifier, x, y, tf.repeat(magnitudes, tf.shape(x)[0], axis=1))

    def sweep_in_graph(
        self, classifier: Classifier, x: tf.Tensor, y: tf.Tensor, magnitudes: Any, seed: tf.Tensor
    ) -> tf.Tensor:
        """Does what `sweep` does, unchecked, as part of a graph that supplies the seed.

        Args:
            classifier: Maps inputs to logits.
            x: `[N, ...]` float tensor.
            y: `[N]` integer labels, or `[N, C]` probabilities.
            magnitudes: `[K]` norms.
            seed: `[2]` integer tensor.

        Returns:
            `[K, N, ...]` tensor.
        """
        magnitudes = tf.reshape(tf.cast(magnitudes, x.dtype), (-1, 1))
        magnitudes = tf.repeat(magnitudes, tf.shape(x)[0], axis=1)
        return self._sweep(classifier, x, y, magnitudes, seed)

    def feasible(self, x: Any, magnitude: Any) -> tf.Tensor:
        """Says where the bounds leave room for a perturbation of exactly this norm.

        Args:
            x: `[N, ...]` float array or tensor.
            magnitude: Scalar or `[N]`.

        Returns:
            `[N]` bool tensor. Where it is false, the perturbed input is the farthest allowed.
        """
        x = _as_float(x)
        reach = geometry.farthest(geometry.box_around(x, self.bounds), x, self.norm)
        return reach >= tf.cast(magnitude, x.dtype) * (1.0 - 1e-6)

    def _sweep(
        self,
        classifier: Classifier,
        x: tf.Tensor,
        y: tf.Tensor,
        magnitudes: tf.Tensor,
        seed: tf.Tensor,
    ) -> tf.Tensor:
        """Perturbs `[N, ...]` inputs by `[K, N]` magnitudes as one batch of K*N samples."""
        times = tf.shape(magnitudes)[0]
        labels = tf.tile(y, tf.concat([[times], tf.ones_like(tf.shape(y)[1:])], axis=0))
        inputs = tf.tile(x, tf.concat([[times], tf.ones_like(tf.shape(x)[1:])], axis=0))
        moved = self.perturb(classifier, inputs, labels, tf.reshape(magnitudes, (-1,)), seed)
        shape = tf.concat([tf.shape(magnitudes), tf.shape(x)[1:]], axis=0)
        return tf.ensure_shape(
            tf.reshape(moved, shape), [magnitudes.shape[0], x.shape[0], *x.shape[1:]]
        )

    def _run(
        self, classifier: Classifier, x: tf.Tensor, y: tf.Tensor, magnitudes: tf.Tensor
    ) -> tf.Tensor:
        graph = self._graph(classifier, x.dtype, tuple(x.shape[1:]), y.dtype, tuple(y.shape[1:]))
        return graph(x, y, magnitudes, tf.cast(self._next_seed(), tf.int32))

    def _trace(
        self,
        classifier: Classifier,
        x_dtype: tf.DType,
        x_shape: tuple[int, ...],
        y_dtype: tf.DType,
        y_shape: tuple[int, ...],
    ) -> Callable[..., tf.Tensor]:
        def sweep(x: tf.Tensor, y: tf.Tensor, magnitudes: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
            return self._sweep(classifier, x, y, magnitudes, seed)

        return tf.function(sweep, autograph=False).get_concrete_function(
            tf.TensorSpec([None, *x_shape], x_dtype),
            tf.TensorSpec([None, *y_shape], y_dtype),
            tf.TensorSpec([None, None], x_dtype),
            tf.TensorSpec([2], tf.int32),
        )

    def _checked(self, classifier: Classifier, x: Any, y: Any) -> tuple[tf.Tensor, tf.Tensor]:
        x, y = _as_float(x), flat_labels(tf.convert_to_tensor(y))
        if tf.executing_eagerly():
            check_data(x, y, bounds=self.bounds)
        if isinstance(classifier, keras.Layer) and not classifier.built:
            classifier(x[:1])  # Variables cannot be made while the attack is being compiled.
        return x, y

    def _next_seed(self) -> tf.Tensor:
        if self._generator is None:
            with tf.init_scope():
                self._generator = keras.random.SeedGenerator(self.seed)
        return self._generator.next()


def logits_of(classifier: Classifier, x: tf.Tensor) -> tf.Tensor:
    """Calls a classifier as in use, not as in training.

    Args:
        classifier: Maps inputs to logits.
        x: `[N, ...]` tensor.

    Returns:
        `[N, C]` logits, float32 or wider.

    Raises:
        ValueError: If what comes out is not `[N, C]` with C of at least 2.
    """
    is_layer = isinstance(classifier, keras.Layer)
    logits = classifier(x, training=False) if is_layer else classifier(x)
    logits = tf.convert_to_tensor(logits)
    if logits.shape.rank != 2 or (logits.shape[-1] or 2) < 2:
        raise ValueError(
            "`classifier` must map inputs to logits of shape [N, classes], at least two classes. "
            f"Received: shape {tuple(logits.shape)}."
        )
    return tf.cast(logits, tf.float32) if logits.dtype.size < 4 else logits


def classification_loss(logits: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Computes the cross entropy of every sample.

    Args:
        logits: `[N, C]`.
        y: `[N]` integer labels, or `[N, C]` probabilities.

    Returns:
        `[N]` tensor, in nats.
    """
    if y.shape.rank == 2:
        return tf.nn.softmax_cross_entropy_with_logits(tf.cast(y, logits.dtype), logits)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(y, tf.int32), logits)


def _as_float(x: Any) -> tf.Tensor:
    x = tf.convert_to_tensor(x)
    return x if x.dtype.is_floating else tf.cast(x, keras.config.floatx())
