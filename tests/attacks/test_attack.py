import copy
import json
import pickle
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from lexirobust import attacks
from lexirobust.attacks import FGSM, Attack


class Still(Attack):
    """Moves nothing: what is asked here is what attacks have in common, and comes before that."""

    def __init__(self):
        super().__init__("linf", (0.0, 1.0), seed=0)

    def get_config(self):
        return {}

    def perturb(self, classifier, x, y, magnitude, seed):
        classifier(x)
        return x


class AlwaysDropout(keras.layers.Layer):
    """Drops out in use as in training."""

    def __init__(self):
        super().__init__()
        self.seed_generator = keras.random.SeedGenerator(0)

    def call(self, x):
        return keras.random.dropout(x, 0.5, seed=self.seed_generator)


def network(*middle, activation=None):
    dense = keras.layers.Dense(3, activation=activation)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), *middle, dense])


def samples():
    rng = np.random.default_rng(0)
    return rng.uniform(size=(10, 4)).astype(np.float32), rng.integers(3, size=10)


BY_CALL = pytest.mark.parametrize(
    "run",
    [
        lambda classifier: Still()(classifier, *samples(), 0.1),
        lambda classifier: Still().sweep(classifier, *samples(), [0.1, 0.2]),
        lambda classifier: lr.evaluate_robustness(classifier, *samples(), Still(), [0.1]),
    ],
    ids=["call", "sweep", "evaluation"],
)


