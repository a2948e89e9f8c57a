import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from tests.training.by_hand import (
    ATTACK,
    METHODS,
    adversarial,
    compiled,
    cross_entropy,
    divergence,
    fit,
    gradient,
    loss_at,
    network,
    right_network,
    weights,
    worst,
)


@pytest.fixture
def data():
    return lr.datasets.toy(20, seed=0)


def assert_one_step(model, data, row, rate=0.1):
    before = weights(model)
    logs = fit(compiled(model, rate), *data)
    assert np.allclose(weights(model), before - rate * row, atol=1e-6)
    return logs


def test_standard_descends_on_the_natural_loss(data):
    model = lr.Standard(right_network())
    row, value = gradient(model.classifier, loss_at(model.classifier, *data))
    logs = assert_one_step(model, data, row)
    assert logs["loss"] == pytest.approx(value)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_adversarial_training_descends_on_the_weighted_sum(data, alpha):
    x, y = data
    model = lr.AdversarialTraining(right_network(), ATTACK, 4.0, alpha=alpha)
    seen = adversarial(model.classifier, x, y, 4.0)
    natural, clean = gradient(model.classifier, loss_at(model.classifier, x, y))
    other, attacked = gradient(model.classifier, loss_at(model.classifier, seen, y))
    logs = assert_one_step(model, data, alpha * natural + (1 - alpha) * other)
    assert logs["loss"] == pytest.approx(alpha * clean + (1 - alpha) * attacked)
    assert logs["loss@natural"] == pytest.approx(clean)
    assert logs["loss@l2=4"] == pytest.approx(attacked)


@pytest.mark.parametrize("inverse_lambda", [1.0, 3.0])
def test_trades_descends_on_the_natural_loss_and_the_divergence(data, inverse_lambda):
    x, y = data
    y[::2] = 1 - y[::2]  # So that the labels and the prediction lead to different points.
    model = lr.TRADES(right_network(), ATTACK, 1.5, inverse_lambda=inverse_lambda)
    classifier = model.classifier
    clean = classifier(x)
    seen = worst(classifier, x, 1.5, lambda logits: divergence(clean, logits))
    assert not np.array_equal(seen, adversarial(classifier, x, y, 1.5))

    def loss():
        p, q = (tf.nn.log_softmax(classifier(inputs)) for inputs in (x, seen))
        kl = tf.reduce_mean(tf.reduce_sum(tf.exp(p) * (p - q), axis=1))
        return loss_at(classifier, x, y)() + inverse_lambda * kl

    row, total = gradient(classifier, loss)
    kl = np.mean(divergence(clean, classifier(seen)))
    logs = assert_one_step(model, data, row)
    assert logs["loss@l2=1.5"] == pytest.approx(kl, rel=1e-5)
    assert logs["loss"] == pytest.approx(total, rel=1e-5)
    assert logs["loss"] == pytest.approx(
        np.mean(cross_entropy(clean, y)) + inverse_lambda * kl, rel=1e-5
    )


def test_adversarial_training_on_clean_inputs_alone_is_standard(data):
    trained = []
    for method in (
        lr.Standard,
        lambda classifier: lr.AdversarialTraining(classifier, ATTACK, 4.0, alpha=1.0),
        lambda classifier: lr.TRADES(classifier, ATTACK, 4.0, inverse_lambda=0.0),
    ):
        model = compiled(method(right_network()))
        fit(model, *data, epochs=5)
        trained.append(weights(model))
    assert np.allclose(trained[0], trained[1], atol=1e-7)
    assert np.allclose(trained[0], trained[2], atol=1e-7)


def test_all_weight_on_rank_1_is_standard(data):
    model = compiled(lr.OLSRC(right_network(), ATTACK, [1.0, 4.0], alphas=[1.0, 0.0, 0.0]))
    plain = compiled(lr.Standard(right_network()))
    fit(model, *data, epochs=5)
    fit(plain, *data, epochs=5)
    assert np.allclose(weights(model), weights(plain), atol=1e-7)


def test_ranks_and_shares_of_the_methods():
    names = {
        method: [rank.name for rank in make(network()).objectives]
        for method, make in METHODS.items()
    }
    ranked = ["natural", "l2=1", "l2=4"]
    summed = ["natural+l2=4"]
    assert names == {
        "standard": ["natural"],
        "adversarial": summed,
        "trades": summed,
        "olsrc": ranked,
        "olgrc": ranked,
    }
    assert METHODS["olsrc"](network()).alphas == (0.5, 0.25, 0.25)


