"""What each method works with: `python -m tests.compatibility FEATURE`.

Prints the row of docs/compatibility.md: for each method "yes", or what it needs. A feature that
does not work raises.
"""

import contextlib
import functools
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from lexirobust.training.state.target_estimates import PACE
from tests.helpers import mirrored_strategy
from tests.pipelines import leave_pipelines_untuned
from tests.training.by_hand import METHODS, compiled, network

DATA = lr.datasets.toy(20, seed=0)
FEATURES: dict[str, Callable[[str], str | None]] = {}
# Trained in a graph in every row, as `fit` does unless told otherwise. The other methods' graphs
# are traced in the rows that are about graphs; elsewhere they run eagerly, which takes less time.
TRACED = "olsrc"
# One of each kind: a sum, ranks, and a second network that is trained beside the classifier.
KINDS = ("mix", TRACED, "olgrc")
WORKER = "worker"


def feature(name):
    """Enters a function: it is given a method's name, and returns what the method needs."""

    def enter(function):
        FEATURES[name] = function
        return function

    return enter


def make(
    method,
    classifier=None,
    micro_batch_size=None,
    warm_start=None,
    memory=None,
    augmentation=None,
    targets=None,
    **compile_options,
):
    """A compiled model, the same each time but for a classifier that is given."""
    keras.utils.set_random_seed(1)
    classifier = classifier or network()
    keras.utils.set_random_seed(2)
    settings = {
        "micro_batch_size": micro_batch_size,
        "warm_start": warm_start,
        "memory": memory,
        "augmentation": augmentation,
        "targets": targets,
    }
    if method == TRACED:
        compile_options = {"run_eagerly": False, **compile_options}
    return compiled(METHODS[method](classifier, **settings), **compile_options)


def fit(model, x=DATA[0], y=DATA[1], **options):
    """Two steps in the order of the data, or more epochs of them; the logs of each epoch."""
    options = {"batch_size": 10, "shuffle": False, "verbose": 0, **options}
    if isinstance(x, tf.data.Dataset):
        options.pop("batch_size")
        y = None
    before = weights(model) if model.built else 0.0
    history = model.fit(x, y, **options).history
    assert not np.allclose(weights(model), before, atol=1e-3), "nothing was learned"
    logs = {name: np.array(values) for name, values in history.items()}
    if isinstance(model, lr.OLGRC):
        # Both means of a rank are NaN where no sample counted, as at first for a large magnitude.
        for loss in [name for name in logs if "loss@l" in name]:
            accuracy = loss.replace("loss@", "accuracy@")
            uncounted = np.isnan(logs[loss])
            assert np.array_equal(uncounted, np.isnan(logs[accuracy])), loss
            logs |= {name: logs[name][~uncounted] for name in (loss, accuracy)}
    assert np.isfinite(np.concatenate([weights(model), *logs.values()])).all()
    return history


def weights(model):
    """Of the classifier, one vector."""
    return np.concatenate([np.ravel(v).astype(np.float32) for v in model.classifier.weights])


def same(model, other, tolerance=1e-5):
    np.testing.assert_allclose(weights(model), weights(other), atol=tolerance)


@functools.cache
def plain(method, **options):
    """The model that has nothing special about it, trained eagerly. It is not to be changed."""
    model = make(method, run_eagerly=True)
    fit(model, **options)
    return model


@feature("`.keras` file, training goes on")
def keras_file(method):
    model = make(method)
    fit(model)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.keras"
        model.save(path)
        loaded = keras.models.load_model(path)
    same(model, loaded, 0.0)
    np.testing.assert_equal(fit(loaded), fit(model))
    same(model, loaded, 0.0)


@feature("weights file")
def weights_file(method):
    model, other = make(method), make(method, run_eagerly=True)
    fit(model)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.weights.h5"
        model.save_weights(path)
        other.load_weights(path)
    same(model, other, 0.0)


@feature("`from_config`")
def from_config(method):
    model = make(method)
    other = type(model).from_config(model.get_config())
    other.set_weights(model.get_weights())
    assert other.get_config() == model.get_config()
    fit(compiled(other, run_eagerly=True))
    fit(model)
    same(model, other)


