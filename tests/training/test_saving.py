"""Saving and loading, in a process that has seen nothing of the first."""

import base64
import json
import marshal
import re
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from tests.training.by_hand import ATTACK, METHODS, ROOT, compiled, fit, network, run_python

DATA = lr.datasets.toy(20, seed=0)
# Little more than a random point: one more step is the same only if the generator came back too.
RANDOM = lr.attacks.PGD(norm="l2", steps=1, step_size=0.01, bounds=None)
LINF = lr.attacks.PGD(norm="linf", steps=1, step_size=0.01, bounds=None)
PLANE = (np.repeat(DATA[0], 2, axis=1), DATA[1])
MAKERS = {
    "standard": lr.Standard,
    "adversarial": lambda classifier: lr.AdversarialTraining(classifier, RANDOM, 2.0, alpha=0.3),
    "trades": lambda classifier: lr.TRADES(classifier, RANDOM, 2.0, beta=2.0),
    "mix": lambda classifier: lr.MixTrain(classifier, RANDOM, 2.0),
    "max": lambda classifier: lr.MultiPerturbationTraining(
        classifier, [RANDOM, LINF], [2.0, 1.0], "max", alpha=0.3
    ),
    "avg": lambda classifier: lr.MultiPerturbationTraining(
        classifier, [RANDOM, LINF], [2.0, 1.0], "avg"
    ),
    "olsrc": lambda classifier: lr.OLSRC(classifier, RANDOM, [1.0, 4.0], margin=0.1),
    "olgrc": lambda classifier: lr.OLGRC(
        classifier,
        RANDOM,
        [1.0, 4.0],
        alphas=[0.6, 0.1, 0.3],
        discriminator_optimizer=keras.optimizers.SGD(0.3, momentum=0.5),
    ),
    "ranked": lambda classifier: lr.LexicographicModel(
        classifier,
        [
            lr.objectives.WeightedSum(
                [lr.objectives.Natural(), lr.objectives.Adversarial(RANDOM, 1.0)], [1.0, 2.0]
            ),
            lr.objectives.Divergence(RANDOM, 3.0, name="far"),
        ],
    ),
}


def make(method):
    """A compiled model; the same in every process."""
    keras.utils.set_random_seed(3)
    classifier = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(8),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(2),
        ]
    )
    # Eagerly: what is saved is the same, and nothing needs tracing.
    return compiled(
        MAKERS[method](classifier),
        optimizer=keras.optimizers.Adam(0.01),
        metrics=["accuracy"],
        run_eagerly=True,
    )


def state(model):
    """Everything that a model holds besides its metrics."""
    metrics = {id(v) for metric in model.metrics for v in metric.variables}
    variables = [v for v in model.variables if id(v) not in metrics]
    assert any(v is model.seed_generator.state for v in variables)
    variables += model.optimizer.variables
    if isinstance(model, lr.OLGRC):
        variables += model.discriminator_optimizer.variables
    return {f"{index}": v.numpy() for index, v in enumerate(variables)}


