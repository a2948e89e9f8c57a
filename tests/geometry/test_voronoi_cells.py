import numpy as np
import pytest
import tensorflow as tf
from scipy.spatial import distance

from lexirobust.attacks import VoronoiCells, VoronoiPGD
from lexirobust.geometry import nearest_neighbors as search
from tests.helpers import points_of

METRICS = {"l1": "cityblock", "l2": "euclidean", "linf": "chebyshev"}
ORDERS = {"l1": 1, "l2": 2, "linf": np.inf}
NORMS = sorted(METRICS)


def weights_of(count):
    return np.where(np.arange(count) % 2, 0.2, 0.8).astype(np.float32)


def surplus(x, moved, points, norm, weights):
    """`[N]` how much farther the nearest other point is than the own, in float64, both weighted."""
    far = weights * distance.cdist(np.asarray(moved, np.float64), points, METRICS[norm])
    own = distance.cdist(x, points) == 0
    return np.where(own, np.inf, far).min(axis=1) - far[own]


def circle(norm):
    """`[n, 2]` points at norm 1, all around."""
    angles = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return points / np.linalg.norm(points, ord=ORDERS[norm], axis=1, keepdims=True)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("weights", [None, weights_of(50)])
@pytest.mark.parametrize("small_blocks", [False, True])
def test_cells_are_those_of_all_distances(norm, weights, small_blocks, monkeypatch):
    if small_blocks:
        monkeypatch.setattr(search, "_BLOCK_POINTS", 7)
        monkeypatch.setattr(search, "_BLOCK_ENTRIES", 7)
    points = points_of(50, 3)
    moved = points + 0.7 * points_of(50, 3, seed=1)
    cells = VoronoiCells(points, norm, weights)
    x = tf.constant(points)
    expected = surplus(points, moved, points, norm, 1.0 if weights is None else weights)
    depth = cells.depth(x, tf.constant(moved), cells.own(x))
    scale = 1.0 if weights is None else weights
    np.testing.assert_allclose(depth, np.minimum(expected, 0) / scale, atol=1e-4)
    held = cells.holds(x, tf.constant(moved), cells.own(x)).numpy()
    np.testing.assert_array_equal(held, expected >= 0)
    assert 5 < held.sum() < 45


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("weights", [None, weights_of(300)])
def test_points_left_out_do_not_matter(norm, weights):
    points, x = points_of(300, 3), points_of(300, 3)[:20]
    magnitude = np.linspace(0.05, 0.3, 20).astype(np.float32)
    cells = VoronoiCells(points, norm, weights)
    near = cells.near(tf.constant(x), magnitude)
    assert len(near) < 250
    directions = points_of(20 * 50, 3, seed=2)
    size = np.linalg.norm(directions, ord=ORDERS[norm], axis=1)
    clean, radius = np.repeat(x, 50, axis=0), np.repeat(magnitude, 50)
    moved = clean + (directions / size[:, None] * radius[:, None]).astype(np.float32)
    held = [
        each.holds(clean, moved, each.own(tf.constant(clean)))
        for each in (cells, cells.among(near))
    ]
    np.testing.assert_array_equal(*held)
    assert 0.1 < np.mean(held[0]) < 0.98


def test_a_point_alone_has_all_the_space():
    cells, x = VoronoiCells([[1.0, 2.0]]), tf.constant([[1.0, 2.0]])
    assert cells.holds(x, x + 100.0, cells.own(x)).numpy().tolist() == [True]
    assert cells.near(x, tf.constant([1.0])).numpy().tolist() == [0]


def test_points_are_told_apart_however_near_they_are():
    x = np.float32(100) + points_of(50, 3)
    points = np.concatenate([np.nextafter(x, np.float32(0)), x, np.nextafter(x, np.float32(999))])
    cells = VoronoiCells(points)
    np.testing.assert_array_equal(cells.own(tf.constant(x)), np.arange(50, 100))
    np.testing.assert_array_equal(cells.own(tf.constant(x + 1)), np.full(50, -1))
    zeros = VoronoiCells(np.array([[0.0, 1.0], [1.0, 0.0]]))
    np.testing.assert_array_equal(zeros.own(tf.constant([[1.0, -0.0]])), [1])


def attack_in(x, weights, norm, **settings):
    cells = VoronoiCells(x, norm, weights)
    return VoronoiPGD(cells, norm=norm, bounds=None, seed=0, **settings)


