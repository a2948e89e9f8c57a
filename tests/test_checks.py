import re

import numpy as np
import pytest
import tensorflow as tf

from lexirobust import checks, data_checks, tensors


@pytest.mark.parametrize("magnitudes", [[1.0, 2.0], (1, 2), np.array([1, 2]), tf.constant([1, 2])])
def test_ascending_magnitudes_pass(magnitudes):
    assert checks.check_magnitudes(magnitudes) == [1.0, 2.0]


def test_one_magnitude_needs_no_list():
    assert checks.check_magnitudes(3) == [3.0]


def test_magnitudes_to_measure_at_are_in_any_order_and_may_be_zero():
    assert checks.check_magnitudes([2, 0, 2], ranked=False) == [2.0, 0.0, 2.0]


@pytest.mark.parametrize(
    ("magnitudes", "allowed"),
    [
        ([], "a sequence of numbers"),
        ([[1.0, 2.0]], "a sequence of numbers"),
        (["far"], "a sequence of numbers"),
        ([-1.0, 1.0], "finite and at least 0"),
        ([1.0, np.inf], "finite and at least 0"),
        ([1.0, np.nan], "finite and at least 0"),
        ([0.0, 1.0], "above 0 and ascending"),
        ([2.0, 1.0], "above 0 and ascending"),
        ([1.0, 1.0], "above 0 and ascending"),
    ],
)
def test_bad_magnitudes_are_refused(magnitudes, allowed):
    message = f"`magnitudes` must be {allowed}.*Received: {re.escape(str(magnitudes))}"
    with pytest.raises(ValueError, match=message):
        checks.check_magnitudes(magnitudes)


def test_message_uses_the_name_that_the_caller_gave_it():
    with pytest.raises(ValueError, match="`magnitude` must be"):
        checks.check_magnitudes([-1.0], name="magnitude")


@pytest.mark.parametrize(("ranks", "alphas"), [(1, [1.0]), (2, [0.5, 0.5]), (3, [0.5, 0.25, 0.25])])
def test_default_alphas_give_half_to_the_first_rank(ranks, alphas):
    assert checks.check_alphas(None, ranks) == alphas


@pytest.mark.parametrize("alphas", [[0.7, 0.3], (1, 0), np.array([0.5, 0.5], np.float32)])
def test_alphas_that_sum_to_one_pass(alphas):
    assert checks.check_alphas(alphas, 2) == pytest.approx(list(alphas))


@pytest.mark.parametrize(
    ("alphas", "allowed"),
    [
        ([1.0], "one weight for each of 2 ranks"),
        ([0.5, 0.25, 0.25], "one weight for each of 2 ranks"),
        ("ab", "one weight for each of 2 ranks"),
        ([-0.5, 1.5], "at least 0 and sum to 1"),
        ([0.5, 0.6], "at least 0 and sum to 1"),
        ([0.5, float("nan")], "at least 0 and sum to 1"),
    ],
)
def test_bad_alphas_are_refused(alphas, allowed):
    message = f"`alphas` must .*{allowed}.*Received: {re.escape(repr(alphas))}"
    with pytest.raises(ValueError, match=message):
        checks.check_alphas(alphas, 2)


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "1", None, np.nan])
def test_what_is_no_count_is_refused(value):
    with pytest.raises(ValueError, match="`steps` must be an integer of at least 1"):
        checks.check_count("steps", value)


def test_a_count_may_have_bounds_and_be_missing():
    checks.check_count("steps", np.int64(3), least=2, most=3)
    checks.check_count("steps", None, optional=True)
    with pytest.raises(ValueError, match="from 2 to 3"):
        checks.check_count("steps", 4, least=2, most=3)
    with pytest.raises(ValueError, match="of at least 1 or None"):
        checks.check_count("steps", 0, optional=True)


@pytest.mark.parametrize(
    "value", [2, 2.0, np.float32(2), np.int8(2), np.array(2.0), tf.constant(2), tf.Variable(2.0)]
)
def test_numbers_of_any_type_become_pythons(value):
    number = checks.check_number("alpha", value, low=2, high=2)
    assert (number, type(number)) == (2.0, float)


@pytest.mark.parametrize(
    "value", ["2", None, True, np.bool_(True), [2.0], np.ones(1), np.nan, np.inf, 2j, "x", {}]
)
def test_what_is_no_finite_number_is_refused(value):
    with pytest.raises(ValueError, match="`alpha` must be a finite number"):
        checks.check_number("alpha", value)


