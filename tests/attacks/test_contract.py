"""What every attack keeps to: one table, in which no public attack and no setting is missing.

Most of it runs operation by operation: a graph costs more than a few steps do. That graphs and
programs of XLA give the same has tests of its own, one for each attack.
"""

import functools
import inspect
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from lexirobust import attacks
from lexirobust.attacks.compiled_attack import CompiledAttack
from lexirobust.attacks.minimum_norm.decisions import DecisionAttack
from tests.attacks import linear

# Few steps of every attack, and the norm that its graphs are of.
FEW = {
    attacks.PGD: {"norm": "l1", "steps": 2, "restarts": 2},
    attacks.FGSM: {"norm": "linf"},
    attacks.BIM: {"norm": "l2", "steps": 2},
    attacks.DAA: {"norm": "linf", "steps": 1},
    attacks.IntervalAttack: {"norm": "linf", "steps": 1, "moves": 1},
    attacks.GuidedPGD: {"norm": "linf", "steps": 1},
    attacks.VoronoiPGD: {"norm": "linf", "steps": 1},
    attacks.Square: {"norm": "l2", "max_queries": 6},
    attacks.Spatial: {"rotations": 3, "translations": 3},
    attacks.Flow: {"steps": 2},
    attacks.WorstCase: {},
    attacks.TargetedPGD: {"norm": "l2", "steps": 2},
    attacks.AutoAttack: {"norm": "linf", "steps": 2, "max_queries": 3, "targets": 2},
    attacks.WithinMagnitude: {},
    attacks.DeepFool: {"norm": "l1", "steps": 5},
    attacks.FAB: {"norm": "linf", "steps": 2, "restarts": 2},
    attacks.HopSkipJump: {"norm": "l2", "steps": 2, "gradient_queries": 10, "restarts": 2},
    attacks.BoundaryAttack: {"norm": "l2", "steps": 3, "restarts": 2},
}
MINIMAL = [kind for kind in FEW if issubclass(kind, attacks.MinimumNormAttack)]
AT_A_NORM = [kind for kind in FEW if kind not in MINIMAL]
SEEDED = [attacks.PGD, attacks.Square, attacks.HopSkipJump, attacks.BoundaryAttack]
# Their configurations hold objects that JSON does not know.
WITH_OBJECTS = (attacks.GuidedPGD, attacks.VoronoiPGD)

IMAGES = (5, 4, 1)
MAGNITUDES = {"l1": 2.0, "l2": 0.5, "linf": 0.1, "worst": 1.0, "spatial": 1.0, "flow": 1.0}
LINEAR = linear.Linear()
SEED = tf.constant([1, 2])


def images(dtype=np.float32, count=8):
    """Images with many pixels at the bounds, and their classes."""
    rng = np.random.default_rng(2)
    x = rng.uniform(size=(count, *IMAGES))
    x[rng.random(x.shape) < 0.3] = 0
    x[rng.random(x.shape) < 0.2] = 1
    x = x.astype(np.float32).astype(dtype)
    return x, LINEAR.labels(x)


@functools.cache
def network():
    """The linear classifier as a Keras model, which interval bounds know."""
    layers = [keras.Input(IMAGES), keras.layers.Flatten(), keras.layers.Dense(4)]
    model = keras.Sequential(layers)
    model.set_weights([LINEAR.weights, LINEAR.offset])
    return model


def classifier_for(attack):
    return network() if isinstance(attack, attacks.IntervalAttack) else LINEAR


def brightness(x, magnitude):
    """What a guided attack may raise first."""
    del magnitude
    return tf.reduce_sum(x, axis=[1, 2, 3])


@functools.cache
def points():
    others = np.random.default_rng(3).uniform(size=(30, *IMAGES)).astype(np.float32)
    return np.concatenate([images()[0], others])


@functools.cache
def cells(norm):
    return attacks.VoronoiCells(points(), norm)


@functools.cache
def region(norm):
    explored = attacks.ExploredRegion(norm)
    explored.adapt(points())
    return explored


