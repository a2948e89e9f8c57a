import functools

import cvxopt
import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from lexirobust import gem
from lexirobust.gem import dual
from tests.helpers import ranked_gradients, rows_of

OPTIONS = {"show_progress": False, "abstol": 1e-13, "reltol": 1e-13, "feastol": 1e-13}
ROWS = np.random.default_rng(0).normal(size=(4, 5)) - [[0.0], [2.0], [1.0], [1.0]] * np.eye(1, 5)
BOUNDS = [0.5, -0.25, -np.inf, 1.0]


def bounds_of(rng, ranks):
    """`[ranks]` of one kind: all bounds there are, positive, none negligible, or some left out."""
    kinds = (
        rng.uniform(-1, 1, ranks),
        rng.uniform(0, 1, ranks),
        np.ones(ranks),
        np.where(rng.random(ranks) < 0.3, -np.inf, rng.uniform(-2, 1, ranks)),
    )
    return kinds[rng.integers(len(kinds))]


@st.composite
def bounded_gradients(draw, **options):
    rows = draw(ranked_gradients(**options))
    return rows, bounds_of(np.random.default_rng(draw(st.integers(0, 2**32 - 1))), len(rows))


@functools.cache
def in_a_graph(function, *shape):
    """A function of a matrix and of bounds, traced once, as hundreds of cases are solved."""
    specs = [tf.TensorSpec(shape, tf.float64), tf.TensorSpec((None,), tf.float64)]
    return tf.function(function, specs, autograph=False)


def dual_of(gram, bounds):
    return dual.solve_and_cap(gram, 0.0, bounds)


def plain_dual_of(gram, bounds):
    del bounds
    return gem.solve_dual(gram).multipliers


def solved(rows, bounds):
    """Projected gradients, in long floats, and the least inner products that counted."""
    solution, least = in_a_graph(dual_of, None, None)(gem.gramian(rows), as_array(bounds))
    long = rows.astype(np.longdouble)
    return long + solution.multipliers.numpy() @ long, least.numpy(), solution


def vectors_of(rows, bounds):
    return gem.project(rows, bounds=bounds)


def projected_vectors(rows, bounds):
    return in_a_graph(vectors_of, None, None)(rows, as_array(bounds)).numpy()


def as_array(bounds):
    return np.asarray(bounds, np.float64)


def norms_of(rows):
    return np.linalg.norm(rows.astype(np.float64), axis=1)


def shortfalls(projected, rows, least):
    """`[T, T]` by how much each projected gradient misses the bounds above it.

    In units of the products of norms, those of a gradient before and after its projection added.
    """
    missing = (least - projected @ rows.T).astype(np.float64)
    units = np.outer(norms_of(rows) + norms_of(projected), norms_of(rows))
    return np.tril(np.divide(missing, units, out=np.zeros_like(units), where=units > 0), -1)


def nearest_in_order(rows, bounds):
    """Every projection by cvxopt, as a problem of its p elements, one rank after the other."""
    result, least = [], []
    for rank, row in enumerate(rows):
        held = [k for k in range(rank) if np.isfinite(least[k])]
        point = row
        if held:
            solution = cvxopt.solvers.qp(
                cvxopt.matrix(np.eye(len(row))),
                cvxopt.matrix(-row),
                cvxopt.matrix(-rows[held]),
                cvxopt.matrix(-np.array([least[k] for k in held])),
                options=OPTIONS,
            )
            point = np.ravel(solution["x"])
        result.append(point)
        least.append(min(bounds[rank] * (row @ row), point @ row - 1e-12 * (row @ row)))
    return np.array(result)


