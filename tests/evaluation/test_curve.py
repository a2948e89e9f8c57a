import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from lexirobust.attacks import BIM, FGSM, PGD

# Every piece of every accuracy function has a magnitude inside it.
MAGNITUDES = [0, 0.25, 0.5, 0.875, 1.25, 1.5, 1.75, 2.25, 2.75, 3.5, 4.5, 5.25, 5.75, 7]
NAMES = ["f1", "f2", "f3", "f4"]

CLASS_ONE = {
    "f1": lambda x: x >= 1,
    "f2": lambda x: (x < -4) | (x >= 0),
    "f3": lambda x: x >= 0,
    "f4": lambda x: (x >= 0) & (x < 4),
}
BOUNDARIES = {"f1": [1.0], "f2": [-4.0, 0.0], "f3": [0.0], "f4": [0.0, 4.0]}


def toy_curve(name, constraint, **settings):
    x, y = lr.datasets.toy(2000, seed=0)
    attack = PGD(norm="l2", constraint=constraint, restarts=2, bounds=None, **settings)
    classifier = lr.datasets.toy_classifier(name)
    return x, y, lr.evaluate_robustness(classifier, x, y, attack, MAGNITUDES, 2000, checks=False)


def assert_agrees_to_sampling_error(measured, expected, count):
    # Balanced classes vary less than a binomial, whose four standard deviations are allowed.
    assert np.all(np.abs(measured - expected) <= 4 * np.sqrt(expected * (1 - expected) / count))


@pytest.mark.parametrize("name", NAMES)
def test_exact_accuracy_of_the_toy_classifiers_is_the_papers(name):
    x, y, curve = toy_curve(name, "exact", steps=1)
    expected = lr.datasets.toy_accuracy(name, MAGNITUDES, "exact")
    assert_agrees_to_sampling_error(curve.accuracy, expected, len(x))
    # Sample by sample: there are but two points at a distance.
    for magnitude, correct in zip(MAGNITUDES, curve.correct, strict=True):
        ends = np.concatenate([x - magnitude, x + magnitude], axis=1)
        right = np.all(CLASS_ONE[name](ends) == y[:, None], axis=1)
        clear = np.min(np.abs(ends[..., None] - BOUNDARIES[name]), axis=(1, 2)) > 1e-5
        assert np.array_equal(correct[clear], right[clear])
    np.testing.assert_allclose(
        curve.norms, np.tile(np.array(MAGNITUDES)[:, None], (1, len(x))), rtol=1e-5
    )


@pytest.mark.parametrize("name", NAMES)
def test_maximum_norm_accuracy_of_the_toy_classifiers_is_the_papers(name):
    x, y, curve = toy_curve(name, "maximum", steps=20)
    expected = lr.datasets.toy_accuracy(name, MAGNITUDES, "maximum")
    assert_agrees_to_sampling_error(curve.accuracy, expected, len(x))
    # Sample by sample: right where the label is right and no boundary is within the magnitude.
    distance = np.min(np.abs(x - BOUNDARIES[name]), axis=1)
    label_is_right = CLASS_ONE[name](x[:, 0]) == y
    for magnitude, correct in zip(MAGNITUDES, curve.correct, strict=True):
        clear = np.abs(distance - magnitude) > 1e-5
        right = label_is_right & (distance > magnitude)
        assert np.array_equal(correct[clear], right[clear])
    assert np.all(curve.norms <= np.array(MAGNITUDES)[:, None] * (1 + 1e-5) + 1e-6)


def model():
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(3)]
    )


def samples(count=11):
    rng = np.random.default_rng(0)
    return rng.uniform(size=(count, 6)).astype(np.float32), rng.integers(3, size=count)


def test_curve_holds_one_row_a_magnitude_and_one_column_a_sample():
    x, y = samples()
    curve = lr.evaluate_robustness(model(), x, y, PGD(steps=2), [0.5, 0.0, 1.0])
    assert curve.magnitudes.tolist() == [0.5, 0.0, 1.0]
    for field in (curve.correct, curve.losses, curve.norms, curve.feasible):
        assert field.shape == (3, 11)
    assert curve.correct.dtype == curve.feasible.dtype == bool
    np.testing.assert_allclose(curve.norms, np.tile([[0.5], [0.0], [1.0]], (1, 11)), rtol=1e-5)
    np.testing.assert_allclose(curve.accuracy, curve.correct.sum(axis=1) / 11)


def test_at_magnitude_zero_the_clean_inputs_are_measured():
    x, y = samples()
    classifier = model()
    curve = lr.evaluate_robustness(classifier, x, y, PGD(steps=2), [0])
    logits = classifier.predict(x, verbose=0).astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(curve.losses[0], -np.log(shares[np.arange(11), y]), rtol=1e-5)
    assert np.array_equal(curve.correct[0], logits.argmax(axis=1) == y)
    assert np.all(curve.norms == 0)


