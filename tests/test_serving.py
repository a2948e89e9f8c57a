"""What is taken out serves where neither this package nor Keras is."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from tests.training.by_hand import run_python

X = np.random.default_rng(0).uniform(size=(6, 4, 4, 1)).astype(np.float32)
Y = np.array([0, 1, 2, 0, 1, 2])
# What a stranger's process does: it prints, as JSON, what each signature gives.
STRANGER = """
import json, sys

class Without:
    # A finder to which some packages are not installed.

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *where):
        hidden = name.split(".")[0] in ("keras", "lexirobust", "tf_keras")
        return None if hidden else self.finder.find_spec(name, *where)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Without, sys.meta_path)
import numpy as np
import tensorflow as tf

served = tf.saved_model.load(sys.argv[1])
x, y = np.load(sys.argv[2]), np.load(sys.argv[3])

def example(row):
    floats = tf.train.FloatList(value=row.ravel())
    feature = {"inputs": tf.train.Feature(float_list=floats)}
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()

asked = {
    "serving_default": {"inputs": tf.constant(x)},
    "serve_examples": {"examples": tf.constant([example(row) for row in x])},
    "explored": {"inputs": tf.constant(x)},
    "perturb": {
        "inputs": tf.constant(x), "labels": tf.constant(y), "magnitude": tf.constant(0.5)
    },
}
given = {name: served.signatures[name](**inputs) for name, inputs in asked.items()}

def moved(x, y):
    sizes = tf.range(1.0, 1.0 + tf.cast(tf.shape(x)[0], tf.float32)) / 10
    return served.perturb(x, y, sizes)["perturbed"]

pipeline = tf.data.Dataset.from_tensor_slices((x, y)).batch(3).map(moved).prefetch(1)
given["pipeline"] = {"perturbed": tf.concat(list(pipeline), axis=0)}
assert not {"keras", "lexirobust"} & {name.split(".")[0] for name in sys.modules}
print(json.dumps({n: {k: v.numpy().tolist() for k, v in g.items()} for n, g in given.items()}))
"""


def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3),
        ]
    )


def attack(**settings):
    return lr.attacks.PGD("l2", steps=3, restarts=2, **settings)


@pytest.fixture(scope="module")
def olgrc():
    return lr.OLGRC(network(), attack(), [0.5, 1.0])


# Everything that draws or scatters, where TensorFlow allows nothing that may differ.
DETERMINISTIC = """
import sys
import keras
import numpy as np
import tensorflow as tf
import lexirobust as lr

