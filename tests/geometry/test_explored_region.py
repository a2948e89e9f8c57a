import numpy as np
import pytest
import tensorflow as tf
from scipy.spatial import distance

from lexirobust.attacks import PGD, ExploredRegion, GuidedPGD, geometry
from lexirobust.geometry import nearest_neighbors
from tests.attacks.linear import moved_by, random_classes
from tests.helpers import points_of

METRICS = {"l1": "cityblock", "l2": "euclidean", "linf": "chebyshev"}
NORMS = sorted(METRICS)


def region_of(points, norm="l2"):
    region = ExploredRegion(norm)
    region.adapt(points)
    return region


@pytest.mark.parametrize("far", [0.0, 1e3, 1e5])
def test_data_far_apart_have_the_neighbors_that_they_have(far):
    near, others = points_of(200, 5), points_of(200, 5, seed=2) + np.float32(far)
    points = np.concatenate([near, others])
    x = np.concatenate([near, others]) + points_of(400, 5, seed=3) / 10
    found = nearest_neighbors.nearest(tf.constant(x), tf.constant(points), "l2").numpy()
    distances = distance.cdist(x, points)
    chosen = distances[np.arange(400), found]
    np.testing.assert_allclose(chosen, distances.min(axis=1), rtol=1e-2)


def guided(region, **settings):
    settings = {"bounds": None, "restarts": 4, "steps": 20, "seed": 0, **settings}
    return GuidedPGD(region, norm=region.norm, **settings)


def nearest_neighbor(points, labels, norm):
    """Logits of the classifier that gives each input the label of the nearest point."""

    def classify(x):
        differences = tf.reshape(x, [-1, 1, points.shape[1]]) - points
        shape = tf.shape(differences)
        flat = geometry.norm(tf.reshape(differences, [-1, points.shape[1]]), norm)
        far = tf.reshape(flat, shape[:2])
        classes = int(labels.max()) + 1
        return -tf.stack(
            [
                tf.reduce_min(tf.boolean_mask(far, labels == c, axis=1), axis=1)
                for c in range(classes)
            ],
            axis=1,
        )

    return classify


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("small_blocks", [False, True])
def test_depth_is_that_of_the_nearest_point(norm, small_blocks, monkeypatch):
    if small_blocks:
        monkeypatch.setattr(nearest_neighbors, "_BLOCK_POINTS", 7)
        monkeypatch.setattr(nearest_neighbors, "_BLOCK_ENTRIES", 7)
    points, x = points_of(50, 3), points_of(40, 3, seed=1)
    magnitude = np.linspace(0.2, 2.0, 40).astype(np.float32)
    far = distance.cdist(x, points, METRICS[norm]).min(axis=1)
    region = region_of(points, norm)
    depth = np.minimum(far / magnitude - 1, 0)
    np.testing.assert_allclose(region.depth(x, magnitude), depth, atol=2e-4)
    np.testing.assert_array_equal(region.has_outside(x, magnitude), far >= magnitude)


@pytest.mark.parametrize("norm", NORMS)
def test_a_sample_does_not_put_its_own_sphere_inside(norm):
    x = 100 + points_of(200, 784)
    drawn = geometry.random_perturbation(
        tf.constant(x), tf.fill([200], 2.0), norm, tf.constant([0, 1]), True
    )
    assert region_of(x, norm).has_outside(x + drawn, 2.0).numpy().all()


