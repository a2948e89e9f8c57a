"""All works, and gives the same, while TensorFlow reports whatever is not finite."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from lexirobust import attacks, gem
from lexirobust.attacks import geometry, graph_cache
from lexirobust.geometry import hyperplanes as hyperplane
from lexirobust.geometry.nearest_neighbors import nearest
from tests.attacks import test_contract as contract
from tests.training.by_hand import ATTACK, METHODS, compiled, fit, network, right_network, weights

pytestmark = pytest.mark.release

# Fewer operations than elsewhere: with checks, each is several.
SHORT = {"steps": 1, "restarts": 1, "rotations": 1}


@contextlib.contextmanager
def checked():
    """What is traced inside has checks, and is not kept."""
    graph_cache.clear()
    tf.debugging.enable_check_numerics()
    try:
        yield
    finally:
        tf.debugging.disable_check_numerics()
        graph_cache.clear()


def both(call):
    """What a call gives without checks, and what it gives with them."""
    usual = call()
    with checked():
        return usual, call()


def check_alike(call):
    for one, other in zip(*map(tf.nest.flatten, both(call)), strict=True):
        np.testing.assert_array_equal(one, other)


@contract.kinds()
def test_attack(kind):
    names = contract.settings_of(kind).keys() & {*SHORT, *contract.FEW[kind]}
    attack = contract.make(kind, **{name: SHORT[name] for name in names & SHORT.keys()})
    x, y = (tf.constant(each) for each in contract.images())
    seed = keras.random.SeedGenerator(3).next()
    usual, moved = both(lambda: contract.perturbed(attack, x, y, seed=seed))
    np.testing.assert_array_equal(moved, usual)
    if kind is attacks.AutoAttack:  # Its calls leave the graph, and draw other seeds.
        with attack.drawing_from(3):
            usual = contract.called(attack)
    with checked(), attack.drawing_from(3):
        np.testing.assert_allclose(contract.called(attack), usual, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("norm", "dtype"), [("l1", "float64"), ("l2", "half"), ("linf", "half")])
def test_geometry(norm, dtype):
    rng = np.random.default_rng(0)
    x, center = (tf.constant(rng.uniform(-1, 1, (6, 5)).astype(dtype)) for _ in range(2))
    # Boxes with room for the radius, without, and with some where coordinates change side.
    box = geometry.box_around(x, (-1.0, 1.0))
    radius = tf.constant([0.0, 0.5, 1.0, 2.0, 5.0, 9.0], dtype)
    boundaries = hyperplane.Boundaries(
        tf.constant(rng.normal(size=(6, 3, 5)).astype(dtype)),
        tf.constant(rng.normal(size=(6, 3)).astype(dtype)),
        tf.constant(rng.uniform(size=(6, 3)) < 0.7),
    )
    check_alike(
        lambda: [
            *[geometry.project_sphere(x, radius, norm, each) for each in (box, None)],
            *[geometry.project_ball(x, radius, norm, each) for each in (box, None)],
            *[geometry.farthest(each, x, norm) for each in (box, None)],
            geometry.leave_ball(x, center, 0.5, norm, 2.0),
            hyperplane.nearest(boundaries, box, norm),
            nearest(x, x, norm, other_than=tf.range(6)),
        ]
    )


def one_class(x):
    return tf.stack([0.0 * x[:, 0] + 2.0, 0.0 * x[:, 0]], axis=1)


def test_what_is_no_finite_number_on_purpose_is_no_fault():
    x = contract.images()[0]
    union = attacks.WorstCase([attacks.FGSM(), attacks.Spatial()], [1.0, 1.0])
    model = METHODS["nearest"](network())
    model.adapt(np.zeros((1, 1), np.float32))
    deepfool = attacks.DeepFool(bounds=None)
    check_alike(
        lambda: [
            union.measure(x),
            attacks.Flow().measure(x),
            model.log_unexplored([[9.0], [0.0]], 1.0),
            deepfool(one_class, [[1.0]], [0]),
            lr.negative_adversarial_remover(one_class, [[1.0]], deepfool, [0.5, 0.5]),
        ]
    )


@pytest.mark.parametrize("priors", [None, [0.2, 0.3, 0.5]])
def test_interpretation(priors):
    matrix, x = (np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32) for n in (3, 6))
    method = attacks.DeepFool(bounds=None)
    check_alike(lambda: lr.nearest_boundary(lambda x: x @ matrix.T, x, method, priors))


def test_evaluation_with_its_flags():
    x, y = contract.images()

    def call():
        attack = attacks.FGSM("linf", bounds=None)
        curve = lr.evaluate_robustness(contract.network(), x, y, attack, [0.0, 0.1])
        outcomes = [curve.correct, curve.losses, curve.norms, curve.feasible, curve.valid]
        return outcomes, [[flag.name, flag.message] for flag in curve.flags]

    check_alike(call)


def trained(model, **options):
    """A model's weights after some steps."""
    keras.utils.set_random_seed(0)
    x, y = lr.datasets.toy(20, seed=0)
    fit(model, x, y, **options)
    return weights(model)


def test_training_in_a_graph():
    """With all that is compiled."""

    def call():
        options = {"memory": lr.RunningMean(), "warm_start": lr.WarmStart()}
        model = lr.OLSRC(right_network(), ATTACK, [4.0], **options)
        return trained(compiled(model, optimizer="adam", run_eagerly=False), epochs=3)

    check_alike(call)


@pytest.mark.parametrize("method", ["olgrc", "nearest"])
def test_training_step(method):
    check_alike(lambda: trained(compiled(METHODS[method](right_network()))))


def test_programs_compile():
    # Of a length that no other test has compiled them for.
    rows = np.random.default_rng(0).normal(size=(2, 2**16 + 3))
    with checked():
        gram = gem.gramian([[tf.constant(row)] for row in rows])
        combined = gem.combine(rows, [0.5, 0.5])[0]
    np.testing.assert_allclose(gram, rows @ rows.T)
    np.testing.assert_allclose(combined, rows.mean(axis=0), atol=1e-12)


@pytest.mark.parametrize("in_graph", [False, True])
def test_fault_of_a_classifier_is_reported(in_graph):
    def classifier(x):
        return tf.math.log(x[:, :2] - 9.0)

    def call():
        x, y = tf.fill((2, 3), 0.5), tf.constant([0, 1])
        return attacks.FGSM("linf").perturb(classifier, x, y, 0.1, tf.constant([1, 2]))

    called = tf.function(call, autograph=False) if in_graph else call
    with checked(), pytest.raises(tf.errors.InvalidArgumentError, match=r'op "Log"'):
        called()
