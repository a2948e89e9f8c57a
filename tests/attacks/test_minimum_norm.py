import numpy as np
import pytest
import tensorflow as tf

from lexirobust.attacks import DeepFool
from lexirobust.attacks.minimum_norm.base import SearchProblem, SearchResult, binary_search
from tests.attacks.linear import Linear, samples


def line(x):
    """Class 1 above 0.3."""
    return tf.concat([0.3 - x, x - 0.3], axis=1)


@pytest.mark.parametrize("end", [1.0, 0.31, 0.3001])
def test_halving_ends_just_past_the_boundary(end):
    x = tf.zeros((1, 1))
    problem = SearchProblem(line, x, tf.constant([0]), tf.constant([0]))
    found = SearchResult(tf.constant([[end]]), tf.constant([True]), tf.constant([5]))
    nearer = binary_search(problem, found, lambda share: share[:, None] * end)
    assert 0.3 < nearer.points.numpy().item() <= 0.3 * (1 + 3e-5)
    assert nearer.queries.numpy().item() > 5


def test_halving_leaves_what_is_not_searched_for():
    x = tf.zeros((2, 1))
    problem = SearchProblem(line, x, tf.constant([0, 1]), tf.constant([0, 0]))
    ends = tf.constant([[0.2], [0.9]])
    found = SearchResult(ends, tf.constant([False, True]), tf.constant([5, 0]))
    nearer = binary_search(problem, found, lambda share: share[:, None] * ends)
    assert np.array_equal(nearer.points, ends)
    assert nearer.queries.numpy().tolist() == [5, 0]


def test_batches_are_searched_one_by_one():
    classifier, x = Linear(), samples()
    y = classifier.labels(x)
    attack = DeepFool(bounds=(-9.0, 9.0))
    whole, parts = attack(classifier, x, y), attack(classifier, x, y, batch_size=4)
    assert parts.inputs.shape == x.shape
    np.testing.assert_allclose(parts.distances, whole.distances, rtol=1e-4)


def test_equal_settings_share_a_graph():
    traced = []

    def classifier(x):
        if not tf.executing_eagerly():
            traced.append(x.shape)
        return tf.concat([2.0 * x, 1.0 - x], axis=1)

    x, y = np.array([[0.2], [0.7]], np.float32), np.array([1, 0])
    DeepFool(steps=3)(classifier, x, y)
    once = len(traced)
    DeepFool(steps=3)(classifier, x[:1], y[:1])
    assert len(traced) == once
    DeepFool(steps=4)(classifier, x, y)
    assert len(traced) > once


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": samples() + 9.0}, ValueError, "`x` must lie inside the attack's `bounds`"),
        ({"x": samples() * np.nan}, ValueError, "`x` must be finite"),
        ({"y": np.zeros(3, int)}, ValueError, "`y` must hold one label a sample"),
        ({"y": np.full(6, 0.5)}, TypeError, "`y` must hold integer labels"),
        ({"y": np.full(6, 4)}, ValueError, "`y` must hold labels from 0 to 3"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be an integer of at least 1"),
        ({"classifier": lambda x: x[:, :1]}, ValueError, "`classifier` must map inputs to logits"),
    ],
)
def test_bad_data_is_named(change, error, message):
    given = {"classifier": Linear(), "x": samples(), "y": np.zeros(6, int), **change}
    with pytest.raises(error, match=message):
        DeepFool()(**given)