def union(**settings):
    """Settings of `WorstCase`, whose attacks agree in `settings`."""
    norms = [attacks.FGSM(norm, **settings) for norm in ("linf", "l2")]
    return {"attacks": norms, "magnitudes": [0.1, 0.5]}


def make(kind, **settings):
    """An attack of few steps, other settings aside."""
    settings = {**FEW[kind], **settings}
    if kind is attacks.GuidedPGD:
        known = settings.get("constraint", "exact") == "exact"
        settings.setdefault("unexplored", region(settings["norm"]) if known else brightness)
    if kind is attacks.VoronoiPGD:
        settings.setdefault("cells", cells(settings["norm"]))
    if kind is attacks.WorstCase:
        settings = {**union(), **settings}
    if kind is attacks.WithinMagnitude and "attack" not in settings:
        settings = {"attack": attacks.FAB(**{**FEW[attacks.FAB], **settings})}
    return kind(**settings)


def settings_of(kind):
    """The names of all settings, with their defaults; those of what `**settings` goes to, too."""
    found = {}
    for each in kind.__mro__:
        parameters = inspect.signature(each.__init__).parameters.values()
        own = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"]
        found = {**{p.name: p.default for p in own}, **found}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return found


def read(attack):
    """The attack that its configuration makes, by way of JSON where that is possible."""
    if isinstance(attack, WITH_OBJECTS):
        return type(attack).from_config(attack.get_config())
    written = json.dumps(keras.saving.serialize_keras_object(attack))
    return keras.saving.deserialize_keras_object(json.loads(written))


def perturbed(attack, x, y, magnitude=None, seed=SEED):
    """Perturbed inputs, operation by operation unless a graph is being traced."""
    if isinstance(attack, attacks.MinimumNormAttack):
        return attack.search(classifier_for(attack), x, y, seed).inputs
    magnitude = MAGNITUDES[attack.norm] if magnitude is None else magnitude
    return attack.perturb(classifier_for(attack), x, y, magnitude, seed)


def kinds(some=tuple(FEW), release=()):
    """A test for each kind, for some of them only before a release."""
    return pytest.mark.parametrize(
        "kind",
        [
            pytest.param(kind, marks=[pytest.mark.release] * (kind in release), id=kind.__name__)
            for kind in some
        ],
    )


def test_table_has_every_attack():
    public = [getattr(attacks, name) for name in attacks.__all__]
    public = [
        each for each in public if isinstance(each, type) and issubclass(each, CompiledAttack)
    ]
    assert set(FEW) == {each for each in public if not inspect.isabstract(each)}


# What every setting may be beside its default.
OTHER = {
    "steps": 7,
    "step_size": 0.25,
    "constraint": "maximum",
    "goal": "minimize",
    "restarts": 3,
    "random_start": False,
    "bounds": (-1.0, 2.0),
    "seed": 7,
    "loss": "dlr",
    "early_stop": True,
    "variant": "dgf",
    "interaction": 0.5,
    "moves": 2,
    "max_queries": 9,
    "p_init": 0.3,
    "rotations": 5,
    "translations": 3,
    "degrees_per_pixel": 3.0,
    "fill": 0.5,
    "smoothness": 0.2,
    "overshoot": 0.1,
    "alpha_max": 0.2,
    "eta": 1.1,
    "beta": 0.8,
    "gradient_queries": 20,
    "tries": 5,
    "spherical_step": 0.2,
    "candidates": 3,
    "source_step": 0.3,
    "target_rank": 2,
    "targets": 3,
    "version": "plus",
    "exhaustive": True,
    "eot_samples": 2,
    "unexplored": brightness,
    "threshold": 0.3,
}


