"""What ranks are compared by in place of their gradients on the batch."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from lexirobust.training.state.gradient_means import GradientMeans
from tests.training.by_hand import (
    ATTACK,
    compiled,
    fit,
    gradient,
    loss_at,
    network,
    onestep,
    right_network,
    weights,
)

X, Y = lr.datasets.toy(40, seed=0)
MAGNITUDES = [4.0]


def model_of(classifier=None, steps=100, rate=0.1, optimizer=None, **options):
    settings = {
        name: options.pop(name)
        for name in ("update", "keep_gradients", "safeguard", "metric", "micro_batch_size")
        if name in options
    }
    memory = lr.RunningMean(steps=steps)
    model = lr.OLSRC(classifier or network(), ATTACK, MAGNITUDES, memory=memory, **settings)
    return compiled(model, rate=rate, optimizer=optimizer, **options)


def train(model, batch_size=10, epochs=1, **options):
    return fit(model, X, Y, batch_size=batch_size, epochs=epochs, **options)


def remembered(model):
    """The mean gradient of the first rank as one vector, and of how many steps it is."""
    *_, count, _ = model._memory.variables
    return np.concatenate([np.ravel(v) for v in model._memory._means[0]]), int(count)


def natural_gradients(classifier, batch_size=10):
    """Of each batch, at the weights as they are."""
    return [
        gradient(classifier, loss_at(classifier, X[i : i + batch_size], Y[i : i + batch_size]))[0]
        for i in range(0, len(X), batch_size)
    ]


def test_a_mean_of_all_steps_until_there_are_enough_which_then_fades():
    model = model_of(steps=2, rate=0.0)
    train(model)
    expected = np.zeros_like(remembered(model)[0])
    for number, row in enumerate(natural_gradients(model.classifier), 1):
        expected += (row - expected) / min(number, 2)
    mean, count = remembered(model)
    assert count == 4
    np.testing.assert_allclose(mean, expected, atol=1e-6)


def test_where_weights_stay_the_mean_over_an_epoch_is_the_data_sets_gradient():
    model = model_of(rate=0.0)
    train(model)
    whole, _ = gradient(model.classifier, loss_at(model.classifier, X, Y))
    np.testing.assert_allclose(remembered(model)[0], whole, atol=1e-6)


def test_means_tell_the_weights_and_batches_give_the_step():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3)).astype(np.float32)
    y = (x[:, 0] + rng.normal(size=40) > 0).astype(np.int32)

    def classifier():
        keras.utils.set_random_seed(0)
        layer = keras.layers.Dense(2, kernel_regularizer=keras.regularizers.L2(0.5))
        return keras.Sequential([keras.Input((3,)), layer])

    def trained(memory):
        ranks = [lr.objectives.Natural(), lr.objectives.Regularization()]
        model = lr.LexicographicModel(classifier(), ranks, metric="euclidean", memory=memory)
        fit(compiled(model, rate=0.5), x, y, batch_size=4, epochs=3)
        return weights(model)

    copy, seen = classifier(), []
    for i in [*range(0, 40, 4)] * 3:
        kernel, bias = (v.numpy() for v in copy.trainable_variables)
        natural, _ = gradient(copy, loss_at(copy, x[i : i + 4], y[i : i + 4]))
        penalty = np.concatenate([kernel.ravel(), np.zeros_like(bias)]).astype(np.float64)
        own = np.stack([natural, penalty])
        seen.append(own)
        means = np.mean(seen, axis=0)
        mixed = np.linalg.lstsq(means.T, onestep(means, [0.5, 0.5]))[0]
        moved = np.concatenate([kernel.ravel(), bias]) - 0.5 * mixed @ own
        copy.set_weights([moved[:6].reshape(3, 2), moved[6:]])
    np.testing.assert_allclose(trained(lr.RunningMean(steps=100)), weights(copy), atol=1e-5)
    # What batches alone make of it is something else.
    assert not np.allclose(trained(None), weights(copy), atol=1e-3)


def test_with_one_batch_it_is_as_if_nothing_was_remembered():
    model, other = model_of(right_network(), steps=1), lr.OLSRC(right_network(), ATTACK, MAGNITUDES)
    train(model, batch_size=40, epochs=5)
    train(compiled(other), batch_size=40, epochs=5)
    np.testing.assert_allclose(weights(model), weights(other), atol=1e-5)


@pytest.mark.parametrize(
    "ranked", [pytest.param([4.0], marks=pytest.mark.release), [1.0, 2.0, 4.0]]
)
def test_no_step_opposes_what_is_remembered_of_the_first_rank(ranked):
    cosines = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            cosines.append(logs["memory_step_cosine@natural"])
            self.model.reset_metrics()

    model = lr.OLSRC(right_network(), ATTACK, ranked, memory=lr.RunningMean())
    compiled(model, optimizer=keras.optimizers.Adam(0.02), run_eagerly=False)
    logs = train(model, epochs=10, callbacks=[Watch()])
    assert len(cosines) == 40
    assert min(cosines) >= -1e-6
    assert logs.keys() >= {f"memory_step_cosine@l2={m:g}" for m in ranked}


@pytest.mark.parametrize("jump", ["set", "averages"])
def test_the_memory_begins_anew_where_weights_are_others(jump):
    optimizer = keras.optimizers.SGD(
        0.1, use_ema=True, ema_overwrite_frequency=3 if jump == "averages" else None
    )
    model = model_of(optimizer=optimizer)
    train(model)
    assert remembered(model)[1] == (1 if jump == "averages" else 4)
    if jump == "set":
        model.classifier.set_weights([1.1 * w for w in model.classifier.get_weights()])
        before = weights(model)
        first, _ = gradient(model.classifier, loss_at(model.classifier, X[:10], Y[:10]))
        model.train_on_batch(X[:10], Y[:10])
        assert not np.array_equal(weights(model), before)
        mean, count = remembered(model)
        assert count == 1
        np.testing.assert_allclose(mean, first, atol=1e-6)


@pytest.mark.release
def test_averages_that_are_looked_at_and_put_back_change_nothing():
    def trained(look):
        keras.utils.set_random_seed(0)
        model = model_of(optimizer=keras.optimizers.SGD(0.1, use_ema=True))
        swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
        # Not after the last epoch, where Keras itself leaves the averages.
        train(model, epochs=3, callbacks=[swap] if look else [])
        return remembered(model)

    assert trained(True)[1] == trained(False)[1] == 12


@pytest.mark.release
def test_steps_that_loss_scaling_skips_are_not_remembered():
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=1e12)
        model = model_of(optimizer=scaled, run_eagerly=False)
        before = weights(model)
        model.fit(X[:10], Y[:10], batch_size=10, verbose=0)
        assert np.array_equal(weights(model), before)
        mean, count = remembered(model)
        assert count == 0
        assert not mean.any()
        train(model, epochs=30)
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    mean, count = remembered(model)
    assert count > 0
    assert np.isfinite(mean).all()


def test_a_step_is_remembered_of_all_ranks_or_of_none():
    variables = [keras.Variable(np.ones(3))]
    memory = GradientMeans(lr.RunningMean(), 2, lambda: variables)
    memory.build()
    # Finite, although their sum is not in this precision.
    good, bad = [tf.fill([3], tf.cast(4e4, tf.float16))], [tf.constant([1.0, np.inf, 1.0])]
    memory.update([good, bad])
    memory.commit_state(tf.constant(False))
    assert memory.means == []
    memory.update([good, [2 * tf.ones(3)]])
    np.testing.assert_allclose(np.stack(memory.means)[:, 0], [[4e4] * 3, [2.0] * 3], rtol=1e-3)


def test_layers_that_thaw_are_remembered():
    classifier = network()
    classifier.layers[0].trainable = False
    model = model_of(classifier)
    train(model)
    assert remembered(model)[0].size == 18
    classifier.layers[0].trainable = True
    train(compiled(model))
    mean, count = remembered(model)
    assert (mean.size, count) == (34, 4)
    assert mean[:8].any()


def test_what_was_saved_goes_on_as_it_would_have(tmp_path):
    model = model_of(optimizer=keras.optimizers.Adam(0.01))
    train(model, epochs=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.settings.memory.get_config() == {"steps": 100}
    assert train(loaded) == train(model)
    assert np.array_equal(weights(loaded), weights(model))
    for one, other in zip(model._memory.variables, loaded._memory.variables, strict=True):
        assert np.array_equal(one, other)
    assert remembered(loaded)[1] == 12


def test_a_memory_of_other_ranks_is_refused(tmp_path):
    model = model_of()
    train(model)
    model.save_weights(tmp_path / "model.weights.h5")
    other = lr.OLSRC(network(), ATTACK, [1.0, 4.0], memory=lr.RunningMean())
    with pytest.raises(ValueError, match="memory of as many ranks"):
        compiled(other).load_weights(tmp_path / "model.weights.h5")


@pytest.mark.release
@pytest.mark.parametrize(
    "options",
    [{"micro_batch_size": 3}, {"jit_compile": True}],
    ids=str,
)
def test_options_change_nothing(options):
    keras.utils.set_random_seed(1)
    model = model_of(**options)
    keras.utils.set_random_seed(1)
    other = model_of()
    train(model, epochs=2)
    train(other, epochs=2)
    np.testing.assert_allclose(weights(model), weights(other), atol=1e-5)


@pytest.mark.release
def test_two_replicas_remember_what_one_device_does(strategy):
    single = model_of(right_network(), optimizer=keras.optimizers.Adam(0.01))
    logs = train(single, epochs=2)
    with strategy.scope():
        mirrored = model_of(right_network(), optimizer=keras.optimizers.Adam(0.01))
    assert train(mirrored, epochs=2) == pytest.approx(logs, rel=1e-4, abs=1e-5)
    np.testing.assert_allclose(weights(mirrored), weights(single), atol=1e-5)
    for variable in mirrored._memory.variables:
        copies = [np.asarray(v) for v in strategy.experimental_local_results(variable)]
        assert np.array_equal(*copies)


def test_one_rank_has_nothing_to_be_held_to():
    with pytest.raises(ValueError, match="`memory` needs at least two ranks"):
        lr.Standard(network(), memory=lr.RunningMean())


@pytest.mark.parametrize("steps", [0, -1, 1.5, True, "epoch", None])
def test_bad_numbers_of_steps_are_refused(steps):
    with pytest.raises(ValueError, match="`steps` must be an integer of at least 1"):
        lr.RunningMean(steps=steps)


@pytest.mark.parametrize(
    "options", [{"update": "per_rank"}, {"keep_gradients": False}, {"safeguard": True}]
)
def test_options_that_do_not_go_with_a_memory_are_refused(options):
    with pytest.raises(ValueError, match="`memory` needs update='onestep'"):
        model_of(**options)


def test_what_is_no_memory_is_refused():
    with pytest.raises(TypeError, match="`memory` must be a RunningMean or None"):
        lr.OLSRC(network(), ATTACK, MAGNITUDES, memory="mean")


def test_a_layer_that_is_frozen_later_needs_another_compile():
    model = model_of()
    train(model)
    model.classifier.layers[0].trainable = False
    before = weights(model)
    with pytest.raises(ValueError, match=r"`compile` must be called again.*`memory`"):
        train(model)
    np.testing.assert_array_equal(weights(model), before)
    train(compiled(model))
