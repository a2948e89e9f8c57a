import numpy as np
import pytest
import tensorflow as tf

from lexirobust.attacks.minimum_norm.base import SearchProblem, decide
from lexirobust.attacks.minimum_norm.decisions import find_starts
from tests.attacks.linear import Decisions, samples

SEED = tf.constant([1, 2])


def asked(classifier, x, labels):
    return SearchProblem(classifier, tf.constant(x), tf.constant(labels), decide(classifier, x))


def test_nearest_sample_of_another_class_is_taken_without_a_query():
    classifier, x = Decisions(), samples(30)
    labels = classifier.labels(x).astype(np.int32)
    found, _ = find_starts(asked(classifier, x, labels), (0.0, 1.0), 5, SEED)
    apart = np.linalg.norm(x[:, None] - x[None], axis=2)
    apart[labels[:, None] == labels[None]] = np.inf
    assert np.array_equal(found.points, x[apart.argmin(axis=1)])
    assert found.success.numpy().all()
    assert not found.queries.numpy().any()


def test_next_start_is_of_another_class():
    classifier, x = Decisions(), samples(30)
    labels = classifier.labels(x).astype(np.int32)
    problem, closed, classes = asked(classifier, x, labels), None, [labels]
    for _ in range(3):
        found, closed = find_starts(problem, (0.0, 1.0), 5, SEED, closed)
        assert not found.queries.numpy().any()
        classes.append(classifier.labels(found.points))
    assert np.array_equal(np.sort(classes, axis=0), np.tile(np.arange(4)[:, None], (1, 30)))
    found, _ = find_starts(problem, (0.0, 1.0), 5, SEED, closed)
    assert found.queries.numpy().all()


@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
def test_noise_is_tried_where_there_is_no_other(bounds):
    classifier, x = Decisions(), samples(1)
    labels = classifier.labels(x).astype(np.int32)
    problem = asked(classifier, x, labels)
    before = int(classifier.seen)
    found, _ = find_starts(problem, bounds, 30, SEED)
    assert found.success.numpy().all()
    assert classifier.labels(found.points) != labels
    assert found.queries.numpy().tolist() == [int(classifier.seen) - before]


def test_tries_are_the_most_queries():
    def sure(x):
        return tf.one_hot(tf.zeros(tf.shape(x)[:1], tf.int32), 2) * 3.0 - 1.0

    problem = asked(sure, samples(2), np.array([0, 1], np.int32))
    found, _ = find_starts(problem, None, 4, SEED)
    assert found.success.numpy().tolist() == [False, False]
    assert found.queries.numpy().tolist() == [4, 0]
