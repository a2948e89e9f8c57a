"""Distances between classes against scipy, where rounding hurts, and in several blocks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

import lexirobust as lr
from lexirobust.geometry import class_distances

METRICS = {"l1": "cityblock", "l2": "euclidean", "linf": "chebyshev"}


def by_scipy(x, y, norm):
    """The definition, pair by pair in float64."""
    classes = y.max() + 1
    distances = np.full((classes, classes), np.inf)
    everything = cdist(*2 * [x.reshape(len(x), -1).astype(np.float64)], METRICS[norm])
    for a in range(classes):
        for b in range(classes):
            between = everything[np.ix_(y == a, y == b)]
            if a != b and between.size:
                distances[a, b] = between.min()
    return distances


@pytest.mark.parametrize("norm", METRICS)
@given(
    seed=st.integers(0, 2**32 - 1),
    shift=st.sampled_from([0.0, 1e3]),
    spread=st.sampled_from([1e-6, 1.0]),
    clusters=st.sampled_from([3, 300]),
    dtype=st.sampled_from(["float32", "float64"]),
    block=st.sampled_from([3, 2**11]),
)
@settings(max_examples=40, deadline=None)
def test_distances_and_pairs_are_exact(norm, seed, shift, spread, clusters, dtype, block):
    rng = np.random.default_rng(seed)
    y = rng.integers(4, size=30)
    # Near each other and far from zero: the matrix product alone would lose all digits.
    centers = shift + rng.normal(size=(clusters, 1, 1))[rng.integers(clusters, size=30)]
    x = (centers + spread * rng.normal(size=(30, 5, 2))).astype(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(class_distances, "_BLOCK_ENTRIES", block**2)
        patch.setattr(class_distances, "_DIFFERENCE_ENTRIES", 10 * block**2)
        distances = lr.class_distances(x, y, norm)
        pairs = lr.nearest_pairs(x, y, norm)
    np.testing.assert_allclose(distances, by_scipy(x, y, norm), rtol=1e-12)
    for a, b in zip(*np.nonzero(np.isfinite(distances)), strict=True):
        first, second = pairs[a, b]
        assert (y[first], y[second]) == (a, b)
        assert list(pairs[b, a]) == [second, first]
        between = by_scipy(x[[first, second]], np.array([0, 1]), norm)[0, 1]
        assert between == pytest.approx(distances[a, b], rel=1e-12)
    assert (pairs[~np.isfinite(distances)] == -1).all()


@pytest.mark.parametrize("norm", METRICS)
def test_the_same_sample_in_two_classes_is_at_zero(norm):
    x = np.ones((6, 3))
    distances = lr.class_distances(x, np.array([0, 0, 0, 1, 1, 3]), norm)
    assert distances[0, 1] == distances[1, 3] == 0
    assert np.isinf(distances[2]).all()
    assert np.isinf(np.diag(distances)).all()


@pytest.mark.parametrize(
    ("x", "y", "norm", "named"),
    [
        ([[0.0], [1.0]], [0, 1], "l3", "norm"),
        ([[0.0], [1.0]], [0, -1], "l2", "y"),
        ([[0.0], [np.nan]], [0, 1], "l2", "x"),
        ([[0.0], [1.0]], [0], "l2", "y"),
        ([[0.0], [1.0]], [[0.5, 0.5], [1.0, 0.0]], "l2", "y"),
    ],
)
def test_bad_input_is_named(x, y, norm, named):
    with pytest.raises(ValueError, match=f"`{named}`"):
        lr.class_distances(x, y, norm)
