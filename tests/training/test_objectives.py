import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from lexirobust.training.objectives import Batch
from lexirobust.training.step.perturbation import perturb
from tests.training.by_hand import (
    ATTACK,
    adversarial,
    cross_entropy,
    divergence,
    log_softmax,
    right_network,
    worst,
)

SEED = tf.constant([1, 2])


@pytest.fixture
def batch():
    x, y = lr.datasets.toy(12, seed=0)
    return Batch(tf.constant(x), tf.constant(y))


def score(y, logits, sample_weight):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return loss(y, logits, sample_weight)


@pytest.mark.parametrize("sample_weight", [None, np.linspace(0, 2, 12, dtype=np.float32)])
def test_divergence_is_kullback_leibler(batch, sample_weight):
    classifier = right_network()
    batch = batch._replace(sample_weight=sample_weight)
    seen = batch.x + 1.7
    loss, logits = lr.objectives.Divergence(ATTACK, 1.7).loss(classifier, batch, seen, score)
    each = divergence(classifier(batch.x), classifier(seen))
    assert float(loss) == pytest.approx(
        np.mean(each * (1 if sample_weight is None else sample_weight)), rel=1e-5
    )
    assert np.array_equal(logits, classifier(seen))


def test_divergence_is_zero_where_nothing_moves(batch):
    loss, _ = lr.objectives.Divergence(ATTACK, 1.0).loss(right_network(), batch, batch.x, score)
    assert float(loss) == 0.0


def test_target_of_the_divergence_is_the_clean_prediction(batch):
    classifier = right_network()
    target = lr.objectives.Divergence(ATTACK, 1.0).target(classifier, batch)
    assert np.allclose(target, np.exp(log_softmax(classifier(batch.x))), atol=1e-6)


@pytest.mark.parametrize(
    "objective", [lr.objectives.Natural(), lr.objectives.Adversarial(ATTACK, 2.0)]
)
def test_compiled_loss_is_taken_where_the_objective_sees(batch, objective):
    classifier = right_network()
    seen = batch.x - 2.0
    loss, logits = objective.loss(classifier, batch, seen, score)
    assert float(loss) == pytest.approx(np.mean(cross_entropy(classifier(seen), batch.y.numpy())))
    assert np.array_equal(logits, classifier(seen))


class Spy(lr.attacks.PGD):
    """Notes its sweeps, and moves by the magnitude times the number of the sweep."""

    def __init__(self):
        super().__init__(norm="linf", bounds=None)
        self.sweeps, self.seeds = [], []

    def sweep_in_graph(self, classifier, x, y, magnitudes, seed):
        self.sweeps.append(list(magnitudes))
        self.seeds.append(seed.numpy().tolist())
        return tf.stack([x + d * len(self.sweeps) for d in magnitudes])


def test_objectives_that_share_attack_and_target_are_perturbed_in_one_sweep(batch):
    first, second = Spy(), Spy()
    terms = [
        lr.objectives.Adversarial(first, 1.0),
        lr.objectives.Natural(),
        lr.objectives.Divergence(first, 2.0),
        lr.objectives.Adversarial(second, 3.0),
        lr.objectives.Adversarial(first, 4.0),
    ]
    seen = perturb(terms, right_network(), batch, SEED)
    assert (first.sweeps, second.sweeps) == ([[1.0, 4.0], [2.0]], [[3.0]])
    moved = [float(tf.reduce_mean(inputs - batch.x)) for inputs in seen]
    assert moved == pytest.approx([1.0, 0.0, 4.0, 3.0, 4.0], abs=1e-6)
    seeds = [*first.seeds, *second.seeds]
    assert all(seeds[i] != seeds[j] for i in range(3) for j in range(i))


def test_each_objective_sees_its_own_worst_points(batch):
    classifier = right_network()
    x, y = batch.x.numpy(), batch.y.numpy()
    terms = [
        lr.objectives.Adversarial(ATTACK, 4.0),
        lr.objectives.Divergence(ATTACK, 1.5),
        lr.objectives.Adversarial(ATTACK, 2.5),
    ]
    clean = classifier(x)
    expected = [
        adversarial(classifier, x, y, 4.0),
        worst(classifier, x, 1.5, lambda logits: divergence(clean, logits)),
        adversarial(classifier, x, y, 2.5),
    ]
    for seen, own in zip(perturb(terms, classifier, batch, SEED), expected, strict=True):
        assert np.allclose(seen, own, atol=1e-5)


def test_weighted_sum_holds_weighted_terms():
    parts = [lr.objectives.Natural(), lr.objectives.Adversarial(ATTACK, 1.0)]
    both = lr.objectives.WeightedSum(parts, [1, 3])
    assert both.name == "natural+l2=1"
    assert both.terms == [(1.0, parts[0]), (3.0, parts[1])]
    assert parts[0].terms == [(1.0, parts[0])]


@pytest.mark.parametrize(
    ("weights", "received"),
    [
        ([1.0], "1 weights for 2"),
        ([1.0, -0.5], r"\[1.0, -0.5\]"),
        ([1.0, np.nan], "nan"),
        ([1.0, np.inf], "inf"),
    ],
)
def test_weighted_sum_refuses_other_weights(weights, received):
    parts = [lr.objectives.Natural(), lr.objectives.Adversarial(ATTACK, 1.0)]
    with pytest.raises(ValueError, match=f"`weights` must .*{received}"):
        lr.objectives.WeightedSum(parts, weights)


