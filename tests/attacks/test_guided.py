import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from lexirobust.attacks import PGD, GuidedPGD
from lexirobust.attacks.gradient import gradient_ascent

# The toy problem's data, 1/64 apart: a point at distance d of x is unexplored if none is nearer.
DATA = np.concatenate([np.arange(-2, -1, 1 / 64), np.arange(1, 2, 1 / 64)]).astype(np.float32)


def unexplored(x, magnitude):
    """1 where no data point is nearer than the magnitude, 0 elsewhere: no gradient anywhere."""
    nearest = tf.reduce_min(tf.abs(x - DATA), axis=1)
    return tf.cast(nearest >= magnitude * (1 - 1e-5), tf.float32)


def step_at_zero(x):
    return tf.concat([-x, x], axis=1)


def attack(first_goal, **given):
    return GuidedPGD(first_goal, **{"norm": "l2", "bounds": None, "restarts": 2, **given})


def moved_by(attack, x, y, magnitude):
    """What an attack makes of samples at each of several magnitudes, operation by operation."""
    times = len(magnitude)
    inputs, labels = tf.tile(x, (times, 1)), tf.tile(y, (times,))
    each = tf.constant(np.repeat(magnitude, len(x)), tf.float32)
    moved = attack.perturb(step_at_zero, inputs, labels, each, tf.constant([0, 1]))
    return np.reshape(moved, (times, *x.shape))


@pytest.mark.parametrize("restarts", [2, 4])
def test_unexplored_side_is_taken_even_where_the_loss_is_smaller(restarts):
    # Outward from the ends of the data is unexplored, and right; inward is wrong from 1 on.
    x, y = np.array([[-2.0], [2 - 1 / 64]], np.float32), np.array([0, 1])
    outward = np.array([[-1.0], [1.0]])
    magnitudes = np.array([0.5, 1.25, 2.0, 2.5])
    moved = moved_by(attack(unexplored, steps=3, restarts=restarts), x, y, magnitudes)
    np.testing.assert_allclose(moved, x + magnitudes[:, None, None] * outward, rtol=1e-6)
    # Without guidance, the wrong side is found.
    moved = moved_by(PGD(norm="l2", bounds=None, restarts=2, steps=3), x, y, [2.5])
    np.testing.assert_allclose(moved[0], x - 2.5 * outward, rtol=1e-5)


def test_among_equally_unexplored_points_the_larger_loss_decides():
    x, y = np.array([[-1.5], [1.5], [-1.25]], np.float32), np.array([0, 1, 0])
    inward = np.array([[1.0], [-1.0], [1.0]])
    # 10 away from the middle of everything, both sides are unexplored; 0.25 away, neither is.
    magnitudes = np.array([10.0, 0.25])
    moved = moved_by(attack(unexplored, steps=3), x, y, magnitudes)
    np.testing.assert_allclose(moved, x + magnitudes[:, None, None] * inward, rtol=1e-6)
    moved = moved_by(attack(unexplored, steps=3, goal="minimize"), x, y, [10.0])
    np.testing.assert_allclose(moved[0], x - inward * 10.0, rtol=1e-6)


def test_goal_is_told_the_magnitude_of_every_sample():
    # Outside of the magnitude's own side: up for even ones, down for odd ones.
    def side(x, magnitude):
        return x[:, 0] * tf.where(magnitude % 2 == 0, 1.0, -1.0)

    x, y = np.zeros((4, 1), np.float32), np.zeros(4, np.int32)
    guided = attack(side, steps=2)
    moved = guided(step_at_zero, x, y, [1.0, 2.0, 3.0, 4.0])
    assert np.ravel(moved).tolist() == [-1, 2, -3, 4]
    sweep = guided.sweep(step_at_zero, x[:1], y[:1], [1.0, 2.0, 3.0])
    assert np.ravel(sweep).tolist() == [-1, 2, -3]


