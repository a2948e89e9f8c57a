import numpy as np
import pytest
import tensorflow as tf

from lexirobust.attacks import PGD
from lexirobust.attacks.gradient import step_size

MAGNITUDES = {"l1": 30.0, "l2": 3.0, "linf": 0.3}
SIZE = 784


def weights():
    return np.random.default_rng(1).normal(size=SIZE).astype(np.float32)


def linear(x):
    """The loss of class 1 rises with `x @ weights`."""
    score = tf.linalg.matvec(x, weights())
    return tf.stack([score, tf.zeros_like(score)], axis=1)


def images(count=6):
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(count, SIZE)) * (rng.random((count, SIZE)) < 0.4)
    return x.astype(np.float32), np.ones(count, np.int32)


def largest_gain(slopes, room, norm, magnitude):
    """The most that a linear function can rise within a norm, each coordinate within its room."""
    slopes = np.abs(slopes)
    if norm == "linf":
        return np.sum(slopes * np.minimum(room, magnitude))
    if norm == "l1":  # The steepest coordinates first, each as far as it may.
        order = np.argsort(-slopes)
        spent = np.concatenate([[0.0], np.cumsum(room[order])])
        moved = np.diff(np.minimum(spent, magnitude))
        return np.sum(slopes[order] * moved)
    low, high = 0.0, 1e6  # Coordinates move in proportion to their slopes, up to their room.
    for _ in range(200):
        middle = (low + high) / 2
        short = np.linalg.norm(np.minimum(middle * slopes, room)) < magnitude
        low, high = (middle, high) if short else (low, middle)
    return np.sum(slopes * np.minimum(low * slopes, room))


def gains(x, norm, bounds, magnitude):
    slopes = weights().astype(np.float64)
    rooms = np.full(x.shape, 1e6) if bounds is None else np.where(slopes > 0, 1 - x, x)
    return [largest_gain(slopes, room.astype(np.float64), norm, magnitude) for room in rooms]


@pytest.mark.parametrize("constraint", ["exact", "maximum"])
@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_default_reaches_the_worst_point_of_a_linear_classifier(norm, bounds, constraint):
    x, y = images()
    attack = PGD(norm=norm, constraint=constraint, bounds=bounds, seed=0)
    moved = attack(linear, x, y, MAGNITUDES[norm]).numpy().astype(np.float64)
    gain = (moved - x) @ weights()
    np.testing.assert_allclose(gain, gains(x, norm, bounds, MAGNITUDES[norm]), rtol=1e-4)


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_three_steps_come_close(norm):
    x, y = images()
    moved = PGD(norm=norm, steps=3, seed=0)(linear, x, y, MAGNITUDES[norm]).numpy()
    least = 0.97 * np.array(gains(x, norm, (0.0, 1.0), MAGNITUDES[norm]))
    assert np.all((moved - x) @ weights() >= least)


@pytest.mark.parametrize("constraint", ["exact", "maximum"])
def test_sweep_reaches_the_worst_points_too(constraint):
    x, y = images()
    attack = PGD(norm="l2", constraint=constraint, seed=0)
    sweep = attack.sweep(linear, x, y, [1.0, 2.0, 4.0])
    for magnitude, moved in zip([1.0, 2.0, 4.0], sweep, strict=True):
        gain = (moved.numpy().astype(np.float64) - x) @ weights()
        np.testing.assert_allclose(gain, gains(x, "l2", (0.0, 1.0), magnitude), rtol=1e-4)


def judge(number, rises, rose, before, best, halved):
    stride = step_size.StepSizeState(
        tf.ones(1),
        tf.constant([rises]),
        [tf.constant([before])],
        tf.constant([halved]),
        tf.constant(4),
        tf.constant(8),
    )
    judged, back = step_size.adapt_step_size(
        stride, tf.constant(number), 100, tf.constant([rose]), [tf.constant([best])]
    )
    return judged.length.numpy()[0], back.numpy()[0]


@pytest.mark.parametrize(
    ("number", "rises", "rose", "before", "best", "halved", "length", "back"),
    [
        (7, 0, False, 1.0, 1.0, False, 1.0, False),  # No checkpoint yet.
        (8, 2, False, 1.0, 2.0, False, 0.5, True),  # Two rises of four.
        (8, 2, True, 1.0, 2.0, False, 1.0, False),  # Three of four.
        (8, 2, True, 1.0, 1.0, False, 0.5, True),  # But no better point.
        (8, 2, True, 1.0, 1.0, True, 1.0, False),  # After a halving it may take its time.
        (8, 3, True, 1.0, 2.0, False, 2.0, False),  # Four of four.
    ],
)
def test_strides_are_judged_at_checkpoints(number, rises, rose, before, best, halved, length, back):
    assert judge(number, rises, rose, before, best, halved) == (length, back)
