"""The interval attack: bounds over a neighborhood show where to start."""

from typing import Any, Final

import keras
import tensorflow as tf

from lexirobust.attacks.bounds import relax
from lexirobust.attacks.classifier import Classifier
from lexirobust.attacks.gradient.pgd import PGD
from lexirobust.attacks.gradient_check import gradient_by
from lexirobust.attacks.losses import most_likely
from lexirobust.checks import check_count
from lexirobust.geometry import balls
from lexirobust.tensors import of_dtype, spread

# The neighborhoods tried, as shares of the magnitude: the authors' first one on MNIST, 0.01 of
# 0.3, grows threefold, to half the magnitude at most.
SHARES: Final = (1 / 30, 1 / 10, 3 / 10, 1 / 2)


@keras.saving.register_keras_serializable(package="lexirobust")
class IntervalAttack(PGD):
    """Interval attack: `PGD` from where bounds over a neighborhood say that it pays to start.

    From the input, the start is moved several times. Around it grows a box, until bounds of the
    logits no longer prove that the label holds in it. The start then moves by the box's radius
    along the interval gradient: that of the rival logit with the largest upper bound, less the
    label's, in a stand-in for the classifier that is linear over the box. What a gradient at one
    point does not show, such as a unit that is off there and on nearby, the stand-in does. Where
    even the largest box is proven, the start stays; if it never moves, it is `PGD`'s own.

    The box's corners are at the same share of the magnitude, in the attack's norm. Where the loss
    is minimized, the box grows until the bounds no longer prove that the label loses.

    Args:
        moves: How often the start is moved before the gradient steps.
        **settings: As of `PGD`. Starts after the first two are random.

    Raises:
        ValueError: If a setting is not one of those above, or, when called, if the classifier is
            not a Keras model that `bounds.interval_bounds` can bound.

    Example: the hidden unit is off around the input, and its gradient is 0.

    >>> import numpy as np
    >>> hidden, output = keras.layers.Dense(1, "relu"), keras.layers.Dense(2)
    >>> model = keras.Sequential([keras.Input((1,)), hidden, output])
    >>> weights = [[1.0]], [-0.1], [[0.0, 4.0]], [0.3, 0.0]
    >>> model.set_weights([np.array(each) for each in weights])
    >>> attack = IntervalAttack(norm="linf", bounds=None, random_start=False)
    >>> x = attack(model, tf.zeros((1, 1)), tf.constant([0]), 1.0)
    >>> x.numpy().tolist()
    [[1.0]]

    Reference:
        Wang et al., arXiv 1906.02282; arXiv 1811.02625 for symbolic intervals in training. There
        symbolic intervals bound the logits, and gradient steps come between the moves.
    """

    def __init__(self, moves: int = 3, **settings: Any) -> None:
        super().__init__(**settings)
        check_count("moves", moves)
        self.moves = int(moves)

    def perturb(
        self,
        classifier: Classifier,
        x: tf.Tensor,
        y: tf.Tensor,
        magnitude: Any,
        seed: tf.Tensor,
        initial_perturbation: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Perturbs a batch inside a graph, from the start moved; see `PGD.perturb`."""
        magnitude = tf.broadcast_to(of_dtype(magnitude, x.dtype), tf.shape(x)[:1])
        start = (
            tf.zeros_like(x)
            if initial_perturbation is None
            else tf.cast(initial_perturbation, x.dtype)
        )
        box = balls.box_around(x, self.bounds)
        # The largest box around 0 with corners at norm 1.
        unit = 1.0 / balls.norm(tf.ones_like(x), self.norm)

        def move(number: tf.Tensor, start: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            point = x + start
            reach = tf.zeros_like(magnitude)
            for share in reversed(SHARES):
                tried = share * magnitude
                unproven, _ = self._gain(classifier, point, y, spread(unit * tried, x))
                reach = tf.where(unproven, tried, reach)
            _, gradient = self._gain(classifier, point, y, spread(unit * reach, x))
            stepped = start + spread(reach, x) * balls.steepest_direction(gradient, self.norm)
            return number + 1, balls.project_ball(stepped, magnitude, self.norm, box)[0]

        _, start = tf.while_loop(lambda number, _: number < self.moves, move, (0, start))
        return super().perturb(classifier, x, y, magnitude, seed, initial_perturbation=start)

    def _gain(
        self, classifier: Classifier, x: tf.Tensor, y: tf.Tensor, radius: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The largest possible gain in a box around inputs.

        Args:
            classifier: Keras model.
            x: `[N, ...]` centers.
            y: `[N]` integer labels, or `[N, C]` probabilities, of which the largest counts.
            radius: `[N, 1, ...]` radius of each box.

        Returns:
            `[N]` bool: whether the bounds leave it open that the attack succeeds in the box; and
            the interval gradient of what it is to raise, shaped like `x`.
        """
        low, high = x - radius, x + radius
        if self.bounds is not None:
            low, high = (tf.clip_by_value(end, *self.bounds) for end in (low, high))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            known = relax(classifier, low, high, x)
            own = tf.one_hot(most_likely(y), known.line.shape[-1], True, False)
            targeted = tf.less(self.sign, 0.0)
            # The ends that are best for the attack: what fails with them fails for certain.
            others = tf.where(targeted, known.low, known.high)
            mine = tf.where(own, tf.where(targeted, known.high, known.low), 0.0)
            mine = tf.reduce_sum(mine, axis=-1, keepdims=True)
            lead = tf.where(own, others.dtype.min, others - mine)
            rival = tf.one_hot(tf.argmax(lead, axis=-1), lead.shape[-1], True, False)
            ahead = tf.where(rival, known.line, 0.0) - tf.where(own, known.line, 0.0)
            ahead = tf.reduce_sum(ahead, axis=-1)
            gain = tf.where(targeted, -ahead, ahead)
        undecided = tf.not_equal(tf.reduce_max(lead, axis=-1) > 0, targeted)
        return undecided, gradient_by(x, tape, gain)