@pytest.mark.parametrize("bound", [-np.inf, -2.0, -0.3, 0.0, 0.5, 1.0])
@pytest.mark.parametrize("first", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("second", [1e-30, 1.0, 1e30])
def test_two_ranks_have_a_closed_form(bound, first, second):
    for cosine in (-0.9, -0.2, 0.4):
        one = first * np.array([1.0, 0.0])
        other = second * np.array([cosine, np.sqrt(1 - cosine**2)])
        _, _, solution = solved(np.stack([one, other]), [bound, 0.0])
        expected = max(0.0, bound - (one @ other) / (one @ one))
        assert solution.multipliers[1, 0].numpy() == pytest.approx(expected, rel=1e-12)
        assert solution.active[1, 0].numpy() == (expected > 0)
        assert float(solution.kkt_residual) <= 1e-15
        assert float(solution.violation) <= 1e-15


@given(case=bounded_gradients(max_ranks=12))
def test_no_projected_gradient_misses_a_bound(case):
    rows, bounds = case
    projected, least, solution = solved(rows, bounds)
    assert np.max(shortfalls(projected, rows, least)) <= 1e-7
    assert float(solution.kkt_residual) <= 1e-7
    # None is longer than what all gradients together could give.
    assert np.all(norms_of(projected) <= 2 * norms_of(rows).cumsum())


@given(case=bounded_gradients(max_ranks=12))
def test_multipliers_are_those_of_bounds_that_bind(case):
    rows, bounds = case
    projected, least, solution = solved(rows, bounds)
    multipliers = solution.multipliers.numpy()
    assert np.all(multipliers >= 0)
    assert np.array_equal(multipliers, np.tril(multipliers, -1))
    assert np.array_equal(solution.active, multipliers > 0)
    assert np.all(np.abs(shortfalls(projected, rows, least)[multipliers > 0]) <= 1e-7)


@given(case=bounded_gradients())
def test_a_rank_asks_for_no_more_than_its_own_projected_gradient_gives(case):
    rows, bounds = case
    projected, least, solution = solved(rows, bounds)
    norms = norms_of(rows)
    given_, asked = np.sum(projected * rows, axis=1), bounds * norms**2
    terms = norms * (norms + solution.multipliers.numpy() @ norms)
    for rank in np.flatnonzero(norms[:-1] > 0):
        if np.isfinite(bounds[rank]) and np.any(bounds[: rank + 1] > 0):
            expected = min(given_[rank], asked[rank])
            assert abs(least[rank] - expected) <= 1e-13 * terms[rank]
        elif np.isfinite(bounds[rank]):
            assert least[rank] == pytest.approx(asked[rank], rel=1e-12)
        else:
            assert least[rank] <= -2 * norms.sum() * norms[rank]


@given(ranks=st.integers(2, 8), decades=st.floats(0, 2), seed=st.integers(0, 2**32 - 1))
def test_projection_is_that_of_an_interior_point_method(ranks, decades, seed):
    rng = np.random.default_rng(seed)
    rows = rows_of(rng, ranks, 9, decades)
    rows[1:] -= rng.uniform(0, 3) * np.linalg.norm(rows[1:], axis=1, keepdims=True) * rows[0]
    bounds = bounds_of(rng, ranks)
    scale = np.max(norms_of(rows))
    expected = nearest_in_order(rows, bounds)
    for result in (solved(rows, bounds)[0].astype(float), projected_vectors(rows, bounds)):
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5 * scale)


@hypothesis.settings(max_examples=10)
@given(ranks=st.integers(2, 8), seed=st.integers(0, 2**32 - 1))
def test_both_solvers_agree(ranks, seed):
    rng = np.random.default_rng(seed)
    rows = rows_of(rng, ranks, 9)
    bounds = bounds_of(rng, ranks)
    ours, least, _ = solved(rows, bounds)
    solution, found = dual.solve_and_cap(gem.gramian(rows), 0.0, bounds, solver="cvxopt")
    theirs = rows + solution.multipliers.numpy() @ rows
    np.testing.assert_allclose(theirs, ours.astype(float), rtol=0, atol=1e-6)
    np.testing.assert_allclose(found, least, rtol=0, atol=1e-6)
    # The interior-point solution is not exact, so there is something to report.
    missing = (found.numpy() - theirs @ rows.T) / np.outer(norms_of(theirs), norms_of(rows))
    worst = max(0.0, np.max(np.tril(missing, -1)))
    assert float(solution.violation) == pytest.approx(worst, rel=1e-3, abs=1e-13)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_higher_ranks_have_their_way_where_bounds_contradict(scale):
    # Rank 2 wants the opposite of rank 1, rank 3 the same as rank 2 in part.
    rows = scale * np.array([[1.0, 0.0, 0.0], [-2.0, 0.0, 0.0], [-1.0, 1.0, 0.0], [0.0, -1.0, 3.0]])
    expected = scale * np.array([[1.0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 3]])
    bounds = [1.0, 1.0, 0.5, 1.0]
    np.testing.assert_allclose(gem.project(rows, bounds=bounds), expected, atol=1e-12 * scale)
    # Rank 3 gets nothing of the half that it asked for: its projected gradient gives none.
    projected, least, _ = solved(rows, bounds)
    np.testing.assert_allclose(projected.astype(float), expected, atol=1e-12 * scale)
    np.testing.assert_allclose(least[:3] / scale**2, [1.0, -2.0, 0.0], atol=1e-12)


