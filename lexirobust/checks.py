"""Checks at the door: what is wrong is said before anything runs."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from lexirobust.forms import check_dense, only_input, unindexed


def check_magnitudes(magnitudes: Any, ranked: bool = True, name: str = "magnitudes") -> list[float]:
    """Checks perturbation norms.

    Args:
        magnitudes: Sequence of numbers.
        ranked: Whether they are ranked below natural accuracy: above 0 and ascending.
        name: What the caller's argument is called.

    Returns:
        The magnitudes as a list of floats.

    Raises:
        ValueError: If there are none, they are no numbers, not finite or negative; where they are
            ranked, if one is 0 or they do not ascend.
    """
    values = np.atleast_1d(_as_numbers(magnitudes))
    if values.ndim != 1 or not values.size:
        raise ValueError(f"`{name}` must be a sequence of numbers. Received: {magnitudes!r}.")
    if not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"`{name}` must be finite and at least 0. Received: {values.tolist()}.")
    if ranked and (np.diff(values, prepend=0.0) <= 0).any():
        raise ValueError(
            f"`{name}` must be above 0 and ascending, each once; natural accuracy is a rank of "
            f"its own. Received: {values.tolist()}."
        )
    return values.tolist()


def check_priors(priors: Any, classes: int | None = None) -> np.ndarray:
    """Checks how probable classes are.

    Args:
        priors: `[C]` numbers.
        classes: How many there must be; `None`: any number.

    Returns:
        `[C]` float64.

    Raises:
        ValueError: If they are not above 0 with a sum of 1, or not as many.
    """
    values = np.asarray(priors)
    numbers = values.ndim == 1 and values.dtype.kind == "f"
    if not numbers or not values.size or not (values > 0).all() or abs(values.sum() - 1) > 1e-3:
        raise ValueError(
            "`priors` must be [C] probabilities of the classes, above 0, with a sum of 1. "
            f"Received: {priors!r}."
        )
    if classes is not None and len(values) != classes:
        raise ValueError(
            f"`priors` must be one for each of {classes} classes. Received: {len(values)}."
        )
    return values.astype(np.float64)


def check_count(
    argument: str, value: Any, least: int = 1, most: int | None = None, optional: bool = False
) -> None:
    """Checks a number of things.

    Args:
        argument: Its name.
        value: The number.
        least: The least that is allowed.
        most: The most, or `None`.
        optional: Whether it may be `None`.

    Raises:
        ValueError: If it is no integer from the least to the most.
    """
    if optional and value is None:
        return
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_integer or value < least or (most is not None and value > most):
        allowed = f"of at least {least}" if most is None else f"from {least} to {most}"
        allowed += " or None" * optional
        raise ValueError(f"`{argument}` must be an integer {allowed}. Received: {value!r}.")


def check_seed(seed: Any) -> int | None:
    """Checks a seed of random numbers.

    Args:
        seed: Integer from 0 to 2**32 - 1 of any type, or `None`.

    Returns:
        The same as a Python integer, which JSON and Keras take, or `None`.

    Raises:
        ValueError: If it is something else.
    """
    check_count("seed", seed, least=0, most=2**32 - 1, optional=True)
    return None if seed is None else int(seed)


def check_flag(argument: str, value: Any) -> bool:
    """Checks what is true or false.

    Args:
        argument: Its name.
        value: A bool, Python's or NumPy's.

    Returns:
        The same as Python's.

    Raises:
        TypeError: If it is something else: what a string or a number would mean is a guess.
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"`{argument}` must be a bool. Received: {value!r}.")
    return bool(value)


def check_steps(steps: Any, step_size: Any, restarts: Any, random_start: bool) -> None:
    """Checks the settings of gradient ascent.

    Args:
        steps: Number of gradient steps.
        step_size: Size of a step, or `None`.
        restarts: Number of starts.
        random_start: Whether they are random.

    Raises:
        ValueError: If a number is out of range, or starts would all be the same.
    """
    check_count("steps", steps)
    check_count("restarts", restarts)
    if step_size is not None and not 0 < step_size < np.inf:
        raise ValueError(
            f"`step_size` must be positive and finite, or None. Received: {step_size}."
        )
    if restarts > 1 and not random_start:
        raise ValueError(
            "`restarts` above 1 need `random_start=True`: from one start they all end alike. "
            f"Received: restarts={restarts}."
        )


