"""Losses and gradients of all ranks on one batch."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import keras
import tensorflow as tf

from lexirobust.tensors import spread
from lexirobust.training.objectives import Batch, Forward, Rank, Regularization
from lexirobust.training.objectives.base import Score
from lexirobust.training.replicas import sum_over_replicas
from lexirobust.training.step.micro_batches import Part, map_micro_batches

Gradient: TypeAlias = list[tf.Tensor | None]
"""One tensor a variable of the classifier; `None` where a loss does not depend on it."""


class ObjectiveInputs(NamedTuple):
    """The inputs of one objective on one batch.

    Attributes:
        inputs: `[N, ...]` the perturbed inputs.
        weight: `[N]` weights of samples, besides the batch's own; `None` where all weigh the same.
    """

    inputs: tf.Tensor
    weight: tf.Tensor | None = None


def average_over(valid: tf.Tensor) -> tf.Tensor:
    """Weighs samples so that a mean over all of them is the mean over some.

    Args:
        valid: `[N]` bool tensor, this replica's part of the batch.

    Returns:
        `[N]` float32 tensor: 0, or the same number for all that count, on all replicas.
    """
    counts = tf.cast(valid, keras.config.floatx())
    sums = tf.stack([tf.reduce_sum(counts), tf.cast(tf.size(counts), counts.dtype)])
    some, every = tf.unstack(sum_over_replicas([sums])[0])
    return counts * tf.math.divide_no_nan(every, some)


def weigh_samples(batch: Batch, weight: tf.Tensor | None) -> Batch:
    """A batch whose samples are weighed by one more weight `[N]`, if there is one."""
    if weight is None:
        return batch
    if batch.sample_weight is None:
        return batch._replace(sample_weight=weight)

    def weighed(own: tf.Tensor | None) -> tf.Tensor:
        if own is None:
            return weight
        own = tf.cast(own, weight.dtype)
        return own * spread(weight, own)

    return batch._replace(sample_weight=tf.nest.map_structure(weighed, batch.sample_weight))


def counted_samples(batch: Batch, valid: tf.Tensor | None) -> tf.Tensor:
    """Tells which samples a share of samples is of: each as much as any other, whatever it weighs.

    Args:
        batch: N samples.
        valid: `[N]` weights of the samples, 0 where one is not valid; `None`: all are.

    Returns:
        `[N]` floats: 1, or 0 where a sample is not valid or has no weight.
    """
    counts = tf.ones(tf.shape(batch.x)[0], keras.config.floatx())
    for given in (batch.sample_weight, valid):
        if given is not None:
            counts *= tf.sign(tf.cast(given, counts.dtype))
    return counts


class ObjectiveLoss(NamedTuple):
    """The loss of one rank, and what it was computed from.

    Attributes:
        total: Its loss, with the classifier's regularization losses if it carries them.
        data_loss: Its loss without them.
        losses: The loss of each of its terms.
        logits: `[N, C]` of each of its terms that gives logits.
        clean: What the classifier gives for clean inputs; an empty list if no term asked.
    """

    total: tf.Tensor
    data_loss: tf.Tensor
    losses: Sequence[tf.Tensor]
    logits: Sequence[tf.Tensor]
    clean: Sequence[Any]


def score_rank(
    rank: Rank,
    forward: Forward,
    batch: Batch,
    objective_inputs: Sequence[ObjectiveInputs],
    score: Score,
    weights: Sequence[Any],
) -> ObjectiveLoss:
    """The loss of one rank: its objectives' losses, added up by their weights."""
    losses, logits = zip(
        *[
            term.loss(forward, weigh_samples(batch, weight), inputs, score)
            for (_, term), (inputs, weight) in zip(rank.terms, objective_inputs, strict=True)
        ],
        strict=True,
    )
    for (_, term), values in zip(rank.terms, logits, strict=True):
        if (values is not None) != term.gives_logits:
            raise ValueError(
                f"`loss` of objective {term.name!r} must give logits where its `gives_logits` is "
                f"true, and None in their place where it is not. Received: {values!r}."
            )
    total = sum(weight * loss for weight, loss in zip(weights, losses, strict=True))
    given = [values for values in logits if values is not None]
    return ObjectiveLoss(total, total, list(losses), given, forward.known(batch.x))


