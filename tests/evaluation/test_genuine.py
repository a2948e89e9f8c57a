"""Genuine accuracy on finite data, against the paper's closed forms and nearest neighbors."""

import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from lexirobust.attacks import FGSM, PGD

# Between the jumps of the genuine columns, which samples only approach.
MAGNITUDES = [0.0, 0.25, 0.75, 1.5, 1.9, 2.5, 4.0, 6.0]
NAMES = ["f1", "f2", "f3", "f4"]


def attack(norm="l2", **settings):
    return PGD(norm, **{"steps": 3, "restarts": 2, "bounds": None, "seed": 0, **settings})


def nearest_neighbor(points, labels, weights=1.0):
    """Logits of the classifier that gives each input the label of the nearest point (l2)."""
    classes = int(labels.max()) + 1
    points = tf.constant(points.reshape(len(points), -1))
    owners = tf.one_hot(labels, classes, on_value=0.0, off_value=np.inf)

    def classify(x):
        x = tf.reshape(x, [-1, points.shape[1]])
        # Differences, not products: ties must be told apart.
        far = tf.norm(x[:, None] - points, axis=-1) * np.float32(weights)
        return -tf.reduce_min(far[..., None] + owners, axis=1)

    return classify


@pytest.fixture(scope="module")
def toy_curves():
    x, y = lr.datasets.toy(1000, seed=1)  # No two of the ends are nearer than rounding allows.
    return {
        name: lr.evaluate_robustness(
            lr.datasets.toy_classifier(name), x, y, attack(), MAGNITUDES, genuine=True, checks=False
        )
        for name in NAMES
    }


@pytest.mark.release
@pytest.mark.parametrize("name", NAMES)
def test_samples_of_the_toy_problem_give_the_papers_genuine_columns(toy_curves, name):
    expected = lr.datasets.toy_accuracy(name, MAGNITUDES, genuine=True)
    np.testing.assert_allclose(toy_curves[name].accuracy, expected, atol=1e-9)


@pytest.mark.release
def test_only_the_ends_of_the_toy_data_count(toy_curves):
    """Four up to the middle of the gap, the outer two from there on."""
    for curve in toy_curves.values():
        assert curve.counts.tolist() == [1000, 4, 4, 2, 2, 2, 2, 2]
        np.testing.assert_allclose(curve.excluded, 1 - curve.counts / 1000)


@pytest.mark.release
def test_the_paper_orders_the_toy_classifiers_one_way_and_genuinely_another(toy_curves):
    f1, f2, f3, f4 = (toy_curves[name] for name in NAMES)
    # Standard: f1 < f3 < f2 = f4. Genuine: f1 < f2 < f3.
    assert lr.rank([f1, f2, f3]) == [3, 2, 1]
    assert lr.compare(f3, f2).at == 2.5
    assert lr.compare(f3, f4).order == 1
    x, y = lr.datasets.toy(1000, seed=0)
    # A sample and its mirror image, so that f2 and f4 tie as they do on the whole problem.
    x, y = np.concatenate([x, -x]), np.concatenate([y, 1 - y])
    standard = [
        lr.evaluate_robustness(
            lr.datasets.toy_classifier(name), x, y, attack(), [0, 0.3, 0.8, 1.4, 5.5], checks=False
        )
        for name in NAMES
    ]
    places = lr.rank(standard, tolerance=0.01)
    assert places == [3, 1, 2, 1]


@pytest.mark.parametrize("constraint", ["exact", "maximum"])
@pytest.mark.parametrize(
    "dimensions", [1, *[pytest.param(d, marks=pytest.mark.release) for d in (2, 784)]]
)
def test_a_nearest_neighbor_classifier_is_genuinely_right_on_its_own_data(dimensions, constraint):
    rng = np.random.default_rng(0)
    count = 60
    x = rng.uniform(size=(count, dimensions)).astype(np.float32)
    y = rng.integers(2, size=count)
    spacing = np.linalg.norm(x[:, None] - x, axis=-1) + 1e9 * np.eye(count)
    magnitudes = float(np.median(spacing.min(axis=1))) * np.array([0.0, 0.3, 0.7, 1.0, 3.0])
    classifier = nearest_neighbor(x, y)
    settings = {"constraint": constraint, "steps": 10}
    curve = lr.evaluate_robustness(
        classifier, x, y, attack(**settings), magnitudes, genuine=True, checks=False
    )
    assert (curve.counts[:3] > 0).all()
    assert (curve.accuracy[curve.counts > 0] == 1.0).all()
    if constraint == "maximum":
        assert (curve.counts == count).all()
    if dimensions == 2:  # Without the cells, it is not.
        standard = lr.evaluate_robustness(
            classifier, x, y, attack(**settings), magnitudes, checks=False
        )
        assert standard.accuracy.min() < 1.0


