import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import lexirobust as lr
from lexirobust.training.methods.discriminator import (
    default_discriminator,
    discriminator_loss,
    explored_from,
    log_unexplored,
)
from tests.helpers import mirrored_strategy
from tests.training.by_hand import (
    ATTACK,
    compiled,
    cross_entropy,
    fit,
    log_softmax,
    network,
    weights,
)

MAGNITUDES = (0.0, 0.1, 1.0, 1.5, 6.0)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.1, 3.0, 30.0]))
def test_log_unexplored_is_the_tail_of_the_softmax(seed, scale):
    rng = np.random.default_rng(seed)
    logits = (scale * rng.normal(size=(6, 5))).astype(np.float32)
    ranks = rng.integers(5, size=6)
    magnitude = tf.constant(np.array(MAGNITUDES, np.float32)[ranks])
    found = log_unexplored(tf.constant(logits), MAGNITUDES, magnitude)
    shares = np.exp(log_softmax(logits))
    tails = [np.log(np.sum(row[rank:])) for row, rank in zip(shares, ranks, strict=True)]
    assert np.allclose(found, tails, rtol=1e-5, atol=1e-5)


def test_log_unexplored_is_finite_and_has_gradients_where_the_softmax_is_saturated():
    logits = tf.Variable([[200.0, 0.0, -200.0]])
    with tf.GradientTape() as tape:
        value = log_unexplored(logits, (0.0, 1.0, 2.0), tf.constant([2.0]))
    assert value.numpy() == pytest.approx([-400.0])
    assert np.allclose(tape.gradient(value, logits), [[-1.0, 0.0, 1.0]], atol=1e-6)


def test_models_estimate_at_their_own_magnitudes():
    model = lr.OLGRC(network(), ATTACK, [1.0, 4.0])
    x = np.linspace(-6, 6, 9, dtype=np.float32)[:, None]
    shares = np.exp(log_softmax(model.discriminator(x)))
    for rank, magnitude in enumerate([0.0, 1.0, 4.0]):
        found = np.exp(model.log_unexplored(x, magnitude))
        assert np.allclose(found, shares[:, rank:].sum(axis=1), atol=1e-5)


def functional():
    inputs = keras.Input((4, 4, 1))
    hidden = keras.layers.Conv2D(3, 3, activation="relu")(inputs)
    branch = keras.layers.Flatten()(hidden)
    other = keras.layers.Flatten()(inputs)
    return keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Concatenate()([branch, other])))


def linear():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])


@pytest.mark.parametrize("make", [network, functional, linear])
def test_default_discriminator_is_like_the_classifier_with_weights_of_its_own(make):
    classifier = make()
    discriminator = default_discriminator(classifier, 7)
    assert discriminator.input_shape == classifier.input_shape
    assert discriminator.output_shape == (None, 7)
    own, others = discriminator.trainable_variables, classifier.trainable_variables
    assert [v.shape for v in own[:-2]] == [v.shape for v in others[:-2]]
    assert not {id(v) for v in own} & {id(v) for v in others}
    kernels = [(a, b) for a, b in zip(own[:-2], others[:-2], strict=True) if len(a.shape) > 1]
    assert not any(np.allclose(a, b) for a, b in kernels)
    x = np.ones((2, *classifier.input_shape[1:]), np.float32)
    assert discriminator(x).shape == (2, 7)


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize(
    "classifier",
    [
        Subclassed(),
        keras.Sequential([keras.layers.Dense(2)]),
        keras.Sequential([keras.Input((2, 2)), keras.layers.Dense(2), keras.layers.Flatten()]),
    ],
    ids=["subclassed", "unbuilt", "last layer not dense"],
)
def test_no_discriminator_can_be_made_like_other_classifiers(classifier):
    with pytest.raises(ValueError, match="`discriminator` must be given where the classifier"):
        lr.OLGRC(classifier, ATTACK, [1.0])


ORDERS = {"l1": 1, "l2": 2, "linf": np.inf}


def nearest_ranks(points, x, magnitudes, norm):
    """`explored_from`, sample by sample."""
    far = np.linalg.norm(points[:, None] - x, ORDERS[norm], axis=-1).min(axis=1)
    limits = np.array(magnitudes[:-1]) + 0.75 * np.diff(magnitudes)
    return [np.sum(each > limits) for each in far]


@pytest.mark.parametrize("norm", ORDERS)
def test_points_are_explored_from_the_sample_that_is_nearest(norm):
    rng, magnitudes = np.random.default_rng(0), (0.0, 0.3, 0.6, 1.2)
    x = rng.normal(size=(40, 3)).astype(np.float32)
    moved = rng.normal(size=(3, 40, 3))
    moved /= np.linalg.norm(moved, ORDERS[norm], axis=-1, keepdims=True)
    moved *= np.array(magnitudes[1:])[:, None, None]
    points = np.concatenate([x, *(x + moved)]).astype(np.float32)
    found = explored_from(tf.constant(points), tf.constant(x), magnitudes, norm).numpy()
    assert found.tolist() == nearest_ranks(points, x, magnitudes, norm)
    own = np.repeat(np.arange(4), 40)
    assert np.all(found <= own)
    assert np.all(found[:40] == 0)
    assert 0 < np.sum(found < own) < 80  # Some are nearer to another sample.