@pytest.mark.parametrize(
    ("bounds", "good", "bad", "allowed"),
    [
        ({"low": 0}, 0, -1e-9, "finite number of at least 0"),
        ({"low": 0, "inside": True}, 1e-9, 0, "finite number above 0"),
        ({"high": 3}, 3, 3.1, "finite number of at most 3"),
        ({"high": 3, "inside": True}, 2.9, 3, "finite number below 3"),
        ({"low": 0, "high": 1}, 1.0, 1.5, "number from 0 to 1"),
        ({"low": 0, "high": 1, "inside": True}, 0.5, 1.0, "number above 0 and below 1"),
    ],
)
def test_a_number_has_bounds(bounds, good, bad, allowed):
    assert checks.check_number("alpha", good, **bounds) == good
    with pytest.raises(ValueError, match=f"`alpha` must be a {allowed}. Received: {bad}"):
        checks.check_number("alpha", bad, **bounds)


def data(**changes):
    """Arguments of `check_data`, in order, with some of them changed."""
    good = {
        "x": np.linspace(0, 1, 6).reshape(3, 2),
        "y": np.array([0, 1, 2]),
        "bounds": (0.0, 1.0),
        "classes": 3,
    }
    return {**good, **changes}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"y": np.array([[0], [1], [2]], np.uint8)},
        {"y": np.eye(3)},
        {"y": np.full((3, 3), 1 / 3, np.float32)},
        {"x": tf.zeros((3, 2)), "y": tf.constant([2, 2, 2])},
        {"x": np.zeros((3, 2), np.uint8)},
        {"x": np.full((3, 2), 9.0), "bounds": None},
        {"y": np.array([0, 1, 99]), "classes": None},
    ],
)
def test_good_data_pass(changes):
    data_checks.check_data(**data(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": np.zeros((0, 2)), "y": np.zeros(0, int)}, r"`x` must hold .* \(0, 2\)"),
        ({"x": np.array(1.0)}, r"`x` must hold at least one sample"),
        ({"y": np.array([0, 1])}, r"`y` must hold one label a sample.* 3 samples .*\(2,\)"),
        ({"y": np.array(0)}, r"`y` must hold one label a sample"),
        ({"x": np.array([[0.0], [np.nan], [0.0]])}, "`x` must be finite"),
        ({"x": np.array([[0.0], [np.inf], [0.0]]), "bounds": None}, "`x` must be finite"),
        ({"x": np.full((3, 2), 1.25)}, r"`x` must lie inside .*`bounds` \(0.0, 1.0\).* 1.25"),
        ({"x": np.full((3, 2), -0.25)}, r"`x` must lie inside .* -0.25"),
        ({"x": np.full((3, 2), 255, np.uint8)}, r"`x` must lie inside .* 255"),
        ({"y": np.array([0, 1, 3])}, r"`y` must hold labels from 0 to 2. Received: 0 to 3"),
        ({"y": np.array([-1, 1, 2])}, r"`y` must hold labels from 0 to 2. Received: -1 to 2"),
        ({"y": np.array([-1, 1, 2]), "classes": None}, r"`y` must hold labels .*Received: -1 to 2"),
        ({"y": np.eye(3, 2)}, r"`y` must be .* \[N, 3\] probabilities. Received: shape \(3, 2\)"),
        ({"y": np.zeros((3, 2, 1))}, r"`y` must be \[N\] labels"),
        ({"y": np.full((3, 3), 1.5)}, "`y` must hold probabilities between 0 and 1"),
        ({"y": np.full((3, 3), np.nan)}, "`y` must hold probabilities between 0 and 1"),
    ],
)
def test_bad_data_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        data_checks.check_data(**data(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"y": np.array([0.0, 1.5, 2.0])},
            "`y` must hold integer .* float64 labels with fractions",
        ),
        ({"y": np.array([0.0, np.nan, 2.0])}, "`y` must hold integer .* float64 labels with"),
        ({"y": np.array(["a", "b", "c"])}, "`y` must hold integer labels.* Received: <U1 labels"),
        ({"y": np.array([True, False, True])}, "`y` must hold integer labels. .* bool"),
        ({"x": np.array([["a"], ["b"], ["c"]])}, "`x` must be one array of real numbers.* <U1"),
        ({"x": {"pixels": np.zeros((3, 2))}}, "`x` must be one array of real numbers.* object"),
    ],
)
def test_data_of_wrong_types_are_refused(changes, message):
    with pytest.raises(TypeError, match=message):
        data_checks.check_data(**data(**changes))