tf.config.experimental.enable_op_determinism()
keras.utils.set_random_seed(3)
x = np.random.default_rng(0).uniform(size=(6, 4, 4, 1)).astype(np.float32)
y = np.array([0, 1, 2, 0, 1, 2])
layers = [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
classifier = keras.Sequential(layers)
lr.export(classifier, sys.argv[1], lr.attacks.PGD())
served = tf.saved_model.load(sys.argv[1])
moved = [served.perturb(x, y.astype(np.int64), 0.5)["perturbed"] for _ in range(2)]
for attack in (
    lr.attacks.PGD(steps=2),
    lr.attacks.DAA(steps=2),
    lr.attacks.Square("l2", max_queries=5),
    lr.attacks.Flow(steps=2),
    lr.attacks.Spatial(rotations=3, translations=3),
):
    moved.append(attack(classifier, x, y, 0.5))
for attack in (lr.attacks.FAB(steps=2), lr.attacks.HopSkipJump(steps=2)):
    moved.append(attack(classifier, x, y).inputs)
moved.append(lr.attacks.BoundaryAttack(steps=2)(classifier, x, y).inputs)
curve = lr.evaluate_robustness(classifier, x, y, lr.attacks.PGD("linf", steps=2), [0.1])
moved += [curve.losses, curve.settings["seeds"]]
batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(3)
perturbed = lr.datasets.perturb(batches, classifier, lr.attacks.PGD(steps=2), 0.5)
moved += [part for part, _ in perturbed]
model = lr.OLSRC(classifier, lr.attacks.PGD(steps=2), [0.5])
model.compile("adam")
model.fit(x, y, verbose=0)
np.save(sys.argv[2], np.concatenate([np.ravel(each) for each in [*moved, *model.get_weights()]]))
"""


@pytest.fixture(scope="module")
def folder(olgrc, tmp_path_factory):
    """A SavedModel with all signatures."""
    folder = tmp_path_factory.mktemp("serving") / "1"
    lr.export(olgrc, folder, attack(seed=3))
    return folder


@pytest.fixture(scope="module")
def stranger(folder):
    """What a process without Keras makes of it."""
    names = [folder.parent / name for name in ("x.npy", "y.npy")]
    for name, values in zip(names, (X, Y), strict=True):
        np.save(name, values)
    code = [sys.executable, "-c", STRANGER, folder, *names]
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    finished = subprocess.run(code, capture_output=True, text=True, env=quiet, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return {
        name: {key: np.array(values) for key, values in given.items()}
        for name, given in json.loads(finished.stdout).items()
    }


@pytest.mark.parametrize("name", ["serving_default", "serve_examples"])
def test_inputs_and_examples_give_logits_and_probabilities(olgrc, stranger, name):
    logits = olgrc.classifier.predict(X, verbose=0)
    np.testing.assert_allclose(stranger[name]["logits"], logits, atol=1e-5)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = odds / odds.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(stranger[name]["probabilities"], expected, atol=1e-5)


def test_a_stranger_perturbs(olgrc, stranger):
    moved = stranger["perturb"]["perturbed"]
    np.testing.assert_allclose(np.linalg.norm((moved - X).reshape(6, -1), axis=1), 0.5, rtol=1e-5)
    assert moved.min() >= 0
    assert moved.max() <= 1
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
    before, after = (loss(Y, olgrc.classifier.predict(x, verbose=0)) for x in (X, moved))
    assert np.all(after > before)
    sizes = np.linalg.norm((stranger["pipeline"]["perturbed"] - X).reshape(6, -1), axis=1)
    np.testing.assert_allclose(sizes, [0.1, 0.2, 0.3] * 2, rtol=1e-5)


def test_the_discriminators_estimate_is_served(olgrc, stranger):
    given = stranger["explored"]
    assert given["magnitudes"].tolist() == [0.5, 1.0]
    shares = keras.ops.softmax(olgrc.discriminator.predict(X, verbose=0))
    np.testing.assert_allclose(given["explored"], np.cumsum(shares, axis=1)[:, :2], atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"inputs": X + 2}, "`inputs` must lie inside"),
        ({"inputs": np.nan * X}, "finite"),
        ({"labels": Y + 1}, "`labels` must hold labels from 0 to 2"),
        ({"magnitude": -1.0}, "at least 0"),
        ({"magnitude": np.inf}, "finite"),
    ],
)
def test_perturb_refuses_what_an_attack_would(folder, changed, message):
    perturb = tf.saved_model.load(folder).signatures["perturb"]
    given = {"inputs": X, "labels": Y, "magnitude": 0.5, **changed}
    kinds = {"inputs": tf.float32, "labels": tf.int64, "magnitude": tf.float32}
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        perturb(**{name: tf.constant(value, kinds[name]) for name, value in given.items()})


def test_an_exact_region_is_served(tmp_path):
    model = lr.OLGRC(network(), attack(), [0.5], explored="nearest")
    model.adapt(X[:3])
    model.export(tmp_path / "1", verbose=False)
    given = tf.saved_model.load(tmp_path / "1").signatures["explored"](inputs=tf.constant(X))
    far = np.linalg.norm((X[:, None] - X[:3]).reshape(6, 3, -1), axis=2).min(axis=1)
    np.testing.assert_array_equal(given["explored"][:, 0], far < 0.5)


@pytest.mark.release
def test_the_command_line_runs_it(folder, stranger, tmp_path):
    tool = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli", "run"]
    settings = ["--tag_set=serve", "--signature_def=serving_default", f"--outdir={tmp_path}"]
    inputs = f"--inputs=inputs={folder.parent / 'x.npy'}"
    finished = subprocess.run(
        [*tool, f"--dir={folder}", *settings, inputs], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    for name, expected in stranger["serving_default"].items():
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), expected, atol=1e-5)


@pytest.mark.release
def test_litert_and_openvino_agree(folder, stranger):
    """In a process of its own: neither runtime is to share TensorFlow's."""
    code = """
import json, sys
import numpy as np, openvino, tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

x = np.load(sys.argv[2])
converter = tf.lite.TFLiteConverter.from_saved_model(
    sys.argv[1], signature_keys=["serving_default"]
)
runner = Interpreter(model_content=converter.convert()).get_signature_runner("serving_default")
lite = runner(inputs=x)
# By itself it would count in half floats where the machine has them.
exactly = {"INFERENCE_PRECISION_HINT": "f32"}
compiled = openvino.compile_model(openvino.convert_model(sys.argv[1]), "CPU", exactly)
vino = compiled({"inputs": x})
names = ("logits", "probabilities")
print(json.dumps([{n: each[n].tolist() for n in names} for each in (lite, vino)]))
"""
    finished = subprocess.run(
        [sys.executable, "-c", code, folder, folder.parent / "x.npy"],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    for given in json.loads(finished.stdout.splitlines()[-1]):
        for name, expected in stranger["serving_default"].items():
            np.testing.assert_allclose(given[name], expected, atol=1e-5)


def test_a_plain_classifier_is_served_and_an_older_one_replaced(tmp_path):
    path = tmp_path / "1"
    first, second = network(), network()
    second.layers[-1].bias.assign([1.0, 2.0, 3.0])
    for classifier in (first, second):
        lr.export(classifier, path)
        served = tf.saved_model.load(path)
        assert sorted(served.signatures) == ["serve", "serve_examples", "serving_default"]
        np.testing.assert_allclose(served.serve(X), classifier.predict(X, verbose=0), atol=1e-5)
    assert [each.name for each in tmp_path.iterdir()] == ["1"]


def test_a_layer_that_is_called_classifier_is_not_the_model(tmp_path):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.flatten = keras.layers.Flatten()
            self.classifier = keras.layers.Dense(3)

        def call(self, inputs):
            return self.classifier(2.0 * self.flatten(inputs))

    model = Own()
    expected = model.predict(X, verbose=0)
    lr.export(model, tmp_path / "1")
    served = tf.saved_model.load(tmp_path / "1")
    np.testing.assert_allclose(served.serve(X), expected, atol=1e-5)


def test_an_older_one_stays_where_a_newer_cannot_take_its_place(tmp_path, monkeypatch):
    lr.export(network(), tmp_path / "1")
    move = pathlib.Path.replace

    def refuse(self, target):
        if pathlib.Path(target) == tmp_path / "1" and not self.name.endswith(".old"):
            raise PermissionError("not here")
        return move(self, target)

    monkeypatch.setattr(pathlib.Path, "replace", refuse)
    with pytest.raises(PermissionError):
        lr.export(network(), tmp_path / "1")
    assert [each.name for each in tmp_path.iterdir()] == ["1"]
    assert (tmp_path / "1" / "saved_model.pb").exists()


def test_half_floats_give_whole_logits(tmp_path):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        classifier = network()
    finally:
        keras.mixed_precision.set_global_policy("float32")
    lr.export(classifier, tmp_path / "1")
    given = tf.saved_model.load(tmp_path / "1").signatures["serving_default"](tf.constant(X))
    assert given["logits"].dtype == tf.float32
    np.testing.assert_allclose(given["logits"], classifier.predict(X, verbose=0), atol=0.02)


def test_pixels_are_taken_as_they_are_stored(olgrc, tmp_path):
    attack = lr.attacks.PGD("linf", steps=1, bounds=None, random_start=False)
    lr.export(olgrc, tmp_path / "1", attack, dtype="uint8")
    signatures = tf.saved_model.load(tmp_path / "1").signatures
    pixels = np.random.default_rng(0).integers(0, 256, X.shape).astype(np.uint8)
    logits = olgrc.classifier.predict(pixels.astype(np.float32), verbose=0)
    given = signatures["serving_default"](inputs=tf.constant(pixels))["logits"]
    np.testing.assert_allclose(given, logits, rtol=1e-5, atol=1e-3)
    assert signatures["explored"](inputs=tf.constant(pixels))["explored"].shape == (len(X), 2)
    moved = signatures["perturb"](
        inputs=tf.constant(pixels), labels=tf.constant(Y, tf.int64), magnitude=tf.constant(2.0)
    )["perturbed"]
    np.testing.assert_allclose(np.abs(moved - pixels.astype(np.float32)).max(), 2.0, atol=1e-4)


@pytest.mark.release
def test_auto_attack_is_served(tmp_path):
    """A linear classifier is broken where the magnitude reaches its boundary."""
    keras.utils.set_random_seed(0)
    classifier = keras.Sequential([keras.Input((8,)), keras.layers.Dense(5)])
    x = np.random.default_rng(0).uniform(size=(6, 8)).astype(np.float32)
    y = classifier(x).numpy().argmax(axis=1)
    attack = lr.attacks.AutoAttack("l2", steps=5, max_queries=20, bounds=None)
    lr.export(classifier, tmp_path / "1", attack)
    perturb = tf.saved_model.load(tmp_path / "1").signatures["perturb"]
    logits, kernel = classifier(x).numpy(), classifier.get_weights()[0].T
    apart = logits[np.arange(6), y][:, None] - logits
    steepness = np.linalg.norm(kernel[y][:, None] - kernel, axis=-1)
    distance = np.divide(apart, steepness, out=np.full_like(apart, np.inf), where=steepness > 0)
    for share, broken in ((0.95, False), (1.05, True)):
        given = perturb(
            inputs=tf.constant(x),
            labels=tf.constant(y),
            magnitude=tf.constant(share * distance.min(axis=1), tf.float32),
        )["perturbed"]
        assert ((classifier(given).numpy().argmax(axis=1) != y) == broken).all()


@pytest.fixture
def logged():
    """What TensorFlow logs, at the level that it has in a notebook."""
    messages = []
    logger, note = tf.get_logger(), lambda record: messages.append(record.getMessage())
    level = logger.level
    logger.setLevel("INFO")
    logger.addFilter(note)
    yield messages
    logger.removeFilter(note)
    logger.setLevel(level)


def test_models_tell_what_they_wrote_only_if_asked(tmp_path, capsys, logged):
    model = lr.Standard(network())
    model.export(tmp_path / "1")
    assert capsys.readouterr().out == ""
    assert logged == []
    model.export(tmp_path / "1", verbose=True)
    assert "Endpoint 'serving_default'" in capsys.readouterr().out
    assert any(message.startswith("Assets written") for message in logged)


def test_what_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    class Broken(Exception):
        pass

    def fail(*_, **__):
        raise Broken

    lr.export(network(), tmp_path / "1")
    monkeypatch.setattr(tf.saved_model, "save", fail)
    for name in ("1", "2"):
        with pytest.raises(Broken):
            lr.export(network(), tmp_path / name)
    assert [each.name for each in tmp_path.iterdir()] == ["1"]
    assert (tmp_path / "1" / "saved_model.pb").exists()


def test_bad_input_is_named(tmp_path):
    classifier = network()
    with pytest.raises(TypeError, match="`model` must be a Keras model"):
        lr.export(lambda x: x, tmp_path / "1")
    with pytest.raises(TypeError, match="`attack` must be an attack, such as"):
        lr.export(classifier, tmp_path / "1", "pgd")
    for layer in (keras.layers.Dense(3, activation="softmax"), keras.layers.Softmax()):
        odds = keras.Sequential([keras.Input((2,)), layer])
        with pytest.raises(ValueError, match=r"must give logits.*lexirobust\.logits"):
            lr.export(odds, tmp_path / "1")
    with pytest.raises(ValueError, match="`model` must be built"):
        lr.export(keras.Sequential([keras.layers.Dense(2)]), tmp_path / "1")
    images = keras.Sequential(
        [keras.Input((None, None, 1)), keras.layers.GlobalMaxPooling2D(), keras.layers.Dense(2)]
    )
    with pytest.raises(ValueError, match="shape is known but for N"):
        lr.export(images, tmp_path / "1")
    x = keras.Input((2,))
    two = keras.Model(x, [keras.layers.Dense(2)(x), keras.layers.Dense(3)(x)])
    with pytest.raises(ValueError, match="one output"):
        lr.export(two, tmp_path / "1")
    named = keras.Model({"a": x, "b": (z := keras.Input((2,)))}, keras.layers.Dense(2)(x + z))
    with pytest.raises(ValueError, match="one input"):
        lr.export(named, tmp_path / "1")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="`path` must be a new or empty folder"):
        lr.export(classifier, tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99, None])
