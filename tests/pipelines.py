"""How data pipelines run in tests."""

import tensorflow as tf


def leave_pipelines_untuned():
    """Has TensorFlow tune no data pipeline while it runs.

    Its tuner sleeps longer each time, and where cores are busy it often misses that it was stopped:
    then `fit` waits for it, up to as long again as training took. A quarter of the suite's time.
    """
    untuned = tf.data.Options()
    untuned.autotune.enabled = False
    assert hasattr(tf.data.Dataset, "_apply_debug_options"), "TensorFlow calls it otherwise now"
    tf.data.Dataset._apply_debug_options = lambda dataset: dataset.with_options(untuned)
