"""Attacks in training see batch normalization as training has it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from lexirobust.training.step.batch_statistics import normalized_by
from tests.training.by_hand import ATTACK, adversarial, compiled, cross_entropy, network

L = keras.layers
X, Y = lr.datasets.toy(40, seed=0)


def state_of(model):
    return [variable.numpy() for variable in model.non_trainable_variables]


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.99])
def test_inside_outputs_are_those_of_training_and_outside_nothing_has_changed(momentum):
    model = network(L.BatchNormalization(momentum=momentum))
    layer = model.layers[1]
    layer.moving_mean.assign(np.linspace(-3, 5, 8))
    layer.moving_variance.assign(np.linspace(0.1, 9, 8))
    before = state_of(model)
    with normalized_by(model, tf.constant(X)):
        used = model(X, training=False)
    for old, new in zip(before, state_of(model), strict=True):
        np.testing.assert_array_equal(new, old)
    np.testing.assert_allclose(used, model(X, training=True), atol=2e-3)


def siamese():
    inputs = keras.Input((4,))
    block = keras.Sequential([L.Dense(6), L.BatchNormalization(), L.ReLU()])
    parts = [block(inputs[:, :2]), block(inputs[:, 2:])]
    return keras.Model(inputs, L.Dense(2)(L.Concatenate()(parts)))


def by_time():
    block = keras.Sequential([L.Dense(6), L.BatchNormalization()])
    middle = [L.Reshape((2, 2)), L.TimeDistributed(block), L.Flatten()]
    return keras.Sequential([keras.Input((4,)), *middle, L.Dense(2)])


class Inner(L.Layer):
    """Normalizes inside a function of its own."""

    def __init__(self):
        super().__init__()
        self.normalization = L.BatchNormalization()

    def build(self, shape):
        self.normalization.build(shape)

    @tf.function
    def call(self, x, training=False):
        return self.normalization(x, training=training)


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_layers_with_functions_of_their_own_are_normalized_too(run_eagerly):
    model = compiled(lr.OLSRC(network(Inner()), ATTACK, [1.0]), run_eagerly=run_eagerly)
    logs = model.fit(X, Y, batch_size=20, verbose=0).history
    assert np.isfinite(logs["loss@l2=1"]).all()


def test_renormalizing_layers_keep_their_averages():
    layer = L.BatchNormalization()
    layer.renorm = True  # As releases of Keras that know it have it.
    model = network(layer)
    before = state_of(model)
    with normalized_by(model, tf.constant(X)):
        for old, new in zip(before, state_of(model), strict=True):
            np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize("make", [siamese, by_time])
def test_a_layer_that_is_called_twice_gets_the_mean_of_its_statistics(make):
    keras.utils.set_random_seed(0)
    model = make()
    x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    (block,) = [each for each in model._flatten_layers() if isinstance(each, keras.Sequential)][
        make is by_time :
    ]
    dense, normalization = block.layers[:2]
    halves = [np.asarray(dense(part)) for part in (x[:, :2], x[:, 2:])]
    with normalized_by(model, tf.constant(x)):
        mean, variance = normalization.moving_mean.numpy(), normalization.moving_variance.numpy()
    # Of a momentum of 0.99 the last counts a hundredth more than the first.
    expected = np.average([half.mean(axis=0) for half in halves], axis=0, weights=[0.99, 1])
    np.testing.assert_allclose(mean, expected, atol=1e-5)
    expected = np.average([half.var(axis=0) for half in halves], axis=0, weights=[0.99, 1])
    np.testing.assert_allclose(variance, expected, atol=1e-5)


class Fixed(L.Layer):
    """Normalizes as in use, in training too."""

    def __init__(self):
        super().__init__()
        self.own = L.BatchNormalization()

    def call(self, inputs):
        return self.own(inputs, training=False)


def test_layers_that_training_does_not_normalize_by_batches_keep_their_averages():
    frozen, fixed, still = L.BatchNormalization(), Fixed(), L.BatchNormalization()
    model = network(frozen, fixed, still, L.Dropout(0.5))
    frozen.trainable = False
    for layer in (frozen, fixed.own, still):
        layer.moving_mean.assign(np.linspace(-1, 1, 8))
    before = state_of(model)
    with normalized_by(model, tf.constant(X)):
        for old, variable in zip(before, model.non_trainable_variables, strict=True):
            moved = variable is still.moving_mean or variable is still.moving_variance
            assert np.array_equal(variable.numpy(), old) is not moved
    for old, new in zip(before, state_of(model), strict=True):
        np.testing.assert_array_equal(new, old)


def test_what_was_changed_comes_back_where_an_attack_fails():
    model = network(L.BatchNormalization())
    before = state_of(model)
    with pytest.raises(RuntimeError), normalized_by(model, tf.constant(X)):
        raise RuntimeError
    for old, new in zip(before, state_of(model), strict=True):
        np.testing.assert_array_equal(new, old)


class Counted(L.BatchNormalization):
    """Notes how often it normalizes by batches; run eagerly."""

    passes = 0

    def call(self, inputs, training=False):
        self.passes += bool(training)
        return super().call(inputs, training=training)


@pytest.mark.parametrize(
    ("make", "passes"),
    [(lambda c: lr.Standard(c), 1), (lambda c: lr.OLSRC(c, ATTACK, [1.0]), 3)],
    ids=["Standard", "OLSRC"],
)
def test_a_step_has_one_more_pass_if_something_is_attacked(make, passes):
    layer = Counted()
    model = compiled(make(network(layer)))
    layer.passes = 0
    model.fit(X, Y, batch_size=len(X), verbose=0)
    assert layer.passes == passes


@pytest.mark.parametrize("eager", [True, False], ids=["eager", "graph"])
def test_averages_that_lag_do_not_weaken_the_attack_of_training(eager):
    """The worst point at the batch's statistics, by hand; the averages have another one."""
    model = compiled(lr.OLSRC(network(L.BatchNormalization()), ATTACK, [1.0]), run_eagerly=eager)
    lagging = model.classifier.layers[1]
    weights = [np.linspace(-0.9, 1.0, 8)[None], np.linspace(-1, 1, 8)]
    model.classifier.layers[0].set_weights(weights)
    twin = keras.models.clone_model(model.classifier)
    twin.set_weights(model.classifier.get_weights())
    hidden = X @ weights[0] + weights[1]
    twin.layers[1].moving_mean.assign(hidden.mean(axis=0))
    twin.layers[1].moving_variance.assign(hidden.var(axis=0))
    lagging.moving_mean.assign(np.linspace(4, -4, 8))
    worst = adversarial(twin, X, Y, 1.0)
    assert not np.allclose(worst, adversarial(model.classifier, X, Y, 1.0))
    expected = np.mean(cross_entropy(twin(worst, training=True), Y))
    logs = model.fit(X, Y, batch_size=len(X), shuffle=False, verbose=0).history
    assert logs["loss@l2=1"][0] == pytest.approx(expected, rel=1e-4)
    # In use, attacks see what is in use.
    used = np.mean(cross_entropy(model.classifier(adversarial(model.classifier, X, Y, 1.0)), Y))
    assert model.evaluate(X, Y, batch_size=len(X), verbose=0, return_dict=True)[
        "loss@l2=1"
    ] == pytest.approx(used, rel=1e-4)
