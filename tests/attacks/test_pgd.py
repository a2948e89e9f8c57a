import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from lexirobust import datasets
from lexirobust.attacks import BIM, FGSM, PGD, geometry
from tests.attacks.linear import DUAL, ORDER, WEIGHTS, moved_by, points, two_classes

NORMS = ["l1", "l2", "linf"]
MAGNITUDES = {"l1": [1.0, 30.0], "l2": [0.5, 4.0], "linf": [0.05, 0.3]}


def images(count=6, seed=0):
    """Sparse images of 784 pixels, as MNIST's, and labels."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(count, 28, 28, 1))
    x[rng.random(x.shape) < 0.8] = 0
    x[rng.random(x.shape) < 0.05] = 1
    return x.astype(np.float32), rng.integers(10, size=count)


def ten_classes(x):
    weights = np.random.default_rng(1).normal(size=(784, 10))
    return tf.nn.relu(tf.reshape(x, (-1, 784)) @ tf.constant(weights, tf.float32))


def assert_exact_and_inside(x, moved, norm, magnitude):
    moved = np.asarray(moved)
    reached = geometry.norm(moved - x, norm).numpy()
    np.testing.assert_allclose(reached, magnitude, rtol=1e-5)
    assert moved.min() >= 0
    assert moved.max() <= 1


class Traced:
    """A linear classifier that counts how often it is called: while tracing, not while running."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        return two_classes(x)


# That the norm is exact is asked of every attack in test_contract.py, of few pixels.
@pytest.mark.parametrize("goal", ["maximize", "minimize"])
@pytest.mark.parametrize("norm", NORMS)
def test_norm_is_exact_inside_the_bounds_of_sparse_images(norm, goal):
    x, y = images()
    sweep = PGD(norm=norm, steps=5, goal=goal).sweep(ten_classes, x, y, MAGNITUDES[norm])
    for magnitude, moved in zip(MAGNITUDES[norm], sweep, strict=True):
        assert_exact_and_inside(x, moved, norm, magnitude)


@pytest.mark.parametrize("norm", NORMS)
def test_where_the_bounds_end_the_farthest_corner_is_reached(norm):
    x = np.array([[0.0] * 5, [0.25] * 5], np.float32)
    attack = PGD(norm=norm, steps=3, bounds=(0.0, 1.0))
    reach = np.linalg.norm([[1.0] * 5, [0.75] * 5], ORDER[norm], 1)
    magnitude = 0.9 * reach[0]
    assert attack.feasible(x, magnitude).numpy().tolist() == [True, False]
    assert attack.feasible(x, reach).numpy().tolist() == [True, True]
    moved = moved_by(attack, two_classes, x, np.array([0, 1]), magnitude)
    np.testing.assert_allclose(geometry.norm(moved - x, norm), [magnitude, reach[1]], rtol=1e-5)
    np.testing.assert_allclose(moved[1], 1.0, rtol=1e-6)


def test_without_bounds_everything_is_feasible():
    assert PGD(bounds=None).feasible(np.zeros((2, 3)), 1e9).numpy().all()


@pytest.mark.parametrize("constraint", ["exact", "maximum"])
@pytest.mark.parametrize("norm", NORMS)
def test_worst_point_of_a_linear_classifier_is_found(norm, constraint):
    x, y = points()
    settings = {"norm": norm, "constraint": constraint, "bounds": None}
    for goal in ("maximize", "minimize"):
        attack = PGD(steps=30, step_size=1.0, goal=goal, **settings)
        moved = attack(two_classes, x, y, 1.5).numpy()
        # The loss of class 1 rises as the score falls.
        away = np.where((y == 1) == (goal == "maximize"), -1.0, 1.0)
        gain = 1.5 * np.linalg.norm(WEIGHTS, DUAL[norm])
        np.testing.assert_allclose((moved - x) @ WEIGHTS, away * gain, rtol=1e-3)


def test_worst_point_in_a_box_is_found():
    # Within linf 0.4 of 0.5, cut at 0 and 1, each pixel goes as far as it may.
    x = np.array([[0.5, 0.9, 0.2, 0.0, 1.0]], np.float32)
    moved = moved_by(PGD(norm="linf", steps=10), two_classes, x, np.array([1]), 0.4)
    expected = np.clip(x - 0.4 * np.sign(WEIGHTS), 0, 1)
    np.testing.assert_allclose(moved, expected, atol=1e-6)


def bump(x):
    """The loss of class 1 is largest at 0.3."""
    return tf.concat([tf.zeros_like(x), tf.square(x - 0.3)], axis=1)