def test_points_are_found_whatever_numbers_they_are_made_of():
    rng = np.random.default_rng(0)
    for points in (
        rng.integers(0, 2, (500, 60)),
        rng.integers(0, 256, (500, 30)),
        rng.integers(0, 256, (500, 30)) / 255,
        rng.normal(size=(500, 3)),
        2.0 ** rng.integers(-8, 8, (500, 6)),
    ):
        points = np.unique(points.astype(np.float32), axis=0)
        cells = VoronoiCells(points)
        for dtype in (tf.float32, tf.float64):
            own = cells.own(tf.cast(points, dtype)).numpy()
            np.testing.assert_array_equal(own, np.arange(len(points)))
    # As an array of bytes over 255 is, by itself: not what float32 makes of it.
    shares = np.arange(256)[:, None] / 255
    own = VoronoiCells(shares).own(tf.constant(shares)).numpy()
    np.testing.assert_array_equal(own, np.arange(256))


@pytest.mark.parametrize("norm", NORMS)
def test_attacks_at_a_norm_get_into_weighted_cells(norm):
    x, weights = points_of(80, 2), weights_of(80)
    attack, matrix = attack_in(x, weights, norm, restarts=4, steps=20), points_of(2, 3, seed=1)
    moved = attack(lambda x: x @ matrix, x, np.arange(80) % 3, 0.1 / weights)
    expected = surplus(x, moved, x, norm, weights)
    counted = attack.valid(x, moved, 0.1 / weights).numpy()
    np.testing.assert_array_equal(counted, expected >= -1e-6)
    # Where a fine grid of the sphere leads into the cell, the attack gets there too.
    has = np.zeros(80, bool)
    for direction in circle(norm):
        has |= surplus(x, x + 0.1 / weights[:, None] * direction, x, norm, weights) > 1e-3
    assert 30 < has.sum() < 70
    assert counted[has].mean() > 0.9


@pytest.mark.parametrize("norm", NORMS)
def test_attacks_within_a_norm_keep_to_weighted_cells(norm):
    x, weights, matrix = points_of(80, 2), weights_of(80), points_of(2, 3, seed=1)
    attack = attack_in(x, weights, norm, constraint="maximum", restarts=2, steps=3)
    moved = attack.perturb(
        lambda x: x @ matrix,
        tf.constant(x),
        tf.range(80) % 3,
        tf.constant(0.1 / weights),
        tf.constant([0, 1]),
    )
    counted = attack.valid(x, moved, 0.1 / weights).numpy()
    np.testing.assert_array_equal(counted, surplus(x, moved, x, norm, weights) >= -1e-6)
    assert counted.all()
    assert np.mean(np.any(moved != x, axis=1)) > 0.9


@pytest.mark.parametrize("norm", NORMS)
def test_perturbations_are_led_past_the_nearest_other_point(norm):
    points, perturbation = points_of(50, 3), 0.7 * points_of(50, 3, seed=1)
    x, moved = tf.constant(points), points + perturbation
    cells = VoronoiCells(points, norm)
    held = cells.holds(x, tf.constant(moved), cells.own(x)).numpy()
    far = distance.cdist(moved, points, METRICS[norm]) + 1e9 * np.eye(50)
    other = points[far.argmin(axis=1)]
    for lead in (cells.move_inside, cells.back_in):
        led = lead(x, tf.constant(perturbation), cells.own(x)).numpy()
        assert np.array_equal(led[held], perturbation[held])
        to_own, to_other = (
            np.linalg.norm(points + led - each, ORDERS[norm], axis=1) for each in (points, other)
        )
        assert np.all(to_other[~held] >= to_own[~held])
        assert np.all(to_own <= np.linalg.norm(perturbation, ORDERS[norm], axis=1) * (1 + 1e-5))


def test_compiled_by_xla_cells_are_the_same():
    points = points_of(50, 3)
    x, perturbation = tf.constant(points), tf.constant(0.7 * points_of(50, 3, seed=1))
    cells = VoronoiCells(points, "l2", weights_of(50))

    def everything():
        own = cells.own(x)
        led = cells.move_inside(x, perturbation, own), cells.back_in(x, perturbation, own)
        return own, *led, cells.depth(x, x + perturbation, own)

    compiled = tf.function(everything, jit_compile=True, autograph=False)()
    for ours, theirs in zip(everything(), compiled, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-4)


def test_bad_input_is_named():
    for points in (np.zeros((0, 2)), np.array(1.0), np.array([[np.nan]])):
        with pytest.raises(ValueError, match="`points` must be a non-empty array of finite"):
            VoronoiCells(points)
    for weights in ([1.0], [1.0, 0.0], [1.0, np.inf]):
        with pytest.raises(ValueError, match="`weights` must be a number above 0 for each"):
            VoronoiCells([[0.0], [1.0]], weights=weights)
    with pytest.raises(ValueError, match="`norm`"):
        VoronoiCells([[0.0]], "l3")


def test_points_that_are_there_twice_are_refused():
    with pytest.raises(ValueError, match="`points` must be different"):
        VoronoiCells(np.array([[0.0], [1.0], [0.0]]))
