import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from lexirobust.names import magnitude_name
from tests.training.by_hand import (
    ATTACK,
    METHODS,
    adversarial,
    compiled,
    cross_entropy,
    divergence,
    fit,
    five_inputs,
    gradient,
    loss_at,
    network,
    onestep,
    right_network,
    tanh_network,
    weights,
    worst,
)


@pytest.fixture
def data():
    return lr.datasets.toy(20, seed=0)


def assert_one_step(model, data, row, rate=0.1):
    before = weights(model)
    logs = fit(compiled(model, rate), *data)
    assert np.allclose(weights(model), before - rate * row, atol=1e-6)
    return logs


def test_standard_descends_on_the_natural_loss(data):
    model = lr.Standard(right_network())
    row, value = gradient(model.classifier, loss_at(model.classifier, *data))
    logs = assert_one_step(model, data, row)
    assert logs["loss"] == pytest.approx(value)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_adversarial_training_descends_on_the_weighted_sum(data, alpha):
    x, y = data
    model = lr.AdversarialTraining(right_network(), ATTACK, 4.0, alpha=alpha)
    seen = adversarial(model.classifier, x, y, 4.0)
    natural, clean = gradient(model.classifier, loss_at(model.classifier, x, y))
    other, attacked = gradient(model.classifier, loss_at(model.classifier, seen, y))
    logs = assert_one_step(model, data, alpha * natural + (1 - alpha) * other)
    assert logs["loss"] == pytest.approx(alpha * clean + (1 - alpha) * attacked)
    assert logs["loss@natural"] == pytest.approx(clean)
    assert logs["loss@l2=4"] == pytest.approx(attacked)


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_trades_descends_on_the_natural_loss_and_the_divergence(data, beta):
    x, y = data
    y[::2] = 1 - y[::2]  # So that the labels and the prediction lead to different points.
    model = lr.TRADES(right_network(), ATTACK, 1.5, beta=beta)
    classifier = model.classifier
    clean = classifier(x)
    seen = worst(classifier, x, 1.5, lambda logits: divergence(clean, logits))
    assert not np.array_equal(seen, adversarial(classifier, x, y, 1.5))

    def loss():
        p, q = (tf.nn.log_softmax(classifier(inputs)) for inputs in (x, seen))
        kl = tf.reduce_mean(tf.reduce_sum(tf.exp(p) * (p - q), axis=1))
        return loss_at(classifier, x, y)() + beta * kl

    row, total = gradient(classifier, loss)
    kl = np.mean(divergence(clean, classifier(seen)))
    logs = assert_one_step(model, data, row)
    assert logs["loss@l2=1_5"] == pytest.approx(kl, rel=1e-5)
    assert logs["loss"] == pytest.approx(total, rel=1e-5)
    assert logs["loss"] == pytest.approx(np.mean(cross_entropy(clean, y)) + beta * kl, rel=1e-5)


def test_mixtrain_weighs_each_loss_by_its_share(data):
    x, y = data
    model = lr.MixTrain(right_network(), ATTACK, 4.0)
    seen = adversarial(model.classifier, x, y, 4.0)
    natural, clean = gradient(model.classifier, loss_at(model.classifier, x, y))
    other, attacked = gradient(model.classifier, loss_at(model.classifier, seen, y))
    share = attacked / (clean + attacked)
    assert share > 0.6
    logs = assert_one_step(model, data, (1 - share) * natural + share * other)
    assert logs["loss"] == pytest.approx((1 - share) * clean + share * attacked, rel=1e-5)
    # The classifier has moved, and so have the weights.
    natural, clean = gradient(model.classifier, loss_at(model.classifier, x, y))
    seen = adversarial(model.classifier, x, y, 4.0)
    other, attacked = gradient(model.classifier, loss_at(model.classifier, seen, y))
    assert attacked / (clean + attacked) != pytest.approx(share, abs=1e-3)
    share = attacked / (clean + attacked)
    before = weights(model)
    fit(model, x, y)
    expected = before - 0.1 * ((1 - share) * natural + share * other)
    assert np.allclose(weights(model), expected, atol=1e-6)