def test_an_accuracy_of_no_sample_is_undefined():
    """A filled square: from inside, no step of this norm leads out, and no corner is alone."""
    grid = np.linspace(0, 1, 8, dtype=np.float32)
    x = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    y = (x[:, 0] > 0.5).astype(int)
    box = attack(bounds=(0.0, 1.0))
    curve = lr.evaluate_robustness(
        nearest_neighbor(x, y), x, y, box, [0.05, 0.6], genuine=True, checks=False
    )
    assert curve.counts.tolist() == [64, 0]
    assert curve.accuracy[0] == 1.0
    assert np.isnan(curve.accuracy[1])
    assert np.isnan(curve.interval()[1]).all()


@pytest.mark.release
def test_other_data_can_set_the_cells():
    x, y = np.array([[0.0], [1.0]], np.float32), np.array([0, 1])
    classifier = nearest_neighbor(x, y)
    arguments = (classifier, x, y, attack(), [0.4])
    alone = lr.evaluate_robustness(*arguments, genuine=True, checks=False)
    crowded = lr.evaluate_robustness(
        *arguments, genuine=True, data=np.array([[0.0], [1.0], [0.2], [-0.2]]), checks=False
    )
    assert alone.counts.tolist() == [2]
    assert crowded.counts.tolist() == [1]
    assert alone.settings["genuine"] != crowded.settings["genuine"]
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(1)
    same = lr.evaluate_robustness(
        classifier, batches, None, attack(), [0.4], genuine=True, data=x, checks=False
    )
    np.testing.assert_array_equal(same.valid, alone.valid)


def test_a_sample_that_is_there_twice_is_its_own():
    x, y = np.array([[0.0], [0.0], [5.0]], np.float32), np.array([0, 0, 1])
    curve = lr.evaluate_robustness(
        nearest_neighbor(x, y), x, y, attack(), [1.0], genuine=True, checks=False
    )
    assert curve.counts.tolist() == [3]
    assert curve.accuracy.tolist() == [1.0]


@pytest.mark.parametrize("name", ["f1", "f3"])
def test_with_priors_a_class_is_perturbed_by_the_magnitude_over_its_own(name):
    """Of either class of the toy problem alone, the accuracy is known."""
    x, y = lr.datasets.toy(2000, seed=0)
    priors, magnitudes = np.array([0.2, 0.8]), [0.0, 0.15, 0.3, 0.7, 1.1, 1.5]
    curve = lr.evaluate_robustness(
        lr.datasets.toy_classifier(name), x, y, attack(), magnitudes, priors=priors, checks=False
    )
    for label in (0, 1):
        own = x[y == label].ravel()
        far = np.array(magnitudes)[:, None] / priors[label]
        moved = np.stack([own - far, own + far])
        boundary = 1.0 if name == "f1" else 0.0
        right = ((moved >= boundary) == label).all(axis=0)
        np.testing.assert_array_equal(curve.correct[:, y == label], right)
        expected = np.broadcast_to(far, curve.norms[:, y == label].shape)
        np.testing.assert_allclose(curve.norms[:, y == label], expected, rtol=1e-5)
    assert curve.settings["priors"] == [0.2, 0.8]


@pytest.mark.parametrize(
    ("dimensions", "constraint"),
    [
        pytest.param(2, "maximum", marks=pytest.mark.release),
        (1, "exact"),
        pytest.param(784, "exact", marks=pytest.mark.release),
    ],
)
def test_a_weighted_nearest_neighbor_is_genuinely_right_with_priors(dimensions, constraint):
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(60, dimensions)).astype(np.float32)
    y, priors = rng.integers(2, size=60), np.array([0.3, 0.7])
    spacing = np.linalg.norm(x[:, None] - x, axis=-1) + 1e9 * np.eye(60)
    magnitudes = float(np.median(spacing.min(axis=1))) * np.array([0.0, 0.1, 0.2, 0.5])
    arguments = (x, y, attack(constraint=constraint, steps=10), magnitudes)
    settings = {"genuine": True, "priors": priors, "checks": False}
    weighted = nearest_neighbor(x, y, priors[y])
    curve = lr.evaluate_robustness(weighted, *arguments, **settings)
    assert (curve.counts[:3] > 0).all()
    assert (curve.accuracy[curve.counts > 0] == 1.0).all()
    # One that does not know the priors is not, where there is room to be wrong.
    unweighted = lr.evaluate_robustness(nearest_neighbor(x, y), *arguments, **settings)
    assert np.nanmin(unweighted.accuracy) < 1.0 or dimensions == 784


