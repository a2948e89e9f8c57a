"""The square attack: random search by scores, one square of the image at a time."""

import abc
from collections.abc import Hashable
from typing import Any, ClassVar, Final, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from lexirobust.attacks.base import Attack
from lexirobust.attacks.classifier import Classifier, logits_of
from lexirobust.attacks.gradient.pgd import CONSTRAINTS, GOALS
from lexirobust.attacks.inputs import channels_first
from lexirobust.attacks.losses import LOSSES, most_likely
from lexirobust.checks import check_count, check_flag, check_number
from lexirobust.geometry import balls
from lexirobust.tensors import choose, classes_of, of_dtype
from lexirobust.warn import warn

# After these parts of all queries the squares' area is halved.
_HALVED_AT: Final = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)

# The least side of a square; for l2 and l1 perturbations have a shape.
_LEAST_SIDE: Final = {"linf": 1, "l2": 3, "l1": 3}

# The first perturbation for l2 and l1 is of so many tiles along each axis.
_TILES: Final = 5


@keras.saving.register_keras_serializable(package="lexirobust")
class Square(Attack):
    """Random search: a new perturbation of a square is kept where the loss does not fall.

    It asks for logits alone, never for gradients. Squares shrink as the search goes on. For linf a
    square's pixels all go to one end, chosen for each channel; for l2 and l1 a square takes the
    norm that another one held. `[N, height, width]` are images of one channel, and what is no image
    is one of width 1, whose squares are runs of neighbors. Where channels seem to come first, it
    warns.

    Args:
        norm: Norm of the perturbation: `"linf"`, `"l2"` or `"l1"`.
        max_queries: How often the classifier may see each sample.
        p_init: Share of the image that the first squares cover, above 0 and at most 1.
        constraint: `"exact"`: the perturbation's norm is the magnitude. `"maximum"`: at most.
        goal: `"maximize"` the loss or `"minimize"` it.
        bounds: Lowest and highest value of an input, or `None`.
        seed: Integer seed of an attack called on its own.
        loss: `"margin"` (of logits), `"cross_entropy"` or `"dlr"` (margin over spread).
        early_stop: Whether only success is asked: the search ends when every sample is
            misclassified, or classified as `y` where the loss is minimized.

    Raises:
        ValueError: If a setting is not one of those above.

    Example: a linear classifier's worst point at linf norm 1 is a corner.

    >>> classifier = lambda x: x @ tf.constant([[0.6, -0.6], [-0.8, 0.8]])
    >>> attack = Square(max_queries=50, bounds=None, seed=0)
    >>> x = attack(classifier, tf.zeros((1, 2)), tf.constant([0]), 1.0)
    >>> x.numpy().tolist()
    [[-1.0, 1.0]]

    Reference:
        Andriushchenko et al., arXiv 1912.00049; Croce and Hein, arXiv 2103.01208, for l1.
    """

    norms: ClassVar[tuple[str, ...]] = ("l1", "l2", "linf")
    values: ClassVar[tuple[str, ...]] = ("max_queries",)

    def __init__(
        self,
        norm: str = "linf",
        max_queries: int = 5000,
        p_init: float = 0.8,
        constraint: str = "exact",
        goal: str = "maximize",
        bounds: tuple[float, float] | None = (0.0, 1.0),
        seed: int | None = None,
        loss: str = "margin",
        early_stop: bool = False,
    ) -> None:
        super().__init__(norm=norm, bounds=bounds, seed=seed)
        check_count("max_queries", max_queries)
        if check_number("p_init", p_init) <= 0 or p_init > 1:
            raise ValueError(f"`p_init` must be above 0 and at most 1. Received: {p_init!r}.")
        for name, value, allowed in (
            ("constraint", constraint, CONSTRAINTS),
            ("goal", goal, GOALS),
            ("loss", loss, tuple(LOSSES)),
        ):
            if value not in allowed:
                raise ValueError(f"`{name}` must be one of {allowed}. Received: {value!r}.")
        self.max_queries = int(max_queries)
        self.p_init = float(p_init)
        self.constraint = constraint
        self.goal = goal
        self.loss = loss
        self.early_stop = check_flag("early_stop", early_stop)

    def structure(self) -> Hashable:
        """All settings but the seed and `values`; see `Attack.structure`."""
        return self._settings()

    def perturb(
        self, classifier: Classifier, x: tf.Tensor, y: tf.Tensor, magnitude: Any, seed: tf.Tensor
    ) -> tf.Tensor:
        """Perturbs a batch inside a graph; see `Attack.perturb`."""
        problem = channels_first(x)
        if problem is not None:
            warn(
                "`Square` moves squares of images with their channels last, and is weaker on "
                f"others. Received: {problem}"
            )
        magnitude = tf.broadcast_to(of_dtype(magnitude, x.dtype), tf.shape(x)[:1])
        seed, box = tf.cast(seed, tf.int32), balls.box_around(x, self.bounds)
        exact, targeted = self.constraint == "exact", self.goal == "minimize"
        to_norm = balls.project_sphere if exact else balls.project_ball
        images = _as_images(x)
        search: _Search = (
            _Corners(images, magnitude)
            if self.norm == "linf"
            else _Pyramids(images, magnitude, self.norm)
        )

        def settle(images: tf.Tensor) -> tf.Tensor:
            return to_norm(tf.reshape(images, tf.shape(x)), magnitude, self.norm, box)[0]

        def perturbed(perturbation: tf.Tensor) -> tf.Tensor:
            shifted = x + perturbation
            return shifted if self.bounds is None else tf.clip_by_value(shifted, *self.bounds)

        def value(perturbation: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            logits = logits_of(classifier, perturbed(perturbation))
            loss = LOSSES[self.loss](logits, y, tf.constant(targeted))
            success = (classes_of(logits) == most_likely(y)) == targeted
            return -loss if targeted else loss, success

        def going(
            number: tf.Tensor, best: tf.Tensor, most: tf.Tensor, success: tf.Tensor
        ) -> tf.Tensor:
            del best, most
            resisting = ~tf.reduce_all(success) if self.early_stop else True
            return (number < self.max_queries) & resisting

        def step(
            number: tf.Tensor, best: tf.Tensor, most: tf.Tensor, success: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            own = tf.random.experimental.stateless_fold_in(seed, number)
            area = self._area(number, x.dtype)
            images = _as_images(best)
            sides = _sides(area, images.shape[1], images.shape[2], _LEAST_SIDE[self.norm])
            candidate = settle(search.change(images, *sides, own))
            gained, wrong = value(candidate)
            # Not a number is not hidden; see `gradient_ascent`.
            better = (gained >= most) | tf.math.is_nan(gained)
            if self.early_stop:  # What has succeeded is not given away for a larger loss.
                better = ~success & (better | wrong)
            new = choose(better, (candidate, gained, wrong), (best, most, success))
            return number + 1, *new

        first = settle(search.first(tf.random.experimental.stateless_fold_in(seed, 0)))
        state = tf.constant(1), first, *value(first)
        best = tf.while_loop(going, step, state)[1]
        return tf.stop_gradient(perturbed(best))

    def _area(self, number: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        """The share of the image that a square covers at a query."""
        # In doubles: half precision counts by two from 2,048 on.
        ends = tf.constant(_HALVED_AT, tf.float64) * tf.cast(self.max_queries, tf.float64)
        passed = tf.reduce_sum(tf.cast(tf.cast(number, tf.float64) > ends, dtype))
        return self.p_init * tf.pow(tf.constant(0.5, dtype), passed)


class _Window(NamedTuple):
    """A window in each image: coordinates relative to its corner, and its sides.

    Attributes:
        rows: `[N, H, 1]` int32.
        columns: `[N, 1, W]` int32.
        height: Scalar int32.
        width: Scalar int32.
    """

    rows: tf.Tensor
    columns: tf.Tensor
    height: tf.Tensor
    width: tf.Tensor

    @property
    def inside(self) -> tf.Tensor:
        """`[N, H, W, 1]` bool."""
        across = (self.rows >= 0) & (self.rows < self.height)
        along = (self.columns >= 0) & (self.columns < self.width)
        return (across & along)[..., None]


class _Search(abc.ABC):
    """The search space of one norm: initial perturbations, and proposals of changes.

    Args:
        like: `[N, H, W, C]` images, of which only the shape and dtype count.
        magnitude: `[N]` norms.
    """

    def __init__(self, like: tf.Tensor, magnitude: tf.Tensor) -> None:
        self.like = like
        self.magnitude = tf.reshape(magnitude, (-1, 1, 1, 1))

    @abc.abstractmethod
    def first(self, seed: tf.Tensor) -> tf.Tensor:
        """The first perturbations, `[N, H, W, C]`."""

    @abc.abstractmethod
    def change(
        self, images: tf.Tensor, height: tf.Tensor, width: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        """Perturbations changed in windows of these sides."""


class _Corners(_Search):
    """Perturbations for linf: every pixel at one of the two ends."""

    def first(self, seed: tf.Tensor) -> tf.Tensor:
        """Stripes along the image, or single rows where the image is one stripe."""
        samples, height, width, channels = _shape(self.like)
        stripes = (samples, 1, width, channels) if width > 1 else (samples, height, 1, channels)
        ends = self.magnitude * _signs(stripes, seed, self.like.dtype)
        return tf.broadcast_to(ends, tf.shape(self.like))

    def change(
        self, images: tf.Tensor, height: tf.Tensor, width: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        """Sends one window to an end, drawn for each channel."""
        seeds = tf.random.experimental.stateless_split(seed, 2)
        samples, _, _, channels = _shape(images)
        ends = self.magnitude * _signs((samples, 1, 1, channels), seeds[0], images.dtype)
        return tf.where(_window(images, height, width, seeds[1]).inside, ends, images)


class _Pyramids(_Search):
    """Perturbations for l2 and l1: pairs of opposite pyramids, of which one is added at a time.

    Args:
        like: As of any search.
        magnitude: As of any search.
        norm: `"l2"` or `"l1"`.
    """

    def __init__(self, like: tf.Tensor, magnitude: tf.Tensor, norm: str) -> None:
        super().__init__(like, magnitude)
        # Of windows that share no pixel squares of norms add up, or norms.
        self.power, self.root = {"l2": (tf.square, tf.sqrt), "l1": (tf.abs, tf.identity)}[norm]

    def first(self, seed: tf.Tensor) -> tf.Tensor:
        """Tiles of a pair each, on random sides."""
        seeds = tf.random.experimental.stateless_split(seed, 2)
        samples, height, width, channels = _shape(self.like)
        tile = max(height // _TILES, 1), max(width // _TILES, 1)
        rows, columns = tf.range(height), tf.range(width)
        window = _Window(
            tf.tile((rows % tile[0])[None, :, None], (samples, 1, 1)),
            tf.tile((columns % tile[1])[None, None, :], (samples, 1, 1)),
            *(tf.constant(side) for side in tile),
        )
        counts = -(-height // tile[0]), -(-width // tile[1])
        signs = _signs((samples, *counts, channels), seeds[0], self.like.dtype)
        signs = tf.gather(tf.gather(signs, rows // tile[0], axis=1), columns // tile[1], axis=2)
        pairs = signs * _pyramids(window, self.like, seeds[1])
        return self.magnitude * self._unit(pairs, (1, 2, 3))

    def change(
        self, images: tf.Tensor, height: tf.Tensor, width: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        """Gives what norm two windows hold, and what is unused, to a new pair in one of them."""
        seeds = tf.random.experimental.stateless_split(seed, 4)
        samples, _, _, channels = _shape(images)
        window = _window(images, height, width, seeds[0])
        target, source = window.inside, _window(images, height, width, seeds[1]).inside
        pair = self._unit(_pyramids(window, images, seeds[2]), (1, 2))
        pair *= _signs((samples, 1, 1, channels), seeds[3], images.dtype)
        held = self._unit(tf.where(target, images, 0.0), (1, 2))
        new = self._unit(pair + held, (1, 2))
        used = self._sum(images, (1, 2, 3))
        unused = tf.maximum(self.power(self.magnitude) - used, 0.0)
        both = self._sum(tf.where(target | source, images, 0.0), (1, 2))
        new *= self.root(both + unused / channels)
        return tf.where(target, new, tf.where(~source, images, 0.0))

    def _sum(self, images: tf.Tensor, axes: tuple[int, ...]) -> tf.Tensor:
        """Sums of the pixels' squares, or of their absolute values, with the axes kept."""
        return tf.reduce_sum(self.power(images), axis=axes, keepdims=True)

    def _unit(self, images: tf.Tensor, axes: tuple[int, ...]) -> tf.Tensor:
        """Scales to norm 1."""
        return tf.math.divide_no_nan(images, self.root(self._sum(images, axes)))


def _as_images(x: tf.Tensor) -> tf.Tensor:
    """`[N, height, width, channels]`; of width 1 where there are no two axes of an image."""
    flat = int(np.prod(x.shape[1:])), 1, 1
    sides = (*x.shape[1:], 1)[:3] if x.shape.rank in (3, 4) else flat
    return tf.reshape(x, (tf.shape(x)[0], *sides))


def _shape(images: tf.Tensor) -> tuple[Any, int, int, int]:
    """The number of images, a tensor, and their sides and channels, which are known."""
    return tf.shape(images)[0], *images.shape[1:]


def _sides(area: tf.Tensor, height: int, width: int, least: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The whole sides of a window of about this share of an image, as square as it may be."""
    pixels = area * (height * width)
    across = tf.clip_by_value(tf.round(tf.sqrt(pixels)), min(least, width), width)
    down = tf.clip_by_value(tf.round(pixels / across), min(least, height), height)
    return tf.cast(down, tf.int32), tf.cast(across, tf.int32)


def _window(images: tf.Tensor, height: tf.Tensor, width: tf.Tensor, seed: tf.Tensor) -> _Window:
    """A window at a random place in each image."""
    seeds = tf.random.experimental.stateless_split(seed, 2)
    samples, rows, columns, _ = _shape(images)
    top, left = (
        tf.random.stateless_uniform((samples,), own, 0, whole - part + 1, tf.int32)
        for own, whole, part in ((seeds[0], rows, height), (seeds[1], columns, width))
    )
    return _Window(
        tf.range(rows)[None, :, None] - top[:, None, None],
        tf.range(columns)[None, None, :] - left[:, None, None],
        height,
        width,
    )


def _pyramids(window: _Window, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """`[N, H, W, 1]`: two opposite pyramids side by side in a window, along a random axis.

    A pyramid of n steps rises by `1 / k**2` at the k-th step from its top.
    """
    samples, rows, columns, _ = _shape(images)
    # What is one pixel wide can only be cut the other way.
    down = tf.random.stateless_uniform((samples, 1, 1), seed) < (0.5 if columns > 1 else 2.0)
    along, across = (
        tf.where(down, window.rows, window.columns),
        tf.where(down, window.columns, window.rows),
    )
    length = tf.where(down, window.height, window.width)
    breadth = tf.where(down, window.width, window.height)
    half = length // 2
    second = along >= half
    place, extent = along - tf.where(second, half, 0), tf.where(second, length - half, half)
    distance = tf.maximum(tf.abs(place - extent // 2), tf.abs(across - breadth // 2))
    steps = tf.maximum(extent, breadth) // 2
    most = max(rows, columns) + 1
    risen = np.cumsum([0.0, *(1.0 / np.arange(1, most + 1) ** 2)])
    risen = tf.constant(risen, images.dtype)
    height = tf.gather(risen, steps + 1) - tf.gather(risen, tf.clip_by_value(distance, 0, most))
    height = tf.where(second, -height, height)[..., None]
    return tf.where(window.inside, height, 0.0)


def _signs(shape: tuple[Any, ...], seed: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Random numbers of -1 and 1."""
    return tf.cast(2 * tf.random.stateless_uniform(shape, seed, 0, 2, tf.int32) - 1, dtype)
