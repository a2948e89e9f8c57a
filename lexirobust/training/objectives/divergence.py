"""Divergence between the predictions for clean and perturbed inputs."""

import keras
import tensorflow as tf

from lexirobust.attacks import Attack, Classifier, IntervalAttack
from lexirobust.attacks.classifier import logits_of
from lexirobust.training.objectives.adversarial import Adversarial
from lexirobust.training.objectives.base import Batch, Score, single_attacks
from lexirobust.training.objectives.forward import Forward


@keras.saving.register_keras_serializable(package="lexirobust")
class Divergence(Adversarial):
    """The Kullback-Leibler divergence from the clean prediction to the perturbed one.

    The attack raises the same divergence; labels play no part in it. At the clean input that is 0
    and its gradient 0, so that an attack which starts there would follow rounding errors.

    Args:
        attack: Perturbs the inputs, from a random start.
        magnitude: Norm of the perturbation, above 0.
        name: What the logs call it; `None` is the norm and the magnitude, as in `"l2=4"` and
            `"l2=0_5"`.

    Raises:
        ValueError: As `Adversarial`, or if the attack, or one of a `WorstCase`, starts at the clean
            input, as `FGSM`, `BIM` and `random_start=False` do.
        TypeError: As `Adversarial`.

    Example: TRADES's two losses, ranked and not added up.

    >>> import keras, lexirobust as lr
    >>> attack = lr.attacks.PGD(norm="l2", bounds=None)
    >>> ranks = [lr.objectives.Natural(), lr.objectives.Divergence(attack, 2.0)]
    >>> classifier = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    >>> [rank.name for rank in lr.LexicographicModel(classifier, ranks).objectives]
    ['natural', 'l2=2']

    Reference:
        Zhang et al., arXiv 1901.08573.
    """

    def __init__(self, attack: Attack, magnitude: float, name: str | None = None) -> None:
        super().__init__(attack, magnitude, name)
        for each, _ in single_attacks(attack):
            # An interval attack moves its start by itself.
            moved = isinstance(each, IntervalAttack) or getattr(each, "random_start", True)
            if not moved:
                raise ValueError(
                    "`attack` must have a random start where it raises a divergence, which has no "
                    f"gradient at the clean input. Received: {type(each).__name__} with "
                    "random_start=False; PGD(steps=1) is one step from a random start."
                )

    def target(self, classifier: Classifier, batch: Batch) -> tf.Tensor:
        """The clean prediction: the cross entropy against it is the divergence, plus a constant.

        Args:
            classifier: Maps inputs to logits.
            batch: The clean batch.

        Returns:
            `[N, C]` probabilities.
        """
        return tf.nn.softmax(logits_of(classifier, batch.x))

    def loss(
        self, forward: Forward, batch: Batch, inputs: tf.Tensor, score: Score
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Computes the divergence, gradients through both predictions; see `Objective.loss`."""
        del score
        clean, perturbed = forward(batch.x), forward(inputs)
        cross_entropy = keras.losses.CategoricalCrossentropy(from_logits=True)
        probabilities = tf.nn.softmax(clean)
        divergence = cross_entropy(probabilities, perturbed, batch.sample_weight) - cross_entropy(
            probabilities, clean, batch.sample_weight
        )
        return divergence, perturbed
