import functools

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from lexirobust import gem
from tests.helpers import ranked_gradients

ALPHAS = [0.5, 0.2, 0.2, 0.1]
ALPHAS_OF_THREE = [0.5, 0.3, 0.2]


def units(rows):
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)


# The sine of two rows comes out of a Gramian to about 1e-16 / sine^2: down to 1e-3, the projections
# agree to the 1e-7 asked for.
@given(rows=ranked_gradients(least_sine=1e-3), margin=st.sampled_from([0.0, 0.5]), data=st.data())
def test_weights_mix_the_projected_gradients(rows, margin, data):
    shares = data.draw(st.lists(st.integers(1, 9), min_size=len(rows), max_size=len(rows)))
    alphas = np.array(shares) / sum(shares)
    step = gem.onestep(gem.gramian(rows), alphas, margin=margin)
    update = step.weights.numpy() @ rows
    terms = np.abs(step.weights[:, None] * rows)
    mixed = alphas @ (rows + step.multipliers.numpy() @ rows)
    np.testing.assert_allclose(update, mixed, rtol=0, atol=1e-12 * terms.max())
    # `project` sees the vectors and corrects what the Gramian does not show.
    nearest = alphas @ gem.project(rows, margin=margin).numpy()
    longest = np.linalg.norm(rows, axis=1).max() * (1 + margin * len(rows))
    np.testing.assert_allclose(update, nearest, rtol=0, atol=1e-7 * longest)


@given(rows=ranked_gradients(max_ranks=12))
def test_report_says_what_the_update_is_made_of(rows):
    gram = gem.gramian(rows)
    step, solution = gem.onestep(gram, equal_alphas(len(rows))), gem.solve_dual(gram)
    weights = gem.onestep_weights(gram, equal_alphas(len(rows)))
    for field, expected in (
        ("weights", weights),
        ("gramian", rows @ rows.T),
        ("cosines", gem.cosines(gram)),
        ("multipliers", solution.multipliers),
        ("active", solution.multipliers > 0),
        ("violation", solution.violation),
        ("kkt_residual", solution.kkt_residual),
    ):
        np.testing.assert_allclose(getattr(step, field), expected, rtol=1e-9, err_msg=field)


def equal_alphas(ranks):
    return np.full(ranks, 1 / ranks)


def test_active_ranks_are_those_above_their_lower_bound():
    # Rank 2 opposes rank 1, rank 3 opposes neither.
    rows = np.array([[1.0, 0, 0], [-1, 1, 0], [1, 1, 1]])
    for margin in (0.0, 0.5):
        active = gem.onestep(rows @ rows.T, ALPHAS_OF_THREE, margin).active.numpy()
        assert active.tolist() == [[False] * 3, [True, False, False], [False] * 3]


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
    alphas = np.where(below, 1.0 + np.arange(len(rows)), 0.0)
    # As a tensor: what is checked of numbers, that they sum to 1, plays no part here.
    weights = gem.onestep_weights(gem.gramian(rows), tf.constant(alphas)).numpy()
    terms = weights[:, None] * rows
    scale = np.linalg.norm(terms, axis=1).max()
    assert terms.sum(axis=0) @ units(rows)[rank] >= -1e-7 * scale


def test_ranks_that_agree_keep_their_alphas():
    rows = np.array([[1.0, 0, 0, 0], [1, 2, 0, 0], [0, 1, 1, 0], [3, 1, 0, 1]])
    assert gem.onestep_weights(rows @ rows.T, ALPHAS).numpy().tolist() == ALPHAS


def test_one_rank_keeps_its_weight():
    assert gem.onestep_weights([[9.0]], [1.0]).numpy().tolist() == [1.0]


