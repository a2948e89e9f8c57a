import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from lexirobust import gem
from tests.helpers import ranked_gradients, rows_of

ALPHAS = [0.5, 0.2, 0.2, 0.1]


def units(rows):
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)


@given(rows=ranked_gradients(least_sine=1e-6), margin=st.sampled_from([0.0, 0.5]), data=st.data())
def test_weights_mix_the_projected_gradients(rows, margin, data):
    shares = data.draw(st.lists(st.integers(1, 9), min_size=len(rows), max_size=len(rows)))
    alphas = np.array(shares) / sum(shares)
    weights = gem.onestep_weights(gem.gramian(rows), alphas, margin=margin)
    terms = np.abs(weights[:, None] * rows)
    expected = alphas @ gem.project(rows, margin=margin).numpy()
    np.testing.assert_allclose(weights.numpy() @ rows, expected, rtol=0, atol=1e-12 * terms.max())


@given(rows=ranked_gradients(), decades=st.integers(0, 9))
def test_update_never_hurts_rank_one(rows, decades):
    rows[0] *= 10.0**decades
    alphas = np.full(len(rows), 1 / len(rows))
    weights = gem.onestep_weights(gem.gramian(rows), alphas).numpy()
    terms = weights[:, None] * rows
    update = terms.sum(axis=0)
    # Each term comes with rounding of its own.
    assert update @ units(rows)[0] >= -1e-7 * np.linalg.norm(terms, axis=1).max()


@given(rows=ranked_gradients(), data=st.data())
def test_no_rank_is_hurt_by_those_below_it(rows, data):
    """Whatever the shares of the ranks below s, their part of the update does not oppose g_s."""
    rank = data.draw(st.integers(0, len(rows) - 1))
    below = np.arange(len(rows)) > rank
    alphas = np.where(below, data.draw(st.floats(0.01, 1)) * (1 + np.arange(len(rows))), 0.0)
    weights = gem.onestep_weights(gem.gramian(rows), alphas).numpy()
    terms = weights[:, None] * rows
    scale = np.linalg.norm(terms, axis=1).max()
    assert terms.sum(axis=0) @ units(rows)[rank] >= -1e-7 * scale


def test_ranks_that_agree_keep_their_alphas():
    rows = np.array([[1.0, 0, 0, 0], [1, 2, 0, 0], [0, 1, 1, 0], [3, 1, 0, 1]])
    assert gem.onestep_weights(rows @ rows.T, ALPHAS).numpy().tolist() == ALPHAS


def test_one_rank_keeps_its_weight():
    assert gem.onestep_weights([[9.0]], [1.0]).numpy().tolist() == [1.0]


def weights_of(rows):
    return gem.onestep_weights(gem.gramian(rows), ALPHAS)


def on_two_replicas(strategy, rows):
    """Each replica sees half of every gradient; the weights are for the sum."""

    def replica(half):
        return weights_of(tf.distribute.get_replica_context().all_reduce("sum", half))

    shares = strategy.experimental_distribute_values_from_function(
        lambda context: rows * (0.25 if context.replica_id_in_sync_group else 0.75)
    )
    first, second = strategy.experimental_local_results(
        tf.function(strategy.run)(replica, args=(shares,))
    )
    np.testing.assert_array_equal(first, second)
    return first


@pytest.mark.parametrize("where", ["tf.function", "jit_compile", "MirroredStrategy"])
def test_weights_are_the_same_wherever_they_are_computed(strategy, where):
    compiled = {
        "tf.function": tf.function(weights_of),
        "jit_compile": tf.function(weights_of, jit_compile=True),
        "MirroredStrategy": functools.partial(on_two_replicas, strategy),
    }[where]
    rng = np.random.default_rng(0)
    for decades in (0, 3, 6):
        rows = tf.constant(rows_of(rng, 4, 3, decades))
        np.testing.assert_allclose(compiled(rows), weights_of(rows), rtol=1e-9, atol=1e-12)


def test_nan_is_passed_on_in_a_compiled_graph():
    rows = tf.constant(np.diag([1.0, np.nan, 1.0, 1.0]))
    assert np.all(np.isnan(tf.function(weights_of, jit_compile=True)(rows)[:3]))


@pytest.mark.parametrize("dtype", [tf.float16, tf.float32, tf.float64])
def test_projected_gradients_keep_their_type(dtype):
    assert gem.project(tf.constant([[1.0, 0.0], [-1.0, 1.0]], dtype)).dtype == dtype


def test_combine_adds_up_every_variable():
    one, two, three = tf.constant([1.0, 2.0]), tf.constant([[4.0]]), tf.constant([8.0, 8.0])
    weights = tf.constant([0.5, 0.25], tf.float64)
    combined = gem.combine([[one, None, None], [three, two, None]], weights)
    assert [None if c is None else c.numpy().tolist() for c in combined] == [[2.5, 3], [[1]], None]
    assert combined[0].dtype == tf.float32


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"`alphas` must .* 2 ranks. Received: shape \(3,\)"):
        gem.onestep_weights(np.eye(2), [0.5, 0.25, 0.25])
    with pytest.raises(ValueError, match=r"`weights` must .* 2 losses. Received: shape \(1,\)"):
        gem.combine([[tf.ones(2)], [tf.ones(2)]], tf.ones(1))
    with pytest.raises(ValueError, match=r"`gradients` must be floats\. .*int32"):
        gem.project([[1, 0], [-1, 1]])
    with pytest.raises(ValueError, match="`gradients` must be a"):
        gem.project([1.0, 2.0])
