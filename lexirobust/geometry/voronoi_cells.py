"""The Voronoi cells of a data set: what is nearer to one of its points than to any other."""

import copy
from typing import Any, Final

import numpy as np
import tensorflow as tf

from lexirobust.geometry import balls
from lexirobust.geometry.nearest_neighbors import nearest, within
from lexirobust.tensors import choose, spread

# By how much farther than its own sample all others must be from a perturbed input, as a share of
# the own distance: where two are equally far, no classifier is to be blamed.
_MARGIN: Final = 1e-5

# Halvings of a way: float32 has no more digits than these.
_HALVINGS: Final = 20


class VoronoiCells:
    """The cells of points, by distances that may be weighted.

    An input is in the cell of a point where no other point is nearer to it, each distance times the
    weight of its point. An input that is asked about need not be a point: it has a cell among all
    of them then, and a weight of 1.

    Args:
        points: `[M, ...]` finite numbers, no two alike.
        norm: `"l1"`, `"l2"` or `"linf"`.
        weights: `[M]` factors of distances, above 0; `None`: all are 1.

    Raises:
        ValueError: If an argument is not as above.

    Example: 0.9 is nearer to 0 than to 2, unless distances to 2 count half.

    >>> points, x, x_adv = np.array([[0.0], [2.0]]), tf.constant([[0.0]]), tf.constant([[0.9]])
    >>> for weights in (None, [1.0, 0.5]):
    ...     cells = VoronoiCells(points, weights=weights)
    ...     print(cells.holds(x, x_adv, cells.own(x)).numpy())
    [ True]
    [False]

    Reference:
        Khoury and Hadfield-Menell, arXiv 1905.01019; section 9.2 of the paper for weights.
    """

    def __init__(self, points: Any, norm: str = "l2", weights: Any | None = None) -> None:
        self.norm = balls.check_norm(norm)
        points = np.asarray(points, np.float32)
        if not (points.ndim and points.size and np.isfinite(points).all()):
            raise ValueError(
                "`points` must be a non-empty array of finite numbers. Received: shape "
                f"{points.shape}."
            )
        known = {hash((point + 0.0).tobytes()) for point in points}  # Zero has two signs.
        if len(known) < len(points):
            raise ValueError(
                f"`points` must be different. Received: {len(points) - len(known)} of them twice; "
                "np.unique(points, axis=0) has each once."
            )
        if weights is not None:
            weights = np.asarray(weights, np.float32)
            positive = weights.shape == points.shape[:1] and np.isfinite(weights).all()
            if not positive or weights.min() <= 0:
                raise ValueError(
                    "`weights` must be a number above 0 for each of the points. Received: "
                    f"{weights!r}."
                )
        with tf.init_scope():
            self.points = tf.constant(points)
            self.weights = None if weights is None else tf.constant(weights)

    def own(self, x: tf.Tensor) -> tf.Tensor:
        """Finds inputs among the points.

        Args:
            x: `[N, ...]` inputs.

        Returns:
            `[N]` int32 numbers of the points that they are; -1 for inputs that are none.
        """
        same = tf.reduce_all(_fingerprint(x)[:, None] == _fingerprint(self.points), axis=-1)
        index = tf.argmax(tf.cast(same, tf.int8), axis=1, output_type=tf.int32)
        # In the precision that points are kept in: of others, a point differs from itself.
        apart = balls.norm(self._at(index, tf.float32) - tf.cast(x, tf.float32), self.norm)
        return tf.where(apart == 0, index, -1)

    def depth(self, x: tf.Tensor, x_adv: tf.Tensor, own: tf.Tensor) -> tf.Tensor:
        """Says how far perturbed inputs are from the cells of their clean ones.

        Args:
            x: `[N, ...]` clean inputs.
            x_adv: `[N, ...]` perturbed inputs.
            own: `[N]` what `own` says of the clean ones.

        Returns:
            `[N]` at most 0, and 0 well inside: by how much another point is nearer, in input units.
            On the border itself it is just below 0, so that its gradient says where that is.
        """
        return self._depth(x, x_adv, own, 2.0 * _MARGIN)

    def holds(self, x: tf.Tensor, x_adv: tf.Tensor, own: tf.Tensor) -> tf.Tensor:
        """Says which perturbed inputs are in the cells of their clean ones.

        Args:
            x: `[N, ...]` clean inputs.
            x_adv: `[N, ...]` perturbed inputs.
            own: `[N]` what `own` says of the clean ones.

        Returns:
            `[N]` bool tensor.
        """
        return self._depth(x, x_adv, own, _MARGIN) >= 0

    def move_inside(self, x: tf.Tensor, perturbation: tf.Tensor, own: tf.Tensor) -> tf.Tensor:
        """Moves perturbations away from the other point that is nearest to where they lead.

        Args:
            x: `[N, ...]` clean inputs.
            perturbation: Shaped like `x`.
            own: `[N]` what `own` says of the clean inputs.

        Returns:
            The perturbations, those that lead into the cell as they are; for l2 the others keep
            their norm. A third point may be nearer now.
        """
        other, ratio = self._nearest_other(x + perturbation, own)
        offset = self._at(other, x.dtype) - x
        radius = balls.norm(perturbation, self.norm)
        # Twice the margin, so that rounding on the way does not lead back.
        ball = (1.0 + 2.0 * _MARGIN) * radius / ratio
        out = balls.leave_ball(perturbation, offset, radius, self.norm, ball)
        outside = self._lack(perturbation, perturbation - offset, ratio, _MARGIN) < 0
        outside &= other != own
        return choose(outside, out, perturbation)

    def back_in(self, x: tf.Tensor, perturbation: tf.Tensor, own: tf.Tensor) -> tf.Tensor:
        """Moves perturbations straight away from the other point nearest to where they lead.

        Where only the l2 norm counts, and no weights, this is the nearest point that is no nearer
        to that other one: the cell is convex, and a projection what its border asks for.

        Args:
            x: `[N, ...]` clean inputs.
            perturbation: Shaped like `x`.
            own: `[N]` what `own` says of the clean inputs.

        Returns:
            The perturbations, those that lead into the cell as they are. A third point may be
            nearer now.
        """
        other, ratio = self._nearest_other(x + perturbation, own)
        offset = self._at(other, x.dtype) - x
        norms = [balls.norm(each, self.norm) for each in (perturbation, offset)]

        def back(share: tf.Tensor) -> tf.Tensor:
            return perturbation - spread(share, x) * offset

        # Twice the margin, so that rounding on the way does not lead back.
        def inside(share: tf.Tensor) -> tf.Tensor:
            here = back(share)
            lack = self._lack(here, here - offset, ratio, 2.0 * _MARGIN)
            return (lack >= 0) | (other == own)

        low = tf.zeros_like(ratio)
        high = tf.where(inside(low), low, tf.math.divide_no_nan(*norms))
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            enough = inside(middle)
            low, high = tf.where(enough, low, middle), tf.where(enough, middle, high)
        return back(high)

    def near(self, x: tf.Tensor, radius: tf.Tensor) -> tf.Tensor:
        """Says which points may be nearest to a perturbed input.

        A perturbation of norm d leads nearer to another point than to its own only if those two are
        within 2 d of each other.

        Args:
            x: `[N, ...]` clean inputs.
            radius: `[N]` largest norms of perturbations.

        Returns:
            `[m]` int64 numbers of points, one at least.
        """
        reach = 2.0 * radius
        if self.weights is not None:
            least = tf.cast(tf.reduce_min(self.weights), x.dtype)
            reach = radius * (1.0 + self._weight(self.own(x), x.dtype) / least)
        kept = within(x, self.points, self.norm, reach)
        return tf.where(tf.concat([[True], kept[1:]], axis=0))[:, 0]

    def among(self, rows: tf.Tensor) -> "VoronoiCells":
        """The cells of some of the points.

        Args:
            rows: `[m]` integer numbers of points.

        Returns:
            Cells of those points alone.
        """
        some = copy.copy(self)
        some.points = tf.gather(self.points, rows)
        some.weights = None if self.weights is None else tf.gather(self.weights, rows)
        return some

    def _depth(self, x: tf.Tensor, x_adv: tf.Tensor, own: tf.Tensor, margin: float) -> tf.Tensor:
        other, ratio = self._nearest_other(x_adv, own)
        lack = self._lack(x_adv - x, x_adv - self._at(other, x.dtype), ratio, margin)
        return tf.where(other == own, tf.zeros_like(lack), lack)

    def _lack(
        self, to_own: tf.Tensor, to_other: tf.Tensor, ratio: tf.Tensor, margin: float
    ) -> tf.Tensor:
        """`[N]` by how much another point is nearer than the own, negative; 0 where none is."""
        far = ratio * balls.norm(to_other, self.norm)
        return tf.minimum(far - (1.0 + margin) * balls.norm(to_own, self.norm), 0.0)

    def _nearest_other(self, x_adv: tf.Tensor, own: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`[N]` the nearest of all points but the own, and its weight as a share of the own."""
        other = nearest(x_adv, self.points, self.norm, self.weights, other_than=own)
        return other, self._weight(other, x_adv.dtype) / self._weight(own, x_adv.dtype)

    def _weight(self, index: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        """`[N]` weights of points, 1 where there is none."""
        if self.weights is None:
            return tf.ones(tf.shape(index), dtype)
        return tf.where(
            index >= 0, tf.cast(tf.gather(self.weights, tf.maximum(index, 0)), dtype), 1.0
        )

    def _at(self, index: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        """`[N, ...]` points."""
        return tf.cast(tf.gather(self.points, tf.maximum(index, 0)), dtype)


def _fingerprint(x: tf.Tensor) -> tf.Tensor:
    """`[N, 2]` int32, equal for equal rows: unlike a product's rounding, whatever is compared."""
    flat = tf.reshape(tf.cast(x, tf.float32), [-1, int(np.prod(x.shape[1:]))])
    words = tf.bitcast(tf.where(flat == 0, 0.0, flat), tf.int32)  # -0 equals 0, and has other bits.
    # Coarse numbers end in zeros, which a product keeps: high bits are brought down before.
    for shift in (23, 11):
        words = tf.bitwise.bitwise_xor(words, tf.bitwise.right_shift(words, shift))
    odd = 2 * np.random.default_rng(0).integers(-(2**30), 2**30, (2, flat.shape[1])) + 1
    sums = [tf.reduce_sum(words * tf.constant(each, tf.int32), axis=1) for each in odd]
    return tf.stack(sums, axis=1)