def test_depth_leads_away_from_the_nearest_point():
    region = region_of(np.array([[0.0, 0.0], [9.0, 9.0]]))
    x = tf.constant([[0.3, 0.4], [3.0, 4.0]])
    with tf.GradientTape() as tape:
        tape.watch(x)
        depth = region.depth(x, 1.0)
    np.testing.assert_allclose(tape.gradient(depth, x), [[0.6, 0.8], [0.0, 0.0]], atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("share", [1.0, 0.8, 1.1])
def test_leaving_a_ball(norm, share):
    offset = points_of(300, 5, seed=2)
    radius = geometry.norm(offset, norm).numpy() * np.linspace(0.61, 3.0, 300)
    ball = share * radius
    toward = offset + 0.3 * radius[:, None] * points_of(300, 5, seed=3)
    start, _ = geometry.project_sphere(toward.astype(np.float32), radius, norm)
    inside = geometry.norm(start - offset, norm).numpy() < ball
    # Some spheres are inside the ball all over.
    inside &= geometry.norm(offset, norm).numpy() > np.abs(ball - radius)
    assert inside.sum() > 80
    out = geometry.leave_ball(start, offset, radius, norm, ball)
    far = geometry.norm(out - offset, norm).numpy()
    least = ball + (geometry.norm(out, norm).numpy() - radius if norm == "l1" else 0.0)
    assert (far >= least * (1 - 1e-5))[inside].all()
    if norm == "l2":
        np.testing.assert_allclose(far[inside], ball[inside], rtol=1e-5)
        np.testing.assert_allclose(geometry.norm(out, norm)[inside], radius[inside], rtol=1e-5)


def test_leaving_a_ball_is_by_the_shortest_way():
    offset, start = np.array([[1.0, 0.5, 0.0]], np.float32), np.array([[0.8, 0.5, 0.33]])
    start = (start / np.linalg.norm(start)).astype(np.float32)
    out = geometry.leave_ball(start, offset, 1.0, "l2").numpy()
    others = points_of(200_000, 3)
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    others = others[np.linalg.norm(others - offset, axis=1) >= 1.0]
    nearest = np.linalg.norm(others - start, axis=1).min()
    assert nearest - 0.02 < np.linalg.norm(out - start) <= nearest + 1e-6


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dimensions", [2, 20])
def test_points_end_outside_and_at_their_norm(norm, dimensions):
    x = points_of(100, dimensions)
    far = distance.cdist(x, x, METRICS[norm]) + 1e9 * np.eye(100)
    magnitude = 1.2 * float(np.median(far.min(axis=1)))
    region = region_of(x, norm)
    attack = guided(region, steps=4, restarts=2)
    moved = moved_by(attack, random_classes(dimensions), x, np.arange(100) % 3, magnitude)
    np.testing.assert_allclose(geometry.norm(moved - x, norm), magnitude, rtol=1e-5)
    counted = attack.valid(x, moved, magnitude).numpy()
    np.testing.assert_array_equal(
        counted, distance.cdist(moved, x, METRICS[norm]).min(axis=1) >= magnitude * (1 - 1e-4)
    )
    # In the plane, some spheres are explored all over.
    assert counted.mean() > (0.75 if dimensions == 2 else 0.99)


def test_in_the_plane_the_worst_allowed_point_is_found():
    x, magnitude = points_of(80, 2), 0.5
    y, classifier = np.arange(80) % 3, random_classes(2)
    region = region_of(x)
    attack = guided(region, restarts=8, steps=40)
    moved = attack(classifier, x, y, magnitude)
    angles = np.linspace(0, 2 * np.pi, 721)[:-1]
    circle = magnitude * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    around = (x[:, None] + circle).astype(np.float32)
    allowed = distance.cdist(around.reshape(-1, 2), x).min(axis=1).reshape(80, -1) >= magnitude
    cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits

    def losses(inputs, labels):
        return cross_entropy(labels, classifier(tf.constant(inputs))).numpy()

    every = losses(around.reshape(-1, 2), np.repeat(y, 720)).reshape(80, -1)
    worst = np.where(allowed, every, -np.inf).max(axis=1)
    has, found = allowed.any(axis=1), attack.valid(x, moved, magnitude).numpy()
    assert 20 < has.sum() < 80
    assert found[has].all()
    assert (losses(moved.numpy(), y) >= worst - 1e-3)[has].mean() > 0.95


# In one dimension the norms are one.
@pytest.mark.parametrize(
    ("norm", "dimensions"),
    [
        ("l2", 1),
        *((norm, 2) for norm in NORMS),
        ("l2", 784),
        *(pytest.param(norm, 784, marks=pytest.mark.release) for norm in ("l1", "linf")),
    ],
)
def test_nearest_neighbors_are_never_fooled_outside(norm, dimensions):
    points, labels = points_of(40, dimensions), np.arange(40) % 2
    far = distance.cdist(points, points, METRICS[norm]) + 1e9 * np.eye(40)
    classifier = nearest_neighbor(points, labels, norm)
    magnitude = np.repeat([0.4, 0.6, 1.0], 40) * np.median(far.min(axis=1))
    x, y = np.tile(points, (3, 1)), np.tile(labels, 3)
    attack = guided(region_of(points, norm), steps=4, restarts=2)
    moved = moved_by(attack, classifier, x, y, magnitude)
    counted = attack.valid(x, moved, magnitude).numpy()
    assert counted.reshape(3, 40).any(axis=1).all()
    logits = classifier(moved).numpy()
    own, other = logits[np.arange(120), y], logits[np.arange(120), 1 - y]
    # The attack goes as far as to a tie.
    assert (own - other > -3e-4 * magnitude)[counted].all()
    free = PGD(norm=norm, steps=4, restarts=2, bounds=None)
    fooled = np.argmax(classifier(moved_by(free, classifier, x, y, magnitude)), axis=1) != y
    # In many dimensions, gradients of a distance to one point lead nowhere in linf.
    assert fooled.any() or dimensions == 784


def test_the_box_is_kept():
    x = np.random.default_rng(0).uniform(size=(60, 30)).astype(np.float32)
    attack = guided(region_of(x), bounds=(0.0, 1.0), steps=5, restarts=2)
    moved = moved_by(attack, random_classes(30), x, np.arange(60) % 3, 1.5)
    assert moved.min() >= 0
    assert moved.max() <= 1
    np.testing.assert_allclose(np.linalg.norm(moved - x, axis=1), 1.5, rtol=1e-5)
    assert attack.valid(x, moved, 1.5).numpy().mean() > 0.95


@pytest.mark.parametrize("norm", NORMS)
def test_compiled_by_xla_the_region_is_the_same(norm):
    region, x = region_of(points_of(50, 4), norm), tf.constant(points_of(50, 4))
    perturbation = geometry.random_perturbation(
        x, tf.ones(50), norm, tf.constant([0, 1]), surface=True
    )

    def everything():
        return (
            region.move_outside(x, perturbation, tf.ones(50)),
            region.depth(x + perturbation, tf.ones(50)),
        )

    compiled = tf.function(everything, jit_compile=True, autograph=False)()
    for ours, theirs in zip(everything(), compiled, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-4)


def test_bad_input_is_named():
    region = ExploredRegion("l2")
    with pytest.raises(ValueError, match="must be adapted"):
        region.depth(tf.zeros((1, 2)), 1.0)
    for points in (np.zeros((0, 2)), np.array(1.0), np.array([[np.nan]])):
        with pytest.raises(ValueError, match="`points` must be a non-empty array of finite"):
            region.adapt(points)
    region.adapt(np.zeros((3, 2)))
    region.adapt(np.ones((3, 2)))
    np.testing.assert_array_equal(region.points, np.ones((3, 2)))
    with pytest.raises(ValueError, match=r"Received: \(4, 2\), after \(3, 2\)"):
        region.adapt(np.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"'exact'.*Received: 'maximum'"):
        GuidedPGD(region, norm="l2", constraint="maximum")
    with pytest.raises(ValueError, match="`threshold` must be None"):
        GuidedPGD(region, threshold=0.5, norm="l2")
    with pytest.raises(ValueError, match=r"`norm` must be .* 'l1', balls of 'l2'"):
        GuidedPGD(region, norm="l1")
    with pytest.raises(ValueError, match="`norm`"):
        ExploredRegion("l3")
