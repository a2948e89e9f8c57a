"""The first look at a built classifier: can what it is to be trained on be attacked, and how."""

from collections.abc import Sequence
from typing import Final

import keras
import tensorflow as tf

from lexirobust.attacks import PGD, Attack, Flow, IntervalAttack
from lexirobust.attacks.bounds import check_layers
from lexirobust.checks import logits_problem, scale_problem
from lexirobust.geometry.norms import NORMS
from lexirobust.training.objectives import Objective
from lexirobust.training.objectives.base import single_attacks
from lexirobust.warn import warn

_SAMPLES: Final = 4


def follows_gradients(attack: Attack | None) -> bool:
    """Tells if an attack, or one of several, follows gradients."""
    return any(isinstance(each, PGD | Flow) for each, _ in single_attacks(attack))


def look_at(
    classifier: keras.Model,
    terms: Sequence[Objective],
    shape: Sequence[int | None],
    bounds: tuple[float, float] | None,
) -> None:
    """Checks that magnitudes fit the bounds, and warns of what would mislead attacks.

    Args:
        classifier: A Keras model that has been built.
        terms: All objectives.
        shape: `[N, ...]` of inputs.
        bounds: Lowest and highest value of an input, or `None`.

    Raises:
        ValueError: If inputs have no room for a magnitude inside the bounds, or an `IntervalAttack`
            does not know the classifier's layers.
    """
    sizes = [size for size in shape[1:] if size is not None]
    if len(sizes) == len(shape) - 1:
        for term in terms:
            if term.attack is not None:
                term.attack.check_room(term.magnitude, sizes)
            if any(isinstance(each, IntervalAttack) for each, _ in single_attacks(term.attack)):
                check_layers(classifier)
        _warn_of_probabilities(classifier, terms, shape, bounds)
    _warn_of_small_magnitudes(terms)
    _warn_without_gradient(classifier, terms, shape, bounds)


def _warn_of_small_magnitudes(terms: Sequence[Objective]) -> None:
    """Warns if no magnitude of an attack comes to anything beside its bounds."""
    largest: dict[tuple[str, tuple[float, float] | None], float] = {}
    attacks = [pair for term in terms for pair in single_attacks(term.attack, term.magnitude)]
    for attack, magnitude in attacks:
        if attack.norm in NORMS:
            kind = attack.norm, attack.bounds
            largest[kind] = max(magnitude, largest.get(kind, 0.0))
    for (norm, bounds), magnitude in largest.items():
        problem = scale_problem(magnitude, norm, bounds)
        if problem is not None:
            warn(problem)


def _warn_without_gradient(
    classifier: keras.Model,
    terms: Sequence[Objective],
    shape: Sequence[int | None],
    bounds: tuple[float, float] | None,
) -> None:
    """Warns if objectives' attacks follow gradients that the classifier does not have."""
    if any(follows_gradients(term.attack) for term in terms):
        problem = gradient_problem(classifier, shape, bounds)
        if problem is not None:
            warn(problem)


def _warn_of_probabilities(
    classifier: keras.Model,
    terms: Sequence[Objective],
    shape: Sequence[int | None],
    bounds: tuple[float, float] | None,
) -> None:
    """Warns if losses of logits are given what looks like probabilities; all sizes are known."""
    if not any(term.gives_logits for term in terms) or not _tapes_run():
        return
    problem = logits_problem(classifier(random_inputs(shape, bounds), training=False))
    if problem is not None:
        warn(problem)


def gradient_problem(
    classifier: keras.Model,
    shape: Sequence[int | None],
    bounds: tuple[float, float] | None = None,
) -> str | None:
    """Says what cuts the gradient of a classifier's outputs by its inputs.

    Args:
        classifier: A Keras model that has been built.
        shape: `[N, ...]` of its inputs.
        bounds: Lowest and highest value of an input, or `None`.

    Returns:
        A sentence or two, or `None` if there is a gradient, if only weights of 0 are in its way,
        or where gradients cannot be had.
    """
    if not _tapes_run():
        return None
    if None in shape[1:]:  # No size may be guessed: whether there is a gradient tracing tells, too.
        problems: list[str | None] = []
        graph = tf.function(lambda x: problems.append(_problem(classifier, x)), autograph=False)
        graph.get_concrete_function(tf.TensorSpec([None, *shape[1:]], keras.config.floatx()))
        return problems[0]
    return _problem(classifier, random_inputs(shape, bounds))


def random_inputs(shape: Sequence[int | None], bounds: tuple[float, float] | None) -> tf.Tensor:
    """A few inputs inside bounds, the same each time; `[N, ...]`, all sizes but N known."""
    low, high = bounds or (-1.0, 1.0)
    dtype = tf.as_dtype(keras.config.floatx())
    return tf.random.stateless_uniform([_SAMPLES, *shape[1:]], [0, 0], low, high, dtype)


def _tapes_run() -> bool:
    """Tells if gradients are recorded, which they are not inside `tf.init_scope`."""
    one = tf.constant(1.0)
    with tf.GradientTape() as tape:
        tape.watch(one)
        same = tf.identity(one)
    return tape.gradient(same, one) is not None


def _problem(classifier: keras.Model, x: tf.Tensor) -> str | None:
    gradient = _gradient(classifier, x)
    if _is_there(gradient):
        return None
    cut = _first_cut(classifier, x)
    if cut is None and gradient is not None:
        return None
    return (
        f"The classifier has no gradient by its inputs: {cut or 'something in it'} cuts it off. "
        "Attacks that follow gradients leave inputs where they are, and accuracies under attack "
        "are those on clean inputs."
    )


def _first_cut(model: keras.Model, x: tf.Tensor) -> str | None:
    """The first place in a sequential or functional model that no gradient passes."""
    inputs = getattr(model, "inputs", None) or []
    for given in inputs:
        if not tf.as_dtype(given.dtype).is_floating:
            return (
                f"its input of dtype {given.dtype}, which rounds what is perturbed, "
                f"(keras.Input({tuple(given.shape[1:])}, dtype='float32') in its place does not)"
            )
    for number, layer in enumerate(model.layers if inputs else [], start=1):
        if isinstance(model, keras.Sequential):
            part = keras.Sequential(model.layers[:number])
        else:
            part = keras.Model(inputs, layer.output)
        gradient = _gradient(part, x)
        if not _is_there(gradient):
            # What has weights may have zeros for them, to begin with.
            weighs = gradient is not None and layer.weights
            return None if weighs else f"layer {layer.name!r} ({type(layer).__name__})"
    return None


def _gradient(function: keras.Model, x: tf.Tensor) -> tf.Tensor | None:
    """The gradient of something that all outputs are part of."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = tf.nest.flatten(function(x, training=False))
        # Not their sum, which is the same whatever a softmax gives.
        squares = [
            tf.reduce_sum(tf.square(1.0 + tf.cast(output, tf.float32)))
            for output in outputs
            if output.dtype.is_floating
        ]
    return tape.gradient(squares, x) if squares else None


def _is_there(gradient: tf.Tensor | None) -> bool:
    """Tells if there is a gradient that is not 0, as far as a graph knows."""
    if gradient is None or not tf.executing_eagerly():
        return gradient is not None
    return bool(tf.reduce_any(gradient != 0))
