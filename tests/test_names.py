"""What logs call things must survive format strings."""

import keras
import pytest

import lexirobust as lr
from lexirobust.names import magnitude_name
from tests.training.by_hand import ATTACK, compiled, right_network

X, Y = lr.datasets.toy(20, seed=0)


@pytest.mark.parametrize("magnitude", [1e-5, 1.5e-5, 8 / 255, 0.1, 1.0, 2.5, 1e6])
@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_magnitudes_can_be_formatted(norm, magnitude):
    name = lr.objectives.Adversarial(lr.attacks.PGD(norm=norm), magnitude).name
    assert name == magnitude_name(norm, magnitude)
    assert f"{{val_accuracy@{name}:.2f}}".format(**{f"val_accuracy@{name}": 0.5}) == "0.50"


@pytest.mark.parametrize("character", ".[]{}:!")
def test_objectives_have_no_names_that_formats_cannot_hold(character):
    name = f"a{character}b"
    for make in (
        lr.objectives.Natural,
        lr.objectives.Output,
        lr.objectives.Regularization,
        lambda name: lr.objectives.Adversarial(ATTACK, 1.0, name),
        lambda name: lr.objectives.Divergence(ATTACK, 1.0, name),
    ):
        with pytest.raises(ValueError, match="`name` must not hold"):
            make(name)


def test_models_are_saved_and_stopped_by_accuracies(tmp_path):
    model = compiled(lr.OLSRC(right_network(), ATTACK, [0.1]), rate=0.0)
    path = str(tmp_path / "{val_accuracy@l2=0_1:.2f}.weights.h5")
    save = keras.callbacks.ModelCheckpoint(
        path, "val_accuracy@l2=0_1", save_best_only=True, save_weights_only=True, mode="max"
    )
    stop = keras.callbacks.EarlyStopping("val_accuracy@l2=0_1", mode="max", patience=2)
    history = model.fit(
        X, Y, validation_data=(X, Y), epochs=9, verbose=0, callbacks=[save, stop]
    ).history
    assert len(history["loss"]) == 3
    (saved,) = tmp_path.iterdir()
    assert saved.name == f"{history['val_accuracy@l2=0_1'][0]:.2f}.weights.h5"
