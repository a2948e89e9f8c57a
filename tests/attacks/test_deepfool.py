import numpy as np
import pytest
import tensorflow as tf

from lexirobust.attacks import DeepFool
from tests.attacks import linear

NORMS = pytest.mark.parametrize("norm", ["l1", "l2", "linf"])


@NORMS
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("bounds", [None, (-50.0, 50.0)])
def test_linear_classifier_is_met_at_its_nearest_boundary(norm, classes, bounds):
    classifier, x = linear.Linear(classes), linear.samples()
    y = classifier.labels(x)
    found = DeepFool(norm, bounds=bounds)(classifier, x, y)
    assert found.success.numpy().all()
    np.testing.assert_allclose(found.distances, linear.distances(classifier, x, norm), rtol=1e-4)
    linear.check_found(classifier, x, y, found, norm, bounds)


@NORMS
def test_points_stay_in_bounds_that_bind(norm):
    classifier, x = linear.Linear(), linear.samples()
    classifier.offset[0] += 8.0
    y = classifier.labels(x)
    found = DeepFool(norm)(classifier, x, y)
    assert found.success.numpy().any()
    linear.check_found(classifier, x, y, found, norm, (0.0, 1.0))
    assert np.all(found.distances >= linear.distances(classifier, x, norm) * (1 - 1e-4))


def test_images_keep_their_shape():
    classifier, x = linear.Linear(), linear.samples()
    y = classifier.labels(x)
    flat = DeepFool(bounds=(-9.0, 9.0))(classifier, x, y)
    images = DeepFool(bounds=(-9.0, 9.0))(classifier, x.reshape(-1, 2, 5, 2), y)
    assert images.inputs.shape == (6, 2, 5, 2)
    np.testing.assert_allclose(images.distances, flat.distances, rtol=1e-4)


def test_curved_boundary_takes_several_steps():
    def circle(x):
        radius = tf.reduce_sum(tf.square(x), axis=1)
        return tf.stack([1.0 - radius, radius - 1.0], axis=1)

    found = DeepFool(bounds=None)(circle, np.array([[0.3, 0.4]], np.float32), np.array([0]))
    np.testing.assert_allclose(found.distances, [0.5], rtol=1e-4)


def test_flat_classifier_gives_nothing():
    x = np.full((2, 3), 0.5, np.float32)
    found = DeepFool(steps=3)(lambda x: x[:, :2] * 0 + [2.0, 0.0], x, np.zeros(2, int))
    assert not found.success.numpy().any()
    assert np.isinf(found.distances).all()
    assert np.array_equal(found.inputs, x)


def test_misclassified_sample_is_its_own_nearest_point():
    linear.check_misclassified(DeepFool(bounds=(-9.0, 9.0)))


def test_queries_are_counted():
    linear.check_queries(DeepFool(bounds=(-9.0, 9.0)))


def test_compiles():
    linear.check_compiles(DeepFool("l2", bounds=(-9.0, 9.0)))


def test_float64():
    linear.check_types(DeepFool("l1", bounds=(-9.0, 9.0)))


def test_comes_back_from_its_config():
    linear.check_round_trip(DeepFool("l1", steps=7, overshoot=0.1, bounds=None))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"norm": "l0"}, "`norm` must be one of"),
        ({"steps": 0}, "`steps` must be an integer of at least 1"),
        ({"overshoot": -0.1}, "`overshoot` must be finite and at least 0"),
        ({"bounds": (1.0, 0.0)}, "`bounds` must be"),
    ],
)
def test_bad_setting_is_named(setting, message):
    with pytest.raises(ValueError, match=message):
        DeepFool(**setting)


def test_keras_model_that_is_not_built():
    model = tf.keras.Sequential([tf.keras.layers.Dense(3)])
    x = linear.samples()
    y = np.argmax(model(x), axis=1)
    found = DeepFool(bounds=(-9.0, 9.0))(model, x, y)
    assert found.success.numpy().all()
