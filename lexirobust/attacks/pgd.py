"""Projected gradient descent, at an exact norm or inside a ball."""

from collections.abc import Sequence
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf

from lexirobust.attacks.attack import Attack, Classifier, classification_loss, logits_of
from lexirobust.attacks.loop import Goal, climb, ranked

CONSTRAINTS: Final = ("exact", "maximum")
GOALS: Final = ("maximize", "minimize")


@keras.saving.register_keras_serializable(package="lexirobust")
class PGD(Attack):
    """Projected gradient descent: the worst point found at a norm, or within it.

    Each step follows the steepest direction of its norm and is projected back, onto the sphere or
    the ball, cut with the bounds. The point of largest loss among all that were visited is kept.

    Args:
        norm: Norm of the perturbation: `"l1"`, `"l2"` or `"linf"`.
        steps: Number of gradient steps.
        step_size: Norm of one step. `None` is 2.5 times the magnitude over the steps.
        constraint: `"exact"`: the perturbation's norm is the magnitude. `"maximum"`: at most.
        goal: `"maximize"` the loss (adversarial samples) or `"minimize"` it (their opponents).
        restarts: Number of random starts. They come in pairs that start at opposite points.
        bounds: Lowest and highest value of an input, or `None`.
        random_start: Whether to start at random, or at the input itself.
        seed: Integer seed for the random starts of an attack called on its own.

    Raises:
        ValueError: If a setting is not one of those above.

    Example: a linear classifier's worst point at l2 norm 1 is known.

    >>> classifier = lambda x: x @ tf.constant([[0.6, -0.6], [0.8, -0.8]])
    >>> attack = PGD(norm="l2", steps=20, step_size=1.0, bounds=None)
    >>> x = attack(classifier, tf.zeros((1, 2)), tf.constant([0]), 1.0)
    >>> print(x.numpy().round(2))
    [[-0.6 -0.8]]

    Reference:
        Madry et al., arXiv 1706.06083; section 1.0.1 of the paper.
    """

    def __init__(
        self,
        norm: str = "l2",
        steps: int = 40,
        step_size: float | None = None,
        constraint: str = "exact",
        goal: str = "maximize",
        restarts: int = 1,
        bounds: tuple[float, float] | None = (0.0, 1.0),
        random_start: bool = True,
        seed: int | None = None,
    ) -> None:
        super().__init__(norm=norm, bounds=bounds, seed=seed)
        for name, value in (("steps", steps), ("restarts", restarts)):
            if not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"`{name}` must be an integer of at least 1. Received: {value!r}.")
        if step_size is not None and not step_size > 0:
            raise ValueError(f"`step_size` must be positive or None. Received: {step_size}.")
        if constraint not in CONSTRAINTS:
            raise ValueError(
                f"`constraint` must be one of {CONSTRAINTS}. Received: {constraint!r}."
            )
        if goal not in GOALS:
            raise ValueError(f"`goal` must be one of {GOALS}. Received: {goal!r}.")
        if restarts > 1 and not random_start:
            raise ValueError(
                "`restarts` above 1 need `random_start=True`: from one start they all end alike. "
                f"Received: restarts={restarts}."
            )
        self.steps = steps
        self.step_size = step_size
        self.constraint = constraint
        self.goal = goal
        self.restarts = restarts
        self.random_start = random_start

    def get_config(self) -> dict[str, Any]:
        """Returns the settings from which `from_config` makes an equal attack."""
        return {
            "norm": self.norm,
            "steps": self.steps,
            "step_size": self.step_size,
            "constraint": self.constraint,
            "goal": self.goal,
            "restarts": self.restarts,
            "bounds": None if self.bounds is None else list(self.bounds),
            "random_start": self.random_start,
            "seed": self.seed,
        }

    def goals(self, classifier: Classifier, y: tf.Tensor, magnitude: tf.Tensor) -> list[Goal]:
        """What the attack raises, the most important goal first.

        Args:
            classifier: Maps inputs to logits.
            y: `[N]` integer labels, or `[N, C]` probabilities.
            magnitude: `[N]` norms.

        Returns:
            One or two functions of the inputs.
        """
        del magnitude
        sign = 1.0 if self.goal == "maximize" else -1.0
        return [lambda x: sign * classification_loss(logits_of(classifier, x), y)]

    def mix(self, inputs: tf.Tensor, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
        """Makes the one gradient that is followed of all goals' gradients.

        Args:
            inputs: `[N, ...]` perturbed inputs.
            gradients: One gradient a goal, each shaped like the inputs.

        Returns:
            Tensor shaped like the inputs.
        """
        return ranked(inputs, gradients)

    def perturb(
        self,
        classifier: Classifier,
        x: tf.Tensor,
        y: tf.Tensor,
        magnitude: Any,
        seed: tf.Tensor,
        first: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Perturbs a batch inside a graph; see `Attack.perturb`.

        Args:
            classifier: Maps inputs to logits.
            x: `[N, ...]` float tensor.
            y: `[N]` integer labels, or `[N, C]` probabilities.
            magnitude: Scalar or `[N]` tensor.
            seed: `[2]` integer tensor.
            first: Perturbation to start from, shaped like `x`, in place of the first random one.

        Returns:
            The perturbed inputs, shaped like `x`.
        """
        magnitude = tf.broadcast_to(tf.cast(magnitude, x.dtype), tf.shape(x)[:1])
        moved = climb(
            self.goals(classifier, y, magnitude),
            x,
            magnitude,
            seed,
            norm=self.norm,
            steps=self.steps,
            step_size=self.step_size,
            exact=self.constraint == "exact",
            restarts=self.restarts,
            bounds=self.bounds,
            random_start=self.random_start,
            mix=self.mix,
            first=first,
        )
        return tf.stop_gradient(moved)
