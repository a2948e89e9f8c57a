import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage
from scipy.spatial import distance

from lexirobust.attacks import VoronoiCells, VoronoiPGD, geometry
from tests.attacks.linear import moved_by, random_classes
from tests.helpers import points_of

METRICS = {"l1": "cityblock", "l2": "euclidean", "linf": "chebyshev"}
NORMS = sorted(METRICS)


def attack_in(points, norm, **settings):
    settings = {"bounds": None, "restarts": 4, "steps": 20, "seed": 0, **settings}
    return VoronoiPGD(VoronoiCells(points, norm), norm=norm, **settings)


def own_and_other(x, moved, points, norm):
    """Distances `[N]` to the own sample and to the nearest other point, in float64."""
    far = distance.cdist(np.asarray(moved, np.float64), points.astype(np.float64), METRICS[norm])
    own = distance.cdist(x, points, METRICS[norm]) == 0
    return far[own], np.where(own, np.inf, far).min(axis=1)


# In one dimension the norms are one.
@pytest.mark.parametrize(("norm", "dimensions"), [("l2", 1), *((norm, 20) for norm in NORMS)])
@pytest.mark.parametrize("constraint", ["exact", "maximum"])
def test_what_counts_is_nearer_to_its_own_sample_than_to_any_other(norm, dimensions, constraint):
    x = points_of(80, dimensions)
    spacing = (distance.cdist(x, x, METRICS[norm]) + 1e9 * np.eye(80)).min(axis=1)
    attack = attack_in(x, norm, constraint=constraint, steps=3, restarts=2)
    shares = np.repeat([0.4, 0.8, 1.5], 80)
    magnitude = (shares * np.median(spacing)).astype(np.float32)
    clean, y = np.tile(x, (3, 1)), np.arange(240) % 3
    moved = moved_by(attack, random_classes(dimensions), clean, y, magnitude)
    own, other = own_and_other(clean, moved, x, norm)
    counted = attack.valid(clean, moved, magnitude).numpy()
    np.testing.assert_array_equal(counted, other >= own * (1 + 1e-5) - 1e-6)
    assert np.all(own <= magnitude * (1 + 1e-5))
    if constraint == "maximum":
        assert counted.all()
    else:
        np.testing.assert_allclose(own, magnitude, rtol=1e-5)
        # Where no other point is within twice the magnitude, everything is allowed.
        assert counted[np.tile(spacing, 3) > 2.001 * magnitude].all()
        assert counted.reshape(3, 80).any(axis=1).all()


@pytest.mark.parametrize(
    "constraint", ["exact", pytest.param("maximum", marks=pytest.mark.release)]
)
def test_in_the_plane_the_worst_allowed_point_is_found(constraint):
    """Against a grid of all points at the norm, or within it."""
    points, y = points_of(60, 2), np.arange(30) % 3
    x, classifier, magnitude = points[:30], random_classes(2), 0.3
    attack = attack_in(points, "l2", constraint=constraint, steps=200, restarts=8)
    moved = attack(classifier, x, y, magnitude)
    angles = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    radii = [1.0] if constraint == "exact" else np.linspace(0, 1, 41)
    disc = np.concatenate([magnitude * radius * circle for radius in radii]).astype(np.float32)
    around = x[:, None] + disc
    far = distance.cdist(around.reshape(-1, 2), points).reshape(30, len(disc), 60)
    own = far[np.arange(30), :, np.arange(30)]
    far[np.arange(30), :, np.arange(30)] = np.inf
    allowed = far.min(axis=2) >= own * (1 + 1e-4)

    def losses(inputs, labels):
        logits = classifier(tf.constant(inputs))
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits).numpy()

    every = losses(around.reshape(-1, 2), np.repeat(y, len(disc))).reshape(30, -1)
    # Random starts, which differ from processor to processor, may all miss a narrow arc.
    rings = allowed.reshape(30, len(radii), len(angles)).astype(int)
    wide = ndimage.grey_opening(rings, (1, 1, 7), mode="wrap").reshape(allowed.shape) > 0
    worst = np.where(wide, every, -np.inf).max(axis=1)
    counted = attack.valid(x, moved, magnitude).numpy()
    has = allowed.any(axis=1)
    # An arc that a grid of half a degree misses may be found; what it sees must be.
    assert counted[has].all()
    assert np.all(losses(moved.numpy(), y)[has] >= worst[has] - 0.01)


@pytest.mark.parametrize("norm", NORMS)
def test_images_in_a_box_keep_all_three(norm):
    x = np.random.default_rng(0).uniform(size=(30, 7, 7, 1)).astype(np.float32)
    magnitude = {"l1": 4.0, "l2": 1.0, "linf": 0.2}[norm]
    attack = attack_in(x, norm, bounds=(0.0, 1.0), steps=3, restarts=2)
    moved = moved_by(attack, random_classes(49), x, np.arange(30) % 3, magnitude)
    assert moved.min() >= 0
    assert moved.max() <= 1
    np.testing.assert_allclose(geometry.norm(moved - x, norm), magnitude, rtol=1e-5)
    assert attack.valid(x, moved, magnitude).numpy().all()


def test_inputs_that_are_no_points_have_all_points_as_others():
    attack = attack_in(np.array([[0.0], [2.0]]), "l2", steps=3, restarts=2)
    x = np.array([[0.5], [0.5]], np.float32)
    magnitude = np.array([0.1, 0.9], np.float32)  # Beyond 0.25 and 0.75 others are nearer.
    moved = moved_by(attack, random_classes(1), x, np.array([0, 0]), magnitude)
    assert attack.valid(x, moved, magnitude).numpy().tolist() == [True, False]


def test_norm_of_other_cells_is_refused():
    with pytest.raises(ValueError, match="`norm` must be that"):
        VoronoiPGD(VoronoiCells([[0.0]]), norm="linf")
