import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from lexirobust import gem

SHAPES = [(2, 3), (4,), ()]


def per_variable(matrix):
    """The rows of `[T, 11]` cut into one tensor for each of `SHAPES`."""
    cuts = np.cumsum([int(np.prod(shape)) for shape in SHAPES])[:-1]
    return [
        [tf.constant(part.reshape(shape)) for part, shape in zip(parts, SHAPES, strict=True)]
        for parts in (np.split(row, cuts) for row in matrix)
    ]


@given(ranks=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
def test_matrix_and_lists_per_variable_give_all_inner_products(ranks, seed):
    matrix = np.random.default_rng(seed).normal(size=(ranks, 11))
    expected = matrix @ matrix.T
    for gradients in (matrix, tf.constant(matrix), per_variable(matrix), list(matrix)):
        gram = gem.gramian(gradients)
        assert gram.dtype == tf.float64
        np.testing.assert_allclose(gram, expected, rtol=1e-12, atol=1e-12)


def test_nested_lists_of_numbers_are_a_matrix():
    assert gem.gramian([[3, 4], [1, 0]]).numpy().tolist() == [[25, 3], [3, 1]]


def test_missing_gradients_count_as_zeros():
    matrix = np.random.default_rng(0).normal(size=(3, 11))
    gradients = per_variable(matrix)
    gradients[0][0] = None
    gradients[1] = [None, None, None]
    for rank in gradients:
        rank[2] = None
    matrix[0, :6] = 0
    matrix[1] = 0
    matrix[:, 10] = 0
    np.testing.assert_allclose(gem.gramian(gradients), matrix @ matrix.T, rtol=1e-12)


def test_sparse_gradients_count_as_dense_ones():
    sparse = tf.IndexedSlices(tf.ones((3, 2)), tf.constant([0, 2, 2]), tf.constant([4, 2]))
    dense = tf.reshape(tf.range(8.0), (4, 2))
    expected = [[10, 19], [19, 140]]  # Rows 0 and 2 of `sparse` hold 1 and 2.
    assert gem.gramian([[sparse], [dense]]).numpy().tolist() == expected
    reverse = gem.gramian([[dense], [sparse]]).numpy()
    assert reverse[::-1, ::-1].tolist() == expected


@pytest.mark.parametrize("jit_compile", [False, True])
def test_gradients_longer_than_a_block_are_summed_whole(jit_compile):
    rng = np.random.default_rng(0)
    matrix, diagonal = rng.normal(size=(3, 400_001)), rng.uniform(1, 2, size=400_001)
    left, lists = matrix[:2], [[tf.constant(row.reshape(-1, 1))] for row in matrix]

    @tf.function(jit_compile=jit_compile)
    def products():
        return (
            gem.inner_products(left, matrix, metric=diagonal),
            gem.gramian(lists, metric=[diagonal[:, None]]),
        )

    expected = matrix @ (diagonal * matrix).T
    for product in products():
        np.testing.assert_allclose(product, expected[: len(product)], rtol=1e-12, atol=1e-7)


def test_number_of_elements_may_be_unknown():
    @tf.function(input_signature=[tf.TensorSpec([2, None]), tf.TensorSpec([None])])
    def products(matrix, metric):
        return gem.gramian(matrix, metric)

    for size in (3, 300_000):
        assert (
            products(tf.ones((2, size)), 2 * tf.ones(size)).numpy().tolist() == [[2 * size] * 2] * 2
        )


@pytest.mark.parametrize(
    "gradients",
    [
        [[np.ones(3)], [np.ones(2)]],
        [[np.ones(2)], [np.ones(3)]],
        [[np.ones((2, 3))], [np.ones((3, 2))]],
        [[np.ones(6)], [None], [np.ones((2, 3))]],
        [[np.ones(2), np.ones(1)], [np.ones(2), 1.0]],
        [[tf.ones(3)], [tf.IndexedSlices(tf.ones((1, 1)), tf.constant([0]), tf.constant([3, 1]))]],
        [tf.ones(3), tf.ones(2)],
        [[1.0, 2.0], [3.0]],
    ],
)
def test_gradients_of_several_shapes_are_refused(gradients):
    with pytest.raises(ValueError, match="`gradients` must"):
        gem.gramian(gradients)
    with pytest.raises(ValueError, match="`gradients` must"):
        gem.inner_products(gradients, gradients[:1])
    with pytest.raises(ValueError, match="`gradients` must"):
        gem.combine(gradients, np.ones(len(gradients)))


def test_two_sets_of_several_shapes_are_refused():
    for left, right in (
        ([[np.ones(3)]], [[np.ones(2)]]),
        ([[np.ones(2)]], [[np.ones(3)], [np.ones(3)]]),
        (np.ones((2, 3)), np.ones((2, 4))),
        ([[np.ones((2, 1))]], [[np.ones((1, 2))]]),
    ):
        with pytest.raises(ValueError, match="`left` and `right` must be of the same shapes"):
            gem.inner_products(left, right)
    with pytest.raises(ValueError, match="`metric` must be shaped like one gradient"):
        gem.inner_products([[None]], [[np.ones(2)]], metric=[np.ones(3)])


@pytest.mark.parametrize("jit_compile", [False, True])
def test_sizes_that_a_graph_does_not_know_are_compared_when_it_runs(jit_compile):
    unknown = tf.TensorSpec([None])

    @tf.function(input_signature=[unknown] * 3, autograph=False, jit_compile=jit_compile)
    def products(one, other, metric):
        return gem.gramian([[one], [other]], [metric]), gem.combine([[one], [other]], [1.0, 1.0])

    assert products(tf.ones(2), tf.ones(2), tf.ones(2))[0].numpy().tolist() == [[2, 2], [2, 2]]
    for sizes in ((3, 2, 3), (2, 3, 2), (3, 3, 2), (2, 2, 3)):
        with pytest.raises(tf.errors.InvalidArgumentError):
            products(*map(tf.ones, sizes))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "uint16"])
