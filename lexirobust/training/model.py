"""A Keras model whose losses are ranked."""

import contextlib
import dataclasses
import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf

from lexirobust import gem, serving
from lexirobust.attacks.graph_cache import Snapshot
from lexirobust.attacks.losses import most_likely
from lexirobust.checks import check_alphas, check_count, check_loss, check_mean
from lexirobust.data_checks import (
    Weighed,
    check_data,
    check_dataset,
    check_outputs,
    check_sample_weight,
    flat_labels,
    flat_sample_weight,
    one_weighed,
)
from lexirobust.data_forms import (
    check_labels_fit,
    check_one_input,
    check_sizes,
    only_input,
    sized,
    unindexed,
)
from lexirobust.tensors import classes_of
from lexirobust.training.augmentation import Augmentation, find_augmentation
from lexirobust.training.gradient_means import (
    MEMORY,
    GradientMeans,
    RunningMean,
    averages_taken,
    check_memory,
)
from lexirobust.training.gradients import (
    MeanGradients,
    RankedGradients,
    RecomputedGradients,
    StoredGradients,
)
from lexirobust.training.input_gradient import follows_gradients, gradient_problem
from lexirobust.training.metrics import NamedMeans
from lexirobust.training.micro_batches import map_micro_batches
from lexirobust.training.objective_losses import (
    Gradient,
    ObjectiveInputs,
    ObjectiveLoss,
    ObjectiveLosses,
    average_over,
    weigh_samples,
)
from lexirobust.training.objectives import Batch, Forward, Objective, Output, Rank, perturb
from lexirobust.training.objectives.base import Score
from lexirobust.training.outputs import OutputLosses, Outputs
from lexirobust.training.saved_variables import pop_variables
from lexirobust.training.step_logs import StepLogs
from lexirobust.training.update import StepResult, apply_update
from lexirobust.training.warm_start import (
    RANDOM_STARTS,
    START,
    PerturbationBuffer,
    WarmStart,
    check_warm_start,
    free_steps,
)

METRICS: Final = ("optimizer", "euclidean")
UPDATES: Final = ("onestep", "per_rank")
OPTIONS: Final = (
    "margin",
    "metric",
    "update",
    "micro_batch_size",
    "keep_gradients",
    "safeguard",
    "detailed_logs",
    "warm_start",
    "memory",
    "augmentation",
)
"""The constructor's arguments that all methods share."""


