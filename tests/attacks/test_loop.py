import numpy as np
import pytest
import tensorflow as tf

from lexirobust.attacks import PGD, geometry

NORMS = ["l1", "l2", "linf"]
X = np.zeros((3, 2), np.float32)
Y = np.ones(3, np.int32)


def first_coordinate(x):
    """The loss of class 1 rises as the first coordinate falls."""
    return tf.stack([tf.zeros_like(x[:, 0]), x[:, 0]], axis=1)


def perturb(attack, magnitude, **settings):
    seed = tf.constant([0, 1])
    moved = attack.perturb(
        first_coordinate, tf.constant(X), tf.constant(Y), magnitude, seed, **settings
    )
    return moved.numpy()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("random_start", [True, False])
def test_first_start_is_the_one_given_projected(norm, random_start):
    first = np.array([[0.0, 3.0], [0.5, 0.5], [0.3, -0.1]], np.float32)
    attack = PGD(norm=norm, steps=1, step_size=1e-6, random_start=random_start, bounds=None)
    expected, _ = geometry.project_sphere(first, 1.0, norm)
    np.testing.assert_allclose(perturb(attack, 1.0, first=first), expected, atol=1e-5)


def test_start_given_counts_as_an_answer():
    first = np.tile(np.array([[-1.0, 0.0]], np.float32), (3, 1))
    moved = perturb(PGD(norm="l2", steps=1, step_size=3.0, bounds=None), 1.0, first=first)
    np.testing.assert_allclose(moved, first, atol=1e-6)


def test_attack_may_have_a_direction_of_its_own():
    class Upwards(PGD):
        def mix(self, inputs, gradients):
            assert inputs.shape == gradients[0].shape
            return gradients[0] + [[0.0, 1e6]]

    attack = Upwards(norm="linf", steps=1, random_start=False, bounds=None)
    assert np.array_equal(perturb(attack, 1.0), np.tile([-1.0, 1.0], (3, 1)))
