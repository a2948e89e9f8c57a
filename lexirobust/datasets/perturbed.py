"""Attacks as a stage of a `tf.data` pipeline."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lexirobust.attacks import gradient_check
from lexirobust.attacks.base import Attack
from lexirobust.attacks.check_attack import check_attack
from lexirobust.attacks.classifier import Classifier, classifier_of, logits_of
from lexirobust.attacks.compiled_attack import draw_seed
from lexirobust.attacks.inputs import as_float
from lexirobust.checks import check_magnitudes
from lexirobust.data_checks import flat_labels, input_tests, label_tests
from lexirobust.data_forms import check_dense, check_one_input, only_input
from lexirobust.tensors import of_dtype


def perturb(
    dataset: tf.data.Dataset, classifier: Classifier, attack: Attack, magnitude: float
) -> tf.data.Dataset:
    """Perturbs the inputs of a dataset, batch by batch, as they are asked for.

    A Keras classifier is taken as it is now: training it later changes nothing. Every pass over the
    dataset draws the same random numbers. Like all of `tf.data` it works on the CPU; to have a GPU
    perturb arrays, call the attack.

    Args:
        dataset: Batches `(x [N, ...], y, ...)` of float inputs and their labels, as `fit` takes
            them; what follows the labels is handed through.
        classifier: Maps inputs to logits: a Keras model that is built, or any other callable of
            TensorFlow operations, such as the function of a SavedModel.
        attack: The attack.
        magnitude: Norm of the perturbations.

    Returns:
        Dataset of the same structure, whose inputs are perturbed. A batch of inputs that are not
        finite or outside the attack's bounds raises `InvalidArgumentError`.

    Raises:
        TypeError: If an argument has another type, or inputs are no real numbers.
        ValueError: If the dataset does not consist of such batches, a Keras classifier is not
            built, or the magnitude is negative or not finite.

    Example: saved as it comes, and read again as any other dataset.

    >>> import tempfile, lexirobust as lr
    >>> x, y = lr.datasets.toy(20, seed=0)
    >>> batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    >>> attack = lr.attacks.PGD(norm="l2", steps=5, restarts=2, bounds=None)
    >>> perturbed = perturb(batches, lr.datasets.toy_classifier("f3"), attack, 2.5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     perturbed.prefetch(1).save(folder)
    ...     read = np.concatenate([part for part, _ in tf.data.Dataset.load(folder)])
    >>> float(abs(read - x).min()), float(abs(read - x).max())
    (2.5, 2.5)
    """
    if not isinstance(dataset, tf.data.Dataset):
        raise TypeError(f"`dataset` must be a tf.data.Dataset. Received: {dataset!r}.")
    check_attack(attack)
    _check_batches(dataset.element_spec)
    (magnitude,) = check_magnitudes([magnitude], ranked=False, name="magnitude")
    frozen = _frozen(classifier) if isinstance(classifier, keras.Model) else classifier
    source = np.random.default_rng(draw_seed() if attack.seed is None else attack.seed)
    drawn = source.integers(2**31, size=2).astype(np.int32)

    def perturbed(number: tf.Tensor, batch: tuple[Any, ...]) -> tuple[Any, ...]:
        x, y, *rest = batch
        x = as_float(x)
        classes = logits_of(frozen, x[:1]).shape[-1]
        tests = [*input_tests(x, attack.bounds), *label_tests(y, classes)]
        with tf.control_dependencies([test for test in tests if test is not None]):
            x = tf.identity(x)
        seed = tf.random.experimental.stateless_fold_in(drawn, number)
        norms = tf.fill(tf.shape(x)[:1], of_dtype(magnitude, x.dtype))
        return attack.perturb(frozen, x, flat_labels(y), norms, seed), y, *rest

    with gradient_check.warn_without_gradient(classifier):
        return dataset.enumerate().map(perturbed)


def _check_batches(spec: Any) -> None:
    pairs = isinstance(spec, tuple) and len(spec) > 1
    if pairs:
        only_input(spec[0])
    for part, name in zip(spec if pairs else (), ("inputs", "labels"), strict=False):
        check_dense(part, f"`dataset`: its {name}")
    if not (pairs and all(isinstance(part, tf.TensorSpec) for part in spec[:2])):
        raise ValueError(
            "`dataset` must yield tuples of inputs and labels, one tensor each; TensorFlow "
            f"Datasets gives them for `as_supervised=True`. Received: elements of {spec}."
        )
    x, y = spec[:2]
    if not (x.dtype.is_floating or x.dtype.is_integer):
        raise TypeError(f"`dataset` must yield inputs of real numbers. Received: {x.dtype.name}.")
    if x.shape.rank is None or None in x.shape[1:] or x.shape.rank < 2 or not y.shape.rank:
        raise ValueError(
            "`dataset` must yield batches of inputs [N, ...] whose shape is known but for N, and "
            "their labels: call its `batch`, or `map` it through `tf.ensure_shape`. Received: "
            f"elements of {spec}."
        )


def _frozen(model: keras.Model) -> Classifier:
    """The model with what its variables hold now, on the CPU, where `tf.data` works."""
    model = classifier_of(model)
    check_one_input(model)
    if not model.built:
        raise ValueError("`classifier` must be built: call it on a batch first.")
    with tf.device("CPU"):
        trainable, fixed = (
            [tf.identity(variable.value) for variable in variables]
            for variables in (model.trainable_variables, model.non_trainable_variables)
        )

    def logits(x: tf.Tensor) -> tf.Tensor:
        return model.stateless_call(trainable, fixed, x, training=False)[0]

    return logits
