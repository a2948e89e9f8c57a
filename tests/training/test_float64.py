import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from tests.training.by_hand import METHODS, compiled, network, weights

X, Y = lr.datasets.toy(20, seed=0)


@pytest.fixture(autouse=True)
def _doubles():
    # Both: Keras asks once what type a policy is of.
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def trained(method, run_eagerly=True, **options):
    keras.utils.set_random_seed(0)
    classifier = network(kernel_regularizer=keras.regularizers.L2(0.01))
    model = METHODS[method](classifier, **options) if method else classifier
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    # Made here: a loss computes in the type that was set when it was made.
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    compiled(model, optimizer=optimizer, loss=loss, run_eagerly=run_eagerly)
    given = {"sample_weight": np.linspace(0.5, 2.0, 20), "batch_size": 10, "shuffle": False}
    logs = model.fit(X, Y, epochs=2, verbose=0, **given).history
    return model, logs


@pytest.mark.parametrize("options", [{}, {"micro_batch_size": 6}], ids=str)
@pytest.mark.parametrize("run_eagerly", [True, False])
def test_plain_training_is_keras_own_to_rounding(options, run_eagerly):
    model, logs = trained("standard", run_eagerly, **options)
    twin, expected = trained(None)
    assert model.classifier.weights[0].dtype == "float64"
    for own, other in zip(model.classifier.weights, twin.weights, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(logs["loss"], expected["loss"], rtol=1e-6)


WAYS = [
    *((method, {"micro_batch_size": 6}) for method in METHODS),
    *((method, {"keep_gradients": False}) for method in ("olsrc", "olgrc", "nearest")),
]


@pytest.mark.release
@pytest.mark.parametrize(("method", "options"), WAYS, ids=str)
def test_ways_to_take_a_step_agree_to_rounding(method, options):
    one, _ = trained(method)
    other, _ = trained(method, **options)
    np.testing.assert_allclose(weights(other), weights(one), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(
            method,
            marks=[pytest.mark.release] * (method in ("trades", "max", "nearest", "avg", "mix")),
        )
        for method in METHODS
    ],
)
def test_whatever_is_asked_for_is_trained_in_doubles(method):
    options = {"detailed_logs": True, "safeguard": True}
    if method not in ("standard", "max"):
        options["warm_start"] = lr.WarmStart()
    if method in ("olsrc", "olgrc", "nearest"):
        options |= {"memory": lr.RunningMean(), "safeguard": False}
    model, logs = trained(method, **options)
    assert all(np.isfinite(values).all() for values in logs.values())
    assert {v.dtype for v in model.classifier.weights} == {"float64"}
    assert np.isfinite(model.evaluate(X, Y, verbose=0)).all()
    assert model.predict(X, verbose=0).dtype == np.float64


@pytest.mark.parametrize(
    "attack",
    [
        lr.attacks.PGD(norm="l2", steps=3, bounds=None, seed=0),
        lr.attacks.PGD(norm="linf", steps=3, restarts=2, early_stop=True, bounds=None, seed=0),
        lr.attacks.Square(norm="l2", max_queries=9, bounds=(-10.0, 10.0), seed=0),
        lr.attacks.DeepFool(bounds=None),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_attacks_move_doubles(attack):
    classifier = network()
    x = X.astype(np.float64)
    args = () if isinstance(attack, lr.attacks.DeepFool) else (1.0,)
    found = attack(classifier, x, Y, *args)
    moved = found.inputs if isinstance(attack, lr.attacks.DeepFool) else found
    assert moved.dtype == tf.float64
    if args:
        curve = lr.evaluate_robustness(classifier, x, Y, attack, [0.0, 1.0], checks=False)
        np.testing.assert_allclose(curve.norms[1], 1.0, rtol=1e-6)


def test_exact_norms_are_exact_in_doubles():
    attack = lr.attacks.PGD(norm="l2", steps=3, bounds=None, seed=0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 5))
    w = tf.constant(rng.normal(size=(5, 2)))
    moved = attack(lambda x: x @ w, x, np.zeros(9, int), 0.7)
    np.testing.assert_allclose(np.linalg.norm(moved - x, axis=1), 0.7, rtol=1e-14)
