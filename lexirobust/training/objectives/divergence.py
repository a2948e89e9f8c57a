"""Divergence between the predictions for clean and perturbed inputs."""

import keras
import tensorflow as tf

from lexirobust.attacks import Classifier
from lexirobust.attacks.classifier import logits_of
from lexirobust.training.objectives.adversarial import Adversarial
from lexirobust.training.objectives.base import Batch, Score
from lexirobust.training.objectives.forward import Forward


@keras.saving.register_keras_serializable(package="lexirobust")
class Divergence(Adversarial):
    """The Kullback-Leibler divergence from the clean prediction to the perturbed one.

    The attack raises the same divergence; labels play no part in it.

    Args:
        attack: Perturbs the inputs.
        magnitude: Norm of the perturbation, above 0.
        name: What the logs call it; `None` is the norm and the magnitude, as in `"l2=4"` and
            `"l2=0_5"`.

    Raises:
        ValueError: As `Adversarial`.
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