def test_uniform_priors_only_scale_magnitudes():
    x, y = lr.datasets.toy(100, seed=0)
    arguments = (lr.datasets.toy_classifier("f3"), x, y, attack())
    plain = lr.evaluate_robustness(*arguments, [0, 1.0, 1.5], genuine=True, checks=False)
    halves = lr.evaluate_robustness(
        *arguments, [0, 0.5, 0.75], genuine=True, priors=[0.5, 0.5], checks=False
    )
    np.testing.assert_array_equal(plain.valid, halves.valid)
    np.testing.assert_array_equal(plain.correct, halves.correct)


def test_flags_look_at_what_was_measured_with_priors():
    x, y = lr.datasets.toy(100, seed=0)
    sound = lr.evaluate_robustness(
        lr.datasets.toy_classifier("f3"), x, y, attack(), [0.3], priors=[0.2, 0.8]
    )
    assert sound.flags == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"priors": [0.5, 0.6]}, "`priors` must be .C. probabilities"),
        ({"priors": [1.0, 0.0]}, "`priors` must be .C. probabilities"),
        ({"priors": [[0.5, 0.5]]}, "`priors` must be .C. probabilities"),
        ({"priors": [0.2, 0.3, 0.5]}, "`priors` must be one for each of 2 classes. Received: 3"),
        ({"priors": [0.5, 0.5], "data": np.zeros((9, 1))}, "`data` must be a pair"),
        (
            {"priors": [0.5, 0.5], "data": (np.zeros((2, 1)), [0, 1])},
            "`data` must not hold a point with two labels",
        ),
        (
            {"priors": [0.5, 0.5], "data": (np.zeros((2, 1)), [0, 0])},
            "`x` must be among `data`.* Received: 10 samples",
        ),
        ({"attack": FGSM("l2", bounds=None)}, "`attack` must be a PGD, .* Received: FGSM"),
        ({"genuine": False, "data": np.zeros((1, 1))}, "`data` is for genuine accuracy"),
        ({"data": np.array([[np.nan]])}, "finite"),
        (
            {"x": tf.data.Dataset.from_tensor_slices((np.zeros((2, 1)), [0, 1])), "y": None},
            "`data` must be given where `x` is a dataset",
        ),
    ],
)
def test_bad_arguments_are_refused(changes, message):
    x, y = lr.datasets.toy(10, seed=0)
    arguments = {"x": x, "y": y, "attack": attack(), "magnitudes": [1.0], "genuine": True}
    with pytest.raises(ValueError, match=message):
        lr.evaluate_robustness(lr.datasets.toy_classifier("f3"), **{**arguments, **changes})


@pytest.mark.parametrize("priors", [None, [0.5, 0.5]])
def test_points_outside_the_bounds_are_refused(priors):
    x, y = np.array([[0.25], [0.75]], np.float32), np.array([0, 1])
    classifier = nearest_neighbor(x, y)
    for data in (255 * x, x - 0.5):
        with pytest.raises(ValueError, match=r"`data` must lie inside .*`bounds` \(0.0, 1.0\)"):
            lr.evaluate_robustness(
                classifier,
                x,
                y,
                attack(bounds=(0.0, 1.0)),
                [0.1],
                genuine=True,
                data=data if priors is None else (data, y),
                priors=priors,
            )


@pytest.mark.parametrize(
    ("constraint", "whole"),
    [
        ("exact", 256),
        ("maximum", 2),
        pytest.param("exact", 2, marks=pytest.mark.release),
        pytest.param("maximum", 256, marks=pytest.mark.release),
    ],
)
def test_numbers_of_any_kind_are_in_their_cells(constraint, whole):
    """Bytes over 255 are no numbers of float32; zeros and ones end in many zero bits."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, whole, (40, 12)) / (whole - 1)
    weights = rng.normal(size=(12, 2))
    classifier = lambda x: x @ tf.constant(weights, x.dtype)  # noqa: E731
    y = np.argmax(x @ weights, axis=1)
    curves = [
        lr.evaluate_robustness(
            classifier,
            x.astype(kind),
            y,
            attack(constraint=constraint, steps=10),
            [0, 0.05, 0.1],
            genuine=True,
            checks=False,
        )
        for kind in (np.float32, np.float64)
    ]
    for curve in curves:
        assert curve.counts.tolist() == [40, 40, 40]
        assert curve.accuracy[2] < 1
    np.testing.assert_allclose(curves[1].accuracy, curves[0].accuracy, atol=0.03)