@pytest.mark.parametrize("sine", [1e-1, 1e-4, 1e-7, 1e-8, 1e-10, 0.0])
@pytest.mark.parametrize("bounds", [[1.0] * 6, [0.5, 0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 1.0] * 3])
def test_nearly_dependent_gradients_make_nothing_long(sine, bounds):
    rng = np.random.default_rng(0)
    signs = np.array([[1.0], [-1.0], [1.0], [-1.0], [-1.0], [1.0]])
    rows = signs * rows_of(rng, 1, 12) + sine * rows_of(rng, 6, 12)
    projected, least, _ = solved(rows, bounds)
    assert np.max(shortfalls(projected, rows, least)) <= 1e-7
    assert np.max(norms_of(projected)) <= 3.0


@given(ranks=st.integers(2, 8), seed=st.integers(0, 2**32 - 1))
def test_nothing_gets_longer_than_all_gradients_whatever_their_norms(ranks, seed):
    rng = np.random.default_rng(seed)
    rows = rows_of(rng, ranks, 3, decades=60)
    rows[-1] = -rows[0] / norms_of(rows)[0] * norms_of(rows)[-1]
    projected, _, _ = solved(rows, bounds_of(rng, ranks))
    assert np.all(norms_of(projected) <= 2 * norms_of(rows).cumsum())


@given(rows=ranked_gradients(max_ranks=12))
def test_bounds_of_zero_are_gem_and_those_of_minus_infinity_are_none(rows):
    gram, ranks = gem.gramian(rows), len(rows)
    plain = rows + in_a_graph(plain_dual_of, None, None)(gram, np.zeros(0)).numpy() @ rows
    bounded, _, _ = solved(rows, [0.0] * ranks)
    longest = norms_of(rows).max()
    np.testing.assert_allclose(bounded.astype(float), plain, rtol=0, atol=1e-7 * longest)
    free, _, solution = solved(rows, [-np.inf] * ranks)
    np.testing.assert_array_equal(free, rows)
    assert float(solution.violation) == float(solution.kkt_residual) == 0.0


@given(case=bounded_gradients(least_sine=1e-3), power=st.sampled_from([-60, 60]))
def test_bounds_have_no_scale(case, power):
    rows, bounds = case
    one, other = (solved(scale * rows, bounds)[0] / scale for scale in (1.0, 2.0**power))
    longest = np.max(norms_of(rows))
    np.testing.assert_allclose(one.astype(float), other.astype(float), atol=1e-9 * longest)


def test_zero_gradients_ask_for_nothing_and_keep_the_bounds_of_others():
    rows = np.array([[0.0, 0.0], [1.0, 2.0], [0.0, 0.0], [-2.0, 0.0]])
    solution = gem.solve_dual(gem.gramian(rows), bounds=[1.0, 0.5, 1.0, 0.0])
    expected = [[0] * 4, [0] * 4, [0, 0.5, 0, 0], [0, 0.9, 0, 0]]
    np.testing.assert_allclose(solution.multipliers, expected, atol=1e-12)
    assert float(solution.violation) <= 1e-15


@hypothesis.settings(max_examples=20)
@given(case=bounded_gradients(least_sine=1e-3))
def test_projected_vectors_keep_bounds_however_short_they_are(case):
    rows, bounds = case
    _, least, _ = solved(rows, bounds)
    vectors = projected_vectors(rows, bounds)
    units = np.outer(norms_of(vectors), norms_of(rows))
    missing = np.divide(least - vectors @ rows.T, units, out=0 * units, where=units > 0)
    assert np.max(np.tril(missing, -1)) <= 1e-7


@pytest.mark.parametrize("norm", [1.0, 1e9, 1e20])
def test_projection_is_as_long_as_a_bound_asks_for(norm):
    # A Gramian does not show what is left of the longer ones.
    rows = np.array([[0.6, 0.8], [-0.6 * norm, -0.8 * norm]])
    result = gem.project(rows, bounds=[0.5, 0.0]).numpy()[1]
    assert result @ rows[0] == pytest.approx(0.5, rel=1e-6)


@hypothesis.settings(max_examples=15)
@given(case=bounded_gradients(least_sine=1e-3), data=st.data())
def test_a_step_keeps_the_bound_of_every_rank_as_far_as_those_below_say(case, data):
    rows, bounds = case
    rank = data.draw(st.integers(0, max(0, len(rows) - 2)))
    alphas = np.where(np.arange(len(rows)) >= rank, 1.0 + np.arange(len(rows)), 0.0)
    weights = gem.onestep_weights(
        gem.gramian(rows), tf.constant(alphas / alphas.sum()), 0.0, bounds
    )
    projected, least, _ = solved(rows, bounds)
    scale = norms_of(rows)[rank] * max(norms_of(rows).max(), norms_of(projected).max())
    assert weights.numpy() @ rows @ rows[rank] >= least[rank] - 1e-7 * scale


