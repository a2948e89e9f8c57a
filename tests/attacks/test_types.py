"""Inputs and labels of every type that users bring."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from lexirobust import attacks

MATRIX = np.random.default_rng(0).normal(size=(6, 3))


def linear(x):
    return tf.linalg.matmul(x, tf.constant(MATRIX, x.dtype))


@pytest.mark.parametrize("loss", ["cross_entropy", "margin", "dlr"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int64])
def test_labels_of_any_integer_type(dtype, loss):
    x = np.random.default_rng(1).uniform(size=(4, 6)).astype(np.float32)
    labels = np.array([0, 1, 2, 0])
    attack = attacks.PGD(steps=4, seed=0, loss=loss, early_stop=True)
    moved = attack(linear, x, labels.astype(dtype), 0.3)
    expected = attacks.PGD(steps=4, seed=0, loss=loss, early_stop=True)(linear, x, labels, 0.3)
    np.testing.assert_allclose(moved, expected, atol=1e-6)
    attack.sweep(linear, x, labels.astype(dtype), [0.1, 0.3])


@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
@pytest.mark.parametrize("constraint", ["exact", "maximum"])
@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_inputs_in_float64(norm, constraint, bounds):
    x = np.random.default_rng(1).uniform(size=(4, 6))
    attack = attacks.PGD(norm=norm, steps=4, constraint=constraint, bounds=bounds)
    moved = attack(linear, x, np.array([0, 1, 2, 0]), 0.3)
    assert moved.dtype == tf.float64
    assert np.all(attack.measure(moved - x) <= 0.3 * (1 + 1e-5))


def test_interval_attack_in_float64():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    x = np.random.default_rng(1).uniform(size=(4, 6))
    moved = attacks.IntervalAttack(steps=2)(model, x, np.array([0, 1, 2, 0]), 0.3)
    np.testing.assert_allclose(np.linalg.norm(moved - x, axis=1), 0.3, rtol=1e-5)


def test_labels_beyond_the_classes_are_refused():
    x = np.full((2, 6), 0.5, np.float32)
    with pytest.raises(ValueError, match=r"`y` must hold labels from 0 to 2. Received: 0 to 3"):
        attacks.PGD()(linear, x, np.array([0, 3]), 0.3)
    with pytest.raises(ValueError, match=r"`y` must be \[N\] labels or \[N, 3\]"):
        attacks.PGD().sweep(linear, x, np.eye(2), [0.3])


def test_goals_that_share_a_pass_both_have_gradients():
    class Both(attacks.PGD):
        def goals(self, classifier, y, magnitude):
            (loss,) = super().goals(classifier, y, magnitude)
            return [lambda x: 0.0 * classifier(x)[:, 0], loss]

    x = np.full((3, 6), 0.5)
    y = np.array([0, 1, 2])
    moved = Both(steps=20, step_size=0.3, bounds=None, random_start=False)(linear, x, y, 0.5)
    single = attacks.PGD(steps=40, bounds=None)(linear, x, y, 0.5)
    loss = attacks.attack.classification_loss
    labels = tf.constant(y)
    np.testing.assert_allclose(loss(linear(moved), labels), loss(linear(single), labels), rtol=1e-3)
