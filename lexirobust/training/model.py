"""A Keras model whose losses are ranked."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from lexirobust.checks import check_alphas
from lexirobust.data_forms import check_sizes, only_input
from lexirobust.keras_internals import compiled_loss, leave_loss_out, loss_metric
from lexirobust.loss_checks import check_loss, check_mean
from lexirobust.training.augmentation import Augmentation, augmentation_of
from lexirobust.training.checked_model import CheckedModel
from lexirobust.training.data import DataFormat, input_shape, sized_inputs
from lexirobust.training.first_look import look_at
from lexirobust.training.metrics import ObjectiveMeans, RankedLoss
from lexirobust.training.objectives import Batch, Forward, Objective, Rank
from lexirobust.training.outputs import OutputLosses, Outputs, check_one_loss, count_classes
from lexirobust.training.resumable_model import ResumableModel
from lexirobust.training.settings import (
    TrainingSettings,
    check_activity_penalties,
    check_classifier,
    check_logits,
    check_objectives,
    check_trainable,
    checked_optimizer,
    terms_of,
    tightest_bounds,
)
from lexirobust.training.state.gradient_means import RunningMean
from lexirobust.training.state.saved_variables import SavedState
from lexirobust.training.state.warm_start import (
    RANDOM_STARTS,
    WarmStart,
    next_starts,
    warn_of_random_starts,
)
from lexirobust.training.step.objective_losses import (
    Gradient,
    ObjectiveInputs,
    ObjectiveLoss,
    ObjectiveLosses,
)
from lexirobust.training.step.training_step import TrainingStep
from lexirobust.training.step_means import StepMeans
from lexirobust.training.steps_left import StepsLeft
from lexirobust.training.target_warnings import warn_of_idle_targets, warn_of_missed_targets
from lexirobust.training.targets import Target


@keras.saving.register_keras_serializable(package="lexirobust")
class LexicographicModel(CheckedModel, ResumableModel):
    """Trains a classifier by ranked losses: no step spends a higher rank on a lower one.

    Each step computes one gradient for each rank, projects it against all higher ranks, and applies
    the weighted sum of the projected gradients through the compiled optimizer, once. Inputs,
    labels, callbacks, saving and `predict` are Keras's own.

    The first rank carries the classifier's own regularization losses, unless `Regularization` is
    among the objectives, and its pass alone (in a weighted sum, those of its terms) updates batch
    normalization and other state: the ranks below see the same dropout mask and leave no trace.
    Attacks see the classifier as it is in use (`training=False`), but in training they see batch
    normalization by the batch's statistics.

    Random augmentation runs once a batch, before anything is attacked, and all ranks see the same
    draw: random layers at the classifier's head, and `augmentation`. A warning names random layers
    further on, which would move inputs after these have been perturbed.

    Logs hold `loss@NAME` for each objective, `accuracy@NAME` for each that gives logits, and while
    training `min_cosine`, below 0 where ranks conflict; docs/logs.md lists all. `accuracy@l2=4`
    is under the few steps of the attack that trains: robust accuracy, which `evaluate_robustness`
    measures, is lower. Keras cannot guess `mode="max"` for accuracies: `EarlyStopping` needs it.

    Args:
        classifier: Keras model that maps inputs to logits `[N, classes]`, or to several outputs
            that are ranked by `Output` objectives. It shares its weights with this model and can
            be used by itself.
        objectives: The ranked losses, the most important first.
        alphas: One weight a rank, at least 0, summing to 1. `None`: half for rank 1, the rest
            shared.
        margin: Lower bound of the projection's multipliers, GEM's memory strength. Above 0, a
            lower rank is pulled toward the higher ones even where they agree.
        metric: `"optimizer"`: ranks are compared by what the optimizer makes of their gradients,
            and a step that would still raise rank 1's loss to first order (momentum, weight decay
            and clipping can) is corrected. `"euclidean"`: gradients are ranked as they are, as in
            the paper, whatever the optimizer makes of the result.
        update: `"onestep"`: one update for all ranks. `"per_rank"`: one update a rank in turn,
            each at the weights the last one left; T times the cost and more.
        micro_batch_size: Most samples in memory at a time. Each rank's gradient is the batch's own
            all the same: it is added up before the projection. `None`: the batch as it is.
        keep_gradients: Whether all ranks' gradients are kept side by side. If not, no more than
            three are in memory at a time, at the cost of about T / 2 times as many passes.
        safeguard: Whether each step is checked by one more forward pass of rank 1: where its loss
            on the batch has risen all the same, as it can to second order, the step is shortened,
            and not taken where a second pass shows that this is not enough. On several replicas
            the second pass is made in any case.
        detailed_logs: Whether the logs hold all that is known about a step.
        warm_start: How attacks in training begin where they left each sample the last time, a
            `WarmStart`; `None`: they begin afresh.
        memory: What ranks are compared by, a `RunningMean` of their gradients; `None`: by their
            gradients on the batch, which say little of the data set where batches are small.
        augmentation: A Keras layer that every training batch runs through before it is attacked,
            such as `keras.layers.RandomFlip()`, or a `Sequential` of several; not a part of the
            classifier. `None`: none but the classifier's own.
        targets: For each rank, the first one first, how good is good enough: a `Target`, a number
            for a loss, or `None`, as for ranks that are left out, which are never spent.
        **kwargs: As of `keras.Model`: `name`, `dtype`, and `trainable`, which is the classifier's.

    Raises:
        ValueError: If the ranks, their names, or `alphas` do not fit, or the classifier's output
            is not `[N, classes]`.

    Example:

    >>> import keras, lexirobust as lr
    >>> x, y = lr.datasets.toy(20, seed=0)
    >>> classifier = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    >>> attack = lr.attacks.PGD(norm="l2", steps=1, restarts=2, bounds=None)
    >>> model = lr.LexicographicModel(
    ...     classifier, [lr.objectives.Natural(), lr.objectives.Adversarial(attack, 0.5)]
    ... )
    >>> model.compile(optimizer="sgd")
    >>> history = model.fit(x, y, batch_size=20, epochs=1, verbose=0).history
    >>> sorted(name for name in history if "natural" in name)
    ['accuracy@natural', 'loss@natural', 'step_cosine@natural']

    Reference:
        Section 4 of "Finding a human-like classifier".
    """

    def __init__(
        self,
        classifier: keras.Model,
        objectives: Sequence[Rank],
        alphas: Sequence[float] | None = None,
        margin: float = 0.0,
        metric: str = "optimizer",
        update: str = "onestep",
        micro_batch_size: int | None = None,
        keep_gradients: bool = True,
        safeguard: bool = False,
        detailed_logs: bool = False,
        warm_start: WarmStart | None = None,
        memory: RunningMean | None = None,
        augmentation: keras.Layer | None = None,
        targets: Sequence[Target | float | None] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_classifier(classifier)
        check_objectives(objectives)
        check_logits(classifier, objectives)
        self.classifier = classifier
        if not self.trainable:
            classifier.trainable = False  # As Keras does where it is set after construction.
        self.objectives = tuple(objectives)
        self.alphas = tuple(check_alphas(alphas, len(self.objectives)))
        self.settings = TrainingSettings(
            margin=margin,
            metric=metric,
            update=update,
            micro_batch_size=micro_batch_size,
            keep_gradients=keep_gradients,
            safeguard=safeguard,
            detailed_logs=detailed_logs,
            warm_start=warm_start,
            memory=memory,
            augmentation=augmentation,
            targets=targets,
        )
        self.settings.check_ranks(self.objectives)
        self.augmentation = augmentation  # Keras saves layers that are attributes.
        self.seed_generator = keras.random.SeedGenerator()
        # Of its own, so that measuring changes nothing in training; no other draws depend on it.
        self._test_seeds = keras.random.SeedGenerator(0)
        self._outputs: Outputs | None = None
        self._classes: int | None = None
        self._shape: tuple[int | None, ...] = ()
        self._augmentation = Augmentation([], classifier, [])
        self._starts, self._memory, self._targets = self.settings.make_state(
            self.objectives,
            attacks=lambda: self.attacks_per_sample,
            trained=lambda: self.classifier.trainable_variables,
        )
        self._objective_means = ObjectiveMeans(self._terms)
        names = [rank.name for rank in self.objectives]
        self._ranked_loss = RankedLoss(names, self.alphas)
        self._step_means = StepMeans(
            names,
            kept=keep_gradients,
            full=detailed_logs,
            averaged=memory is not None,
            targets=[] if self._targets is None else self._targets.targets,
            further=[] if warm_start is None else [RANDOM_STARTS],
        )

    @property
    def _terms(self) -> list[Objective]:
        return terms_of(self.objectives)

    @property
    def attacks_per_sample(self) -> int:
        """The number of perturbations that a training step makes of each sample."""
        return sum(term.attack is not None for term in self._terms)

    @property
    def training_metrics(self) -> list[keras.Metric]:
        """Metrics that only a training step can update."""
        return [self._step_means]

    @property
    def metrics(self) -> list[keras.Metric]:
        """All metrics; `loss` is a `RankedLoss` in place of Keras's own."""
        others = [metric for metric in super().metrics if metric is not self._ranked_loss]
        return [self._ranked_loss if m is loss_metric(self) else m for m in others]

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The tightest bounds of all attacks, or `None`."""
        return tightest_bounds(self._terms)

    @property
    def has_logits(self) -> bool:
        """Tells if the classifier has one output, its logits."""
        return self._outputs is None

    @property
    def validation_names(self) -> list[str]:
        """The log names of each objective on validation data; empty if `fit` has none."""
        return [f"val_{name}" for name in self._objective_means.names] if self._validates else []

    @property
    def mean_gradients(self) -> list[Gradient]:
        """The mean gradients that `memory` holds, by rank; empty without one."""
        return [] if self._memory is None else self._memory.means

    def build(self, input_shape: Any) -> None:
        """Builds the classifier, and checks that its output is what the objectives need.

        Args:
            input_shape: `[N, ...]` of inputs, `None` where a size is not known.

        Raises:
            ValueError: If an output is not `[N, C]` logits where an objective needs them,
                `augmentation` does not suit the inputs, or, once compiled, they have no room for a
                magnitude inside the bounds.
        """
        self._shape = shape = tuple(input_shape)
        outputs = self.classifier(keras.KerasTensor(shape))
        listed = isinstance(outputs, list | tuple) and len(outputs) == 1
        if listed and getattr(self.classifier, "outputs", None):
            outputs = outputs[0]  # What a functional model gives when it is called on numbers.
        self._outputs = Outputs.of(self.classifier, outputs)
        if self._outputs:
            self._outputs.check(self._terms)
        else:
            self._classes = count_classes(outputs, self._terms)
        self._augmentation = augmentation_of(
            self.classifier, self.augmentation, shape, self.bounds, self.attacks_per_sample > 0
        )
        self._augmentation.warn_of_moved_inputs()
        if self.compiled:
            self._build_on_compiled()

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: None = None,
        metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        """Configures training; as `keras.Model.compile`, with losses of logits.

        Args:
            optimizer: Keras optimizer or its name.
            loss: Keras loss on logits. `None` is sparse categorical cross entropy on logits. For
                several outputs: a dict or a list of any losses, as for any Keras model.
            loss_weights: `None`: ranks are weighed by `alphas`.
            metrics: Metrics of the logits, or of the several outputs, on clean inputs.
            **kwargs: As of `keras.Model.compile`.

        Raises:
            ValueError: If there is no optimizer, `loss_weights` are given, the loss expects
                probabilities, is no mean over samples where micro-batches need one, a ranked output
                has none, or the optimizer accumulates gradients over steps: they would be
                accumulated after the projection, which is not linear.
        """
        optimizer = checked_optimizer(optimizer, loss_weights)
        if self.settings.micro_batch_size is not None:
            check_mean(loss, "where `micro_batch_size` is set")
        super().compile(optimizer=optimizer, loss=check_loss(loss), metrics=metrics, **kwargs)
        self._data_gradients = None
        if self.built:
            self._build_on_compiled()
        elif isinstance(getattr(self.classifier, "input_shape", None), tuple):
            self.build(self.classifier.input_shape)

    def _build_on_compiled(self) -> None:
        """Makes what needs both the classifier's shape and what was compiled."""
        look_at(self.classifier, self._terms, self._shape, self.bounds)
        self._augmentation.warn_of_clipped_inputs(self._shape, self.bounds)
        if self.settings.micro_batch_size is not None:
            check_activity_penalties(self.classifier)
        score: Any = compiled_loss(self)
        if self._outputs is not None:
            score = OutputLosses(self._outputs.losses(self.loss, self._terms))
            # Keras would score all outputs at once, with metrics of its own for each.
            leave_loss_out(self)
        else:
            check_one_loss(self.loss, self.classifier)
            if self._targets is not None and self._classes is not None:
                warn_of_idle_targets(self._targets, self.loss, self._classes)
        if self._memory is not None:
            self._memory.build()
        self._training_step = TrainingStep(
            self.classifier,
            self._augmentation.trained,
            self.objectives,
            self.alphas,
            self.settings,
            self.optimizer,
            score,
            self._memory,
            self._targets,
            self._data_format.named,
        )
        # The classifier's variables only: a subclass may hold others, with their own optimizer.
        if not self.optimizer.built:
            self.optimizer.build(self.classifier.trainable_variables)

    def check_data(
        self, x: Any, y: Any = None, sample_weight: Any = None, learns: bool = False
    ) -> Any:
        """Checks data, and builds the model on them; see `CheckedModel.check_data`."""
        if isinstance(x, keras.utils.PyDataset):
            self.check_data(*keras.utils.unpack_x_y_sample_weight(x[0]))
            return x
        # Attacks are compiled for one size, and perturbations kept of one.
        one_size = self.attacks_per_sample > 0 and (
            self._starts is not None or not self.run_eagerly
        )
        x = sized_inputs(x, self.built, one_size)
        shape = input_shape(x)
        if shape is not None:
            self._build_on(shape)
        samples = self.settings.warm_start.samples if self.settings.warm_start else None
        x = self._data_format.check(x, y, sample_weight, samples if learns else None)
        return self._starts.indexed(x) if self._starts is not None and learns else x

    @property
    def _data_format(self) -> DataFormat:
        return DataFormat(self._outputs, self._classes, self.bounds, self.loss)

    def _unpacked(self, data: Any) -> Batch:
        """The batch of a step."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if y is None:
            raise ValueError("`y` must hold one label a sample. Received: None.")
        shape = only_input(x).shape
        if self.attacks_per_sample:
            check_sizes(shape)
        self._build_on(shape)
        return self._data_format.batch(x, y, sample_weight)

    def train_step(self, data: Any) -> dict[str, Any]:
        """Takes one ranked step on a batch.

        Args:
            data: Inputs, labels and maybe sample weights, as `fit` hands them on.

        Returns:
            The metrics by name, scalars.
        """
        given = self._unpacked(data)
        check_trainable(self.classifier)
        seed = self.seed_generator.next()
        starts, shares = ([], []) if self._starts is None else self._starts.read(given)
        batch, starts, undo = self._augmentation.of_batch(given, starts, self.bounds)
        with self._training_step.as_trained(batch, starts or None):
            inputs, others = self._perturb_in_training(batch, seed, starts or None)
        losses = self._training_step.losses(batch, inputs, training=True)
        result, scores = self._training_step.update(losses)
        losses.commit_state()
        if self._starts is not None:
            ends = [*next_starts(losses, self.classifier), *others]
            self._starts.write(given, [undo(end) for end in ends])
        self._step_means.update(result, shares, batch.x)
        return self._updated_metrics(losses, scores)

    def _perturb_in_training(
        self, batch: Batch, seed: tf.Tensor, starts: list[tf.Tensor] | None
    ) -> tuple[list[list[ObjectiveInputs]], list[tf.Tensor]]:
        """The inputs of every objective, and the perturbations that other attacks have found."""
        return self._training_step.perturb(batch, seed, starts), []

    def test_step(self, data: Any) -> dict[str, Any]:
        """Measures every objective on a batch, perturbed as in training, without learning.

        Args:
            data: As of `train_step`.

        Returns:
            The metrics by name, scalars.
        """
        batch = self._unpacked(data)
        inputs = self._training_step.perturb(batch, self._test_seeds.next())
        losses = self._training_step.losses(batch, inputs, training=False)
        scores = [losses.scores(rank, training=False) for rank in range(len(self.objectives))]
        with self._only_evaluating():
            return self._updated_metrics(losses, scores)

    def _updated_metrics(
        self, losses: ObjectiveLosses, scores: Sequence[ObjectiveLoss]
    ) -> dict[str, Any]:
        """Updates all metrics, and returns their values."""
        batch = losses.batch
        self._objective_means.update(losses, scores)
        self._ranked_loss.update(losses, scores)
        clean = [outputs for score in scores for outputs in score.clean]
        if not clean:
            named = self._data_format.named
            clean = [Forward(self.classifier, training=False, named=named)(batch.x)]
        measured = (batch.y, clean[0], batch.sample_weight)
        if self._outputs is not None:
            measured = self._outputs.for_metrics(*measured)
        results = self.compute_metrics(batch.x, *measured)
        return self._of_worker(results)

    def batch_gradients(self, data: Any) -> list[tuple[Gradient, tf.Tensor]]:
        """Differentiates every rank's loss on a batch; see `CheckedModel.batch_gradients`."""
        return self._training_step.gradients(self._unpacked(data))

    @property
    def targets(self) -> dict[str, Target]:
        """The targets by the names of their ranks."""
        return {} if self._targets is None else self._targets.by_name

    def hold_targets_to(self, results: dict[str, float]) -> dict[str, float]:
        """Has targets hold on other data than those trained on; see `callbacks.HeldOutTargets`.

        Args:
            results: What `evaluate` gave on them, by name.

        Returns:
            The loss or the accuracy of each rank with a target, by its name.
        """
        return {} if self._targets is None else self._targets.hold_to(results)

    def begin_fit(
        self, arguments: Mapping[str, Any], callbacks: Sequence[keras.callbacks.Callback]
    ) -> list[keras.callbacks.Callback]:
        """Tells targets what data they are to hold on, and how long the training is."""
        own = super().begin_fit(arguments, callbacks)
        if self._targets is None:
            return own
        if not any(getattr(each, "moves_targets", False) for each in callbacks):
            self._targets.hold_to_training()
        return [*own, StepsLeft(self._targets.progress)]

    def check_history(self, history: dict[str, list[float]]) -> None:
        """Warns of targets that were missed, and of a `warm_start` with nothing to start from."""
        warn_of_random_starts(history, self.settings.warm_start)
        if self._targets is not None:
            warn_of_missed_targets(history, self._targets)

    @property
    def saved_state(self) -> dict[str, SavedState | None]:
        """What Keras does not save by itself, by the prefix of its names in the file."""
        own = {"start": self._starts, "memory": self._memory, "target": self._targets}
        return {**super().saved_state, **own}