def check_alphas(alphas: Sequence[float] | None, ranks: int) -> list[float]:
    """Checks the weights of the ranks, and fills in the default.

    Args:
        alphas: One weight a rank, or `None`: half for rank 1, the rest shared by the others.
        ranks: Number of ranks.

    Returns:
        `ranks` floats.

    Raises:
        ValueError: If the count is wrong, a weight is negative or not finite, or the sum not 1.
    """
    if alphas is None:
        return [1.0] if ranks == 1 else [0.5] + [0.5 / (ranks - 1)] * (ranks - 1)
    values = _as_numbers(alphas)
    if values.shape != (ranks,):
        raise ValueError(
            f"`alphas` must hold one weight for each of {ranks} ranks. Received: {alphas!r}."
        )
    if not np.isfinite(values).all() or (values < 0).any() or abs(values.sum() - 1.0) > 1e-6:
        raise ValueError(f"`alphas` must be at least 0 and sum to 1. Received: {alphas!r}.")
    return values.tolist()


def _as_numbers(values: Any) -> np.ndarray:
    """float64 array; an empty one where the values are no numbers."""
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        return np.empty(0)


def check_loss(loss: Any) -> Any:
    """Checks that a loss takes logits, and fills in the default.

    Args:
        loss: Keras loss, its name, a function, or `None`. A dict or list of losses belongs to
            several outputs, which need not be logits: it is returned as it is.

    Returns:
        The loss; sparse categorical cross entropy on logits for `None`.

    Raises:
        ValueError: If the loss has a `from_logits` setting that is false.
    """
    if loss is None:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if isinstance(loss, dict | list | tuple):
        return loss
    resolved = keras.losses.get(loss)
    if isinstance(resolved, keras.losses.Loss):
        from_logits = resolved.get_config().get("from_logits", True)
    else:
        parameter = inspect.signature(resolved).parameters.get("from_logits")
        from_logits = True if parameter is None else parameter.default
    if not from_logits:
        raise ValueError(
            "`loss` must take logits, which is what the classifier gives, such as "
            "keras.losses.SparseCategoricalCrossentropy(from_logits=True). Received: "
            f"{loss!r}, which takes probabilities."
        )
    return loss


def check_mean(loss: Any) -> None:
    """Checks that a loss over a batch is the mean of losses over its parts, by their sizes.

    Args:
        loss: Keras loss, its name, a function, or a dict or list of these for several outputs.

    Raises:
        ValueError: If a loss is reduced otherwise.
    """
    for one in tf.nest.flatten(loss):
        reduction = getattr(keras.losses.get(one), "reduction", "sum_over_batch_size")
        if reduction not in ("sum_over_batch_size", "mean"):
            raise ValueError(
                "`loss` must be a mean over samples where `micro_batch_size` is set. Received: "
                f"reduction {reduction!r}."
            )


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
            f"{x.min()} to {x.max()}."
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
    x = np.asarray(x)
    if x.dtype.kind in "OSUMmc":  # Not a list of what is: bfloat16 has a kind of its own.
        raise TypeError(f"{argument} must be one array of real numbers. Received: dtype {x.dtype}.")
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


def wide(dtype: Any) -> tf.DType:
    """The type that numbers made of others are kept in: float32, or float64 where those are.

    Example:

    >>> wide(tf.float16).name, wide(tf.float64).name
    ('float32', 'float64')
    """
    return tf.float64 if tf.as_dtype(dtype) == tf.float64 else tf.float32


def of_dtype(values: Any, dtype: Any) -> tf.Tensor:
    """Numbers as a tensor of a floating type; Python's are not rounded to float32 on their way.

    Example:

    >>> float(of_dtype(0.7, tf.float64))
    0.7
    """
    return tf.cast(tf.convert_to_tensor(values, dtype_hint=dtype), dtype)


