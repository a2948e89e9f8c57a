"""One training step on a batch: perturb, differentiate every rank, rank and apply."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from lexirobust import gem
from lexirobust.training.objectives import Batch, Rank
from lexirobust.training.objectives.base import Score
from lexirobust.training.settings import TrainingSettings
from lexirobust.training.state.gradient_means import GradientMeans, averages_taken
from lexirobust.training.state.target_estimates import TargetEstimates
from lexirobust.training.step.batch_statistics import normalized_by
from lexirobust.training.step.gradients import (
    MeanGradients,
    RankedGradients,
    RecomputedGradients,
    StoredGradients,
)
from lexirobust.training.step.objective_losses import (
    Gradient,
    ObjectiveInputs,
    ObjectiveLoss,
    ObjectiveLosses,
)
from lexirobust.training.step.perturbation import perturb_objectives
from lexirobust.training.step.update import RankTargets, StepResult, apply_update
from lexirobust.training.targets import shared_alphas


class TrainingStep:
    """The stations of a training step, each a method; they are called in this order.

    Args:
        classifier: The classifier as it is in use, which is attacked.
        trained: The same without its random augmentation, which is trained.
        objectives: The ranked losses.
        alphas: `[T]` weights of the ranks, summing to 1.
        settings: How to step.
        optimizer: Built on the classifier's trainable variables.
        score: The compiled loss.
        memory: The mean gradients by which ranks are compared, or `None`.
        targets: Running estimates of the ranks' targets, or `None`.
        named: Turns the outputs of a classifier with several into a dict.
    """

    def __init__(
        self,
        classifier: keras.Model,
        trained: keras.Model,
        objectives: Sequence[Rank],
        alphas: Sequence[float],
        settings: TrainingSettings,
        optimizer: keras.optimizers.Optimizer,
        score: Score,
        memory: GradientMeans | None,
        targets: TargetEstimates | None,
        named: Callable[[Any], dict[str, Any]] | None,
    ) -> None:
        self.classifier = classifier
        self.trained = trained
        self.objectives = objectives
        self.alphas = alphas
        self.settings = settings
        self.optimizer = optimizer
        self.score = score
        self.memory = memory
        self.targets = targets
        self.named = named
        self._free = settings.warm_start is not None and settings.warm_start.free

    def as_trained(
        self, batch: Batch, initial: Sequence[tf.Tensor] | None = None
    ) -> contextlib.AbstractContextManager[None]:
        """Has attacks inside it see the classifier normalized as training normalizes it.

        Args:
            batch: The clean batch.
            initial: As of `perturb`.
        """
        attacked = any(term.attack for rank in self.objectives for _, term in rank.terms)
        if not attacked or self._attacks_later(initial):
            return contextlib.nullcontext()
        # Of what one pass sees.
        return normalized_by(self.trained, batch.x[: self.settings.micro_batch_size])

    def _attacks_later(self, initial: Sequence[tf.Tensor] | None) -> bool:
        # Free steps are taken along gradients that the step computes anyway.
        return initial is not None and self._free

    def perturb(
        self, batch: Batch, seed: tf.Tensor, initial: Sequence[tf.Tensor] | None = None
    ) -> list[list[ObjectiveInputs]]:
        """Perturbs the inputs of every objective that has an attack.

        Args:
            batch: The clean batch.
            seed: `[2]` integer tensor.
            initial: The perturbation that each attack begins with, or `None`.

        Returns:
            For each rank, the inputs of each of its objectives.
        """
        return perturb_objectives(
            self.objectives,
            self.classifier,
            batch,
            seed,
            initial,
            take_steps=not self._attacks_later(initial),
            micro_batch_size=self.settings.micro_batch_size,
        )

    def losses(
        self, batch: Batch, inputs: list[list[ObjectiveInputs]], training: bool
    ) -> ObjectiveLosses:
        """Prepares losses and gradients of all ranks.

        Args:
            batch: The clean batch.
            inputs: What `perturb` returned.
            training: Whether a step follows.

        Returns:
            What computes them, each when it is asked for.
        """
        return ObjectiveLosses(
            self.trained,
            self.objectives,
            batch,
            inputs,
            self.score,
            self.optimizer.scale_loss(1.0) if training else 1.0,
            self.settings.micro_batch_size,
            self.named,
            by_inputs=training and self._free,
        )

    def gradients(self, batch: Batch) -> list[tuple[Gradient, tf.Tensor]]:
        """Differentiates every rank's loss at the weights as they are; nothing is learned.

        Args:
            batch: The clean batch.

        Returns:
            For each rank its gradient, and the number of samples that it is a mean over.
        """
        with self.as_trained(batch):
            inputs = self.perturb(batch, tf.zeros([2], tf.int32))
        losses = self.losses(batch, inputs, training=False)
        ranks = range(len(self.objectives))
        return [(losses.gradient(rank)[0], losses.counted(rank)) for rank in ranks]

    def update(self, losses: ObjectiveLosses) -> tuple[StepResult, list[ObjectiveLoss]]:
        """Updates the weights: one step for all ranks, or one a rank in turn.

        Args:
            losses: What `losses` returned.

        Returns:
            The result of the step, the last rank's if each takes one, and every rank's scores.
        """
        make = StoredGradients if self.settings.keep_gradients else RecomputedGradients
        if self.settings.update == "per_rank":
            scores = []
            for rank, alpha in enumerate(self.alphas):
                own_step = make(losses, rank + 1)
                result = self._apply(losses, own_step, [0.0] * rank + [1.0], alpha)
                scores.append(own_step.scores[rank])
            return result, scores
        gradients: RankedGradients = make(losses, len(self.objectives))
        scores, own = gradients.scores, gradients.known()
        if self.memory is not None:
            gradients = MeanGradients(gradients, self.memory.update(own))
        targets, alphas = None, self.alphas
        if self.targets is not None:
            targets = self.targets.update(losses, scores)
            kept = tf.unstack(targets.kept)
            alphas = tf.stack(shared_alphas(alphas, self.targets.targets, kept))
        result = self._apply(losses, gradients, alphas, targets=targets)
        if self.memory is not None:
            self.memory.commit_state(averages_taken(self.optimizer))
            if self.settings.detailed_logs:
                batch_cosines = gem.cosines(gem.gramian(own))
                result = result._replace(batch_cosines=batch_cosines)
        return result._replace(targets=targets), scores

    def _apply(
        self,
        losses: ObjectiveLosses,
        gradients: RankedGradients,
        alphas: Sequence[float] | tf.Tensor,
        share: float = 1.0,
        targets: RankTargets | None = None,
    ) -> StepResult:
        return apply_update(
            self.optimizer,
            self.classifier.trainable_variables,
            gradients,
            alphas,
            share,
            self.settings.margin,
            # One rank alone conflicts with none: the optimizer is left as it is.
            in_metric=self.settings.metric == "optimizer" and len(self.objectives) > 1,
            first_loss=losses.first_loss if self.settings.safeguard else None,
            bounds=None if targets is None else targets.bounds,
            directions=None if targets is None else targets.directions,
        )
