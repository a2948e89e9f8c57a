"""What a ranked model is to Keras: its casts, and calls before it is compiled."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from tests.training.by_hand import ATTACK, METHODS, compiled, fit, network, weights

L = keras.layers
X, Y = lr.datasets.toy(20, seed=0)


def test_trainable_is_the_classifiers():
    model = compiled(lr.OLSRC(network(), ATTACK, [1.0], trainable=False))
    before = model.classifier.get_weights()
    with pytest.raises(ValueError, match="`classifier` must have trainable weights"):
        fit(model, X, Y)
    np.testing.assert_equal(model.classifier.get_weights(), before)
    # What is frozen stays so in a model that trains the rest.
    classifier = network()
    classifier.layers[0].trainable = False
    assert len(lr.OLSRC(classifier, ATTACK, [1.0]).trainable_variables) == 2


def test_inputs_are_cast_as_the_classifier_casts_them(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        inputs = keras.Input((4,), dtype="float32")
        head = [inputs, L.Rescaling(1 / 255, dtype="float32")]
        classifier = keras.Sequential([*head, L.Dense(3, dtype="float32")])
        attack = lr.attacks.PGD("l2", steps=1, bounds=(0.0, 255.0))
        model = compiled(lr.OLSRC(classifier, attack, [50.0]))
        x = np.random.default_rng(0).uniform(0, 255, (8, 4)).astype(np.float32)
        np.testing.assert_array_equal(model(x), classifier(x))
        model.save(tmp_path / "model.keras")
        assert "autocast" not in model.get_config()
        loaded = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(loaded(x), classifier(x))
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("method", ["standard", "olsrc", "olgrc"])
def test_predict_needs_no_compile(method):
    made = METHODS[method](network())
    for model in (made, type(made).from_config(made.get_config())):
        expected = model.classifier(X)
        np.testing.assert_allclose(model.predict(X, verbose=0), expected, atol=1e-6)
        assert model.built


def test_models_can_be_called_in_a_pipeline():
    flipped = keras.Sequential([keras.Input((4, 4, 1)), L.RandomFlip(), L.Flatten(), L.Dense(2)])
    model = lr.OLSRC(flipped, lr.attacks.PGD(steps=1), [1.0])
    x = np.random.default_rng(0).uniform(size=(6, 4, 4, 1)).astype(np.float32)
    batches = tf.data.Dataset.from_tensor_slices(x).batch(3).map(lambda x: model(x, training=False))
    outputs = np.concatenate([*batches.as_numpy_iterator()])
    np.testing.assert_allclose(outputs, flipped(x, training=False), atol=1e-6)
    # It trains afterwards as if it had not been called.
    fit(compiled(model), x, np.arange(6) % 2)


def test_what_predict_could_not_see_is_told_when_it_is_compiled():
    classifier = keras.Sequential([keras.Input((1,)), L.Lambda(tf.round, name="whole"), L.Dense(2)])
    model = lr.OLSRC(classifier, ATTACK, [1.0])
    model.predict(X, verbose=0)
    with pytest.warns(UserWarning, match="layer 'whole'"):
        compiled(model)


def test_gradients_are_of_arrays():
    model = compiled(lr.OLSRC(network(), ATTACK, [1.0]))
    before = weights(model)
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(10)
    with pytest.raises(TypeError, match=r"`x` must be an array.*BatchDataset"):
        model.gradients(batches, None)
    np.testing.assert_array_equal(weights(model), before)
