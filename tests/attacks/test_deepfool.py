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
    found = linear.search(DeepFool(norm, bounds=bounds), classifier, x, y)
    assert found.success.numpy().all()
    np.testing.assert_allclose(found.distances, linear.distances(classifier, x, norm), rtol=1e-4)
    linear.check_found(classifier, x, y, found, norm, bounds)


def test_images_keep_their_shape():
    classifier, x = linear.Linear(), linear.samples()
    y, attack = classifier.labels(x), DeepFool(bounds=(-9.0, 9.0))
    flat = linear.search(attack, classifier, x, y)
    images = linear.search(attack, classifier, x.reshape(-1, 2, 5, 2), y)
    assert images.inputs.shape == (6, 2, 5, 2)
    np.testing.assert_allclose(images.distances, flat.distances, rtol=1e-4)


def test_curved_boundary_takes_several_steps():
    def circle(x):
        radius = tf.reduce_sum(tf.square(x), axis=1)
        return tf.stack([1.0 - radius, radius - 1.0], axis=1)

    x = np.array([[0.3, 0.4]], np.float32)
    found = linear.search(DeepFool(bounds=None), circle, x, np.array([0]))
    np.testing.assert_allclose(found.distances, [0.5], rtol=1e-4)


def test_keras_model_that_is_not_built():
    model = tf.keras.Sequential([tf.keras.layers.Dense(3)])
    x = linear.samples()
    y = np.argmax(model(x), axis=1)
    found = DeepFool(bounds=(-9.0, 9.0))(model, x, y)
    assert found.success.numpy().all()
