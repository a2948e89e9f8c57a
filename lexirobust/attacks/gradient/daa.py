"""The distributionally adversarial attack: samples of a batch that move one another."""

import math
from collections.abc import Sequence
from typing import Any, Final

import keras
import tensorflow as tf

from lexirobust.attacks.classifier import Classifier
from lexirobust.attacks.gradient.pgd import PGD
from lexirobust.checks import check_number
from lexirobust.tensors import of_dtype

# What the authors weigh the interaction by, for the cross entropy.
INTERACTION: Final = {"blob": 1.1, "dgf": 0.001}


@keras.saving.register_keras_serializable(package="lexirobust")
class DAA(PGD):
    """Distributionally adversarial attack: `PGD` whose samples interact through a kernel.

    It moves the whole batch as one distribution, along a Wasserstein gradient flow. With `x_i` the
    N perturbed inputs of the batch, `g_i` the gradient of each one's own loss, and
    `d_ij = x_i − x_j`, sample i follows, in place of `g_i`,

    - blob: `g_i + c/N ∑_j [k_ij g_j − k_ij d_ij / h²]`, with `2 h² = median |d_ij|² / log N`,
    - dgf (discrete gradient flow): `g_i + c ∑_j (1 − |d_ij|² / 2h²) k_ij d_ij`, with
      `2 h² = median |d_ij|² / log(N + 1)`.

    The kernel is `k_ij = exp(−|d_ij|² / 2h²)`, the median is over all N² pairs. A sample that is
    alone follows its own gradient. The batch given is the distribution: `batch_size` of a call,
    where it is set, and one magnitude at a time in a sweep, where samples that resist a chained
    start are a batch of their own. It takes memory for N² numbers.

    Args:
        variant: `"blob"` or `"dgf"`.
        interaction: The weight c. `None` is the authors' for the cross entropy: 1.1 for blob,
            0.001 for dgf.
        **settings: As of `PGD`.

    Raises:
        ValueError: If a setting is not one of those above.

    Example: the second of two samples has no gradient of its own. It follows the first one's.

    >>> classifier = lambda x: tf.concat([10 * tf.nn.relu(x), 0 * x], axis=1)
    >>> attack = DAA(norm="linf", bounds=None, random_start=False)
    >>> x = attack(classifier, tf.constant([[1.0], [-1.0]]), tf.constant([0, 0]), 0.5)
    >>> x.numpy().tolist()
    [[0.5], [-1.5]]

    Reference:
        Zheng, Chen and Ren, arXiv 1808.05537. The formulas are those of the authors' code, which
        they say is right where the paper's differ.
    """

    def __init__(
        self, variant: str = "blob", interaction: float | None = None, **settings: Any
    ) -> None:
        super().__init__(**settings)
        if variant not in INTERACTION:
            raise ValueError(
                f"`variant` must be one of {tuple(INTERACTION)}. Received: {variant!r}."
            )
        self.variant = variant
        self.interaction = None
        if interaction is not None:
            self.interaction = check_number("interaction", interaction, low=0)

    def combine_gradients(self, inputs: tf.Tensor, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
        """Adds what the other samples of the batch do to each one; see `PGD.combine_gradients`."""
        own = super().combine_gradients(inputs, gradients)
        weight = INTERACTION[self.variant] if self.interaction is None else self.interaction
        rows = (tf.shape(own)[0], math.prod(own.shape[1:]))
        # One sample's overflow must not reach the others.
        flat = tf.reshape(tf.where(tf.math.is_finite(own), own, 0.0), rows)
        flow = _blob if self.variant == "blob" else _dgf
        mixed = flat + tf.constant(weight, flat.dtype) * flow(tf.reshape(inputs, rows), flat)
        return tf.reshape(mixed, tf.shape(own))

    def sweep_in_graph(
        self,
        classifier: Classifier,
        x: tf.Tensor,
        y: tf.Tensor,
        magnitudes: Any,
        seed: tf.Tensor,
        **given: tf.Tensor,
    ) -> tf.Tensor:
        """Sweeps one magnitude after the other: each is a distribution; see `Attack`."""
        magnitudes = of_dtype(magnitudes, x.dtype)
        seed = tf.cast(seed, tf.int32)

        def perturbed(one: tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]) -> tf.Tensor:
            magnitude, number, own_given = one
            own = tf.random.experimental.stateless_fold_in(seed, number)
            return self.perturb(classifier, x, y, magnitude, own, **own_given)

        x_adv = tf.map_fn(
            perturbed,
            (magnitudes, tf.range(tf.shape(magnitudes)[0]), given),
            fn_output_signature=tf.TensorSpec(x.shape, x.dtype),
        )
        return tf.ensure_shape(x_adv, [magnitudes.shape[0], *x.shape])


def _blob(x: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
    """The effect of the other samples on each by the blob method, without its weight.

    Args:
        x: `[N, D]` perturbed inputs.
        gradient: `[N, D]`, each row the gradient of its own sample's loss.

    Returns:
        `[N, D]` tensor.
    """
    count = tf.cast(tf.shape(x)[0], x.dtype)
    rate, squares = _bandwidth(x, tf.math.log(count))
    kernel = tf.exp(-rate * squares)
    return (kernel @ gradient - 2.0 * rate * _pull(kernel, x)) / count


def _dgf(x: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
    """The same by discrete gradient flow."""
    del gradient
    count = tf.cast(tf.shape(x)[0], x.dtype)
    rate, squares = _bandwidth(x, tf.math.log(count + 1.0))
    return _pull((1.0 - rate * squares) * tf.exp(-rate * squares), x)


def _bandwidth(x: tf.Tensor, level: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Distances and what divides them, by the median rule.

    Args:
        x: `[N, D]`.
        level: Scalar: minus the logarithm of the kernel at the median distance.

    Returns:
        `1 / 2h²`, scalar, or 0 where the median is 0; and all squared distances, `[N, N]`.
    """
    x -= tf.reduce_mean(x, axis=0)  # Distances are what they are, and keep more digits.
    sizes = tf.reduce_sum(tf.square(x), axis=1)
    squares = sizes[:, None] + sizes[None, :] - 2.0 * tf.matmul(x, x, transpose_b=True)
    squares = tf.linalg.set_diag(tf.maximum(squares, 0.0), tf.zeros_like(sizes))
    ordered = tf.sort(tf.reshape(squares, (-1,)))
    pairs = tf.size(ordered)
    median = (ordered[(pairs - 1) // 2] + ordered[pairs // 2]) / 2.0
    return tf.math.divide_no_nan(level, median), squares


def _pull(weights: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """`∑_j w_ij (x_i − x_j)`, `[N, D]`."""
    return tf.reduce_sum(weights, axis=1, keepdims=True) * x - weights @ x
