"""Projected gradient descent toward one of the wrong classes, chosen by how likely it is."""

from typing import ClassVar

import keras
import tensorflow as tf

from lexirobust.attacks.classifier import Classifier, logits_of
from lexirobust.attacks.gradient.gradient_ascent import Goal
from lexirobust.attacks.gradient.pgd import PGD
from lexirobust.attacks.losses import targeted_dlr, wrong_class
from lexirobust.checks import check_count


@keras.saving.register_keras_serializable(package="lexirobust")
class TargetedPGD(PGD):
    """`PGD` on the targeted DLR loss, toward the wrong class of a given rank at the clean input.

    Any misclassification is success. Attacks that differ in the rank alone share a graph: toward
    all classes, one after the other, is what `AutoAttack` does.

    Args:
        norm: As of `PGD`, like those below.
        steps: Number of gradient steps.
        step_size: Size of one step; `None` adapts it to each sample.
        constraint: `"exact"` or `"maximum"`.
        restarts: Number of random starts.
        bounds: Lowest and highest value of an input, or `None`.
        random_start: Whether to start at random, or at the input itself.
        seed: Integer seed of an attack called on its own.
        early_stop: Whether only success is asked.
        target_rank: 1 for the most likely wrong class at the clean input, 2 for the next, ...; with
            fewer classes, the least likely.

    Raises:
        ValueError: If a setting is not one of those above.

    Example: the second class is nearer, the third is what is asked for.

    >>> classifier = lambda x: tf.concat([0.0 * x, x - 0.3, -x - 0.4], axis=1)
    >>> x, y = tf.zeros((1, 1)), tf.constant([0])
    >>> for rank in (1, 2):
    ...     attack = TargetedPGD(target_rank=rank, restarts=2, bounds=None)
    ...     print(attack(classifier, x, y, 1.0).numpy().tolist())
    [[1.0]]
    [[-1.0]]

    Reference:
        Croce and Hein, arXiv 2003.01690.
    """

    values: ClassVar[tuple[str, ...]] = (*PGD.values, "target_rank")

    def __init__(
        self,
        norm: str = "l2",
        steps: int = 40,
        step_size: float | None = None,
        constraint: str = "exact",
        restarts: int = 1,
        bounds: tuple[float, float] | None = (0.0, 1.0),
        random_start: bool = True,
        seed: int | None = None,
        early_stop: bool = False,
        target_rank: int = 1,
    ) -> None:
        super().__init__(
            norm=norm,
            steps=steps,
            step_size=step_size,
            constraint=constraint,
            restarts=restarts,
            bounds=bounds,
            random_start=random_start,
            seed=seed,
            early_stop=early_stop,
        )
        check_count("target_rank", target_rank)
        self.target_rank = int(target_rank)

    def ascent_goal(self, classifier: Classifier, x: tf.Tensor, y: tf.Tensor) -> Goal:
        """The targeted DLR loss; see `PGD.ascent_goal`."""
        target = wrong_class(logits_of(classifier, x), y, self.target_rank)
        return lambda inputs: targeted_dlr(logits_of(classifier, inputs), y, target)