@pytest.mark.parametrize("sides", [1, 2, 3])
def test_discriminator_loss_gives_every_magnitude_the_same_weight(sides):
    rng, magnitudes = np.random.default_rng(0), (0.0, 0.5, 1.0, 2.0)
    x = rng.normal(size=(5, 2)).astype(np.float32)
    perturbed = rng.normal(size=(sides, 3, 5, 2)).astype(np.float32)
    discriminator = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4)])

    def mean_of(inputs):
        inputs = inputs.reshape(-1, 2)
        ranks = nearest_ranks(inputs, x, magnitudes, "l2")
        return np.mean(cross_entropy(discriminator(inputs), ranks))

    expected = np.mean([mean_of(x), *(mean_of(perturbed[:, t]) for t in range(3))])
    moved = tf.reshape(perturbed, (-1, 2))
    labels = explored_from(moved, tf.constant(x), magnitudes, "l2")
    found = discriminator_loss(discriminator, tf.constant(x), moved, labels)
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("split", ["micro-batches", "replicas"])
def test_neighbors_are_looked_for_in_the_whole_batch(split):
    """And not in a part of it: all that is moved here ends on another sample."""
    x, y, trained = np.arange(6, dtype=np.float32)[:, None] - 2.5, np.repeat([0, 1], 3), []
    for parts in (False, True):
        replicas = parts and split == "replicas"
        size = 1 if parts and not replicas else None
        keras.utils.set_random_seed(0)
        with mirrored_strategy().scope() if replicas else contextlib.nullcontext():
            optimizer = keras.optimizers.SGD(0.1)
            model = lr.OLGRC(
                network(), ATTACK, [1.0], discriminator_optimizer=optimizer, micro_batch_size=size
            )
            logs = fit(compiled(model), x, y)
        trained.append(weights(model.discriminator))
    np.testing.assert_allclose(trained[1], trained[0], atol=1e-6)
    assert 0.3 < logs["loss@discriminator"] < 1.5


def test_what_is_likely_outside_is_as_good_as_what_is_surely():
    model = lr.OLGRC(network(), ATTACK, [1.0, 4.0])
    x = tf.constant(np.linspace(-6, 6, 9, dtype=np.float32)[:, None])
    magnitude = tf.fill([9], 4.0)
    estimates = np.exp(model.log_unexplored(x, magnitude))
    assert estimates.min() < 0.5 < estimates.max()
    region = model.guided_attack.allowed_region(x, magnitude)
    found = region.depth(x).numpy()
    np.testing.assert_allclose(found, np.minimum(np.log(2 * estimates), 0.0), atol=1e-6)
    assert np.array_equal(found == 0, estimates >= 0.5)
    assert np.array_equal(region.holds(x), estimates >= 0.5)


def test_a_scaled_loss_takes_the_same_step():
    x, y = lr.datasets.toy(20, seed=0)
    steps = []
    for wrap in (lambda optimizer: optimizer, keras.optimizers.LossScaleOptimizer):
        keras.utils.set_random_seed(0)
        attack = lr.attacks.PGD(norm="l2", steps=1, bounds=None, seed=0)
        optimizer = wrap(keras.optimizers.SGD(0.5))
        model = lr.OLGRC(network(), attack, [1.0], discriminator_optimizer=optimizer)
        model.compile("sgd", run_eagerly=True)
        model.train_on_batch(x, y)
        steps.append(model.discriminator.get_weights())
    for one, other in zip(*steps, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_losses_are_scaled_in_half_precision_as_compile_would():
    for policy, scaled in (("mixed_float16", True), ("float32", False)):
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(policy)
        try:
            model = lr.OLGRC(network(), ATTACK, [1.0])
        finally:
            keras.config.set_dtype_policy(before)
        found = isinstance(model.discriminator_optimizer, keras.optimizers.LossScaleOptimizer)
        assert found == scaled


def test_its_weights_are_regularized():
    """With a loss of their own that is the same for all, weights shrink by the penalty alone."""
    x, y = lr.datasets.toy(20, seed=0)
    layer = keras.layers.Dense(2, use_bias=False, kernel_regularizer=keras.regularizers.L2(0.1))
    blind = keras.Sequential([keras.Input((1,)), keras.layers.Rescaling(0.0), layer])
    optimizer = keras.optimizers.SGD(0.5)
    model = lr.OLGRC(
        network(), ATTACK, [1.0], discriminator=blind, discriminator_optimizer=optimizer
    )
    model.compile("sgd", run_eagerly=True)
    before = np.array(layer.kernel)
    model.train_on_batch(x, y)
    np.testing.assert_allclose(layer.kernel, before * (1 - 0.5 * 2 * 0.1), rtol=1e-5)