def test_whole_numbers_are_not_rounded(dtype):
    rows = np.array([[100, 0, 3], [100, 7, 100]], dtype)
    expected = rows.astype(float) @ rows.astype(float).T
    for gradients in (rows, tf.constant(rows), [[rows[0]], [rows[1]]], rows.tolist()):
        gram = gem.gramian(gradients)
        assert gram.dtype == tf.float64
        np.testing.assert_array_equal(gram, expected)
        np.testing.assert_array_equal(gem.gramian(gradients, [np.full(3, 2)]), 2 * expected)
    np.testing.assert_allclose(
        gem.cosines(np.array([[4, 2], [2, 4]], dtype)), [[1, 0.5], [0.5, 1]], rtol=1e-12
    )


def test_python_numbers_keep_their_scale():
    rows = [[3e-60, 0.0], [1e-60, 2e-60]]
    np.testing.assert_allclose(gem.gramian(rows) / 1e-120, [[9, 3], [3, 5]], rtol=1e-12)
    np.testing.assert_allclose(gem.cosines([[4e-80, 2e-80], [2e-80, 4e-80]])[0, 1], 0.5)


def test_what_is_no_real_number_is_refused():
    for gradients in (np.ones((2, 2), complex), np.ones((2, 2), bool), [["a"], ["b"]]):
        with pytest.raises(ValueError, match="`gradients` must be"):
            gem.gramian(gradients)
    with pytest.raises(ValueError, match="`gram` must be a"):
        gem.cosines([1.0, 2.0])


def test_inner_products_between_two_sets():
    matrix = np.random.default_rng(0).normal(size=(5, 11))
    expected = matrix[:2] @ matrix[2:].T
    np.testing.assert_allclose(gem.inner_products(matrix[:2], matrix[2:]), expected, rtol=1e-12)
    left, right = per_variable(matrix[:2]), per_variable(matrix[2:])
    np.testing.assert_allclose(gem.inner_products(left, right), expected, rtol=1e-12)
    left[1][0], matrix[1, :6] = None, 0
    expected = matrix[:2] @ matrix[2:].T
    np.testing.assert_allclose(gem.inner_products(left, right), expected, rtol=1e-12)
    with pytest.raises(ValueError, match=r"`left` and `right` must .* Received: 3 and 1"):
        gem.inner_products(left, matrix[2:])


def test_metric_weighs_every_coordinate():
    rng = np.random.default_rng(0)
    matrix, diagonal = rng.normal(size=(3, 11)), rng.uniform(0.1, 9, size=(1, 11))
    expected = matrix @ np.diag(diagonal[0]) @ matrix.T
    np.testing.assert_allclose(gem.gramian(matrix, metric=diagonal[0]), expected, rtol=1e-12)
    by_variable = gem.gramian(per_variable(matrix), metric=per_variable(diagonal)[0])
    np.testing.assert_allclose(by_variable, expected, rtol=1e-12)


@pytest.mark.parametrize("norm", [1e-12, 1e-6, 1.0, 1e6, 1e12])
def test_float32_gradients_of_any_norm_keep_their_angles(norm):
    rows = np.random.default_rng(0).normal(size=(2, 1000))
    rows = (norm * rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    exact = rows.astype(np.float64)
    gram = gem.gramian(tf.constant(rows)).numpy()
    np.testing.assert_allclose(gram, exact @ exact.T, rtol=1e-12)
    cosine = exact[0] @ exact[1] / np.linalg.norm(exact[0]) / np.linalg.norm(exact[1])
    assert gem.cosines(gram)[0, 1].numpy() == pytest.approx(cosine, rel=1e-12)


def test_cosine_with_a_zero_gradient_is_zero():
    gram = gem.gramian([[0.0, 0.0], [3.0, 4.0]])
    assert gem.cosines(gram).numpy().tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize(
    "gradients",
    [[], [[], []], [1.0, 2.0], np.ones((2, 3, 4)), [[np.ones(2), np.ones(1)], [np.ones(2)]]],
)
def test_gradients_that_are_none_are_refused(gradients):
    with pytest.raises(ValueError, match="`gradients` must"):
        gem.gramian(gradients)


@pytest.mark.parametrize("metric", [np.ones(1), np.ones(3), [np.ones(2), np.ones(2)]])
def test_metric_of_another_shape_is_refused(metric):
    with pytest.raises(ValueError, match="`metric` must"):
        gem.gramian([[3.0, 0.0], [1.0, 2.0]], metric=metric)
