"""What the bar of `fit` shows, as a terminal gets it."""

import re

import keras
import pytest

import lexirobust as lr
from tests.training.by_hand import ATTACK, compiled, network

X, Y = lr.datasets.toy(20, seed=0)
SHOWN = ["accuracy@l2=4", "accuracy@natural", "loss", "loss@l2=4", "loss@natural", "min_cosine"]


def printed(capsys, model=None, metrics=None, **options):
    """The names of the numbers in the last line, and the history."""
    if model is None:
        model = lr.OLSRC(network(), ATTACK, [4.0], memory=lr.RunningMean())
    compiled(model, metrics=metrics)
    capsys.readouterr()
    history = model.fit(X, Y, batch_size=10, **options).history
    out = re.sub(r"\x1b\[[0-9;]*m|\x08", "", capsys.readouterr().out)
    return sorted(re.findall(r" - (\S+): ", out.strip().splitlines()[-1])) if out else [], history


@pytest.mark.parametrize("verbose", [1, 2, "auto"])
def test_what_only_looks_into_a_step_is_in_the_history_alone(capsys, verbose):
    names, history = printed(capsys, verbose=verbose)
    assert names == SHOWN
    assert {"step_cosine@natural", "memory_step_cosine@l2=4"} <= history.keys()


def test_validation_is_shown_and_nothing_twice(capsys):
    names, history = printed(capsys, metrics=["accuracy"], validation_data=(X, Y), verbose=2)
    assert "val_accuracy" in names
    assert "val_loss@l2=4" in names
    assert "accuracy" in names
    assert not {"accuracy@natural", "val_accuracy@natural"} & {*names}
    assert history["val_accuracy"] == history["val_accuracy@natural"]


def test_details_are_shown_where_they_are_asked_for(capsys):
    model = lr.OLSRC(network(), ATTACK, [4.0], detailed_logs=True)
    names, history = printed(capsys, model, verbose=2)
    assert names == sorted(history)


def test_nothing_is_printed_where_nothing_is_wanted(capsys):
    assert printed(capsys, verbose=0)[0] == []


def test_a_bar_of_the_users_own_stays(capsys):
    names, history = printed(capsys, verbose=2, callbacks=[keras.callbacks.ProgbarLogger()])
    assert names == sorted(history)


def test_numbers_of_other_callbacks_are_shown(capsys):
    watch = lr.callbacks.RobustnessCurve(X, Y, ATTACK, [0.0, 1.0])
    names, _ = printed(capsys, metrics=["accuracy"], verbose=2, callbacks=watch)
    shown = [name.removesuffix("@natural") if "accuracy" in name else name for name in SHOWN]
    assert names == sorted([*shown, "val_accuracy@l2=1", "val_accuracy@natural"])
