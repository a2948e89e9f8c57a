"""What replicas of a distributed step tell each other."""

from collections.abc import Sequence

import tensorflow as tf


def sum_over_replicas(tensors: Sequence[tf.Tensor | None]) -> list[tf.Tensor | None]:
    """Sums what each replica has of every tensor; `None` stays."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return list(tensors)
    present = [t for t in tensors if t is not None]
    context = tf.distribute.get_replica_context()
    summed = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, present))
    return [None if t is None else next(summed) for t in tensors]


def gather_from_replicas(tensor: tf.Tensor) -> tf.Tensor:
    """Joins the `[N, ...]` that each replica has, in the replicas' order."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return tensor
    # What a graph is given is on no device yet, and workers ask for the one to gather on.
    tensor = tf.identity(tensor)
    gathered = tf.distribute.get_replica_context().all_gather(tensor, axis=0)
    return tf.ensure_shape(gathered, [None, *tensor.shape[1:]])
