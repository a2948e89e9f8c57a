"""The loss of one output out of several."""

import keras
import tensorflow as tf

from lexirobust.training.objectives.base import Batch, Objective, Score
from lexirobust.training.objectives.forward import Forward


@keras.saving.register_keras_serializable(package="lexirobust")
class Output(Objective):
    """The compiled loss of one output of a classifier that has several.

    Losses, metrics, labels and sample weights are given as for any Keras model with several
    outputs. What the logs tell of an output besides its loss is the compiled metrics' matter.

    Args:
        output: Name of the output: its key where the classifier gives a dict, one of the
            classifier's `output_names` where it gives a list.
        name: What the logs call it; `None` is the output's name.

    Example:

    >>> import keras, numpy as np, lexirobust as lr
    >>> x = keras.Input((4,))
    >>> outputs = {"digit": keras.layers.Dense(10)(x), "size": keras.layers.Dense(1)(x)}
    >>> ranks = [lr.objectives.Output("digit"), lr.objectives.Output("size")]
    >>> model = lr.LexicographicModel(keras.Model(x, outputs), ranks)
    >>> digit_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> model.compile("sgd", loss={"digit": digit_loss, "size": "mse"})
    >>> labels = {"digit": np.arange(5), "size": np.zeros((5, 1))}
    >>> logs = model.evaluate(np.ones((5, 4)), labels, return_dict=True, verbose=0)
    >>> sorted(logs)
    ['loss', 'loss@digit', 'loss@size']

    Reference:
        Section 4.2 of the paper.
    """

    gives_logits = False

    def __init__(self, output: str, name: str | None = None) -> None:
        super().__init__(name or output)
        self.output = output

    def loss(
        self, forward: Forward, batch: Batch, inputs: tf.Tensor, score: Score
    ) -> tuple[tf.Tensor, None]:
        """Computes the loss of one output on clean inputs; see `Objective.loss`."""
        own = {self.output: forward(inputs)[self.output]}
        return score(batch.y, own, batch.sample_weight), None