@pytest.mark.parametrize("safeguard", [False, True])
def test_a_balanced_first_rank_is_safeguarded_by_the_weights_of_the_step(data, safeguard):
    x, y = data
    first = lr.objectives.BalancedSum(
        [lr.objectives.Natural(), lr.objectives.Adversarial(ATTACK, 2.5)]
    )
    ranks = [first, lr.objectives.Adversarial(ATTACK, 4.0)]
    model = compiled(lr.LexicographicModel(right_network(), ranks, safeguard=safeguard), rate=20.0)
    each = [x, adversarial(model.classifier, x, y, 2.5)]
    losses = [[np.mean(cross_entropy(model.classifier(seen), y)) for seen in each]]
    shares = losses[0] / np.sum(losses[0])
    fit(model, x, y)
    losses.append([np.mean(cross_entropy(model.classifier(seen), y)) for seen in each])
    old, new = np.array(losses) @ shares
    if safeguard:
        assert new <= old + 1e-6
    else:
        assert new > old + 1.0


NORMS = ("l1", "l2", "linf")
# Each is the worst for some of the samples below. Without random starts, two calls agree.
RADII = (1.1, 0.85, 0.43)
FROM_INPUT = [
    lr.attacks.PGD(norm=norm, steps=10, random_start=False, bounds=None) for norm in NORMS
]


@pytest.fixture
def space():
    return five_inputs()


@pytest.fixture
def found(space):
    """A classifier, and for each attack the perturbed inputs."""
    classifier = tanh_network()
    pairs = zip(FROM_INPUT, RADII, strict=True)
    return classifier, [attack(classifier, *space, radius).numpy() for attack, radius in pairs]


def worst_of(classifier, found, y):
    losses = np.stack([cross_entropy(classifier(seen), y) for seen in found])
    assert set(losses.argmax(axis=0)) == set(range(len(found)))
    return np.stack(found)[losses.argmax(axis=0), np.arange(len(y))]


@pytest.mark.parametrize("alpha", [pytest.param(0.0, marks=pytest.mark.release), 0.3])
def test_max_descends_where_each_sample_is_worst(space, found, alpha):
    classifier, each = found
    seen = worst_of(classifier, each, space[1])
    natural, clean = gradient(classifier, loss_at(classifier, *space))
    other, attacked = gradient(classifier, loss_at(classifier, seen, space[1]))
    model = lr.MultiPerturbationTraining(classifier, FROM_INPUT, RADII, "max", alpha=alpha)
    logs = assert_one_step(model, space, alpha * natural + (1 - alpha) * other)
    assert logs["loss@max"] == pytest.approx(attacked, rel=1e-4)
    assert logs["loss"] == pytest.approx(alpha * clean + (1 - alpha) * attacked, rel=1e-4)


def test_avg_descends_on_the_mean_of_all_attacks(space, found):
    classifier, each = found
    natural, _ = gradient(classifier, loss_at(classifier, *space))
    rows, values = zip(
        *[gradient(classifier, loss_at(classifier, seen, space[1])) for seen in each], strict=True
    )
    model = lr.MultiPerturbationTraining(classifier, FROM_INPUT, RADII, "avg", alpha=0.3)
    logs = assert_one_step(model, space, 0.3 * natural + 0.7 * np.mean(rows, axis=0))
    for norm, radius, value in zip(NORMS, RADII, values, strict=True):
        assert logs[f"loss@{magnitude_name(norm, radius)}"] == pytest.approx(value, rel=1e-4)


def test_attacks_of_one_norm_and_magnitude_are_told_apart():
    kinds = ((lr.attacks.PGD, "l2"), (lr.attacks.FGSM, "l2"), (lr.attacks.PGD, "linf"))
    attacks = [kind(norm, bounds=None) for kind, norm in kinds]
    model = lr.MultiPerturbationTraining(network(), attacks, [2.0, 2.0, 2.0], "avg")
    assert model.objectives[0].name == "natural+l2=2 (1)+l2=2 (2)+linf=2"
    config = model.get_config()
    assert type(model).from_config(config).get_config() == config
    logs = fit(compiled(model), *lr.datasets.toy(20, seed=0))
    assert {f"loss@{name}" for name in ("l2=2 (1)", "l2=2 (2)", "linf=2")} < {*logs}


