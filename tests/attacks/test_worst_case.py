"""The worst of several attacks, against each attack alone and closed forms."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from lexirobust.attacks import DAA, FAB, PGD, Spatial, VoronoiCells, VoronoiPGD, WorstCase
from tests.training.by_hand import cross_entropy, five_inputs, tanh_network

NORMS = {"l1": 1.1, "l2": 0.85, "linf": 0.43}
# Without random starts, two calls agree.
ATTACKS = [PGD(norm=norm, steps=5, random_start=False, bounds=None) for norm in NORMS]
UNION = WorstCase(ATTACKS, list(NORMS.values()))
VORONOI = VoronoiPGD(VoronoiCells(np.eye(2, dtype=np.float32)), norm="l2")


@pytest.fixture(scope="module")
def network():
    """One for all tests, which share its graphs."""
    return tanh_network()


@pytest.fixture
def data():
    return five_inputs()


def alone(network, data, share):
    """`[A, N, ...]`: what each attack finds."""
    pairs = zip(ATTACKS, NORMS.values(), strict=True)
    return np.stack([attack(network, *data, share * d).numpy() for attack, d in pairs])


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_each_sample_keeps_what_is_worst_for_it(network, data, share):
    found = alone(network, data, share)
    losses = np.stack([cross_entropy(network(x), data[1]) for x in found])
    chosen = losses.argmax(axis=0)
    assert set(chosen) == {0, 1, 2}
    moved = UNION(network, *data, share)
    np.testing.assert_allclose(moved, found[chosen, np.arange(40)], atol=1e-5)


def test_a_linear_classifier_loses_the_largest_dual_norm():
    # Against the first weights l1 is the worst, against the second linf.
    weights = np.array([(3.0, -1.0, 0.5, 0.1), (1.0, 1.0, 1.0, 1.0)], np.float32)
    magnitudes = {"l1": 1.0, "l2": 0.8, "linf": 0.45}
    attacks = [PGD(norm=norm, steps=40, bounds=None) for norm in magnitudes]

    def margin(inputs):
        """Each sample's by its own weights."""
        return tf.reduce_sum(inputs * tf.gather(weights, tf.range(tf.shape(inputs)[0])), axis=1)

    def linear(inputs):
        return tf.stack([margin(inputs), tf.zeros_like(inputs[:, 0])], axis=1)

    x, y = np.zeros((2, 4), np.float32), np.zeros(2, int)
    moved = WorstCase(attacks, list(magnitudes.values()))(linear, x, y, 1.0)
    lost = [
        magnitudes["l1"] * np.abs(weights).max(axis=1),
        magnitudes["l2"] * np.linalg.norm(weights, axis=1),
        magnitudes["linf"] * np.abs(weights).sum(axis=1),
    ]
    np.testing.assert_allclose(margin(moved), -np.max(lost, axis=0), rtol=1e-3)


def test_sweeps_do_what_calls_do(network, data):
    calls = [UNION(network, *data, share) for share in (1.0, 0.5)]
    np.testing.assert_allclose(UNION.sweep(network, *data, [1.0, 0.5]), calls, atol=1e-5)
    graph = tf.function(lambda x, y: UNION.sweep(network, x, y, [1.0, 0.5]), autograph=False)
    np.testing.assert_allclose(graph(*map(tf.constant, data)), calls, atol=1e-5)


def test_attacks_that_see_a_batch_as_one_see_one_magnitude_at_a_time(network, data):
    attacks = [DAA(steps=3, random_start=False, bounds=None), ATTACKS[2]]
    union = WorstCase(attacks, [0.3, 0.2])
    x, y = map(tf.constant, data)
    seed = tf.constant([1, 2])
    spec = tf.TensorSpec([None], tf.float32)

    @tf.function(autograph=False, input_signature=[spec])
    def sweep(magnitudes):
        return union.sweep_in_graph(network, x, y, magnitudes, seed)

    both, single = sweep([0.5, 1.0]), sweep([0.5])
    np.testing.assert_allclose(both[0], single[0], atol=1e-5)


def test_measure_is_the_smallest_share_that_holds_the_perturbation():
    union = WorstCase([PGD(norm="l2", bounds=None), PGD(norm="linf", bounds=None)], [2.0, 0.5])
    perturbation = np.array([[3.0, 4.0], [0.6, 0.6], [0.0, 0.0]], np.float32)
    np.testing.assert_allclose(
        union.measure(perturbation), [5 / 2, 0.6 * np.sqrt(2) / 2, 0.0], rtol=1e-6
    )
    images = np.ones((2, 3, 3, 1), np.float32)
    assert np.isnan(WorstCase([PGD(), Spatial()], [1.0, 1.0]).measure(images)).all()


def test_feasible_where_all_attacks_have_room():
    union = WorstCase([PGD(norm="l2"), PGD(norm="linf")], [1.0, 0.6])
    x = np.array([[0.5, 0.5], [0.0, 0.0]], np.float32)
    # The farthest corners are at l2 0.71 and 1.41, at linf 0.5 and 1.
    assert union.feasible(x, 1.0).numpy().tolist() == [False, True]
    assert union.feasible(x, 0.7).numpy().tolist() == [True, True]
    assert union.feasible(x, 1.5).numpy().tolist() == [False, False]


def test_accuracy_under_the_union_is_no_higher_than_under_each(network, data):
    x = data[0]
    y = np.argmax(network(x), axis=1)
    curve = lr.evaluate_robustness(network, x, y, UNION, [0, 0.2, 0.5])
    assert curve.accuracy[0] == 1.0
    for attack, own in zip(ATTACKS, NORMS.values(), strict=True):
        single = [cross_entropy(network(attack(network, x, y, d * own)), y) for d in (0, 0.2, 0.5)]
        assert (curve.losses >= np.stack(single) - 1e-5).all()


def test_it_comes_back_from_its_configuration():
    union = WorstCase([PGD(norm="l1", steps=3), Spatial(rotations=3)], [10.0, 2.0], seed=4)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(union))
    assert json.dumps(again.get_config()) == json.dumps(union.get_config())
    assert again.bounds == (0.0, 1.0)


@pytest.mark.parametrize(
    ("attacks", "magnitudes", "error", "match"),
    [
        (ATTACKS[0], [1.0], TypeError, "`attacks` must be a list of attacks"),
        (["pgd", "fgsm"], [1.0, 1.0], TypeError, "`attack` must be an attack.*'pgd'"),
        ([FAB("l2"), PGD()], [1.0, 1.0], TypeError, r"FAB, .*WithinMagnitude\(FAB"),
        ([VORONOI, PGD()], [1.0, 1.0], ValueError, "count all samples.*'VoronoiPGD'"),
        (ATTACKS[:1], [1.0], ValueError, "`attacks` must be at least two"),
        (ATTACKS, [1.0, 2.0], ValueError, r"`magnitudes` must hold .* 3 attacks.*\[1.0, 2.0\]"),
        (ATTACKS[:2], [1.0, 0.0], ValueError, r"`magnitudes` must hold .* above 0.*\[1.0, 0.0\]"),
        (ATTACKS[:2], [1.0, np.nan], ValueError, "`magnitudes` must be finite.*nan"),
        ([PGD(), PGD(goal="minimize")], [1.0, 1.0], ValueError, "`attacks` must have goal="),
        ([PGD(), PGD(bounds=None)], [1.0, 1.0], ValueError, "the same `bounds`.*None"),
    ],
)
def test_other_settings_are_refused(attacks, magnitudes, error, match):
    with pytest.raises(error, match=match):
        WorstCase(attacks, magnitudes)
