"""Says which of Keras's own names has moved, where a release of Keras moves one."""

import ast

import keras
import numpy as np
import pytest
import tensorflow as tf

from lexirobust import keras_internals
from tests.test_floors import MODULES

# What Keras itself is asked for below its public names, in the order of `keras_internals`.
PRIVATE = {
    "_inbound_nodes",
    "_keras_history",
    "_flatten_layers",
    "_seed_generators",
    "_clip_gradients",
    "_get_variable_index",
    "_trainable_variables",
    "_direct_assign",
    "_initial_epoch",
    "_loss_tracker",
    "_compile_loss",
}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    inner = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.5, seed=1)])
    inputs = keras.Input((3,))
    shared = keras.layers.Dense(3)
    outputs = shared(inner(shared(inputs)))
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.1, clipvalue=0.5), "mse")
    model.fit(np.ones((4, 3)), np.ones((4, 3)), verbose=0)
    return model


def test_calls(model):
    (shared,) = [each for each in model.layers if isinstance(each, keras.layers.Dense)]
    first, second = keras_internals.calls_of(shared)
    assert first.inputs[0] is model.inputs[0]
    assert second.outputs[0] is model.outputs[0]
    operation, call = keras_internals.made_by(model.outputs[0])
    assert operation is shared
    assert call == second


def test_layers_and_what_they_draw_from(model):
    kinds = [type(each).__name__ for each in keras_internals.layers_inside(model)]
    assert sorted(kinds) == ["Dense", "Dropout", "InputLayer", "InputLayer", "Sequential"]
    (state,) = keras_internals.random_states(model)
    before = keras.ops.convert_to_numpy(state)
    model(np.ones((1, 3)), training=True)
    assert np.any(before != keras.ops.convert_to_numpy(state))
    assert not keras_internals.random_states(keras.layers.Dense(1))


def test_assigned_past_scopes():
    variable = keras.Variable(1.0)
    with keras.StatelessScope():
        keras_internals.assign_past_scopes(variable, 2.0)
    assert float(variable) == 2.0


def test_clipped(model):
    given = [tf.constant([-2.0, 0.25]), None]
    first, second = keras_internals.clipped(model.optimizer, given)
    np.testing.assert_array_equal(first, [-0.5, 0.25])
    assert second is None


def test_places_in_an_optimizer(model):
    kernel, bias = model.trainable_variables
    assert keras_internals.places_in(model.optimizer, [bias]) == ([1], 2)
    assert keras_internals.places_in(model.optimizer, [bias, kernel]) == ([1, 0], 2)
    with pytest.raises(ValueError, match="built on other variables"):
        keras_internals.places_in(model.optimizer, [keras.Variable(0.0)])


def test_activity_penalties():
    layer = keras.layers.Dense(1, activity_regularizer="l1", kernel_initializer="ones")
    layer(np.ones((4, 1)))
    total = 0.01 * 4  # The default of "l1".
    expected = total if keras_internals.activity_penalties_add_up() else total / 4
    assert float(layer.losses[0]) == pytest.approx(expected)


def test_fit_begins_where_it_is_told(model):
    begun = []
    keras_internals.begin_at(model, 2)
    watch = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: begun.append(epoch))
    x = np.ones((4, 3))
    model.fit(x, x, epochs=4, verbose=0, callbacks=[watch])
    keras_internals.begin_at(model, None)
    model.fit(x, x, epochs=1, verbose=0, callbacks=[watch])
    assert begun == [2, 3, 0]


def test_compiled_loss():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, "linear")])
    model.compile("sgd", "mse")
    x = np.array([[1.0], [2.0]])
    model.evaluate(x, x, verbose=0)
    assert keras_internals.loss_metric(model) is model.metrics[0]
    loss = keras_internals.compiled_loss(model)
    assert float(loss(tf.constant(x), tf.constant(x + 2.0))) == 4.0
    keras_internals.leave_loss_out(model)
    assert keras_internals.compiled_loss(model) is None
    with pytest.raises(ValueError, match="No loss"):
        model.compute_loss(x, x, x)


def test_losses_of_outputs():
    loss = keras_internals.get_loss("mse", np.ones((2, 1)), np.ones((2, 1)))
    spec = keras_internals.compute_output_spec(loss.call, *[keras.KerasTensor((5, 2, 1))] * 2)
    assert spec.shape == (5, 2)
    assert float(keras_internals.CompileLoss(loss)(np.ones((2, 1)), np.zeros((2, 1)))) == 1.0


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def call(self, x):
        return self.dense(x)


def test_all_that_keras_notes_of_a_layer_is_sorted():
    """A name that a new Keras adds is either what a layer computes by, or bookkeeping."""
    model = Own()
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    computes = {"_dtype_policy", "_layers", "_trainable", "autocast", "dense"}
    assert vars(model).keys() - keras_internals.BOOKKEEPING <= computes


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"lexirobust.keras_internals"}))
def test_no_other_module_knows_them(module):
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            assert node.attr not in PRIVATE, f"{module}, line {node.lineno}: {node.attr}"
        if isinstance(node, ast.ImportFrom):
            assert not (node.module or "").startswith("keras.src"), module


def test_random_layers_for_images_have_one_base():
    base = keras_internals.IMAGE_PREPROCESSING
    assert base.__name__ == "BaseImagePreprocessingLayer"
    for kind in (keras.layers.RandomFlip, keras.layers.RandomRotation, keras.layers.RandomContrast):
        assert issubclass(kind, base)
    assert not issubclass(keras.layers.Rescaling, base)