def resume(folder):
    """What the other process does: loads each model twice, and takes one more step with one."""
    for method in MAKERS:
        whole = keras.models.load_model(folder / f"{method}.keras")
        weights_only = make(method)
        weights_only.seed_generator.state.assign([5, 5])
        weights_only.load_weights(folder / f"{method}.weights.h5")
        np.savez(folder / f"{method}-weights.npz", **state(weights_only))
        np.savez(folder / f"{method}-loaded.npz", **state(whole))
        predictions = np.asarray(whole(PLANE[0]))
        logs = fit(whole, *PLANE)
        np.savez(folder / f"{method}-after.npz", predictions=predictions, **state(whole))
        (folder / f"{method}.json").write_text(
            json.dumps({"logs": logs, "type": type(whole).__name__})
        )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Trains and saves with every method here, then resumes there."""
    folder = tmp_path_factory.mktemp("saved")
    expected = {}
    for method in MAKERS:
        model = make(method)
        fit(model, *PLANE, epochs=2)
        model.save(folder / f"{method}.keras")
        model.save_weights(folder / f"{method}.weights.h5")
        before, predictions = state(model), np.asarray(model(PLANE[0]))
        logs = fit(model, *PLANE)
        expected[method] = (type(model).__name__, before, predictions, logs, state(model))
    code = (
        "import pathlib, sys; from tests.training.test_saving import resume; "
        "resume(pathlib.Path(sys.argv[1]))"
    )
    finished = run_python("-c", code, folder)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return folder, expected


@pytest.mark.release
@pytest.mark.parametrize("method", MAKERS)
def test_another_process_goes_on_where_this_one_stopped(saved, method):
    folder, expected = saved
    name, before, predictions, logs, after = expected[method]
    record = json.loads((folder / f"{method}.json").read_text())
    restored = dict(np.load(folder / f"{method}-weights.npz"))
    loaded = dict(np.load(folder / f"{method}-loaded.npz"))
    stepped = dict(np.load(folder / f"{method}-after.npz"))
    assert record["type"] == name
    assert np.allclose(stepped.pop("predictions"), predictions, atol=1e-6)
    assert restored.keys() == loaded.keys() == before.keys() == stepped.keys() == after.keys()
    assert all(np.array_equal(loaded[key], before[key]) for key in before)
    assert all(np.array_equal(restored[key], before[key]) for key in before)
    assert all(np.allclose(stepped[key], after[key], atol=1e-6) for key in after)
    assert any(not np.allclose(after[key], before[key], atol=1e-4) for key in after)
    assert record["logs"] == pytest.approx(logs, abs=1e-5)


def test_random_starts_differ_from_step_to_step():
    # Otherwise the test above would say nothing about the generator.
    model = make("adversarial")
    model.optimizer.learning_rate = 0.0
    losses = {float(model.test_on_batch(*PLANE, return_dict=True)["loss@l2=2"]) for _ in range(3)}
    assert len(losses) == 3


@pytest.mark.parametrize("method", METHODS)
def test_configuration_makes_an_equal_model(method):
    model = METHODS[method](network())
    again = type(model).from_config(model.get_config())
    assert json.dumps(again.get_config()) == json.dumps(model.get_config())
    assert again.alphas == model.alphas
    assert [rank.name for rank in again.objectives] == [rank.name for rank in model.objectives]
    assert not {id(v) for v in again.variables} & {id(v) for v in model.variables}


@keras.saving.register_keras_serializable(package="tests")
class Unbuilt(keras.Model):
    """Builds its layers when it is called."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.last = keras.layers.Dense(2)

    def call(self, inputs):
        return self.last(inputs)


def test_unbuilt_classifiers_are_saved_before_and_after_training(tmp_path):
    model = compiled(lr.OLSRC(Unbuilt(), ATTACK, [1.0]))
    model.save(tmp_path / "before.keras")
    early = keras.models.load_model(tmp_path / "before.keras")
    assert early.compiled
    assert int(early.optimizer.iterations) == 0
    fit(early, *DATA)
    early.save(tmp_path / "after.keras")
    late = keras.models.load_model(tmp_path / "after.keras")
    assert np.allclose(late(DATA[0]), early(DATA[0]), atol=1e-6)
    fit(late, *DATA)
    assert int(late.optimizer.iterations) == 2


def test_exported_model_gives_the_logits(tmp_path):
    model = compiled(METHODS["olgrc"](network(keras.layers.Dropout(0.5))))
    fit(model, *DATA)
    logits = model.classifier(DATA[0])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for number, exported in enumerate((model, loaded)):
        exported.export(tmp_path / f"{number}", verbose=False)
        served = tf.saved_model.load(tmp_path / f"{number}")
        assert np.allclose(served.serve(DATA[0]), logits, atol=1e-6)


def test_a_model_that_knows_no_shape_is_not_exported(tmp_path):
    model = compiled(lr.Standard(Unbuilt()))
    with pytest.raises(ValueError, match="built"):
        model.export(tmp_path / "1", verbose=False)


