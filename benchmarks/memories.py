"""Memories that were tried beside the one that the package has: as more rows of the Gramian.

The first rank has a row more, before its own: what is remembered of it. No rank's part of a step
opposes it, nor the batch's own gradient.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import lexirobust as lr
from lexirobust import gem
from lexirobust.training.gradient_means import GradientMeans
from lexirobust.training.gradients import StoredGradients
from lexirobust.training.objective_losses import Gradient, ObjectiveLoss, ObjectiveLosses
from lexirobust.training.objectives import Batch
from lexirobust.training.update import StepResult, apply_update

ANCHORS = 2000


class _Held:
    """Gradients on the batch after what is remembered of the first rank."""

    def __init__(self, kept: StoredGradients, remembered: Gradient) -> None:
        self._own, self.first = kept.known(), remembered
        self.scores, self.first_loss = kept.scores, kept.first_loss
        self._rows = [remembered, *self._own]

    def gramian(self, metric: Any | None) -> tf.Tensor:
        """`[3, 3]` float64 inner products."""
        return gem.gramian(self._rows, metric)

    def combined(self, weights: Any) -> Gradient:
        """The sum of all rows, each with its weight out of `[3]`."""
        return gem.combine(self._rows, weights)

    def known(self) -> list[Gradient]:
        """The batch's, and as many of what is remembered, as the logs want them."""
        return [*self._own, self.first, self.first]


class Projected(lr.OLSRC):
    """OLSRC of two ranks whose steps are projected onto what is remembered, too."""

    def _batch(self, data: Any) -> Batch:
        batch = super()._batch(data)
        if isinstance(self._memory, ControlVariates):
            self._memory.batch = batch
        return batch

    def _update(self, passes: ObjectiveLosses) -> tuple[StepResult, list[ObjectiveLoss]]:
        kept, variables = StoredGradients(passes, 2), self.classifier.trainable_variables
        assert self._memory is not None
        held = _Held(kept, self._memory.update(kept.known(), variables)[0])
        alphas = [0.0, *self.alphas]
        taken = apply_update(
            self.optimizer,
            variables,
            held,
            alphas,
            1.0,
            self.margin,
            in_metric=True,
            first_loss=None,
        )
        self._memory.commit_state(variables, tf.constant(False))
        return taken, kept.scores


class _FirstRank(GradientMeans):
    """Remembers something of the natural loss, which is the first of two ranks."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        super().__init__(lr.RunningMean(steps=1), 1)
        self._x, self._y = x, y

    def _differentiated(self, network: keras.Model, x: tf.Tensor, y: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            logits = network(x, training=True)
            losses = keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
            loss = tf.reduce_mean(losses)
        return tape.gradient(loss, [v.value for v in network.trainable_variables])


class Anchors(_FirstRank):
    """GEM's own episodic memory: the gradient on fixed samples, as many of each class as there are.

    Args:
        model: Ranked model.
        x: Training images, of which some are kept.
        y: Their labels.
        every: After how many steps the gradient is renewed.
    """

    def __init__(
        self, model: lr.LexicographicModel, x: np.ndarray, y: np.ndarray, every: int
    ) -> None:
        chosen = np.argsort(y, kind="stable")[:: max(1, len(y) // ANCHORS)][:ANCHORS]
        super().__init__(x[chosen], y[chosen])
        self._network, self._every = model.classifier, every
        self._taken = tf.Variable(0, trainable=False)

    def update(
        self, gradients: Sequence[Gradient], variables: Sequence[keras.Variable]
    ) -> list[Gradient]:
        """The gradient on the anchors, as it is or was."""

        def renewed() -> list[tf.Tensor]:
            return self._differentiated(self._network, self._x, self._y)

        kept = [v.value() for v in self._means[0]]
        now = tf.cond(self._taken % self._every == 0, renewed, lambda: kept)
        for variable, value in zip(self._means[0], now, strict=True):
            variable.assign(value)
        self._taken.assign_add(1)
        return [now]


class ControlVariates(_FirstRank):
    """SVRG: the batch's gradient, less what it was at an epoch's first weights, plus all data's.

    Args:
        model: Ranked model that shows its memory the batch.
        x: All training images.
        y: Their labels.
        network: Makes a classifier like the model's, to hold an epoch's first weights.
    """

    batch: Batch

    def __init__(
        self, model: Projected, x: np.ndarray, y: np.ndarray, network: Callable[[], keras.Model]
    ) -> None:
        super().__init__(x, y)
        self._network, self._then = model.classifier, network()

    def renew(self) -> None:
        """Takes the weights, and all data's gradient there."""
        self._then.set_weights(self._network.get_weights())
        self.build(self._network.trainable_variables)
        parts = tf.data.Dataset.from_tensor_slices((self._x, self._y)).batch(1000)
        gradients = [self._compiled(x, y) for x, y in parts]
        for variable, values in zip(self._means[0], zip(*gradients, strict=True), strict=True):
            variable.assign(tf.add_n(values) / len(values))

    @tf.function
    def _compiled(self, x: tf.Tensor, y: tf.Tensor) -> list[tf.Tensor]:
        return self._differentiated(self._then, x, y)

    def update(
        self, gradients: Sequence[Gradient], variables: Sequence[keras.Variable]
    ) -> list[Gradient]:
        """What the batch and the epoch's first weights together say of all data."""
        then = self._differentiated(self._then, self.batch.x, self.batch.y)
        rows = zip(gradients[0], then, self._means[0], strict=True)
        return [[now - old + mean.value() for now, old, mean in rows]]
