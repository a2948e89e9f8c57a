"""Linear approximations of decision boundaries by a classifier's gradients."""

import tensorflow as tf

from lexirobust.attacks.classifier import Classifier, logits_of
from lexirobust.attacks.gradient_check import gradient_by
from lexirobust.geometry.hyperplanes import Boundaries


def linearize(
    classifier: Classifier, x: tf.Tensor, labels: tf.Tensor, candidates: int | None = None
) -> Boundaries:
    """Linearizes the boundaries of the labels' classes around inputs.

    One pass of the classifier, and one back for each class that is looked at.

    Args:
        classifier: Maps inputs to logits.
        x: `[N, ...]` float tensor.
        labels: `[N]` integer labels.
        candidates: How many other classes are looked at, the most likely of each sample; `None`:
            all.

    Returns:
        The boundaries, in the order of the classes where all are looked at.

    Raises:
        ValueError: If the number of classes is unknown.

    Example:

    >>> found = linearize(lambda x: x @ [[1.0, -1.0]], tf.constant([[3.0]]), tf.constant([0]))
    >>> found.normals[0, 1].numpy().tolist(), found.gaps[0, 1].numpy().item()
    ([-2.0], 6.0)
    """
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(x)
        logits = logits_of(classifier, x)
        if logits.shape[-1] is None:
            raise ValueError("`classifier` must give a known number of classes.")
        own = tf.one_hot(labels, logits.shape[-1], True, False)
        if candidates is not None and candidates < logits.shape[-1] - 1:
            others = tf.where(own, logits.dtype.min, logits)
            rivals = tf.math.top_k(others, candidates).indices
            looked_at = tf.concat([tf.cast(labels, tf.int32)[:, None], rivals], axis=1)
            logits = tf.gather(logits, looked_at, batch_dims=1)
            labels = tf.zeros_like(labels)  # Where the label's column is now.
            own = tf.one_hot(labels, 1 + candidates, True, False)
    columns, size = logits.shape[-1], tf.shape(logits)

    def slope(column: tf.Tensor) -> tf.Tensor:
        alone = tf.broadcast_to(tf.one_hot(column, columns, dtype=logits.dtype), size)
        return gradient_by(x, tape, logits, alone)

    # In a loop: graphs are made and kept for one pass back, however many there are.
    slopes = tf.map_fn(
        slope,
        tf.range(columns),
        fn_output_signature=tf.TensorSpec(x.shape, x.dtype),
        parallel_iterations=1,
    )
    jacobian = tf.transpose(slopes, [1, 0, *range(2, slopes.shape.rank)])
    normals = jacobian - tf.gather(jacobian, labels, batch_dims=1)[:, None]
    gaps = tf.gather(logits, labels, batch_dims=1)[:, None] - logits
    return _boundaries(normals, gaps, ~own)


def linearize_toward(
    classifier: Classifier, x: tf.Tensor, labels: tf.Tensor, targets: tf.Tensor
) -> Boundaries:
    """Linearizes the boundary between the label and one other class around inputs, by one pass.

    Args:
        classifier: Maps inputs to logits.
        x: `[N, ...]` float tensor.
        labels: `[N]` integer labels.
        targets: `[N]` integer classes.

    Returns:
        One boundary a sample.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        logits = logits_of(classifier, x)
        gaps = tf.gather(logits, labels, batch_dims=1) - tf.gather(logits, targets, batch_dims=1)
    normals = -gradient_by(x, tape, gaps)
    return _boundaries(normals[:, None], gaps[:, None], (labels != targets)[:, None])


def _boundaries(normals: tf.Tensor, gaps: tf.Tensor, others: tf.Tensor) -> Boundaries:
    """Boundaries, of which those without a slope or a gap are not usable."""
    steep = tf.reduce_max(tf.abs(normals), axis=list(range(2, normals.shape.rank)))
    usable = others & (steep > 0) & tf.math.is_finite(steep) & tf.math.is_finite(gaps)
    return Boundaries(normals, tf.cast(gaps, normals.dtype), usable)