def test_correct_and_losses_are_those_of_the_moved_inputs():
    x, y = samples()
    classifier, attack = model(), FGSM(norm="l2")
    curve = lr.evaluate_robustness(classifier, x, y, attack, [0.5, 1.0])
    for row, magnitude in enumerate([0.5, 1.0]):
        logits = classifier(attack(classifier, x, y, magnitude)).numpy()
        assert np.array_equal(curve.correct[row], logits.argmax(axis=1) == y)
        log_sum = np.log(np.exp(logits).sum(axis=1))
        np.testing.assert_allclose(curve.losses[row], log_sum - logits[np.arange(11), y], rtol=1e-4)


def test_feasible_says_where_the_bounds_have_room():
    x = np.array([[0.0] * 6, [0.5] * 6], np.float32)
    curve = lr.evaluate_robustness(model(), x, [0, 1], FGSM(norm="l2"), [1.0, 2.0, 3.0])
    # The farthest corners are at 6^0.5 = 2.45 and half of that.
    assert curve.feasible.tolist() == [[True, True], [True, False], [False, False]]
    np.testing.assert_allclose(curve.norms[1], [2.0, 1.5**0.5], rtol=1e-5)
    np.testing.assert_allclose(curve.norms[2], [6**0.5, 1.5**0.5], rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_batch_size_changes_nothing(batch_size):
    x, y = samples()
    classifier, attack = model(), BIM(norm="l2", steps=3)
    whole, parts = (
        lr.evaluate_robustness(classifier, x, y, attack, [0.3, 0.6], size, checks=False)
        for size in (11, batch_size)
    )
    assert np.array_equal(whole.correct, parts.correct)
    np.testing.assert_allclose(whole.losses, parts.losses, rtol=1e-5)
    np.testing.assert_allclose(whole.norms, parts.norms, rtol=1e-5)


def test_any_callable_any_numbers_and_a_column_of_labels_will_do():
    x = np.array([[0, 1], [1, 0], [1, 1]])
    attack = FGSM(constraint="maximum")

    def classifier(x):
        return tf.concat([x[:, :1], x[:, 1:] - 0.25], axis=1)

    for labels in ([1, 0, 0], np.array([[1], [0], [0]], np.uint8)):
        curve = lr.evaluate_robustness(classifier, x, labels, attack, [0.0, 0.2, 0.4])
        # Margins of 0.75, 1.25 and 0.25; each pixel that may move takes 0.2 or 0.4 off.
        assert curve.correct.tolist() == [[True] * 3, [True, True, True], [False, True, False]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": np.full((4, 6), 1.5)}, "`x` must lie inside"),
        ({"x": np.full((4, 6), np.nan)}, "`x` must be finite"),
        ({"x": np.zeros((0, 6)), "y": np.zeros(0, int)}, "`x` must hold at least one sample"),
        ({"y": np.zeros(3, int)}, "`y` must hold one label a sample"),
        ({"y": np.full(4, 3)}, "`y` must hold labels from 0 to 2. Received: 3 to 3"),
        ({"y": np.full(4, -1)}, "`y` must hold labels .*Received: -1 to -1"),
        ({"y": np.eye(4, 3)}, r"`y` must be \[N\] labels. Received: shape \(4, 3\)"),
        ({"magnitudes": [-1.0]}, "`magnitudes` must be finite and at least 0"),
        ({"magnitudes": []}, "`magnitudes` must be a sequence"),
        ({"batch_size": 0}, "`batch_size` must be an integer .* Received: 0"),
        ({"classifier": lambda x: x[:, 0]}, r"`classifier` must map .* Received: shape \(4,\)"),
        (
            {"classifier": lambda x: x[:, :1]},
            "`classifier` must map .*at least two classes.*tf.pad",
        ),
    ],
)
def test_bad_arguments_are_refused(changes, message):
    arguments = {
        "classifier": model(),
        "x": np.full((4, 6), 0.5),
        "y": np.zeros(4, int),
        "attack": FGSM(),
        "magnitudes": [0.1],
    }
    with pytest.raises(ValueError, match=message):
        lr.evaluate_robustness(**{**arguments, **changes})


def test_labels_that_are_no_integers_are_refused():
    with pytest.raises(TypeError, match="`y` must hold integer labels"):
        lr.evaluate_robustness(model(), np.zeros((2, 6)), [0.0, 0.5], FGSM(), [0.1])


def test_what_was_not_looked_for_is_not_said_to_be_absent():
    outcomes = np.ones((1, 4), bool)
    zeros = np.zeros((1, 4))

    def curve(**settings):
        return lr.AccuracyCurve(
            np.array([1.0]), outcomes, zeros, zeros, outcomes, settings=settings
        )

    checked, unknown, not_checked = curve(checks=True), curve(), curve(checks=False)
    assert (checked.checked, unknown.checked, not_checked.checked) == (True, False, False)
    assert "none" in repr(checked + checked)
    for other in (unknown, not_checked):
        for both in (checked + other, other + checked):
            assert not both.checked
            assert "not looked for" in repr(both)