def test_balanced_sum_gives_each_loss_its_share():
    parts = [lr.objectives.Natural(), lr.objectives.Adversarial(ATTACK, 1.0)]
    both = lr.objectives.BalancedSum(parts)
    assert both.name == "natural+l2=1"
    for losses, expected in (
        ([1.0, 3.0], [0.25, 0.75]),
        ([0.0, 2.0], [0.0, 1.0]),
        ([0.0, 0.0], [0.5, 0.5]),
        ([-1.0, 2.0], [0.0, 1.0]),
    ):
        assert [float(weight) for weight in both.weigh(tf.constant(losses))] == expected
    losses = tf.constant([1.0, 3.0])
    with tf.GradientTape() as tape:
        tape.watch(losses)
        weights = both.weigh(losses)
    assert tape.gradient(weights, losses) is None


@pytest.mark.parametrize("objectives", [[], [lr.attacks.PGD()]])
def test_balanced_sum_needs_objectives(objectives):
    with pytest.raises(ValueError, match="`objectives` must be a non-empty list of objectives"):
        lr.objectives.BalancedSum(objectives)


@pytest.mark.parametrize("kind", [lr.objectives.Adversarial, lr.objectives.Divergence])
def test_objectives_check_attack_and_magnitude(kind):
    for magnitude in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"`magnitude` must be .*above 0.*{magnitude}"):
            kind(ATTACK, magnitude)
    with pytest.raises(TypeError, match=r"`attack` must be an attack.*'pgd'"):
        kind("pgd", 1.0)


@pytest.mark.parametrize(
    "rank",
    [
        lr.objectives.Natural("clean"),
        lr.objectives.Adversarial(ATTACK, 1.5, name="mine"),
        lr.objectives.Divergence(ATTACK, 2.0),
        lr.objectives.Regularization("penalty"),
        lr.objectives.Output("digit", name="mine"),
        lr.objectives.WeightedSum(
            [lr.objectives.Natural(), lr.objectives.Adversarial(ATTACK, 1.0)], [0.2, 0.8]
        ),
        lr.objectives.BalancedSum([lr.objectives.Natural(), lr.objectives.Divergence(ATTACK, 1.0)]),
        lr.objectives.Adversarial(lr.attacks.WorstCase([ATTACK, ATTACK], [1.0, 2.0], seed=3), 0.5),
    ],
)
def test_objectives_come_back_from_their_configuration(rank):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(rank))
    assert type(again) is type(rank)
    assert again.get_config() == rank.get_config()
    assert [w for w, _ in again.terms] == [w for w, _ in rank.terms]
    assert [t.name for _, t in again.terms] == [t.name for _, t in rank.terms]
    for (_, one), (_, other) in zip(again.terms, rank.terms, strict=True):
        assert one.magnitude == other.magnitude
        assert (one.attack is None) == (other.attack is None)
        if one.attack is not None:
            assert one.attack.get_config() == other.attack.get_config()


class Toward(lr.objectives.Adversarial):
    """Perturbed toward a class of its own."""

    def __init__(self, attack, magnitude, name, wanted):
        super().__init__(attack, magnitude, name)
        self.wanted = wanted

    def target(self, classifier, batch):
        return tf.fill(tf.shape(batch.y), tf.constant(self.wanted, batch.y.dtype))


def test_objectives_that_share_an_attack_have_their_own_targets(batch):
    toward = lr.attacks.PGD(norm="l2", steps=3, restarts=2, goal="minimize", bounds=None, seed=0)
    classifier = right_network()
    terms = [Toward(toward, 1.0, f"to {wanted}", wanted) for wanted in (0, 1)]
    for term, moved in zip(terms, perturb(terms, classifier, batch, SEED), strict=True):
        nearer = classifier(moved).numpy()[:, term.wanted] - classifier(batch.x)[:, term.wanted]
        assert np.all(nearer > 0)


FROM_INPUT = lr.attacks.PGD("l2", steps=5, random_start=False)
STARTS = {
    "FGSM": lr.attacks.FGSM("l2"),
    "BIM": lr.attacks.BIM("l2"),
    "PGD": FROM_INPUT,
    "WorstCase": lr.attacks.WorstCase([lr.attacks.PGD("l2"), FROM_INPUT], [1.0, 1.0]),
}


@pytest.mark.parametrize("attack", STARTS.values(), ids=STARTS)
def test_a_divergence_needs_a_random_start(attack):
    with pytest.raises(ValueError, match="`attack` must have a random start"):
        lr.objectives.Divergence(attack, 1.0)
    with pytest.raises(ValueError, match="`attack` must have a random start"):
        lr.TRADES(right_network(), attack, 1.0)
    lr.objectives.Adversarial(attack, 1.0)  # Labels have a gradient there.


def test_a_divergence_takes_attacks_that_move_their_start():
    for attack in (
        lr.attacks.PGD("l2", steps=1),
        lr.attacks.IntervalAttack(random_start=False),
        lr.attacks.Square(),
    ):
        assert lr.objectives.Divergence(attack, 1.0).attack is attack
