"""Accuracy as a function of the perturbation's magnitude."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tqdm

from lexirobust.attacks import Attack, Classifier
from lexirobust.attacks.attack import classification_loss, logits_of
from lexirobust.checks import check_data, check_magnitudes, flat_labels


@dataclasses.dataclass(frozen=True)
class AccuracyCurve:
    """How accurate a classifier is at each magnitude, sample by sample.

    Attributes:
        magnitudes: `[K]` norms.
        correct: `[K, N]` bool: whether the perturbed sample is classified as labelled.
        losses: `[K, N]` cross entropies at the perturbed samples, in nats.
        norms: `[K, N]` norms that the perturbations reached; not a number where an attack's
            magnitudes are no norms, as those of `Spatial`.
        feasible: `[K, N]` bool: whether the bounds have room for a perturbation of that norm.
    """

    magnitudes: np.ndarray
    correct: np.ndarray
    losses: np.ndarray
    norms: np.ndarray
    feasible: np.ndarray

    @property
    def accuracy(self) -> np.ndarray:
        """`[K]` share of samples classified as labelled, from 0 to 1."""
        return self.correct.mean(axis=1)


def evaluate_robustness(
    classifier: Classifier,
    x: Any,
    y: Any,
    attack: Attack,
    magnitudes: Sequence[float] | np.ndarray,
    batch_size: int = 500,
) -> AccuracyCurve:
    """Measures a classifier under attack at several magnitudes.

    Args:
        classifier: Maps inputs to logits: a Keras model or any other callable.
        x: `[N, ...]` inputs inside the attack's bounds.
        y: `[N]` integer labels.
        attack: Perturbs the inputs.
        magnitudes: `[K]` norms, at least 0; at 0 the clean inputs are measured.
        batch_size: Number of samples perturbed at a time.

    Returns:
        An `AccuracyCurve`.

    Raises:
        ValueError: If the data, the magnitudes, the batch size or what the classifier gives are
            not as above.
        TypeError: If inputs are no numbers or labels no integers.

    Example: the toy problem's third classifier is right up to magnitude 1.

    >>> import lexirobust as lr
    >>> x, y = lr.datasets.toy(100, seed=0)
    >>> attack = lr.attacks.PGD(norm="l2", steps=1, restarts=2, bounds=None)
    >>> curve = evaluate_robustness(lr.datasets.toy_classifier("f3"), x, y, attack, [0, 0.9, 4])
    >>> curve.accuracy.tolist()
    [1.0, 1.0, 0.0]

    Reference:
        Definitions 4 and 5 of the paper.
    """
    magnitudes = check_magnitudes(magnitudes, ranked=False)
    x, y = np.asarray(x), np.asarray(y)
    check_data(x, y, attack.bounds)
    y = flat_labels(tf.constant(y)).numpy()
    if y.ndim != 1:
        raise ValueError(f"`y` must be [N] labels. Received: shape {y.shape}.")
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1. Received: {batch_size}.")
    x = x.astype(keras.config.floatx()) if x.dtype.kind != "f" else x
    logits = logits_of(classifier, tf.constant(x[:1]))
    check_data(x, y, attack.bounds, classes=logits.shape[-1])
    batches = [
        _measure(
            classifier,
            attack,
            x[start : start + batch_size],
            y[start : start + batch_size],
            magnitudes,
        )
        for start in tqdm.trange(0, len(x), batch_size, desc="attack", leave=False, disable=None)
    ]
    joined = [np.concatenate(parts, axis=1) for parts in zip(*batches, strict=True)]
    return AccuracyCurve(np.asarray(magnitudes), *joined)


def _measure(
    classifier: Classifier, attack: Attack, x: Any, y: Any, magnitudes: Sequence[float]
) -> tuple[np.ndarray, ...]:
    """Everything a curve holds, `[K, N]` each, for one batch."""
    correct, losses, norms, feasible = [], [], [], []
    for magnitude, moved in zip(
        magnitudes, attack.sweep(classifier, x, y, magnitudes), strict=True
    ):
        logits = logits_of(classifier, moved)
        correct.append(np.argmax(logits, axis=-1) == y)
        losses.append(classification_loss(logits, tf.constant(y)))
        norms.append(attack.measure(moved - x))
        feasible.append(attack.feasible(x, magnitude))
    return tuple(np.stack(values) for values in (correct, losses, norms, feasible))
