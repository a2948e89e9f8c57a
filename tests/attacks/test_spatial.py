import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from lexirobust.attacks import Flow, Spatial
from tests.attacks.linear import moved_by
from tests.geometry.test_image_warps import images, shifted

ATTACKS = [
    Spatial(rotations=3, translations=3),
    Flow(steps=3, restarts=2, seed=0),
]
KINDS = pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: type(attack).__name__)


def one_pixel(row, column, threshold=0.5):
    """Class 0 where one pixel is above a threshold."""

    def classifier(x):
        pixel = x[:, row, column, 0]
        return tf.stack([pixel, tf.zeros_like(pixel) + threshold], axis=1)

    return classifier


def network(shape=(6, 7, 2)):
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten()]
    return keras.Sequential([keras.Input(shape), *layers, keras.layers.Dense(3)])


def log_odds(logits, y):
    """Of another class than the label."""
    logits = np.asarray(logits, np.float64)
    right = np.eye(logits.shape[1], dtype=bool)[y]
    others = np.exp(logits[~right].reshape(len(y), -1)).sum(axis=1)
    return np.log(others) - logits[right]


@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 3), (4, 5), (1, 4)])
def test_worst_translation_of_a_classifier_that_looks_at_one_pixel(row, column):
    x = images(20, 5, 6, 1, seed=row)
    attack = Spatial(rotations=1, translations=5, fill=1.0)
    moved = moved_by(attack, one_pixel(row, column), x, np.zeros(20, int), 2.0)
    # Shifts by -2 to 2 bring the pixels of a square here: the darkest is the worst.
    square = np.pad(x, [[0, 0], [2, 2], [2, 2], [0, 0]], constant_values=1.0)
    square = square[:, row : row + 5, column : column + 5, 0].reshape(20, -1)
    assert np.array_equal(moved[:, row, column, 0], square.min(axis=1))
    for index, best in enumerate(square.argmin(axis=1)):
        down, right = 2 - best // 5, 2 - best % 5
        assert np.array_equal(moved[index], shifted(x, down, right, 1.0)[index])


def test_magnitude_scales_angles_and_translations_sample_by_sample():
    x = images(2, 5, 5, 1)
    x[:, 0] = 0
    x[:, 0, 2] = 1  # The one bright pixel of the top row, which the classifier looks at.

    def top_is_dark(x):
        top = tf.reduce_sum(x[:, 0], axis=(1, 2))
        return tf.stack([tf.zeros_like(top) - 1.0, top], axis=1)

    # At magnitude 9 a quarter turn either way; at 0 nothing.
    attack = Spatial(rotations=3, translations=1, degrees_per_pixel=10.0)
    moved = moved_by(attack, top_is_dark, x, np.zeros(2, int), [9.0, 0.0])
    turned = [np.rot90(x[0], times) for times in (0, 1, -1)]
    worst = max(turned, key=lambda image: image[0].sum())
    np.testing.assert_allclose(moved[0], worst, atol=1e-5)
    assert np.array_equal(moved[1], x[1])


def test_mistake_counts_more_than_a_larger_loss():
    def classifier(x):
        right = tf.ones_like(x[:, 0, :1, 0])
        return 10 * tf.concat([right, x[:, 0, 0], x[:, 0, 1]], axis=1)

    # Class 1 wins by little. Two pixels to the left class 0 does, against two that are as likely.
    x = np.array([1.01, 0.0, 0.99, 0.99], np.float32).reshape(1, 1, 4, 1)
    y, left = np.array([0]), shifted(x, 0, -2, 0.0)
    assert np.argmax(classifier(left)) == 0
    assert log_odds(classifier(left), y) > log_odds(classifier(x), y)
    attack = Spatial(rotations=1, translations=3, bounds=None)
    moved = moved_by(attack, classifier, x, y, 2.0)
    assert np.array_equal(moved, x)


def test_accuracy_can_only_fall():
    x, y = images(60, 6, 7, 2), np.random.default_rng(0).integers(3, size=60)
    classifier = network()
    clean = np.argmax(classifier(x), axis=1) == y
    assert 5 < clean.sum() < 55
    for attack in ATTACKS:
        curve = lr.evaluate_robustness(classifier, x, y, attack, [0, 0.5, 1, 2])
        assert np.array_equal(curve.correct[0], clean)
        assert not np.any(curve.correct & ~clean)
        assert curve.accuracy[-1] < curve.accuracy[0]
        # Magnitudes are no norms, and everywhere feasible.
        assert np.isnan(curve.norms).all()
        assert curve.norms.shape == (4, 60)
        assert curve.feasible.all()


def ramp(size=9):
    """Brighter by 0.1 a pixel to the right."""
    return np.tile(np.arange(size, dtype=np.float32) * 0.1, (2, size, 1))[..., None]


@pytest.mark.parametrize("random_start", [False, True])
def test_worst_flow_on_a_slope_goes_all_the_way(random_start):
    attack = Flow(steps=10, smoothness=0.0, random_start=random_start)
    x, magnitude = np.tile(ramp(), (3, 1, 1, 1)), np.repeat(np.float32([0.3, 1.0, 2.5]), 2)
    moved = moved_by(attack, one_pixel(4, 4, threshold=0.0), x, np.array([0, 1] * 3), magnitude)
    expected = 0.4 + 0.1 * magnitude * np.array([-1, 1] * 3)
    np.testing.assert_allclose(moved[:, 4, 4, 0], expected, atol=1e-5)


