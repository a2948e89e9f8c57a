import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from lexirobust.attacks import PGD, IntervalAttack
from tests.attacks.linear import DUAL, WEIGHTS, moved_by, points

NORMS = ["l1", "l2", "linf"]


def two_classes():
    """That of linear.py as a Keras model, whose bounds are known."""
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2, use_bias=False)])
    model.set_weights([np.stack([np.zeros(5), WEIGHTS], axis=1)])
    return model


@pytest.mark.parametrize(
    ("norm", "goal", "constraint"),
    [
        ("l1", "maximize", "exact"),
        ("l2", "minimize", "maximum"),
        ("l2", "maximize", "exact"),
        ("linf", "minimize", "maximum"),
    ],
)
def test_worst_point_of_a_linear_classifier_is_found(norm, goal, constraint):
    x, y = points()
    settings = {"norm": norm, "goal": goal, "constraint": constraint, "bounds": None}
    moved = IntervalAttack(**settings)(two_classes(), x, y, 1.5).numpy()
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
    settings = {"norm": norm, "goal": goal, "bounds": None, "random_start": False, "steps": 3}
    # For l1 the largest box reaches a quarter of the magnitude to every side.
    model = hidden_door(-0.2)
    moved = moved_by(IntervalAttack(**settings), model, x, y, 1.0)
    np.testing.assert_allclose(moved[:, 0], -1.0, atol=1e-3)
    assert np.all(moved_by(PGD(**settings), model, x, y, 1.0)[:, 0] > -0.2)


def starts(attack, model, x, y, magnitude):
    """Where the gradient steps start: they are too short to leave."""
    attack.steps, attack.step_size = 1, 1e-6
    return moved_by(attack, model, x, y, magnitude) - x


def test_start_moves_by_the_smallest_neighborhood_that_is_not_proven():
    x, y = np.zeros((1, 2), np.float32), np.zeros(1, int)
    settings = {"norm": "linf", "constraint": "maximum", "bounds": None, "moves": 1}
    for offset, share in [(-0.02, 1 / 30), (-0.05, 0.1), (-0.2, 0.3), (-0.4, 0.5)]:
        attack = IntervalAttack(**settings)
        moved = starts(attack, hidden_door(offset), x, y, 1.0)
        np.testing.assert_allclose(moved, [[-share, 0.0]], atol=1e-5)


def test_proven_label_leaves_the_random_start():
    # No neighborhood of half the magnitude reaches the door.
    x, y = np.zeros((20, 2), np.float32), np.zeros(20, int)
    settings = {"norm": "l2", "bounds": None}
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


def test_compiled_by_xla_the_interval_gradient_is_the_same():
    x, y, model = images_and_model()
    attack, x, y = IntervalAttack(bounds=(0.0, 1.0)), tf.constant(x), tf.one_hot(y, 3)
    radius = tf.fill((6, 1, 1, 1), 0.05)
    gain = tf.function(lambda: attack._gain(model, x, y, radius), jit_compile=True, autograph=False)
    for ours, theirs in zip(attack._gain(model, x, y, radius), gain(), strict=True):
        np.testing.assert_allclose(
            tf.cast(theirs, tf.float32), tf.cast(ours, tf.float32), rtol=1e-4, atol=1e-5
        )


def test_classifiers_without_known_bounds_are_refused():
    with pytest.raises(ValueError, match="sequential or functional Keras model"):
        IntervalAttack(bounds=None)(lambda x: x, np.zeros((1, 2)), np.array([0]), 1.0)


def test_models_of_this_package_are_known_by_their_classifiers():
    classifier = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    attack = lr.attacks.IntervalAttack(norm="linf", bounds=None, seed=0, steps=2)
    x, y = np.ones((4, 3), np.float32), np.zeros(4, int)
    of_both = [attack(model, x, y, 0.1) for model in (classifier, lr.Standard(classifier))]
    np.testing.assert_array_equal(*of_both)


def test_layers_without_bounds_are_refused_before_training():
    classifier = keras.Sequential([keras.Input((3,)), keras.layers.LayerNormalization()])
    attack = lr.attacks.IntervalAttack(norm="linf", bounds=None)
    model = lr.AdversarialTraining(classifier, attack, 0.1)
    with pytest.raises(ValueError, match="must be made of layers with known bounds"):
        model.compile("sgd")
