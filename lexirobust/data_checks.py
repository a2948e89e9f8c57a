"""Checks of inputs, labels and weights, in memory and in data sets, before anything runs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from lexirobust.data_forms import check_dense, only_input, unindexed


def check_data(
    x: Any, y: Any, bounds: tuple[float, float] | None = None, classes: int | None = None
) -> None:
    """Checks inputs and labels that are held in memory.

    Args:
        x: `[N, ...]` inputs.
        y: `[N]` or `[N, 1]` integer labels, or `[N, C]` probabilities.
        bounds: Lowest and highest value of an input, or `None`.
        classes: Number of classes, where it is known.

    Raises:
        ValueError: If there is no data, counts differ, values are not finite or out of range.
        TypeError: If inputs are no numbers, labels neither integers nor probabilities, or one of
            them is sparse or ragged.
    """
    check_dense(y, "`y`")
    x, y = _checked_array(x), np.asarray(y)
    if y.shape[:1] != x.shape[:1]:
        raise ValueError(
            f"`y` must hold one label a sample. Received: {x.shape[0]} samples and labels of "
            f"shape {y.shape}."
        )
    check_inputs(x, bounds)
    check_labels(y, classes)


def check_inputs(x: Any, bounds: tuple[float, float] | None = None, argument: str = "`x`") -> None:
    """Checks inputs that are held in memory.

    Args:
        x: `[N, ...]` inputs.
        bounds: Lowest and highest value of an input, or `None`.
        argument: What the inputs are called in an error.

    Raises:
        ValueError: If there are none, or they are not finite or out of range.
        TypeError: If they are no numbers.
    """
    x = _checked_array(x, argument)
    if not np.isfinite(x).all():
        raise ValueError(f"{argument} must be finite. Received: NaN or infinite values.")
    if bounds is not None and (x.min() < bounds[0] or x.max() > bounds[1]):
        raise ValueError(
            f"{argument} must lie inside the attack's `bounds` {bounds}. Received: values from "
            f"{x.min()} to {x.max()}. Give the attack the range of the inputs, such as "
            "`bounds=(0, 255)` for images of 8 bits, or `bounds=None` where there is none."
        )


def check_labels(y: Any, classes: int | None = None) -> None:
    """Checks labels that are held in memory.

    Args:
        y: `[N]` or `[N, 1]` labels, integers of whatever type, or `[N, C]` probabilities.
        classes: Number of classes, where it is known.

    Raises:
        ValueError: If values or shapes are out of range.
        TypeError: If labels are neither integers nor probabilities.
    """
    y = np.asarray(y)
    labels = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if labels.ndim == 1:
        whole = labels.dtype.kind in "iu" or (
            labels.dtype.kind in "fV" and np.array_equal(labels, np.round(labels.astype(float)))
        )
        if not whole:
            raise TypeError(
                "`y` must hold integer labels, or probabilities of all classes. Received: "
                f"{labels.dtype} labels{' with fractions' if labels.dtype.kind == 'f' else ''}."
            )
        if labels.min() < 0 or (classes is not None and labels.max() >= classes):
            allowed = "of at least 0" if classes is None else f"from 0 to {classes - 1}"
            raise ValueError(
                f"`y` must hold labels {allowed}. Received: {labels.min()} to {labels.max()}."
            )
    elif labels.ndim != 2 or (classes is not None and labels.shape[1] != classes):
        raise ValueError(
            f"`y` must be [N] labels or [N, {classes or 'C'}] probabilities. Received: shape "
            f"{y.shape}."
        )
    elif not (np.isfinite(labels).all() and labels.min() >= 0 and labels.max() <= 1):
        raise ValueError("`y` must hold probabilities between 0 and 1.")


def _checked_array(x: Any, argument: str = "`x`") -> np.ndarray:
    """Inputs as an array of real numbers, at least one sample."""
    check_dense(x, argument)
    try:
        array = np.asarray(x)
    except ValueError:  # Rows of several lengths.
        array = np.empty(0, object)
    if array.dtype.kind in "OSUMmc":  # Not a list of what is: bfloat16 has a kind of its own.
        raise TypeError(
            f"{argument} must be one array of real numbers. Received: {type(x).__name__} of dtype "
            f"{array.dtype}."
        )
    x = array
    if not x.ndim or not x.size:
        raise ValueError(f"{argument} must hold at least one sample. Received: shape {x.shape}.")
    return x


def check_outputs(x: Any, y: Mapping[str, Any]) -> None:
    """Checks inputs and the labels of several outputs that are held in memory.

    Args:
        x: `[N, ...]` inputs.
        y: `[N, ...]` labels by the names of the outputs.

    Raises:
        ValueError: If there is no data, counts differ, or values are not finite.
        TypeError: If inputs or labels are no numbers.
    """
    x = _checked_array(x)
    check_inputs(x)
    for name, given in y.items():
        check_dense(given, f"`y` of {name!r}")
        labels = np.asarray(given)
        if labels.dtype.kind in "OSUMmc":
            raise TypeError(f"`y` of {name!r} must be real numbers. Received: {labels.dtype}.")
        if labels.shape[:1] != x.shape[:1]:
            raise ValueError(
                f"`y` of {name!r} must hold one label a sample. Received: {x.shape[0]} samples and "
                f"labels of shape {labels.shape}."
            )
        if not np.isfinite(labels).all():
            raise ValueError(f"`y` of {name!r} must be finite. Received: NaN or infinite values.")


class Weighed(NamedTuple):
    """Weights of samples, and what they weigh.

    Attributes:
        values: The weights.
        inner: The axes of the parts of a sample that a loss may weigh one by one.
        argument: What the weights are called in an error.
    """

    values: Any
    inner: Sequence[int | None] = ()
    argument: str = "`sample_weight`"


def one_weighed(sample_weight: Any) -> list[Weighed]:
    """The weights for a classifier with one output: none, or one a sample."""
    return [] if sample_weight is None else [Weighed(sample_weight)]


def check_sample_weight(
    sample_weight: Any,
    samples: int | None = None,
    inner: Sequence[int | None] = (),
    argument: str = "`sample_weight`",
) -> None:
    """Checks weights of samples, by their shape alone where they are symbolic.

    Args:
        sample_weight: `[N]` or `[N, 1]` numbers. Where a loss gives one number for each of several
            parts of a sample, such as the steps of a sequence, also one for each of them.
        samples: How many samples there are, if that is known.
        inner: The axes of such parts.
        argument: What the weights are called in an error.

    Raises:
        ValueError: If their shape is another one, or they are not finite.
        TypeError: If they are no real numbers.
    """
    check_dense(sample_weight, argument)
    symbolic = tf.is_symbolic_tensor(sample_weight)
    weights = sample_weight if symbolic else np.asarray(sample_weight)
    if not symbolic and weights.dtype.kind in "OSUMmc":
        raise TypeError(f"{argument} must be real numbers. Received: dtype {weights.dtype}.")
    allowed = [[samples], [samples, 1]]
    if inner:
        allowed += [[samples, *inner], [samples, *inner, 1]]
    shape = tf.TensorShape(weights.shape)
    if not any(shape.is_compatible_with(one) for one in allowed):
        names = ["[N]", "[N, 1]"] + [str([*["N"], *inner]).replace("'", "")] * bool(inner)
        count = "" if samples is None else f", one for each of {samples} samples"
        raise ValueError(
            f"{argument} must be {' or '.join(names)} weights{count}. Received: shape {shape}."
        )
    if not symbolic and not np.isfinite(weights).all():
        raise ValueError(f"{argument} must be finite. Received: NaN or infinite values.")


def flat_sample_weight(
    sample_weight: Any, samples: tf.Tensor, inner: Sequence[int | None] = ()
) -> tf.Tensor:
    """Turns `[N, 1]` weights of samples into `[N]`: beside `[N]` values they would give `[N, N]`.

    Args:
        sample_weight: As in `check_sample_weight`.
        samples: Scalar tensor: how many samples there are.
        inner: As in `check_sample_weight`.

    Returns:
        `[N]` tensor, or `[N, *inner]` where there is one weight for each part of a sample.

    Raises:
        ValueError: As `check_sample_weight`.
    """
    weights = tf.convert_to_tensor(sample_weight)
    check_sample_weight(weights, inner=inner)
    if weights.shape.rank == 1:
        return weights
    if not inner or weights.shape.as_list()[1:] == [1]:
        return tf.reshape(weights, [samples])
    return tf.squeeze(weights, -1) if weights.shape.rank == len(inner) + 2 else weights


def flat_labels(y: tf.Tensor) -> tf.Tensor:
    """Turns `[N, 1]` labels into `[N]`, and leaves `[N]` labels and `[N, C]` probabilities.

    Labels of other types than int32 and int64, of which TensorFlow's operations know only some,
    become int64; those of a floating type are whole numbers, which has been checked.
    """
    y = tf.squeeze(y, axis=1) if y.shape.rank == 2 and y.shape[1] == 1 else y
    is_known = y.dtype in (tf.int32, tf.int64) or (y.dtype.is_floating and y.shape.rank != 1)
    return y if is_known else tf.cast(y, tf.int64)


def check_index(index: Any, samples: int) -> None:
    """Checks the indices of samples.

    Args:
        index: `[N]` integers.
        samples: How many samples there are.

    Raises:
        ValueError: If they are no vector of integers, or one is not below the number of samples.
    """
    index = np.asarray(index)
    if index.ndim != 1 or index.dtype.kind not in "iu":
        raise ValueError(
            "`index` must be [N] integers, one for each sample before it is batched. Received: "
            f"shape {index.shape}, dtype {index.dtype}."
        )
    if index.size and (index.min() < 0 or index.max() >= samples):
        raise ValueError(
            f"`index` must be at least 0 and below the {samples} samples that `warm_start` makes "
            f"room for. Received: {index.min()} to {index.max()}."
        )


def check_dataset(
    dataset: tf.data.Dataset,
    bounds: tuple[float, float] | None,
    classes: int | None,
    named: Callable[[Any, str], dict[str, Any]] | None = None,
    samples: int | None = None,
    weighed: Callable[[Any], list[Weighed]] | None = None,
) -> tf.data.Dataset:
    """Checks a dataset's first batch now and every batch before it reaches the step.

    Args:
        dataset: Yields `(x, y)` or `(x, y, sample_weight)` batches.
        bounds: Lowest and highest value of an input, or `None`.
        classes: Number of classes, where it is known.
        named: Where the classifier has several outputs: turns labels, and what to call them in an
            error, into a dict by the names of the outputs.
        samples: How many samples there are, where the dataset has their indices.
        weighed: Where the classifier has several outputs: tells whose weights are whose.

    Returns:
        The dataset, in which a batch that breaks the rules raises `InvalidArgumentError` before
        any step sees it.

    Raises:
        ValueError: If there is no batch, or the first breaks the rules of `check_data`,
            `check_outputs` or `check_sample_weight`.
        TypeError: As `check_data`.
    """
    weighed = weighed or one_weighed
    first = next(iter(dataset.take(1)), None)
    if first is None:
        raise ValueError("`x` must hold at least one sample. Received: an empty dataset.")
    if not isinstance(first, tuple) or len(first) < 2:
        raise ValueError("`x` must yield (inputs, labels) batches.")
    inputs = only_input(first[0])
    if samples is not None and unindexed(first[0]) is not first[0]:
        check_index(first[0]["index"], samples)
    if named is None:
        check_data(inputs, first[1], bounds, classes)
    else:
        check_outputs(inputs, named(first[1], "y"))
    for weights in weighed(first[2] if len(first) > 2 else None):
        check_sample_weight(weights.values, len(inputs), weights.inner, weights.argument)

    def checked(*batch: Any) -> tuple[Any, ...]:
        x, y, *given = batch
        values = only_input(x)
        tests = input_tests(values, bounds)
        if samples is not None and unindexed(x) is not x:
            message = f"`index` must be at least 0 and below {samples}."
            tests += _below(x["index"], samples, message)
        if named is not None:
            for name, own in named(y, "y").items():
                message = f"`y` of {name!r} must be finite."
                tests.append(tf.debugging.assert_all_finite(_as_floating(own), message))
        elif classes is not None:
            tests += label_tests(y, classes)
        for weights in weighed(given[0] if given else None):
            message = f"{weights.argument} must be finite."
            tests.append(tf.debugging.assert_all_finite(_as_floating(weights.values), message))
            message = f"{weights.argument} must be weights, one for each sample."
            counts = tf.shape(weights.values)[0], tf.shape(values)[0]
            tests.append(tf.debugging.assert_equal(*counts, message))
        # As in the first batch: what is not known of a shape could be mistaken for another one.
        if named is None:
            y = tf.ensure_shape(y, [None, *first[1].shape[1:]])
        if given and given[0] is not None:
            given = [tf.nest.map_structure(_shaped_as, given[0], first[2]), *given[1:]]
        with tf.control_dependencies([test for test in tests if test is not None]):
            return (tf.nest.map_structure(tf.identity, x), y, *given)

    return dataset.map(checked)


def input_tests(
    x: tf.Tensor, bounds: tuple[float, float] | None, argument: str = "`x`"
) -> list[Any]:
    """Tests inside a graph that inputs are finite and inside bounds.

    Args:
        x: `[N, ...]` inputs.
        bounds: Lowest and highest value of an input, or `None`.
        argument: What messages call the inputs.

    Returns:
        What has to run first, `None` for what is known to hold.
    """
    values = _as_floating(x)
    tests = [tf.debugging.assert_all_finite(values, f"{argument} must be finite.")]
    if bounds is not None:
        low, high = (tf.cast(bound, values.dtype) for bound in bounds)
        message = f"{argument} must lie inside the attack's `bounds` {bounds}."
        tests.append(tf.debugging.assert_greater_equal(values, low, message))
        tests.append(tf.debugging.assert_less_equal(values, high, message))
    return tests


def _shaped_as(values: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(values, [None, *other.shape[1:]])


def label_tests(y: tf.Tensor, classes: int, argument: str = "`y`") -> list[Any]:
    """Tests that labels name classes, or are probabilities of them.

    Args:
        y: `[N]` or `[N, 1]` labels, or `[N, C]` probabilities.
        classes: The number of classes.
        argument: What messages call the labels.

    Returns:
        Assertions, which are operations in a graph and `None` where they were made eagerly.
    """
    if not flat_labels(y).dtype.is_integer or flat_labels(y).shape.rank == 2:
        values = _as_floating(y)
        message = f"{argument} must hold probabilities, from 0 to 1."
        return [
            tf.debugging.assert_all_finite(values, message),
            tf.debugging.assert_non_negative(values, message),
            tf.debugging.assert_less_equal(values, tf.ones_like(values), message),
        ]
    message = f"{argument} must hold labels from 0 to {classes - 1}."
    tests = _below(y, classes, message)
    if y.dtype.is_floating:
        tests.append(tf.debugging.assert_equal(y, tf.round(y), message))
    return tests


def _below(values: tf.Tensor, bound: int | None, message: str) -> list[Any]:
    """Tests that integers of any type are at least 0 and below a bound, which theirs may not be."""
    values = tf.cast(values, tf.int64)
    return [
        tf.debugging.assert_non_negative(values, message),
        tf.debugging.assert_less(values, tf.constant(bound, tf.int64), message),
    ]


def _as_floating(values: tf.Tensor) -> tf.Tensor:
    return values if values.dtype.is_floating else tf.cast(values, tf.float64)