def weights_of(rows):
    return gem.onestep_weights(gem.gramian(rows), equal_alphas(len(rows)))


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


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("tf.function", marks=pytest.mark.release),
        "jit_compile",
        pytest.param("MirroredStrategy", marks=pytest.mark.release),
    ],
)
def compiled(request, strategy):
    return {
        "tf.function": tf.function(weights_of),
        "jit_compile": tf.function(weights_of, jit_compile=True),
        "MirroredStrategy": functools.partial(on_two_replicas, strategy),
    }[request.param]


# Zeros fill up to one shape: it is compiled once, and they constrain nothing.
@hypothesis.settings(max_examples=20)
@given(rows=ranked_gradients(max_ranks=32, least_sine=1e-3))
def test_update_is_the_same_wherever_it_is_computed(compiled, rows):
    rows = np.pad(rows, ((0, 32 - len(rows)), (0, 12 - rows.shape[1])))
    weights, expected = compiled(tf.constant(rows)).numpy(), weights_of(rows).numpy()
    longest = np.linalg.norm(rows, axis=1).max()
    np.testing.assert_allclose(weights @ rows, expected @ rows, rtol=0, atol=1e-9 * longest)


@pytest.mark.parametrize(
    ("bad", "jit_compile"),
    [(np.nan, True), (np.inf, False), pytest.param(np.inf, True, marks=pytest.mark.release)],
)
def test_nan_is_passed_on_in_a_graph(jit_compile, bad):
    @tf.function(jit_compile=jit_compile)
    def everything(rows):
        step = gem.onestep(gem.gramian(rows), ALPHAS)
        return step.weights, gem.project(rows), gem.combine(rows, step.weights)[0], step.active

    weights, projected, update, active = everything(tf.constant(np.diag([1.0, bad, 1.0, 1.0])))
    for result in (weights, projected, update):
        assert np.all(np.isnan(result))
    assert not np.any(active)


ROWS = np.random.default_rng(0).normal(size=(3, 5)) - [[0.0], [2.0], [1.0]] * np.eye(1, 5)
MATRICES = {
    "gramian": lambda g: gem.gramian(g),
    "in a metric": lambda g: gem.gramian(g, tf.range(1.0, 6.0)),
    "inner_products": lambda g: gem.inner_products(g, g[:2]),
    "project": lambda g: gem.project(g),
    "combine": lambda g: gem.combine(g, [0.5, 0.3, 0.2])[0],
    "cosines": lambda g: gem.cosines(gem.gramian(g)),
    "multipliers": lambda g: gem.solve_dual(gem.gramian(g), 0.5).multipliers,
    "weights": lambda g: gem.onestep_weights(gem.gramian(g), ALPHAS_OF_THREE),
    "weights by a tensor": lambda g: (
        gem.onestep(gem.gramian(g), tf.gather([0.2, 0.4], [1, 0, 1])).weights
    ),
}


def every_matrix(g):
    return {name: make(g) for name, make in MATRICES.items()}


@pytest.fixture(scope="module")
def of_rows():
    return every_matrix(tf.constant(ROWS))


def assert_same(results, expected):
    for own, other in zip(tf.nest.flatten(results), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "shape",
    [
        (3, 5),
        (None, None),
        None,
        pytest.param((3, None), marks=pytest.mark.release),
        pytest.param((None, 5), marks=pytest.mark.release),
    ],
    ids=str,
)
def test_symbolic_matrices_of_any_shape(of_rows, shape):
    spec = tf.TensorSpec(shape, tf.float64)
    for autograph in (False, True) if shape == (None, None) else (False,):
        function = tf.function(every_matrix, input_signature=[spec], autograph=autograph)
        assert_same(function(tf.constant(ROWS)), of_rows)


@pytest.mark.release
@pytest.mark.parametrize("shape", [(3, None), (None, None)], ids=str)
def test_symbolic_matrices_are_compiled(of_rows, shape):
    spec = tf.TensorSpec(shape, tf.float64)
    function = tf.function(every_matrix, [spec], autograph=False, jit_compile=True)
    assert_same(function(tf.constant(ROWS)), of_rows)


