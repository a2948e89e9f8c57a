import itertools

import cvxopt
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import nnls

from lexirobust import gem
from tests.helpers import ranked_gradients, rows_of


def units(rows):
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)


def projected(rows, **options):
    """Every projected gradient, in units of its own original."""
    multipliers = gem.solve_dual(gem.gramian(rows), **options).multipliers.numpy()
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    shares = multipliers * np.divide(
        norms.T, norms, out=np.zeros_like(multipliers), where=norms > 0
    )
    return units(rows) + shares @ units(rows)


def products(rows, **options):
    """Inner products of every projected gradient with those above, in units of the originals."""
    return np.tril(projected(rows, **options) @ units(rows).T, -1)


def worst_cosine(rows, **options):
    """The lowest cosine between a projected gradient and one above it.

    A projected gradient that all but vanished is measured as a thousandth of its original.
    """
    lengths = np.linalg.norm(projected(rows, **options), axis=1, keepdims=True)
    return np.min(products(rows, **options) / np.maximum(lengths, 1e-3))


def nearest_by_nnls(rows):
    """What `projected` is to give, by non-negative least squares."""
    unit = units(rows)
    result = unit.copy()
    for rank in range(1, len(unit)):
        result[rank] += nnls(unit[:rank].T, -unit[rank], maxiter=1000)[0] @ unit[:rank]
    return result


def nearest_by_enumeration(higher, gradient):
    """The nearest point to `gradient` that opposes no row: the best over all sets of rows held."""
    best = None
    for count in range(len(higher) + 1):
        for held in itertools.combinations(higher, count):
            basis = np.array(held).reshape(count, len(gradient))
            point = gradient - np.linalg.pinv(basis) @ basis @ gradient
            allowed = np.all(higher @ point >= -1e-12)
            if allowed and (best is None or distance(point, gradient) < distance(best, gradient)):
                best = point
    return best


def distance(one, other):
    return np.linalg.norm(one - other)


@given(rows=ranked_gradients(max_ranks=12))
def test_no_projected_gradient_opposes_a_higher_one(rows):
    assert np.min(products(rows)) >= -1e-7


@given(rows=ranked_gradients(least_sine=1e-3))
def test_what_is_left_of_a_gradient_opposes_no_higher_one(rows):
    assert worst_cosine(rows) >= -1e-7


@given(ranks=st.integers(2, 5), seed=st.integers(0, 2**32 - 1))
def test_violation_is_the_worst_cosine(ranks, seed):
    rows = rows_of(np.random.default_rng(seed), ranks, 8)
    rows[1:] -= 2 * rows[0]
    # The interior-point solution is not exact, so there is something to report.
    reported = gem.solve_dual(gem.gramian(rows), solver="cvxopt").violation
    worst = worst_cosine(rows, solver="cvxopt")
    assert float(reported) == pytest.approx(max(0.0, -worst), rel=1e-3, abs=1e-13)


@given(rows=ranked_gradients(max_ranks=32))
def test_multipliers_satisfy_the_optimality_conditions(rows):
    solution = gem.solve_dual(gem.gramian(rows))
    multipliers = solution.multipliers.numpy()
    assert np.all(multipliers >= 0)
    assert np.array_equal(multipliers, np.tril(multipliers, -1))
    assert float(solution.kkt_residual) <= 1e-7
    # Where a multiplier is positive, the projected gradient and the higher one are orthogonal.
    assert np.all(np.abs(products(rows)[multipliers > 0]) <= 1e-7)


# A Gramian in float64 holds angles down to about 1e-8: nearer to dependence, answers differ.
@given(rows=ranked_gradients(least_sine=1e-3))
def test_projection_is_the_one_of_non_negative_least_squares(rows):
    np.testing.assert_allclose(projected(rows), nearest_by_nnls(rows), rtol=0, atol=1e-7)


@given(ranks=st.integers(2, 4), seed=st.integers(0, 2**32 - 1))
def test_projection_is_the_nearest_point_over_all_active_sets(ranks, seed):
    rows = rows_of(np.random.default_rng(seed), ranks, 5)
    expected = nearest_by_enumeration(rows[:-1], rows[-1])
    np.testing.assert_allclose(gem.project(rows)[-1], expected, rtol=0, atol=1e-9)


@given(ranks=st.integers(1, 6), decades=st.floats(0, 9), seed=st.integers(0, 2**32 - 1))
def test_interior_point_solver_agrees(ranks, decades, seed):
    rows = rows_of(np.random.default_rng(seed), ranks, 8, decades)
    np.testing.assert_allclose(projected(rows), projected(rows, solver="cvxopt"), rtol=0, atol=1e-5)


