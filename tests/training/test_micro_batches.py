import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from lexirobust.training.step.micro_batches import map_micro_batches


def describe(tensors, number, share):
    x, y, nothing = tensors
    assert nothing is None
    sums = [share * tf.reduce_mean(x), None, share]
    return sums, {"doubled": 2 * x, "rest": [y, tf.fill(tf.shape(y), number)]}


def run(size, count=7, **options):
    x = tf.reshape(tf.range(2.0 * count), (count, 2))
    function = tf.function(lambda x, y: map_micro_batches(describe, (x, y, None), size), **options)
    return x, function(x, tf.range(count))


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("size", [None, 1, 2, 3, 6, 7, 8, 100])
def test_parts_add_up_to_the_whole_in_order(size, jit_compile):
    x, ((mean, missing, shares), rows) = run(size, jit_compile=jit_compile)
    np.testing.assert_allclose(mean, tf.reduce_mean(x), rtol=1e-6)
    assert missing is None
    assert float(shares) == pytest.approx(1)
    np.testing.assert_array_equal(rows["doubled"], 2 * x)
    np.testing.assert_array_equal(rows["rest"][0], np.arange(7))


@pytest.mark.parametrize(("size", "lengths"), [(None, [7]), (3, [1, 3, 3]), (4, [3, 4]), (7, [7])])
def test_no_part_is_larger_than_it_may_be(size, lengths):
    numbers = run(size)[1][1]["rest"][1].numpy()
    assert numbers.tolist() == [n for n, length in enumerate(lengths) for _ in range(length)]


def test_the_loop_is_traced_once_whatever_the_count():
    traces = []

    @tf.function(input_signature=[tf.TensorSpec([None, 2]), tf.TensorSpec([None], tf.int32)])
    def function(x, y):
        traces.append(x.shape)
        return map_micro_batches(describe, (x, y, None), 3)

    for count in (3, 5, 12):
        x = tf.ones((count, 2))
        assert function(x, tf.range(count))[1]["doubled"].shape == (count, 2)
    assert len(traces) == 1


def test_large_kernels_are_added_up_in_every_step():
    """TensorFlow's memory optimizer may break the sum of a kernel's gradients in the loop."""
    width = 4096  # So that the gradients exceed what it grants a CPU: about 200 MB.
    layers = [keras.layers.Dense(width, use_bias=False), keras.layers.Dense(2)]
    classifier = keras.Sequential([keras.Input((width,)), *layers])
    model = lr.TRADES(classifier, lr.attacks.PGD("linf", steps=1), 0.1, micro_batch_size=2)
    model.compile(optimizer="sgd")
    before = layers[0].get_weights()[0]
    for _ in range(2):
        model.train_on_batch(np.full((4, width), 0.5, "float32"), np.array([0, 1, 0, 1]))
    assert np.any(layers[0].get_weights()[0] != before)