def test_matrices_longer_than_a_block_of_unknown_size():
    rows = np.random.default_rng(0).normal(size=(3, 300_000))
    for shape in ((3, None), (None, None)):
        spec = [tf.TensorSpec(shape, tf.float64)]
        gram = tf.function(gem.gramian, spec, autograph=False)(tf.constant(rows))
        np.testing.assert_allclose(gram, rows @ rows.T, rtol=1e-12, atol=1e-7)


def test_functions_are_mapped_over_a_dataset(of_rows):
    dataset = tf.data.Dataset.from_tensors(ROWS).map(every_matrix)
    assert_same(next(iter(dataset)), of_rows)


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.release)])
def test_a_train_step_of_the_users_own(jit_compile):
    """Two losses in one Keras model, their gradients stacked to `[T, p]`."""

    class Ranked(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2, use_bias=False, kernel_initializer="ones")

        def call(self, x):
            return self.dense(x)

        def train_step(self, data):
            x, y = data
            with tf.GradientTape(persistent=True) as tape:
                outputs = self(x, training=True)
                losses = [tf.reduce_mean(outputs), tf.reduce_mean((outputs - y) ** 2)]
            (variable,) = self.trainable_variables
            rows = tf.stack(
                [tf.reshape(tape.gradient(loss, variable.value), [-1]) for loss in losses]
            )
            weights = gem.onestep_weights(gem.gramian(rows), [0.5, 0.5])
            (update,) = gem.combine(rows, weights)
            projected = gem.project(rows)
            cosine = gem.cosines(gem.inner_products(projected, projected))[0, 1]
            self.optimizer.apply([tf.reshape(update, variable.shape)], [variable])
            return {"cosine": cosine}

    x, y = np.array([[1.0, 2.0]], np.float32), np.array([[9.0, 9.0]], np.float32)
    model = Ranked()
    model.compile(keras.optimizers.SGD(0.1), jit_compile=jit_compile)
    logs = model.fit(x, y, verbose=0).history
    first = np.repeat([0.5, 1.0], 2)
    rows = np.stack([first, -12.0 * first])
    step = gem.onestep_weights(rows @ rows.T, [0.5, 0.5]).numpy() @ rows
    np.testing.assert_allclose(np.ravel(model.dense.kernel), 1 - 0.1 * step, rtol=1e-5)
    assert logs["cosine"][0] >= -1e-6


def test_what_a_graph_must_know_is_said():
    with pytest.raises(ValueError, match=r"`gram` must be a \[T, T\] matrix.*\(None, 2, 2\)"):
        tf.function(gem.solve_dual, [tf.TensorSpec((None, 2, 2))])(tf.ones((1, 2, 2)))
    with pytest.raises(ValueError, match="`solver` must be 'active_set' inside a graph"):
        tf.function(lambda g: gem.solve_dual(g, solver="cvxopt"))(tf.eye(2))


def opposed(vectors, rows):
    """The lowest cosine between a vector and a gradient of higher rank."""
    return np.min(np.tril(units(vectors) @ units(rows).T, -1))


@hypothesis.settings(max_examples=25)
@given(rows=ranked_gradients(max_ranks=12))
def test_projected_gradients_oppose_no_higher_rank_however_short_they_are(rows):
    assert opposed(gem.project(rows).numpy(), rows) >= -1e-7
    # Rounding the result to float32 tilts it by half a unit in the last place.
    rows = rows.astype(np.float32)
    result = gem.project(rows).numpy().astype(np.float64)
    assert opposed(result, rows.astype(np.float64)) >= -1e-7 - 2**-24


def test_what_is_left_of_a_gradient_is_resolved_from_the_vectors():
    # A part in 1e12 is left across: far below what a Gramian in float64 can show.
    rows = np.array([[1.0, 0.0], [-1.0, 1e-12]]) @ np.array([[0.6, 0.8], [-0.8, 0.6]])
    result = gem.project(rows).numpy()[1]
    np.testing.assert_allclose(result, [-0.8e-12, 0.6e-12], rtol=0, atol=1e-15)
    assert abs(opposed([rows[0], result], rows)) <= 1e-7


