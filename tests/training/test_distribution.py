"""Two replicas on one machine must do exactly what one device does."""

import keras
import numpy as np
import pytest

import lexirobust as lr
from tests.training.by_hand import ATTACK, METHODS, compiled, fit, network, weights


@pytest.fixture
def data():
    return lr.datasets.toy(20, seed=0)


@pytest.mark.parametrize("method", ["adversarial", "mix", "max", "olsrc", "olgrc"])
def test_two_replicas_step_and_measure_as_one_device(strategy, data, method):
    def make():
        # The penalty of regularization must count once, not once a replica.
        classifier = network(kernel_regularizer=keras.regularizers.L2(0.5))
        return compiled(METHODS[method](classifier), metrics=["accuracy"])

    alone = make()
    with strategy.scope():
        mirrored = make()
    mirrored.set_weights(alone.get_weights())
    before = weights(alone)
    logs = [fit(model, *data) for model in (alone, mirrored)]
    assert not np.allclose(weights(alone), before, atol=1e-3)
    assert np.allclose(weights(alone), weights(mirrored), atol=1e-6)
    assert logs[0] == pytest.approx(logs[1], abs=1e-5)


def test_replicas_share_their_weights_generators_and_statistics(strategy, data):
    with strategy.scope():
        middle = [keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
        model = compiled(METHODS["olsrc"](network(*middle)))
    start = model.seed_generator.state.numpy()
    fit(model, *data, epochs=2)
    for variable in [*model.trainable_variables, model.seed_generator.state]:
        first, second = strategy.experimental_local_results(variable.value)
        assert np.array_equal(first, second)
    assert np.array_equal(model.seed_generator.state, [start[0], 2])
    assert np.array_equal(middle[1].seed_generator.state.numpy()[1], 2)


def test_a_model_without_shapes_is_built_where_it_is_distributed(strategy, data):
    with strategy.scope():
        model = compiled(lr.OLSRC(keras.Sequential([keras.layers.Dense(2)]), ATTACK, [1.0]))
    fit(model, *data)
    kernel = model.classifier.layers[0].kernel
    assert len(strategy.experimental_local_results(kernel.value)) == 2
    assert model.optimizer.iterations.numpy() == 1
