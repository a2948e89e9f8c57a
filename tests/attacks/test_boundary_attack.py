import numpy as np
import pytest

from lexirobust.attacks import BoundaryAttack
from tests.attacks import linear


@pytest.mark.parametrize(("classes", "bounds"), [(2, None), (4, (-50.0, 50.0))])
def test_comes_near_by_decisions_alone(classes, bounds):
    classifier, x = linear.Decisions(classes, size=10), linear.samples(size=10)
    y = classifier.labels(x)
    attack = BoundaryAttack(steps=3000, restarts=classes - 1, bounds=bounds, seed=0)
    found = attack(classifier, x, y)
    known = linear.distances(classifier, x, "l2")
    linear.check_found(classifier, x, y, found, "l2", bounds)
    assert found.success.numpy().all()
    assert np.all(found.distances >= known * (1 - 1e-4))
    assert np.all(found.distances <= known * 1.02)


def test_images_stay_in_bounds_that_bind():
    classifier, x = linear.Decisions(), linear.samples().reshape(-1, 2, 5, 2)
    y = classifier.labels(x.reshape(-1, 20))
    classifier.offset[y[0]] += 3.0
    x, y = x[y == y[0]], y[y == y[0]]
    found = BoundaryAttack(steps=300, tries=500, seed=0)(classifier, x, y)
    assert found.success.numpy().any()
    linear.check_found(classifier, x, y, found, "l2", (0.0, 1.0))


def test_nothing_to_find():
    x = linear.samples(2)
    found = BoundaryAttack(steps=2)(lambda x: x[:, :2] * 0 + [2.0, 0.0], x, np.zeros(2, int))
    assert not found.success.numpy().any()
    assert np.isinf(found.distances).all()
    assert found.queries.numpy().tolist() == [31, 31]


def test_misclassified_sample_is_its_own_nearest_point():
    linear.check_misclassified(BoundaryAttack(steps=2, bounds=(-9.0, 9.0)))


@pytest.mark.parametrize("restarts", [1, 2])
def test_queries_are_counted(restarts):
    linear.check_queries(BoundaryAttack(steps=5, restarts=restarts, bounds=(-9.0, 9.0), seed=0))


def test_compiles():
    linear.check_compiles(BoundaryAttack(steps=5, bounds=(-9.0, 9.0)))


def test_float64():
    linear.check_types(BoundaryAttack(steps=5, bounds=None))


def test_comes_back_from_its_config():
    linear.check_round_trip(BoundaryAttack("l2", 7, 0.2, 0.3, 2, 5, bounds=None, seed=3))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"norm": "linf"}, "`norm` must be one of"),
        ({"steps": 0}, "`steps` must be an integer of at least 1"),
        ({"around": 0.0}, "`around` must be above 0 and below 1"),
        ({"inward": 1.0}, "`inward` must be above 0 and below 1"),
        ({"restarts": 0}, "`restarts` must be an integer of at least 1"),
        ({"tries": 0}, "`tries` must be an integer of at least 1"),
    ],
)
def test_bad_setting_is_named(setting, message):
    with pytest.raises(ValueError, match=message):
        BoundaryAttack(**setting)