def dataset(x, y, batch=2):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch)


def good():
    return np.linspace(0, 1, 12, dtype=np.float32).reshape(6, 2), np.array([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_good_dataset_passes_unchanged(dtype):
    x, y = good()
    checked = data_checks.check_dataset(dataset(x.astype(dtype), y), (0.0, 1.0), 3)
    read = list(checked.as_numpy_iterator())
    assert len(read) == 3
    assert read[0][0].dtype == dtype
    assert np.array_equal(np.concatenate([batch[0] for batch in read]), x.astype(dtype))
    assert np.array_equal(np.concatenate([batch[1] for batch in read]), y)


INTEGERS = [np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)]


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("classes", [128, 256, 65_536])
def test_labels_of_any_integer_type_are_compared_to_any_number_of_classes(dtype, classes):
    highest = min(np.iinfo(dtype).max, classes - 1)
    x, y = np.zeros((4, 2), np.float32), np.array([0, 1, 2, highest], dtype)
    for labels in (y, y[:, None]):
        data_checks.check_data(x, labels, None, classes)
        checked = data_checks.check_dataset(dataset(x, labels), None, classes)
        read = np.concatenate([batch[1] for batch in checked.as_numpy_iterator()])
        assert read.dtype == dtype
        assert np.array_equal(read, labels)
    if highest < np.iinfo(dtype).max:
        y[-1] += 1
        with pytest.raises(ValueError, match=f"`y` must hold labels from 0 to {classes - 1}"):
            data_checks.check_data(x, y, None, classes)
        bad = iter(data_checks.check_dataset(dataset(x, y), None, classes))
        next(bad)
        with pytest.raises(tf.errors.InvalidArgumentError, match="`y` must hold labels from 0 to"):
            next(bad)


def test_sample_weights_of_a_dataset_pass_through():
    x, y = good()
    weighted = tf.data.Dataset.from_tensor_slices((x, y, np.arange(6.0))).batch(6)
    (read,) = data_checks.check_dataset(weighted, None, 3).as_numpy_iterator()
    assert read[2].tolist() == [0, 1, 2, 3, 4, 5]


def corrupt(row, name, value):
    """A dataset of good inputs and labels, but for one value in that row of `"x"` or `"y"`."""
    x, y = good()
    {"x": x[:, 0], "y": y}[name][row] = value
    return dataset(x, y)


# TensorFlow puts a backslash before the apostrophe.
BAD = [
    ("x", np.nan, "`x` must be finite"),
    ("x", 1.5, "`x` must lie inside the attack.{1,2}s `bounds`"),
    ("x", -0.5, "`x` must lie inside the attack.{1,2}s `bounds`"),
    ("y", 3, "`y` must hold labels from 0 to 2"),
    ("y", -1, "`y` must hold labels from 0 to 2"),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD)
def test_bad_first_batch_of_a_dataset_is_refused_at_once(name, value, message):
    with pytest.raises(ValueError, match=message):
        data_checks.check_dataset(corrupt(1, name, value), (0.0, 1.0), 3)


@pytest.mark.parametrize(("name", "value", "message"), BAD)
def test_bad_later_batch_of_a_dataset_is_refused_before_it_is_seen(name, value, message):
    checked = iter(data_checks.check_dataset(corrupt(5, name, value), (0.0, 1.0), 3))
    next(checked)
    next(checked)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        next(checked)


def test_only_one_batch_is_read_before_training():
    read = []

    def batches():
        for number in range(5):
            read.append(number)
            yield np.zeros((2, 2), np.float32), np.zeros(2, np.int32)

    specification = (tf.TensorSpec((None, 2)), tf.TensorSpec((None,), tf.int32))
    lazy = tf.data.Dataset.from_generator(batches, output_signature=specification)
    data_checks.check_dataset(lazy, (0.0, 1.0), 3)
    assert read == [0]


def test_dataset_without_batches_is_refused():
    x, y = good()
    with pytest.raises(ValueError, match=r"`x` must hold .* an empty dataset"):
        data_checks.check_dataset(dataset(x[:0], y[:0]), None, 3)


def test_dataset_without_labels_is_refused():
    with pytest.raises(ValueError, match=r"`x` must yield \(inputs, labels\) batches"):
        data_checks.check_dataset(tf.data.Dataset.from_tensor_slices(good()[0]).batch(2), None, 3)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_flat_labels_are_of_a_type_that_every_operation_knows(dtype):
    flat = data_checks.flat_labels(tf.constant([[0], [100]], dtype))
    assert flat.dtype == (dtype if dtype in (np.int32, np.int64) else np.int64)
    assert flat.numpy().tolist() == [0, 100]


def test_labels_in_a_column_are_flattened_and_nothing_else():
    column, flat, shares = tf.constant([[0], [1]]), tf.constant([0, 1]), tf.ones((2, 3))
    assert np.array_equal(data_checks.flat_labels(column), flat)
    assert data_checks.flat_labels(flat) is flat
    assert data_checks.flat_labels(shares) is shares


LOGITS = np.random.default_rng(0).normal(size=(20, 10)).astype(np.float32)


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("outputs", [softmax(LOGITS), softmax(LOGITS[:1]), np.eye(3), [[0.5, 0.5]]])
def test_probabilities_are_recognized(outputs):
    problem = checks.logits_problem(tf.constant(outputs))
    assert re.search("`classifier` must give logits.*looks like probabilities", problem)
    assert "Take the final softmax" in problem


def test_rounded_probabilities_are_recognized():
    # Ten shares below 1/2 are off by at most 2**-13 each, and most by far less.
    assert checks.logits_problem(tf.cast(softmax(LOGITS), tf.float16))


@pytest.mark.parametrize(
    "outputs",
    [
        LOGITS,
        np.log(softmax(LOGITS)),
        np.zeros((3, 2)),
        np.array([[0.2, 0.8], [0.5, 0.51]]),  # One row that does not sum to 1.
        np.array([[0.2, 0.8], [1.5, -0.5]]),  # One value below 0.
        np.full((2, 2), np.nan),
    ],
)
def test_logits_pass(outputs):
    assert checks.logits_problem(outputs) is None


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_randomness_is_told_from_rounding_at_every_scale(scale):
    first = LOGITS * scale
    assert checks.randomness_problem(first, first) is None
    assert checks.randomness_problem(first, first * (1 + 1e-5)) is None
    other = first.copy()
    other[7, 3] += 0.01 * scale
    assert re.search(
        "randomized.*training=False.*differ by", checks.randomness_problem(first, other)
    )


def test_zeros_and_what_is_not_a_number_are_not_random():
    assert checks.randomness_problem(np.zeros((2, 3)), np.zeros((2, 3))) is None
    assert checks.randomness_problem(np.full((2, 3), np.nan), np.full((2, 3), np.nan)) is None


@pytest.mark.parametrize("seed", [0, 3, np.int64(3), np.uint8(3), 2**32 - 1, None])
def test_seed_of_any_integer_type_becomes_pythons(seed):
    assert checks.check_seed(seed) == seed
    assert type(checks.check_seed(seed)) in (int, type(None))


@pytest.mark.parametrize("value", [True, False, np.bool_(True), np.bool_(False)])
def test_flag_of_any_bool_becomes_pythons(value):
    assert checks.check_flag("free", value) is bool(value)


@pytest.mark.parametrize("jit_compile", [None, False, True], ids=["eager", "graph", "XLA"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_logits_that_are_not_numbers_are_no_class(jit_compile, dtype):
    nan, inf = np.nan, np.inf
    rows = [[1, 2, 0], [nan, 2, 0], [1, nan, 0], [1, 2, nan], [nan] * 3, [inf, 2, 0], [-inf, 2, 0]]
    decide = tensors.classes_of
    if jit_compile is not None:
        decide = tf.function(decide, jit_compile=jit_compile, autograph=False)
    classes = decide(tf.constant(rows, dtype))
    assert classes.dtype == tf.int32
    assert classes.numpy().tolist() == [1, -1, -1, -1, -1, 0, 1]


def test_whole_numbers_are_logits():
    assert tensors.classes_of(np.array([[3, 4], [4, 3]])).numpy().tolist() == [1, 0]
