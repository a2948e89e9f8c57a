"""Inputs and labels of every type that users bring."""

import numpy as np
import pytest
import tensorflow as tf

from lexirobust import attacks
from lexirobust.attacks.gradient.gradient_ascent import AllowedRegion

MATRIX = np.random.default_rng(0).normal(size=(6, 3))


def linear(x):
    return tf.linalg.matmul(x, tf.constant(MATRIX, x.dtype))


INTEGERS = pytest.mark.parametrize(
    "dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int64], ids=lambda dtype: dtype.__name__
)
LABELS = np.array([0, 1, 2, 0])


def samples(dtype=np.float32):
    return np.random.default_rng(1).uniform(size=(4, 6)).astype(dtype)


@INTEGERS
def test_labels_of_any_integer_type(dtype):
    attack = attacks.PGD("linf", steps=4, seed=0, loss="margin", early_stop=True)
    moved = attack(linear, samples(), LABELS.astype(dtype), 0.3)
    expected = attacks.PGD("linf", steps=4, seed=0, loss="margin", early_stop=True)
    np.testing.assert_allclose(moved, expected(linear, samples(), LABELS, 0.3), atol=1e-6)
    attack.sweep(linear, samples(), LABELS.astype(dtype), [0.1, 0.3])


@INTEGERS
@pytest.mark.parametrize("loss", ["cross_entropy", "margin", "dlr"])
def test_losses_of_any_integer_type(dtype, loss):
    attack, seed = attacks.PGD(steps=4, loss=loss, early_stop=True), tf.constant([0, 1])
    moved, expected = (
        attack.perturb(linear, tf.constant(samples()), tf.constant(labels), 0.3, seed)
        for labels in (LABELS.astype(dtype), LABELS)
    )
    np.testing.assert_allclose(moved, expected, atol=1e-6)


@pytest.mark.parametrize("constraint", ["exact", "maximum"])
@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_inputs_in_float64_without_bounds(norm, constraint):
    x, attack = samples(np.float64), attacks.PGD(norm, steps=4, constraint=constraint, bounds=None)
    moved = attack.perturb(linear, tf.constant(x), tf.constant(LABELS), 0.3, tf.constant([0, 1]))
    assert moved.dtype == tf.float64
    assert np.all(attack.measure(moved - x) <= 0.3 * (1 + 1e-5))


def test_labels_beyond_the_classes_are_refused():
    x = np.full((2, 6), 0.5, np.float32)
    with pytest.raises(ValueError, match=r"`y` must hold labels from 0 to 2. Received: 0 to 3"):
        attacks.PGD()(linear, x, np.array([0, 3]), 0.3)
    with pytest.raises(ValueError, match=r"`y` must be \[N\] labels or \[N, 3\]"):
        attacks.PGD().sweep(linear, x, np.eye(2), [0.3])


def test_region_and_goal_both_have_gradients():
    class Both(attacks.PGD):
        def allowed_region(self, x, magnitude):
            return AllowedRegion(lambda x_adv: 0.0 * linear(x_adv)[:, 0])

    x, y = tf.fill((3, 6), tf.constant(0.5, tf.float64)), tf.constant([0, 1, 2])
    seed, losses = tf.constant([0, 1]), []
    both = Both(steps=20, step_size=0.3, bounds=None, random_start=False)
    for attack in (both, attacks.PGD(steps=20, bounds=None)):
        moved = attack.perturb(linear, x, y, 0.5, seed)
        losses.append(attacks.losses.classification_loss(linear(moved), y))
    np.testing.assert_allclose(*losses, rtol=1e-3)