def test_what_is_below_rounding_is_exactly_zero():
    row = np.random.default_rng(0).normal(size=50)
    assert not np.any(gem.project(np.stack([row, -3.0 * row, row / 7.0 - row]))[1:])


@pytest.mark.parametrize("dtype", [tf.float16, tf.float32, tf.float64])
def test_projected_gradients_keep_their_type(dtype):
    assert gem.project(tf.constant([[1.0, 0.0], [-1.0, 1.0]], dtype)).dtype == dtype


def test_combine_adds_up_every_variable():
    one, two, three = tf.constant([1.0, 2.0]), tf.constant([[4.0]]), tf.constant([8.0, 8.0])
    weights = tf.constant([0.5, 0.25], tf.float64)
    combined = gem.combine([[one, None, None], [three, two, None]], weights)
    assert [None if c is None else c.numpy().tolist() for c in combined] == [[2.5, 3], [[1]], None]
    assert combined[0].dtype == tf.float32


def test_combine_takes_whole_numbers():
    assert gem.combine([[1, 0], [-1, 1]], [1.0, 0.5])[0].numpy().tolist() == [0.5, 0.5]
    for dtype in ("int8", "uint8", "int32", "int64"):
        rows = np.array([[1, 0], [3, 5]], dtype)
        one, two = rows
        for gradients in (rows, [one, two], [[one], [two]], [[one], [tf.constant(two)]]):
            (combined,) = gem.combine(gradients, tf.constant([0.25, 0.5]))
            assert combined.dtype == tf.float64
            assert combined.numpy().tolist() == [1.75, 2.5]
    # Types of a variable's gradients may differ, and weights be whole numbers.
    mixed = [[tf.constant([1, 0])], [tf.constant([0.5, 0.25])], [None]]
    assert gem.combine(mixed, [2, -1, 5])[0].numpy().tolist() == [1.5, -0.25]
    assert gem.combine([[1.0, 0.0], [3.0, 4.0]], np.array([1, -2]))[0].numpy().tolist() == [-5, -8]


def test_weights_that_are_pythons_numbers_are_not_rounded():
    assert gem.combine(tf.constant([[1.0]], tf.float64), [0.1])[0].numpy().tolist() == [0.1]


def test_combine_takes_a_matrix():
    assert gem.combine([[1.0, 0.0], [3.0, 4.0]], [0.5, 2.0])[0].numpy().tolist() == [6.5, 8.0]


def test_combine_is_the_same_on_two_replicas(strategy):
    gradients, weights = [[tf.ones(3)], [tf.range(3.0)]], tf.constant([2.0, 3.0], tf.float64)
    combined = tf.function(strategy.run)(gem.combine, args=(gradients, weights))
    for replica in strategy.experimental_local_results(combined[0]):
        assert replica.numpy().tolist() == [2, 5, 8]


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"`alphas` must .* 2 ranks. Received: shape \(3,\)"):
        gem.onestep_weights(np.eye(2), tf.constant([0.5, 0.25, 0.25]))
    for alphas in ([0.5, 0.25, 0.25], [1.5, -0.5], [0.5, 0.6], [float("nan"), 1.0]):
        with pytest.raises(ValueError, match="`alphas` must"):
            gem.onestep(np.eye(2), alphas)
    with pytest.raises(ValueError, match=r"`weights` must .* 2 losses. Received: shape \(1,\)"):
        gem.combine([[tf.ones(2)], [tf.ones(2)]], tf.ones(1))
    with pytest.raises(ValueError, match=r"`gradients` must be floats\. .*int32"):
        gem.project([[1, 0], [-1, 1]])
    with pytest.raises(ValueError, match="`gradients` must be a"):
        gem.project([1.0, 2.0])
