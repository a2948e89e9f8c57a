import numpy as np
import pytest

from lexirobust.attacks import HopSkipJump
from tests.attacks import linear


@pytest.mark.parametrize(
    ("norm", "classes", "bounds", "most"),
    [("l2", 2, None, 1.02), ("l2", 5, (-50.0, 50.0), 1.02), ("linf", 4, None, 1.1)],
)
def test_comes_near_by_decisions_alone(norm, classes, bounds, most):
    classifier, x = linear.Decisions(classes, size=10), linear.samples(size=10)
    y = classifier.labels(x)
    found = HopSkipJump(norm, restarts=classes - 1, bounds=bounds, seed=0)(classifier, x, y)
    known = linear.distances(classifier, x, norm)
    linear.check_found(classifier, x, y, found, norm, bounds)
    assert found.success.numpy().all()
    assert np.all(found.distances >= known * (1 - 1e-4))
    assert np.all(found.distances <= known * most)