@pytest.mark.parametrize(
    "name",
    ["saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"],
)
def test_a_saved_model_that_was_cut_off_is_refused(folder, name, share, tmp_path):
    path = tmp_path / "model"
    shutil.copytree(folder, path)
    whole = (path / name).read_bytes()
    if share is None:
        (path / name).unlink()
    else:
        (path / name).write_bytes(whole[: int(share * len(whole))])
    # What TensorFlow says: no meta graph, cannot parse, no such file, too short, read less.
    with pytest.raises((ValueError, OSError, IndexError, tf.errors.OpError)):
        tf.saved_model.load(str(path))


@pytest.mark.release
def test_with_deterministic_operations_everything_runs_and_repeats(tmp_path):
    results = []
    for name in ("1", "2"):
        path = tmp_path / f"{name}.npy"
        finished = run_python("-c", DETERMINISTIC, tmp_path / name, path, TF_CPP_MIN_LOG_LEVEL="2")
        assert finished.returncode == 0, finished.stderr[-3000:]
        results.append(np.load(path))
    np.testing.assert_array_equal(*results)
    assert np.isfinite(results[0]).all()


@pytest.mark.release
def test_perturbation_that_is_exported_draws_by_the_seed_of_keras(olgrc, tmp_path):
    def drawn(name, *seed):
        for one in seed:
            keras.utils.set_random_seed(one)
        lr.export(olgrc, tmp_path / name, lr.attacks.PGD("l2", steps=1, step_size=0.01))
        served = tf.saved_model.load(tmp_path / name)
        return [served.perturb(X, Y.astype(np.int64), 0.5)["perturbed"] for _ in range(2)]

    one, again, more = drawn("1", 5), drawn("2", 5), drawn("3")
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one[0], one[1])
    assert not np.allclose(one, more)


@pytest.mark.parametrize(
    "end", [keras.ops.softmax, keras.layers.Activation(tf.nn.softmax)], ids=["operation", "layer"]
)
def test_probabilities_of_any_origin_are_refused(end, tmp_path):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, end(keras.layers.Dense(3)(inputs)))
    with pytest.raises(ValueError, match=r"`model` must give logits.*layer .*lexirobust\.logits"):
        lr.export(model, tmp_path / "1")
    assert not [*tmp_path.iterdir()]
