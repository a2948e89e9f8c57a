"""Takes a model out: a SavedModel that needs neither this package nor Keras."""

import contextlib
import functools
import logging
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from lexirobust.attacks.base import Attack
from lexirobust.attacks.check_attack import check_attack
from lexirobust.attacks.classifier import classifier_of, logits_of
from lexirobust.attacks.compiled_attack import draw_seed
from lexirobust.checks import logits_problem
from lexirobust.data_checks import input_tests, label_tests
from lexirobust.probabilities import probability_layer


def export(
    model: keras.Model,
    path: str | os.PathLike[str],
    attack: Attack | None = None,
    verbose: bool = False,
    dtype: str = "float32",
) -> None:
    """Writes a SavedModel of a classifier, for TensorFlow Serving or somebody's pipeline.

    Its signatures, all of inputs `[N, ...]`:

    - `serving_default`: `inputs` to `logits` and `probabilities`, `[N, classes]`.
    - `serve_examples`: `examples`, `[N]` serialized `tf.train.Example`, to the same. Each holds one
      float list, `inputs`, with as many values as an input has.
    - `perturb`, where an attack is given: `inputs`, `labels` (int64 `[N]`) and `magnitude` (scalar
      or `[N]`) to `perturbed`, shaped like the inputs. Every call draws anew, and a model loaded
      again draws the same again.
    - `explored`, of an `OLGRC`: `inputs` to `explored`, `[N, T]`, the probability that they lie in
      the region explored before each of its `magnitudes`, `[T]`.
    - `serve`: `inputs` to logits alone, as Keras's own exports do.

    Args:
        model: Classifier that gives logits, or one of this package's models around it; built.
        path: Folder that is to be made, or holds a SavedModel, which is replaced. TensorFlow
            Serving wants its name to be a version number.
        attack: What `perturb` is to do, or `None`.
        verbose: Whether Keras is to tell what it wrote.
        dtype: Type of the signatures' inputs, a floating-point or integer one: `"uint8"` for images
            as they are stored, whose pixels the classifier is given as float32.

    Raises:
        TypeError: If the model is no Keras model, or the attack no attack.
        ValueError: If the model has no single input and output, is not built, the folder holds
            something else already, or `dtype` is of no real numbers.

    Example:

    >>> import tempfile, lexirobust as lr
    >>> classifier = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export(classifier, f"{folder}/1", lr.attacks.PGD(norm="l2", bounds=None))
    ...     served = tf.saved_model.load(f"{folder}/1")
    >>> sorted(served.signatures)
    ['perturb', 'serve', 'serve_examples', 'serving_default']
    >>> served_adv = served.perturb(
    ...     tf.constant([[3.0]]), tf.constant([0], tf.int64), tf.constant(2.0)
    ... )
    >>> float(abs(served_adv["perturbed"] - 3.0)[0, 0])
    2.0
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a Keras model. Received: {model!r}.")
    if attack is not None:
        check_attack(attack)
    path = pathlib.Path(path)
    replaced = (path / "saved_model.pb").exists()
    if path.exists() and not replaced and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(
            "`path` must be a new or empty folder, or hold a SavedModel, which is replaced. "
            f"Received: {str(path)!r}."
        )
    kind = getattr(tf.dtypes, dtype, None) if isinstance(dtype, str) else None
    if not (isinstance(kind, tf.DType) and (kind.is_floating or kind.is_integer)):
        raise ValueError(
            f"`dtype` must name a floating-point or integer type, as 'uint8'. Received: {dtype!r}."
        )
    classifier = classifier_of(model)
    layer = probability_layer(classifier)
    if layer is not None:
        raise ValueError(
            "`model` must give logits, of which the served probabilities are made. Received: one "
            f"that ends in probabilities, layer {layer.name!r}; lexirobust.logits(model) takes "
            "them off."
        )
    spec = _input_spec(classifier)
    classes = _check_logits(classifier, spec)
    endpoints = _endpoints(model, classifier, spec, attack, classes)
    if kind != tf.float32:
        endpoints = {name: _cast(*each, kind) for name, each in endpoints.items()}

    archive = keras.export.ExportArchive()
    archive.track(classifier)
    for name, (function, signature) in endpoints.items():
        archive.add_endpoint(name, function, signature)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Whole or not at all. The name is none that TensorFlow Serving would look at.
    unfinished = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    old = unfinished.with_name(f"{unfinished.name}.old")
    try:
        with _quiet_unless(verbose):
            archive.write_out(unfinished, verbose=verbose)
        unfinished.chmod(0o755)  # As any folder; a temporary one is the owner's alone.
        if replaced:
            path.replace(old)
        try:
            unfinished.replace(path)
        except OSError:
            if replaced:
                old.replace(path)
            raise
    finally:
        for left in (unfinished, old):
            shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def _quiet_unless(verbose: bool) -> Iterator[None]:
    """Keeps TensorFlow, unless asked, from logging the name of a folder that is renamed."""
    logger = tf.get_logger()
    level = logger.level
    if not verbose:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _cast(
    function: Callable[..., Any], signature: list[tf.TensorSpec], dtype: tf.DType
) -> tuple[Callable[..., Any], list[tf.TensorSpec]]:
    """An endpoint that takes inputs of another type; what takes no inputs stays as it is."""
    inputs, *others = signature
    if inputs.dtype != tf.float32:
        return function, signature

    @functools.wraps(function)
    def cast(inputs: tf.Tensor, *given: tf.Tensor) -> Any:
        return function(tf.cast(inputs, tf.float32), *given)

    return cast, [tf.TensorSpec(inputs.shape, dtype, name=inputs.name), *others]


def _input_spec(classifier: keras.Model) -> tf.TensorSpec:
    """The specification of a batch of inputs, after the model has been checked."""
    if not classifier.built:
        raise ValueError("`model` must be built: call it on a batch, or give it a keras.Input.")
    shape = getattr(classifier, "input_shape", None)
    if shape is None:
        shape = classifier.get_build_config()["input_shape"]
    known = isinstance(shape, tuple) and len(shape) > 1 and None not in shape[1:]
    if not known or not all(isinstance(length, int) for length in shape[1:]):
        raise ValueError(
            "`model` must have one input [N, ...] whose shape is known but for N. Received: shape "
            f"{shape}; a model with a `keras.Input` of known sizes may call this one."
        )
    if len(getattr(classifier, "outputs", None) or [None]) > 1:
        raise ValueError(
            "`model` must have one output, its logits. Received: outputs "
            f"{classifier.output_names}; `model.export` writes all of them."
        )
    return tf.TensorSpec([None, *shape[1:]], tf.float32, name="inputs")


def _check_logits(classifier: keras.Model, inputs: tf.TensorSpec) -> int:
    """Checks what the classifier gives for some inputs: of probabilities there would be a softmax.

    Args:
        classifier: Keras model.
        inputs: Their specification.

    Returns:
        The number of classes.

    Raises:
        ValueError: If it looks like probabilities.
    """
    some = tf.random.stateless_uniform([16, *inputs.shape[1:]], seed=[0, 0])
    logits = logits_of(classifier, some)
    problem = logits_problem(logits)
    if problem is not None:
        raise ValueError(problem.replace("`classifier`", "`model`", 1))
    return int(logits.shape[-1])


def _endpoints(
    model: keras.Model,
    classifier: keras.Model,
    inputs: tf.TensorSpec,
    attack: Attack | None,
    classes: int,
) -> dict[str, tuple[Callable[..., Any], list[tf.TensorSpec]]]:
    """The serving endpoints by name: a function, and its signature."""

    def serve(inputs: tf.Tensor) -> tf.Tensor:
        return logits_of(classifier, inputs)

    def serving_default(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = logits_of(classifier, inputs)
        return {"logits": logits, "probabilities": tf.nn.softmax(logits)}

    def serve_examples(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        feature = tf.io.FixedLenFeature(inputs.shape[1:], tf.float32)
        return serving_default(tf.io.parse_example(examples, {"inputs": feature})["inputs"])

    texts = tf.TensorSpec([None], tf.string, name="examples")
    endpoints: dict[str, tuple[Callable[..., Any], list[tf.TensorSpec]]] = {
        "serving_default": (serving_default, [inputs]),
        "serve_examples": (serve_examples, [texts]),
        "serve": (serve, [inputs]),
    }
    if attack is not None:
        # No state that is drawn as it is made: deterministic operations would not allow it.
        generator = tf.random.Generator.from_seed(
            draw_seed() if attack.seed is None else attack.seed
        )

        def perturb(
            inputs: tf.Tensor, labels: tf.Tensor, magnitude: tf.Tensor
        ) -> dict[str, tf.Tensor]:
            seed = tf.cast(generator.make_seeds(1)[:, 0], tf.int32)
            tests = [
                *input_tests(inputs, attack.bounds, "`inputs`"),
                *label_tests(labels, classes, "`labels`"),
                tf.debugging.assert_all_finite(magnitude, "`magnitude` must be finite."),
                tf.debugging.assert_non_negative(magnitude, "`magnitude` must be at least 0."),
            ]
            with tf.control_dependencies(tests):
                norms = tf.broadcast_to(tf.identity(magnitude), tf.shape(inputs)[:1])
                inputs = tf.identity(inputs)
            return {"perturbed": attack.perturb(classifier, inputs, labels, norms, seed)}

        labels = tf.TensorSpec([None], tf.int64, name="labels")
        magnitude = tf.TensorSpec(None, tf.float32, name="magnitude")
        endpoints["perturb"] = (perturb, [inputs, labels, magnitude])
    own = getattr(model, "serving_endpoints", None)
    if own is not None:
        endpoints.update(own(inputs))
    return endpoints