def test_maximum_norm_stays_inside_where_the_worst_point_is():
    x, y = np.zeros((4, 1), np.float32), np.ones(4, np.int32)
    settings = {"norm": "l2", "steps": 40, "bounds": None}
    inside = PGD(constraint="maximum", restarts=2, **settings)(bump, x, y, 1.0)
    np.testing.assert_allclose(inside, 0.3, atol=0.05)
    exact = PGD(constraint="exact", restarts=2, **settings)(bump, x, y, 1.0)
    np.testing.assert_allclose(exact, 1.0, atol=1e-6)


def test_best_point_seen_is_kept_not_the_last():
    # Steps of 0.8 from 0 jump over the top at 0.3 for ever.
    x, y = np.zeros((1, 1), np.float32), np.array([1])
    attack = BIM(norm="l2", steps=8, step_size=0.8, constraint="maximum", bounds=None)
    moved = moved_by(attack, bump, x, y, 2.0)
    assert abs(moved[0, 0] - 0.3) <= 0.5 + 1e-6
    assert bump(moved)[0, 1] <= bump(x)[0, 1] + 1e-6


@pytest.mark.parametrize("attack", [FGSM, functools.partial(BIM, steps=5)], ids=["FGSM", "BIM"])
def test_input_itself_is_no_answer_where_the_norm_is_to_be_exact(attack):
    x, y = np.full((1, 1), 0.3, np.float32), np.array([1])
    moved = moved_by(attack(norm="l2", bounds=None), bump, x, y, 1.0)
    np.testing.assert_allclose(np.abs(moved - x), 1.0, rtol=1e-6)
    stays = moved_by(attack(norm="l2", constraint="maximum", bounds=None), bump, x, y, 1.0)
    assert np.array_equal(stays, x)


def two_cliffs(x):
    """Class 1 is right only between -2 and 4: the gradient at either end leads away from it."""
    return tf.concat([tf.zeros_like(x), tf.minimum(x + 2, 4 - x)], axis=1)


def test_antipodal_pairs_find_the_far_point_in_one_dimension():
    x, y = np.full((40, 1), 1.5, np.float32), np.ones(40, np.int32)
    settings = {"norm": "l2", "steps": 1, "step_size": 0.01, "bounds": None}
    pair = moved_by(PGD(restarts=2, **settings), two_cliffs, x, y, 3.0)
    assert np.all(pair == 4.5)  # Wrong there, and right at -1.5.
    single = moved_by(PGD(restarts=1, **settings), two_cliffs, x, y, 3.0)
    assert set(np.ravel(single)) == {-1.5, 4.5}


def mlp():
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(16, "tanh"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3),
        ]
    )


def loss_gradient(model, x, y):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        logits = model(x, training=False)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
    return tape.gradient(loss, x).numpy()


@pytest.mark.parametrize(("goal", "sign"), [("maximize", 1), ("minimize", -1)])
def test_fgsm_has_a_closed_form(goal, sign):
    model, (x, y) = mlp(), points()
    gradient = loss_gradient(model, x, y)
    linf = moved_by(FGSM(goal=goal, bounds=None), model, x, y, 0.5)
    np.testing.assert_allclose(linf, x + sign * 0.5 * np.sign(gradient), rtol=1e-6)
    l2 = moved_by(FGSM(norm="l2", goal=goal, bounds=None), model, x, y, 0.5)
    unit = gradient / np.linalg.norm(gradient, axis=1, keepdims=True)
    np.testing.assert_allclose(l2, x + sign * 0.5 * unit, rtol=1e-5, atol=1e-6)


def test_fgsm_in_a_box_is_cut():
    model, (x, y) = mlp(), points()
    x = np.clip(x, -1, 1)
    moved = moved_by(FGSM(constraint="maximum", bounds=(-1.0, 1.0)), model, x, y, 0.5)
    expected = np.clip(x + 0.5 * np.sign(loss_gradient(model, x, y)), -1, 1)
    np.testing.assert_allclose(moved, expected, rtol=1e-6)


def test_bim_adds_up_its_steps():
    x, y = points()
    attack = BIM(steps=3, step_size=0.1, constraint="maximum", bounds=None)
    away = np.where(y == 1, -1.0, 1.0)[:, None] * np.sign(WEIGHTS)
    for magnitude, length in ((1.0, 0.3), (0.25, 0.25)):
        moved = moved_by(attack, two_classes, x, y, magnitude)
        np.testing.assert_allclose(moved, x + length * away, rtol=1e-5, atol=1e-6)


