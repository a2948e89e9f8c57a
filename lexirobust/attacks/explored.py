"""The region that a data set explores: what is nearer to one of its points than a magnitude."""

from typing import Any

import numpy as np
import tensorflow as tf

from lexirobust.attacks import geometry

# What counts as outside, as a share of the magnitude: a point's own sample is exactly that far, and
# rounding must not put it inside.
_OUTSIDE = 1.0 - 1e-4
# Points, and entries of differences, that one block of a search holds for each input.
_BLOCK_POINTS = 4096
_BLOCK_ENTRIES = 8192


class ExploredRegion:
    """The union of open balls around all points of a data set, known exactly once it is adapted.

    An input is outside at a magnitude if no point is nearer to it than that. Nearest points are
    searched for in blocks, in graph: for l2 by one matrix product a block, whose rounding can only
    decide between points that are equally near but for it.

    Args:
        norm: Norm of the balls: `"l1"`, `"l2"` or `"linf"`.

    Raises:
        ValueError: If the norm is another.

    Example:

    >>> region = ExploredRegion("l2")
    >>> region.adapt(np.array([[0.0], [1.0]]))
    >>> region.has_outside(tf.constant([[-0.75], [0.25]]), 0.5).numpy().tolist()
    [True, False]

    Reference:
        Section 4.1 of the paper; Kilic et al., arXiv 2005.02540, for finite data.
    """

    def __init__(self, norm: str = "l2") -> None:
        self.norm = geometry.check_norm(norm)
        self.points: tf.Variable | None = None

    def adapt(self, points: Any) -> None:
        """Takes a data set; another one of the same shape may replace it.

        Args:
            points: `[M, ...]` the data set, which is copied.

        Raises:
            ValueError: If it is empty, not finite, or of another shape than the last.
        """
        points = np.asarray(points, np.float32)
        if not (points.ndim and points.size and np.isfinite(points).all()):
            raise ValueError(
                "`points` must be a non-empty array of finite numbers. Received: shape "
                f"{points.shape}."
            )
        if self.points is None:
            with tf.init_scope():
                self.points = tf.Variable(points, trainable=False)
        elif self.points.shape != points.shape:
            raise ValueError(
                "`points` must have the shape of the last data set, which graphs know; for others "
                f"make a new region. Received: {points.shape}, after {tuple(self.points.shape)}."
            )
        self.points.assign(points)

    def depth(self, x: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
        """Says how deep inputs lie in the region: 0 outside, and the lower the deeper.

        Args:
            x: `[N, ...]` inputs.
            magnitude: Scalar or `[N]`, above 0.

        Returns:
            `[N]` between -1 and 0: by how much the nearest point is nearer than the magnitude, as a
            share of it. Its gradient leads away from that point.
        """
        far = geometry.norm(self._nearest(x) - x, self.norm)
        return tf.minimum(far / tf.cast(magnitude, far.dtype) - _OUTSIDE, 0.0)

    def has_outside(self, x: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
        """Says which inputs lie outside.

        Args:
            x: `[N, ...]` inputs.
            magnitude: Scalar or `[N]`, above 0.

        Returns:
            `[N]` bool tensor.
        """
        return self.depth(x, magnitude) >= 0.0

    def lead_out(self, x: tf.Tensor, perturbation: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
        """Moves perturbations out of the ball of the data point that is nearest to where they lead.

        Args:
            x: `[N, ...]` inputs.
            perturbation: Shaped like `x`, of norm `magnitude`.
            magnitude: `[N]`, above 0.

        Returns:
            The perturbations, those that lead outside as they are; for l2 the others keep their
            norm. Another ball may be entered.
        """
        moved = x + perturbation
        nearest = self._nearest(moved)
        inside = geometry.norm(nearest - moved, self.norm) < magnitude * _OUTSIDE
        out = geometry.leave_ball(perturbation, nearest - x, magnitude, self.norm)
        return tf.where(tf.reshape(inside, [-1] + [1] * (x.shape.rank - 1)), out, perturbation)

    def own(self, x: tf.Tensor) -> tf.Tensor:
        """Finds inputs among the points.

        Args:
            x: `[N, ...]` inputs.

        Returns:
            `[N]` int32 numbers of the points that they are; -1 for inputs that are none.
        """
        same = _fingerprint(x)[:, None] == _fingerprint(self.points)
        index = tf.argmax(tf.cast(same, tf.int8), axis=1, output_type=tf.int32)
        apart = geometry.norm(self._points(x.dtype, index) - x, self.norm)
        return tf.where(apart == 0, index, -1)

    def nearest_other(self, x: tf.Tensor, own: tf.Tensor) -> tf.Tensor:
        """Finds the nearest of all points but one.

        Args:
            x: `[N, ...]` inputs.
            own: `[N]` int32 numbers of the points that are left out, -1 for none.

        Returns:
            `[N, ...]` points.
        """
        return self._points(x.dtype, self._nearest_index(x, own))

    def _nearest(self, x: tf.Tensor) -> tf.Tensor:
        """The point nearest to each input, both `[N, ...]`."""
        return self._points(x.dtype, self._nearest_index(x))

    def _points(self, dtype: tf.DType, index: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.gather(self.points, index), dtype)

    def _nearest_index(self, x: tf.Tensor, other_than: tf.Tensor | None = None) -> tf.Tensor:
        """`[N]` int32 number of the point nearest to each input, one point of its own aside."""
        if self.points is None:
            raise ValueError("An explored region must be adapted to data before it is asked.")
        points = tf.cast(self.points, x.dtype)
        count = points.shape[0]
        dimensions = int(np.prod(points.shape[1:]))
        # Small entries round little: the mean is no part of a difference.
        centre = tf.reduce_mean(points, axis=0, keepdims=True)
        inputs = tf.reshape(tf.stop_gradient(x) - centre, [-1, dimensions])
        centred = tf.reshape(points - centre, [-1, dimensions])
        size = _BLOCK_POINTS if self.norm == "l2" else max(_BLOCK_ENTRIES // dimensions, 1)

        def block(start: Any, best: tf.Tensor, index: tf.Tensor) -> tuple[tf.Tensor, ...]:
            # The last block looks at some points twice.
            rows = tf.minimum(start + tf.range(min(size, count)), count - 1)
            far = self._order(inputs, tf.gather(centred, rows))
            if other_than is not None:
                far = tf.where(rows == other_than[:, None], np.inf, far)
            nearest = tf.argmin(far, axis=1, output_type=tf.int32)
            value = tf.gather(far, nearest, batch_dims=1)
            nearer = value < best
            return (
                start + size,
                tf.where(nearer, value, best),
                tf.where(nearer, tf.gather(rows, nearest), index),
            )

        none = tf.zeros_like(inputs[:, 0])
        found = block(tf.constant(0), none + np.inf, tf.cast(none, tf.int32))
        found = tf.while_loop(lambda start, *_: start < count, block, found)
        return found[2]

    def _order(self, inputs: tf.Tensor, points: tf.Tensor) -> tf.Tensor:
        """`[N, m]` what the distances between inputs and points are ordered by."""
        if self.norm == "l2":
            products = tf.matmul(inputs, points, transpose_b=True)
            return 0.5 * tf.reduce_sum(tf.square(points), axis=1) - products
        differences = tf.abs(inputs[:, None] - points)
        reduce = tf.reduce_sum if self.norm == "l1" else tf.reduce_max
        return reduce(differences, axis=-1)


def _fingerprint(x: tf.Tensor) -> tf.Tensor:
    """`[N]` int32, equal for equal rows: unlike a product's rounding, whatever else is compared."""
    flat = tf.reshape(tf.cast(x, tf.float32), [-1, int(np.prod(x.shape[1:]))])
    words = tf.bitcast(tf.where(flat == 0, 0.0, flat), tf.int32)  # -0 equals 0, and has other bits.
    odd = 2 * np.random.default_rng(0).integers(-(2**30), 2**30, flat.shape[1]) + 1
    return tf.reduce_sum(words * tf.constant(odd, tf.int32), axis=1)