def classes_of(logits: Any) -> tf.Tensor:
    """Says which class each row of logits decides for.

    Args:
        logits: `[N, C]` array or tensor.

    Returns:
        `[N]` int32 classes; -1, which equals no label, where a logit is not a number.

    Example:

    >>> classes_of([[0.0, 1.0], [2.0, float("nan")]]).numpy().tolist()
    [1, -1]
    """
    logits = tf.convert_to_tensor(logits)
    classes = tf.argmax(logits, axis=-1, output_type=tf.int32)
    if not logits.dtype.is_floating:
        return classes
    return tf.where(tf.reduce_any(tf.math.is_nan(logits), axis=-1), -1, classes)


def logits_problem(outputs: Any) -> str | None:
    """Says what is wrong with a classifier that gives probabilities.

    Every row of them is at least 0 and sums to 1, within 1e-3. Logits could do so only by chance.

    Args:
        outputs: `[N, C]` array or tensor.

    Returns:
        What is wrong and what to do, or `None`.
    """
    outputs = np.asarray(outputs, np.float64)
    if not ((outputs >= 0).all() and (np.abs(outputs.sum(axis=1) - 1) <= 1e-3).all()):
        return None
    return (
        "`classifier` must give logits, but what it gives looks like probabilities: every row is "
        "at least 0 and sums to 1. Their gradients mislead attacks, and accuracies come out too "
        "high. Make a model without the final softmax."
    )


def randomness_problem(first: Any, second: Any) -> str | None:
    """Says what is wrong with a classifier that answers the same inputs in two ways.

    Args:
        first: `[N, C]` outputs of a call.
        second: `[N, C]` outputs of another call with the same inputs.

    Returns:
        What is wrong and what to do, or `None` where no output differs by more than 1e-4 of the
        largest, which rounding explains.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    apart = np.abs(first - second).max()
    if not apart > 1e-4 * np.abs([first, second]).max():
        return None
    return (
        "`classifier` is randomized: two calls with the same inputs and training=False gave "
        f"outputs that differ by {apart:.2g}. An attack on one call may fail on the next, and "
        "accuracies come out too high. Switch the randomness off, or attack the mean of many calls."
    )


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
        elif flat_labels(y).dtype.is_integer and classes is not None:
            message = f"`y` must hold labels from 0 to {classes - 1}."
            tests += _below(y, classes, message)
            if y.dtype.is_floating:
                tests.append(tf.debugging.assert_equal(y, tf.round(y), message))
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


def input_tests(x: tf.Tensor, bounds: tuple[float, float] | None) -> list[Any]:
    """Tests inside a graph that inputs are finite and inside bounds.

    Args:
        x: `[N, ...]` inputs.
        bounds: Lowest and highest value of an input, or `None`.

    Returns:
        What has to run first, `None` for what is known to hold.
    """
    values = _as_floating(x)
    tests = [tf.debugging.assert_all_finite(values, "`x` must be finite.")]
    if bounds is not None:
        low, high = (tf.cast(bound, values.dtype) for bound in bounds)
        message = f"`x` must lie inside the attack's `bounds` {bounds}."
        tests.append(tf.debugging.assert_greater_equal(values, low, message))
        tests.append(tf.debugging.assert_less_equal(values, high, message))
    return tests


def _shaped_as(values: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(values, [None, *other.shape[1:]])


def _below(values: tf.Tensor, bound: int | None, message: str) -> list[Any]:
    """Tests that integers of any type are at least 0 and below a bound, which theirs may not be."""
    values = tf.cast(values, tf.int64)
    return [
        tf.debugging.assert_non_negative(values, message),
        tf.debugging.assert_less(values, tf.constant(bound, tf.int64), message),
    ]


def _as_floating(values: tf.Tensor) -> tf.Tensor:
    return values if values.dtype.is_floating else tf.cast(values, tf.float64)
