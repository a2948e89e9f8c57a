import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from lexirobust.attacks import Square, geometry
from tests.attacks import linear

MAGNITUDES = {"linf": 0.1, "l2": 0.5}
BOTH = pytest.mark.parametrize("norm", ["linf", "l2"])
EITHER = pytest.mark.parametrize("constraint", ["exact", "maximum"])


def gain(classifier, x, moved, y):
    """How much the margin of two classes has risen."""
    slope = classifier.weights[:, 1] - classifier.weights[:, 0]
    return (np.asarray(moved, np.float64) - x) @ slope * np.where(y == 0, 1, -1)


@BOTH
@EITHER
@pytest.mark.parametrize("goal", ["maximize", "minimize"])
def test_comes_near_the_worst_point_of_a_linear_classifier(norm, constraint, goal):
    classifier, x = linear.Linear(classes=2, size=10), linear.samples(size=10)
    y = classifier.labels(x)
    attack = Square(norm, 2000, constraint=constraint, goal=goal, bounds=None, seed=0)
    moved = attack(classifier, x, y, MAGNITUDES[norm])
    slope = classifier.weights[:, 1] - classifier.weights[:, 0]
    most = MAGNITUDES[norm] * np.linalg.norm(slope, linear.DUAL[norm])
    reached = gain(classifier, x, moved, y) * (1 if goal == "maximize" else -1)
    assert np.all(reached <= most * (1 + 1e-4))
    assert np.all(reached >= most * (0.99 if norm == "linf" else 0.8))


@BOTH
@pytest.mark.parametrize("shape", [(20,), (5, 4), (5, 2, 2), (1, 5, 4), (20, 1, 1)])
def test_norm_is_exact_in_bounds(norm, shape):
    classifier, x = linear.Linear(), linear.samples()
    y = classifier.labels(x)
    x = x.reshape(-1, *shape)
    moved = Square(norm, queries=30, seed=0)(classifier, x, y, MAGNITUDES[norm])
    assert moved.shape == x.shape
    assert np.all((moved >= 0) & (moved <= 1))
    np.testing.assert_allclose(geometry.norm(moved - x, norm), MAGNITUDES[norm], rtol=1e-5)


@BOTH
def test_norm_is_at_most_the_magnitude_where_that_is_asked(norm):
    classifier, x = linear.Linear(), linear.samples()
    attack = Square(norm, queries=30, constraint="maximum", seed=0)
    moved = attack(classifier, x, classifier.labels(x), 5.0)
    assert np.all((moved >= 0) & (moved <= 1))
    assert np.all(geometry.norm(moved - x, norm) <= 5.0)


@BOTH
def test_more_queries_lose_nothing(norm):
    classifier, x = linear.Linear(), linear.samples().reshape(-1, 5, 4)
    y = classifier.labels(x.reshape(-1, 20))
    losses = []
    for queries in (1, 20, 400):
        moved = Square(norm, queries, seed=0)(classifier, x, y, MAGNITUDES[norm])
        logits = np.array(classifier(moved))
        own = logits[np.arange(6), y]
        logits[np.arange(6), y] = -np.inf
        losses.append(np.mean(logits.max(axis=1) - own))
    assert losses[0] < losses[1] < losses[2]


@BOTH
def test_queries_are_the_budget(norm):
    classifier, x = linear.Linear(), linear.samples()
    y = classifier.labels(x)
    attack = Square(norm, queries=7)
    attack(classifier, x, y, 0.1)  # The first call looks at the classifier, too.
    before = int(classifier.seen)
    attack(classifier, x, y, 0.1)
    assert int(classifier.seen) - before == 7 * len(x)


@BOTH
def test_no_gradient_is_asked_for(norm):
    classifier, x = linear.Linear(), linear.samples()
    y = classifier.labels(x)
    attack = Square(norm, queries=300, seed=0)
    moved = attack(lambda x: tf.stop_gradient(classifier(x)), x, y, MAGNITUDES[norm])
    assert np.mean(classifier.labels(moved) == y) < 0.7


@BOTH
def test_same_seed_same_result_and_compiled(norm):
    classifier, x = linear.Linear(), linear.samples().reshape(-1, 5, 4, 1)
    y = classifier.labels(x.reshape(-1, 20))
    attack = Square(norm, queries=20)

    def logits(x):
        return tf.reshape(x, (-1, 20)) @ classifier.weights + classifier.offset

    @tf.function(jit_compile=True, autograph=False)
    def run(seed):
        return attack.perturb(logits, tf.constant(x), tf.constant(y), 0.1, seed)

    moved = run(tf.constant([3, 4]))
    assert np.array_equal(moved, run(tf.constant([3, 4])))
    assert not np.array_equal(moved, run(tf.constant([3, 5])))
    np.testing.assert_allclose(geometry.norm(moved - x, norm), 0.1, rtol=1e-5)


def test_is_measured_as_other_attacks_are():
    classifier, x = linear.Linear(), linear.samples()
    y = classifier.labels(x)
    curve = lr.evaluate_robustness(classifier, x, y, Square(queries=100, seed=0), [0.0, 0.3])
    assert curve.accuracy[0] == 1
    assert curve.accuracy[1] < 0.5


@BOTH
def test_float64(norm):
    classifier, x = linear.Linear(), linear.samples()
    y = classifier.labels(x)
    attack = Square(norm, queries=20)
    moved = attack(lambda x: classifier(tf.cast(x, tf.float32)), x.astype(np.float64), y, 0.1)
    assert moved.dtype == tf.float64
    np.testing.assert_allclose(geometry.norm(moved - x, norm), 0.1)


def test_comes_back_from_its_config():
    linear.check_round_trip(
        Square("l2", 9, 0.3, "maximum", "minimize", bounds=None, seed=3, loss="cross_entropy")
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"norm": "l1"}, "`norm` must be one of"),
        ({"queries": 0}, "`queries` must be an integer of at least 1"),
        ({"share": 0.0}, "`share` must be above 0"),
        ({"constraint": "least"}, "`constraint` must be one of"),
        ({"goal": "win"}, "`goal` must be one of"),
        ({"loss": "hinge"}, "`loss` must be one of"),
    ],
)
def test_bad_setting_is_named(setting, message):
    with pytest.raises(ValueError, match=message):
        Square(**setting)
