import numpy as np
import pytest
import tensorflow as tf

from lexirobust.attacks import FAB, DeepFool
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


@pytest.mark.parametrize("attack", [DeepFool, pytest.param(FAB, marks=pytest.mark.release)])
def test_of_many_classes_the_most_likely_are_looked_at(attack):
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(12, 1000)).astype(np.float32)
    x = rng.normal(size=(7, 12)).astype(np.float32)
    logits = x @ weights
    labels = np.argmax(logits, axis=1)
    found = attack(bounds=None, steps=3)(lambda x: x @ weights, x, labels)
    assert found.success.numpy().all()
    normals = weights.T[None] - weights.T[labels][:, None]
    gaps = np.take_along_axis(logits, labels[:, None], 1) - logits
    with np.errstate(invalid="ignore"):
        distances = gaps / np.linalg.norm(normals, axis=-1)
    ranked = np.argsort(-logits, axis=1)[:, 1:]
    of_all = np.nanmin(distances, axis=1)
    of_ten = np.take_along_axis(distances, ranked[:, :10], 1).min(axis=1)
    assert np.all(found.distances >= of_all * (1 - 1e-5))
    assert np.all(found.distances <= of_ten * (1 + 1e-3))
    everything = DeepFool(bounds=None, candidates=999)
    moved = everything(lambda x: x @ weights[:, :40], x[:2], np.argmax(logits[:2, :40], axis=1))
    assert moved.success.numpy().all()
    with pytest.raises(ValueError, match="`candidates` must be an integer"):
        attack(candidates=0)


def test_each_step_goes_on_from_the_last_one():
    def classifier(x):
        """The class changes at 1; from 0.01 one step covers a fifth of the way."""
        return tf.concat([1.0 - tf.sqrt(x), tf.zeros_like(x)], axis=1)

    found = DeepFool(bounds=None)(classifier, tf.constant([[0.01]]), tf.constant([0]))
    assert found.success.numpy().all()
    np.testing.assert_allclose(found.inputs, [[1.0]], rtol=0.01)
