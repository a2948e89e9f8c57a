import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from lexirobust import gem
from tests.helpers import ranked_gradients

ROWS = np.random.default_rng(0).normal(size=(4, 5)) - [[0.0], [2.0], [1.0], [1.0]] * np.eye(1, 5)
ALPHAS = [0.4, 0.3, 0.2, 0.1]
DIRECTIONS = [0.9, 0.0, 0.6, 0.0]


def mixes(rows, alphas, bounds, directions):
    """What was mixed: projected gradients and their weights, without and with directions."""
    gram = gem.gramian(rows)
    alphas = tf.constant(alphas, tf.float64)
    with_directions = gem.onestep(gram, alphas, 0.0, bounds, tf.constant(directions, tf.float64))
    share = np.eye(len(rows)) + with_directions.multipliers.numpy()
    return share @ rows, np.linalg.solve(share.T, with_directions.weights)


@pytest.mark.parametrize("cosine", [0.05, 0.6, 0.9, 0.99])
def test_of_gradients_at_a_right_angle_the_mix_is_turned_and_keeps_its_length(cosine):
    rows = np.array([[1.0, 0.0], [0.0, 10.0]])
    step = gem.onestep_weights(rows @ rows.T, [0.3, 0.7], directions=[cosine, 0.0]).numpy() @ rows
    length = np.hypot(0.3, 7.0)
    along = max(cosine, 0.3 / length)  # One that goes its way already is left alone.
    expected = length * np.array([along, np.sqrt(1 - along**2)])
    np.testing.assert_allclose(step, expected, rtol=1e-9)


@hypothesis.settings(max_examples=30)
@given(rows=ranked_gradients(least_sine=1e-2), data=st.data())
def test_every_mix_goes_the_way_that_its_first_rank_asks_for(rows, data):
    """And weighs no projected gradient less than 0, nor takes more of a rank than it gives."""
    ranks = len(rows)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    directions = rng.uniform(-0.3, 0.99, ranks)
    bounds = np.where(directions > 0, directions, -rng.uniform(0, 2, ranks))
    alphas = rng.dirichlet(np.ones(ranks))
    projected, weights = mixes(rows, alphas, bounds, directions)
    assert np.all(weights >= -1e-9 * np.max(weights))

    step, before = weights @ projected, alphas @ projected
    gradients = np.linalg.norm(rows, axis=1)
    own, length = np.linalg.norm(projected[0]), np.linalg.norm(step)
    if directions[0] > 0 and own > 0.01 * length:
        assert step @ projected[0] >= (directions[0] - 1e-6) * own * length
    if bounds[0] < 0:
        given = min(before @ rows[0], bounds[0] * gradients[0] ** 2)
        assert step @ rows[0] >= given - 1e-6 * gradients[0] * max(length, gradients[0])
    if ranks == 2:
        assert length == pytest.approx(np.linalg.norm(before), rel=1e-6)


def test_a_turned_rank_spends_no_more_of_a_higher_one_than_that_gives():
    """Rank 2 is short and opposes rank 1: as long as rank 3, it would take 0.5 of rank 1."""
    rows = np.array([[1.0, 0.0, 0.0], [-0.05, 0.1, 0.0], [0.0, 0.0, 10.0]])
    bounds, directions = [-0.02, 0.5, 0.0], [0.0, 0.9, 0.0]
    step = gem.onestep(rows @ rows.T, [0.0, 0.5, 0.5], 0.0, bounds, directions)
    assert float(step.descent[0]) == pytest.approx(-0.02)
    free = gem.onestep(rows @ rows.T, [0.0, 0.5, 0.5], 0.0, [-np.inf, 0.5, 0.0], directions)
    assert float(free.descent[0]) < -0.5
    # Also where it would take a little more.
    bounds[0] = float(free.descent[0]) / 1.5
    step = gem.onestep(rows @ rows.T, [0.0, 0.5, 0.5], 0.0, bounds, directions)
    assert float(step.descent[0]) == pytest.approx(bounds[0])


def test_a_gradient_that_vanishes_asks_for_no_direction():
    """Nor does one that a higher rank opposes altogether."""
    for gram, alphas, directions in (
        (np.diag([0.0, 1.0]), [0.3, 0.7], [0.5, 0.0]),
        ([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [0.0, 0.5, 0.5], [0.0, 0.5, 0.0]),
    ):
        step = gem.onestep(np.array(gram), alphas, directions=directions)
        assert float(step.weights[-1]) == pytest.approx(alphas[-1])
    # One that is short, and does not vanish, asks for a part.
    lengths = np.array([1e-5, 1e-3, 5e-3, 5e-2])
    cosines = []
    for length in lengths:
        gram = np.diag([length**2, 1.0])
        weights = gem.onestep_weights(gram, [0.0, 1.0], directions=[0.5, 0.0]).numpy()
        cosines.append(weights[0] * length / np.sqrt(weights**2 @ np.diag(gram)))
    np.testing.assert_allclose(cosines, 0.5 * np.minimum(lengths / 0.01, 1.0), rtol=1e-6)


@pytest.mark.parametrize("directions", [[0.0] * 4, [-1.0, -0.2, 0.0, 0.9]])
def test_ranks_that_ask_for_no_direction_get_the_step_without(directions):
    gram = ROWS @ ROWS.T
    expected = gem.onestep_weights(gram, ALPHAS)
    np.testing.assert_array_equal(
        gem.onestep_weights(gram, ALPHAS, directions=directions), expected
    )


@pytest.mark.parametrize("jit_compile", [False, True])
def test_in_a_graph_the_weights_are_the_same(jit_compile):
    function = tf.function(
        lambda gram, directions: gem.onestep_weights(
            gram, ALPHAS, 0.0, [0.5, -0.1, 0.2, 0.0], directions
        ),
        jit_compile=jit_compile,
    )
    gram = tf.constant(ROWS @ ROWS.T)
    expected = gem.onestep_weights(gram, ALPHAS, 0.0, [0.5, -0.1, 0.2, 0.0], DIRECTIONS)
    found = function(gram, tf.constant(DIRECTIONS, tf.float64))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_what_is_not_finite_gives_no_number():
    step = gem.onestep(np.full([2, 2], np.nan), [0.5, 0.5], directions=[0.5, 0.0])
    assert np.all(np.isnan(step.weights))


@pytest.mark.parametrize(
    ("directions", "message"),
    [
        ([1.0, 0.0], r"`directions` must be numbers below 1\. Received: \[1\.0, 0\.0\]"),
        ([np.nan, 0.0], r"`directions` must be numbers below 1\."),
        ("no", r"`directions` must be numbers below 1\. Received: 'no'"),
        ([0.5], r"`directions` must hold one cosine for each of 2 ranks\. .*\(1,\)"),
    ],
)
def test_bad_directions_are_refused(directions, message):
    with pytest.raises(ValueError, match=message):
        gem.onestep(np.eye(2), [0.5, 0.5], directions=directions)


def test_directions_need_a_known_number_of_ranks():
    specs = [tf.TensorSpec(shape, tf.float64) for shape in ([None, None], [None], [None])]
    function = tf.function(
        lambda gram, alphas, cosines: gem.onestep_weights(gram, alphas, directions=cosines), specs
    )
    with pytest.raises(ValueError, match="each of a known number of ranks"):
        function(np.eye(2), [0.5, 0.5], [0.5, 0.0])
