import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from lexirobust.attacks import PGD, losses
from tests.attacks.linear import moved_by

FREE, TARGETED = tf.constant(False), tf.constant(True)


def logits_and_labels(seed, classes, count=64):
    rng = np.random.default_rng(seed)
    return rng.normal(scale=3.0, size=(count, classes)), rng.integers(classes, size=count)


def crossed(logits, y):
    """Cross entropies in float64, by definition."""
    return np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(y)), y]


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(2, 12))
def test_log_odds_make_the_cross_entropy(seed, classes):
    logits, y = logits_and_labels(seed, classes)
    odds = losses.cross_entropy(tf.constant(logits), tf.constant(y), FREE)
    np.testing.assert_allclose(np.logaddexp(0, odds), crossed(logits, y), rtol=1e-9, atol=1e-12)


def gradient(loss, logits, y, targeted=FREE):
    with tf.GradientTape() as tape:
        tape.watch(logits)
        values = loss(logits, y, targeted)
    return tape.gradient(values, logits).numpy()


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(2, 12))
def test_log_odds_rise_where_the_cross_entropy_does(seed, classes):
    logits, y = logits_and_labels(seed, classes)
    found = gradient(losses.cross_entropy, tf.constant(logits), tf.constant(y))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = shares - np.eye(classes)[y]
    unit = [g / np.linalg.norm(g, axis=1, keepdims=True) for g in (found, expected)]
    np.testing.assert_allclose(*unit, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e3, 1e15])
@pytest.mark.parametrize("loss", list(losses.LOSSES))
def test_no_scale_of_the_logits_takes_the_gradient(loss, scale):
    # The right class is the first in one row, and the second largest in the other.
    logits = tf.constant([[3.0, 1.0, -1.0, 0.5], [-2.0, 1.0, 4.0, 0.0]]) * scale
    slope = gradient(losses.LOSSES[loss], logits, tf.constant([0, 1]))[[0, 1], [0, 1]]
    expected = [-0.08 / scale, -0.25 / scale] if loss == "dlr" else [-1.0, -1.0]
    np.testing.assert_allclose(slope, expected, rtol=1e-5)


def test_spread_labels_keep_the_cross_entropy_and_sure_ones_are_labels():
    logits, y = logits_and_labels(0, 4, count=6)
    spread = np.random.default_rng(0).dirichlet(np.ones(4), size=6)
    expected = -np.sum(spread * (logits - np.log(np.exp(logits).sum(1, keepdims=True))), axis=1)
    found = losses.cross_entropy(tf.constant(logits), tf.constant(spread), FREE)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    for loss in losses.LOSSES.values():
        sure = loss(tf.constant(logits), tf.constant(np.eye(4)[y]), FREE)
        np.testing.assert_allclose(sure, loss(tf.constant(logits), tf.constant(y), FREE))


def test_margin_and_its_ratio_by_hand():
    logits, y = tf.constant([[4.0, 1.0, 3.0, -2.0, 0.0]] * 2), tf.constant([0, 3])
    assert losses.margin(logits, y, FREE).numpy().tolist() == [-1.0, 6.0]
    assert losses.dlr(logits, y, FREE).numpy().tolist() == pytest.approx([-1 / 3, 2.0])
    assert losses.dlr(logits, y, TARGETED).numpy().tolist() == pytest.approx([-1 / 3.5, 6 / 3.5])
    three = logits[:, :3]
    assert losses.dlr(three, y[:1], TARGETED).numpy()[0] == pytest.approx(-1 / 3)


def test_ratio_ignores_scale_and_shift_and_equal_logits_give_zero():
    logits, y = logits_and_labels(0, 5)
    found = losses.dlr(tf.constant(logits), tf.constant(y), FREE)
    other = losses.dlr(tf.constant(1e3 * logits + 7), tf.constant(y), FREE)
    np.testing.assert_allclose(found, other, rtol=1e-9)
    assert losses.dlr(tf.zeros((1, 5)), tf.constant([0]), FREE).numpy().tolist() == [0.0]


