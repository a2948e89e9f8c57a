import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from lexirobust.attacks import Square, geometry, square
from tests.attacks import linear

MAGNITUDES = {"linf": 0.1, "l2": 0.5, "l1": 1.0}
SEED = tf.constant([3, 4])
NORMS = pytest.mark.parametrize("norm", ["linf", "l2", "l1"])


def gain(classifier, x, moved, y):
    """How much the margin of two classes has risen."""
    slope = classifier.weights[:, 1] - classifier.weights[:, 0]
    return (np.asarray(moved, np.float64) - x) @ slope * np.where(y == 0, 1, -1)


@NORMS
@pytest.mark.parametrize(("constraint", "goal"), [("exact", "maximize"), ("maximum", "minimize")])
def test_comes_near_the_worst_point_of_a_linear_classifier(norm, constraint, goal):
    classifier, x = linear.Linear(classes=2, size=10), linear.samples(size=10)
    y = classifier.labels(x)
    attack = Square(norm, 2000, constraint=constraint, goal=goal, bounds=None, seed=0)
    # No gradient is asked for.
    moved = attack(lambda x: tf.stop_gradient(classifier(x)), x, y, MAGNITUDES[norm])
    slope = classifier.weights[:, 1] - classifier.weights[:, 0]
    most = MAGNITUDES[norm] * np.linalg.norm(slope, linear.DUAL[norm])
    reached = gain(classifier, x, moved, y) * (1 if goal == "maximize" else -1)
    assert np.all(reached <= most * (1 + 1e-4))
    assert np.all(reached >= most * {"linf": 0.99, "l2": 0.8, "l1": 0.7}[norm])


@NORMS
@pytest.mark.parametrize("shape", [(20,), (5, 4), (5, 2, 2), (1, 5, 4), (20, 1, 1)])
def test_norm_is_exact_for_inputs_of_every_shape(norm, shape):
    classifier, x = linear.Linear(), linear.samples()
    y = classifier.labels(x)
    x = x.reshape(-1, *shape)
    attack = Square(norm, max_queries=10)
    moved = attack.perturb(classifier, tf.constant(x), tf.constant(y), MAGNITUDES[norm], SEED)
    assert moved.shape == x.shape
    np.testing.assert_allclose(geometry.norm(moved - x, norm), MAGNITUDES[norm], rtol=1e-5)


@NORMS
def test_channels_that_seem_to_come_first_are_warned_of(norm, recwarn):
    """Taken for a column of one image, a channel would have no squares of its own."""

    def classifier(x):
        return tf.stack([tf.reduce_sum(x, axis=(1, 2, 3)), tf.zeros(tf.shape(x)[0])], axis=1)

    attack, y = Square(norm, max_queries=3), tf.constant([0])
    for shape in ((5, 5, 3), (3, 5, 4), (3, 5)):
        attack.perturb(classifier, tf.ones((1, *shape, 1)[:4]) / 2, y, 0.1, SEED)
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"\(None, 3, 5, 6\), whose channels seem to come first"):
        attack(classifier, tf.ones((1, 3, 5, 6)) / 2, y, 0.1)


@NORMS
def test_more_queries_lose_nothing(norm):
    classifier, x = linear.Linear(), linear.samples().reshape(-1, 5, 4)
    y = classifier.labels(x.reshape(-1, 20))
    losses = []
    for max_queries in (1, 20, 400):
        attack, magnitude = Square(norm, max_queries, seed=0), MAGNITUDES[norm]
        if max_queries < 100:
            moved = attack.perturb(classifier, tf.constant(x), tf.constant(y), magnitude, SEED)
        else:  # Many of them are worth a graph.
            moved = attack(classifier, x, y, magnitude)
        logits = np.array(classifier(moved))
        own = logits[np.arange(6), y]
        logits[np.arange(6), y] = -np.inf
        losses.append(np.mean(logits.max(axis=1) - own))
    assert losses[0] < losses[1] < losses[2]


@NORMS
def test_one_graph_serves_every_number_of_queries(norm):
    x, traced = linear.samples().reshape(-1, 5, 4), []

    def noted():
        weights = linear.Linear()

        def classifier(x):
            if not tf.executing_eagerly():
                traced.append(None)
            return weights(x)

        return classifier

    y, shared = linear.Linear().labels(x.reshape(-1, 20)), noted()
    for max_queries in (30, 7):
        attack = Square(norm, max_queries, seed=0)
        found = attack(shared, x, y, 0.1)
        passes = len(traced)
        # As one that has never been asked for another number.
        np.testing.assert_array_equal(found, Square(norm, max_queries, seed=0)(noted(), x, y, 0.1))
        traced.clear()
    assert passes == 0


def test_squares_shrink_at_shares_of_all_queries():
    attack = Square(max_queries=5000, p_init=0.8)
    areas = [
        float(attack._area(tf.constant(number), tf.float32)) for number in (5, 6, 10, 100, 101)
    ]
    assert areas == pytest.approx([0.8, 0.4, 0.4, 0.2, 0.1])
    late = [float(attack._area(tf.constant(number), tf.float16)) for number in (4000, 4001)]
    assert late == pytest.approx([0.8 * 0.5**8, 0.8 * 0.5**9], rel=1e-3)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_compiled_by_xla_pyramids_are_as_large(norm):
    """XLA draws other numbers from the same seed."""
    like, magnitude = tf.zeros((6, 5, 4, 2)), tf.linspace(0.5, 1.0, 6)

    @tf.function(jit_compile=True, autograph=False)
    def compiled(seed):
        search = square._Pyramids(like, magnitude, norm)
        first = search.first(seed)
        return first, search.change(first, tf.constant(3), tf.constant(3), seed)

    first, changed = compiled(SEED)
    for images in (first, changed):
        np.testing.assert_allclose(geometry.norm(images, norm), magnitude, rtol=1e-5)
    assert not np.array_equal(changed, first)
    assert np.array_equal(compiled(SEED)[1], changed)


def test_is_measured_as_other_attacks_are():
    classifier, x = linear.Linear(), linear.samples()
    y = classifier.labels(x)
    curve = lr.evaluate_robustness(classifier, x, y, Square(max_queries=100, seed=0), [0.0, 0.3])
    assert curve.accuracy[0] == 1
    assert curve.accuracy[1] < 0.5
