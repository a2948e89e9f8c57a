"""Spatial attacks: images are turned, shifted or bent, and keep their pixels' values."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lexirobust.attacks.base import Attack
from lexirobust.attacks.classifier import Classifier, logits_of
from lexirobust.attacks.gradient.gradient_ascent import AscentSettings, gradient_ascent, ranked
from lexirobust.attacks.gradient_check import gradient_by
from lexirobust.attacks.inputs import as_float, channels_first
from lexirobust.attacks.losses import cross_entropy, most_likely
from lexirobust.checks import check_flag, check_number, check_steps
from lexirobust.data_forms import one_array
from lexirobust.geometry import image_warps
from lexirobust.tensors import classes_of, of_dtype


class ImageAttack(Attack):
    """The base class of attacks on images whose magnitude is in pixels, and not a norm.

    Their perturbations are at most of the magnitude, the image itself among them.

    Args:
        bounds: Lowest and highest value of an input, or `None`.
        seed: Integer seed of the attack's own random generator.
    """

    def __init__(self, bounds: tuple[float, float] | None, seed: int | None) -> None:
        super().__init__(norm=self.norms[0], bounds=bounds, seed=seed)

    def measure(self, perturbation: Any) -> tf.Tensor:
        """NaN: the images do not show what was moved where."""
        perturbation = tf.convert_to_tensor(perturbation)
        return tf.fill(tf.shape(perturbation)[:1], tf.constant(np.nan, perturbation.dtype))

    def feasible(self, x: Any, magnitude: Any) -> tf.Tensor:
        """True everywhere: moved images are inside the bounds that images are in."""
        del magnitude
        return tf.ones(tf.shape(x)[:1], tf.bool)

    def _checked(
        self, classifier: Classifier, x: Any, y: Any, batch_size: int | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        x = as_float(one_array(x))
        _check_images(x)
        return super()._checked(classifier, x, y, batch_size)

    def _worse(
        self, classifier: Classifier, y: tf.Tensor, x_adv: tf.Tensor, worst: list[tf.Tensor] | None
    ) -> list[tf.Tensor]:
        """The worse of images and of the worst so far, with their `[N]` mistakes and losses.

        A mistake is worse than none, and then the larger loss is. By the loss alone an image that
        the classifier gets right could take the place of one that it gets wrong.
        """
        if self.bounds is not None:
            x_adv = tf.clip_by_value(x_adv, *self.bounds)  # Weighing pixels rounds.
        logits = logits_of(classifier, x_adv)
        wrong = classes_of(logits) != most_likely(y)
        loss = _log_odds(logits, y)
        if worst is None:
            return [x_adv, wrong, loss]
        before, was_wrong, least = worst
        worse = tf.where(wrong == was_wrong, loss > least, wrong) | tf.math.is_nan(loss)
        return [
            tf.where(worse[:, None, None, None], x_adv, before),
            tf.where(worse, wrong, was_wrong),
            tf.where(worse, loss, least),
        ]


@keras.saving.register_keras_serializable(package="lexirobust")
class Spatial(ImageAttack):
    """The worst of a grid of rotations and translations.

    Images are turned about their middle by up to `degrees_per_pixel` times the magnitude, either
    way, and shifted by up to the magnitude in pixels, up or down and left or right. The grid has
    the same size at every magnitude; the image itself belongs to it.

    Args:
        rotations: Number of angles, odd.
        translations: Number of shifts along each of the two axes, odd.
        degrees_per_pixel: Largest angle at magnitude 1.
        fill: Value of what comes in from outside the image, inside the bounds.
        bounds: Lowest and highest value of an input, or `None`.

    Raises:
        ValueError: If a setting is not one of those above, or inputs are no images.

    Example: a classifier that looks at the first pixel alone sees the neighbor move in.

    >>> classifier = lambda x: tf.stack([x[:, 0, 0, 0], x[:, 0, 0, 0] * 0 + 0.5], axis=1)
    >>> x = tf.reshape([1.0, 0.25, 0.0, 0.0], (1, 1, 4, 1))
    >>> attack = Spatial(rotations=1, translations=3)
    >>> attack(classifier, x, tf.constant([0]), 1.0)[0, 0, :, 0].numpy().tolist()
    [0.0, 0.0, 0.0, 0.0]

    Reference:
        Engstrom et al., arXiv 1712.02779, whose grid is that of magnitude 3.
    """

    norms = ("spatial",)

    def __init__(
        self,
        rotations: int = 31,
        translations: int = 5,
        degrees_per_pixel: float = 10.0,
        fill: float = 0.0,
        bounds: tuple[float, float] | None = (0.0, 1.0),
    ) -> None:
        super().__init__(bounds, seed=None)
        for name, value in (("rotations", rotations), ("translations", translations)):
            if not isinstance(value, int | np.integer) or value < 1 or value % 2 == 0:
                raise ValueError(
                    f"`{name}` must be an odd integer of at least 1, so that none of it is among "
                    f"them. Received: {value!r}."
                )
        self.rotations = int(rotations)
        self.translations = int(translations)
        self.degrees_per_pixel = check_number("degrees_per_pixel", degrees_per_pixel, low=0)
        self.fill = check_number("fill", fill)
        if self.bounds is not None and not self.bounds[0] <= self.fill <= self.bounds[1]:
            raise ValueError(f"`fill` must be inside `bounds` {self.bounds}. Received: {fill!r}.")

    def perturb(
        self, classifier: Classifier, x: tf.Tensor, y: tf.Tensor, magnitude: Any, seed: tf.Tensor
    ) -> tf.Tensor:
        """Perturbs a batch inside a graph, one place of the grid after the other."""
        del seed
        _check_images(x)
        magnitude = tf.broadcast_to(of_dtype(magnitude, x.dtype), tf.shape(x)[:1])
        shares = [_shares(self.rotations, x.dtype), *[_shares(self.translations, x.dtype)] * 2]
        turns, downs, rights = (tf.reshape(axis, [-1]) for axis in tf.meshgrid(*shares))
        angles = self.degrees_per_pixel * turns

        def visit(place: tf.Tensor, worst: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
            degrees, down, right = (magnitude * axis[place] for axis in (angles, downs, rights))
            x_adv = image_warps.rotate_and_translate(x, degrees, down, right, self.fill)
            return place + 1, self._worse(classifier, y, x_adv, worst)

        _, (worst, _, _) = tf.while_loop(
            lambda place, _: place < tf.size(angles),
            visit,
            (tf.constant(0), self._worse(classifier, y, x, None)),
            parallel_iterations=1,
        )
        return tf.stop_gradient(worst)


@keras.saving.register_keras_serializable(package="lexirobust")
class Flow(ImageAttack):
    """The worst flow field found: every pixel's value comes from a place near it.

    The magnitude is the largest displacement of a pixel, in pixels along each of the two axes.
    Steps follow the sign of the gradient of the loss less the field's total variation, as those of
    `PGD` for linf. Where no field found is worse than the image itself, the image stays.

    Args:
        steps: Number of gradient steps.
        step_size: Length of one step in pixels. `None` is as for `PGD`.
        smoothness: Weight of the total variation, summed over the image, against the loss.
        restarts: Number of random starts. They come in pairs that start at opposite fields.
        bounds: Lowest and highest value of an input, or `None`.
        random_start: Whether to start at a random field, or at none.
        seed: Integer seed for the random starts of an attack called on its own.

    Raises:
        ValueError: If a setting is not one of those above, or inputs are no images.

    Example: on a slope of 0.1 a pixel, half a pixel is worth 0.05.

    >>> classifier = lambda x: tf.stack([x[:, 0, 2, 0], x[:, 0, 2, 0] * 0], axis=1)
    >>> x = tf.reshape([0.2, 0.3, 0.4, 0.5, 0.6], (1, 1, 5, 1))
    >>> x_adv = Flow(smoothness=0.0)(classifier, x, tf.constant([0]), 0.5)
    >>> print(x_adv[0, 0, 2, 0].numpy().round(3))
    0.35

    Reference:
        Xiao et al., arXiv 1801.02612.
    """

    norms = ("flow",)

    def __init__(
        self,
        steps: int = 40,
        step_size: float | None = None,
        smoothness: float = 0.05,
        restarts: int = 1,
        bounds: tuple[float, float] | None = (0.0, 1.0),
        random_start: bool = True,
        seed: int | None = None,
    ) -> None:
        super().__init__(bounds, seed)
        check_steps(steps, step_size, restarts, random_start)
        self.steps = int(steps)
        self.step_size = None if step_size is None else float(step_size)
        self.smoothness = check_number("smoothness", smoothness, low=0)
        self.restarts = int(restarts)
        self.random_start = check_flag("random_start", random_start)

    def perturb(
        self, classifier: Classifier, x: tf.Tensor, y: tf.Tensor, magnitude: Any, seed: tf.Tensor
    ) -> tf.Tensor:
        """Perturbs a batch inside a graph; see `Attack.perturb`."""
        _check_images(x)

        def loss_of(field: tf.Tensor) -> tf.Tensor:
            return _log_odds(logits_of(classifier, image_warps.flow(x, field)), y)

        def goal(field: tf.Tensor) -> tf.Tensor:
            loss = loss_of(field)
            return loss - self.smoothness * tf.cast(image_warps.total_variation(field), loss.dtype)

        settings = AscentSettings(
            norm="linf",
            steps=self.steps,
            step_size=self.step_size,
            exact=False,
            restarts=self.restarts,
            bounds=None,
            random_start=self.random_start,
            combine_gradients=ranked,
        )
        still = tf.zeros((tf.shape(x)[0], *x.shape[1:3], 2), x.dtype)
        magnitude = tf.broadcast_to(of_dtype(magnitude, x.dtype), tf.shape(x)[:1])
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(still)
            loss = loss_of(still)
        gradient_by(still, tape, loss)  # Of the goal there is always one, by the total variation.
        field = gradient_ascent(goal, still, magnitude, seed, settings)
        unmoved = self._worse(classifier, y, x, None)
        worst, *_ = self._worse(classifier, y, image_warps.flow(x, field), unmoved)
        return tf.stop_gradient(worst)


def _log_odds(logits: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """`[N]`: a loss that never levels off, or a sure classifier would leave all to smoothness."""
    return cross_entropy(logits, y, tf.constant(False))


def _check_images(x: tf.Tensor) -> None:
    if x.shape.rank != 4:
        raise ValueError(
            f"`x` must hold images [N, height, width, channels]. Received: shape {tuple(x.shape)}."
        )
    problem = channels_first(x)
    if problem is not None:
        raise ValueError(f"`x` must hold images with their channels last. Received: {problem}")


def _shares(count: int, dtype: tf.DType) -> tf.Tensor:
    """An odd number of values from -1 to 1, evenly spread; 0 alone if it is one."""
    half = count // 2
    return tf.range(-half, half + 1, dtype=dtype) / max(half, 1)
