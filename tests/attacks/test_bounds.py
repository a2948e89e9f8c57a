import keras
import numpy as np
import pytest
import tensorflow as tf

from lexirobust.attacks.bounds import MONOTONE, interval_bounds, relax

layers = keras.layers


def test_a_box_whose_ends_are_swapped_is_refused():
    """What it gave would be no bounds."""
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    low, high = tf.constant([[0.0, 1.0]]), tf.constant([[1.0, 0.5]])
    with pytest.raises(ValueError, match="`low` must be at most `high`"):
        interval_bounds(model, low, high)
    interval_bounds(model, low, low)


def randomized(model, seed=0):
    """Random weights for every variable, batch statistics included."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        values = rng.normal(size=variable.shape)
        variable.assign(np.abs(values) + 0.5 if "variance" in variable.path else values)
    return model


def convolutional():
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Rescaling(-2.0, 0.5),
            layers.Conv2D(3, 3, strides=2, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.LeakyReLU(0.1),
            layers.MaxPooling2D(2),
            layers.Conv2D(4, 2, dilation_rate=1, use_bias=False, activation="tanh"),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.5),
            layers.Dense(3),
        ]
    )


def grouped():
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(4, 3, groups=2, dilation_rate=2),
            layers.ReLU(max_value=1.0, negative_slope=0.2, threshold=0.1),
            layers.AveragePooling2D(2, strides=1, padding="same"),
            layers.Reshape((4, 4)),
            layers.Dense(2, "sigmoid"),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


def functional():
    inputs = keras.Input((8,))
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(6, "elu"), layers.Reshape((3, 2))])
    hidden = layers.Flatten()(layers.GlobalMaxPooling2D()(layers.Reshape((3, 2, 1))(inner(inputs))))
    return keras.Model(inputs, layers.Dense(3)(layers.Activation("softplus")(hidden)))


MODELS = {"convolutional": convolutional, "grouped": grouped, "functional": functional}


def boxes(model, radius, count=3, seed=0):
    center = np.random.default_rng(seed).normal(size=(count, *model.input_shape[1:]))
    return (tf.constant(center + side * radius, tf.float32) for side in (-1, 1))


def samples(low, high, count=300, seed=0):
    """`[count, N, ...]` inputs in each box, half of them corners."""
    share = np.random.default_rng(seed).random(size=(count, *low.shape))
    share[::2] = np.round(share[::2])
    return low + share.astype(np.float32) * (high - low)


@pytest.mark.parametrize("model", MODELS)
def test_bounds_hold_for_every_input_in_the_box_and_widen_with_it(model):
    model = randomized(MODELS[model]())
    within = None
    for radius in (0.0, 0.01, 0.1, 0.2, 0.5, 1.0):
        low, high = boxes(model, radius)
        least, most = (bound.numpy() for bound in interval_bounds(model, low, high))
        if within is not None:
            assert np.all(least <= within[0] + 1e-4 * np.abs(within[0]))
            assert np.all(most >= within[1] - 1e-4 * np.abs(within[1]))
        within = least, most
        if radius in (0.1, 0.2, 0.5):
            continue
        slack = 1e-4 * (1 + np.abs(least) + np.abs(most))
        inputs = samples(low, high)
        outputs = model(tf.reshape(inputs, (-1, *low.shape[1:])), training=False)
        outputs = outputs.numpy().reshape(*inputs.shape[:2], -1)
        assert np.all(outputs >= least - slack)
        assert np.all(outputs <= most + slack)
        if not radius:
            np.testing.assert_allclose(least, most, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("activation", MONOTONE, ids=lambda activation: activation.__name__)
def test_bounds_of_one_layer_are_exact(activation):
    rng, layer = np.random.default_rng(0), layers.Dense(64, activation)
    model = randomized(keras.Sequential([keras.Input((4,)), layer]))
    center, radius = rng.normal(size=(2, 64, 4)).astype(np.float32)
    low, high = center - np.abs(radius), center + np.abs(radius)
    least, most = interval_bounds(model, tf.constant(low), tf.constant(high))
    # Every unit's lowest and highest corner: `[N, units, inputs]`.
    rising = layer.kernel.numpy().T > 0
    corners = (
        np.where(rising, low[:, None], high[:, None]),
        np.where(rising, high[:, None], low[:, None]),
    )
    for bound, corner in zip((least, most), corners, strict=True):
        outputs = model(corner.reshape(-1, 4)).numpy().reshape(64, 64, 64)
        exact = np.diagonal(outputs, axis1=1, axis2=2)
        np.testing.assert_allclose(bound, exact, rtol=1e-4, atol=1e-5)


def test_stand_in_has_the_slopes_of_the_symbolic_relaxation():
    # Hidden units over [-1, 2], [1, 4] and [-5, -2]: slopes 2/3, 1 and 0.
    model = keras.Sequential([keras.Input((1,)), layers.Dense(3, "relu"), layers.Dense(2)])
    output = np.array([[1.0, 5.0], [10.0, 0.0], [100.0, 1.0]])
    model.set_weights([np.ones((1, 3)), np.array([0.5, 2.5, -3.5]), output, np.zeros(2)])
    low, high, x = (tf.constant([[value]]) for value in (-1.5, 1.5, 0.0))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        line = relax(model, low, high, x).line
        first, second = line[:, 0], line[:, 1]
    np.testing.assert_allclose(tape.gradient(first, x), [[2 / 3 + 10]], rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(second, x), [[10 / 3]], rtol=1e-6)


def test_stand_in_of_an_affine_chain_is_the_chain():
    model = randomized(
        keras.Sequential(
            [
                keras.Input((4, 4, 1)),
                layers.Rescaling(-3.0, 1.0),
                layers.Conv2D(2, 2),
                layers.BatchNormalization(),
                layers.AveragePooling2D(2),
                layers.Flatten(),
                layers.Dense(3),
            ]
        )
    )
    low, high = boxes(model, 0.3)
    x = samples(low, high, count=1)[0]
    np.testing.assert_allclose(relax(model, low, high, x).line, model(x), rtol=1e-4, atol=1e-4)


def branching():
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Add()([layers.Dense(2)(inputs), layers.Dense(2)(inputs)]))


def two_outputs():
    inputs = keras.Input((4,))
    return keras.Model(inputs, [layers.Dense(2)(inputs), layers.Dense(2)(inputs)])


def chain(*middle):
    return keras.Sequential([keras.Input((4,)), *middle, layers.Dense(2)])


class Doubled(layers.Dense):
    def call(self, inputs):
        return -super().call(inputs)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (lambda: chain(layers.LayerNormalization(name="norm")), "'norm' of type LayerNormaliz"),
        (lambda: chain(Doubled(2, name="own")), "'own' of type Doubled"),
        (lambda: chain(layers.Dense(2, "gelu", name="bent")), "'bent' with 'gelu'"),
        (lambda: chain(layers.Activation("softmax", name="soft")), "'soft' with 'softmax'"),
        (branching, "'add.*', which has 2 inputs"),
        (two_outputs, "one input and one output"),
        (lambda: lambda x: x, "sequential or functional Keras model. Received: function"),
    ],
)
def test_what_has_no_known_bounds_is_refused_by_name(model, match):
    with pytest.raises(ValueError, match=match):
        interval_bounds(model(), tf.zeros((1, 4)), tf.ones((1, 4)))