def test_bim_of_one_full_step_is_fgsm():
    model, (x, y) = mlp(), points()
    one = moved_by(BIM(norm="l2", steps=1, bounds=None), model, x, y, 0.5)
    assert np.array_equal(one, moved_by(FGSM(norm="l2", bounds=None), model, x, y, 0.5))


@pytest.mark.parametrize("norm", NORMS)
def test_seed_decides_where_attacks_start(norm):
    x, y = points()

    def run(seed):
        attack = PGD(norm=norm, steps=1, step_size=1e-3, bounds=None)
        return moved_by(attack, two_classes, x, y, 1.0, seed=(seed, 0))

    assert np.array_equal(run(1), run(1))
    assert not np.array_equal(run(1), run(2))


def test_sweep_stacks_what_calls_give():
    x, y = points()
    attack = BIM(norm="l2", steps=4, bounds=None)
    sweep = attack.sweep(two_classes, x, y, [0.5, 0.1, 2.0])
    assert sweep.shape == (3, 8, 5)
    for magnitude, moved in zip([0.5, 0.1, 2.0], sweep, strict=True):
        np.testing.assert_allclose(
            moved, attack(two_classes, x, y, magnitude), rtol=1e-5, atol=1e-6
        )


def test_one_trace_serves_all_magnitudes_batch_sizes_and_sweeps():
    attack, classifier = PGD(norm="l2", steps=2, bounds=None), Traced()
    x, y = points()
    attack(classifier, x, y, 1.0)
    traced = classifier.calls
    assert traced > 0
    attack(classifier, x, y, 2.0)
    attack(classifier, x, y, np.linspace(0, 1, 8))
    attack(classifier, x[:3], y[:3], 2)
    attack.sweep(classifier, x, y, [0, 1])
    attack.sweep(classifier, x[:5], y[:5], np.arange(7))
    assert classifier.calls == traced


def test_weights_are_read_when_the_attack_runs():
    model, (x, y) = mlp(), points()
    attack = FGSM(norm="l2", bounds=None)
    before = attack(model, x, y, 0.5)
    model.layers[-1].set_weights([-w for w in model.layers[-1].get_weights()])
    after = attack(model, x, y, 0.5).numpy()
    expected = FGSM(norm="l2", bounds=None)(model, x, y, 0.5)
    assert np.array_equal(after, expected)
    assert not np.allclose(before, after, atol=1e-2)


def test_model_that_is_not_built_yet_can_be_attacked():
    x, y = points()
    model = keras.Sequential([keras.layers.Dense(4, "tanh"), keras.layers.Dense(2)])
    moved = FGSM(bounds=None)(model, x, y, 0.5)
    np.testing.assert_allclose(geometry.norm(moved - x, "linf"), 0.5, rtol=1e-5)


