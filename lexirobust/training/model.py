"""A Keras model whose losses are ranked."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from lexirobust import gem
from lexirobust.attacks import Classifier
from lexirobust.checks import check_alphas, check_data, check_dataset, check_loss, flat_labels
from lexirobust.training.means import Means
from lexirobust.training.objectives import Batch, Objective, Rank, perturb


@keras.saving.register_keras_serializable(package="lexirobust")
class LexicographicModel(keras.Model):
    """Trains a classifier by ranked losses: no step spends a higher rank on a lower one.

    Each step takes one gradient a rank, projects each against all higher ranks, and applies the
    mix of the projected gradients through the compiled optimizer, once. Inputs, labels, callbacks,
    saving and `predict` are Keras's own.

    The first rank carries the classifier's own regularization losses, and its pass alone (in a
    weighted sum, those of its terms) updates batch normalization and other state: the ranks below
    see the same dropout mask and leave no trace. Attacks see the classifier as it is in use
    (`training=False`).

    The logs of `fit` and `evaluate` hold `loss` (the ranks' losses weighted by `alphas`), the
    compiled metrics on clean inputs, `loss@NAME` and `accuracy@NAME` for each objective, such as
    `accuracy@l2=4`, and while training `min_cosine`, the smallest cosine between two ranks'
    gradients: below 0 they conflict.

    Args:
        classifier: Keras model that maps inputs to logits `[N, classes]`. It shares its weights
            with this model and can be used by itself.
        objectives: The ranked losses, the most important first.
        alphas: One weight a rank, at least 0, summing to 1. `None`: half for rank 1, the rest
            shared.
        margin: Lower bound of the projection's multipliers, GEM's memory strength. Above 0, a
            lower rank is pulled toward the higher ones even where they agree.
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
    >>> sorted(history)
    ['accuracy@l2=0.5', 'accuracy@natural', 'loss', 'loss@l2=0.5', 'loss@natural', 'min_cosine']

    Reference:
        Section 4 of "Finding a human-like classifier".
    """

    auxiliary_names: tuple[str, ...] = ()
    """What the logs call the scalars that `learn_auxiliaries` returns."""

    def __init__(
        self,
        classifier: keras.Model,
        objectives: Sequence[Rank],
        alphas: Sequence[float] | None = None,
        margin: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(classifier, keras.Layer):
            raise TypeError(f"`classifier` must be a Keras model. Received: {classifier!r}.")
        if not objectives or not all(isinstance(rank, Rank) for rank in objectives):
            raise ValueError(
                "`objectives` must be a non-empty list of lexirobust objectives. Received: "
                f"{objectives!r}."
            )
        if not margin >= 0:
            raise ValueError(f"`margin` must be at least 0. Received: {margin}.")
        self.classifier = classifier
        self.objectives = tuple(objectives)
        self.alphas = tuple(check_alphas(alphas, len(self.objectives)))
        self.margin = float(margin)
        names = [term.name for term in self._terms]
        if len(set(names)) != len(names):
            raise ValueError(f"`objectives` must have different names. Received: {names}.")
        self.seed_generator = keras.random.SeedGenerator()
        self._term_means = Means(
            [f"{quantity}@{name}" for quantity in ("loss", "accuracy") for name in names]
        )
        # What only a training step can tell stays out of `evaluate`.
        ranked = ["min_cosine"] if len(self.objectives) > 1 else []
        self._training_means = Means([*ranked, *self.auxiliary_names])
        self._evaluating = False

    @property
    def _terms(self) -> list[Objective]:
        return [term for rank in self.objectives for _, term in rank.terms]

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The tightest bounds of all attacks, or `None`."""
        attacks = [term.attack for term in self._terms if term.attack is not None]
        known = [attack.bounds for attack in attacks if attack.bounds is not None]
        if not known:
            return None
        return max(low for low, _ in known), min(high for _, high in known)

    def build(self, input_shape: Any) -> None:
        """Builds the classifier, and checks that it gives logits of shape `[N, classes]`."""
        outputs = self.classifier(keras.KerasTensor(tuple(input_shape)))
        shape = getattr(outputs, "shape", None)
        if shape is None or len(shape) != 2 or shape[-1] is None or shape[-1] < 2:
            raise ValueError(
                "`classifier` must map inputs to logits of shape [N, classes], at least two "
                f"classes. Received: output {outputs!r}."
            )
        self._classes = int(shape[-1])
        if self.compiled:
            self._build_optimizer()

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Returns the classifier's logits, `[N, classes]`."""
        return self.classifier(inputs, training=training)

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
            loss: Keras loss on logits. `None` is sparse categorical cross entropy on logits.
            metrics: Metrics of the logits on clean inputs.
            **kwargs: As of `keras.Model.compile`.

        Raises:
            ValueError: If the loss expects probabilities, or the optimizer accumulates gradients
                over steps: they would be accumulated after the projection, which is not linear.
        """
        optimizer = keras.optimizers.get(optimizer)
        innermost = getattr(optimizer, "inner_optimizer", optimizer)
        accumulation = getattr(innermost, "gradient_accumulation_steps", None)
        if accumulation:
            raise ValueError(
                "`gradient_accumulation_steps` must be None: the optimizer would average gradients "
                f"that are projected already. Use a larger batch. Received: {accumulation}."
            )
        super().compile(optimizer=optimizer, loss=check_loss(loss), metrics=metrics, **kwargs)
        if self.built:
            self._build_optimizer()
        elif isinstance(getattr(self.classifier, "input_shape", None), tuple):
            self.build(self.classifier.input_shape)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles the model as it was when it was saved."""
        self.compile(**keras.saving.deserialize_keras_object(config))

    def _build_optimizer(self) -> None:
        # The classifier's variables only: a subclass may hold others, with their own optimizer.
        if not self.optimizer.built:
            self.optimizer.build(self.classifier.trainable_variables)

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains the classifier; as `keras.Model.fit`, after checking the data.

        Arrays and tensors are checked whole before the first step. Of a `tf.data.Dataset` the
        first batch is checked before the first step, every other before the step that would see
        it. What other iterables yield is not checked.

        Args:
            x: Inputs inside the attacks' bounds, or a dataset of `(inputs, labels)` batches.
            y: `[N]` integer labels, or `[N, classes]` probabilities.
            *args: As of `keras.Model.fit`.
            **kwargs: As of `keras.Model.fit`.

        Returns:
            A `History` object.

        Raises:
            ValueError: If there is no data, or it is not finite, outside the bounds, or labelled
                with classes that do not exist.
            TypeError: If labels are neither integers nor probabilities.
        """
        self._assert_compile_called("fit")
        call = inspect.signature(super().fit).bind(x, y, *args, **kwargs)
        call.arguments["x"] = self._checked(x, y)
        validation = call.arguments.get("validation_data")
        if isinstance(validation, tf.data.Dataset):
            call.arguments["validation_data"] = self._checked(validation, None)
        elif isinstance(validation, tuple | list):
            self._checked(*validation[:2])
        return super().fit(*call.args, **call.kwargs)

    def _checked(self, x: Any, y: Any) -> Any:
        """Checks data and builds the model on it; returns `x`, a dataset with its checks added."""
        if isinstance(x, tf.data.Dataset):
            self._build_on(tf.nest.flatten(x.element_spec)[0].shape)
            return check_dataset(x, self.bounds, self._classes)
        if hasattr(x, "shape"):
            self._build_on(x.shape)
            check_data(x, y, self.bounds, self._classes)
        return x

    def _build_on(self, shape: Any) -> None:
        if not self.built:
            # Also out of a step, where Keras would build what it calls: the classifier alone.
            with tf.init_scope(), self.distribute_strategy.scope():
                self.build((None, *shape[1:]))

    def train_step(self, data: Any) -> dict[str, Any]:
        """Takes one ranked step on a batch, and returns the metrics."""
        batch = self._batch(data)
        seed = self.seed_generator.next()
        learned = self.learn_auxiliaries(batch, seed)
        seen = perturb(self._terms, self.classifier, batch, seed)
        gradients, scores = self._differentiate(batch, seen)
        gram = gem.gramian(gradients)
        weights = gem.onestep_weights(gram, self.alphas, self.margin)
        # The optimizer sums over replicas what is here already the same on each of them.
        weights /= tf.distribute.get_strategy().num_replicas_in_sync
        update = gem.combine(gradients, weights)
        self.optimizer.apply(update, self.classifier.trainable_variables)
        if len(self.objectives) > 1:
            learned = [tf.reduce_min(gem.cosines(gram)), *learned]
        if learned:
            self._training_means.update_state(learned, [tf.shape(batch.x)[0]] * len(learned))
        return self._measured(batch, scores)

    def test_step(self, data: Any) -> dict[str, Any]:
        """Measures every objective on a batch, perturbed as in training, without learning."""
        batch = self._batch(data)
        seen = perturb(self._terms, self.classifier, batch, self.seed_generator.next())
        forward = _once(lambda x: self.classifier(x, training=False))
        scores = [self._score(rank, forward, batch, inputs) for rank, inputs in self._by_rank(seen)]
        with self._only_evaluating():
            return self._measured(batch, scores)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Measures every objective, perturbed as in training; as `keras.Model.evaluate`."""
        with self._only_evaluating():
            return super().evaluate(*args, **kwargs)

    def _batch(self, data: Any) -> Batch:
        """What a step works on: inputs as Keras's floats, labels without an axis of length 1."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if y is None:
            raise ValueError("`y` must hold one label a sample. Received: None.")
        self._build_on(x.shape)
        x, y = tf.cast(x, keras.config.floatx()), flat_labels(tf.convert_to_tensor(y))
        return Batch(x, y, sample_weight)

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

    def learn_auxiliaries(self, batch: Batch, seed: tf.Tensor) -> list[tf.Tensor]:
        """Trains what the attacks depend on besides the classifier; nothing, here.

        Called in every training step before inputs are perturbed.

        Args:
            batch: The clean batch.
            seed: `[2]` integer tensor.

        Returns:
            The scalars to log, one for each of `auxiliary_names`.
        """
        del batch, seed
        return []

    def _differentiate(
        self, batch: Batch, seen: Sequence[tf.Tensor]
    ) -> tuple[list[list[tf.Tensor | None]], list["_Scores"]]:
        """One gradient a rank, summed over replicas; and every rank's scores."""
        state = self.classifier.non_trainable_variables
        before = [tf.identity(variable.value) for variable in state]
        variables = [variable.value for variable in self.classifier.trainable_variables]
        gradients: list[list[tf.Tensor | None]] = []
        scores: list[_Scores] = []
        # Rank 1 comes last, so that what its pass leaves in the classifier's state stays.
        for index, (rank, inputs) in reversed(list(enumerate(self._by_rank(seen)))):
            with tf.GradientTape() as tape:
                forward = _once(lambda x: self.classifier(x, training=True))
                score = self._score(rank, forward, batch, inputs)
                if index == 0 and self.classifier.losses:
                    replicas = tf.distribute.get_strategy().num_replicas_in_sync
                    penalty = tf.add_n(self.classifier.losses) / replicas
                    score = score._replace(total=score.total + penalty)
                loss = self.optimizer.scale_loss(score.total)
            gradients.insert(0, _dense(tape.gradient(loss, variables)))
            scores.insert(0, score)
            if index:
                for variable, value in zip(state, before, strict=True):
                    variable.assign(value)
        return _sum_over_replicas(gradients), scores

    def _by_rank(self, seen: Sequence[tf.Tensor]) -> list[tuple[Rank, list[tf.Tensor]]]:
        """Every rank with what its terms see."""
        remaining = iter(seen)
        return [(rank, [next(remaining) for _ in rank.terms]) for rank in self.objectives]

    def _score(
        self, rank: Rank, forward: Classifier, batch: Batch, seen: Sequence[tf.Tensor]
    ) -> "_Scores":
        losses, logits = zip(
            *[
                term.loss(forward, batch, inputs, self._compile_loss)
                for (_, term), inputs in zip(rank.terms, seen, strict=True)
            ],
            strict=True,
        )
        weights = [weight for weight, _ in rank.terms]
        total = sum(weight * loss for weight, loss in zip(weights, losses, strict=True))
        return _Scores(total, losses, logits)

    def _measured(self, batch: Batch, scores: Sequence["_Scores"]) -> dict[str, Any]:
        """Updates all metrics, and returns their values."""
        count = tf.shape(batch.x)[0]
        # Keras divides a loss by the number of replicas; the means over replicas do once more.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        losses = [loss * replicas for score in scores for loss in score.losses]
        labels = tf.argmax(batch.y, axis=-1) if batch.y.shape.rank == 2 else batch.y
        weights = tf.ones(count) if batch.sample_weight is None else batch.sample_weight
        weights = tf.cast(weights, tf.float32)
        logits = [values for score in scores for values in score.logits]
        right = [
            tf.cast(tf.argmax(values, axis=-1) == tf.cast(labels, tf.int64), tf.float32)
            for values in logits
        ]
        counted = tf.reduce_sum(weights)
        accuracies = [tf.math.divide_no_nan(tf.reduce_sum(r * weights), counted) for r in right]
        self._term_means.update_state(
            [*losses, *accuracies], [count] * len(losses) + [counted] * len(accuracies)
        )
        total = sum(alpha * score.total for alpha, score in zip(self.alphas, scores, strict=True))
        self._loss_tracker.update_state(total * replicas, sample_weight=count)
        # The first objective of the first rank stands for the model's prediction.
        return self.compute_metrics(batch.x, batch.y, logits[0], batch.sample_weight)

    def export(self, *args: Any, **kwargs: Any) -> Any:
        """Writes a SavedModel from inputs to logits; as `keras.Model.export`."""
        if self.built:
            # Keras exports what was called; training calls the classifier, not this model.
            self(keras.KerasTensor(self.get_build_config()["input_shape"]))
        return super().export(*args, **kwargs)

    def save_own_variables(self, store: Any) -> None:
        """Saves the random generator's state too, which Keras leaves out."""
        super().save_own_variables(store)
        store["seed"] = self.seed_generator.state

    def load_own_variables(self, store: Any) -> None:
        """Loads what `save_own_variables` saved: training goes on as it would have."""
        own = {**store}
        self.seed_generator.state.assign(own.pop("seed"))
        super().load_own_variables(own)

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, the base class's aside."""
        return {
            "classifier": self.classifier,
            "objectives": list(self.objectives),
            "alphas": list(self.alphas),
            "margin": self.margin,
        }

    def get_config(self) -> dict[str, Any]:
        """Returns the settings from which `from_config` makes an equal model."""
        settings = {
            name: keras.saving.serialize_keras_object(value)
            for name, value in self.settings.items()
        }
        return {**super().get_config(), **settings}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Makes a model from what `get_config` returned."""
        restored = {
            name: keras.saving.deserialize_keras_object(value, custom_objects)
            for name, value in config.items()
        }
        return cls(**restored)


class _Scores(NamedTuple):
    """One rank's loss, and the loss and the logits of each of its terms."""

    total: tf.Tensor
    losses: Sequence[tf.Tensor]
    logits: Sequence[tf.Tensor]


def _once(function: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
    """Calls a function once for each tensor."""
    known: dict[Any, tf.Tensor] = {}

    def call(x: tf.Tensor) -> tf.Tensor:
        if x.ref() not in known:
            known[x.ref()] = function(x)
        return known[x.ref()]

    return call


def _dense(gradients: Sequence[Any]) -> list[tf.Tensor | None]:
    return [None if g is None else tf.convert_to_tensor(g) for g in gradients]


def _sum_over_replicas(
    gradients: list[list[tf.Tensor | None]],
) -> list[list[tf.Tensor | None]]:
    """Sums each rank's gradient before the projection, which is not linear."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return gradients
    present = [g for row in gradients for g in row if g is not None]
    context = tf.distribute.get_replica_context()
    summed = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, present))
    return [[None if g is None else next(summed) for g in row] for row in gradients]
