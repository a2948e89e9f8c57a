"""However a model runs, it takes the same steps: eagerly, in a graph, by XLA, on two replicas.

Other tests run eagerly for speed. tests/compatibility.py does the same for every method.
"""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from tests.training.by_hand import (
    ATTACK,
    METHODS,
    OPTIMIZERS,
    compiled,
    fit,
    network,
    right_network,
    stochastic_network,
    weights,
)

# Twelve samples a replica and a batch: the parts are alike on both.
DATA = lr.datasets.toy(24, seed=0)
SETTINGS = {
    "plain": {},
    "all options": {"safeguard": True, "micro_batch_size": 6, "detailed_logs": True},
    "recomputed gradients": {"keep_gradients": False},
    "per rank": {"update": "per_rank"},
}


def trained(settings, name="Adam", **how):
    """A model after some epochs from a fixed start, and its logs."""
    keras.utils.set_random_seed(0)
    model = lr.OLSRC(
        right_network(), ATTACK, [2.5, 4.0], alphas=(0.1, 0.45, 0.45), **SETTINGS[settings]
    )
    compiled(model, optimizer=OPTIMIZERS[name](), **how)
    return model, fit(model, *DATA, epochs=5)


@functools.cache
def trained_eagerly(settings, name="Adam"):
    """What the others are held to; it is not to be changed."""
    return trained(settings, name)


@pytest.mark.parametrize(
    "settings",
    ["plain", *(pytest.param(name, marks=pytest.mark.release) for name in [*SETTINGS][1:])],
)
def test_a_graph_takes_the_steps_of_eager_code(settings):
    model, logs = trained_eagerly(settings)
    graph, graph_logs = trained(settings, run_eagerly=False)
    np.testing.assert_allclose(weights(graph), weights(model), atol=1e-5)
    assert graph_logs == pytest.approx(logs, abs=1e-4)


@pytest.mark.release
@pytest.mark.parametrize("settings", [*SETTINGS][1:])  # The plain step: tests/compatibility.py.
def test_compiled_by_xla_the_weights_are_the_same(settings):
    model, _ = trained_eagerly(settings)
    by_xla, _ = trained(settings, jit_compile=True)
    np.testing.assert_allclose(weights(by_xla), weights(model), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("Adam with clipvalue", "plain"),
        pytest.param("loss scaling", "plain", marks=pytest.mark.release),
        pytest.param("Adam with global_clipnorm", "plain", marks=pytest.mark.release),
        pytest.param("SGD with momentum", "per rank", marks=pytest.mark.release),
        pytest.param("loss scaling", "all options", marks=pytest.mark.release),
    ],
)
def test_two_replicas_take_the_step_of_one_device(strategy, name, settings):
    alone, logs = trained_eagerly(settings, name)
    with strategy.scope():
        mirrored, mirrored_logs = trained(settings, name)
    np.testing.assert_allclose(weights(alone), weights(mirrored), atol=1e-5)
    assert mirrored_logs == pytest.approx(logs, abs=1e-3)


@pytest.mark.release
def test_state_is_kept_on_replicas_that_work_in_micro_batches(strategy):
    with strategy.scope():
        model = lr.OLSRC(stochastic_network(), ATTACK, [1.0], micro_batch_size=5)
        compiled(model, optimizer=keras.optimizers.Adam(0.01))
    normalization = model.classifier.layers[1]
    before = normalization.moving_mean.numpy()
    fit(model, *DATA, epochs=2)
    assert np.max(np.abs(normalization.moving_mean.numpy() - before)) > 1e-4
    for variable in model.trainable_variables:
        first, second = strategy.experimental_local_results(variable.value)
        np.testing.assert_array_equal(first, second)


@pytest.mark.release
def test_replicas_share_their_weights_generators_and_statistics(strategy):
    with strategy.scope():
        middle = [keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
        model = compiled(METHODS["olsrc"](network(*middle)))
    start = model.seed_generator.state.numpy()
    fit(model, *DATA, epochs=2)
    for variable in [*model.trainable_variables, model.seed_generator.state]:
        first, second = strategy.experimental_local_results(variable.value)
        assert np.array_equal(first, second)
    assert np.array_equal(model.seed_generator.state, [start[0], 2])
    assert np.array_equal(middle[1].seed_generator.state.numpy()[1], 2)


@pytest.mark.release
def test_a_model_without_shapes_is_built_where_it_is_distributed(strategy):
    with strategy.scope():
        model = compiled(lr.OLSRC(keras.Sequential([keras.layers.Dense(2)]), ATTACK, [1.0]))
    fit(model, *DATA)
    kernel = model.classifier.layers[0].kernel
    assert len(strategy.experimental_local_results(kernel.value)) == 2
    assert model.optimizer.iterations.numpy() == 1


@pytest.mark.parametrize("dataset", [False, True])
def test_a_model_that_was_not_compiled_predicts_on_replicas(strategy, dataset):
    with strategy.scope():
        model = lr.OLSRC(right_network(), ATTACK, [1.0])
    x, y = DATA
    given = tf.data.Dataset.from_tensor_slices((x, y)).batch(8) if dataset else x
    np.testing.assert_allclose(model.predict(given, verbose=0), model(x), atol=1e-6)


@pytest.mark.parametrize("make", [tf.distribute.OneDeviceStrategy, tf.distribute.MirroredStrategy])
def test_a_strategy_of_one_device_trains_as_none(make):
    strategy = make("/cpu:0") if make is tf.distribute.OneDeviceStrategy else make(["/cpu:0"])
    x, y = lr.datasets.toy(20, seed=0)

    def trained():
        model = lr.OLSRC(right_network(), ATTACK, [1.0])
        model.compile("sgd", metrics=["accuracy"])
        history = model.fit(x, y, batch_size=20, verbose=0, validation_data=(x, y)).history
        return history, weights(model)

    logs, expected = trained()
    with strategy.scope():
        here, moved = trained()
    np.testing.assert_allclose(moved, expected, atol=1e-6)
    assert here.keys() == logs.keys()
    assert here["val_accuracy"] == logs["val_accuracy"]