def test_norms_are_ranked_in_one_ranking(space, found):
    classifier, each = found
    rows = [gradient(classifier, loss_at(classifier, x, space[1]))[0] for x in (space[0], *each)]
    pairs = zip(FROM_INPUT, RADII, strict=True)
    ranks = [lr.objectives.Natural(), *(lr.objectives.Adversarial(*pair) for pair in pairs)]
    model = lr.LexicographicModel(classifier, ranks)
    assert [rank.name for rank in ranks] == ["natural", "l1=1_1", "l2=0_85", "linf=0_43"]
    logs = assert_one_step(model, space, onestep(rows, [1 / 2, 1 / 6, 1 / 6, 1 / 6]))
    assert {f"loss@{magnitude_name(*pair)}" for pair in zip(NORMS, RADII, strict=True)} < {*logs}


def test_a_growing_union_of_norms_is_ranked(space, found):
    classifier, each = found
    halves = [
        attack(classifier, *space, radius / 2).numpy()
        for attack, radius in zip(FROM_INPUT, RADII, strict=True)
    ]
    union = [worst_of(classifier, inputs, space[1]) for inputs in (halves, each)]
    rows = [gradient(classifier, loss_at(classifier, x, space[1]))[0] for x in (space[0], *union)]
    model = lr.OLSRC(classifier, lr.attacks.WorstCase(FROM_INPUT, RADII), [0.5, 1.0])
    assert [rank.name for rank in model.objectives] == ["natural", "worst=0_5", "worst=1"]
    assert_one_step(model, space, onestep(rows, [0.5, 0.25, 0.25]))


def test_adversarial_training_on_clean_inputs_alone_is_standard(data):
    trained = []
    for method in (
        lr.Standard,
        lambda classifier: lr.AdversarialTraining(classifier, ATTACK, 4.0, alpha=1.0),
        lambda classifier: lr.TRADES(classifier, ATTACK, 4.0, beta=0.0),
    ):
        model = compiled(method(right_network()))
        fit(model, *data, epochs=5)
        trained.append(weights(model))
    assert np.allclose(trained[0], trained[1], atol=1e-7)
    assert np.allclose(trained[0], trained[2], atol=1e-7)


def test_all_weight_on_rank_1_is_standard(data):
    model = compiled(lr.OLSRC(right_network(), ATTACK, [1.0, 4.0], alphas=[1.0, 0.0, 0.0]))
    plain = compiled(lr.Standard(right_network()))
    fit(model, *data, epochs=5)
    fit(plain, *data, epochs=5)
    assert np.allclose(weights(model), weights(plain), atol=1e-7)


def test_ranks_and_shares_of_the_methods():
    names = {
        method: [rank.name for rank in make(network()).objectives]
        for method, make in METHODS.items()
    }
    ranked = ["natural", "l2=1", "l2=4"]
    summed = ["natural+l2=4"]
    assert names == {
        "standard": ["natural"],
        "adversarial": summed,
        "trades": summed,
        "mix": summed,
        "max": ["natural+max"],
        "avg": ["natural+l2=1+linf=4"],
        "olsrc": ranked,
        "olgrc": ranked,
        "nearest": ranked,
    }
    assert METHODS["olsrc"](network()).alphas == (0.5, 0.25, 0.25)


@pytest.mark.parametrize("optimizer", [None, "sgd"])
def test_discriminator_learns_in_the_same_step(data, optimizer):
    model = lr.OLGRC(network(), ATTACK, [1.0, 4.0], discriminator_optimizer=optimizer)
    compiled(model, optimizer=keras.optimizers.Adam())
    classifier, discriminator = weights(model.classifier), weights(model.discriminator)
    for step in (1, 2):
        fit(model, *data)
        assert int(model.optimizer.iterations) == step
        assert int(model.discriminator_optimizer.iterations) == step
    assert not np.allclose(weights(model.discriminator), discriminator, atol=1e-4)
    assert not np.allclose(weights(model.classifier), classifier, atol=1e-4)
    # Each optimizer holds the slots of its own network and of nothing else.
    for held, part in (
        (model.optimizer, model.classifier),
        (model.discriminator_optimizer, model.discriminator),
    ):
        assert {v.shape for v in held._trainable_variables} == {
            v.shape for v in part.trainable_variables
        }
        assert len(held._trainable_variables) == len(part.trainable_variables)