@kinds()
@pytest.mark.parametrize("changed", [{"random_start"}, {"restarts"}])
def test_comes_back_from_its_configuration(kind, changed):
    """With settings that all differ from their defaults, but for those that exclude others."""
    defaults = settings_of(kind)
    given = {name: OTHER[name] for name in defaults if name in OTHER}
    # Starts that are not random would all be the same.
    given = {name: each for name, each in given.items() if name not in changed}
    if "norm" in defaults:
        given["norm"] = next((n for n in kind.norms if n != defaults["norm"]), kind.norms[0])
    if changed == {"restarts"} and "bounds" in given:
        given["bounds"] = None
    if kind in WITH_OBJECTS:
        given.pop("early_stop")
    if kind is attacks.VoronoiPGD:
        given["cells"] = cells(given["norm"])
    if kind is attacks.WorstCase:
        given.update(union(bounds=None))
    if kind is attacks.WithinMagnitude:
        given["attack"] = attacks.DeepFool(norm="linf", steps=7, bounds=None)
    assert all(each != defaults[name] for name, each in given.items() if name != "norm")

    attack = kind(**given)
    again, config = read(attack), attack.get_config()
    assert type(again) is kind
    assert again.get_config() == config
    assert set(config) == set(defaults)
    assert vars(again).keys() == vars(attack).keys()
    for name in set(given) - {"attack", "attacks"}:
        value = list(given[name]) if isinstance(given[name], tuple) else given[name]
        assert config[name] == value
        assert getattr(again, name) == getattr(attack, name)


# What no attack takes that has such a setting.
BAD = {
    "norm": {"l0": "`norm` must be one of .* Received: 'l0'"},
    "steps": {
        0: r"`steps` must be an integer of at least 1\. Received: 0",
        2.5: "`steps` must be .* Received: 2.5",
        None: "`steps` must be .* Received: None",
    },
    "restarts": {
        0: r"`restarts` must be an integer of at least 1\. Received: 0",
        1.5: "`restarts` must be an integer .* Received: 1.5",
    },
    "step_size": {
        0.0: "`step_size` must be a finite number above 0. Received: 0.0",
        np.inf: "`step_size` must be a finite .* Received: inf",
        np.nan: "`step_size` must be .* Received: nan",
        "0.1": "`step_size` must be .* Received: '0.1'",
    },
    "constraint": {"ball": "`constraint` must be one of .* Received: 'ball'"},
    "goal": {"win": "`goal` must be one of .* Received: 'win'"},
    "loss": {"hinge": "`loss` must be one of .*'dlr'.* Received: 'hinge'"},
    "bounds": {
        (1.0, 0.0): r"`bounds` must be .* Received: \(1.0, 0.0\)",
        (0.0, np.inf): "`bounds` must be .*finite",
        (0.0, np.nan): "`bounds` must be .*finite",
        ("0", "1"): r"`bounds` must be .* Received: \('0', '1'\)",
        (0.0, (1.0,)): "`bounds` must be .* Received:",
        3: "`bounds` must be .* Received: 3",
    },
    "variant": {"svgd": "`variant` must be one of .* Received: 'svgd'"},
    "interaction": {
        -1.0: "`interaction` must be .* Received: -1.0",
        np.nan: "`interaction` must be .* Received: nan",
        "1": "`interaction` must be .* Received: '1'",
    },
    "moves": {0: r"`moves` must be an integer of at least 1\. Received: 0"},
    "max_queries": {0: "`max_queries` must be an integer of at least 1"},
    "p_init": {
        0.0: "`p_init` must be above 0 .* Received: 0.0",
        "0.8": "`p_init` must be .* Received: '0.8'",
    },
    "rotations": {
        2: "`rotations` must be an odd integer .* Received: 2",
        1.0: "`rotations` must be an odd integer .* Received: 1.0",
    },
    "translations": {-1: "`translations` must be an odd .* Received: -1"},
    "degrees_per_pixel": {
        -1.0: "`degrees_per_pixel` must be .* Received: -1.0",
        np.inf: "`degrees_per_pixel` must be a finite",
        "10": "`degrees_per_pixel` must be a finite number of at least 0. Received: '10'",
    },
    "fill": {
        2.0: r"`fill` must be .*\(0.0, 1.0\). Received: 2.0",
        None: "`fill` must be a finite number. Received: None",
    },
    "smoothness": {
        -0.1: "`smoothness` must be .* Received: -0.1",
        np.nan: "`smoothness` must be a finite",
        "no": "`smoothness` must be .* Received: 'no'",
    },
    "overshoot": {
        -0.1: "`overshoot` must be a finite number of at least 0",
        None: "`overshoot` must be .* Received: None",
    },
    "alpha_max": {
        1.5: "`alpha_max` must be a number from 0 to 1",
        "0.1": "`alpha_max` must be .* Received: '0.1'",
    },
    "eta": {0.9: "`eta` must be a finite number of at least 1"},
    "beta": {1.0: "`beta` must be a number above 0 and below 1", None: "`beta` must be"},
    "gradient_queries": {1.5: "`gradient_queries` must be an integer of at least 1"},
    "tries": {0: "`tries` must be an integer of at least 1"},
    "spherical_step": {
        0.0: "`spherical_step` must be a number above 0 and below 1",
        "0.1": "`spherical_step` must be .* Received: '0.1'",
    },
    "target_rank": {
        0: "`target_rank` must be an integer of at least 1",
        1.5: "`target_rank` must be an integer of at least 1",
    },
    "targets": {0: "`targets` must be an integer of at least 1"},
    "version": {"fast": "`version` must be one of .*'standard'.* Received: 'fast'"},
    "eot_samples": {0: "`eot_samples` must be an integer of at least 1"},
    "candidates": {0: "`candidates` must be an integer of at least 1"},
    "source_step": {1.0: "`source_step` must be a number above 0 and below 1"},
    "threshold": {"half": "`threshold` must be a finite number"},
}
# Any value will do, or what is refused has a test in the attack's own file.
ANY = {"seed", "random_start", "early_stop", "exhaustive", "attack", "attacks", "magnitudes"}
ANY |= {"unexplored", "cells"}
# Settings that do not go together.
TOGETHER = {
    attacks.Spatial: ({"fill": np.nan, "bounds": None}, "`fill` must be a finite"),
    attacks.GuidedPGD: ({"early_stop": True}, "`early_stop` must be False"),
    attacks.VoronoiPGD: ({"early_stop": True}, "`early_stop` must be False"),
}


