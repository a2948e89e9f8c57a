import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from lexirobust.attacks import PGD, IntervalAttack, geometry

NORMS = ["l1", "l2", "linf"]
WEIGHTS = np.array([0.5, -1.0, 2.0, -0.25, 1.5], np.float32)
DUAL = {"l1": np.inf, "l2": 2, "linf": 1}


def linear():
    """Two classes; the logit of class 1 is above that of class 0 by the score."""
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2, use_bias=False)])
    model.set_weights([np.stack([np.zeros(5), WEIGHTS], axis=1)])
    return model


def points(count=8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 5)).astype(np.float32), rng.integers(2, size=count)


@pytest.mark.parametrize(("goal", "constraint"), [("maximize", "exact"), ("minimize", "maximum")])
@pytest.mark.parametrize("norm", NORMS)
def test_worst_point_of_a_linear_classifier_is_found(norm, goal, constraint):
    x, y = points()
    settings = {"norm": norm, "goal": goal, "constraint": constraint, "bounds": None}
    moved = IntervalAttack(**settings)(linear(), x, y, 1.5).numpy()
    away = np.where((y == 1) == (goal == "maximize"), -1.0, 1.0)
    gain = 1.5 * np.linalg.norm(WEIGHTS, DUAL[norm])
    np.testing.assert_allclose((moved - x) @ WEIGHTS, away * gain, rtol=1e-4)


def hidden_door(offset):
    """Class 1 wins where the first of two inputs is below an offset. No gradient leads there."""
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(1, "relu"), keras.layers.Dense(2)]
    )
    weights = [[-1.0], [0.0]], [offset], [[0.0, 9.0]], [1e-3, 0.0]
    model.set_weights([np.array(each) for each in weights])
    return model


@pytest.mark.parametrize("goal", ["maximize", "minimize"])
@pytest.mark.parametrize("norm", NORMS)
def test_start_moves_where_no_gradient_leads(norm, goal):
    x, y = np.zeros((4, 2), np.float32), np.full(4, 0 if goal == "maximize" else 1)
    settings = {"norm": norm, "goal": goal, "bounds": None, "random_start": False, "steps": 10}
    # For l1 the largest box reaches a quarter of the magnitude to every side.
    model = hidden_door(-0.2)
    moved = IntervalAttack(**settings)(model, x, y, 1.0).numpy()
    np.testing.assert_allclose(moved[:, 0], -1.0, atol=1e-3)
    assert np.all(PGD(**settings)(model, x, y, 1.0)[:, 0] > -0.2)


def starts(attack, model, x, y, magnitude):
    """Where the gradient steps start: they are too short to leave."""
    attack.steps, attack.step_size = 1, 1e-6
    return attack(model, x, y, magnitude).numpy() - x


def test_start_moves_by_the_smallest_neighbourhood_that_is_not_proven():
    x, y = np.zeros((1, 2), np.float32), np.zeros(1, int)
    settings = {"norm": "linf", "constraint": "maximum", "bounds": None, "moves": 1}
    for offset, share in [(-0.02, 1 / 30), (-0.05, 0.1), (-0.2, 0.3), (-0.4, 0.5)]:
        attack = IntervalAttack(**settings)
        moved = starts(attack, hidden_door(offset), x, y, 1.0)
        np.testing.assert_allclose(moved, [[-share, 0.0]], atol=1e-5)


def test_proven_label_leaves_the_random_start():
    # No neighbourhood of half the magnitude reaches the door.
    x, y = np.zeros((20, 2), np.float32), np.zeros(20, int)
    settings = {"norm": "l2", "bounds": None, "seed": 5}
    moved, plain = (
        starts(attack, hidden_door(-3.0), x, y, 1.0)
        for attack in (IntervalAttack(**settings), PGD(**settings))
    )
    assert np.array_equal(moved, plain)


def test_start_stays_in_the_ball_and_the_bounds():
    x, y = np.full((1, 2), 0.25, np.float32), np.zeros(1, int)
    attack = IntervalAttack(norm="linf", constraint="maximum", moves=9)
    moved = starts(attack, hidden_door(0.2), x, y, 0.5)
    np.testing.assert_allclose(moved, [[-0.25, 0.0]], atol=1e-5)


def images_and_model():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    x = np.random.default_rng(0).uniform(size=(6, 8, 8, 1)).astype(np.float32)
    return x, np.arange(6) % 3, model


@pytest.mark.parametrize("norm", NORMS)
def test_norm_is_exact_inside_the_bounds(norm):
    x, y, model = images_and_model()
    magnitudes = {"l1": [1.0, 8.0], "l2": [0.5, 2.0], "linf": [0.1, 0.3]}[norm]
    sweep = IntervalAttack(norm=norm, steps=5).sweep(model, x, y, magnitudes)
    for magnitude, moved in zip(magnitudes, sweep, strict=True):
        np.testing.assert_allclose(geometry.norm(moved - x, norm), magnitude, rtol=1e-5)
        assert np.min(moved) >= 0
        assert np.max(moved) <= 1


def test_sweep_in_graph_compiles_with_xla():
    x, y, model = images_and_model()
    attack = IntervalAttack(steps=3, moves=1)
    x, y = tf.constant(x), tf.one_hot(y, 3)

    @tf.function(autograph=False, jit_compile=True)
    def compiled(magnitudes):
        return attack.sweep_in_graph(model, x, y, magnitudes, tf.constant([0, 1]))

    for moved, magnitude in zip(compiled(tf.constant([0.5, 2.0])), [0.5, 2.0], strict=True):
        np.testing.assert_allclose(geometry.norm(moved - x, "l2"), magnitude, rtol=1e-5)


def test_settings_make_an_equal_attack():
    attack = IntervalAttack(moves=2, norm="l1", steps=3, seed=1)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(attack)))
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.get_config() == attack.get_config()
    assert (copy.moves, copy.steps) == (2, 3)


def test_bad_settings_and_classifiers_are_refused():
    with pytest.raises(ValueError, match="`moves` must be"):
        IntervalAttack(moves=0)
    with pytest.raises(ValueError, match="sequential or functional Keras model"):
        IntervalAttack(bounds=None)(lambda x: x, np.zeros((1, 2)), np.array([0]), 1.0)
