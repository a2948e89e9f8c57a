"""Losses for attacks, whose gradients do not vanish for confident classifiers."""

from collections.abc import Callable
from typing import Final, TypeAlias

import tensorflow as tf

AttackLoss: TypeAlias = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
"""Maps logits `[N, C]`, labels, and whether the labels are targets, a scalar bool, to `[N]`."""


def classification_loss(logits: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Computes the cross entropy of every sample.

    Args:
        logits: `[N, C]`.
        y: `[N]` integer labels, or `[N, C]` probabilities.

    Returns:
        `[N]` tensor, in nats.
    """
    if y.shape.rank == 2:
        return tf.nn.softmax_cross_entropy_with_logits(tf.cast(y, logits.dtype), logits)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(y, tf.int32), logits)


def cross_entropy(logits: tf.Tensor, y: tf.Tensor, targeted: tf.Tensor) -> tf.Tensor:
    """Computes what ranks points as the cross entropy does, without its saturation.

    The cross entropy is `log(1 + exp(odds))`, with the log-odds of being wrong. Its gradient
    vanishes, and its values tie at 0, once the right class's probability rounds to 1. The log-odds
    rise wherever it rises, in the same direction, and do neither. Labels that are no single class
    keep the cross entropy: it cannot come near 0.

    Args:
        logits: `[N, C]`.
        y: `[N]` integer labels, or `[N, C]` probabilities.
        targeted: Whether the labels are targets, which does not matter here.

    Returns:
        `[N]` tensor: log-odds, or cross entropies where `y` is spread over classes.

    Example: a gradient of float32 cross entropy would be 0 here.

    >>> logits = tf.constant([[900.0, 0.0]])
    >>> cross_entropy(logits, tf.constant([0]), tf.constant(False)).numpy().tolist()
    [-900.0]
    """
    del targeted
    if y.shape.rank == 1:
        return _log_odds(logits, most_likely(y))
    sure = tf.reduce_max(y, axis=-1) == 1
    odds = _log_odds(logits, most_likely(y))
    return tf.where(sure, odds, classification_loss(logits, y))


def margin(logits: tf.Tensor, y: tf.Tensor, targeted: tf.Tensor) -> tf.Tensor:
    """Computes how far the best other logit is above the label's.

    Args:
        logits: `[N, C]`.
        y: `[N]` integer labels, or `[N, C]` probabilities, of which the largest counts.
        targeted: Whether the labels are targets, which does not matter here.

    Returns:
        `[N]` tensor, above 0 where another class wins.

    Reference:
        Carlini and Wagner, arXiv 1608.04644.
    """
    del targeted
    own, others = _split(logits, most_likely(y))
    return tf.reduce_max(others, axis=-1) - own + _poison(logits)


def dlr(logits: tf.Tensor, y: tf.Tensor, targeted: tf.Tensor) -> tf.Tensor:
    """Computes the difference of logits ratio: the margin over the spread of the largest logits.

    Neither a shift nor a scale of the logits changes it. The spread is the first logit, in
    descending order, less the third, or less the mean of third and fourth where labels are targets
    (with three classes, less the third).

    Args:
        logits: `[N, C]`, at least three classes.
        y: `[N]` integer labels, or `[N, C]` probabilities, of which the largest counts.
        targeted: Whether the labels are targets, scalar bool.

    Returns:
        `[N]` tensor.

    Raises:
        ValueError: If there are fewer than three classes.

    Reference:
        Croce and Hein, arXiv 2003.01690.
    """
    classes = logits.shape[-1]
    if classes is None or classes < 3:
        raise ValueError(
            f'`loss="dlr"` needs a known number of classes, at least three. Received: {classes}.'
        )
    largest = tf.math.top_k(logits, min(classes, 4)).values
    floor = tf.where(targeted, tf.reduce_mean(largest[:, 2:], axis=-1), largest[:, 2])
    ratio = tf.math.divide_no_nan(margin(logits, y, targeted), largest[:, 0] - floor)
    return ratio + _poison(logits)


def targeted_dlr(logits: tf.Tensor, y: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Computes how far one other class's logit is above the label's, over the spread of the logits.

    The spread is the largest logit less the mean of the third and fourth largest; of three classes
    less the third, and of two it is left out.

    Args:
        logits: `[N, C]`.
        y: `[N]` integer labels, or `[N, C]` probabilities, of which the largest counts.
        target: `[N]` integer classes.

    Returns:
        `[N]` tensor, above 0 where the other class wins against the label.

    Reference:
        Croce and Hein, arXiv 2003.01690.
    """
    classes = logits.shape[-1]
    ahead = gain(logits, y, target)
    if classes < 3:
        return ahead + _poison(logits)
    largest = tf.math.top_k(logits, min(classes, 4)).values
    spread = largest[:, 0] - tf.reduce_mean(largest[:, 2:], axis=-1)
    return tf.math.divide_no_nan(ahead, spread) + _poison(logits)


def gain(logits: tf.Tensor, y: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Computes how far one other class's logit is above the label's.

    Args:
        logits: `[N, C]`.
        y: `[N]` integer labels, or `[N, C]` probabilities, of which the largest counts.
        target: `[N]` integer classes.

    Returns:
        `[N]` tensor.
    """
    own = tf.gather(logits, most_likely(y), batch_dims=1)
    return tf.gather(logits, target, batch_dims=1) - own


def wrong_class(logits: tf.Tensor, y: tf.Tensor, rank: tf.Tensor | int) -> tf.Tensor:
    """Returns the class that is likely at a given rank among those that are not the label.

    Args:
        logits: `[N, C]`.
        y: `[N]` integer labels, or `[N, C]` probabilities, of which the largest counts.
        rank: Scalar or `[N]` integers, 1 for the most likely of the other classes; the last of them
            where there are fewer.

    Returns:
        `[N]` int32 classes.

    Example:

    >>> logits = tf.constant([[3.0, 1.0, 2.0]])
    >>> [int(wrong_class(logits, tf.constant([0]), rank)[0]) for rank in (1, 2)]
    [2, 1]
    """
    _, others = _split(logits, most_likely(y))
    order = tf.argsort(others, axis=-1, direction="DESCENDING", stable=True)
    ranks = tf.broadcast_to(tf.cast(rank, tf.int32), tf.shape(order)[:1])
    return tf.gather(order, tf.minimum(ranks, tf.shape(logits)[-1] - 1) - 1, batch_dims=1)


LOSSES: Final[dict[str, AttackLoss]] = {
    "cross_entropy": cross_entropy,
    "margin": margin,
    "dlr": dlr,
}


def most_likely(y: tf.Tensor) -> tf.Tensor:
    """Returns `[N]` int32 labels: those given, or the class of largest probability."""
    return tf.argmax(y, -1, tf.int32) if y.shape.rank == 2 else tf.cast(y, tf.int32)


def _poison(logits: tf.Tensor) -> tf.Tensor:
    """0, and not a number where a logit is none: maxima leave such logits out on some devices."""
    logits = tf.stop_gradient(logits)
    return tf.reduce_sum(tf.where(tf.math.is_nan(logits), logits, 0.0), axis=-1)


def _log_odds(logits: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    own, others = _split(logits, y)
    return tf.reduce_logsumexp(others, axis=-1) - own


def _split(logits: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The label's logit `[N]`, and all logits with the label's at the lowest number `[N, C]`."""
    own = tf.one_hot(y, tf.shape(logits)[-1], True, False)
    others = tf.where(own, logits.dtype.min, logits)
    return tf.reduce_sum(tf.where(own, logits, 0.0), axis=-1), others