@given(ranks=st.integers(2, 6), decades=st.floats(0, 9), seed=st.integers(0, 2**32 - 1))
def test_unique_multipliers_are_those_of_the_interior_point_solver(ranks, decades, seed):
    rng = np.random.default_rng(seed)
    # Independent gradients: an orthogonal basis, tilted.
    rows = np.linalg.qr(rng.normal(size=(8, ranks)))[0].T @ (
        np.eye(8) + 0.1 * rng.normal(size=(8, 8))
    )
    rows[1:] -= rng.uniform(0, 2, size=(ranks - 1, 1)) * rows[0]
    rows *= 10.0 ** rng.uniform(-decades / 2, decades / 2, size=(ranks, 1))
    norms = np.linalg.norm(rows, axis=1)
    ours, theirs = (
        gem.solve_dual(gem.gramian(rows), solver=solver).multipliers * norms / norms[:, None]
        for solver in ("active_set", "cvxopt")
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


@given(
    ranks=st.integers(2, 5), margin=st.sampled_from([0.1, 0.5, 2.0]), seed=st.integers(0, 2**32 - 1)
)
def test_margin_bounds_the_multipliers_of_the_problem_as_published(ranks, margin, seed):
    rows = rows_of(np.random.default_rng(seed), ranks, 8)
    multipliers = gem.solve_dual(gem.gramian(rows), margin=margin).multipliers.numpy()
    options = {"show_progress": False, "abstol": 1e-12, "reltol": 1e-12, "feastol": 1e-12}
    for rank in range(1, ranks):
        higher = rows[:rank]
        result = cvxopt.solvers.qp(
            cvxopt.matrix(higher @ higher.T),
            cvxopt.matrix(higher @ rows[rank]),
            cvxopt.matrix(-np.eye(rank)),
            cvxopt.matrix(np.full(rank, -margin)),
            options=options,
        )
        np.testing.assert_allclose(
            multipliers[rank, :rank], np.ravel(result["x"]), rtol=1e-5, atol=1e-5
        )


@given(rows=ranked_gradients(), margin=st.sampled_from([0.01, 1.0]))
def test_margin_never_makes_a_projected_gradient_oppose(rows, margin):
    solution = gem.solve_dual(gem.gramian(rows), margin=margin)
    multipliers = solution.multipliers.numpy()
    assert np.all(multipliers[np.tril_indices(len(rows), -1)] >= margin)
    # In units of the gradients that the margin's shares have been added to.
    raised = rows + margin * np.tril(np.ones((len(rows),) * 2), -1) @ rows
    slack = np.tril((rows + multipliers @ rows) @ units(rows).T, -1)
    assert np.all(slack >= -1e-7 * np.linalg.norm(raised, axis=1, keepdims=True) - 1e-300)


@given(rows=ranked_gradients(), decade=st.integers(-9, 9), data=st.data())
def test_rescaling_one_gradient_changes_no_direction(rows, decade, data):
    rescaled = rows.copy()
    rescaled[data.draw(st.integers(0, len(rows) - 1))] *= 2.0 ** (3 * decade)
    np.testing.assert_allclose(projected(rescaled), projected(rows), rtol=0, atol=1e-7)


@pytest.mark.parametrize("ranks", [16, 32])
@pytest.mark.parametrize("size", [8, 64])
def test_many_ranks_are_solved(ranks, size):
    # With fewer dimensions than ranks, many gradients have no direction left: they vanish.
    rows = rows_of(np.random.default_rng(ranks), ranks, size, decades=9)
    np.testing.assert_allclose(projected(rows), nearest_by_nnls(rows), rtol=0, atol=1e-7)
    assert np.min(products(rows)) >= -1e-9


@pytest.mark.parametrize("sine", [1e-1, 1e-4, 1e-7, 1e-8, 1e-10, 0.0])
@pytest.mark.parametrize("ranks", [3, 8])
def test_nearly_parallel_gradients_are_solved(sine, ranks):
    rng = np.random.default_rng(0)
    rows = np.tile(rows_of(rng, 1, 12), (ranks, 1)) + sine * rows_of(rng, ranks, 12)
    rows[-1] = -rows[0] + 0.3 * rows_of(rng, 1, 12)
    assert np.min(products(rows)) >= -1e-7


@pytest.mark.parametrize("first", [1e4, 1.0, 1e-4])
@pytest.mark.parametrize("norm", [1e6, 1.0, 0.1, 0.01, 1e-9])
def test_conflict_is_removed_at_every_norm_and_ratio(norm, first):
    # A fixed ridge, or a tolerance that is not relative to the norms, leaves a conflict here.
    one = np.array([1.0, 0.0])
    other = np.array([-0.9, np.sqrt(1 - 0.81)])
    for rows in ([first * norm * one, norm * other], [norm * one, first * norm * other]):
        result = gem.project(np.array(rows, np.float32)).numpy().astype(np.float64)
        cosine = result[1] @ result[0] / np.linalg.norm(result[0]) / np.linalg.norm(result[1])
        assert abs(cosine) <= 1e-6
        # What is left is the component across: a share sqrt(1 - 0.9^2) of the original.
        share = np.linalg.norm(result[1]) / np.linalg.norm(rows[1])
        assert share == pytest.approx(np.sqrt(0.19), rel=1e-5)


def test_duplicate_gradients_leave_what_is_orthogonal():
    rows = np.array([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0], [-3.0, 1.0]])
    np.testing.assert_allclose(gem.project(rows)[3], [0.0, 1.0], atol=1e-12)


