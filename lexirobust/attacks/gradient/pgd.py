"""Projected gradient descent, at an exact norm or inside a ball."""

import functools
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, ClassVar, Final

import keras
import tensorflow as tf

from lexirobust.attacks.base import Attack
from lexirobust.attacks.classifier import Classifier, logits_of
from lexirobust.attacks.gradient.gradient_ascent import (
    AllowedRegion,
    AscentSettings,
    Goal,
    averaged,
    gradient_ascent,
    ranked,
)
from lexirobust.attacks.gradient.restarts import (
    AttackResult,
    chained_sweep,
    retry_failures,
    starts_at_once,
)
from lexirobust.attacks.losses import LOSSES, most_likely
from lexirobust.checks import check_count, check_flag, check_steps
from lexirobust.tensors import classes_of, of_dtype, wide

CONSTRAINTS: Final = ("exact", "maximum")
GOALS: Final = ("maximize", "minimize")


@keras.saving.register_keras_serializable(package="lexirobust")
class PGD(Attack):
    """Projected gradient descent: the worst point found at a norm, or within it.

    Each step follows the steepest direction of its norm and is projected back, onto the sphere or
    the ball, cut with the bounds. The point of largest loss among all that were visited is kept.
    For l1, unless there are fewer than 20 steps or they have a size, six steps in ten come before
    that: they change few coordinates, inside balls of three times and twice the norm, and find
    where to start. `sweep` begins each magnitude where the one below ended. A subclass must hold
    all its settings in `get_config`: attacks that agree in them share one graph.

    Args:
        norm: Norm of the perturbation: `"l1"`, `"l2"` or `"linf"`.
        steps: Number of gradient steps.
        step_size: Size of one step: its l2 norm, or its largest entry for l1 and linf. `None`, the
            default and the better choice, adapts it to each sample: from the ball's diameter down
            wherever progress stalls.
        constraint: `"exact"`: the perturbation's norm is the magnitude. `"maximum"`: at most.
        goal: `"maximize"` the loss (adversarial samples) or `"minimize"` it: opponents where `y` is
            the right label, targeted adversarial samples where `y` is the wanted one.
        restarts: Number of random starts. They come in pairs that start at opposite points; for l1,
            after that search, the second one of a pair begins farther out.
        bounds: Lowest and highest value of an input, or `None`.
        random_start: Whether to start at random, or at the input itself.
        seed: Integer seed for the random starts of an attack called on its own.
        loss: `"cross_entropy"`, `"margin"` (of logits) or `"dlr"` (margin over spread).
        early_stop: Whether only success is asked: a sample that is misclassified, or classified as
            `y` where the loss is minimized, is left alone from then on.
        eot_samples: How often a randomized classifier is asked at each point: losses and gradients
            are means over so many passes.

    Raises:
        ValueError: If a setting is not one of those above.

    Example: a linear classifier's worst point at l2 norm 1 is known.

    >>> classifier = lambda x: x @ tf.constant([[0.6, -0.6], [0.8, -0.8]])
    >>> attack = PGD(norm="l2", bounds=None)
    >>> x = attack(classifier, tf.zeros((1, 2)), tf.constant([0]), 1.0)
    >>> print(x.numpy().round(2))
    [[-0.6 -0.8]]

    Example: a targeted attack minimizes the loss of the labels that it wants.

    >>> attack = PGD(norm="l2", goal="minimize", bounds=None)
    >>> x = attack(classifier, tf.zeros((1, 2)), tf.constant([1]), 1.0)
    >>> tf.argmax(classifier(x), axis=-1).numpy().tolist()
    [1]

    Reference:
        Madry et al., arXiv 1706.06083; Croce and Hein, arXiv 2003.01690, for the step, and arXiv
        2103.01208 for l1; section 1.0.1 of the paper.
    """

    values: ClassVar[tuple[str, ...]] = ("sign", "steps", "step_size", "restarts")

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
        loss: str = "cross_entropy",
        early_stop: bool = False,
        eot_samples: int = 1,
    ) -> None:
        super().__init__(norm=norm, bounds=bounds, seed=seed)
        check_steps(steps, step_size, restarts, random_start)
        if constraint not in CONSTRAINTS:
            raise ValueError(
                f"`constraint` must be one of {CONSTRAINTS}. Received: {constraint!r}."
            )
        if goal not in GOALS:
            raise ValueError(f"`goal` must be one of {GOALS}. Received: {goal!r}.")
        if loss not in LOSSES:
            raise ValueError(f"`loss` must be one of {tuple(LOSSES)}. Received: {loss!r}.")
        self.steps = int(steps)
        self.step_size = None if step_size is None else float(step_size)
        self.constraint = constraint
        self._goal = goal
        self.restarts = int(restarts)
        self.random_start = check_flag("random_start", random_start)
        self.loss = loss
        self.early_stop = check_flag("early_stop", early_stop)
        check_count("eot_samples", eot_samples)
        self.eot_samples = int(eot_samples)
        self.sign = 1.0 if goal == "maximize" else -1.0

    @property
    def goal(self) -> str:
        """`"maximize"` or `"minimize"` the loss; it stays what the constructor was given."""
        return self._goal

    def structure(self) -> Hashable:
        """The settings other than numbers; see `Attack.structure`."""
        numbers = {*self.values, "goal", "seed", "bounds"}
        config = {name: value for name, value in self.get_config().items() if name not in numbers}
        config["step_size"] = self.step_size is None
        return type(self), self.bounds, frozenset(config.items())

    def ascent_goal(self, classifier: Classifier, x: tf.Tensor, y: tf.Tensor) -> Goal:
        """The goal that the attack raises.

        Args:
            classifier: Maps inputs to logits.
            x: `[N, ...]` clean inputs.
            y: `[N]` integer labels, or `[N, C]` probabilities.

        Returns:
            A function of the inputs: the loss, or minus the loss if that is to be minimized.
        """
        del x
        loss, targeted = LOSSES[self.loss], tf.less(self.sign, 0.0)

        def goal(inputs: tf.Tensor) -> tf.Tensor:
            logits = logits_of(classifier, inputs)
            return tf.cast(self.sign, logits.dtype) * loss(logits, y, targeted)

        return goal

    def allowed_region(self, x: tf.Tensor, magnitude: tf.Tensor) -> AllowedRegion | None:
        """The region where adversarial examples are allowed.

        Args:
            x: `[N, ...]` clean inputs.
            magnitude: `[N]` norms.

        Returns:
            The region; `None` if they are allowed everywhere.
        """
        del x, magnitude
        return None

    def is_adversarial(self, classifier: Classifier, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Says which inputs are misclassified, or classified as the label where that is the goal.

        Inputs whose logits are not numbers are misclassified, as whatever they are labeled.

        Args:
            classifier: Maps inputs to logits.
            x: `[N, ...]` perturbed inputs.
            y: `[N]` integer labels, or `[N, C]` probabilities, of which the largest counts.

        Returns:
            `[N]` bool tensor.
        """
        labels = most_likely(y)
        given = classes_of(logits_of(classifier, x))
        return tf.equal(given == labels, tf.less(self.sign, 0.0))

    def combine_gradients(self, inputs: tf.Tensor, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
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
        initial_perturbation: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Perturbs a batch inside a graph; see `Attack.perturb`.

        Args:
            classifier: Maps inputs to logits.
            x: `[N, ...]` float tensor.
            y: `[N]` integer labels, or `[N, C]` probabilities.
            magnitude: Scalar or `[N]` tensor.
            seed: `[2]` integer tensor.
            initial_perturbation: Perturbation to start from, shaped like `x`, in place of the first
                random one.

        Returns:
            The perturbed inputs, shaped like `x`.
        """
        magnitude = tf.broadcast_to(of_dtype(magnitude, x.dtype), tf.shape(x)[:1])
        forward = _shared_pass(classifier)
        finished = None
        if self.early_stop:
            finished = lambda inputs: self.is_adversarial(forward, inputs, y)  # noqa: E731
        # Passes that are shared would be the same draw.
        goal = self.ascent_goal(forward if self.eot_samples == 1 else classifier, x, y)
        x_adv = gradient_ascent(
            averaged(goal, self.eot_samples),
            x,
            magnitude,
            seed,
            self._ascent_settings(),
            initial_perturbation,
            finished,
            self.allowed_region(x, magnitude),
        )
        return tf.stop_gradient(x_adv)

    def start(
        self, x: tf.Tensor, magnitude: tf.Tensor, seed: tf.Tensor, initial_perturbation: tf.Tensor
    ) -> tf.Tensor:
        """Moves inputs to where the attack begins, without a step.

        Args:
            x: `[N, ...]` float tensor.
            magnitude: `[N]` norms.
            seed: `[2]` integer tensor.
            initial_perturbation: As in `perturb`.

        Returns:
            The perturbed inputs, shaped like `x`.
        """
        x_adv = gradient_ascent(
            lambda inputs: tf.zeros(tf.shape(inputs)[:1]),
            x,
            magnitude,
            seed,
            self._ascent_settings()._replace(steps=0, restarts=1),
            initial_perturbation,
            region=self.allowed_region(x, magnitude),
        )
        return tf.stop_gradient(x_adv)

    def follow(
        self,
        classifier: Classifier,
        x: tf.Tensor,
        y: tf.Tensor,
        magnitude: tf.Tensor,
        x_adv: tf.Tensor,
        gradient: tf.Tensor,
    ) -> tf.Tensor:
        """Takes one step along a gradient of the loss that is known already.

        It costs no pass of the classifier. What a `GuidedPGD` ranks above the loss it asks itself.

        Args:
            classifier: Maps inputs to logits.
            x: `[N, ...]` float tensor.
            y: `[N]` integer labels, or `[N, C]` probabilities.
            magnitude: `[N]` norms.
            x_adv: The perturbed inputs, shaped like `x`.
            gradient: The loss's gradient there, up to a positive factor a sample.

        Returns:
            The perturbed inputs after the step, shaped like `x`.
        """
        axes = list(range(1, x.shape.rank))
        stepped = gradient_ascent(
            # A linear function with the gradient that is known.
            lambda inputs: self.sign * tf.reduce_sum(inputs * gradient, axis=axes),
            x,
            magnitude,
            tf.zeros([2], tf.int32),
            self._ascent_settings()._replace(steps=1, restarts=1),
            x_adv - x,
            region=self.allowed_region(x, magnitude),
        )
        return tf.stop_gradient(stepped)

    def _ascent_settings(self) -> AscentSettings:
        return AscentSettings(
            norm=self.norm,
            steps=self.steps,
            step_size=self.step_size,
            exact=self.constraint == "exact",
            restarts=self.restarts,
            bounds=self.bounds,
            random_start=self.random_start,
            combine_gradients=self.combine_gradients,
        )

    def _run(
        self, classifier: Classifier, x: tf.Tensor, y: tf.Tensor, magnitude: tf.Tensor
    ) -> tf.Tensor:
        # In a graph there is no telling how many resist.
        if not (self.random_start and tf.executing_eagerly()):
            return super()._run(classifier, x, y, magnitude)
        first, *more = starts_at_once(self.restarts, self.early_stop)
        attack = functools.partial(self._judged, classifier)
        # Success matters to later starts alone.
        result = attack(x, y, magnitude, judge=bool(more), restarts=first)
        return retry_failures(attack, x, y, magnitude, result, more).x_adv

    def _sweep(
        self,
        classifier: Classifier,
        x: tf.Tensor,
        y: tf.Tensor,
        scale: tf.Tensor,
        magnitudes: list[float],
    ) -> Iterator[tf.Tensor]:
        """Starts each magnitude from the one below; without random starts, from its own."""
        if not self.random_start:
            return super()._sweep(classifier, x, y, scale, magnitudes)
        attack = functools.partial(self._judged, classifier)
        starts = starts_at_once(self.restarts, self.early_stop)
        exact = self.constraint == "exact"
        return chained_sweep(attack, x, y, scale, magnitudes, starts, self.steps, exact)

    def _judged(
        self,
        classifier: Classifier,
        x: tf.Tensor,
        y: tf.Tensor,
        magnitude: tf.Tensor,
        judge: bool = True,
        **given: Any,
    ) -> AttackResult:
        """The perturbed inputs, whether they succeed, and what the attack raises there.

        One graph serves calls, which do not ask for the last two, and every magnitude of a sweep.
        """
        given = {"initial_perturbation": tf.zeros_like(x), **given, "judge": tf.constant(judge)}
        return self._compiled(classifier, x=x, y=y, magnitude=magnitude, **given)

    def _traced(self, classifier: Classifier, **given: Any) -> Any:
        """The part of `_judged` that runs inside a graph."""
        judge = given.pop("judge", None)
        x_adv = self.perturb(classifier, **given)
        if judge is None:
            return x_adv
        y, norms = given["y"], given["magnitude"]

        def judged() -> tuple[tf.Tensor, tf.Tensor]:
            forward = _shared_pass(classifier)
            value = self.ascent_goal(forward, given["x"], y)(x_adv)
            return self.is_adversarial(forward, x_adv, y), tf.cast(value, wide(norms.dtype))

        def unasked() -> tuple[tf.Tensor, tf.Tensor]:
            return tf.zeros_like(norms, tf.bool), tf.zeros_like(norms, wide(norms.dtype))

        return AttackResult(x_adv, *tf.cond(judge, judged, unasked))


def _shared_pass(classifier: Classifier) -> Classifier:
    """The classifier's logits, in which calls with the same tensor share one pass."""
    last: list[Any] = [None, None]

    def forward(x: tf.Tensor) -> tf.Tensor:
        if last[0] is not x:
            last[:] = x, logits_of(classifier, x)
        return last[1]

    return forward
