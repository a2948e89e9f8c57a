"""Each flag is raised by a model or an attack broken on purpose, and not by a sound one."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from lexirobust.attacks import FGSM, PGD, AutoAttack, GuidedPGD, HopSkipJump, Spatial, Square
from lexirobust.evaluation.scale_flags import in_reach, of_another_scale

WEIGHTS = np.array([[1.0, -1.0], [0.5, -0.5], [-0.25, 0.25]], np.float32)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)).astype(np.float32)
Y = np.argmax(X @ WEIGHTS, axis=-1)
SOUND = PGD("l2", steps=10, bounds=None, seed=0)
SHORT = PGD(
    "l2", steps=1, step_size=0.3, constraint="maximum", bounds=None, random_start=False, seed=0
)


def linear(x):
    return x @ tf.constant(WEIGHTS)


def noisy(x):
    return linear(x) + tf.random.normal((1, 2), stddev=0.1)


def without_gradient(x):
    return tf.stop_gradient(linear(x))


def wall(x):
    """Falls to a dip that is still right, rises again, and is wrong beyond."""
    side = tf.where(x >= 0, 1.0, -1.0)
    away = 4.0 - tf.abs(x)
    margin = tf.where(away < 1, 1.0 - 0.5 * away, tf.where(away < 2, 0.5 * away, -1.0))
    return tf.concat([-side * margin, side * margin], axis=-1)


def names(classifier, attack=SOUND, magnitudes=(0.0, 0.7), x=X, y=Y):
    curve = lr.evaluate_robustness(classifier, x, y, attack, magnitudes)
    for flag in curve.flags:
        assert flag.message.endswith(".")
        assert flag.advice.endswith(".")
    return [flag.name for flag in curve.flags]


def normalized():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    )
    model.layers[1].set_weights([WEIGHTS, np.zeros(2)])
    return model


@pytest.mark.parametrize(
    ("norm", "constraint", "bounds"),
    [
        ("l1", "exact", None),
        ("linf", "maximum", (-6.0, 6.0)),
        *(
            pytest.param(*case, marks=pytest.mark.release)
            for case in [
                ("l1", "maximum", (-6.0, 6.0)),
                ("l2", "exact", (-6.0, 6.0)),
                ("l2", "maximum", None),
                ("linf", "exact", None),
            ]
        ),
    ],
)
def test_a_sound_model_under_a_sound_attack_raises_none(norm, constraint, bounds):
    attack = PGD(norm, steps=20, restarts=2, constraint=constraint, bounds=bounds, seed=0)
    assert names(linear, attack, (0.0, 0.5, 0.7)) == []


def test_a_sound_keras_model_raises_none():
    assert names(normalized()) == []


def test_several_attacks_are_judged_by_the_worst_of_them():
    assert "one step is stronger" in names(linear, SHORT)
    assert names(linear, [SHORT, SOUND]) == []


def test_attacks_inside_a_region_do_not_cover_for_those_that_are_free():
    guided = GuidedPGD(lambda x, magnitude: x[:, 0], norm="l2", steps=1, bounds=None, seed=0)
    assert names(linear, guided) == []
    assert "one step is stronger" in names(linear, [SHORT, guided])


@pytest.mark.release  # Its stages take a while to trace.
def test_auto_attack_is_sound():
    assert names(linear, AutoAttack("l2", bounds=None, steps=10, max_queries=20, seed=0)) == []


def test_auto_attack_is_held_to_chance_too():
    attack = AutoAttack("l2", bounds=None, steps=5, max_queries=10, seed=0)

    def always_0(x):
        return 0.0 * linear(x) + [1.0, 0.0]

    assert "not at chance" in names(always_0, attack, y=np.zeros_like(Y))


def test_attacks_without_gradients_are_not_asked_for_them():
    search = Square("l2", max_queries=200, bounds=None, seed=0)
    decisions = HopSkipJump("l2", steps=5, gradient_queries=20, bounds=None, seed=0)
    for attack in (search, decisions):
        assert not {"no gradients", "one step is stronger"} & {*names(without_gradient, attack)}


def test_flag_names_the_attack_and_the_share_of_what_resists():
    curve = lr.evaluate_robustness(linear, X, Y, SHORT, [0.7])
    resists, moved = (
        curve.correct[0],
        FGSM("l2", constraint="maximum", bounds=None)(linear, X, Y, 0.7),
    )
    broken = resists & (np.argmax(linear(moved), axis=1) != Y)
    (flag,) = [flag for flag in curve.flags if flag.name == "one step is stronger"]
    assert 0.1 < resists.mean() < 1
    assert (
        f"breaks {broken.sum() / resists.sum():.0%} of the samples that resist PGD" in flag.message
    )


def test_probabilities_are_flagged():
    with pytest.warns(UserWarning, match="probabilities"):
        assert "probabilities" in names(lambda x: tf.nn.softmax(linear(x)))


def test_randomness_is_flagged_and_not_attacked_further():
    with pytest.warns(UserWarning, match="randomized"):
        assert names(noisy)[0] == "randomized"


def test_batch_normalization_in_training_mode_is_flagged():
    model = normalized()
    assert "batch-dependent" in names(lambda x: model(x, training=True))


def test_hidden_gradients_are_flagged_and_what_comes_of_them():
    attack = PGD("l2", steps=5, constraint="maximum", bounds=None, random_start=False)
    found = names(without_gradient, attack)
    assert found[:4] == [
        "no gradients",
        "not at chance",
        "noise is stronger",
        "search is stronger",
    ]


def test_a_step_over_a_wall_is_flagged():
    x = np.linspace(3.6, 3.9, 20, dtype=np.float32)[:, None] * np.array([[-1], [1]])[
        np.arange(20) % 2
    ].astype(np.float32)
    y = (x[:, 0] > 0).astype(int)
    creeping = PGD(
        "linf", steps=5, step_size=0.2, constraint="maximum", bounds=None, random_start=False
    )
    assert "one step is stronger" in names(wall, creeping, (2.5,), x, y)
    assert "one step is stronger" not in names(wall, SOUND, (2.5,), x, y)


@pytest.mark.parametrize("setting", ["steps", "restarts"])
def test_an_attack_that_gains_by_more_effort_is_flagged(setting):
    if setting == "steps":
        attack = PGD("l2", steps=2, step_size=0.1, constraint="maximum", bounds=None, seed=0)
        assert "attack too weak" in names(linear, attack)
        return

    def dented(x):  # One side of each sample has a hole that only a start near it finds.
        return tf.concat([tf.zeros_like(x), tf.where(x > 5.2, -1.0, 1.0)], axis=-1)

    x = np.full((40, 1), 4.5, np.float32)
    attack = PGD("linf", steps=1, constraint="exact", bounds=None, seed=0)
    # An exact norm in one dimension: one of two points, and a start takes one of them.
    assert "attack too weak" in names(dented, attack, (1.0,), x, np.ones(40, int))


def test_exact_norms_that_the_box_has_no_room_for_are_flagged():
    attack = PGD("l2", steps=3, bounds=(-6.0, 6.0), seed=0)
    curve = lr.evaluate_robustness(linear, X, Y, attack, [0.5, 30.0])
    (flag,) = [flag for flag in curve.flags if flag.name == "exact norms out of reach"]
    assert "100.0% at 30" in flag.message
    within = PGD("l2", steps=3, constraint="maximum", bounds=(-6.0, 6.0), seed=0)
    assert "exact norms out of reach" not in names(linear, within, (0.5, 30.0))


def test_norms_by_which_every_input_is_in_reach_are_flagged_where_less_is_allowed():
    """Their accuracy is 0, as that of 8 / 255 may be: nothing else tells them apart."""
    attack = PGD("l2", steps=3, constraint="maximum", bounds=(-6.0, 6.0), seed=0)
    curve = lr.evaluate_robustness(linear, X, Y, attack, [0.5, 30.0])
    (flag,) = [flag for flag in curve.flags if flag.name == "every input in reach"]
    assert "norm of 30 is more than the 20.7846 between" in flag.message  # 12 times the root of 3.
    assert "every input in reach" not in names(linear, attack, (0.5, 20.0))


@pytest.mark.parametrize(
    ("attack", "largest", "flagged"),
    [
        (AutoAttack("linf"), 8.0, True),
        (AutoAttack("linf"), 1.0, False),
        (AutoAttack("linf", bounds=(0.0, 255.0)), 8.0, False),
        (AutoAttack("linf", bounds=None), 8.0, False),
        (AutoAttack("l1"), 12.5, True),
        (AutoAttack("l1"), 12.0, False),
        (Spatial(), 8.0, False),
    ],
)
def test_what_is_in_reach_goes_by_norm_and_bounds(attack, largest, flagged):
    assert (in_reach(largest, (2, 3, 2), [attack]) is not None) is flagged


@pytest.mark.parametrize(
    ("norm", "largest", "bounds", "flagged"),
    [
        ("linf", 8 / 255, (0.0, 255.0), True),
        ("l2", 1.0, (0.0, 255.0), True),
        ("linf", 0.3, (0.0, 255.0), True),
        ("linf", 0.5, (0.0, 255.0), False),
        ("linf", 0.5 / 255, (0.0, 1.0), False),
        ("l2", 0.01, (0.0, 1.0), False),
        ("linf", 1e-9, None, False),
    ],
)
def test_magnitudes_in_other_units_than_the_inputs_are_flagged(norm, largest, bounds, flagged):
    attack = PGD(norm, steps=1, bounds=bounds, seed=0)
    span = bounds or (0.0, 1.0)
    found = [flag.name for flag in of_another_scale(*span, largest, [attack])]
    assert found == ["magnitudes next to nothing"] * flagged


def test_the_largest_magnitude_is_what_is_held_against_the_bounds():
    x = (X - X.min()) / np.ptp(X) * 255
    attack = PGD("linf", steps=1, bounds=(0.0, 255.0), seed=0)
    for largest, flagged in ((8 / 255, True), (8.0, False)):
        found = names(linear, attack, (0.0, largest / 2, largest), x, np.zeros(40, int))
        assert ("magnitudes next to nothing" in found) == flagged
        assert "inputs of another scale" not in found


def test_inputs_that_were_scaled_where_bounds_were_not_are_flagged():
    x = (X - X.min()) / np.ptp(X)
    attack = PGD("linf", steps=1, bounds=(0, 255), seed=0)
    found = names(linear, attack, (0.0, 8.0), x, np.zeros(40, int))
    assert "inputs of another scale" in found
    assert "magnitudes next to nothing" not in found


def test_clean_accuracy_alone_is_not_attacked():
    assert names(without_gradient, magnitudes=(0.0,)) == ["no gradients"]


def test_checks_can_be_left_out():
    curve = lr.evaluate_robustness(without_gradient, X, Y, SOUND, [0.5], checks=False)
    assert curve.flags == ()


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        (
            FGSM("l2", bounds=None),
            ["no gradients", "not at chance", "noise is stronger", "search is stronger"],
        ),
        # Where the loss falls, other attacks say nothing; a search asks for no gradients.
        (PGD("l2", goal="minimize", bounds=None), ["no gradients"]),
        (Spatial(), []),
    ],
    ids=["FGSM", "PGD that minimizes", "Spatial"],
)
def test_any_attack_can_be_checked(attack, expected):
    given = {"magnitudes": (1.0,)}
    classifier = linear
    if isinstance(attack, Spatial):
        given |= {"x": RNG.uniform(size=(8, 5, 5, 1)).astype(np.float32), "y": np.arange(8) % 2}
        layers = [keras.layers.Flatten(), keras.layers.Dense(2)]
        classifier = keras.Sequential([keras.Input((5, 5, 1)), *layers])
    assert names(classifier, attack, **given) == []
    assert names(lambda x: tf.stop_gradient(classifier(x)), attack, **given) == expected
