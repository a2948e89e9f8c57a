"""Classifiers that end in probabilities: their logits, and what is said where they are trained."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import lexirobust as lr

X = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
ATTACK = lr.attacks.PGD(norm="l2", steps=1, bounds=None)


def chain(*last):
    return keras.Sequential([keras.Input((4,)), layers.Dense(5, "relu"), *last])


def branches():
    given = keras.Input((4,))
    # The layer that is made last is not the one at the end.
    end = layers.Dense(3, "softmax")
    return keras.Model(given, end(layers.Add()([layers.Dense(5)(given), layers.Dense(5)(given)])))


def nested():
    given = keras.Input((4,))
    return keras.Model(given, chain(layers.Dense(3, "softmax"))(layers.Rescaling(2.0)(given)))


def functional():
    given = keras.Input((4,))
    return keras.Model(given, layers.Softmax()(layers.Dense(3)(given)))


def operation(function):
    given = keras.Input((4,))
    return keras.Model(given, function(layers.Dense(3)(given)))


def gated(end):
    """A layer that weighs inputs inside the network, and stands at its end as well."""
    given = keras.Input((4,))
    weighed = layers.Dense(4)(end(layers.Dense(4)(given)) * given)
    return keras.Model(given, end(weighed))


def gated_inside(end):
    """The same, the gate in a model inside the model."""
    gate = keras.Sequential([keras.Input((4,)), end])
    given = keras.Input((4,))
    return keras.Model(given, end(layers.Dense(4)(gate(given) * given)))


def siamese():
    """A model that ends in a softmax, called twice, of which the second call is the end."""
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, "softmax")])
    given = keras.Input((4,))
    return keras.Model(given, inner(inner(given)))


class Subclassed(keras.Model):
    """No one knows its last layer."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3, "softmax")

    def call(self, x):
        return self.dense(x)


ENDING = {
    "activation": lambda: chain(layers.Dense(3, activation="softmax")),
    "layer": lambda: chain(layers.Dense(3), layers.Softmax()),
    "activation layer": lambda: chain(layers.Dense(3), layers.Activation("softmax")),
    "normalized": lambda: chain(layers.BatchNormalization(), layers.Dense(3, "softmax")),
    "branches": branches,
    "functional": functional,
    "nested": nested,
    "function of keras.ops": lambda: chain(layers.Dense(3, activation=keras.ops.softmax)),
    "function of TensorFlow": lambda: chain(layers.Dense(3, activation=tf.nn.softmax)),
    "operation": lambda: operation(keras.ops.softmax),
    "activation as an operation": lambda: operation(keras.activations.softmax),
}


@pytest.mark.parametrize("kind", ENDING)
def test_softmax_of_the_logits_is_what_the_model_gives(kind, tmp_path):
    model = ENDING[kind]()
    classifier = lr.logits(model)
    given = np.asarray(classifier(X))
    assert (given < 0).any()
    np.testing.assert_allclose(keras.ops.softmax(given), model(X), atol=1e-6)
    classifier.save(tmp_path / "classifier.keras")
    loaded = keras.models.load_model(tmp_path / "classifier.keras")
    np.testing.assert_array_equal(loaded(X), given)


def test_a_softmax_with_a_mask_is_refused():
    given = keras.Input((4,))
    masked = layers.Softmax()(layers.Dense(3)(given), mask=keras.ops.ones((3,), "bool"))
    with pytest.raises(ValueError, match="without a mask"):
        lr.logits(keras.Model(given, masked))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: gated(layers.Softmax(name="end")), "'end' .Softmax., which it calls 2 times"),
        (lambda: gated(layers.Dense(4, "softmax", name="end")), "'end' .Dense."),
        (lambda: gated_inside(layers.Softmax(name="end")), "'end' .Softmax., .* 2 times"),
        (siamese, "'dense.*' .Dense., which it calls 2 times"),
    ],
)
def test_an_end_that_is_called_elsewhere_is_refused(make, name):
    """Taken off there as well, it would leave another classifier."""
    with pytest.raises(ValueError, match=f"only there. Received: layer {name}"):
        lr.logits(make())


def test_calls_of_other_models_do_not_count():
    end, given = layers.Softmax(), keras.Input((4,))
    keras.Model(given, end(layers.Dense(3)(given)))
    model = keras.Model(given, end(layers.Dense(3)(given)))
    np.testing.assert_allclose(keras.ops.softmax(lr.logits(model)(X)), model(X), atol=1e-6)


