"""The region that a data set explores: what is nearer to one of its points than a magnitude."""

from typing import Any

import numpy as np
import tensorflow as tf

from lexirobust.geometry import balls
from lexirobust.geometry.nearest_neighbors import nearest
from lexirobust.tensors import choose, of_dtype

# What counts as outside, as a share of the magnitude: a point's own sample is exactly that far, and
# rounding must not put it inside.
_OUTSIDE = 1.0 - 1e-4


class ExploredRegion:
    """The union of open balls around all points of a data set, known exactly once it is adapted.

    An input is outside at a magnitude if no point is nearer to it than that.

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
        Section 4.1 of the paper; Kim et al., arXiv 2005.02540, for finite data.
    """

    def __init__(self, norm: str = "l2") -> None:
        self.norm = balls.check_norm(norm)
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
        far = balls.norm(self._nearest(x) - x, self.norm)
        return tf.minimum(far / of_dtype(magnitude, far.dtype) - _OUTSIDE, 0.0)

    def has_outside(self, x: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
        """Says which inputs lie outside.

        Args:
            x: `[N, ...]` inputs.
            magnitude: Scalar or `[N]`, above 0.

        Returns:
            `[N]` bool tensor.
        """
        return self.depth(x, magnitude) >= 0.0

    def move_outside(
        self, x: tf.Tensor, perturbation: tf.Tensor, magnitude: tf.Tensor
    ) -> tf.Tensor:
        """Moves perturbations out of the ball of the data point that is nearest to where they lead.

        Args:
            x: `[N, ...]` inputs.
            perturbation: Shaped like `x`, of norm `magnitude`.
            magnitude: `[N]`, above 0.

        Returns:
            The perturbations, those that lead outside as they are; for l2 the others keep their
            norm. Another ball may be entered.
        """
        x_adv = x + perturbation
        point = self._nearest(x_adv)
        inside = balls.norm(point - x_adv, self.norm) < magnitude * _OUTSIDE
        out = balls.leave_ball(perturbation, point - x, magnitude, self.norm)
        return choose(inside, out, perturbation)

    def _nearest(self, x: tf.Tensor) -> tf.Tensor:
        """The point nearest to each input, both `[N, ...]`."""
        if self.points is None:
            raise ValueError("An explored region must be adapted to data before it is asked.")
        return tf.cast(tf.gather(self.points, nearest(x, self.points, self.norm)), x.dtype)