@feature("`clone_model` of the classifier")
def cloned(method):
    classifier = network()
    clone = keras.models.clone_model(classifier)
    clone.set_weights(classifier.get_weights())
    model, other = make(method, classifier, run_eagerly=True), make(method, clone)
    fit(model)
    fit(other)
    same(other, model)


@feature("functional classifier")
def functional(method):
    def classifier():
        inputs = keras.Input((1,), name="position")
        hidden = keras.layers.Dense(8)(inputs)
        hidden = keras.layers.LeakyReLU(negative_slope=0.2)(hidden)
        return keras.Model(inputs, keras.layers.Dense(2)(hidden))

    model, expected = make(method, classifier()), make(method, run_eagerly=True)
    model.classifier.set_weights(expected.classifier.get_weights())
    fit(model)
    fit(expected)
    same(model, expected)


class Subclassed(keras.Model):
    def __init__(self, classes=2):
        super().__init__()
        self.hidden = keras.layers.Dense(8, activation="relu")
        self.last = keras.layers.Dense(classes)

    def call(self, inputs):
        return self.last(self.hidden(inputs))


@feature("subclassed classifier")
def subclassed(method):
    if method != "olgrc":
        fit(make(method, Subclassed()))
        return None
    with pytest.raises(ValueError, match="`discriminator` must be given"):
        make(method, Subclassed())
    olgrc = make(method)
    model = lr.OLGRC(
        Subclassed(), olgrc.attack, olgrc.magnitudes, discriminator=Subclassed(classes=3)
    )
    fit(compiled(model))
    return "needs `discriminator`"


@feature("one classifier, two methods in turn")
def shared(method):
    classifier = network()
    first, second = make("standard", classifier, run_eagerly=True), make(method, classifier)
    expected = make(method, run_eagerly=True)
    fit(first)
    expected.classifier.set_weights(classifier.get_weights())
    fit(second)
    fit(expected)
    same(second, expected)
    same(second, first, 0.0)