@kinds()
def test_bad_setting_is_named(kind):
    names = set(settings_of(kind))
    assert names <= set(BAD) | ANY
    bad = [({name: each}, message) for name in names - ANY for each, message in BAD[name].items()]
    if "norm" in names:
        others = {"l1", "l2", "linf"} - set(kind.norms)
        bad += [({"norm": each}, "`norm` must be one of") for each in others]
    if {"restarts", "random_start"} <= names:
        same = {"restarts": 2, "random_start": False}
        bad.append((same, "`restarts` above 1 need `random_start=True`.*restarts=2"))
    if kind in TOGETHER:
        bad.append(TOGETHER[kind])
    given = {
        attacks.GuidedPGD: {"unexplored": brightness},
        attacks.VoronoiPGD: {"cells": cells("l2")},
    }
    for settings, message in bad:
        with pytest.raises(ValueError, match=message):
            make(kind, **given.get(kind, {}), **settings)


def rows():
    """Every attack that moves by a norm, for all its norms and constraints."""
    for kind in AT_A_NORM:
        names = settings_of(kind)
        for norm in kind.norms if "norm" in names else [None]:
            for constraint in ("exact", "maximum") if "constraint" in names else [None]:
                for dtype in ("float32", "float64"):
                    if constraint == "maximum" and dtype == "float64" and kind is not attacks.PGD:
                        continue
                    given = {"norm": norm, "constraint": constraint}
                    given = {name: each for name, each in given.items() if each}
                    label = "-".join([kind.__name__, *given.values(), dtype])
                    yield pytest.param(kind, given, dtype, id=label)


