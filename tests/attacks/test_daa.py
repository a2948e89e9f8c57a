import numpy as np
import pytest
import tensorflow as tf

from lexirobust.attacks import DAA, PGD
from tests.attacks.linear import DUAL, WEIGHTS, points, two_classes

VARIANTS = ["blob", "dgf"]
SEED = tf.constant([0, 1])


def flow(x, gradient, variant, weight):
    """The authors' two updates, pair by pair."""
    count = len(x)
    squares = np.array([[np.sum((a - b) ** 2) for b in x] for a in x])
    log = np.log(count if variant == "blob" else count + 1)
    bandwidth = 0.5 * np.median(squares) / log
    result = gradient.copy()
    for i in range(count):
        for j in range(count):
            kernel, apart = np.exp(-squares[i, j] / (2 * bandwidth)), x[i] - x[j]
            if variant == "blob":
                result[i] += weight / count * kernel * (gradient[j] - apart / bandwidth)
            else:
                result[i] -= weight * (squares[i, j] / (2 * bandwidth) - 1) * kernel * apart
    return result


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("count", [2, 3, 10])
@pytest.mark.parametrize("weight", [None, 3.0])
def test_direction_is_the_published_one(variant, count, weight):
    x, gradient = np.random.default_rng(count).normal(size=(2, count, 3, 2))
    expected = flow(
        x.reshape(count, -1),
        gradient.reshape(count, -1),
        variant,
        weight or {"blob": 1.1, "dgf": 0.001}[variant],
    )
    mixed = DAA(variant, weight).combine_gradients(tf.constant(x), [tf.constant(gradient)])
    np.testing.assert_allclose(mixed, expected.reshape(x.shape), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_far_from_the_origin_distances_keep_their_digits(variant):
    x, gradient = np.random.default_rng(0).normal(size=(2, 6, 4))
    expected = flow(x, gradient, variant, 5.0)
    far = tf.constant(x + 100, tf.float32)
    mixed = DAA(variant, 5.0).combine_gradients(far, [tf.constant(gradient, tf.float32)])
    np.testing.assert_allclose(mixed, expected, atol=1e-3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_samples_do_to_one_another_adds_up_to_nothing(variant):
    x = tf.constant(points(20)[0])
    moved = DAA(variant, 10.0).combine_gradients(x, [tf.zeros_like(x)]).numpy()
    assert np.abs(moved).max() > 0.1
    np.testing.assert_allclose(moved.sum(axis=0), 0.0, atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_samples_at_one_point_stay_together(variant):
    x = tf.ones((4, 3))
    gradient = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    mixed = DAA(variant, 2.0).combine_gradients(x, [tf.constant(gradient)])
    shared = 2.0 * gradient.mean(axis=0) if variant == "blob" else 0.0
    np.testing.assert_allclose(mixed, gradient + shared, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_samples_overflow_does_not_reach_the_others(variant):
    x, _ = points(5)
    gradient = np.ones_like(x)
    gradient[0] = np.nan
    mixed = DAA(variant).combine_gradients(tf.constant(x), [tf.constant(gradient)])
    assert np.all(np.isfinite(mixed))


@pytest.mark.parametrize("variant", VARIANTS)
def test_compiled_by_xla_the_direction_is_the_same(variant):
    x, gradient = tf.constant(np.random.default_rng(0).normal(size=(2, 7, 3)), tf.float32)
    attack = DAA(variant, 5.0)
    compiled = tf.function(attack.combine_gradients, jit_compile=True, autograph=False)(
        x, [gradient]
    )
    np.testing.assert_allclose(
        compiled, attack.combine_gradients(x, [gradient]), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_sample_that_is_alone_is_attacked_as_by_pgd(variant):
    x, y = (tf.constant(each) for each in points(1))
    settings = {"norm": "l2", "bounds": None, "restarts": 2, "steps": 3}
    moved, plain = (
        attack.perturb(two_classes, x, y, 1.5, SEED)
        for attack in (DAA(variant, **settings), PGD(**settings))
    )
    np.testing.assert_allclose(moved, plain, rtol=1e-5)


@pytest.mark.parametrize(
    ("norm", "variant", "goal", "constraint"),
    [
        ("l1", "blob", "maximize", "exact"),
        ("l1", "dgf", "minimize", "maximum"),
        ("l2", "dgf", "maximize", "exact"),
        ("l2", "blob", "minimize", "maximum"),
        ("linf", "blob", "maximize", "exact"),
        ("linf", "dgf", "minimize", "maximum"),
    ],
)
def test_worst_point_of_a_steep_linear_classifier_is_found(norm, variant, goal, constraint):
    # The steeper, the less the samples' pull on one another counts beside the gradients.
    x, y = points()
    settings = {"norm": norm, "goal": goal, "constraint": constraint, "bounds": None}
    attack = DAA(variant, steps=60, restarts=2, **settings)
    moved = attack(lambda x: 1e3 * two_classes(x), x, y, 1.5).numpy()
    away = np.where((y == 1) == (goal == "maximize"), -1.0, 1.0)
    gain = 1.5 * np.linalg.norm(WEIGHTS, DUAL[norm])
    np.testing.assert_allclose((moved - x) @ WEIGHTS, away * gain, rtol=1e-4)


def sweep(attack, x, y, magnitudes):
    graph = tf.function(attack.sweep_in_graph, autograph=False)
    return graph(two_classes, x, y, tf.constant(magnitudes), SEED)


def test_magnitudes_of_a_sweep_do_not_interact():
    x, y = (tf.constant(each) for each in points())
    attack = DAA("dgf", 1.0, norm="l2", bounds=None, steps=2, random_start=False)
    swept = sweep(attack, x, y, [0.5, 2.0])
    assert swept.shape == (2, 8, 5)
    for magnitude, moved in zip([0.5, 2.0], swept, strict=True):
        np.testing.assert_allclose(
            attack.perturb(two_classes, x, y, magnitude, SEED), moved, rtol=1e-5
        )
    together = PGD.sweep_in_graph(attack, two_classes, x, y, [0.5, 2.0], SEED)
    assert not np.allclose(together, swept, atol=0.01)


def test_magnitudes_of_a_sweep_start_apart():
    x, y = points()
    attack = DAA(norm="l2", bounds=None, steps=1, step_size=1e-6)
    x, y = tf.constant(x), tf.constant(y)
    same = sweep(attack, x, y, [1.0, 1.0])
    assert not np.allclose(same[0], same[1], atol=0.1)