@pytest.mark.parametrize("kind", ["activation", "functional", "nested"])
def test_logits_are_not_compiled_with_a_loss_of_probabilities(kind, tmp_path):
    model = ENDING[kind]()
    for each in [model, *(layer for layer in model.layers if isinstance(layer, keras.Model))]:
        each.compile("adam", "sparse_categorical_crossentropy")
    classifier = lr.logits(model)
    inside = [layer for layer in classifier.layers if isinstance(layer, keras.Model)]
    assert not any(each.compiled for each in [classifier, *inside])
    assert isinstance(classifier, keras.Sequential) == isinstance(model, keras.Sequential)
    np.testing.assert_allclose(keras.ops.softmax(classifier(X)), model(X), atol=1e-6)
    y = np.arange(7) % 3
    loss = model.evaluate(X, y, verbose=0)
    classifier.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    np.testing.assert_allclose(classifier.evaluate(X, y, verbose=0), loss, rtol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: chain(layers.Dense(1, "sigmoid")),
        lambda: chain(layers.Dense(1, activation=tf.nn.sigmoid)),
        lambda: chain(layers.Dense(1, activation=keras.ops.sigmoid)),
        lambda: (lambda x: keras.Model(x, keras.ops.sigmoid(layers.Dense(1)(x))))(
            keras.Input((4,))
        ),
    ],
)
def test_one_sigmoid_is_two_classes(make):
    model = make()
    given = np.asarray(lr.logits(model)(X))
    assert given.shape == (7, 2)
    np.testing.assert_array_equal(given[:, 0], 0)
    np.testing.assert_allclose(keras.ops.softmax(given)[:, 1:], model(X), atol=1e-6)


def test_logits_do_not_round_where_probabilities_do():
    model = ENDING["activation"]()
    model.set_weights([1000 * each for each in model.get_weights()])
    given = np.asarray(lr.logits(model)(X))
    assert np.isin(model(X), [0, 1]).any()
    assert np.isfinite(given).all()
    assert np.ptp(given) > 100


def test_weights_are_not_shared():
    model = ENDING["activation"]()
    before = np.asarray(model(X))
    lr.logits(model).set_weights([0 * each for each in model.get_weights()])
    np.testing.assert_array_equal(model(X), before)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (Subclassed, TypeError, "sequential or functional.*Subclassed"),
        (lambda: keras.Sequential([layers.Dense(3, "softmax")]), TypeError, "has been built"),
        (lambda: 3, TypeError, "Received: int"),
        (lambda: chain(layers.Dense(3)), ValueError, "layer 'dense.*' .Dense. with 3 units"),
        (lambda: chain(layers.Dense(1, "softmax")), ValueError, "with 1 units.$"),
        (lambda: chain(layers.Dense(1), layers.Softmax()), ValueError, "with 1 units.$"),
        (
            lambda: (lambda x: keras.Model(x, keras.ops.relu(x)))(keras.Input((4,))),
            ValueError,
            "operation outside of layers",
        ),
        (
            lambda: (lambda x: keras.Model(x, 2 * [layers.Dense(2)(x)]))(keras.Input((4,))),
            TypeError,
            "one output",
        ),
    ],
)
def test_what_has_no_such_end_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        lr.logits(make())


def test_the_remedy_for_one_logit_makes_two_of_it():
    model = chain(layers.Dense(1))
    with pytest.raises(ValueError, match=r"make two of it: keras\.Model") as refused:
        lr.logits(model)
    remedy = str(refused.value).partition("make two of it: ")[2].rstrip(".")
    two = eval(remedy, {"keras": keras, "model": model})
    np.testing.assert_allclose(
        keras.ops.softmax(two(X))[:, 1:], keras.ops.sigmoid(model(X)), atol=1e-6
    )


@pytest.mark.parametrize("kind", ["activation", "layer", "nested", "operation"])
def test_training_on_probabilities_is_refused(kind):
    with pytest.raises(ValueError, match=r"must give logits.*lexirobust.logits\(classifier\)"):
        lr.OLSRC(ENDING[kind](), ATTACK, [1.0])


def test_training_on_what_looks_like_probabilities_is_warned_of():
    model = lr.OLSRC(Subclassed(), ATTACK, [1.0])
    model.compile("sgd")
    with pytest.warns(UserWarning, match=r"looks like probabilities.*lexirobust.logits"):
        model.fit(X, np.arange(7) % 3, verbose=0)


def test_several_sigmoids_can_be_ranked_by_losses_of_their_own(recwarn, tmp_path):
    """They are no probabilities of classes."""
    model = lr.LexicographicModel(chain(layers.Dense(3, "sigmoid")), [lr.objectives.Natural()])
    with pytest.raises(ValueError, match=r"one class in several.*lexirobust.logits\(classifier\)"):
        model.compile("sgd")
    model.compile("sgd", "mse")
    assert model.predict(X, verbose=0).shape == (7, 3)
    model.export(tmp_path / "1", verbose=False)
    served = tf.saved_model.load(tmp_path / "1")
    np.testing.assert_allclose(served.serve(X), model.predict(X, verbose=0), atol=1e-6)
    assert not [each for each in recwarn if "probabilities" in str(each.message)]


def test_several_sigmoids_are_no_logits(tmp_path):
    model = chain(layers.Dense(3, "sigmoid"))
    logits = lr.logits(model)
    np.testing.assert_allclose(keras.ops.sigmoid(logits(X)), model(X), atol=1e-6)
    attack = lr.attacks.PGD("l2", steps=1, bounds=None)
    flags = [
        lr.evaluate_robustness(each, X, np.arange(7) % 3, attack, [0.1]).flags
        for each in (model, logits)
    ]
    assert ["probabilities" in {flag.name for flag in each} for each in flags] == [True, False]
    with pytest.raises(ValueError, match="ends in probabilities"):
        lr.export(model, tmp_path / "1")