def test_discriminator_descends_on_clean_and_perturbed_inputs_from_both_sides(data):
    x, y = data
    model = lr.OLGRC(
        right_network(), ATTACK, [1.0, 4.0], discriminator_optimizer=keras.optimizers.SGD(0.1)
    )
    compiled(model)
    nearer = {}
    for magnitude in (1.0, 4.0):
        # The opponent is the other of the two points.
        seen = adversarial(model.classifier, x, y, magnitude)
        nearer[magnitude] = (seen, 2 * x - seen)
    inputs = np.concatenate([x, x, *nearer[1.0], *nearer[4.0]])
    distances = np.abs(inputs - x[:, 0]).min(axis=1)
    labels = np.sum(distances[:, None] > [0.75, 3.25], axis=1)
    assert np.any(labels < np.repeat([0, 1, 2], 2 * len(x)))  # Of one sample, near another.
    row, value = gradient(model.discriminator, loss_at(model.discriminator, inputs, labels))
    before = weights(model.discriminator)
    logs = fit(model, x, y)
    assert logs["loss@discriminator"] == pytest.approx(value, rel=1e-5)
    assert np.allclose(weights(model.discriminator), before - 0.1 * row, atol=1e-6)


def test_guided_samples_leave_the_explored_region_first(data):
    x, y = data
    # This discriminator holds what lies beyond 3 for unexplored.
    far = keras.Sequential([keras.Input((1,)), Distance(), keras.layers.Dense(2)])
    far.layers[-1].kernel.assign([[0.0, 1.0]])
    far.layers[-1].bias.assign([3.0, 0.0])
    far.trainable = False
    model = compiled(
        lr.OLGRC(right_network(), ATTACK, [3.0], discriminator=far), 0.0, run_eagerly=True
    )
    logs = fit(model, x, y)
    outward = x + 3 * np.sign(x)
    loss = np.mean(cross_entropy(model.classifier(outward), y))
    assert logs["loss@l2=3"] == pytest.approx(loss, rel=1e-5)
    plain = fit(compiled(lr.OLSRC(right_network(), ATTACK, [3.0]), 0.0, run_eagerly=True), x, y)
    assert plain["loss@l2=3"] > loss + 1


@keras.saving.register_keras_serializable(package="tests")
class Distance(keras.layers.Layer):
    """Distance to 0."""

    def call(self, inputs):
        return keras.ops.abs(inputs)


@pytest.mark.parametrize("last", [keras.layers.Dense(2), keras.layers.Flatten()])
def test_discriminator_of_another_shape_is_refused(last):
    discriminator = keras.Sequential([keras.Input((1,)), last])
    with pytest.raises(ValueError, match=r"`discriminator` must map .* \[N, 3\].*Received: output"):
        compiled(lr.OLGRC(network(), ATTACK, [1.0, 4.0], discriminator=discriminator))


def test_olgrc_needs_an_attack_that_follows_gradients():
    class Other(lr.attacks.Attack):
        def perturb(self, classifier, x, y, magnitude, seed):
            return x

        def get_config(self):
            return {}

    # The guided attack knows nothing of their goals, directions or starts.
    for attack in (
        lr.attacks.DAA(),
        lr.attacks.IntervalAttack(),
        lr.attacks.TargetedPGD(target_rank=1),
        lr.attacks.GuidedPGD(lambda x, magnitude: x[:, 0]),
    ):
        with pytest.raises(TypeError, match="`attack` must be a PGD, BIM or FGSM"):
            lr.OLGRC(network(), attack, [1.0])
    with pytest.raises(TypeError, match="`attack` must be a PGD"):
        lr.OLGRC(network(), Other("l2", None, None), [1.0])


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"strategy": "sum"}, r"`strategy` must be one of \('max', 'avg'\).*'sum'"),
        ({"alpha": 1.1}, "`alpha` must be a number from 0 to 1.*1.1"),
        ({"alpha": np.nan}, "`alpha` must be a number from 0 to 1.*nan"),
        ({"magnitudes": [1.0]}, "`magnitudes` must hold one number above 0 for each of 2"),
        ({"magnitudes": [1.0, 0.0]}, "`magnitudes` must hold one number above 0.*0.0"),
    ],
)
@pytest.mark.parametrize("strategy", ["max", "avg"])
def test_several_attacks_are_checked(strategy, settings, match):
    settings = {"magnitudes": [1.0, 2.0], "strategy": strategy, **settings}
    with pytest.raises(ValueError, match=match):
        lr.MultiPerturbationTraining(network(), FROM_INPUT[:2], **settings)


def test_the_worst_of_several_attacks_has_no_warm_start():
    with pytest.raises(ValueError, match=r"`warm_start` needs objectives whose attacks.*Worst"):
        METHODS["max"](network(), warm_start=lr.WarmStart())
