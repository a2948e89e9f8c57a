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