class ObjectiveLosses:
    """The ranks' losses and gradients on one batch, at whatever weights the classifier has.

    All passes start from the same state (batch normalization's statistics, dropout's seeds), so
    that a rank's gradient is the same however often it is asked for. What the first pass of
    rank 1 made of the state is what `commit_state` leaves.

    Args:
        classifier: Keras model.
        ranks: All ranks, the most important first; the first carries the classifier's own
            regularization losses, unless they are a rank of their own.
        batch: The clean batch.
        objective_inputs: For each rank, what each of its terms sees.
        score: The compiled loss.
        scale: What losses are multiplied by for mixed precision; gradients come back unscaled.
        micro_batch_size: Most samples in one pass, or `None`.
        named: Turns what a classifier with several outputs gives into a dict.
        by_inputs: Whether each rank's first pass differentiates by what its attacked terms see,
            too; `input_gradients` then holds, by rank, one tensor an attacked term.
    """

    def __init__(
        self,
        classifier: keras.Model,
        ranks: Sequence[Rank],
        batch: Batch,
        objective_inputs: Sequence[Sequence[ObjectiveInputs]],
        score: Score,
        scale: Any = 1.0,
        micro_batch_size: int | None = None,
        named: Callable[[Any], dict[str, Any]] | None = None,
        by_inputs: bool = False,
    ) -> None:
        self.classifier = classifier
        self.by_inputs = by_inputs
        self.input_gradients: dict[int, list[tf.Tensor]] = {}
        self.ranks = ranks
        self.batch = batch
        self.objective_inputs = objective_inputs
        self.score = score
        self.micro_batch_size = micro_batch_size
        self.scale = scale
        self.named = named
        terms = [term for rank in ranks for _, term in rank.terms]
        self._penalized = not any(isinstance(term, Regularization) for term in terms)
        self._before = [tf.identity(v.value) for v in classifier.non_trainable_variables]
        self._after: list[tf.Tensor] | None = None
        self._weights: dict[int, list[Any]] = {}

    def counted(self, index: int) -> tf.Tensor:
        """The number of the batch's samples that a rank's loss is a mean over, float64.

        Those that an objective weighs by 0 are no part of it, as where no perturbation is allowed.

        Args:
            index: The rank, 0 for the first.
        """
        weights = [inputs.weight for inputs in self.objective_inputs[index]]
        if any(weight is None for weight in weights):
            return tf.cast(tf.shape(self.batch.x)[0], tf.float64)
        counts = tf.reduce_any(tf.stack([weight != 0 for weight in weights]), axis=0)
        return tf.reduce_sum(tf.cast(counts, tf.float64))

    def gradient(self, index: int) -> tuple[Gradient, ObjectiveLoss]:
        """Differentiates one rank's loss by the classifier's trainable variables.

        Args:
            index: The rank, 0 for the first.

        Returns:
            Its gradient, summed over replicas, and this replica's scores.
        """
        variables = [variable.value for variable in self.classifier.trainable_variables]
        self._weigh(index, training=True)
        by_inputs = self.by_inputs and index not in self.input_gradients

        def part(tensors: Any, number: tf.Tensor, share: Any) -> tuple[Any, Any]:
            del number
            terms = [term for _, term in self.ranks[index].terms]
            x_adv = [
                objective_inputs.inputs
                for term, objective_inputs in zip(terms, tensors[1], strict=True)
                if by_inputs and term.attack is not None
            ]
            with tf.GradientTape() as tape:
                tape.watch(x_adv)
                scores = self._part(index, tensors, training=True)
                loss = share * scores.total * self.scale
            row, inputs = tape.gradient(loss, (variables, x_adv))
            row = [None if g is None else tf.convert_to_tensor(g) for g in row]
            # A loss may leave what it was shown alone.
            inputs = [
                tf.zeros_like(objective_inputs) if g is None else g
                for objective_inputs, g in zip(x_adv, inputs, strict=True)
            ]
            return (row, _shares(share, scores)), (scores.logits, scores.clean, inputs)

        (row, losses), (logits, clean, inputs) = self._map_micro_batches(part, index)
        if by_inputs:
            self.input_gradients[index] = [g / tf.cast(self.scale, g.dtype) for g in inputs]
        row = [None if g is None else g / self.scale for g in row]
        return sum_over_replicas(row), losses._replace(logits=logits, clean=clean)

    def scores(self, index: int, training: bool) -> ObjectiveLoss:
        """One rank's scores alone: a forward pass.

        Args:
            index: The rank, 0 for the first.
            training: Whether the classifier is in training, or in use.

        Returns:
            This replica's scores.
        """
        self._weigh(index, training)
        return self._scores(index, training)

    def _scores(self, index: int, training: bool) -> ObjectiveLoss:
        def part(tensors: Any, number: tf.Tensor, share: Any) -> tuple[Any, Any]:
            del number
            scores = self._part(index, tensors, training)
            return _shares(share, scores), (scores.logits, scores.clean)

        losses, (logits, clean) = self._map_micro_batches(part, index)
        return losses._replace(logits=logits, clean=clean)

    def first_loss(self) -> tf.Tensor:
        """Rank 1's loss in training, summed over replicas."""
        return sum_over_replicas([self.scores(0, training=True).total])[0]

    def commit_state(self) -> None:
        """Leaves the classifier's state as the first pass of rank 1 made it."""
        if self._after is not None:
            self._set_state(self._after)

    def _weigh(self, index: int, training: bool) -> None:
        """Sets the weights of a rank's terms, once: all passes of a step add up the same way."""
        if index in self._weights:
            return
        rank, losses = self.ranks[index], None
        if rank.by_losses:
            # Adding up needs weights already; what these add up to is not used.
            self._weights[index] = [weight for weight, _ in rank.terms]
            losses = sum_over_replicas([tf.stack(self._scores(index, training).losses)])[0]
        self._weights[index] = rank.weigh(losses)

    def _part(self, index: int, tensors: Any, training: bool) -> ObjectiveLoss:
        batch, objective_inputs = tensors
        rank = self.ranks[index]
        # A micro-batch of what is seen is another tensor than one of the same clean inputs.
        objective_inputs = [
            ObjectiveInputs(batch.x) if term.attack is None else what
            for (_, term), what in zip(rank.terms, objective_inputs, strict=True)
        ]
        forward = Forward(self.classifier, training, self.named)
        weights = self._weights[index]
        scores = score_rank(rank, forward, batch, objective_inputs, self.score, weights)
        if index == 0 and self._penalized:
            scores = scores._replace(total=scores.total + forward.regularization())
        return scores

    def _map_micro_batches(self, part: Part, index: int) -> tuple[Any, Any]:
        result = map_micro_batches(
            part, (self.batch, self.objective_inputs[index]), self.micro_batch_size
        )
        if index == 0 and self._after is None:
            state = self.classifier.non_trainable_variables
            self._after = [tf.identity(v.value) for v in state]
        self._set_state(self._before)
        return result

    def _set_state(self, values: Sequence[tf.Tensor]) -> None:
        state = self.classifier.non_trainable_variables
        for variable, value in zip(state, values, strict=True):
            variable.assign(value)


def _shares(share: Any, scores: ObjectiveLoss) -> ObjectiveLoss:
    """The share of a micro-batch in the losses of the batch, without logits and outputs."""
    losses = [share * loss for loss in scores.losses]
    return ObjectiveLoss(share * scores.total, share * scores.data_loss, losses, [], [])