def test_descent_is_told_in_units_of_each_gradient():
    rows = np.array([[2.0, 0.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    for bounds, expected in (
        (None, [0.75, -0.625]),
        ([0.5, 0.0, 0.0], [0.875, -0.75]),
        ([-0.25, 0.0, 0.0], [0.6875, -0.5625]),
    ):
        step = gem.onestep(rows @ rows.T, [0.75, 0.25, 0.0], bounds=bounds)
        np.testing.assert_allclose(step.descent, [*expected, 0.0], atol=1e-12)


def steps_of(rows, bounds):
    gram = gem.gramian(rows)
    return gem.onestep(gram, [0.4, 0.3, 0.2, 0.1], bounds=bounds), gem.solve_dual(gram, 0.0, bounds)


def everything(rows, bounds):
    return steps_of(rows, bounds), gem.project(rows, bounds=bounds)


@pytest.mark.parametrize(
    ("function", "shape", "jit_compile"),
    [
        (steps_of, (4, 5), True),
        (everything, (None, None), False),
        pytest.param(everything, (4, 5), False, marks=pytest.mark.release),
        pytest.param(everything, (None, None), True, marks=pytest.mark.release),
    ],
)
def test_bounds_are_kept_in_graphs(function, shape, jit_compile):
    rows, bounds = tf.constant(ROWS, tf.float32), tf.constant(BOUNDS, tf.float32)
    specs = [tf.TensorSpec(shape), tf.TensorSpec(shape[:1])]
    traced = tf.function(function, specs, autograph=False, jit_compile=jit_compile)
    results, expected = (tf.nest.flatten(call(rows, bounds)) for call in (traced, function))
    for own, other in zip(results, expected, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-6, atol=1e-6)
    # Bounds that bind are among them, and such that do not.
    assert results[4][:, 0].numpy().tolist() == [False, False, True, True]


def test_numbers_are_bounds_of_a_graph_that_knows_no_ranks():
    function = tf.function(
        lambda gram: gem.solve_dual(gram, bounds=BOUNDS),
        [tf.TensorSpec((None, None), tf.float64)],
        autograph=False,
    )
    expected = gem.solve_dual(ROWS @ ROWS.T, bounds=BOUNDS)
    np.testing.assert_allclose(function(ROWS @ ROWS.T).multipliers, expected.multipliers)


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.release)])
def test_what_is_not_a_number_is_passed_on(jit_compile):
    function = tf.function(gem.solve_dual, jit_compile=jit_compile, autograph=False)
    nan = np.float64("nan")
    for gram, bound in ((np.diag([1.0, nan, 1.0]), 0.5), (np.eye(3), nan)):
        solution = function(tf.constant(gram), bounds=tf.constant([bound, 0.0, 0.0], tf.float64))
        assert np.all(np.isnan(solution.multipliers))
        assert np.isnan(solution.violation)
        assert np.isnan(solution.kkt_residual)
        assert not np.any(solution.active)


def test_what_a_tensor_holds_counts_as_1_at_most():
    gram = ROWS @ ROWS.T
    ours = gem.solve_dual(gram, bounds=tf.constant([7.0, 0.0, 0.0, 9.0]))
    expected = gem.solve_dual(gram, bounds=[1.0, 0.0, 0.0, 1.0])
    np.testing.assert_array_equal(ours.multipliers, expected.multipliers)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ([0.0], r"`bounds` must hold one for each of 2 ranks. Received: shape \(1,\)"),
        (0.5, r"`bounds` must hold one for each of 2 ranks. Received: shape \(\)"),
        ([[0.0, 0.0]], "`bounds` must hold one for each of 2 ranks"),
        (tf.zeros(3), r"`bounds` must hold one for each of 2 ranks. Received: shape \(3,\)"),
        ([1.5, 0.0], r"`bounds` must be numbers of at most 1. Received: \[1.5, 0.0\]"),
        ([0.0, float("nan")], "`bounds` must be numbers of at most 1"),
        ([0.0, float("inf")], "`bounds` must be numbers of at most 1"),
        ([0.0, None], r"`bounds` must be numbers of at most 1. Received: \[0.0, None\]"),
        (["much", "little"], "`bounds` must be numbers of at most 1"),
        ([[0.0], [0.0, 0.0]], "`bounds` must be numbers of at most 1"),
    ],
)
def test_bad_bounds_are_refused(bounds, message):
    for call in (
        lambda: gem.solve_dual(np.eye(2), bounds=bounds),
        lambda: gem.onestep(np.eye(2), [0.5, 0.5], bounds=bounds),
        lambda: gem.project(np.eye(2), bounds=bounds),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_bounds_and_margin_do_not_go_together():
    with pytest.raises(ValueError, match=r"`margin` must be 0 where there are `bounds`\. .*0\.5"):
        gem.solve_dual(np.eye(2), margin=0.5, bounds=[0.0, 0.0])
