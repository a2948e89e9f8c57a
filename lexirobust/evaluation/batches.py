"""The batches of an evaluation, out of arrays or a dataset."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lexirobust.data_checks import check_data, flat_labels
from lexirobust.data_forms import only_input, sized


def evaluation_batches(
    x: Any, y: Any, size: int, bounds: tuple[float, float] | None
) -> tuple[Iterator[tuple[np.ndarray, np.ndarray]], int | None]:
    """Cuts data into batches.

    Args:
        x: `[N, ...]` inputs, or a finite dataset of `(input, label)`.
        y: `[N]` integer labels; `None` for a dataset.
        size: Most samples in a batch.
        bounds: Lowest and highest value of an input, or `None`.

    Returns:
        Batches of inputs and `[n]` labels, and their number if that is known.

    Raises:
        ValueError: If the data are not as above.
        TypeError: If inputs are no numbers, or labels no integers.
    """
    if isinstance(x, tf.data.Dataset):
        return _dataset_batches(x, y, size)
    check_data(x, y, bounds)  # All of it, before anything runs.
    x, y = np.asarray(x), np.asarray(y)
    starts = range(0, len(x), size)
    batches = (_as_batch(x[start : start + size], y[start : start + size]) for start in starts)
    check_one_label(y)
    return batches, len(starts)


def _dataset_batches(
    dataset: tf.data.Dataset, y: Any, size: int
) -> tuple[Iterator[tuple[np.ndarray, np.ndarray]], int | None]:
    if y is not None:
        raise ValueError("`y` must be None where `x` is a dataset, which holds the labels.")
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) != 2 or isinstance(spec[1], dict | tuple):
        raise ValueError(f"`x` must be a dataset of (input, label). Received: a dataset of {spec}.")
    if isinstance(spec[0], dict | tuple):
        only_input(spec[0])  # Says at once, and not out of a graph, if there are several.
        dataset = dataset.map(lambda x, y: (only_input(x), y))
    dataset = sized(dataset, one_size=False)
    spec = dataset.element_spec
    count = int(dataset.cardinality())
    if count == tf.data.INFINITE_CARDINALITY:
        raise ValueError("`x` must be finite. Received: a dataset that repeats for ever.")
    single = spec[1].shape.rank == 0
    dataset = dataset.batch(size) if single else sized(dataset, one_size=True).rebatch(size)
    count = int(dataset.cardinality())
    return (_as_batch(*batch) for batch in dataset.as_numpy_iterator()), max(count, 0) or None


def _as_batch(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    check_one_label(y)
    labels = flat_labels(tf.constant(y)).numpy()
    # An attack in fewer bits would not keep to its norm.
    narrow = x.dtype.kind == "f" and x.dtype.itemsize < 4
    whole = x.dtype.kind in "fO" and not narrow
    return (x if whole else x.astype(keras.config.floatx())), labels


def check_one_label(y: Any) -> None:
    """Checks that there is one label a sample, which accuracy counts.

    Args:
        y: Labels that are held in memory.

    Raises:
        ValueError: If they are not `[N]` or `[N, 1]`.
    """
    shape = np.shape(y)
    if len(shape) != 1 and (len(shape) != 2 or shape[1] != 1):
        raise ValueError(
            f"`y` must be [N] labels. Received: shape {shape}; the likeliest classes are "
            "np.argmax(y, axis=1)."
        )
