"""Explanations of predictions: the way from the nearest decision boundary to the input."""

from typing import Any

import numpy as np
import tensorflow as tf

from lexirobust.attacks.classifier import Classifier, logits_of
from lexirobust.attacks.inputs import batches
from lexirobust.attacks.minimum_norm.base import MinimumNormAttack, NearestPoints
from lexirobust.checks import check_count, check_priors
from lexirobust.data_forms import one_array
from lexirobust.graphs import or_else
from lexirobust.tensors import classes_of, spread


def nearest_boundary(
    classifier: Classifier,
    x: Any,
    method: MinimumNormAttack,
    priors: Any | None = None,
    batch_size: int | None = None,
) -> NearestPoints:
    """Finds the nearest point at which a classifier changes its mind about each input.

    It is the boundary of the class that the classifier gives the input, rightly or wrongly. With
    priors it is the neutral boundary of that class, where it is as probable as it was before the
    input was seen: on one side the input speaks for the class, on the other against it.

    Args:
        classifier: Maps inputs to logits: a Keras model or any other callable.
        x: `[N, ...]` inputs, inside the method's bounds.
        method: Looks for the points: `FAB` or `DeepFool` by gradients, `HopSkipJump` or
            `BoundaryAttack` by decisions alone.
        priors: `[C]` how probable the classes are, above 0, with a sum of 1; `None`: the decision
            boundary.
        batch_size: Number of inputs that the classifier is given at a time. `None`: all.

    Returns:
        Points just past the boundary, their distances, where any was found, and what they cost.

    Raises:
        ValueError: If the inputs or priors are not as above, or logits are not numbers.
        TypeError: If the method is no attack of least norm, or inputs are no numbers.

    Example: two classes meet at 0, the neutral boundary is on the side of the more probable one.

    >>> import lexirobust as lr
    >>> classifier = lambda x: tf.concat([-x, x], axis=1)
    >>> fab = lr.attacks.FAB(bounds=None, seed=0)
    >>> for priors in (None, [0.2, 0.8]):
    ...     print(nearest_boundary(classifier, [[2.0]], fab, priors).inputs.numpy().round(3))
    [[-0.]]
    [[0.693]]

    Reference:
        Section 9.3 of the paper: nearest decision boundary points, and the neutral boundary.
    """
    if not isinstance(method, MinimumNormAttack):
        raise TypeError(
            "`method` must be an attack of least norm: FAB, DeepFool, HopSkipJump or "
            f"BoundaryAttack. Received: {method!r}."
        )
    check_count("batch_size", batch_size, optional=True)
    x = one_array(x)
    x = tf.convert_to_tensor(np.asarray(x, np.float32))
    given = _classes(classifier, x, batch_size)
    if np.any(given < 0) and np.all(np.isfinite(x)):
        raise ValueError(
            "`classifier` must give numbers: what is not a number is no class, and has no "
            f"boundary. Received: NaN in the logits of {np.sum(given < 0)} of {len(given)} inputs."
        )
    if priors is None:
        return method(classifier, x, given, batch_size)
    logits = logits_of(classifier, x[:1])
    neutral = _Neutral(classifier, check_priors(priors, int(logits.shape[-1])))
    found: list[tuple[np.ndarray, NearestPoints]] = []
    for label in np.unique(given):
        neutral.label.assign(label)
        rows = np.flatnonzero(given == label)
        some = tf.gather(x, rows)
        side = _classes(neutral, some, batch_size)
        found.append((rows, method(neutral, some, side, batch_size)))
    order = np.argsort(np.concatenate([rows for rows, _ in found]))
    columns = zip(*(points for _, points in found), strict=True)
    return NearestPoints(*(tf.constant(np.concatenate(each)[order]) for each in columns))


def _classes(classifier: Classifier, x: tf.Tensor, batch_size: int | None) -> np.ndarray:
    """`[N]` the classes that inputs are given, a batch at a time."""
    parts = batches(batch_size, x) or [(x,)]
    return np.concatenate([classes_of(logits_of(classifier, part)) for (part,) in parts])


def negative_adversarial_remover(
    classifier: Classifier,
    x: Any,
    method: MinimumNormAttack,
    priors: Any | None = None,
    batch_size: int | None = None,
) -> tf.Tensor:
    """Computes what makes each input the class that a classifier gives it.

    It is what has to be added to the nearest point of the boundary to get to the input. Where the
    input speaks against its class, as it may with priors, it is what speaks against it.

    Args:
        classifier: As of `nearest_boundary`.
        x: `[N, ...]` inputs.
        method: As of `nearest_boundary`.
        priors: As of `nearest_boundary`.
        batch_size: As of `nearest_boundary`.

    Returns:
        Float32 tensor shaped like `x`; not a number where no point of the boundary was found.

    Raises:
        ValueError: As `nearest_boundary`.
        TypeError: As `nearest_boundary`.

    Example: of a linear classifier's inputs, what is along its weights.

    >>> import lexirobust as lr
    >>> classifier = lambda x: x @ tf.constant([[3.0, -3.0], [4.0, -4.0]])
    >>> fab = lr.attacks.FAB(bounds=None, seed=0)
    >>> print(negative_adversarial_remover(classifier, [[1.0, 0.0]], fab).numpy().round(3))
    [[0.36 0.48]]

    Reference:
        Definition 9 in section 9.3 of the paper, by its text; its formula has the opposite sign.
    """
    points = nearest_boundary(classifier, x, method, priors, batch_size)
    way = np.asarray(one_array(x), np.float32) - points.inputs
    return or_else(spread(points.success, way), way, np.nan)


class _Neutral:
    """Logits `[N, 2]` against and for a class, equal where its probability is its prior.

    The class is a variable, so that one graph of an attack serves all of them.
    """

    def __init__(self, classifier: Classifier, priors: np.ndarray) -> None:
        self.classifier = classifier
        self.odds = tf.constant(np.log(priors) - np.log1p(-priors), tf.float32)
        self.label = tf.Variable(0, trainable=False, dtype=tf.int32)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        logits = logits_of(self.classifier, x)
        own = tf.one_hot(self.label, tf.shape(logits)[-1], True, False)
        others = tf.reduce_logsumexp(tf.where(own, logits.dtype.min, logits), axis=1)
        odds = tf.gather(logits, self.label, axis=1) - others
        odds -= tf.cast(tf.gather(self.odds, self.label), logits.dtype)
        return tf.stack([tf.zeros_like(odds), odds], axis=1)
