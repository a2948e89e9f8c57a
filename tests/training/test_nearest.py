"""OLGRC with the explored region as the training set has it, without a discriminator."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from lexirobust.names import magnitude_name
from tests.helpers import mirrored_strategy
from tests.training.by_hand import (
    ATTACK,
    compiled,
    cross_entropy,
    fit,
    gradient,
    network,
    right_network,
    weights,
)

MAGNITUDES = (0.05, 1.0, 4.0)


def nearest(classifier=None, magnitudes=MAGNITUDES, **options):
    classifier = right_network() if classifier is None else classifier
    return lr.OLGRC(classifier, ATTACK, magnitudes, explored="nearest", **options)


def worst_allowed(classifier, x, y, data, magnitude):
    """Losses and hits of the worst allowed point at a distance, for samples that have one."""
    sides = x + magnitude * np.array([-1.0, 1.0], np.float32)
    near = np.abs(sides[..., None] - data[:, 0]).min(axis=-1)
    allowed = near >= magnitude * (1 - 1e-4)
    logits = np.asarray(classifier(sides.reshape(-1, 1)))
    own = np.repeat(y, 2)
    losses = cross_entropy(logits, own).reshape(-1, 2)
    right = (logits.argmax(axis=1) == own).reshape(-1, 2)
    losses = np.where(allowed, losses, -np.inf)
    worst = losses.argmax(axis=1)
    rows, has = np.arange(len(x)), allowed.any(axis=1)
    return losses[rows, worst][has], right[rows, worst][has]


@pytest.mark.parametrize("batch_size", [pytest.param(60, marks=pytest.mark.release), 7])
def test_losses_are_means_over_samples_that_have_an_allowed_point(batch_size):
    x, y = lr.datasets.toy(60, seed=0)
    model = compiled(nearest())
    model.adapt(x)
    logs = model.evaluate(x, y, batch_size=batch_size, verbose=0, return_dict=True)
    for magnitude in MAGNITUDES:
        losses, right = worst_allowed(model.classifier, x, y, x, magnitude)
        assert 0 < len(losses) < 60 or magnitude > 1
        assert logs[f"loss@{magnitude_name('l2', magnitude)}"] == pytest.approx(
            losses.mean(), rel=1e-4
        )
        assert logs[f"accuracy@{magnitude_name('l2', magnitude)}"] == pytest.approx(
            right.mean(), rel=1e-5
        )
    names = ["natural", *(magnitude_name("l2", magnitude) for magnitude in MAGNITUDES)]
    assert logs["loss"] == pytest.approx(
        np.dot(model.alphas, [logs[f"loss@{name}"] for name in names]), rel=1e-5
    )


def test_replicas_with_unequal_counts_report_one_loss():
    x, y = lr.datasets.toy(24, seed=0)
    logs = []
    for scope in (contextlib.nullcontext(), mirrored_strategy().scope()):
        with scope:
            model = compiled(nearest(magnitudes=[0.5]), run_eagerly=False)
        model.adapt(x)
        logs.append(model.evaluate(x, y, batch_size=12, verbose=0, return_dict=True))
    assert logs[1] == pytest.approx(logs[0], rel=1e-4)


@pytest.mark.release
def test_gradients_on_a_data_set_are_of_that_mean():
    """Of some batches of six, few samples have an allowed point, or none."""
    x, y = lr.datasets.toy(24, seed=0)
    model = compiled(nearest(magnitudes=[0.5]))
    model.adapt(x)
    whole, parts = (model.gradients(x, y, batch_size=size) for size in (24, 6))
    for one, other in zip(tf.nest.flatten(whole), tf.nest.flatten(parts), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_batches_without_an_allowed_point_say_nothing_of_a_target():
    x, y = lr.datasets.toy(24, seed=0)
    model = nearest(magnitudes=[0.5, 4.0], targets=[None, lr.Target(loss=0.2)])
    compiled(model, optimizer=keras.optimizers.SGD(0.0))
    model.adapt(x)
    sides = x + 0.5 * np.array([-1.0, 1.0], np.float32)
    has = (np.abs(sides[..., None] - x[:, 0]).min(axis=-1) >= 0.5).any(axis=1)
    assert 0 < has.sum() < 24
    estimates = []
    for chosen in (~has, has, ~has):
        model.reset_metrics()
        logs = model.train_on_batch(x[chosen], y[chosen], return_dict=True)
        estimates.append(logs["estimate@l2=0_5"])
        if chosen is has:
            assert estimates[-1] == pytest.approx(logs["loss@l2=0_5"], rel=1e-5)
    assert estimates[0] == 0
    assert estimates[2] == estimates[1] > 0


def test_a_step_is_by_the_gradient_of_that_mean():
    x, y = lr.datasets.toy(60, seed=0)
    weight = np.random.default_rng(0).integers(1, 4, size=60).astype(np.float32)
    model = compiled(nearest(magnitudes=[0.05], alphas=[0.0, 1.0], metric="euclidean"))
    copy = right_network()
    fit(model, x, y, sample_weight=weight)
    sides = x + 0.05 * np.array([-1.0, 1.0], np.float32)
    allowed = np.abs(sides[..., None] - x[:, 0]).min(axis=-1) >= 0.05 * (1 - 1e-4)
    has = allowed.any(axis=1)

    def loss():
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            np.repeat(y, 2), copy(sides.reshape(-1, 1))
        )
        worst = tf.reduce_max(tf.where(allowed, tf.reshape(losses, [60, 2]), -1.0), axis=1)
        return tf.reduce_sum(tf.boolean_mask(weight * worst, has)) / has.sum()

    # At so small a magnitude both ranks agree, so that nothing is projected.
    np.testing.assert_allclose(
        weights(model), weights(copy) - 0.1 * gradient(copy, loss)[0], atol=1e-6
    )


@pytest.mark.release
@pytest.mark.parametrize("options", [{"micro_batch_size": 25}, {"warm_start": lr.WarmStart()}])
def test_other_ways_to_take_the_same_step(options):
    x, y = lr.datasets.toy(60, seed=0)
    plain, other = compiled(nearest()), compiled(nearest(**options))
    logs = fit(plain, x, y, epochs=3), fit(other, x, y, epochs=3)
    np.testing.assert_allclose(weights(other), weights(plain), atol=1e-5)
    assert {*logs[0]} | {"random_starts"} >= {*logs[1]} >= {*logs[0]}
    for name in ("loss@l2=0_05", "accuracy@l2=0_05", "loss@l2=4"):
        assert logs[0][name] == pytest.approx(logs[1][name], rel=1e-4)


def test_free_steps_stay_outside():
    x, y = lr.datasets.toy(60, seed=0)
    model = compiled(nearest(magnitudes=[0.05, 1.0], warm_start=lr.WarmStart(free=True)))
    logs = fit(model, x, y, epochs=3)
    model = compiled(nearest(magnitudes=[0.05, 1.0]))
    # Two sides: what is allowed is known from the first step on.
    assert fit(model, x, y, epochs=3)["accuracy@l2=0_05"] == logs["accuracy@l2=0_05"]


@pytest.mark.release
def test_two_replicas_do_what_one_device_does(strategy):
    x, y = lr.datasets.toy(24, seed=0)
    # Fewer samples count on the first replica, evenly spaced, than on the second.
    x[:12] = np.linspace(-2.0, -1.0, 12)[:, None]
    single = compiled(nearest(magnitudes=[0.05, 1.0]))
    logs = fit(single, x, y, epochs=3)
    with strategy.scope():
        mirrored = compiled(nearest(magnitudes=[0.05, 1.0]))
    assert fit(mirrored, x, y, epochs=3) == pytest.approx(logs, rel=1e-5)
    np.testing.assert_allclose(weights(mirrored), weights(single), atol=1e-5)


def test_a_rank_without_samples_is_left_out():
    x = np.linspace(1.0, 2.0, 41, dtype=np.float32)[:, None]
    y = np.ones(41, np.int32)
    model = compiled(nearest(magnitudes=[0.05]))
    model.adapt(x)
    logs = fit(model, x[10:30], y[10:30], epochs=2)
    assert np.isnan([logs["loss@l2=0_05"], logs["accuracy@l2=0_05"]]).all()
    assert np.isfinite([logs["loss"], logs["loss@natural"]]).all()
    assert np.isfinite(weights(model)).all()
    # Rank 1 has half of the weight.
    alone = compiled(lr.Standard(right_network()), rate=0.05)
    fit(alone, x[10:30], y[10:30], epochs=2)
    np.testing.assert_allclose(weights(model), weights(alone), atol=1e-6)


@pytest.mark.release
def test_the_best_classifier_of_the_toy_problem_is_found():
    x, y = lr.datasets.toy(100, seed=0)
    keras.utils.set_random_seed(0)
    classifier = keras.Sequential(
        [
            keras.Input((1,)),
            keras.layers.Dense(256),
            keras.layers.LeakyReLU(negative_slope=0.2),
            keras.layers.Dense(2),
        ]
    )
    model = nearest(classifier, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    compiled(model, rate=0.015, run_eagerly=False)
    fit(model, x, y, epochs=250)
    (boundary,) = lr.datasets.decision_boundaries(classifier)
    assert abs(boundary) < 0.05


def test_the_region_is_saved_with_the_model(tmp_path):
    x, y = lr.datasets.toy(20, seed=0)
    model = compiled(nearest())
    fit(model, x, y)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.explored == "nearest"
    assert loaded.discriminator is None
    points = np.linspace(-6, 6, 50, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(
        loaded.log_unexplored(points, 1.0), model.log_unexplored(points, 1.0)
    )
    for one in (model, loaded):
        fit(one, x, y, epochs=2)
    np.testing.assert_allclose(weights(loaded), weights(model), atol=1e-6)


def test_bad_input_is_named():
    x, y = lr.datasets.toy(20, seed=0)
    with pytest.raises(ValueError, match="`explored` must be one of"):
        lr.OLGRC(network(), ATTACK, [1.0], explored="exact")
    with pytest.raises(ValueError, match="`discriminator` and its optimizer must be None"):
        nearest(discriminator_optimizer="sgd")
    with pytest.raises(ValueError, match="`explored` must be 'nearest' for `adapt`"):
        lr.OLGRC(network(), ATTACK, [1.0]).adapt(x)
    model = compiled(nearest())
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(10)
    with pytest.raises(ValueError, match="`x` must be an array where explored='nearest'"):
        model.fit(dataset, verbose=0)
    model.adapt(x)
    model.fit(dataset, verbose=0)


def test_no_region_is_made_of_inputs_outside_the_bounds():
    x, y = lr.datasets.toy(20, seed=0)
    boxed = lr.attacks.PGD(norm="l2", steps=1, bounds=(-2.0, 2.0))
    model = compiled(lr.OLGRC(right_network(), boxed, [0.5], explored="nearest"), run_eagerly=True)
    for learn in (lambda: fit(model, 255 * x, y), lambda: model.adapt(255 * x)):
        with pytest.raises(ValueError, match=r"`x` must lie inside .*`bounds` \(-2.0, 2.0\)"):
            learn()
    # What was refused has left nothing behind.
    fit(model, x, y)
    np.testing.assert_array_equal(model.region.guide.points, x)


@pytest.mark.parametrize("given", ["keyword", "position"])
def test_what_is_held_back_is_not_explored(given):
    x, y = lr.datasets.toy(20, seed=0)
    model = compiled(nearest())
    if given == "keyword":
        model.fit(x, y, epochs=0, validation_split=0.25)
    else:
        model.fit(x, y, 20, 0, 0, None, 0.25)
    np.testing.assert_array_equal(model.region.guide.points, x[:15])


def test_a_fit_that_was_refused_leaves_no_region():
    x, y = lr.datasets.toy(20, seed=0)
    model = nearest()
    with pytest.raises(ValueError, match="`compile` must be called"):
        model.fit(x[:4], y[:4])
    model = compiled(model)
    with pytest.raises(ValueError, match="`y` must"):
        model.fit(x[:4], y[:4] + 7)
    model.fit(x, y, verbose=0)
    assert model.region.guide.points.shape == (20, 1)


def test_what_trains_it_can_be_measured_and_checked():
    x, y = lr.datasets.toy(20, seed=0)
    model = compiled(nearest(magnitudes=[1.0]), 0.0)
    check = lr.callbacks.AttackCheck(x, y)
    logs = model.fit(x, y, verbose=0, callbacks=[check]).history
    assert logs["fresh_accuracy@l2=1"] == logs["accuracy@l2=1"]
    curve = lr.evaluate_robustness(model, x, y, model.guided_attack, [0.0, 1.0])
    # Attacks that go where it may not find more, and that says nothing against it.
    assert curve.flags == ()
    assert curve.settings["attacks"][0]["config"]["unexplored"]["class_name"] == "ExploredRegion"
    assert lr.evaluation.AccuracyCurve.from_json(curve.to_json()).settings == curve.settings