@pytest.fixture(scope="module")
def parts_of_file(tmp_path_factory):
    """A saved model: the file, and what it holds by name."""
    path = tmp_path_factory.mktemp("whole") / "model.keras"
    make("olgrc").save(path)
    with zipfile.ZipFile(path) as archive:
        return path.read_bytes(), {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_refused(parts_of_file, share, tmp_path):
    whole, _ = parts_of_file
    path = tmp_path / "model.keras"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"accessible `\.keras` zip file"):
        keras.models.load_model(path)


@pytest.mark.parametrize("name", ["config.json", "model.weights.h5"])
def test_a_byte_that_was_changed_is_noticed(parts_of_file, name, tmp_path):
    whole, files = parts_of_file
    changed = bytearray(whole)
    # Stored as they are: the file's bytes can be found.
    changed[whole.index(files[name][:64]) + 32] ^= 255
    path = tmp_path / "model.keras"
    path.write_bytes(changed)
    # Keras 3.13 and 3.14 leave what is wrong with the weights to h5py.
    with pytest.raises((zipfile.BadZipFile, OSError), match=f"{name}|superblock"):
        keras.models.load_model(path)


@pytest.mark.parametrize("ending", ["h5", "hdf5"])
def test_what_keras_could_not_load_is_not_saved(ending, tmp_path):
    path = tmp_path / f"model.{ending}"
    with pytest.raises(ValueError, match=r"must end in \.keras"):
        make("olsrc").save(path)
    assert not path.exists()


@pytest.mark.parametrize("place", ["attack", "classifier", "loss"])
def test_code_in_a_file_is_not_run(parts_of_file, place, tmp_path):
    _, files = parts_of_file
    config = json.loads(files["config.json"])
    # What Keras would make a function of, outside of its safe mode.
    code = marshal.dumps(compile("open(MARK, 'w')", "x", "eval"))
    hostile = {
        "class_name": "__lambda__",
        "config": {"value": base64.b64encode(code).decode(), "defaults": None, "closure": None},
    }
    where = config["compile_config"] if place == "loss" else config["config"]
    where[place] = hostile
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**files, "config.json": json.dumps(config)}.items():
            archive.writestr(name, content)
    with pytest.raises((ValueError, TypeError), match=r"lambda|deserialized"):
        keras.models.load_model(path)


def test_no_lambda_and_no_pickle_is_in_the_package():
    code = "\n".join(path.read_text() for path in (ROOT / "lexirobust").rglob("*.py"))
    assert "enable_unsafe_deserialization" not in code
    assert "safe_mode=False" not in code
    assert not re.search(r"^\s*(import|from) (pickle|marshal|dill|joblib)", code, re.MULTILINE)
    assert "layers.Lambda" not in code


def test_a_loaded_model_draws_what_the_saved_one_would_have_drawn(tmp_path):
    model = make("olsrc")
    fit(model, *PLANE, epochs=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    drawn = [np.asarray(each.seed_generator.next()) for each in (model, loaded, make("olsrc"))]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_objectives_share_their_attacks_after_loading_as_before(tmp_path):
    """Those that share one are perturbed in one sweep, with one draw of random numbers."""
    one, other = RANDOM, lr.attacks.PGD.from_config(RANDOM.get_config())
    model = compiled(
        lr.LexicographicModel(
            network(),
            [
                lr.objectives.Natural(),
                lr.objectives.Adversarial(one, 1.0),
                lr.objectives.WeightedSum(
                    [lr.objectives.Adversarial(other, 2.0), lr.objectives.Adversarial(one, 3.0)],
                    [0.5, 0.5],
                ),
            ],
        )
    )
    model.train_on_batch(*DATA)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    model.reset_metrics()  # Not every release of Keras does so by itself.
    attacks = [term.attack for rank in loaded.objectives[1:] for _, term in rank.terms]
    assert attacks[0] is attacks[2] is not attacks[1]
    # And what comes of the next step is the same.
    logs, again = (
        {name: float(value) for name, value in each.train_on_batch(*DATA, return_dict=True).items()}
        for each in (model, loaded)
    )
    assert again == pytest.approx(logs, rel=1e-5)