def problems(run):
    """What a call says about its classifier."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    messages = [str(each.message) for each in caught if each.category is UserWarning]
    return [message for message in messages if "`classifier`" in message]


@BY_CALL
def test_classifier_that_gives_probabilities_is_named(run):
    with pytest.warns(UserWarning, match="`classifier` must give logits.*Take the final softmax"):
        run(network(activation="softmax"))


@BY_CALL
def test_randomized_classifier_is_named(run):
    with pytest.warns(UserWarning, match="`classifier` is randomized.*Switch the randomness off"):
        run(network(AlwaysDropout()))


@BY_CALL
@pytest.mark.parametrize(
    "middle",
    [lambda: keras.layers.Dropout(0.5), keras.layers.BatchNormalization],
    ids=["Dropout", "BatchNormalization"],
)
def test_sound_classifier_is_not_warned_of(run, middle):
    assert problems(lambda: run(network(middle()))) == []


def test_log_probabilities_are_logits():
    classifier = network(activation="softmax")
    attack = Still()
    assert problems(lambda: attack(lambda x: tf.math.log(classifier(x)), *samples(), 0.1)) == []


def test_classifier_is_looked_at_once_for_a_shape():
    calls = []

    def classifier(x):
        if tf.executing_eagerly():
            calls.append(x.shape)
        return tf.stack([tf.reduce_sum(x, axis=1), tf.ones_like(x[:, 0])], axis=1) - 2.0

    attack, (x, y) = Still(), samples()
    y = y % 2
    for _ in range(2):
        attack(classifier, x, y, 0.1)
        attack.sweep(classifier, x[:4], y[:4], [0.1, 0.2])
    assert calls == [(10, 4)] * 2
    attack(classifier, x[:, :2], y, 0.1)
    assert calls[2:] == [(10, 2)] * 2


def test_few_samples_of_many_are_looked_at():
    sizes = []

    def classifier(x):
        if tf.executing_eagerly():
            sizes.append(len(x))
        return tf.concat([x, -x], axis=1)

    Still()(classifier, np.full((1000, 1), 0.5), np.zeros(1000, int), 0.1)
    assert max(sizes) < 100


def test_in_a_data_pipeline_nothing_is_looked_at():
    x, y = samples()
    classifier = network(activation="softmax")
    attack = Still()
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(5)
    moved = []
    found = problems(
        lambda: moved.extend(data.map(lambda x, y: attack(classifier, x, y, 0.1)).take(1))
    )
    assert found == []
    assert moved[0].shape == (5, *x.shape[1:])


INT, FLOAT, BOOL = np.int64, np.float32, np.bool_
OF_NUMPY = {
    "PGD": lambda: attacks.PGD(
        steps=INT(2), restarts=np.uint8(2), step_size=FLOAT(0.5), seed=INT(3), early_stop=BOOL(1)
    ),
    "BIM": lambda: attacks.BIM(steps=INT(2), bounds=np.array([0, 1])),
    "DAA": lambda: attacks.DAA(steps=INT(2), interaction=FLOAT(1.5), random_start=BOOL(0)),
    "IntervalAttack": lambda: attacks.IntervalAttack(moves=INT(2), seed=np.uint32(2**32 - 1)),
    "Square": lambda: attacks.Square(max_queries=INT(5), p_init=FLOAT(0.5), seed=np.int8(3)),
    "Spatial": lambda: attacks.Spatial(rotations=INT(3), translations=INT(1), fill=FLOAT(0.5)),
    "Flow": lambda: attacks.Flow(steps=INT(2), random_start=BOOL(1), seed=INT(3)),
    "DeepFool": lambda: attacks.DeepFool(steps=INT(2), overshoot=FLOAT(0.5)),
    "FAB": lambda: attacks.FAB(steps=INT(2), restarts=INT(2), alpha_max=FLOAT(0.5), seed=INT(3)),
    "HopSkipJump": lambda: attacks.HopSkipJump(steps=INT(2), gradient_queries=INT(3), seed=INT(3)),
    "BoundaryAttack": lambda: attacks.BoundaryAttack(steps=INT(2), tries=INT(3), seed=INT(3)),
    "WorstCase": lambda: attacks.WorstCase(
        [attacks.PGD(seed=INT(1)), attacks.PGD("linf")], np.array([1, 2]), seed=INT(3)
    ),
}


@pytest.mark.parametrize("make", OF_NUMPY.values(), ids=OF_NUMPY)
def test_settings_of_numpy_are_what_pythons_are(make):
    attack = make()
    config = json.loads(json.dumps(attack.get_config()))
    assert attack.get_config() == config
    assert attack.seed in (None, 2**32 - 1, 3)
    assert type(attack).from_config(config).get_config() == config


@pytest.mark.parametrize("seed", ["3", 1.5, np.float64(3), True, -1, 2**32, [3]])
@pytest.mark.parametrize("kind", [attacks.PGD, attacks.Square, attacks.FAB, attacks.Flow])
def test_seed_that_is_none_is_refused_at_once(kind, seed):
    with pytest.raises(ValueError, match="`seed` must be an integer from 0 to 4294967295 or None"):
        kind(seed=seed)


@pytest.mark.parametrize("name", ["random_start", "early_stop"])
@pytest.mark.parametrize("value", ["False", 1, None])
def test_setting_that_is_neither_true_nor_false_is_refused_at_once(name, value):
    with pytest.raises(TypeError, match=f"`{name}` must be a bool"):
        attacks.PGD(**{name: value})


def twins(attack):
    return copy.deepcopy(attack), pickle.loads(pickle.dumps(attack))


@pytest.mark.parametrize("make", OF_NUMPY.values(), ids=OF_NUMPY)
def test_attack_that_has_drawn_can_be_copied_and_pickled(make):
    attack = make()
    assert attack._next_seed().shape == (2,)
    for twin in twins(attack):
        assert twin.get_config() == attack.get_config()
        np.testing.assert_array_equal(twin._next_seed(), copy.deepcopy(attack)._next_seed())
        # Each goes on by itself.
        twin._next_seed()
    assert copy.copy(attack)._generator is attack._generator


def test_attack_that_was_called_can_be_copied_and_pickled_and_goes_on_as_it_would_have():
    classifier, (x, y) = network(), samples()
    attack = attacks.PGD(norm="l2", steps=1, step_size=0.01, bounds=None)
    union = attacks.WorstCase([attack, attacks.PGD("linf", steps=1, bounds=None)], [1.0, 1.0])
    for each in (attack, union):
        before = each(classifier, x, y, 0.5)
        copies = twins(each)
        after = each(classifier, x, y, 0.5)
        assert not np.array_equal(before, after)
        for twin in copies:
            np.testing.assert_array_equal(twin(classifier, x, y, 0.5), after)


@pytest.mark.release
def test_attacks_of_data_can_be_copied_and_pickled():
    points = np.array([[0.0], [2.0]], np.float32)
    cells = attacks.VoronoiPGD(attacks.VoronoiCells(points), norm="l2", steps=1, bounds=None)
    region = attacks.ExploredRegion("l2")
    region.adapt(points)
    guided = attacks.GuidedPGD(region, norm="l2", steps=1, bounds=None, seed=0)
    y = np.array([0, 1])
    for attack in (cells, guided):
        moved = [attack(lambda x: tf.concat([-x, x], 1), points, y, 0.5)]
        moved += [twin(lambda x: tf.concat([-x, x], 1), points, y, 0.5) for twin in twins(attack)]
        assert np.all(np.abs(np.abs(moved - points) - 0.5) < 1e-5)


def right_or_not_a_number(x):
    """Classifies all inputs as 0 whose mean is below 0.6, and nothing beyond."""
    mean = tf.reduce_mean(tf.reshape(x, (tf.shape(x)[0], -1)), axis=1)
    # That of another class: a maximum may leave it out.
    return tf.stack([0.0 * mean + 1.0, -1.0 - tf.sqrt(0.6 - mean), 0.0 * mean - 2.0], axis=1)


BROKEN_BY = {
    "PGD": attacks.PGD("linf", steps=5, seed=0),
    "margin": attacks.PGD("l2", steps=5, loss="margin", seed=0),
    "dlr": attacks.PGD("l1", steps=5, loss="dlr", seed=0),
    "maximum": attacks.PGD("linf", 5, constraint="maximum", restarts=3, early_stop=True, seed=0),
    "FGSM": FGSM(),
    "DAA": attacks.DAA(norm="linf", steps=5, seed=0),
    "Square": attacks.Square(max_queries=30, seed=0),
    "WorstCase": attacks.WorstCase([FGSM(), FGSM("l2")], [1.0, 0.01]),
}


@pytest.mark.parametrize(
    ("attack", "sweep"),
    [
        pytest.param(
            attack,
            sweep,
            id=f"{name}-{'sweep' if sweep else 'call'}",
            marks=[pytest.mark.release] * (name != "PGD" or not sweep),
        )
        for name, attack in BROKEN_BY.items()
        for sweep in (False, True)
    ],
)
def test_attack_that_reaches_what_is_not_a_number_has_succeeded(attack, sweep):
    x = np.random.default_rng(0).uniform(0.4, 0.5, size=(4, 2, 3, 1)).astype(np.float32)
    magnitude = {"l1": 2.0, "l2": 0.8}.get(attack.norm, 0.3)
    args = right_or_not_a_number, x, np.zeros(4, int)
    moved = attack.sweep(*args, [0.01, magnitude])[1] if sweep else attack(*args, magnitude)
    assert np.isfinite(moved).all()
    assert np.isnan(right_or_not_a_number(moved)).any(axis=1).all()
    curve = lr.evaluate_robustness(*args, attack, [0.0, magnitude])
    assert curve.accuracy.tolist() == [1.0, 0.0]
    assert curve.flags[0].name == "logits not finite"
    assert f": 100.0% at {magnitude:g}." in curve.flags[0].message  # And none at 0.


@pytest.mark.parametrize(
    "attack",
    [
        attacks.DeepFool(),
        attacks.FAB(steps=5),
        attacks.HopSkipJump(steps=2, gradient_queries=5, seed=0),
        attacks.BoundaryAttack(steps=5, seed=0),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_attack_of_least_norm_ends_where_nothing_is_a_number(attack):
    x = np.random.default_rng(0).uniform(0.4, 0.5, size=(4, 3)).astype(np.float32)
    x[3] = 0.7
    found = attack(right_or_not_a_number, x, np.zeros(4, int))
    assert found.success.numpy().all()
    assert found.distances[3] == 0
    assert np.isnan(right_or_not_a_number(found.inputs)).any(axis=1).all()


def test_weights_that_are_not_numbers_leave_no_accuracy():
    classifier, (x, _) = network(), samples()
    classifier.layers[0].kernel.assign(np.full((4, 8), np.nan))
    curve = lr.evaluate_robustness(classifier, x, np.zeros(10, int), FGSM(), [0, 0.1])
    assert curve.accuracy.tolist() == [0.0, 0.0]
    assert curve.flags[0].name == "logits not finite"
    assert lr.AccuracyCurve.from_json(curve.to_json()).flags == curve.flags


def in_numpy(x):
    return (np.asarray(x).reshape(len(x), -1) @ np.ones((4, 2)) * [1.0, -1.0]).astype(np.float32)


def wrapped(x):
    return tf.ensure_shape(tf.numpy_function(in_numpy, [x], tf.float32), [None, 2])


def signature(tmp_path):
    network().export(tmp_path / "saved", verbose=False)
    return tf.saved_model.load(tmp_path / "saved").signatures["serving_default"]


OTHERS = {
    "predict": (lambda path: network().predict, "must be the model itself.*`predict`"),
    "predict_on_batch": (lambda path: network().predict_on_batch, "the model itself"),
    "numpy": (lambda path: in_numpy, "must work on tensors inside a graph.*tf.numpy_function"),
    "no shape": (
        lambda path: lambda x: tf.numpy_function(in_numpy, [x], tf.float32),
        r"logits of known shape.*tf.ensure_shape",
    ),
    "dict": (
        lambda path: lambda x: {"logits": x, "features": x},
        r"one tensor of logits. Received: a dict of \['logits', 'features'\]",
    ),
    "list": (lambda path: lambda x: [x, x], "one tensor of logits. Received: 2 outputs"),
    "signature": (signature, r"wrap it, as in lambda x: signature\(\w+=x\)\['\w+'\]"),
}


@pytest.mark.parametrize(("make", "message"), OTHERS.values(), ids=OTHERS)
def test_other_callables_are_told_how_to_be_wrapped(make, message, tmp_path):
    x, y = samples()[0], np.arange(10) % 2
    classifier = make(tmp_path)
    for run in (
        lambda: FGSM(bounds=None)(classifier, x, y, 0.1),
        lambda: attacks.Square(max_queries=3)(classifier, x, y, 0.1),
        lambda: lr.evaluate_robustness(classifier, x, y, FGSM(), [0.0, 0.1]),
        lambda: attacks.HopSkipJump(steps=1)(classifier, x, y),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            run()


def test_wrapped_functions_can_be_attacked_without_gradients():
    x, y = samples()
    y = np.argmax(in_numpy(x), axis=1)
    moved = attacks.Square(max_queries=20, norm="linf", seed=0)(wrapped, x, y, 0.1)
    assert np.max(np.abs(moved - x)) == pytest.approx(0.1, rel=1e-3)
    curve = lr.evaluate_robustness(
        wrapped, x, y, attacks.Square(max_queries=20, seed=0), [0.0, 0.1]
    )
    assert curve.accuracy[0] == 1.0


@pytest.mark.parametrize(
    "attack", [lr.attacks.PGD("l2", bounds=None), lr.attacks.AutoAttack("l2", bounds=None)]
)
@pytest.mark.parametrize("scale", [[-1.0, 1.0], [0.0, 1.0], [np.nan, 1.0]])
def test_factors_of_magnitudes_are_above_0(attack, scale):
    with pytest.raises(ValueError, match="`scale` must be finite and above 0"):
        attack.sweep(lambda x: x, np.zeros((2, 2)), [0, 1], [1.0], scale=scale)


def test_the_goal_of_an_attack_stays_what_it_is():
    attack = lr.attacks.PGD("l2", goal="minimize")
    with pytest.raises(AttributeError):
        attack.goal = "maximize"
    assert attack.get_config()["goal"] == "minimize"


def test_attacks_that_keep_to_no_magnitude_are_told_what_does(tmp_path):
    fab = lr.attacks.FAB("l2")
    dataset = tf.data.Dataset.from_tensors((np.zeros((2, 2)), np.zeros(2, int)))
    for ask in (
        lambda: lr.objectives.Adversarial(fab, 1.0),
        lambda: lr.callbacks.RobustnessCurve(np.zeros((2, 2)), np.zeros(2, int), fab, [1.0]),
        lambda: lr.datasets.perturb(dataset, lambda x: x, fab, 1.0),
        lambda: lr.export(keras.Sequential([keras.Input((2,))]), tmp_path / "out", fab),
    ):
        with pytest.raises(TypeError, match=r"WithinMagnitude\(FAB\(\.\.\.\)\) keeps to one"):
            ask()
