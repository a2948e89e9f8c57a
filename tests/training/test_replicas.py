"""What replicas tell each other, and one process by itself."""

import numpy as np
import tensorflow as tf

from lexirobust.training.replicas import gather_from_replicas, sum_over_replicas
from tests.helpers import mirrored_strategy

PARTS = [np.arange(4.0).reshape(2, 2), np.arange(4.0, 10.0).reshape(3, 2)]


def told(tensor):
    return gather_from_replicas(tensor), sum_over_replicas([tf.reduce_sum(tensor), None])


def test_each_replica_has_what_all_have():
    strategy = mirrored_strategy()
    parts = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(PARTS[context.replica_id_in_sync_group])
    )

    @tf.function(reduce_retracing=True)
    def step(parts):
        gathered, (total, nothing) = strategy.run(told, args=(parts,))
        assert nothing is None
        return gathered, total

    results = map(strategy.experimental_local_results, step(parts))
    for gathered, total in zip(*results, strict=True):
        assert np.array_equal(gathered, np.concatenate(PARTS))
        assert total == 45.0


def test_one_process_has_all():
    tensor = tf.constant(PARTS[0])
    gathered, (total, nothing) = told(tensor)
    assert gathered is tensor
    assert total == 6.0
    assert nothing is None