@pytest.mark.parametrize(("kind", "given", "dtype"), [*rows()])
def test_perturbation_has_its_norm_inside_the_bounds(kind, given, dtype):
    attack, (x, y) = make(kind, **given), images(dtype)
    # From nothing to more than the bounds leave room for, one for each sample.
    share = np.array([0.0, 0.1, 0.3, 0.5, 1.0, 1.5, 2.0, 99.0], dtype)
    magnitude = MAGNITUDES[attack.norm] * share
    moved = perturbed(attack, tf.constant(x), tf.constant(y), tf.constant(magnitude)).numpy()
    assert moved.dtype == dtype
    assert moved.shape == x.shape
    assert np.all((moved >= 0) & (moved <= 1))
    assert np.array_equal(moved[0], x[0])
    assert not np.array_equal(moved, x)
    if attack.norm not in linear.ORDER:
        return
    size = attack.measure(moved - x).numpy()
    corner = np.maximum(x, 1 - x).reshape(len(x), -1).astype(np.float64)
    reach = np.linalg.norm(corner, linear.ORDER[attack.norm], axis=1)
    feasible = attack.feasible(x, magnitude).numpy()
    assert feasible.tolist() == (reach >= magnitude).tolist() == [True] * 7 + [False]
    if attack.constraint == "exact":
        np.testing.assert_allclose(size, np.minimum(magnitude, reach), rtol=1e-5)
    else:
        assert np.all(size <= magnitude * (1 + 1e-5))


def margins(x, y):
    """How far the best other logit is above the label's."""
    logits = LINEAR.logits(x)
    own = np.eye(logits.shape[1], dtype=bool)[y]
    return np.where(own, -np.inf, logits).max(axis=1) - logits[own]


def called(attack):
    """Perturbed inputs as a user gets them: from a graph."""
    magnitude = [] if isinstance(attack, attacks.MinimumNormAttack) else [MAGNITUDES[attack.norm]]
    moved = attack(classifier_for(attack), *images(), *magnitude)
    return (moved.inputs if isinstance(attack, attacks.MinimumNormAttack) else moved).numpy()


@functools.cache
def made(kind):
    """One attack of few steps for all tests that need no other: some share graphs with no equal."""
    return make(kind, **({"seed": 3} if "seed" in settings_of(kind) else {}))


@functools.cache
def expected(kind):
    """What operations say that the first call of `made` gives."""
    seed = keras.random.SeedGenerator(3).next()
    return perturbed(made(kind), *(tf.constant(each) for each in images()), seed=seed).numpy()


@kinds()
def test_attack_of_an_equal_configuration_moves_alike(kind):
    seed = keras.random.SeedGenerator(3).next()
    moved = perturbed(read(made(kind)), *(tf.constant(each) for each in images()), seed=seed)
    assert np.array_equal(moved, expected(kind))


@kinds()
def test_labels_may_be_probabilities(kind):
    x, y = images()
    seed, shares = keras.random.SeedGenerator(3).next(), np.eye(4, dtype=np.float32)[y]
    moved = perturbed(made(kind), tf.constant(x), tf.constant(shares), seed=seed)
    np.testing.assert_allclose(moved, expected(kind), atol=1e-6)


def check_calls(kind):
    """A graph gives what its operations do, and another for the next seed."""
    with made(kind).drawing_from(3):
        moved = called(made(kind))
        np.testing.assert_allclose(moved, expected(kind), rtol=1e-5, atol=1e-5)
        assert not np.array_equal(moved, images()[0])
        if kind in SEEDED:
            assert not np.array_equal(called(made(kind)), moved)
            assert np.array_equal(called(make(kind, seed=3)), moved)
            assert not np.array_equal(called(make(kind, seed=4)), moved)


# The tests of one group follow each other, while their graphs are kept. AutoAttack's calls leave
# the graph after each of its attacks, and draw other seeds.
@kinds([kind for kind in AT_A_NORM if kind is not attacks.AutoAttack])
def test_graph_gives_what_its_operations_do(kind):
    check_calls(kind)


