import numpy as np
import pytest
import tensorflow as tf

from lexirobust.attacks import PGD, geometry
from lexirobust.attacks.gradient.gradient_ascent import AscentSettings, gradient_ascent, ranked
from tests.attacks.linear import moved_by

NORMS = ["l1", "l2", "linf"]
X = np.zeros((3, 2), np.float32)
Y = np.ones(3, np.int32)


def first_coordinate(x):
    """Class 1 wins where the first coordinate is above 0; its loss rises as that falls."""
    return tf.stack([tf.zeros_like(x[:, 0]), x[:, 0]], axis=1)


def perturb(attack, magnitude, classifier=first_coordinate, x=X, **given):
    """What an attack gives, operation by operation."""
    x, y, seed = tf.constant(x), tf.constant(Y[: len(x)]), tf.constant([0, 1])
    return attack.perturb(classifier, x, y, magnitude, seed, **given).numpy()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("random_start", [True, False])
def test_first_start_is_the_one_given_projected(norm, random_start):
    first = np.array([[0.0, 3.0], [0.5, 0.5], [0.3, -0.1]], np.float32)
    attack = PGD(norm=norm, steps=1, step_size=1e-6, random_start=random_start, bounds=None)
    expected, _ = geometry.project_sphere(first, 1.0, norm)
    np.testing.assert_allclose(
        perturb(attack, 1.0, initial_perturbation=first), expected, atol=1e-5
    )


