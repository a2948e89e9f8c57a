"""The base class of attacks of a given magnitude: a perturbation in the graph, calls and sweeps."""

import abc
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from lexirobust import progress
from lexirobust.attacks.classifier import Classifier
from lexirobust.attacks.compiled_attack import CompiledAttack
from lexirobust.attacks.inputs import as_float, batches, one_per_input, scales_of
from lexirobust.checks import check_magnitudes
from lexirobust.geometry import balls
from lexirobust.geometry.norms import NORMS
from lexirobust.tensors import of_dtype


class Attack(CompiledAttack):
    """Moves inputs by a given norm, to make a classifier's loss as large or small as it can.

    A subclass writes `perturb`, in TensorFlow operations only, and `get_config`. One that is all
    that its configuration says may share graphs with its equals: it defines `structure`, and names
    in `values` those settings that reach the graph as tensors, and so may differ.

    The first call on a classifier warns if that gives probabilities in place of logits, or is
    randomized. What it compiles serves later calls for as long as the classifier is made of what it
    was: layers, attributes, closures, globals and the entries of arrays are compared before every
    call, and weights are read as it runs. An array of many megabytes takes time to compare; what
    `array.setflags(write=False)` has made constant is not read. What Python does not show, such as
    the state of an extension module or of a library's own globals, is not seen: after such a change
    attack a new callable, as in `lambda x: classifier(x)`.

    Args:
        norm: Norm of the perturbation: `"l1"`, `"l2"` or `"linf"`.
        bounds: Lowest and highest value an input may take, both finite, or `None`.
        seed: Integer seed of the attack's own random generator, used when the attack is called.
            `None` draws one. Inside `fit` the model's generator is used, which is saved with it.

    Raises:
        ValueError: If a setting is not one of those above.
    """

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

    def __call__(
        self, classifier: Classifier, x: Any, y: Any, magnitude: Any, batch_size: int | None = None
    ) -> tf.Tensor:
        """Perturbs inputs.

        Args:
            classifier: Maps inputs to logits: a Keras model or any other callable.
            x: `[N, ...]` float array or tensor, inside the bounds.
            y: `[N]` integer labels, or `[N, C]` probabilities.
            magnitude: Norm of the perturbation, scalar or `[N]`.
            batch_size: Number of samples perturbed at a time. `None`, or inside a graph: all.

        Returns:
            The perturbed inputs, shaped like `x`.

        Raises:
            ValueError: If the data, the magnitude, the batch size, or the shape of the logits is
                not as above.
            TypeError: If inputs are no numbers, or labels neither integers nor probabilities.
        """
        x, y = self._checked(classifier, x, y, batch_size)
        if tf.executing_eagerly():
            check_magnitudes(np.ravel(magnitude), ranked=False, name="magnitude")
        magnitude = one_per_input("magnitude", magnitude, x)
        parts = batches(batch_size, x, y, magnitude)
        x_adv = [self._run(classifier, *part) for part in progress.bar(parts, "attack", delay=3.0)]
        return tf.concat(x_adv, axis=0)

    def sweep(
        self,
        classifier: Classifier,
        x: Any,
        y: Any,
        magnitudes: Sequence[float] | tf.Tensor,
        batch_size: int | None = None,
        scale: Any | None = None,
    ) -> tf.Tensor:
        """Perturbs the same inputs by several magnitudes, through one compiled graph.

        Args:
            classifier: Maps inputs to logits.
            x: `[N, ...]` float array or tensor, inside the bounds.
            y: `[N]` integer labels, or `[N, C]` probabilities.
            magnitudes: `[K]` norms.
            batch_size: Number of samples perturbed at a time. `None`, or inside a graph: all.
            scale: `[N]` factors of the magnitudes, above 0, one a sample; `None`: all are 1.

        Returns:
            `[K, N, ...]` tensor.

        Raises:
            ValueError: As for a call.
        """
        x, y = self._checked(classifier, x, y, batch_size)
        scale = scales_of(scale, x)
        if not tf.executing_eagerly():
            magnitudes = of_dtype(magnitudes, x.dtype)[:, None] * scale
            return self.sweep_in_graph(classifier, x, y, magnitudes, self._next_seed())
        magnitudes = check_magnitudes(magnitudes, ranked=False)
        ascending = np.unique(magnitudes)
        parts = batches(batch_size, x, y, scale)
        perturbed = (
            x_adv
            for x, y, scale in parts
            for x_adv in self._sweep(classifier, x, y, scale, ascending.tolist())
        )
        x_adv = list(progress.bar(perturbed, "attack", len(parts) * len(ascending), 3.0))
        columns = [tf.concat(x_adv[i :: len(ascending)], axis=0) for i in range(len(ascending))]
        order = np.searchsorted(ascending, magnitudes)
        return tf.stack([columns[index] for index in order])

    def _sweep(
        self,
        classifier: Classifier,
        x: tf.Tensor,
        y: tf.Tensor,
        scale: tf.Tensor,
        magnitudes: list[float],
    ) -> Iterator[tf.Tensor]:
        """Yields the inputs perturbed by each of several ascending magnitudes, times the scale."""
        for magnitude in magnitudes:
            yield self._run(classifier, x, y, magnitude * scale)

    def sweep_in_graph(
        self,
        classifier: Classifier,
        x: tf.Tensor,
        y: tf.Tensor,
        magnitudes: Any,
        seed: tf.Tensor,
        **given: tf.Tensor,
    ) -> tf.Tensor:
        """Does what `sweep` does, unchecked, as part of a graph that supplies the seed.

        Args:
            classifier: Maps inputs to logits.
            x: `[N, ...]` float tensor.
            y: `[N]` integer labels, or `[N, C]` probabilities.
            magnitudes: `[K]` norms, or `[K, N]`, one a sample.
            seed: `[2]` integer tensor.
            **given: `[K, N, ...]` tensors: more of what the attack's `perturb` takes by sample.

        Returns:
            `[K, N, ...]` tensor.
        """
        magnitudes = of_dtype(magnitudes, x.dtype)
        if magnitudes.shape.rank < 2:
            magnitudes = tf.repeat(tf.reshape(magnitudes, (-1, 1)), tf.shape(x)[0], axis=1)
        times = tf.shape(magnitudes)[0]
        labels = tf.tile(y, tf.concat([[times], tf.ones_like(tf.shape(y)[1:])], axis=0))
        inputs = tf.tile(x, tf.concat([[times], tf.ones_like(tf.shape(x)[1:])], axis=0))
        given = {name: tf.reshape(t, (-1, *t.shape[2:])) for name, t in given.items()}
        magnitude = tf.reshape(magnitudes, (-1,))
        x_adv = self.perturb(classifier, inputs, labels, magnitude, seed, **given)
        shape = tf.concat([tf.shape(magnitudes), tf.shape(x)[1:]], axis=0)
        return tf.ensure_shape(
            tf.reshape(x_adv, shape), [magnitudes.shape[0], x.shape[0], *x.shape[1:]]
        )

    def measure(self, perturbation: Any) -> tf.Tensor:
        """Measures perturbations as magnitudes do.

        Args:
            perturbation: `[N, ...]` float array or tensor, perturbed less clean inputs.

        Returns:
            `[N]` tensor.
        """
        return balls.norm(perturbation, self.norm)

    def check_room(self, magnitude: float, shape: Sequence[int]) -> None:
        """Checks that the bounds hold perturbations of such a norm.

        Args:
            magnitude: The norm.
            shape: Of one input.

        Raises:
            ValueError: If it is longer than the way between two opposite corners of the bounds.
        """
        if self.bounds is None or self.norm not in NORMS:
            return
        longest = balls.diagonal(self.bounds, shape, self.norm)
        if magnitude > longest * (1.0 + 1e-6):
            raise ValueError(
                f"A magnitude must be at most {longest:g}: by more of the {self.norm} norm no "
                f"input moves inside the attack's `bounds` {self.bounds}. Received: {magnitude:g}. "
                "For inputs of another range give the attack theirs, such as `bounds=(0, 255)`."
            )

    def feasible(self, x: Any, magnitude: Any) -> tf.Tensor:
        """Says where the bounds leave room for a perturbation of exactly this norm.

        Args:
            x: `[N, ...]` float array or tensor.
            magnitude: Scalar or `[N]`.

        Returns:
            `[N]` bool tensor. Where it is false, the perturbed input is the farthest allowed.
        """
        x = as_float(x)
        reach = balls.farthest(balls.box_around(x, self.bounds), x, self.norm)
        return reach >= of_dtype(magnitude, x.dtype) * (1.0 - 1e-6)

    def valid(self, x: Any, x_adv: tf.Tensor, magnitude: Any) -> tf.Tensor | None:
        """Says which perturbed inputs an average is to be taken over.

        Args:
            x: `[N, ...]` clean inputs.
            x_adv: `[N, ...]` perturbed inputs.
            magnitude: Scalar or `[N]`.

        Returns:
            `[N]` bool tensor, or `None` where all count.
        """
        del x, x_adv, magnitude
        return None

    def _run(
        self, classifier: Classifier, x: tf.Tensor, y: tf.Tensor, magnitude: tf.Tensor
    ) -> tf.Tensor:
        """Perturbs through the graph for this classifier and this kind of attack and data."""
        return self._compiled(classifier, x=x, y=y, magnitude=magnitude)

    def _traced(self, classifier: Classifier, **given: Any) -> Any:
        """The part of a call that runs inside a graph."""
        return self.perturb(classifier, **given)
