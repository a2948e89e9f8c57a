import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf

from lexirobust.geometry import hyperplanes as hyperplane
from tests.attacks.linear import ORDER

NORMS = pytest.mark.parametrize("norm", ["l1", "l2", "linf"])


def shortest(normal, gap, low, high, norm):
    """Least norm of a perturbation in a box with `normal @ d == gap`, by another solver."""
    size = len(normal)
    if norm == "l2":  # Clipped along the normal, by its scale.
        scale = scipy.optimize.brentq(
            lambda scale: normal @ np.clip(scale * normal, low, high) - gap, -1e3, 1e3, xtol=1e-14
        )
        return np.linalg.norm(np.clip(scale * normal, low, high))
    one = np.eye(size)
    if norm == "l1":  # d and its absolute values.
        cost, extra = np.r_[np.zeros(size), np.ones(size)], one
    else:  # d and its largest absolute value.
        cost, extra = np.r_[np.zeros(size), 1.0], np.ones((size, 1))
    return scipy.optimize.linprog(
        cost,
        A_ub=np.block([[one, -extra], [-one, -extra]]),
        b_ub=np.zeros(2 * size),
        A_eq=np.r_[normal, np.zeros(len(cost) - size)][None],
        b_eq=[gap],
        bounds=[*zip(low, high, strict=True), *[(0, None)] * (len(cost) - size)],
    ).fun


def problems(count=30, size=8):
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(count, size))
    normal[:, 0] = 0.0
    low, high = -rng.uniform(size=(count, size)), rng.uniform(size=(count, size))
    low[:, 1] = 0.0
    most = np.sum(np.maximum(normal * low, normal * high), axis=1)
    least = np.sum(np.minimum(normal * low, normal * high), axis=1)
    share = rng.uniform(-0.99, 0.99, size=count)
    return normal, np.where(share > 0, share * most, -share * least), low, high


@NORMS
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e15])
def test_way_is_the_shortest_in_a_box(norm, scale):
    normal, gap, low, high = problems()
    box = tf.constant(low, tf.float32), tf.constant(high, tf.float32)
    way, feasible = hyperplane.project(
        tf.constant(scale * normal, tf.float32), tf.constant(scale * gap, tf.float32), norm, box
    )
    way = way.numpy().astype(np.float64)
    assert feasible.numpy().all()
    assert np.all((way >= low - 1e-6) & (way <= high + 1e-6))
    np.testing.assert_allclose(np.sum(way * normal, axis=1), gap, rtol=1e-5, atol=1e-6)
    known = [shortest(*each, norm) for each in zip(normal, gap, low, high, strict=True)]
    np.testing.assert_allclose(np.linalg.norm(way, ORDER[norm], axis=1), known, rtol=1e-5)


@NORMS
def test_without_a_box_the_distance_is_by_the_dual_norm(norm):
    normal, gap, *_ = problems()
    way, feasible = hyperplane.project(
        tf.constant(normal, tf.float32), tf.constant(gap, tf.float32), norm
    )
    dual = {"l1": np.inf, "l2": 2, "linf": 1}[norm]
    known = np.abs(gap) / np.linalg.norm(normal, dual, axis=1)
    assert feasible.numpy().all()
    np.testing.assert_allclose(np.linalg.norm(way, ORDER[norm], axis=1), known, rtol=1e-5)


@NORMS
def test_without_room_all_go_as_far_as_they_may(norm):
    box = tf.constant([[-1.0, -2.0]]), tf.constant([[3.0, 4.0]])
    way, feasible = hyperplane.project(tf.constant([[1.0, -1.0]]), tf.constant([6.0]), norm, box)
    assert way.numpy().tolist() == [[3.0, -2.0]]
    assert feasible.numpy().tolist() == [False]


@NORMS
def test_no_slope_leads_nowhere(norm):
    way, feasible = hyperplane.project(tf.zeros((1, 2)), tf.constant([1.0]), norm)
    assert way.numpy().tolist() == [[0.0, 0.0]]
    assert feasible.numpy().tolist() == [False]


def test_reachable_boundaries_come_before_nearer_ones():
    normals = tf.constant([[[0.0], [10.0], [-1.0]]])
    boundaries = hyperplane.Boundaries(
        normals, tf.constant([[0.0, 3.0, 0.9]]), tf.constant([[False, True, True]])
    )
    box = tf.constant([[-1.0]]), tf.constant([[0.1]])
    _, gap, way = hyperplane.nearest(boundaries, box, "l2")
    np.testing.assert_allclose(gap, [0.9])
    np.testing.assert_allclose(way, [[-0.9]])
    _, _, way = hyperplane.nearest(boundaries, None, "l2")
    np.testing.assert_allclose(way, [[0.3]], rtol=1e-6)
