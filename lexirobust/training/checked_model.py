"""A Keras model that checks its data before anything runs on them."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from lexirobust.checks import check_count
from lexirobust.data_forms import in_memory, only_input
from lexirobust.loss_checks import check_mean
from lexirobust.training.data import input_shape
from lexirobust.training.data_gradients import DataGradients
from lexirobust.training.objectives import Rank
from lexirobust.training.progress_bar import ProgressBar
from lexirobust.training.settings import TrainingSettings
from lexirobust.training.step.objective_losses import Gradient


class CheckedModel(keras.Model):
    """A Keras model that checks data before it trains or evaluates on them.

    A subclass writes `check_data` and `batch_gradients`, and names in `training_metrics` what
    training alone measures.
    """

    classifier: keras.Model
    objectives: Sequence[Rank]
    settings: TrainingSettings

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.autocast = False  # The classifier casts its inputs, or does not.
        self._evaluating = False
        self._validates = False
        self._data_gradients: DataGradients | None = None

    @property
    def training_metrics(self) -> list[keras.Metric]:
        """Metrics that stay out of `evaluate`."""
        return []

    @property
    def metrics(self) -> list[keras.Metric]:
        """All metrics; while evaluating, those that need no training step."""
        left_out = {id(metric) for metric in self.training_metrics if self._evaluating}
        return [
            metric
            for metric in super().metrics
            if id(metric) not in left_out and getattr(metric, "names", True)
        ]

    @property
    def output_names(self) -> list[str] | None:
        """The classifier's, by which Keras tells losses and metrics of several outputs apart."""
        return getattr(self.classifier, "output_names", None)

    @tf.autograph.experimental.do_not_convert
    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls the model, which is built before; in a graph Keras would build it inside."""
        shape = getattr(only_input(inputs), "shape", None)
        if shape is not None:
            self._build_on(shape)
        return super().__call__(inputs, *args, **kwargs)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> Any:
        """Returns the classifier's logits, `[N, classes]`, or its several outputs."""
        return self.classifier(only_input(inputs), training=training)

    def check_data(
        self, x: Any, y: Any = None, sample_weight: Any = None, learns: bool = False
    ) -> Any:
        """Checks data, and builds the model on them.

        Args:
            x: Inputs, or a dataset of batches.
            y: Labels.
            sample_weight: Weights of samples.
            learns: Whether the model is trained on them.

        Returns:
            `x`, or what is to be used in its place.
        """
        raise NotImplementedError

    def begin_fit(
        self, arguments: Mapping[str, Any], callbacks: Sequence[keras.callbacks.Callback]
    ) -> list[keras.callbacks.Callback]:
        """Prepares a `fit` whose data have been checked.

        Args:
            arguments: Its own, by name.
            callbacks: Its callbacks, one by one.

        Returns:
            Callbacks that it is to have besides.
        """
        del arguments, callbacks
        return []

    def check_history(self, history: dict[str, list[float]]) -> None:
        """Warns of what the logs of a whole training give away.

        Args:
            history: The logs, a list of one value an epoch by name.
        """
        del history

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains the classifier; as `keras.Model.fit`, after checking the data.

        Arrays and tensors are checked whole before the first step. Of a `tf.data.Dataset` the
        first batch is checked before the first step, every other before the step that would see
        it; what it does not know of their shapes is as in the first batch. Of a `PyDataset` the
        first batch alone is checked, `x[0]`, and nothing of what generators yield.

        Args:
            x: Inputs inside the attacks' bounds, by themselves or as the one value of a dict, or a
                dataset of `(inputs, labels)` batches; with a `warm_start` also what
                `datasets.with_index` made of either. The classifier is given the inputs alone.
            y: `[N]` integer labels, or `[N, classes]` probabilities; for several outputs a dict or
                a list of labels, as for any Keras model.
            *args: As of `keras.Model.fit`.
            **kwargs: As of `keras.Model.fit`. The bar shows fewer numbers than the history holds,
                all of them with `detailed_logs`. A `sample_weight` is `[N]` or `[N, 1]`; for
                several outputs also a dict or a list, and `[N, ...]` where one has more axes.

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
        self._check_compiled("fit")
        call = self._checked_call(super().fit, x, y, *args, learns=True, **kwargs)
        validation = call.arguments.get("validation_data")
        if isinstance(validation, tf.data.Dataset | keras.utils.PyDataset):
            call.arguments["validation_data"] = self.check_data(validation)
        elif isinstance(validation, tuple | list):
            self.check_data(*keras.utils.unpack_x_y_sample_weight(validation))
        own = self.begin_fit(call.arguments, _listed(call.arguments.get("callbacks")))
        call.arguments["callbacks"] = _with_own(call.arguments.get("callbacks"), own)
        if not self.settings.detailed_logs:
            call.arguments["callbacks"] = _with_bar(call.arguments)
        self._validates = validation is not None or bool(call.arguments.get("validation_split"))
        history = super().fit(*call.args, **call.kwargs)
        self.check_history(history.history)
        return history

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
        self._check_compiled("evaluate")
        if "_use_cached_eval_dataset" not in kwargs:  # `fit` has checked its validation data.
            call = self._checked_call(super().evaluate, *args, **kwargs)
            args, kwargs = call.args, call.kwargs
        with self._only_evaluating():
            return super().evaluate(*args, **kwargs)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Gives the logits of inputs; as `keras.Model.predict`.

        Args:
            x: Inputs, or what holds them beside labels, as of `fit`.
            *args: As of `keras.Model.predict`.
            **kwargs: As of `keras.Model.predict`.

        Returns:
            `[N, classes]` float array, or one for each of several outputs.
        """
        first = x[0] if isinstance(x, keras.utils.PyDataset) else x
        shape = input_shape(first[0] if isinstance(first, tuple) else first)
        if shape is not None and shape[1:].is_fully_defined():
            self._build_on(shape)  # Before replicas see it: they can make no variables.
        return super().predict(x, *args, **kwargs)

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
        self._check_compiled("train_on_batch")
        self._checked_call(super().train_on_batch, x, y, *args, **kwargs)
        return super().train_on_batch(x, y, *args, **kwargs)

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
        self._check_compiled("test_on_batch")
        self._checked_call(super().test_on_batch, x, y, *args, **kwargs)
        with self._only_evaluating():
            return super().test_on_batch(x, y, *args, **kwargs)

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
            ValueError: If the model is not compiled, the data are not as above, or they are more
                than a batch and the loss is no mean over samples, or a rank weighs its objectives
                by the losses of a batch, as `MixTrain` does.
            TypeError: If inputs are no array, or labels neither integers nor probabilities.

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
        self._check_compiled("gradients")
        check_count("batch_size", batch_size)
        inputs = in_memory(x)
        self.check_data(x, y)
        if len(inputs) > batch_size:
            # There are no weights here.
            also = ["mean_with_sample_weight"]
            check_mean(self.loss, "where data are more than one batch", also)
            weighing = [rank.name for rank in self.objectives if rank.by_losses]
            if weighing:
                raise ValueError(
                    "`batch_size` must hold all samples where a rank weighs its objectives by "
                    f"their losses. Received: {batch_size} of {len(inputs)}, for {weighing}."
                )
        if self._data_gradients is None or not self._data_gradients.still_hold():
            # A graph holds for as long as what it was traced from.
            roots = (self.classifier, self.loss, *self.objectives)
            self._data_gradients = DataGradients(self.batch_gradients, *roots)
        return self._data_gradients(inputs, y, batch_size)

    def batch_gradients(self, data: Any) -> list[tuple[Gradient, tf.Tensor]]:
        """Differentiates every rank's loss on a batch, as `train_step` is given it.

        Args:
            data: The batch.

        Returns:
            For each rank its gradient, and the number of samples that it is a mean over.
        """
        raise NotImplementedError

    def _check_compiled(self, method: str) -> None:
        if not self.compiled:
            classifier = getattr(self.classifier, "compiled", False)
            raise ValueError(
                f"`compile` must be called on the model before `{method}`. Received: a model that "
                f"is not compiled{', around a classifier that is' * classifier}."
            )

    def _build_on(self, shape: Any) -> None:
        if not self.built:
            # Also out of a graph: out of a step, where Keras would build what it calls, the
            # classifier alone, and out of `predict`. Tapes stand still in there.
            eager = tf.executing_eagerly()
            out = contextlib.nullcontext() if eager else tf.init_scope()
            with out, self.distribute_strategy.scope():
                self.build((None, *shape[1:]))

    def _of_worker(self, results: dict[str, Any]) -> dict[str, Any]:
        """The results of a step as Keras expects them of one of several workers."""
        if isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
            # Keras averages what workers return over an axis, which scalars do not have.
            return tf.nest.map_structure(lambda value: value[None], results)
        return results

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Builds metrics by a replica's batch, where Keras would average those of all replicas.

        Labels have no average, and other workers' replicas cannot be seen from here: with
        `MultiWorkerMirroredStrategy` Keras 3.15 stops (issue 20585 of Keras).
        """
        if self._distribute_strategy is not None and iterator is not None:
            _, _, batches = next(iter(iterator))
            data_batch = tf.nest.map_structure(
                lambda values: self.distribute_strategy.experimental_local_results(values)[0],
                next(batches),
            )
        super()._maybe_symbolic_build(data_batch=data_batch)

    def _checked_call(
        self, method: Callable[..., Any], *args: Any, learns: bool = False, **kwargs: Any
    ) -> inspect.BoundArguments:
        """The arguments of a call to one of Keras's methods, its data checked."""
        call = inspect.signature(method).bind(*args, **kwargs)
        x, y, sample_weight = (call.arguments.get(name) for name in ("x", "y", "sample_weight"))
        call.arguments["x"] = self.check_data(x, y, sample_weight, learns)
        return call

    @contextlib.contextmanager
    def _only_evaluating(self) -> Iterator[None]:
        before, self._evaluating = self._evaluating, True
        try:
            yield
        finally:
            self._evaluating = before


def _with_own(callbacks: Any, own: Sequence[keras.callbacks.Callback]) -> Any:
    """The callbacks of a call of `fit` after a model's own; a list of Keras's knows all it has."""
    if not own or isinstance(callbacks, keras.callbacks.CallbackList):
        return callbacks
    return [*own, *_listed(callbacks)]


def _with_bar(arguments: Mapping[str, Any]) -> Any:
    """The callbacks of a call of `fit`, with our bar where Keras would add its own."""
    callbacks = arguments.get("callbacks")
    if arguments.get("verbose", "auto") == 0 or isinstance(callbacks, keras.callbacks.CallbackList):
        return callbacks
    callbacks = _listed(callbacks)
    if any(isinstance(each, keras.callbacks.ProgbarLogger) for each in callbacks):
        return callbacks
    return [*callbacks, ProgressBar()]


def _listed(callbacks: Any) -> list[keras.callbacks.Callback]:
    """What `fit` was given as its callbacks, one by one."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return list(callbacks.callbacks)
    return keras.tree.flatten(callbacks) if callbacks else []