@kinds(AT_A_NORM)
def test_sweep_goes_to_every_magnitude(kind):
    attack, (x, y) = made(kind), images()
    magnitudes = MAGNITUDES[attack.norm] * np.array([1.0, 0.0, 0.5])
    swept = attack.sweep(classifier_for(attack), x, y, magnitudes)
    assert swept.shape == (3, *x.shape)
    for magnitude, moved in zip(magnitudes, swept.numpy(), strict=True):
        assert np.array_equal(moved, x) == (magnitude == 0)
        assert np.all((moved >= 0) & (moved <= 1))
        size = attack.measure(moved - x)
        if getattr(attack, "constraint", "exact") == "maximum":
            assert np.all(size <= magnitude * (1 + 1e-5))
        elif attack.norm in linear.ORDER:
            np.testing.assert_allclose(size, magnitude, rtol=1e-5)


@kinds(MINIMAL)
def test_graph_finds_what_its_operations_do(kind):
    check_calls(kind)


@kinds(MINIMAL)
def test_misclassified_sample_is_its_own_nearest_point(kind):
    attack, (x, y) = made(kind), images()
    y[:3] = (y[:3] + 1) % 4
    found = attack(LINEAR, x, y)
    assert found.distances.numpy()[:3].tolist() == [0, 0, 0]
    assert np.all(found.distances.numpy()[3:] > 0)
    assert np.array_equal(found.inputs.numpy()[:3], x[:3])
    assert found.success.numpy()[:3].all()
    assert found.queries.numpy()[:3].tolist() == [1, 1, 1]


@kinds(MINIMAL)
def test_queries_are_counted(kind):
    """For a sample alone, they are what the classifier saw; in a batch at most that."""
    attack, (x, y) = made(kind), images()
    attack(LINEAR, x[:1], y[:1])  # The first call looks at the classifier, too.
    for row in range(3):
        before = int(LINEAR.seen)
        found = attack(LINEAR, x[row : row + 1], y[row : row + 1])
        assert found.queries.numpy().tolist() == [int(LINEAR.seen) - before]
    before = int(LINEAR.seen)
    found = attack(LINEAR, x, y)
    assert found.queries.dtype == tf.int32
    assert found.queries.numpy().sum() <= int(LINEAR.seen) - before


def of_every_norm(kind):
    return [pytest.param(kind, norm, id=f"{kind.__name__}-{norm}") for norm in kind.norms]


EVERY_NORM = pytest.mark.parametrize(
    ("kind", "norm"), [each for kind in MINIMAL for each in of_every_norm(kind)]
)


@EVERY_NORM
def test_points_stay_in_bounds_that_bind(kind, norm):
    classifier, (x, y) = linear.Linear(), images(count=20)
    classifier.offset[y[0]] += 2.0
    x, y = x[y == y[0]], y[y == y[0]]  # No other sample is of another class: noise is.
    attack = make(kind, norm=norm, **({"tries": 500} if issubclass(kind, DecisionAttack) else {}))
    found = attack.search(classifier, tf.constant(x), tf.constant(y), SEED)
    assert found.success.numpy().any()
    linear.check_found(classifier, x, y, found, norm, (0.0, 1.0))
    assert np.all(found.distances >= linear.distances(classifier, x, norm) * (1 - 1e-4))


@EVERY_NORM
def test_search_in_float64(kind, norm):
    attack, (x, y) = make(kind, norm=norm, bounds=None), images(np.float64)
    found = attack.search(LINEAR, tf.constant(x), tf.constant(y), SEED)
    assert found.inputs.dtype == tf.float64
    assert found.success.numpy().all()
    linear.check_found(LINEAR, x, y, found, norm, None)


@kinds(MINIMAL)
def test_classifier_of_one_class_leaves_nothing_to_find(kind):
    once = {"restarts": 1} if "restarts" in settings_of(kind) else {}
    x, _ = images()
    found = make(kind, **once).search(
        lambda x: tf.reshape(x, (-1, 20))[:, :2] * 0 + [2.0, 0.0],
        tf.constant(x),
        tf.zeros(8, tf.int32),
        SEED,
    )
    assert not found.success.numpy().any()
    assert np.isinf(found.distances).all()
    assert np.array_equal(found.inputs, x)
    if issubclass(kind, DecisionAttack):  # One for the input itself, and all tries.
        assert found.queries.numpy().tolist() == [31] * 8


