"""What finds a start on an l1 ball: sparse directions, and a search in larger balls."""

import numpy as np
import pytest
import tensorflow as tf

from lexirobust.attacks import PGD
from lexirobust.attacks.gradient import larger_balls
from lexirobust.geometry import balls

SIZE = 50
ROWS = 40


def quadratic():
    """A convex loss of class 1: the worst point of an l1 ball is one of its corners."""
    matrix = np.random.default_rng(0).normal(size=(SIZE, SIZE)).astype(np.float32)
    return lambda x: tf.reduce_sum(tf.square(tf.tensordot(x, matrix, 1)), axis=1)


def inputs():
    return (0.1 * np.random.default_rng(1).normal(size=(ROWS, SIZE))).astype(np.float32)


def worst_corners(loss, x):
    corners = np.concatenate([np.eye(SIZE), -np.eye(SIZE)]).astype(np.float32)
    return np.max([loss(x + corner) for corner in corners], axis=0)


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (1.0, [1 / 4, -1 / 4, 0.0, 1 / 4, -1 / 4]),
        (0.39, [0.0, -1 / 2, 0.0, 1 / 2, 0.0]),
        (0.0, [0.0, -1.0, 0.0, 0.0, 0.0]),
    ],
)
def test_a_share_of_the_coordinates_moves_all_by_as_much(share, expected):
    gradient = tf.constant([[1.0, -4.0, 0.0, 3.0, -2.0]])
    direction = larger_balls.sparse_direction(gradient, tf.constant([share]))
    np.testing.assert_allclose(direction, [expected], rtol=1e-6)
    tiny = larger_balls.sparse_direction(1e-30 * gradient, tf.constant([share]))
    np.testing.assert_array_equal(tiny, direction)


def test_coordinates_that_cannot_move_are_not_chosen():
    gradient = tf.constant([[5.0, -4.0, 3.0, np.nan, np.inf]])
    box = tf.constant([[-1.0, 0.0, -1.0, -1.0, -1.0]]), tf.constant([[0.0, 1.0, 1.0, 1.0, 1.0]])
    direction = larger_balls.sparse_direction(gradient, tf.constant([0.2]), box)
    np.testing.assert_array_equal(direction, [[0.0, 0.0, 1.0, 0.0, 0.0]])
    flat = larger_balls.sparse_direction(tf.zeros((2, 3)), tf.ones(2))
    np.testing.assert_array_equal(flat, np.zeros((2, 3)))


def test_the_search_stays_in_its_balls_and_asks_for_as_many_gradients():
    loss, x, seen = quadratic(), inputs(), tf.Variable(0)
    norms = []

    def follow(perturbation):
        seen.assign_add(1)
        norms.append(np.abs(perturbation).sum(axis=1))
        with tf.GradientTape() as tape:
            tape.watch(perturbation)
            value = loss(x + perturbation)
        return [value], tape.gradient(value, perturbation)

    is_good = tf.constant([True] * 10 + [False] * (ROWS - 10))
    found = larger_balls.search_larger_balls(
        follow,
        lambda perturbation, radius: balls.project_ball(perturbation, radius, "l1")[0],
        tf.constant(np.random.default_rng(2).normal(size=x.shape).astype(np.float32)),
        tf.ones(ROWS),
        is_good,
        tf.constant(7),
        [tf.fill([ROWS], -np.inf)],
        None,
    )
    assert int(seen) == 2 * 7
    factors = np.repeat([3.0, 2.0], 7)[:, None]
    assert np.all(np.array(norms) <= np.where(is_good, 1.0, factors) * (1 + 1e-5))
    # The best of what was seen in the second ball.
    values = loss(x + found)
    np.testing.assert_array_less(loss(x), values)
    assert np.all(np.abs(found).sum(axis=1) <= np.where(is_good, 1.0, 2.0) * (1 + 1e-5))


@pytest.mark.parametrize(("restarts", "at_least"), [(1, 0.4), (6, 0.7)])
def test_corners_are_found(restarts, at_least):
    """Steps inside the ball alone found the worst one of 0.375 and 0.7 of these."""
    loss, x = quadratic(), inputs()
    classifier = lambda x: tf.stack([-loss(x), tf.zeros_like(loss(x))], axis=1)  # noqa: E731
    attack = PGD("l1", restarts=restarts, bounds=None, seed=0, loss="margin")
    moved = attack(classifier, x, np.zeros(ROWS, int), 1.0)
    np.testing.assert_allclose(np.abs(moved - x).sum(axis=1), 1.0, rtol=1e-4)
    found = np.isclose(loss(moved), worst_corners(loss, x), rtol=1e-3)
    assert found.mean() > at_least


def test_few_steps_are_not_spent_on_the_search():
    seen = tf.Variable(0)

    def classifier(x):
        seen.assign_add(tf.shape(x)[0])
        return tf.concat([x[:, :1], -x[:, :1]], axis=1)

    for steps in (3, 20, 40):
        attack = PGD("l1", steps=steps, bounds=None, seed=0)
        attack(classifier, tf.zeros((2, 3)), np.zeros(2, int), 1.0)
        before = int(seen)
        attack(classifier, tf.zeros((2, 3)), np.zeros(2, int), 1.0)
        assert int(seen) - before == 2 * (steps + 1)


@pytest.mark.parametrize(("restarts", "largest"), [(1, 1.0), (2, 3.0)])
def test_of_a_pair_of_starts_one_is_far_out(restarts, largest):
    seen = tf.Variable(0.0)

    def flat(x):
        seen.assign(tf.maximum(seen, tf.reduce_max(tf.norm(x, 1, axis=1))))
        return 0.0 * x[:, :2]

    attack = PGD("l1", steps=20, constraint="maximum", restarts=restarts, bounds=None)
    attack(flat, tf.zeros((4, 30)), np.zeros(4, int), 1.0)
    assert float(seen) == pytest.approx(largest, rel=1e-4)
