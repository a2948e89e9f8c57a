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
from lexirobust.training.objectives import Batch
from lexirobust.training.state.gradient_means import GradientMeans
from lexirobust.training.step.gradients import StoredGradients
from lexirobust.training.step.objective_losses import Gradient, ObjectiveLoss, ObjectiveLosses
from lexirobust.training.step.training_step import TrainingStep
from lexirobust.training.step.update import StepResult, apply_update

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


class _ProjectedStep(TrainingStep):
    """A step of two ranks that is projected onto what is remembered, too."""

    def __init__(self, step: TrainingStep) -> None:
        vars(self).update(vars(step))

    def update(self, losses: ObjectiveLosses) -> tuple[StepResult, list[ObjectiveLoss]]:
        """Updates the weights."""
        kept = StoredGradients(losses, 2)
        assert self.memory is not None
        held = _Held(kept, self.memory.update(kept.known())[0])
        result = apply_update(
            self.optimizer,
            self.classifier.trainable_variables,
            held,
            [0.0, *self.alphas],
            1.0,
            self.settings.margin,
            in_metric=True,
            first_loss=None,
        )
        self.memory.commit_state(tf.constant(False))
        return result, kept.scores


class Projected(lr.OLSRC):
    """OLSRC of two ranks whose steps are projected onto what is remembered, too."""

    def _build_on_compiled(self) -> None:
        super()._build_on_compiled()
        self._training_step = _ProjectedStep(self._training_step)

    def _unpacked(self, data: Any) -> Batch:
        batch = super()._unpacked(data)
        if isinstance(self._memory, ControlVariates):
            self._memory.batch = batch
        return batch


class _FirstRank(GradientMeans):
    """Remembers something of the natural loss, which is the first of two ranks."""

    def __init__(self, network: keras.Model, x: np.ndarray, y: np.ndarray) -> None:
        super().__init__(lr.RunningMean(steps=1), 1, lambda: network.trainable_variables)
        self._network = network
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
        super().__init__(model.classifier, x[chosen], y[chosen])
        self._every = every
        self._taken = tf.Variable(0, trainable=False)

    def update(self, gradients: Sequence[Gradient]) -> list[Gradient]:
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
        super().__init__(model.classifier, x, y)
        self._then = network()

    def renew(self) -> None:
        """Takes the weights, and all data's gradient there."""
        self._then.set_weights(self._network.get_weights())
        self.build()
        parts = tf.data.Dataset.from_tensor_slices((self._x, self._y)).batch(1000)
        gradients = [self._compiled(x, y) for x, y in parts]
        for variable, values in zip(self._means[0], zip(*gradients, strict=True), strict=True):
            variable.assign(tf.add_n(values) / len(values))

    @tf.function
    def _compiled(self, x: tf.Tensor, y: tf.Tensor) -> list[tf.Tensor]:
        return self._differentiated(self._then, x, y)

    def update(self, gradients: Sequence[Gradient]) -> list[Gradient]:
        """What the batch and the epoch's first weights together say of all data."""
        then = self._differentiated(self._then, self.batch.x, self.batch.y)
        rows = zip(gradients[0], then, self._means[0], strict=True)
        return [[now - old + mean.value() for now, old, mean in rows]]