def test_flow_keeps_values_between_those_of_the_pixels_within_reach():
    x, y = images(4, 6, 7, 2), np.arange(4) % 3
    moved = moved_by(Flow(steps=3, smoothness=0.0), network(), x, y, 1.0)
    around = np.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="edge")
    near = np.stack([around[:, r : r + 6, c : c + 7] for r in range(3) for c in range(3)])
    assert np.all(moved >= near.min(axis=0) - 1e-6)
    assert np.all(moved <= near.max(axis=0) + 1e-6)
    assert not np.allclose(moved, x, atol=0.1)


@pytest.mark.parametrize(("smoothness", "share"), [(0.001, 1.0), (0.03, 0.0)])
def test_pixel_moves_unless_four_rough_neighbors_outweigh_it(smoothness, share):
    # A pixel on its way alone is worth 0.1 in loss, and costs four times the smoothness.
    x, y = ramp(), np.array([0, 1])
    attack = Flow(steps=10, step_size=0.25, smoothness=smoothness, random_start=False)
    moved = moved_by(attack, one_pixel(4, 4), x, y, 1.0)
    np.testing.assert_allclose(moved[:, 4, 4, 0], [0.4 - 0.1 * share, 0.4 + 0.1 * share], atol=1e-5)


def test_flow_of_a_sure_classifier_is_not_left_to_smoothness():
    x = ramp()

    def sure(x):
        return 1e3 * one_pixel(4, 4, threshold=-1.0)(x)

    moved = moved_by(Flow(steps=10, random_start=False), sure, x, np.array([0, 0]), 1.0)
    np.testing.assert_allclose(moved[:, 4, 4, 0], 0.3, atol=1e-5)


@KINDS
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-0.1, 0.7), None])
def test_results_stay_inside_the_bounds(attack, bounds):
    low, high = bounds or (-3.0, 2.0)
    x, y = (low + (high - low) * images(4, 6, 7, 2)).astype(np.float32), np.arange(4) % 3
    x = np.where(x > (low + high) / 2, np.float32(high), x)
    x = np.clip(x, np.float32(low), np.float32(high))
    inside = type(attack).from_config({**attack.get_config(), "bounds": bounds})
    moved = moved_by(inside, network(), x, y, 1.3)
    assert np.all(moved >= np.float32(low))
    assert np.all(moved <= np.float32(high))
    assert not np.array_equal(moved, x)


def test_fill_comes_in_from_outside():
    x = np.full((1, 4, 4, 1), -1.0, np.float32)
    attack = Spatial(rotations=1, translations=3, fill=0.5, bounds=(-1.0, 1.0))
    moved = moved_by(attack, one_pixel(0, 1), x, np.array([1]), 1.0)
    assert moved[0, 0, 1, 0] == 0.5
    assert set(np.ravel(moved)) == {-1.0, 0.5}


@KINDS
def test_labels_may_be_probabilities(attack):
    x, y = images(4, 6, 7, 2), np.arange(4) % 3
    spread = (0.8 * np.eye(3)[y] + 0.1 * np.eye(3)[(y + 1) % 3] + 0.1).astype(np.float32)
    spread /= spread.sum(axis=1, keepdims=True)
    classifier = network()
    moved = moved_by(attack, classifier, x, spread, 1.0)
    loss = [
        tf.nn.softmax_cross_entropy_with_logits(spread, classifier(inputs)) for inputs in (x, moved)
    ]
    wrong = [np.argmax(classifier(inputs), axis=1) != y for inputs in (x, moved)]
    assert np.all((wrong[1] > wrong[0]) | ((wrong[1] == wrong[0]) & (loss[1] >= loss[0])))
    assert not np.array_equal(moved, x)


@KINDS
def test_ranks_are_named_and_trained(attack):
    x, y = images(12, 6, 7, 2), np.arange(12) % 3
    model = lr.OLSRC(network(), attack=attack, magnitudes=[0.5, 1.0])
    names = [rank.name for rank in model.objectives]
    kind = type(attack).__name__.lower()
    assert names == ["natural", f"{kind}=0_5", f"{kind}=1"]
    model.compile("sgd")
    history = model.fit(x, y, batch_size=12, epochs=2, verbose=0).history
    for name in names[1:]:
        assert np.isfinite(history[f"loss@{name}"]).all()
        assert history[f"accuracy@{name}"][0] <= history["accuracy@natural"][0]


@KINDS
def test_inputs_that_are_no_images_are_refused_in_training(attack):
    classifier = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model = lr.OLSRC(classifier, attack=attack, magnitudes=[1.0])
    model.compile("sgd")
    with pytest.raises(ValueError, match=r"`x` must hold images .*Received: shape \(\w+, 4\)"):
        model.fit(np.zeros((4, 4), np.float32), np.zeros(4, int), verbose=0)


@KINDS
@pytest.mark.parametrize("shape", [(4, 5), (4, 6, 7)])
def test_inputs_that_are_no_images_are_refused(attack, shape):
    message = r"`x` must hold images \[N, height, width, channels\]. Received: shape \(4, "
    with pytest.raises(ValueError, match=message):
        attack(one_pixel(0, 0), np.zeros(shape), np.zeros(4, int), 1.0)


@KINDS
def test_images_with_their_channels_first_are_refused(attack):
    with pytest.raises(ValueError, match=r"channels last. Received: shape \(4, 3, 8, 9\)"):
        attack(one_pixel(0, 0), np.zeros((4, 3, 8, 9)), np.zeros(4, int), 1.0)


def test_image_whose_logits_are_not_numbers_is_the_worst():
    def classifier(x):
        corner = x[:, 0, 0, 0]
        return tf.stack([1.0 + tf.sqrt(corner - 0.1), 0.0 * corner], axis=1)

    x = images(4, 4, 4, 1) * 0.5 + 0.3
    moved = Spatial(rotations=1, translations=3)(classifier, x, np.zeros(4, int), 1.0)
    assert np.isnan(classifier(moved)).any(axis=1).all()  # What comes in from outside is 0.