def test_with_a_threshold_the_larger_loss_decides_among_all_that_are_sure_enough():
    # 3 away from 1.5 there is -1.5, where the loss is larger, and 4.5, which is farther from 0.
    x, y = np.array([[1.5]], np.float32), np.array([1])
    found = {}
    for threshold in (None, 1.0, 2.0, 9.0):
        guided = attack(lambda x, _: tf.abs(x[:, 0]), threshold=threshold, steps=3)
        moved = guided(step_at_zero, x, y, 3.0)
        valid = guided.valid(x, moved, 3.0)
        found[threshold] = float(moved[0, 0]), valid if valid is None else bool(valid[0])
    assert found == {None: (4.5, None), 1.0: (-1.5, True), 2.0: (4.5, True), 9.0: (4.5, False)}


def test_thresholds_do_not_share_a_graph():
    def far(x, _):
        return tf.abs(x[:, 0])

    x, y = np.array([[1.5]], np.float32), np.array([1])
    moved = [attack(far, threshold=t, steps=3)(step_at_zero, x, y, 3.0) for t in (1.0, 2.0)]
    assert np.ravel(moved).tolist() == [-1.5, 4.5]


def second_coordinate(x):
    return tf.stack([tf.zeros_like(x[:, 1]), -x[:, 1]], axis=1)


def test_loss_is_raised_only_as_far_as_the_first_goal_allows():
    # First goal: the first coordinate, up to 0.6. On the unit circle that leaves (0.6, 0.8).
    x, y = np.zeros((6, 2), np.float32), np.ones(6, np.int32)
    guided = attack(lambda x, d: tf.minimum(x[:, 0], 0.6), steps=200, step_size=0.05)
    moved = guided(second_coordinate, x, y, 1.0).numpy()
    assert np.all(moved[:, 0] >= 0.6)
    np.testing.assert_allclose(moved, np.tile([0.6, 0.8], (6, 1)), atol=0.05)


def test_norm_is_exact_where_nothing_is_unexplored():
    # The logarithm of a probability of 0, everywhere.
    x, y = np.zeros((6, 2), np.float32), np.ones(6, np.int32)
    nowhere = attack(lambda x, d: tf.fill(tf.shape(x)[:1], -np.inf), steps=40, step_size=0.5)
    moved = nowhere(second_coordinate, x, y, 1.0).numpy()
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 1.0, rtol=1e-5)
    assert np.all(moved[:, 1] > 0.99)


def ranked(first, second):
    direction = gradient_ascent.ranked(first, [tf.constant(first), tf.constant(second)]).numpy()
    return direction, [g / np.linalg.norm(g, axis=1, keepdims=True) for g in (first, second)]


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 20),
    decades=st.integers(-20, 20),
    conflict=st.sampled_from([0.0, 1.0, 100.0]),
)
def test_first_goal_never_falls_to_first_order(seed, size, decades, conflict):
    first, second = np.random.default_rng(seed).normal(size=(2, 32, size))
    second = (second - conflict * first) * 10.0**decades
    direction, (one, other) = ranked(first, second)
    assert np.all(np.sum(direction * one, axis=1) >= 1 - 1e-6)
    assert np.all(np.sum(direction * other, axis=1) >= np.minimum(0, np.sum(one * other, 1)) - 1e-6)


def test_goals_that_agree_are_added_up():
    first, second = np.abs(np.random.default_rng(0).normal(size=(2, 500, 4)))
    direction, (one, other) = ranked(first, second)
    np.testing.assert_allclose(direction, one + other, rtol=1e-6)


def test_first_goal_without_a_gradient_leaves_the_second():
    direction = gradient_ascent.ranked(
        tf.zeros((1, 2)), [tf.zeros((1, 2)), tf.constant([[3.0, 4.0]])]
    )
    np.testing.assert_allclose(direction, [[0.6, 0.8]], rtol=1e-6)
