"""What several devices measure is what one does."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from lexirobust.evaluation.devices import on_devices


def test_devices_take_turns_and_results_keep_their_order(strategy):
    begun = []

    def task(number):
        begun.append(number)
        return number, tf.random.uniform([]).device[-5:]

    with strategy.scope():
        results = list(on_devices(lambda i=i: task(i) for i in range(5)))
    assert [number for number, _ in results] == list(range(5))
    assert [device for _, device in results] == ["CPU:0", "CPU:1", "CPU:0", "CPU:1", "CPU:0"]
    assert [number for number, _ in on_devices(lambda i=i: task(i) for i in range(3))] == [0, 1, 2]


def test_an_error_on_a_device_reaches_the_caller(strategy):
    def fail():
        raise ValueError("not this one")

    with strategy.scope(), pytest.raises(ValueError, match="not this one"):
        list(on_devices([lambda: 1, fail, lambda: 3]))


@pytest.mark.release
@pytest.mark.parametrize("genuine", [False, True])
def test_two_devices_measure_what_one_does(strategy, genuine, tmp_path):
    x, y = lr.datasets.toy(90, seed=0)
    places = []

    class Watched(keras.layers.Layer):
        def call(self, x):
            places.append(tf.add(x, 0).device[-5:])
            return x

    def network():
        keras.utils.set_random_seed(3)
        return keras.Sequential([Watched(), keras.layers.Dense(8, "tanh"), keras.layers.Dense(2)])

    def measure(classifier, **settings):
        attack = lr.attacks.PGD("l2", steps=5, restarts=2, bounds=None, seed=1)
        return lr.evaluate_robustness(
            classifier, x, y, attack, [0, 0.5, 1.5], batch_size=20, genuine=genuine, **settings
        )

    alone = network()
    alone.build((None, 1))
    with strategy.scope():
        mirrored = network()
        mirrored.build((None, 1))
        kernel = mirrored.layers[-1].kernel
    assert len(strategy.experimental_local_results(kernel.value)) == 2
    places.clear()
    with strategy.scope():
        several = measure(mirrored, backup=tmp_path / "several")
    assert {"CPU:0", "CPU:1"} <= set(places)
    one = measure(alone)
    np.testing.assert_array_equal(several.correct, one.correct)
    np.testing.assert_allclose(several.losses, one.losses, rtol=1e-5)
    np.testing.assert_array_equal(several.valid, one.valid)
    assert several.flags == one.flags