@pytest.mark.parametrize("norm", attacks.Square.norms)
def test_queries_of_a_random_search_are_its_budget(norm):
    x, y = (tf.constant(each) for each in images())
    before = int(LINEAR.seen)
    perturbed(make(attacks.Square, norm=norm, max_queries=7), x, y)
    assert int(LINEAR.seen) - before == 7 * len(x)


@kinds()
def test_float64_stays_float64_in_a_graph(kind):
    attack, spec = make(kind), tf.TensorSpec([None, *IMAGES], tf.float64)
    graph = tf.function(lambda x, y: perturbed(attack, x, y), autograph=False)
    traced = graph.get_concrete_function(spec, tf.TensorSpec([None], tf.int64))
    assert traced.structured_outputs.dtype == tf.float64
    assert traced.structured_outputs.shape.as_list()[1:] == [*IMAGES]


# What is compiled in another way than it is called: where that is cheaper, or leaves no number to
# chance, of which XLA draws others from the same seed.
COMPILED = {
    attacks.Square: {"norm": "linf", "max_queries": 100},
    attacks.Flow: {"random_start": False, "smoothness": 0.0},
    attacks.WorstCase: {"attacks": [attacks.FGSM(), attacks.FGSM(constraint="maximum")]},
}
# They have no random number then.
ALIKE = {attacks.FGSM, attacks.BIM, attacks.Spatial, attacks.Flow, attacks.WorstCase}


# Before a commit, one attack by gradients; others have tests of their own that compile them.
@kinds(
    AT_A_NORM,
    release=[
        attacks.BIM,
        attacks.DAA,
        attacks.GuidedPGD,
        attacks.IntervalAttack,
        attacks.VoronoiPGD,
        attacks.Square,
        attacks.Spatial,
        attacks.Flow,
        attacks.WorstCase,
        attacks.AutoAttack,
        attacks.WithinMagnitude,
    ],
)
def test_compiles_with_magnitudes_of_unknown_number(kind):
    attack, (x, y) = make(kind, **COMPILED.get(kind, {})), images()
    classifier = network() if kind is attacks.IntervalAttack else LINEAR.uncounted
    spec = tf.TensorSpec([None], tf.float32)

    @tf.function(jit_compile=True, autograph=False, input_signature=[spec])
    def compiled(magnitudes):
        return attack.sweep_in_graph(classifier, tf.constant(x), tf.constant(y), magnitudes, SEED)

    magnitudes = MAGNITUDES[attack.norm] * np.array([0.5, 1.0], np.float32)
    for magnitude, moved in zip(magnitudes, compiled(magnitudes).numpy(), strict=True):
        assert np.all((moved >= 0) & (moved <= 1))
        if kind in ALIKE:
            expected = perturbed(attack, tf.constant(x), tf.constant(y), magnitude)
            np.testing.assert_allclose(moved, expected, rtol=1e-4, atol=1e-4)
        else:
            assert np.median(margins(moved, y) - margins(x, y)) > 0
        if kind in WITH_OBJECTS:
            assert attack.valid(x, moved, magnitude).numpy().all()
        if attack.norm in linear.ORDER:
            size = attack.measure(moved - x)
            assert np.all(size <= magnitude * (1 + 1e-5))
            if attack.constraint == "exact":
                np.testing.assert_allclose(size, magnitude, rtol=1e-5)


@kinds(MINIMAL, release=[attacks.BoundaryAttack, attacks.HopSkipJump, attacks.FAB])
def test_search_compiles(kind):
    attack, (x, y) = make(kind), images()

    @tf.function(jit_compile=True, autograph=False)
    def search():
        return attack.search(LINEAR.uncounted, tf.constant(x), tf.constant(y), SEED)

    found = search()
    assert found.success.numpy().all()
    linear.check_found(LINEAR, x, y, found, attack.norm, attack.bounds, rounding=1e-5)