@pytest.mark.parametrize("optimizer", [None, "sgd"])
def test_discriminator_learns_in_the_same_step(data, optimizer):
    model = lr.OLGRC(network(), ATTACK, [1.0, 4.0], discriminator_optimizer=optimizer)
    compiled(model, optimizer=keras.optimizers.Adam())
    classifier, discriminator = weights(model.classifier), weights(model.discriminator)
    for step in (1, 2):
        fit(model, *data)
        assert int(model.optimizer.iterations) == step
        assert int(model.discriminator_optimizer.iterations) == step
    assert not np.allclose(weights(model.discriminator), discriminator, atol=1e-4)
    assert not np.allclose(weights(model.classifier), classifier, atol=1e-4)
    # Each optimizer holds the slots of its own network and of nothing else.
    for held, part in (
        (model.optimizer, model.classifier),
        (model.discriminator_optimizer, model.discriminator),
    ):
        assert {v.shape for v in held._trainable_variables} == {
            v.shape for v in part.trainable_variables
        }
        assert len(held._trainable_variables) == len(part.trainable_variables)


def test_discriminator_descends_on_clean_and_perturbed_inputs_from_both_sides(data):
    x, y = data
    model = lr.OLGRC(
        right_network(), ATTACK, [1.0, 4.0], discriminator_optimizer=keras.optimizers.SGD(0.1)
    )
    compiled(model)
    nearer = {}
    for magnitude in (1.0, 4.0):
        # The opponent is the other of the two points.
        seen = adversarial(model.classifier, x, y, magnitude)
        nearer[magnitude] = (seen, 2 * x - seen)
    inputs = np.concatenate([x, x, *nearer[1.0], *nearer[4.0]])
    labels = np.repeat([0, 1, 2], 2 * len(x))
    row, value = gradient(model.discriminator, loss_at(model.discriminator, inputs, labels))
    before = weights(model.discriminator)
    logs = fit(model, x, y)
    assert logs["loss@discriminator"] == pytest.approx(value, rel=1e-5)
    assert np.allclose(weights(model.discriminator), before - 0.1 * row, atol=1e-6)


def test_guided_samples_leave_the_explored_region_first(data):
    x, y = data
    # This discriminator holds what lies farther out for less explored.
    far = keras.Sequential([keras.Input((1,)), Distance(), keras.layers.Dense(2)])
    far.layers[-1].kernel.assign([[0.0, 1.0]])
    far.trainable = False
    model = compiled(
        lr.OLGRC(right_network(), ATTACK, [3.0], discriminator=far), 0.0, run_eagerly=True
    )
    logs = fit(model, x, y)
    outward = x + 3 * np.sign(x)
    loss = np.mean(cross_entropy(model.classifier(outward), y))
    assert logs["loss@l2=3"] == pytest.approx(loss, rel=1e-5)
    plain = fit(compiled(lr.OLSRC(right_network(), ATTACK, [3.0]), 0.0, run_eagerly=True), x, y)
    assert plain["loss@l2=3"] > loss + 1


@keras.saving.register_keras_serializable(package="tests")
class Distance(keras.layers.Layer):
    """Distance to 0."""

    def call(self, inputs):
        return keras.ops.abs(inputs)


@pytest.mark.parametrize("last", [keras.layers.Dense(2), keras.layers.Flatten()])
def test_discriminator_of_another_shape_is_refused(last):
    discriminator = keras.Sequential([keras.Input((1,)), last])
    with pytest.raises(ValueError, match=r"`discriminator` must map .* \[N, 3\].*Received: output"):
        compiled(lr.OLGRC(network(), ATTACK, [1.0, 4.0], discriminator=discriminator))


def test_olgrc_needs_an_attack_that_follows_gradients():
    class Other(lr.attacks.Attack):
        def perturb(self, classifier, x, y, magnitude, seed):
            return x

        def get_config(self):
            return {}

    for attack in (lr.attacks.DAA(), lr.attacks.IntervalAttack()):
        with pytest.raises(TypeError, match="`attack` must be a PGD, and no DAA or IntervalAttack"):
            lr.OLGRC(network(), attack, [1.0])
    with pytest.raises(TypeError, match="`attack` must be a PGD"):
        lr.OLGRC(network(), Other("l2", None, None), [1.0])
