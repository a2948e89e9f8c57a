import numpy as np
import pytest

from lexirobust.attacks import HopSkipJump
from tests.attacks import linear

BOTH = pytest.mark.parametrize("norm", ["l2", "linf"])


@pytest.mark.parametrize(("classes", "bounds"), [(2, None), (5, (-50.0, 50.0))])
def test_l2_comes_within_two_percent_by_decisions_alone(classes, bounds):
    classifier, x = linear.Decisions(classes, size=10), linear.samples(size=10)
    y = classifier.labels(x)
    found = HopSkipJump("l2", restarts=classes - 1, bounds=bounds, seed=0)(classifier, x, y)
    known = linear.distances(classifier, x, "l2")
    linear.check_found(classifier, x, y, found, "l2", bounds)
    assert found.success.numpy().all()
    assert np.all(found.distances >= known * (1 - 1e-4))
    assert np.all(found.distances <= known * 1.02)


def test_linf_comes_near():
    classifier, x = linear.Decisions(size=10), linear.samples(size=10)
    y = classifier.labels(x)
    found = HopSkipJump("linf", restarts=3, bounds=None, seed=0)(classifier, x, y)
    known = linear.distances(classifier, x, "linf")
    linear.check_found(classifier, x, y, found, "linf", None)
    assert np.all(found.distances >= known * (1 - 1e-4))
    assert np.all(found.distances <= known * 1.1)


@BOTH
def test_images_stay_in_bounds_that_bind(norm):
    classifier, x = linear.Decisions(), linear.samples().reshape(-1, 2, 5, 2)
    y = classifier.labels(x.reshape(-1, 20))
    classifier.offset[y[0]] += 3.0
    x, y = x[y == y[0]], y[y == y[0]]
    found = HopSkipJump(norm, steps=5, tries=500, seed=0)(classifier, x, y)
    assert found.success.numpy().any()
    linear.check_found(classifier, x, y, found, norm, (0.0, 1.0))


def test_nothing_to_find():
    x = linear.samples(2)
    found = HopSkipJump(steps=2)(lambda x: x[:, :2] * 0 + [2.0, 0.0], x, np.zeros(2, int))
    assert not found.success.numpy().any()
    assert np.isinf(found.distances).all()
    assert np.array_equal(found.inputs, x)
    assert found.queries.numpy().tolist() == [31, 31]


def test_misclassified_sample_is_its_own_nearest_point():
    linear.check_misclassified(HopSkipJump(steps=2, bounds=(-9.0, 9.0)))


@pytest.mark.parametrize(("norm", "restarts"), [("l2", 1), ("linf", 2)])
def test_queries_are_counted(norm, restarts):
    attack = HopSkipJump(norm, steps=5, probes=10, restarts=restarts, bounds=(-9.0, 9.0), seed=0)
    linear.check_queries(attack)


def test_same_seed_same_result():
    classifier, x = linear.Decisions(), linear.samples()
    y = classifier.labels(x)
    first, again = (HopSkipJump(steps=3, seed=5)(classifier, x, y) for _ in range(2))
    other = HopSkipJump(steps=3, seed=6)(classifier, x, y)
    assert np.array_equal(first.inputs, again.inputs)
    assert not np.array_equal(first.inputs, other.inputs)


def test_compiles():
    linear.check_compiles(HopSkipJump(steps=2, probes=10, bounds=(-9.0, 9.0)))


def test_float64():
    linear.check_types(HopSkipJump(steps=2, bounds=None))


def test_comes_back_from_its_config():
    linear.check_round_trip(HopSkipJump("linf", 7, 20, 2, 5, bounds=None, seed=3))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"norm": "l1"}, "`norm` must be one of"),
        ({"steps": 0}, "`steps` must be an integer of at least 1"),
        ({"probes": 1.5}, "`probes` must be an integer of at least 1"),
        ({"restarts": 0}, "`restarts` must be an integer of at least 1"),
        ({"tries": 0}, "`tries` must be an integer of at least 1"),
    ],
)
def test_bad_setting_is_named(setting, message):
    with pytest.raises(ValueError, match=message):
        HopSkipJump(**setting)
