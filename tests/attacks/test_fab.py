import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf

from lexirobust.attacks import FAB
from tests.attacks import linear

NORMS = pytest.mark.parametrize("norm", ["l1", "l2", "linf"])


@NORMS
@pytest.mark.parametrize(("classes", "bounds"), [(2, None), (5, (-50.0, 50.0))])
def test_linear_classifier_is_met_at_its_nearest_boundary(norm, classes, bounds):
    classifier, x = linear.Linear(classes), linear.samples()
    y = classifier.labels(x)
    found = linear.search(FAB(norm, steps=3, bounds=bounds), classifier, x, y)
    assert found.success.numpy().all()
    np.testing.assert_allclose(found.distances, linear.distances(classifier, x, norm), rtol=1e-4)
    linear.check_found(classifier, x, y, found, norm, bounds)


def nearest_in_box(slope, gap, x, norm):
    """Least norm of a perturbation in the unit box with `slope @ d >= gap`, or infinity."""
    size = len(x)
    if np.sum(np.maximum(slope * (1 - x), -slope * x)) < gap:
        return np.inf
    if norm == "l2":
        found = scipy.optimize.minimize(
            lambda d: d @ d,
            np.where(slope > 0, 1 - x, -x),
            jac=lambda d: 2 * d,
            bounds=list(zip(-x, 1 - x, strict=True)),
            constraints={"type": "ineq", "fun": lambda d: slope @ d - gap, "jac": lambda d: slope},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert found.success
        return np.sqrt(found.fun)
    # Parts up and down, and for linf the largest of them.
    many = 2 * size
    both, room = np.r_[slope, -slope], np.r_[1 - x, x]
    if norm == "l1":
        cost, rows, limits, ends = np.ones(many), -both[None], [-gap], room
    else:
        cost = np.r_[np.zeros(many), 1.0]
        rows = np.vstack([np.r_[-both, 0.0], np.c_[np.eye(many), -np.ones(many)]])
        limits, ends = np.r_[-gap, np.zeros(many)], np.r_[room, np.inf]
    found = scipy.optimize.linprog(cost, rows, limits, bounds=[(0, end) for end in ends])
    assert found.success
    return found.fun


@NORMS
@pytest.mark.parametrize("classes", [2, 4])
def test_nearest_boundary_inside_bounds_that_bind(norm, classes):
    classifier, x = linear.Linear(classes), linear.samples()
    y = classifier.labels(x)
    classifier.offset = np.float32(classifier.offset + 5.0 * (np.arange(classes) == y[0]))
    x, y = x[y == y[0]], y[y == y[0]]
    found = linear.search(FAB(norm, steps=5), classifier, x, y)
    linear.check_found(classifier, x, y, found, norm, (0.0, 1.0))
    logits = classifier.logits(x)
    known = [
        min(
            nearest_in_box(
                (classifier.weights[:, k] - classifier.weights[:, own]).astype(np.float64),
                row[own] - row[k],
                each.astype(np.float64),
                norm,
            )
            for k in range(classes)
            if k != own
        )
        for each, own, row in zip(x, y, logits, strict=True)
    ]
    assert np.isfinite(known).any()
    np.testing.assert_allclose(found.distances, known, rtol=1e-4)
    # The bounds do bind.
    assert np.any(np.array(known) > 1.01 * linear.distances(classifier, x, norm))


def test_goes_along_a_curved_boundary():
    def ellipse(x):
        radius = tf.square(x[:, 0]) + tf.square(x[:, 1]) / 9.0
        return tf.stack([1.0 - radius, radius - 1.0], axis=1)

    x = np.array([[0.1, 1.2], [-0.2, 1.5]], np.float32)
    found = FAB(bounds=None)(ellipse, x, np.zeros(2, int))
    angle = np.linspace(0, 2 * np.pi, 100001)
    edge = np.stack([np.cos(angle), 3 * np.sin(angle)], axis=1)
    known = [np.linalg.norm(edge - each, axis=1).min() for each in x]
    np.testing.assert_allclose(found.distances, known, rtol=1e-3)


def test_restarts_find_what_the_input_does_not_lead_to():
    def far(x):  # Flat around the input: no gradient leads out.
        out = tf.nn.relu(tf.abs(x[:, 0] - 0.5) - 0.1)
        return tf.stack([0.1 - out, out - 0.1], axis=1)

    x = np.full((1, 1), 0.5, np.float32)
    assert not linear.search(FAB(steps=5), far, x, np.array([0])).success.numpy().any()
    found = FAB(steps=5, restarts=10, seed=0)(far, x, np.array([0]))
    np.testing.assert_allclose(found.distances, [0.2], rtol=1e-4)