def test_attack_is_part_of_a_data_pipeline_and_works_outside_it_afterwards():
    x, y = points(12)
    attack = BIM(norm="linf", steps=2, bounds=None)
    expected = attack(two_classes, x, y, 0.5)
    fresh = BIM(norm="linf", steps=2, bounds=None)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(5)
    moved = [batch.numpy() for batch in data.map(lambda x, y: fresh(two_classes, x, y, 0.5))]
    np.testing.assert_allclose(np.concatenate(moved), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(fresh(two_classes, x, y, 0.5), expected, rtol=1e-6, atol=1e-6)


def test_random_starts_differ_from_batch_to_batch_of_a_pipeline():
    x, y = np.zeros((6, 5), np.float32), np.zeros(6, np.int64)
    attack = PGD(norm="linf", steps=1, step_size=1e-3, bounds=None)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(2)
    moved = [batch.numpy() for batch in data.map(lambda x, y: attack(two_classes, x, y, 0.5))]
    assert not np.array_equal(moved[0], moved[1])


def test_compiled_by_xla_success_ends_the_attack():
    x, y = images()
    y = np.argmax(ten_classes(tf.constant(x)), axis=-1)
    attack = PGD(norm="linf", steps=20, loss="dlr", early_stop=True)
    first = tf.ones_like(x) * (np.arange(6) % 2).reshape(6, 1, 1, 1)

    @tf.function(jit_compile=True, autograph=False)
    def run():
        return attack.perturb(
            ten_classes,
            tf.constant(x),
            tf.constant(y),
            0.3,
            tf.constant([1, 2]),
            initial_perturbation=first,
        )

    moved = run()
    assert_exact_and_inside(x, moved, "linf", 0.3)
    assert np.all(np.argmax(ten_classes(moved), axis=-1) != y)


def test_labels_may_be_probabilities_or_a_column():
    x, y = points()
    attack = FGSM(bounds=None)
    expected = attack(two_classes, x, y, 1.0)
    np.testing.assert_allclose(attack(two_classes, x, np.eye(2)[y], 1.0), expected, rtol=1e-6)
    assert np.array_equal(attack(two_classes, x, y[:, None], 1.0), expected)


def test_inputs_keep_their_float_type():
    x, y = points()
    attack = FGSM(bounds=None)
    assert attack(two_classes, x.astype(np.float64), y, 1.0).dtype == tf.float64
    assert attack(two_classes, np.ones((8, 5), np.uint8), y, 1.0).dtype == tf.float32


def test_classifier_that_gives_nan_is_not_hidden():
    def broken(x):
        return tf.concat([x, tf.where(x > 0, np.nan, x)], axis=1)

    x, y = np.zeros((20, 1), np.float32), np.zeros(20, np.int32)
    moved = moved_by(PGD(norm="l2", steps=1, restarts=2, bounds=None), broken, x, y, 1.0)
    assert np.all(moved == 1.0)


def test_gradient_that_is_not_finite_leads_nowhere():
    # The derivative at -1 is infinity times 0.
    def kinked(x):
        return tf.concat([tf.zeros_like(x) - 1.0, tf.sqrt(tf.square(x + 1))], axis=1)

    x, y = np.zeros((20, 1), np.float32), np.ones(20, np.int32)
    moved = moved_by(PGD(norm="l2", steps=3, restarts=2, bounds=None), kinked, x, y, 1.0)
    assert np.all(moved == -1.0)


def test_toy_classifier_is_beaten_from_both_sides():
    # f2 says class 0 between -4 and 0 only. Farther from its boundaries, the loss is larger.
    x = np.array([[-1.1], [-1.9], [1.1], [1.9]], np.float32)
    y = np.array([0, 0, 1, 1])
    attack = PGD(norm="l2", steps=1, restarts=2, bounds=None)
    moved = moved_by(attack, datasets.toy_classifier("f2"), x, y, 5.75)
    np.testing.assert_allclose(moved, [[4.65], [3.85], [-4.65], [-3.85]], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"magnitude": -1.0}, r"`magnitude` must be .* Received: \[-1.0\]"),
        ({"magnitude": np.nan}, "`magnitude` must be finite"),
        ({"magnitude": [1.0, 2.0]}, r"`magnitude` must be a scalar.* 8 .* Received: shape \(2,\)"),
        ({"magnitude": np.ones((8, 1))}, "`magnitude` must be a scalar"),
        ({"x": np.full((8, 5), 1.5)}, r"`x` must lie inside .*\(0.0, 1.0\).* 1.5"),
        ({"x": np.full((8, 5), np.nan)}, "`x` must be finite"),
        ({"x": np.zeros((0, 5)), "y": np.zeros(0, np.int32)}, "`x` must hold at least one sample"),
        ({"y": np.zeros(3, np.int32)}, "`y` must hold one label a sample"),
        ({"y": np.full(8, -1)}, "`y` must hold labels"),
        ({"classifier": lambda x: x[:, 0]}, r"`classifier` must map .* Received: shape \(8,\)"),
        ({"classifier": lambda x: x[:, :1]}, "`classifier` must map .* at least two classes"),
    ],
)
def test_bad_calls_are_refused(change, message):
    arguments = {
        "classifier": two_classes,
        "x": np.full((8, 5), 0.5),
        "y": np.zeros(8, np.int32),
        "magnitude": 0.1,
    }
    with pytest.raises(ValueError, match=message):
        PGD(steps=1)(**{**arguments, **change})


def test_labels_that_are_no_integers_are_refused():
    with pytest.raises(
        TypeError, match=r"`y` must hold integer labels.* float32 labels with fractions"
    ):
        PGD(steps=1)(two_classes, np.full((2, 5), 0.5), np.full(2, 0.5, np.float32), 0.1)


@pytest.mark.parametrize("magnitudes", [[], [-1.0], [np.inf], [[1.0, 2.0]], ["far"]])
def test_bad_sweeps_are_refused(magnitudes):
    with pytest.raises(ValueError, match="`magnitudes` must be"):
        PGD(steps=1).sweep(two_classes, np.full((2, 5), 0.5), np.zeros(2, np.int32), magnitudes)
