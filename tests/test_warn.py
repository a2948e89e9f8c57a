"""Warnings name the line of the user's that led to them."""

import keras
import numpy as np
import pytest

import lexirobust as lr
from tests.training.by_hand import ATTACK

X, Y = np.zeros((4, 1), np.float32), np.array([0, 1, 0, 1])


def of_probabilities():
    return keras.Sequential([keras.Input((1,)), keras.layers.Dense(2), Softmax()])


@keras.saving.register_keras_serializable(package="tests")
class Softmax(keras.layers.Layer):
    """One that the package does not know by its class."""

    def call(self, inputs):
        return keras.ops.softmax(inputs)


def compile_it():
    lr.OLSRC(of_probabilities(), ATTACK, [1.0]).compile("sgd")


def perturb():
    ATTACK(of_probabilities(), X, Y, 1.0)


def sweep():
    ATTACK.sweep(of_probabilities(), X, Y, [1.0])


def evaluate():
    lr.evaluate_robustness(of_probabilities(), X, Y, ATTACK, [1.0], checks=False)


def fit():
    model = lr.OLSRC(
        keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)]),
        ATTACK,
        [1.0],
        targets=[1e-6],
    )
    model.compile("sgd", run_eagerly=True)
    model.fit(X, Y, verbose=0)


@pytest.mark.parametrize("call", [compile_it, perturb, sweep, evaluate, fit])
def test_they_point_to_the_caller(call):
    with pytest.warns(UserWarning, match="lexirobust|target of") as caught:
        call()
    assert {each.filename for each in caught if each.category is UserWarning} == {__file__}