@keras.saving.register_keras_serializable(package="tests")
class Ones(keras.metrics.Metric):
    """The share of samples that are taken for class 1."""

    def __init__(self, name="ones", **kwargs):
        super().__init__(name=name, **kwargs)
        self.ones = self.add_weight(name="ones", initializer="zeros")
        self.count = self.add_weight(name="count", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        del y_true, sample_weight
        chosen = keras.ops.argmax(y_pred, axis=-1)
        self.ones.assign_add(keras.ops.sum(keras.ops.cast(chosen, "float32")))
        self.count.assign_add(keras.ops.cast(keras.ops.size(chosen), "float32"))

    def result(self):
        return self.ones / self.count


@feature("metrics of one's own")
def own_metric(method):
    model = make(method, metrics=[Ones(), "accuracy"])
    assert {"ones", "accuracy"} <= fit(model).keys()
    logs = model.evaluate(*DATA, verbose=0, return_dict=True)
    chosen = np.argmax(model.predict(DATA[0], verbose=0), axis=1)
    np.testing.assert_allclose(logs["ones"], chosen.mean(), atol=1e-6)
    np.testing.assert_allclose(logs["accuracy"], (chosen == DATA[1]).mean(), atol=1e-6)


@feature("sample and class weights")
def weighted(method):
    model, other = make(method), make(method, run_eagerly=True)
    shares = {0: 0.2, 1: 1.5}
    fit(model, class_weight=shares)
    fit(other, sample_weight=np.array([shares[label] for label in DATA[1]]))
    same(model, other)
    assert not np.allclose(weights(model), weights(plain(method)), atol=1e-4)


@feature("validation data")
def validation(method):
    model = make(method)
    history = fit(model, validation_data=DATA)
    measured = model.evaluate(*DATA, batch_size=10, verbose=0, return_dict=True)
    assert any("@" in name for name in measured)
    for name, value in measured.items():
        np.testing.assert_allclose(history[f"val_{name}"][-1], value, rtol=1e-5)


@feature("`tf.data` pipeline")
def pipeline(method):
    model = make(method)
    if method == "nearest":
        model.adapt(DATA[0])  # It has to see the data set before it sees batches.
    fit(model, tf.data.Dataset.from_tensor_slices(DATA).batch(10).prefetch(1))
    same(model, plain(method))
    return "after `adapt`" if method == "nearest" else None


@feature("dict with one image")
def dict_input(method):
    model = make(method)
    fit(model, {"image": DATA[0]})
    same(model, plain(method))
    predictions = model.predict({"image": DATA[0]}, verbose=0)
    np.testing.assert_array_equal(predictions, model.predict(DATA[0], verbose=0))


@feature("`warm_start`")
def warm_start(method):
    # Nothing is attacked by the one, and the worst of several attacks is no one point by the other.
    if method in ("standard", "max"):
        with pytest.raises(ValueError, match="`warm_start` needs"):
            make(method, warm_start=lr.WarmStart())
        return "no"
    model = make(method, warm_start=lr.WarmStart())
    fit(model, epochs=2)
    # One full step from the last point ends on one of the two points that there are.
    same(model, plain(method, epochs=2))
    return None


@feature("`memory`")
def memory(method):
    # The others have one rank: a weighted sum.
    if method not in ("olsrc", "olgrc", "nearest"):
        with pytest.raises(ValueError, match="`memory` needs at least two ranks"):
            make(method, memory=lr.RunningMean())
        return "no"
    model = make(method, memory=lr.RunningMean(steps=1))
    fit(model, batch_size=20, epochs=2)
    # The mean of one step is its own gradient.
    same(model, plain(method, batch_size=20, epochs=2))
    return None


@keras.saving.register_keras_serializable(package="tests")
class Shifted(keras.layers.Layer):
    """Random augmentation of points on the line."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.source = keras.random.SeedGenerator(3)

    def call(self, x, training=False):
        if not training:
            return x
        return x + 0.5 * keras.random.normal(keras.ops.shape(x), seed=self.source)


@feature("`targets`")
def targets(method):
    """A target out of reach is descended toward; one that is met lets other steps be taken."""
    if len(make(method).objectives) == 1:
        with pytest.raises(ValueError, match="`targets` need two ranks at least"):
            make(method, targets=[0.1])
        return "no"
    model, met = make(method, targets=[1e-3]), make(method, targets=[1e3])
    logs, met_logs = fit(model, epochs=5), fit(met, epochs=5)
    assert logs["violation@natural"][-1] > 0
    assert min(logs["descent@natural"]) >= PACE - 1e-3  # It descends as it asks, or faster.
    assert met_logs["descent@natural"][-1] < PACE
    assert met_logs["violation@natural"][-1] < 0
    assert not np.allclose(weights(model), weights(met), atol=1e-3)
    return None


@feature("random augmentation layers")
def augmented(method):
    def make_augmented(**settings):
        return make(method, settings.pop("classifier", None), run_eagerly=True, **settings)

    plain_one = network()
    classifier = keras.Sequential([keras.Input((1,)), Shifted(), *plain_one.layers])
    if method == "nearest":
        # The region is that of the points that it was given.
        with pytest.raises(ValueError, match="where inputs are augmented"):
            make_augmented(classifier=classifier)
        return "no"
    layers = make_augmented(classifier=classifier)
    argument = make_augmented(augmentation=Shifted())
    argument.classifier.set_weights(layers.classifier.get_weights())
    fit(layers)
    fit(argument)
    same(layers, argument)
    assert not np.allclose(weights(argument), weights(plain(method)), atol=1e-4)
    return None


@feature("`micro_batch_size`")
def micro_batches(method):
    # A loop over parts, in a graph, for one method of each kind.
    model = make(method, micro_batch_size=4, run_eagerly=method not in KINDS)
    fit(model)
    same(model, plain(method))


@feature("`export` to a SavedModel")
def export(method):
    model = plain(method)
    with tempfile.TemporaryDirectory() as folder:
        path = str(pathlib.Path(folder) / "model")
        model.export(path, verbose=False)
        served = tf.saved_model.load(path).signatures["serving_default"]
        outputs = served(tf.constant(DATA[0], tf.float32))
    np.testing.assert_allclose(outputs["logits"], model.predict(DATA[0], verbose=0), atol=1e-5)


@feature("`Backup` after a stop")
def backup(method):
    whole, first, second = (make(method, run_eagerly=True) for _ in range(3))
    fit(whole, epochs=2)
    with tempfile.TemporaryDirectory() as folder:
        fit(first, callbacks=[lr.callbacks.Backup(folder, delete=False)])
        fit(second, epochs=2, callbacks=[lr.callbacks.Backup(folder)])
    same(second, whole, 0.0)


@feature("`run_eagerly=True`")
def eager(method):
    model = make(method, run_eagerly=False)
    fit(model)
    same(model, plain(method))


@feature("`jit_compile=True`")
def compiled_by_xla(method):
    model = make(method, jit_compile=True)
    fit(model)
    assert model.jit_compile
    same(model, plain(method))


@feature("`steps_per_execution=2`")
def many_steps(method):
    model = make(method, steps_per_execution=2)
    fit(model)
    same(model, plain(method))


def in_policy(policy, method, tolerance):
    expected = plain(method)
    keras.mixed_precision.set_dtype_policy(policy)
    try:
        optimizer = keras.optimizers.SGD(0.1)
        if policy == "mixed_float16":
            # What compiling does by itself, from a scale at which no step is skipped.
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=128.0)
        model = make(method, optimizer=optimizer)
        assert model.predict(DATA[0], verbose=0).dtype != np.float32
        fit(model)
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    same(model, expected, tolerance)


@feature("`mixed_bfloat16`")
def bfloat16(method):
    # Of 8 bits. In MixTrain a weight crosses zero, where the kink of interval bounds is: rounding,
    # which differs between processors, decides at which step. Off by .024 at most so far.
    in_policy("mixed_bfloat16", method, 0.04)


@feature("`mixed_float16`")
def float16(method):
    in_policy("mixed_float16", method, 0.002)


@feature("`MirroredStrategy`")
def mirrored(method):
    def make_penalized(**options):
        # The penalty of regularization must count once, not once a replica.
        classifier = network(kernel_regularizer=keras.regularizers.L2(0.5))
        return make(method, classifier, metrics=["accuracy"], **options)

    expected = make_penalized(run_eagerly=True)
    # Where replicas wait for each other is traced for one method of each kind.
    with mirrored_strategy().scope():
        model = make_penalized(run_eagerly=method not in KINDS)
    model.set_weights(expected.get_weights())
    history = fit(model)
    for name, values in fit(expected).items():
        np.testing.assert_allclose(history[name], values, atol=1e-5, err_msg=name)
    same(model, expected)


@feature("`MultiWorkerMirroredStrategy`")
def workers(method):
    expected = end_of(plain(method))
    for ends in ends_of_workers():
        for what, values in expected.items():
            np.testing.assert_allclose(ends[f"{method} {what}"], values, atol=1e-5)


def end_of(model):
    """A trained model's weights, what it predicts, and what it measures."""
    measured = model.evaluate(*DATA, batch_size=10, verbose=0, return_dict=True)
    return {
        "weights": weights(model),
        "predictions": model.predict(DATA[0], batch_size=10, verbose=0),
        "measured": np.array([measured[name] for name in sorted(measured)]),
    }


@functools.cache
def ends_of_workers():
    """Where two workers end, by method: processes that find each other at 127.0.0.1."""
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
        stack.close()
        processes = []
        for index in range(2):
            config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            command = [sys.executable, "-m", "tests.compatibility", WORKER, f"{folder}/{index}"]
            environment = {**os.environ, "TF_CONFIG": json.dumps(config)}
            processes.append(subprocess.Popen(command, env=environment))
        assert [process.wait() for process in processes] == [0, 0]
        return [dict(np.load(f"{folder}/{index}.npz")) for index in range(2)]


def work(path):
    """What every worker does: trains by each method, and writes down where it ends.

    `TRACED` alone in a graph; tests/training/test_multi_worker.py has OLGRC in one.
    """
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    ends = {}
    for method in METHODS:
        with strategy.scope():
            model = make(method, run_eagerly=method != TRACED)
        fit(model)
        ends |= {f"{method} {what}": values for what, values in end_of(model).items()}
    np.savez(path, **ends)


def main(asked, *path):
    leave_pipelines_untuned()
    if asked == WORKER:
        work(*path)
        return
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    print(json.dumps({method: FEATURES[asked](method) or "yes" for method in METHODS}))


if __name__ == "__main__":
    main(*sys.argv[1:])