@keras.saving.register_keras_serializable(package="lexirobust")
class LexicographicModel(keras.Model):
    """Trains a classifier by ranked losses: no step spends a higher rank on a lower one.

    Each step computes one gradient for each rank, projects it against all higher ranks, and applies
    the weighted sum of the projected gradients through the compiled optimizer, once. Inputs,
    labels, callbacks, saving and `predict` are Keras's own.

    The first rank carries the classifier's own regularization losses, unless `Regularization` is
    among the objectives, and its pass alone (in a weighted sum, those of its terms) updates batch
    normalization and other state: the ranks below see the same dropout mask and leave no trace.
    Attacks see the classifier as it is in use (`training=False`).

    Random augmentation runs once a batch, before anything is attacked, and all ranks see the same
    draw. Random layers at the classifier's head (`RandomFlip`, `RandomTranslation` and so on, alone
    or in a model, after `Rescaling`, `Normalization` or `Reshape`) are found and run so. Those
    further on move inputs after these have been perturbed: a warning names them. What leaves the
    attacks' bounds is clipped to them. Dropout and noise layers stay where they are.

    The logs of `fit` and `evaluate` hold `loss` (the ranks' losses weighted by `alphas`, with the
    classifier's regularization losses, as of any Keras model), the compiled metrics on clean
    inputs, `loss@NAME` for each objective and `accuracy@NAME` for each that gives logits, such as
    `accuracy@l2=4`, and while training `min_cosine`, the smallest cosine
    between two ranks' gradients in the metric they are ranked in: below 0 they conflict; and
    `step_cosine@NAME`, the cosine between the step that reached the weights and the descent
    direction of each rank. With `detailed_logs=True` also, for each pair of ranks,
    `cosine@HIGHER,LOWER`, `multiplier@...` and `active@...`, for each rank `norm@NAME`, and how
    exact the projection was, `violation` and `kkt_residual`. With a `memory` all of these are of
    the mean gradients, by which ranks are compared then, except for `step_cosine@NAME`, beside
    which `memory_step_cosine@NAME` is that of the mean. With `detailed_logs=True` also
    `batch_cosine@HIGHER,LOWER`, on the batch, which is Euclidean as those of steps are. Names
    write a magnitude's decimal point as `_`. Keras cannot guess which of them are better when
    larger: give `EarlyStopping` and `ModelCheckpoint` `mode="max"` for accuracies.

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
        **kwargs: As of `keras.Model`: `name`, `trainable`, `dtype`.

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
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(classifier, keras.Layer):
            raise TypeError(f"`classifier` must be a Keras model. Received: {classifier!r}.")
        check_one_input(classifier)
        if not objectives or not all(isinstance(rank, Rank) for rank in objectives):
            raise ValueError(
                "`objectives` must be a non-empty list of lexirobust objectives. Received: "
                f"{objectives!r}."
            )
        if not 0 <= margin < float("inf"):
            raise ValueError(f"`margin` must be finite and at least 0. Received: {margin}.")
        for name, value, known in (("metric", metric, METRICS), ("update", update, UPDATES)):
            if value not in known:
                raise ValueError(f"`{name}` must be one of {known}. Received: {value!r}.")
        if safeguard and metric != "optimizer":
            raise ValueError(f"`safeguard` needs metric='optimizer'. Received: {metric!r}.")
        check_count("micro_batch_size", micro_batch_size, optional=True)
        self.classifier = classifier
        self.objectives = tuple(objectives)
        self.alphas = tuple(check_alphas(alphas, len(self.objectives)))
        self.margin = float(margin)
        self.metric = metric
        self.update = update
        self.micro_batch_size = None if micro_batch_size is None else int(micro_batch_size)
        self.keep_gradients = bool(keep_gradients)
        self.safeguard = bool(safeguard)
        self.detailed_logs = bool(detailed_logs)
        self.warm_start = warm_start
        self.memory = memory
        if not (augmentation is None or isinstance(augmentation, keras.Layer)):
            raise TypeError(
                f"`augmentation` must be a Keras layer or None. Received: {augmentation!r}."
            )
        self.augmentation = augmentation
        self._augmentation = Augmentation([], classifier, [])
        self._starts: PerturbationBuffer | None = None
        if warm_start is not None:
            check_warm_start(warm_start, self._terms)
            attacked = sum(term.attack is not None for term in self._terms)
            self._starts = PerturbationBuffer(warm_start, attacked, lambda: self.auxiliary_attacks)
        self._memory: GradientMeans | None = None
        if memory is not None:
            check_memory(memory, len(objectives), update, keep_gradients, safeguard)
            self._memory = GradientMeans(memory, len(objectives))
        names = [term.name for term in self._terms]
        if len(set(names)) != len(names):
            raise ValueError(f"`objectives` must have different names. Received: {names}.")
        self.seed_generator = keras.random.SeedGenerator()
        scored = [term.name for term in self._terms if term.gives_logits]
        self._term_means = NamedMeans(
            [*(f"loss@{name}" for name in names), *(f"accuracy@{name}" for name in scored)]
        )
        self._outputs: Outputs | None = None
        # What only a training step can tell stays out of `evaluate`.
        self._step_logs = StepLogs(
            [rank.name for rank in self.objectives],
            kept=self.keep_gradients,
            full=self.detailed_logs,
            averaged=memory is not None,
        )
        started = [] if warm_start is None else [RANDOM_STARTS]
        self._training_means = NamedMeans([*self._step_logs.names, *self.auxiliary_names, *started])
        self._evaluating = False
        self._validates = False
        self._differentiated: Any = None
        self._traced_from = Snapshot()

    @property
    def _terms(self) -> list[Objective]:
        return [term for rank in self.objectives for _, term in rank.terms]

    @property
    def _attacks(self) -> bool:
        """Tells if any inputs are perturbed."""
        return any(term.attack is not None for term in self._terms)

    @property
    def auxiliary_names(self) -> tuple[str, ...]:
        """The log names of the scalars that `learn_auxiliaries` returns."""
        return ()

    @property
    def auxiliary_attacks(self) -> int:
        """The number of perturbations of each sample that `learn_auxiliaries` makes."""
        return 0

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The tightest bounds of all attacks, or `None`."""
        attacks = [term.attack for term in self._terms if term.attack is not None]
        known = [attack.bounds for attack in attacks if attack.bounds is not None]
        if not known:
            return None
        return max(low for low, _ in known), min(high for _, high in known)

    @property
    def output_names(self) -> list[str] | None:
        """The classifier's, by which Keras tells losses and metrics of several outputs apart."""
        return getattr(self.classifier, "output_names", None)

    def build(self, input_shape: Any) -> None:
        """Builds the classifier, and checks that its output is what the objectives need."""
        outputs = self.classifier(keras.KerasTensor(tuple(input_shape)))
        listed = isinstance(outputs, list | tuple) and len(outputs) == 1
        if listed and getattr(self.classifier, "outputs", None):
            outputs = outputs[0]  # What a functional model gives when it is called on numbers.
        self._outputs = Outputs.of(self.classifier, outputs)
        self._classes = None if self._outputs else self._checked_classes(outputs)
        if self._outputs:
            self._outputs.check(self._terms)
        self._augmentation = self._found_augmentation(tuple(input_shape))
        self._check_augmentation()
        if any(follows_gradients(term.attack) for term in self._terms):
            problem = gradient_problem(self.classifier, tuple(input_shape), self.bounds)
            if problem is not None:
                warnings.warn(problem, UserWarning, stacklevel=3)
        if self.compiled:
            self._build_on_compiled()

    def _found_augmentation(self, shape: tuple[int | None, ...]) -> Augmentation:
        """The augmentation of training batches, and the classifier without it."""
        found = Augmentation([], self.classifier, [])
        if self._attacks:
            found = find_augmentation(self.classifier)
        if self.augmentation is None:
            return found
        given = self.augmentation(keras.KerasTensor(shape)).shape
        if tuple(given[1:]) != shape[1:]:
            raise ValueError(
                "`augmentation` must give inputs of the shape that it is given. Received: shape "
                f"{given} for {shape}."
            )
        return dataclasses.replace(found, layers=[self.augmentation, *found.layers])

    @property
    def _named(self) -> Callable[..., dict[str, Any]] | None:
        """Names several outputs, or what belongs to them."""
        return None if self._outputs is None else self._outputs.named

    @property
    def _weighed(self) -> Callable[[Any], list[Weighed]]:
        """Tells whose weights are whose."""
        return one_weighed if self._outputs is None else self._outputs.weighed

    def _checked_classes(self, outputs: Any) -> int:
        """The number of classes of the one output."""
        ranked = [term.output for term in self._terms if isinstance(term, Output)]
        if ranked:
            raise ValueError(
                "`output` names one of several outputs, but the classifier has one. Received: "
                f"{ranked[0]!r}."
            )
        shape = getattr(outputs, "shape", None)
        if shape is None or len(shape) != 2 or shape[-1] is None or shape[-1] < 2:
            raise ValueError(
                "`classifier` must map inputs to logits of shape [N, classes], at least two "
                f"classes. Received: output {outputs!r}."
            )
        return int(shape[-1])

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> Any:
        """Returns the classifier's logits, `[N, classes]`, or its several outputs."""
        return self.classifier(only_input(inputs), training=training)

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        """Configures training; as `keras.Model.compile`, with two differences.

        Args:
            optimizer: Keras optimizer or its name.
            loss: Keras loss on logits. `None` is sparse categorical cross entropy on logits. For
                several outputs: a dict or a list of any losses, as for any Keras model.
            metrics: Metrics of the logits, or of the several outputs, on clean inputs.
            **kwargs: As of `keras.Model.compile`.

        Raises:
            ValueError: If there is no optimizer, the loss expects probabilities, is no mean over
                samples where micro-batches need one, a ranked output has none, or the optimizer
                accumulates gradients over steps: they would be accumulated after the projection,
                which is not linear.
        """
        optimizer = keras.optimizers.get(optimizer)
        if optimizer is None:
            raise ValueError("`optimizer` must be a Keras optimizer or its name. Received: None.")
        innermost = getattr(optimizer, "inner_optimizer", optimizer)
        accumulation = getattr(innermost, "gradient_accumulation_steps", None)
        if accumulation:
            raise ValueError(
                "`gradient_accumulation_steps` must be None: the optimizer would average gradients "
                f"that are projected already. Use a larger batch. Received: {accumulation}."
            )
        if isinstance(kwargs.get("loss_weights"), dict | list | tuple):
            raise ValueError(
                "`loss_weights` must be None: ranks are weighed by `alphas`. Received: "
                f"{kwargs['loss_weights']}."
            )
        if self.micro_batch_size is not None:
            check_mean(loss)
        super().compile(optimizer=optimizer, loss=check_loss(loss), metrics=metrics, **kwargs)
        self._differentiated = None
        if self.built:
            self._build_on_compiled()
        elif isinstance(getattr(self.classifier, "input_shape", None), tuple):
            self.build(self.classifier.input_shape)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles the model as it was when it was saved."""
        self.compile(**keras.saving.deserialize_keras_object(config))

    def _build_on_compiled(self) -> None:
        """Makes what needs both the classifier's shape and what was compiled."""
        if self._outputs:
            losses = self._outputs.losses(self.loss, self._terms)
            self._score: Score = OutputLosses(losses)
            # Keras would score all outputs at once, with metrics of its own for each.
            self._compile_loss: Any = None
        elif isinstance(self.loss, dict | list | tuple):
            raise ValueError(
                f"`loss` must be one loss for a classifier with one output. Received: {self.loss}."
            )
        else:
            self._score = self._compile_loss
        if self._memory is not None:
            self._memory.build(self.classifier.trainable_variables)
        # The classifier's variables only: a subclass may hold others, with their own optimizer.
        if not self.optimizer.built:
            self.optimizer.build(self.classifier.trainable_variables)

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains the classifier; as `keras.Model.fit`, after checking the data.

        Arrays and tensors are checked whole before the first step. Of a `tf.data.Dataset` the
        first batch is checked before the first step, every other before the step that would see
        it; what it does not know of their shapes is as in the first batch. What other iterables
        yield is not checked.

        Args:
            x: Inputs inside the attacks' bounds, by themselves or as the one value of a dict, or a
                dataset of `(inputs, labels)` batches; with a `warm_start` also what
                `datasets.with_index` made of either. The classifier is given the inputs alone.
            y: `[N]` integer labels, or `[N, classes]` probabilities; for several outputs a dict or
                a list of labels, as for any Keras model.
            *args: As of `keras.Model.fit`.
            **kwargs: As of `keras.Model.fit`. A `sample_weight` is `[N]` or `[N, 1]`; for several
                outputs also a dict or a list, and `[N, ...]` where an output has more axes.

        Returns:
            A `History` object.

        Raises:
            ValueError: If there is no data, or it is not finite, outside the bounds, or labeled
                with classes that do not exist or in another form than the loss compares, or its
                indices are not those of its samples, or weights are not one a sample, or nothing
                is trainable.
            TypeError: If labels are neither integers nor probabilities, or data are sparse or
                ragged.
        """
        self._assert_compile_called("fit")
        call = inspect.signature(super().fit).bind(x, y, *args, **kwargs)
        x = self._checked(x, y, call.arguments.get("sample_weight"), learns=True)
        call.arguments["x"] = x if self._starts is None else self._starts.indexed(x)
        validation = call.arguments.get("validation_data")
        if isinstance(validation, tf.data.Dataset):
            call.arguments["validation_data"] = self._checked(validation)
        elif isinstance(validation, tuple | list):
            self._checked(*keras.utils.unpack_x_y_sample_weight(validation))
        self._validates = validation is not None or bool(call.arguments.get("validation_split"))
        history = super().fit(*call.args, **call.kwargs)
        shares = history.history.get(RANDOM_STARTS, [])
        reset = self.warm_start is not None and self.warm_start.reset_every == 1
        if len(shares) > 1 and min(shares) > 0.5 and not reset:
            warnings.warn(
                f"In every epoch attacks began at random for {min(shares):.0%} of the samples or "
                "more in spite of `warm_start`: inputs, or indices, were others than on the visit "
                "before. Attacks get no more than their own steps then; give them more, and leave "
                "`warm_start` out.",
                UserWarning,
                stacklevel=2,
            )
        return history

    def _check_augmentation(self) -> None:
        """Says what augmentation leaves of attacks, before anything is learned."""
        if self._augmentation.left:
            warnings.warn(
                f"Random layers {', '.join(map(repr, self._augmentation.left))} cannot be taken "
                "out of the classifier. They move inputs after these have been perturbed, so that "
                "perturbations no longer fit: accuracies under attack come out too high, and "
                "training by them gives little robustness. Put them at the head of the "
                "classifier, before all but Rescaling, Normalization and Reshape, or pass them as "
                "`augmentation`.",
                UserWarning,
                stacklevel=4,
            )

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Builds metrics by a replica's batch, where Keras would average those of all replicas.

        Labels have no average, and other workers' replicas cannot be seen from here: with
        `MultiWorkerMirroredStrategy` Keras 3.15 stops (issue 20585 of Keras).
        """
        if self._distribute_strategy is not None and iterator is not None:
            _, _, batches = next(iter(iterator))
            data_batch = tf.nest.map_structure(
                lambda values: self._distribute_strategy.experimental_local_results(values)[0],
                next(batches),
            )
        super()._maybe_symbolic_build(data_batch=data_batch)

    def _checked(
        self, x: Any, y: Any = None, sample_weight: Any = None, learns: bool = False
    ) -> Any:
        """Checks data and builds the model on it; returns `x`, a dataset with its checks added.

        Indices are looked at where the model learns from the data.
        """
        inputs = only_input(x)
        if inputs is None:
            raise ValueError("`x` must be inputs or a dataset of (inputs, labels). Received: None.")
        if isinstance(x, tf.data.Dataset):
            x = sized(x, self._needs_one_size(_input_shape(x)))
            self._build_on(_input_shape(x))
            known = learns and self.warm_start is not None
            samples = self.warm_start.samples if known else None  # type: ignore[union-attr]
            weighed = self._weighed
            x = check_dataset(x, self.bounds, self._classes, self._named, samples, weighed)
            if self._outputs is None:
                check_labels_fit(self.loss, x.element_spec[1].shape)
            return x
        if hasattr(inputs, "shape"):
            self._build_on(inputs.shape)
            if self._outputs is None:
                check_data(inputs, y, self.bounds, self._classes)
                check_labels_fit(self.loss, np.shape(y))
            else:
                check_outputs(inputs, self._outputs.named(y, "y"))
            for weights in self._weighed(sample_weight):
                check_sample_weight(weights.values, len(inputs), weights.inner, weights.argument)
        return x

    def _needs_one_size(self, shape: tf.TensorShape) -> bool:
        """Tells if all inputs must be of one size, given what a dataset knows of their shape."""
        if not self.built and (shape.rank is None or shape[-1] is None):
            return True
        return self._attacks and (not self.run_eagerly or self.warm_start is not None)

    def _build_on(self, shape: Any) -> None:
        if not self.built:
            # Also out of a step, where Keras would build what it calls: the classifier alone. Tapes
            # stand still in there.
            eager = tf.executing_eagerly()
            out = contextlib.nullcontext() if eager else tf.init_scope()
            with out, self.distribute_strategy.scope():
                self.build((None, *shape[1:]))

    def train_step(self, data: Any) -> dict[str, Any]:
        """Takes one ranked step on a batch, and returns the metrics."""
        given = self._batch(data)
        if not self.classifier.trainable_variables:
            raise ValueError(
                "`classifier` must have trainable weights. Received: none; set `trainable = True` "
                "for it, or for some of its layers, and compile again."
            )
        seed = self.seed_generator.next()
        starts: list[tf.Tensor] = []
        started: list[tf.Tensor] = []
        if self._starts is not None:
            starts, share = self._starts.read(given)
            started = [share]
        batch, starts, back = self._augmented(given, starts)
        initial, auxiliary = None, None
        if self._starts is not None:
            initial, auxiliary = self._starts.split(starts)
        learned, auxiliary = self.learn_auxiliaries(batch, seed, auxiliary)
        scale = self.optimizer.scale_loss(1.0)
        objective_inputs = self._perturbed(batch, seed, initial)
        objective_losses = self._objective_losses(batch, objective_inputs, scale, training=True)
        result, scores = self._update(objective_losses)
        objective_losses.commit_state()
        if self._starts is not None:
            ends = [*self._next_starts(batch, objective_losses), *auxiliary]
            self._starts.write(given, [*map(back, ends)])
        values = [*self._step_logs.values(result), *learned, *started]
        if values:
            self._training_means.update_state(values, [tf.shape(batch.x)[0]] * len(values))
        return self._measured(batch, objective_inputs, scores)

    def _update(self, objective_losses: ObjectiveLosses) -> tuple[StepResult, list[ObjectiveLoss]]:
        """One step for all ranks, or one a rank; what the last did, and every rank's scores."""
        make = StoredGradients if self.keep_gradients else RecomputedGradients
        ranks = len(self.objectives)

        def take(gradients: RankedGradients, alphas: Sequence[float], share: float) -> StepResult:
            return apply_update(
                self.optimizer,
                self.classifier.trainable_variables,
                gradients,
                alphas,
                share,
                self.margin,
                # Where nothing is ranked, the optimizer is left alone.
                in_metric=self.metric == "optimizer" and ranks > 1,
                first_loss=objective_losses.first_loss if self.safeguard else None,
            )

        if self.update == "onestep":
            gradients = make(objective_losses, ranks)
            if self._memory is None:
                return take(gradients, self.alphas, 1.0), gradients.scores
            variables = self.classifier.trainable_variables
            own = gradients.known()
            averaged = MeanGradients(gradients, self._memory.update(own, variables))
            result = take(averaged, self.alphas, 1.0)
            self._memory.commit_state(variables, averages_taken(self.optimizer))
            batch_cosines = gem.cosines(gem.gramian(own)) if self.detailed_logs else None
            return result._replace(batch_cosines=batch_cosines), averaged.scores
        scores = []
        for rank, alpha in enumerate(self.alphas):
            gradients = make(objective_losses, rank + 1)
            result = take(gradients, [0.0] * rank + [1.0], alpha)
            scores.append(gradients.scores[rank])
        return result, scores

    def test_step(self, data: Any) -> dict[str, Any]:
        """Measures every objective on a batch, perturbed as in training, without learning."""
        batch = self._batch(data)
        objective_inputs = self._perturbed(batch, self.seed_generator.next())
        objective_losses = self._objective_losses(batch, objective_inputs)
        scores = [
            objective_losses.scores(rank, training=False) for rank in range(len(self.objectives))
        ]
        with self._only_evaluating():
            return self._measured(batch, objective_inputs, scores)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Measures every objective, perturbed as in training; as `keras.Model.evaluate`.

        Data are checked as by `fit`.

        Args:
            *args: As of `keras.Model.evaluate`: inputs and labels, or a dataset, as of `fit`.
            **kwargs: As of `keras.Model.evaluate`.

        Returns:
            As `keras.Model.evaluate`.

        Raises:
            ValueError: As `fit`.
            TypeError: As `fit`.
        """
        self._assert_compile_called("evaluate")
        call = inspect.signature(super().evaluate).bind(*args, **kwargs)
        # What `fit` measures it has checked before its first epoch.
        if "_use_cached_eval_dataset" not in call.arguments.get("kwargs", {}):
            x, y = call.arguments.get("x"), call.arguments.get("y")
            call.arguments["x"] = self._checked(x, y, call.arguments.get("sample_weight"))
        with self._only_evaluating():
            return super().evaluate(*call.args, **call.kwargs)

    def train_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Takes one step; as `keras.Model.train_on_batch`, after checking the batch as `fit` does.

        Args:
            x: Inputs, as of `fit`.
            y: Labels, as of `fit`.
            *args: As of `keras.Model.train_on_batch`.
            **kwargs: As of `keras.Model.train_on_batch`.

        Returns:
            As `keras.Model.train_on_batch`.

        Raises:
            ValueError: As `fit`.
            TypeError: As `fit`.
        """
        self._assert_compile_called("train_on_batch")
        call = inspect.signature(super().train_on_batch).bind(x, y, *args, **kwargs)
        self._checked(x, y, call.arguments.get("sample_weight"))
        return super().train_on_batch(*call.args, **call.kwargs)

    def test_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Measures one batch; as `keras.Model.test_on_batch`, after checking it as `fit` does.

        Args:
            x: Inputs, as of `fit`.
            y: Labels, as of `fit`.
            *args: As of `keras.Model.test_on_batch`.
            **kwargs: As of `keras.Model.test_on_batch`.

        Returns:
            As `keras.Model.test_on_batch`.

        Raises:
            ValueError: As `fit`.
            TypeError: As `fit`.
        """
        self._assert_compile_called("test_on_batch")
        call = inspect.signature(super().test_on_batch).bind(x, y, *args, **kwargs)
        self._checked(x, y, call.arguments.get("sample_weight"))
        with self._only_evaluating():
            return super().test_on_batch(*call.args, **call.kwargs)

    def gradients(self, x: Any, y: Any, batch_size: int = 500) -> list[Gradient]:
        """Differentiates every rank's loss on a whole data set, at the weights as they are.

        Nothing is learned, and training goes on as it would have. Attacks begin afresh, with the
        same random numbers each time.

        Args:
            x: `[N, ...]` inputs inside the attacks' bounds.
            y: `[N]` integer labels, or `[N, C]` probabilities.
            batch_size: Number of samples in memory at a time.

        Returns:
            For each rank one tensor a trainable variable of the classifier; `None` where the loss
            does not depend on it.

        Raises:
            ValueError: If the model is not compiled, or the data are not as above.
            TypeError: If labels are neither integers nor probabilities.

        Example: how much the ranks are at odds on all data.

        >>> import keras, lexirobust as lr
        >>> x, y = lr.datasets.toy(100, seed=0)
        >>> attack = lr.attacks.PGD(norm="l2", steps=1, restarts=2, bounds=None)
        >>> classifier = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
        >>> model = lr.OLSRC(classifier, attack, [4.0])
        >>> model.compile("adam")
        >>> lr.gem.gramian(model.gradients(x, y)).shape
        TensorShape([2, 2])
        """
        self._assert_compile_called("gradients")
        check_count("batch_size", batch_size)
        self._checked(x, y)
        # What was traced holds for as long as what it was traced from.
        if self._differentiated is None or not self._traced_from.still_holds():
            self._traced_from = Snapshot(self.classifier, self.loss, *self.objectives)
            self._differentiated = tf.function(self._rows, reduce_retracing=True)
        inputs = only_input(x)
        sums: list[Gradient] = []
        for batch in tf.data.Dataset.from_tensor_slices((inputs, y)).batch(batch_size):
            share = len(batch[0]) / len(inputs)
            rows = [
                [None if g is None else share * g for g in row]
                for row in self._differentiated(batch)
            ]
            sums = [*map(_added, sums, rows)] if sums else rows
        return sums

    def _rows(self, data: Any) -> list[Gradient]:
        """Every rank's gradient on a batch."""
        batch = self._batch(data)
        objective_losses = self._objective_losses(
            batch, self._perturbed(batch, tf.zeros([2], tf.int32))
        )
        return [objective_losses.gradient(rank)[0] for rank in range(len(self.objectives))]

    @property
    def validation_names(self) -> list[str]:
        """The log names of each objective on validation data; empty if `fit` has none."""
        return [f"val_{name}" for name in self._term_means.names] if self._validates else []

    @property
    def remembered(self) -> list[Gradient]:
        """The mean gradients that `memory` holds, by rank."""
        return [] if self._memory is None else self._memory.means

    def _batch(self, data: Any) -> Batch:
        """The batch of a step: inputs as Keras's floats, labels without an axis of length 1."""
        given, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if y is None:
            raise ValueError("`y` must hold one label a sample. Received: None.")
        x = only_input(given)
        if self._attacks:
            check_sizes(x.shape)
        index = None
        if unindexed(given) is not given:
            index = tf.cast(given["index"], tf.int64)  # Rows are looked up by few types.
        self._build_on(x.shape)
        x = tf.cast(x, keras.config.floatx())
        samples = tf.shape(x)[0]
        if self._outputs is None:
            if sample_weight is not None:
                sample_weight = flat_sample_weight(sample_weight, samples)
            y = flat_labels(tf.convert_to_tensor(y))
            check_labels_fit(self.loss, y.shape)
            return Batch(x, y, sample_weight, index)
        y = tf.nest.map_structure(tf.convert_to_tensor, self._outputs.named(y, "y"))
        return Batch(x, y, self._outputs.flat_weights(sample_weight, samples))

    def _augmented(
        self, batch: Batch, starts: list[tf.Tensor]
    ) -> tuple[Batch, list[tf.Tensor], Callable[[tf.Tensor], tf.Tensor]]:
        """The batch that all ranks see, inside the attacks' bounds, and where attacks begin.

        Also a way back for where they end.
        """
        if not self._augmentation.layers:
            return batch, starts, tf.identity
        x, starts, back = self._augmentation.along(batch.x, starts)
        if self.bounds is not None:
            x = tf.clip_by_value(x, *self.bounds)
        return batch._replace(x=x), starts, back

    @property
    def metrics(self) -> list[keras.Metric]:
        """All metrics; while evaluating, those that need no training step."""
        return [
            metric
            for metric in super().metrics
            if not (metric is self._training_means and (self._evaluating or not metric.names))
        ]

    @contextlib.contextmanager
    def _only_evaluating(self) -> Iterator[None]:
        before, self._evaluating = self._evaluating, True
        try:
            yield
        finally:
            self._evaluating = before

    def learn_auxiliaries(
        self, batch: Batch, seed: tf.Tensor, initial: Sequence[tf.Tensor] | None
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Trains what the attacks depend on besides the classifier; nothing, here.

        Called in every training step before inputs are perturbed.

        Args:
            batch: The clean batch.
            seed: `[2]` integer tensor.
            initial: `auxiliary_attacks` perturbations to begin with, shaped like the clean inputs;
                `None` without a warm start.

        Returns:
            The scalars to log, one for each of `auxiliary_names`, and the perturbations that the
            next visit of these samples begins with.
        """
        del batch, seed, initial
        return [], []

    def _next_starts(self, batch: Batch, objective_losses: ObjectiveLosses) -> list[tf.Tensor]:
        """The perturbations that the next visit of these samples begins with."""
        objective_inputs = [
            what for inputs_of_rank in objective_losses.objective_inputs for what in inputs_of_rank
        ]
        x_adv = [
            what.inputs
            for term, what in zip(self._terms, objective_inputs, strict=True)
            if term.attack is not None
        ]
        if not objective_losses.by_inputs:
            return [inputs - batch.x for inputs in x_adv]
        ranks = range(len(self.objectives))
        gradients = [g for rank in ranks for g in objective_losses.input_gradients[rank]]
        return free_steps(
            self._terms, self.classifier, batch, x_adv, gradients, self.micro_batch_size
        )

    def _perturbed(
        self, batch: Batch, seed: tf.Tensor, initial: list[tf.Tensor] | None = None
    ) -> list[list[ObjectiveInputs]]:
        """The inputs of every objective, perturbed if it has an attack."""
        steps = initial is None or self.warm_start is None or not self.warm_start.free

        def part(tensors: Any, number: tf.Tensor, share: Any) -> tuple[Any, Any]:
            del share
            batch, initial = tensors
            own = tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int32), number)
            objective_inputs = perturb(self._terms, self.classifier, batch, own, initial, steps)
            pairs = zip(self._terms, objective_inputs, strict=True)
            valid = {term.name: term.valid(batch.x, inputs) for term, inputs in pairs}
            return [], (objective_inputs, {name: c for name, c in valid.items() if c is not None})

        _, (inputs, valid) = map_micro_batches(part, (batch, initial), self.micro_batch_size)
        weights = {name: average_over(some) for name, some in valid.items()}
        remaining = iter(inputs)
        return [
            [ObjectiveInputs(next(remaining), weights.get(term.name)) for _, term in rank.terms]
            for rank in self.objectives
        ]

    def _objective_losses(
        self,
        batch: Batch,
        objective_inputs: list[list[ObjectiveInputs]],
        scale: Any = 1.0,
        training: bool = False,
    ) -> ObjectiveLosses:
        return ObjectiveLosses(
            self._augmentation.trained,
            self.objectives,
            batch,
            objective_inputs,
            self._score,
            scale,
            self.micro_batch_size,
            self._named,
            by_inputs=training and self.warm_start is not None and self.warm_start.free,
        )

    def _measured(
        self,
        batch: Batch,
        objective_inputs: list[list[ObjectiveInputs]],
        scores: Sequence[ObjectiveLoss],
    ) -> dict[str, Any]:
        """Updates all metrics, and returns their values."""
        count = tf.shape(batch.x)[0]
        # Keras divides a loss by the number of replicas; the means over replicas do once more.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        weights = [what.weight for inputs_of_rank in objective_inputs for what in inputs_of_rank]
        losses = [loss * replicas for score in scores for loss in score.losses]
        # The mean over what counts here, of which there may be more than on other replicas.
        losses = [
            loss if weight is None else loss * _mean_reciprocal(weight)
            for loss, weight in zip(losses, weights, strict=True)
        ]
        # What counts for a term, 1 or 0 a sample: batches weigh by how much of them does.
        valid = [None if weight is None else tf.sign(weight) for weight in weights]
        scored = [c for term, c in zip(self._terms, valid, strict=True) if term.gives_logits]
        logits = [values for score in scores for values in score.logits]
        accuracies = [
            _accuracy(weigh_samples(batch, counts), values)
            for counts, values in zip(scored, logits, strict=True)
        ]
        self._term_means.update_state(
            [*losses, *(accuracy for accuracy, _ in accuracies)],
            [
                *(count if counts is None else tf.reduce_sum(counts) for counts in valid),
                *(weight for _, weight in accuracies),
            ],
        )
        total = sum(alpha * score.total for alpha, score in zip(self.alphas, scores, strict=True))
        self._loss_tracker.update_state(total * replicas, sample_weight=count)
        clean = [outputs for score in scores for outputs in score.clean]
        if not clean:
            clean = [Forward(self.classifier, training=False, named=self._named)(batch.x)]
        x, y, sample_weight = batch.x, batch.y, batch.sample_weight
        outputs = clean[0]
        if self._outputs is not None:
            y, outputs = self._outputs.structured(y), self._outputs.structured(outputs)
            if isinstance(sample_weight, dict):
                sample_weight = self._outputs.structured(sample_weight)
        results = self.compute_metrics(x, y, outputs, sample_weight)
        if isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
            # Keras averages what workers return over an axis, which scalars do not have.
            return tf.nest.map_structure(lambda value: value[None], results)
        return results

    def export(self, filepath: Any, format: str = "tf_saved_model", **kwargs: Any) -> None:
        """Writes the classifier for serving; as `keras.Model.export`.

        A SavedModel of a classifier with one output is what `lexirobust.export` writes.

        Args:
            filepath: Where to.
            format: `"tf_saved_model"`, or another one that Keras knows.
            **kwargs: As of `keras.Model.export`.

        Raises:
            ValueError: If the model is not built, or as `lexirobust.export`.
        """
        if format == "tf_saved_model" and self._outputs is None and set(kwargs) <= {"verbose"}:
            serving.export(self, filepath, verbose=kwargs.get("verbose") is not False)
            return
        if self.built:
            # Keras exports what was called; training calls the classifier, not this model.
            self(keras.KerasTensor(self.get_build_config()["input_shape"]))
        super().export(filepath, format=format, **kwargs)

    def save_own_variables(self, store: Any) -> None:
        """Saves the states of random generators and perturbations too, which Keras leaves out."""
        super().save_own_variables(store)
        store["seed"] = self.seed_generator.state
        if self._layer_seeds:
            store["layer_seeds"] = np.stack(list(map(np.asarray, self._layer_seeds)))
        if self._starts is not None:
            self._starts.save(store)
        if self._memory is not None:
            self._memory.save(store)

    def load_own_variables(self, store: Any) -> None:
        """Loads what `save_own_variables` saved: training goes on as it would have."""
        own = {**store}
        self.seed_generator.state.assign(own.pop("seed"))
        if "layer_seeds" in own:
            for variable, state in zip(self._layer_seeds, own.pop("layer_seeds"), strict=True):
                variable.assign(state)
        starts = pop_variables(own, START)
        if self._starts is not None:
            self._starts.load(starts)
        remembered = pop_variables(own, MEMORY)
        if self._memory is not None:
            self._memory.load(remembered, self.classifier.trainable_variables)
        super().load_own_variables(own)

    @property
    def _layer_seeds(self) -> list[Any]:
        """The states of the generators of dropout and other random layers, each once."""
        known = [*self.weights, *self.metrics_variables, self.seed_generator.state]
        others = {id(variable): variable for variable in self.variables}
        for variable in known:
            others.pop(id(variable), None)
        return [*others.values()]

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, those that all methods share aside."""
        return {
            "classifier": self.classifier,
            "objectives": list(self.objectives),
            "alphas": list(self.alphas),
        }

    def get_config(self) -> dict[str, Any]:
        """Returns the settings from which `from_config` makes an equal model."""
        settings = {
            name: keras.saving.serialize_keras_object(value)
            for name, value in self.settings.items()
        }
        options = {
            name: keras.saving.serialize_keras_object(getattr(self, name)) for name in OPTIONS
        }
        return {**super().get_config(), **options, **settings}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Makes a model from what `get_config` returned."""
        restored = {
            name: keras.saving.deserialize_keras_object(value, custom_objects)
            for name, value in config.items()
        }
        return cls(**restored)


def _input_shape(dataset: tf.data.Dataset) -> tf.TensorShape:
    """The shape of a dataset's batches of inputs, as far as it is known."""
    spec = dataset.element_spec
    return only_input(spec[0] if isinstance(spec, tuple) else spec).shape


def _added(one: Gradient, other: Gradient) -> Gradient:
    pairs = zip(one, other, strict=True)
    return [a if b is None else b if a is None else a + b for a, b in pairs]


def _mean_reciprocal(weight: tf.Tensor) -> tf.Tensor:
    """The factor from a mean of weighted values to a weighted mean; 0 if all weights are."""
    return tf.math.divide_no_nan(1.0, tf.reduce_mean(weight))


def _accuracy(batch: Batch, logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The accuracy of logits `[N, C]`, and the sum of the samples' weights."""
    labels = most_likely(batch.y)
    weights = tf.ones(tf.shape(batch.x)[0], keras.config.floatx())
    if batch.sample_weight is not None:
        weights = tf.cast(batch.sample_weight, weights.dtype)
    right = tf.cast(classes_of(logits) == labels, weights.dtype)
    total = tf.reduce_sum(weights)
    return tf.math.divide_no_nan(tf.reduce_sum(right * weights), total), total