def test_start_given_counts_as_an_answer():
    first = np.tile(np.array([[-1.0, 0.0]], np.float32), (3, 1))
    moved = perturb(
        PGD(norm="l2", steps=1, step_size=3.0, bounds=None), 1.0, initial_perturbation=first
    )
    np.testing.assert_allclose(moved, first, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("exact", [True, False])
def test_random_starts_are_on_the_sphere_inside_the_box(norm, exact):
    """A corner of the box, where most of a random point's coordinates lead outside."""
    x = tf.zeros((20, 30))
    settings = AscentSettings(
        norm=norm,
        steps=0,
        step_size=None,
        exact=exact,
        restarts=1,
        bounds=(0.0, 1.0),
        random_start=True,
        combine_gradients=ranked,
    )
    still = lambda inputs: tf.zeros_like(inputs[:, 0])  # noqa: E731
    starts = gradient_ascent(still, x, tf.fill([20], 0.8), tf.constant([0, 1]), settings)
    assert np.min(starts) >= 0
    np.testing.assert_allclose(geometry.norm(starts, norm), 0.8, rtol=1e-5)


def test_attack_may_have_a_direction_of_its_own():
    class Upwards(PGD):
        def combine_gradients(self, inputs, gradients):
            assert inputs.shape == gradients[0].shape
            return gradients[0] + [[0.0, 1e6]]

    attack = Upwards(norm="linf", steps=1, random_start=False, bounds=None)
    assert np.array_equal(perturb(attack, 1.0), np.tile([-1.0, 1.0], (3, 1)))


class Counted:
    """A classifier of three classes that counts its calls: while tracing, not while running."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        return tf.concat([x, tf.reduce_sum(x, axis=1, keepdims=True)], axis=1)


def test_no_number_and_no_second_attack_compiles_again():
    classifier = Counted()
    x, y = np.ones((4, 2), np.float32), np.zeros(4, np.int32)
    PGD(norm="l2", steps=2, bounds=None)(classifier, x, y, 1.0)
    traced = classifier.calls
    assert traced > 0
    for settings in ({"steps": 3}, {"goal": "minimize"}, {"restarts": 2}, {"seed": 1}):
        attack = PGD(norm="l2", bounds=None, **settings)
        attack(classifier, x[:3], y[:3], 0.5)
        attack.sweep(classifier, x, y, [2.0, 0.5, 3.0, 0.0])
    assert classifier.calls == traced


def test_fixed_step_size_is_a_number_too():
    classifier = Counted()
    x, y = np.ones((4, 2), np.float32), np.zeros(4, np.int32)
    attacks = [PGD(norm="l2", steps=2, step_size=size, bounds=None) for size in (0.1, 1e-3)]
    moved = [attack(classifier, x, y, 1.0) for attack in attacks]
    traced = classifier.calls
    attacks[0](classifier, x, y, 2.0)
    PGD(norm="l2", steps=5, step_size=0.3, bounds=None)(classifier, x, y, 2.0)
    assert classifier.calls == traced
    assert not np.allclose(*moved)


def test_attack_of_another_structure_is_another_graph():
    classifier, plain = Counted(), {"norm": "linf", "steps": 2, "bounds": None, "seed": 0}
    x, y = np.array([[1.0, 0.2], [0.3, -0.4]], np.float32), np.array([0, 1])
    PGD(**plain)(classifier, x, y, 1.0)
    for other in ({"norm": "l2"}, {"constraint": "maximum"}, {"bounds": (-5, 5)}, {"loss": "dlr"}):
        traced = classifier.calls
        PGD(**{**plain, **other})(classifier, x, y, 1.0)
        assert classifier.calls > traced


@pytest.mark.parametrize("constraint", ["exact", "maximum"])
def test_samples_that_succeed_are_left_alone(constraint):
    # Half a step crosses the boundary for the first two; the last one cannot be reached.
    x = np.array([[0.1, 0.0], [0.2, 0.0], [5.0, 0.0]], np.float32)
    settings = {"norm": "linf", "step_size": 0.25, "bounds": None, "random_start": False}
    attack = PGD(steps=8, constraint=constraint, early_stop=True, **settings)
    moved = perturb(attack, 1.0, first_coordinate, x)
    if constraint == "maximum":
        np.testing.assert_allclose(moved[:, 0], [-0.15, -0.05, 4.0], atol=1e-6)
    assert (moved[:, 0] < 0).tolist() == [True, True, False]
    everything = perturb(PGD(steps=8, constraint=constraint, **settings), 1.0, first_coordinate, x)
    np.testing.assert_allclose(everything[:, 0], [-0.9, -0.8, 4.0], atol=1e-6)


def test_targeted_samples_are_left_alone_where_the_target_wins():
    x = np.array([[-0.1, 0.0], [0.2, 0.0]], np.float32)
    settings = {"norm": "linf", "constraint": "maximum", "bounds": None, "random_start": False}
    attack = PGD(steps=8, step_size=0.25, goal="minimize", early_stop=True, **settings)
    moved = perturb(attack, 1.0, first_coordinate, x)
    np.testing.assert_allclose(moved[:, 0], [0.15, 0.2], atol=1e-6)


def test_loop_ends_when_all_samples_succeed():
    ran = tf.Variable(0)

    def counting(x):
        ran.assign_add(1)
        return first_coordinate(x)

    x = np.full((3, 2), 0.1, np.float32)
    attack = PGD(norm="linf", steps=100, step_size=0.25, early_stop=True, bounds=None)
    perturb(attack, 1.0, counting, x)
    assert ran.numpy() <= 4


def test_start_that_succeeds_is_the_answer():
    first = np.tile(np.array([[-0.5, 1.0]], np.float32), (3, 1))
    attack = PGD(norm="linf", steps=4, early_stop=True, bounds=None)
    np.testing.assert_allclose(perturb(attack, 1.0, initial_perturbation=first), first)


def test_row_of_zeros_is_no_start():
    first = np.array([[0.0, 0.0], [0.0, 1.0], [0.0, -1.0]], np.float32)
    attack = PGD(norm="l2", steps=1, step_size=1e-6, bounds=None)
    moved = perturb(attack, 1.0, initial_perturbation=first)
    np.testing.assert_allclose(moved[0], perturb(attack, 1.0)[0], atol=1e-5)
    np.testing.assert_allclose(moved[1:], first[1:], atol=1e-5)


def test_second_start_is_opposite_of_the_one_given():
    def valley(x):
        return tf.stack([tf.zeros_like(x[:, 0]), -tf.abs(x[:, 0] + 1)], axis=1)

    first = np.tile(np.array([[-1.0, 0.0]], np.float32), (3, 1))
    attack = PGD(norm="l2", steps=1, step_size=1e-6, restarts=2, bounds=None)
    moved = perturb(attack, 1.0, valley, initial_perturbation=first)
    np.testing.assert_allclose(moved, -first, atol=1e-5)


def test_every_pair_of_starts_is_another():
    # With steps too short to leave, the best of three pairs is better than the first where it is
    # another.
    settings = {"norm": "l2", "steps": 1, "step_size": 1e-6, "bounds": None}
    x = np.zeros((20, 2), np.float32)
    two, six = (
        moved_by(PGD(restarts=restarts, **settings), first_coordinate, x, np.ones(20, int), 1.0)
        for restarts in (2, 6)
    )
    assert np.all(six[:, 0] <= two[:, 0])
    assert np.mean(six[:, 0] < two[:, 0]) > 0.4