def test_ratio_of_two_classes_is_refused():
    attack = PGD(steps=1, loss="dlr", bounds=None)
    with pytest.raises(ValueError, match=r'`loss="dlr"` needs a known .* three. Received: 2'):
        attack(lambda x: x, np.zeros((3, 2), np.float32), np.zeros(3, np.int32), 1.0)


def network(classes, scale=1.0):
    """Random features: two layers whose logits are multiplied by a scale."""
    rng = np.random.default_rng(3)
    inner = tf.constant(rng.normal(size=(6, 32)), tf.float32)
    outer = tf.constant(rng.normal(size=(32, classes)), tf.float32)
    return lambda x: scale * (tf.tanh(x @ inner) @ outer)


@pytest.mark.parametrize("scale", [2.0**-66, 2.0**10])
@pytest.mark.parametrize(
    ("loss", "classes", "goal"),
    [("cross_entropy", 2, "maximize"), ("margin", 5, "maximize"), ("dlr", 5, "minimize")],
)
def test_scaled_classifier_is_beaten_exactly_as_often(loss, classes, scale, goal):
    # With two classes, or one margin, a power of two scales every number: the path is the same.
    x = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    y = np.argmax(network(classes)(x), axis=-1)
    if goal == "minimize":
        y = (y + 1) % classes
    given = {"norm": "l2", "steps": 10, "loss": loss, "goal": goal, "bounds": None}
    plain = moved_by(PGD(**given), network(classes), x, y, 0.3)
    scaled = moved_by(PGD(**given), network(classes, scale), x, y, 0.3)
    np.testing.assert_allclose(scaled, plain, rtol=1e-4, atol=1e-4)
    hit = np.mean(np.argmax(network(classes)(scaled), axis=-1) != y)
    assert hit == np.mean(np.argmax(network(classes)(plain), axis=-1) != y)
    assert 0.1 < hit < 0.9


def test_cross_entropy_of_a_sure_classifier_is_its_margin():
    # A thousandfold, the other classes' log-sum is their largest logit.
    x = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    y = np.argmax(network(5)(x), axis=-1)
    given = {"norm": "l2", "steps": 10, "bounds": None}
    sure = moved_by(PGD(**given), network(5, 2.0**10), x, y, 0.3)
    margin = moved_by(PGD(loss="margin", **given), network(5), x, y, 0.3)
    hits = [np.sum(np.argmax(network(5)(moved), axis=-1) != y) for moved in (sure, margin)]
    assert abs(hits[0] - hits[1]) <= 1
    assert hits[0] > 20


def test_inputs_with_tiny_gradients_are_moved_alike():
    # A large unit of the inputs and a small one of the logits: gradients of about 1e-20.
    unit = 2.0**33
    x = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    y = np.argmax(network(5)(x), axis=-1)
    given = {"norm": "l2", "steps": 10, "loss": "margin", "bounds": None}
    near = moved_by(PGD(**given), network(5), x, y, 0.3)
    scaled = network(5, 1 / unit)
    far = moved_by(PGD(**given), lambda x: scaled(x / unit), unit * x, y, 0.3 * unit)
    np.testing.assert_allclose(far / unit, near, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "XLA"])
@pytest.mark.parametrize("name", losses.LOSSES)
def test_logits_that_are_not_numbers_have_a_loss_that_is_none(name, jit_compile):
    rows = np.full((9, 4), [1.0, 1.0, 3.0, 2.0], np.float32)
    rows[:4][np.eye(4, dtype=bool)] = np.nan
    rows[4:8][np.eye(4, dtype=bool)] = np.inf  # Those are left to what they were.
    loss = tf.function(losses.LOSSES[name], jit_compile=jit_compile, autograph=False)
    values = loss(tf.constant(rows), tf.ones(9, tf.int32), FREE).numpy()
    assert np.isnan(values[:4]).all()
    assert np.isfinite(values[8])
    if name == "margin":
        assert values[4:8].tolist() == [np.inf, -np.inf, np.inf, np.inf]
