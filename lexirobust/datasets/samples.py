"""Subsets of samples, and the indices of samples."""

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from lexirobust.checks import check_count
from lexirobust.data_forms import one_array, only_input


def subset(
    x: npt.ArrayLike, y: npt.ArrayLike, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a random subset without replacement.

    Args:
        x: array `[N, ...]`, inputs.
        y: array `[N, ...]`, labels.
        count: int, number of samples to draw, from 1 to N.
        seed: int, seed of the draw: the same seed gives the same subset.

    Returns:
        Tuple of inputs `[count, ...]` and their labels `[count, ...]`, of unchanged types, in
        random order.

    Raises:
        ValueError: if `x` and `y` differ in length, or `count` is not an integer from 1 to N.

    Example:

    >>> from lexirobust.datasets import toy
    >>> x, y = toy(100, seed=0)
    >>> inputs, labels = subset(x, y, count=10, seed=1)
    >>> inputs.shape, labels.shape
    ((10, 1), (10,))

    Reference: section 6.2 of the paper (2000 random training images).
    """
    inputs, labels = np.asarray(one_array(x)), np.asarray(one_array(y))
    if inputs.ndim == 0 or labels.ndim == 0 or len(inputs) != len(labels):
        raise ValueError(
            "`x` and `y` must be arrays of equal length. "
            f"Received: arrays of shapes {inputs.shape} and {labels.shape}."
        )
    check_count("count", count, most=len(inputs))
    chosen = np.random.default_rng(seed).choice(len(inputs), size=count, replace=False)
    return inputs[chosen], labels[chosen]


def with_index(data: Any) -> Any:
    """Numbers samples, so that a model knows them again however they are shuffled.

    Args:
        data: `[N, ...]` inputs, by themselves or as the one value of a dict, or a
            `tf.data.Dataset` of single samples `(input, label)`, with sample weights or without,
            before it is shuffled, repeated and batched. It must yield its samples in the same
            order each time.

    Returns:
        What `fit` takes in their place: `{"inputs": inputs, "index": [N] int32}`, or a dataset in
        which each input is `{"inputs": input, "index": int32}`.

    Raises:
        ValueError: If a dataset does not yield tuples of inputs and labels.

    Example:

    >>> from lexirobust.datasets import toy
    >>> x, y = toy(20, seed=0)
    >>> dataset = with_index(tf.data.Dataset.from_tensor_slices((x, y))).shuffle(20).batch(5)
    >>> inputs, labels = next(iter(dataset))
    >>> bool(np.all(x[inputs["index"]] == inputs["inputs"]))
    True
    """
    if not isinstance(data, tf.data.Dataset):
        data = only_input(data)
        return {"inputs": data, "index": np.arange(len(data), dtype=np.int32)}
    if not isinstance(data.element_spec, tuple) or len(data.element_spec) < 2:
        raise ValueError(
            "`data` must be inputs, or a dataset of (input, label). Received: a dataset of "
            f"{data.element_spec}."
        )

    def numbered(index: tf.Tensor, sample: tuple[Any, ...]) -> tuple[Any, ...]:
        return {"inputs": sample[0], "index": tf.cast(index, tf.int32)}, *sample[1:]

    return data.enumerate().map(numbered)
