import warnings

import keras
import numpy as np
import pytest

import lexirobust as lr
from lexirobust.callbacks import AttackCheck
from tests.training.by_hand import compiled, weights

CIRCLE = lr.datasets.circle_and_line(60, seed=0)


def model_of(attack, kind=lr.AdversarialTraining, magnitude=2.0):
    layers = [keras.Input((2,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(2)]
    return compiled(kind(keras.Sequential(layers), attack, magnitude), rate=0.05, run_eagerly=True)


class Idle(lr.attacks.PGD):
    """Says that it attacks."""

    def perturb(self, classifier, x, y, magnitude, seed, initial_perturbation=None):
        return x


def fitted(model, *callbacks):
    return model.fit(*CIRCLE, batch_size=60, epochs=3, verbose=0, callbacks=[*callbacks]).history


@pytest.mark.parametrize("steps", [pytest.param(1, marks=pytest.mark.release), 10])
def test_a_sound_attack_is_not_warned_of_and_training_is_the_same(steps):
    models = []
    for checked in (False, True):
        keras.utils.set_random_seed(0)
        model = model_of(lr.attacks.PGD(norm="l2", steps=3, bounds=None))
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "The attack that trains")
            logs = fitted(model, *([AttackCheck(*CIRCLE, steps=steps)] if checked else []))
        models.append(model)
    np.testing.assert_array_equal(*map(weights, models))
    fresh = lr.attacks.PGD(norm="l2", steps=max(steps, 3), bounds=None, seed=0)
    curve = lr.evaluate_robustness(model.classifier, *CIRCLE, fresh, [2.0])
    assert logs["fresh_accuracy@l2=2"][-1] == curve.accuracy[0]


def test_an_attack_that_does_nothing_is_told_of_once():
    idle = Idle(norm="l2", steps=3, bounds=None)
    check = AttackCheck(*CIRCLE)
    check._attacked = lambda: {"l2=2": (lr.attacks.PGD(norm="l2", steps=3, bounds=None), 8.0)}
    for _ in range(2):  # Once in each training.
        keras.utils.set_random_seed(0)
        model = model_of(idle)
        with pytest.warns(UserWarning, match="The attack that trains is weaker") as told:
            fitted(model, check)
        assert sum("weaker than it looks" in str(each.message) for each in told) == 1


@pytest.mark.parametrize(
    "attack",
    [
        lr.attacks.FGSM("l2", bounds=None),
        lr.attacks.BIM("l2", steps=30, bounds=None),
        lr.attacks.PGD("l2", steps=2, random_start=False, bounds=None),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_the_check_starts_at_random_and_takes_no_fewer_steps(attack):
    model = model_of(attack)
    logs = model.fit(
        *CIRCLE, batch_size=60, verbose=0, callbacks=[AttackCheck(*CIRCLE, steps=8)]
    ).history
    steps = max(attack.steps, 8)
    fresh = lr.attacks.PGD(norm="l2", steps=steps, bounds=None, seed=0)
    curve = lr.evaluate_robustness(model.classifier, *CIRCLE, fresh, [2.0], checks=False)
    assert logs["fresh_accuracy@l2=2"] == [curve.accuracy[0]]


def test_every_rank_is_checked():
    attack = lr.attacks.PGD(norm="linf", steps=2, bounds=None)
    logs = fitted(model_of(attack, lr.OLGRC, [0.5, 1.0]), AttackCheck(*CIRCLE, every=2))
    assert {"fresh_accuracy@linf=0_5", "fresh_accuracy@linf=1"} <= logs.keys()


@pytest.mark.parametrize(
    "make",
    [
        lambda: lr.Standard(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])),
        # Its attack does not raise the loss of the labels.
        lambda: model_of(lr.attacks.PGD(norm="l2", steps=2, bounds=None), lr.TRADES, 0.5),
    ],
    ids=["Standard", "TRADES"],
)
def test_where_nothing_is_attacked_there_is_nothing_to_check(make):
    with pytest.raises(ValueError, match="`AttackCheck` needs a model that trains by"):
        fitted(compiled(make()), AttackCheck(*CIRCLE))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="`steps` must be an integer"):
        AttackCheck(*CIRCLE, steps=0)
    with pytest.raises(ValueError, match="one label a sample"):
        AttackCheck(CIRCLE[0], CIRCLE[1][:-1])


@pytest.mark.parametrize(("x", "y"), [(9.0, 0), (0.0, 1)], ids=["outside", "no such class"])
def test_data_that_do_not_fit_are_refused_before_the_first_epoch(x, y):
    model = model_of(lr.attacks.PGD(norm="l2", steps=1, bounds=(-8.0, 8.0)))
    before = weights(model)
    check = AttackCheck(np.clip(CIRCLE[0], -8, 8) + x, CIRCLE[1] + y)
    inputs = np.clip(CIRCLE[0], -8, 8)
    with pytest.raises(ValueError, match=r"bounds|labels from 0 to 1"):
        model.fit(inputs, CIRCLE[1], verbose=0, callbacks=[check])
    np.testing.assert_array_equal(weights(model), before)