def test_opposite_gradient_vanishes():
    assert gem.project([[2.0, 0.0], [-5.0, 0.0]]).numpy().tolist() == [[2, 0], [0, 0]]


def test_opposed_higher_gradients_leave_what_is_orthogonal_to_both():
    # Rank 2 vanishes, yet rank 3 is not to oppose the original rank 2 either.
    rows = np.array([[1.0, 0.0], [-1.0, 0.0], [7.0, 1.0]])
    np.testing.assert_allclose(gem.project(rows)[2], [0.0, 1.0], atol=1e-12)


def test_zero_gradients_constrain_nothing_and_stay_zero():
    rows = np.array([[0.0, 0.0], [1.0, 2.0], [0.0, 0.0], [-2.0, 0.0]])
    multipliers = gem.solve_dual(gem.gramian(rows)).multipliers.numpy()
    assert np.all(multipliers[:, [0, 2]] == 0)
    assert np.all(multipliers[2] == 0)
    np.testing.assert_allclose(gem.project(rows)[3], [-1.6, 0.8], atol=1e-12)


def test_one_rank_needs_no_multiplier():
    solution = gem.solve_dual([[4.0]])
    assert solution.multipliers.numpy().tolist() == [[0.0]]
    assert float(solution.violation) == float(solution.kkt_residual) == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_gives_not_a_number(bad):
    rows = np.ones((4, 3))
    rows[2, 1] = bad
    solution = gem.solve_dual(gem.gramian(rows))
    assert np.all(np.isnan(solution.multipliers.numpy()[np.tril_indices(4, -1)]))
    assert np.isnan(solution.violation)
    assert np.isnan(solution.kkt_residual)
    assert np.all(np.isnan(gem.project(rows)[1:]))


@pytest.mark.parametrize(
    ("gram", "options", "message"),
    [
        ([[1.0, 2.0]], {}, r"`gram` must be a \[T, T\] matrix. Received: shape \(1, 2\)"),
        ([1.0], {}, "`gram` must be"),
        ([[1.0]], {"margin": -0.5}, "`margin` must be .* Received: -0.5"),
        ([[1.0]], {"margin": float("nan")}, "`margin` must be .* Received: nan"),
        ([[1.0]], {"solver": "quadprog"}, "`solver` must be one of .* Received: 'quadprog'"),
    ],
)
def test_bad_arguments_are_refused(gram, options, message):
    with pytest.raises(ValueError, match=message):
        gem.solve_dual(gram, **options)


@pytest.mark.parametrize("shape", [(None, None), (None, 3), (3, None), None], ids=str)
def test_number_of_ranks_may_be_unknown(shape):
    rows = np.array([[1.0, 0.0], [-1.0, 1.0], [-1.0, -3.0]])
    solve = tf.function(gem.solve_dual, [tf.TensorSpec(shape, tf.float64)], autograph=False)
    solution, expected = solve(rows @ rows.T), gem.solve_dual(rows @ rows.T)
    for own, other in zip(solution, expected, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-12, atol=1e-15)
    if shape == (None, None):
        assert solve(tf.eye(5, dtype=tf.float64)).multipliers.shape == (5, 5)


def test_python_numbers_keep_their_scale():
    small = gem.solve_dual([[1e-60, -1e-60], [-1e-60, 2e-60]])
    assert small.multipliers.numpy()[1, 0] == pytest.approx(1.0)
    assert gem.solve_dual([[1, -1], [-1, 2]]).multipliers.numpy().tolist() == [[0, 0], [1, 0]]
