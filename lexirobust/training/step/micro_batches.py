"""Computations on a batch in micro-batches, if it does not fit into memory at once."""

from collections.abc import Callable
from typing import Any, TypeAlias

import keras
import tensorflow as tf

Part: TypeAlias = Callable[[Any, tf.Tensor, tf.Tensor | float], tuple[Any, Any]]
"""Maps a nest of `[n, ...]` tensors, the part's number and its share of all samples to what is to
be added up over micro-batches, and to rows `[n, ...]` that are to be concatenated."""


def map_micro_batches(part: Part, tensors: Any, size: int | None) -> tuple[Any, Any]:
    """Calls a function on consecutive micro-batches, one at a time, inside the graph.

    Args:
        part: What to call. Of a mean over samples it should give the mean times the share.
        tensors: Nest of `[N, ...]` tensors, `None` allowed.
        size: Most samples in a part. `None`: all at once.

    Returns:
        The sums and the rows `[N, ...]`, in the structures that `part` gave them.

    Example:

    >>> x = tf.constant([1.0, 2.0, 3.0, 6.0])
    >>> part = lambda x, number, share: (share * tf.reduce_mean(x), 2 * x)
    >>> mean, doubled = map_micro_batches(part, x, size=3)
    >>> float(mean), doubled.numpy().tolist()
    (3.0, [2.0, 4.0, 6.0, 12.0])
    """
    if size is None:
        return part(tensors, tf.constant(0), 1.0)
    count = tf.shape(next(t for t in tf.nest.flatten(tensors) if t is not None))[0]
    # The first part is what is left over, so that those in the loop are all of one static size.
    first = (count - 1) % size + 1
    rest = (count - first) // size

    def cut(rows: tf.Tensor) -> Any:
        # XLA also compiles the loop for a batch that is too short to reach it: hence the minimum.
        rows = tf.minimum(rows, count - 1)
        return tf.nest.map_structure(lambda t: None if t is None else tf.gather(t, rows), tensors)

    def share(length: tf.Tensor | int) -> tf.Tensor:
        return tf.cast(length / count, keras.config.floatx())

    sums, rows = part(cut(tf.range(first)), tf.constant(0), share(first))
    present = [t for t in tf.nest.flatten(sums) if t is not None]
    flat_rows = tf.nest.flatten(rows)
    arrays = [
        tf.TensorArray(row.dtype, size=rest, element_shape=(size, *row.shape[1:]))
        for row in flat_rows
    ]

    def step(number: tf.Tensor, present: Any, arrays: Any) -> tuple[Any, ...]:
        inputs = cut(first + number * size + tf.range(size))
        further = part(inputs, number + 1, share(size))
        terms = [t for t in tf.nest.flatten(further[0]) if t is not None]
        following = number + 1
        # TensorFlow's memory optimizer breaks sums of three large tensors or more that hold a
        # loop's variable: the buffer that it adds them up in is made once more after the last
        # round, and the next step fails over it. Nothing is merged into what waits for something.
        with tf.control_dependencies([following]):
            present = [a + b for a, b in zip(present, terms, strict=True)]
        new_rows = tf.nest.flatten(further[1])
        arrays = [a.write(number, row) for a, row in zip(arrays, new_rows, strict=True)]
        return following, present, arrays

    _, present, arrays = tf.while_loop(
        lambda number, *_: number < rest,
        step,
        (tf.constant(0), present, arrays),
        parallel_iterations=1,
    )
    added = iter(present)
    sums = tf.nest.map_structure(lambda t: None if t is None else next(added), sums)
    stacked = [
        tf.concat([row, tf.reshape(a.stack(), [rest * size, *row.shape[1:]])], axis=0)
        for row, a in zip(flat_rows, arrays, strict=True)
    ]
    return sums, tf.nest.pack_sequence_as(rows, stacked)
