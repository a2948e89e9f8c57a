"""Classifiers with several outputs: what belongs to which."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from lexirobust.data_checks import Weighed, flat_sample_weight
from lexirobust.keras_internals import CompileLoss, compute_output_spec, get_loss
from lexirobust.loss_checks import is_of_classes
from lexirobust.probabilities import is_of_labels, probability_layer
from lexirobust.training.objectives import Objective, Output


class Outputs:
    """The outputs of a classifier that has several.

    Args:
        names: Their names, in the classifier's order.
        listed: Whether the classifier gives them as a list, rather than as a dict.
        shapes: The shape of each.
    """

    def __init__(
        self, names: Sequence[str], listed: bool, shapes: Sequence[Sequence[int | None]]
    ) -> None:
        self.names = tuple(names)
        self._listed = listed
        # Losses give one number for what stands between the samples' axis and the last one.
        self._inner = {name: tuple(shape)[1:-1] for name, shape in zip(names, shapes, strict=True)}

    @classmethod
    def of(cls, classifier: keras.Model, given: Any) -> "Outputs | None":
        """Recognizes several outputs.

        Args:
            classifier: Keras model.
            given: What it maps symbolic inputs to.

        Returns:
            The outputs, or `None` where there is one alone.

        Raises:
            ValueError: If outputs are nested deeper, or come as a list without names.
        """
        listed = isinstance(given, list | tuple)
        if not listed and not isinstance(given, Mapping):
            return None
        names = getattr(classifier, "output_names", ()) if listed else tuple(given)
        tensors = list(given if listed else given.values())
        if len(names) != len(given) or not all(hasattr(t, "shape") for t in tensors):
            raise ValueError(
                "`classifier` must give one tensor, a dict of tensors, or a list of tensors with "
                f"`output_names`. Received: output {given!r} with names {names!r}."
            )
        return cls(names, listed, [t.shape for t in tensors])

    def named(self, values: Any, argument: str = "classifier") -> dict[str, Any]:
        """Turns what there is one of for each output into a dict.

        Args:
            values: A dict, or a list where the classifier gives a list.
            argument: What the caller's argument is called.

        Returns:
            The values by the names of the outputs.

        Raises:
            ValueError: If it does not hold each output once.
        """
        if self._listed and isinstance(values, list | tuple) and len(values) == len(self.names):
            values = dict(zip(self.names, values, strict=True))
        if not isinstance(values, Mapping) or set(values) != set(self.names):
            raise ValueError(
                f"`{argument}` must be a dict{' or a list' * self._listed} with an entry for each "
                f"of the outputs {list(self.names)}. Received: {_described(values)}."
            )
        return {name: values[name] for name in self.names}

    def weighed(self, sample_weight: Any) -> list[Weighed]:
        """Tells whose weights are whose.

        Args:
            sample_weight: One array for all outputs, a dict or a list of one for each, or `None`.

        Returns:
            The weights of every output that has any, in the order of the outputs.

        Raises:
            ValueError: If a dict or a list does not hold each output once.
        """
        if sample_weight is None:
            return []
        if not isinstance(sample_weight, Mapping | list | tuple):
            return [Weighed(sample_weight, self._inner[name]) for name in self.names]
        return [
            Weighed(values, self._inner[name], f"`sample_weight` of {name!r}")
            for name, values in self.named(sample_weight, "sample_weight").items()
            if values is not None
        ]

    def flat_weights(self, sample_weight: Any, samples: tf.Tensor) -> Any:
        """Gives what `weighed` takes as tensors, `[N, 1]` as `[N]`; see `flat_sample_weight`."""
        weighed = self.weighed(sample_weight)
        flat = [flat_sample_weight(own.values, samples, own.inner) for own in weighed]
        if not isinstance(sample_weight, Mapping | list | tuple):
            return flat[0] if flat else None
        values = iter(flat)
        named = self.named(sample_weight, "sample_weight")
        return {name: None if own is None else next(values) for name, own in named.items()}

    def structured(self, named: dict[str, Any]) -> Any:
        """Turns a dict into what the classifier gives, and what Keras's metrics expect."""
        return [named[name] for name in self.names] if self._listed else named

    def for_metrics(self, y: Any, outputs: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        """Gives labels, outputs and weights by name the structure that Keras's metrics expect."""
        if isinstance(sample_weight, Mapping):
            sample_weight = self.structured(dict(sample_weight))
        return self.structured(y), self.structured(outputs), sample_weight

    def check(self, terms: Sequence[Objective]) -> None:
        """Checks that objectives fit.

        Args:
            terms: All objectives.

        Raises:
            ValueError: If one needs a single output, or an output that does not exist.
        """
        for term in terms:
            if term.gives_logits or term.attack is not None:
                raise ValueError(
                    "`objectives` must be Output, Regularization, or your own without logits and "
                    f"attack where the classifier gives a {'list' if self._listed else 'dict'} of "
                    f"outputs, {list(self.names)}. Received: {term.name!r}, which needs one output "
                    "of shape [N, classes]: make a model that gives that tensor alone."
                )
            if isinstance(term, Output) and term.output not in self.names:
                raise ValueError(
                    f"`output` must be one of {list(self.names)}. Received: {term.output!r}."
                )

    def losses(self, loss: Any, terms: Sequence[Objective]) -> dict[str, Any]:
        """Tells which loss belongs to which output.

        Args:
            loss: As compiled: a dict, a list where the classifier gives a list, or one for all.
            terms: All objectives.

        Returns:
            The losses by output; outputs without one are left out.

        Raises:
            ValueError: If there is a loss for no output, or none for a ranked one.
        """
        if isinstance(loss, Mapping):
            loss = {**dict.fromkeys(self.names), **loss}
        elif not isinstance(loss, list | tuple):
            loss = dict.fromkeys(self.names, loss)
        known = {name: own for name, own in self.named(loss, "loss").items() if own is not None}
        ranked = [term.output for term in terms if isinstance(term, Output)]
        missing = [name for name in ranked if name not in known]
        if missing:
            raise ValueError(
                f"`loss` must hold a loss for each ranked output. Received: none for {missing}."
            )
        return known


def count_classes(output: Any, terms: Sequence[Objective]) -> int:
    """Checks the one output of a classifier, and counts its classes.

    Args:
        output: What the classifier maps symbolic inputs to.
        terms: All objectives.

    Returns:
        The number of classes.

    Raises:
        ValueError: If it is not `[N, classes]`, or an objective names one of several outputs.
    """
    ranked = [term.output for term in terms if isinstance(term, Output)]
    if ranked:
        raise ValueError(
            "`output` names one of several outputs, but the classifier has one. Received: "
            f"{ranked[0]!r}."
        )
    shape = getattr(output, "shape", None)
    if shape is None or len(shape) != 2 or shape[-1] is None or shape[-1] < 2:
        one = shape is not None and tuple(shape[1:]) == (1,)
        remedy = "; keras.layers.Dense(2) gives two, for sparse categorical cross entropy"
        raise ValueError(
            "`classifier` must map inputs to logits of shape [N, classes], at least two "
            f"classes. Received: output {output!r}{remedy * one}."
        )
    return int(shape[-1])


def check_one_loss(loss: Any, classifier: keras.Model) -> None:
    """Checks the loss of a classifier with one output.

    Args:
        loss: As compiled.
        classifier: A Keras model that has been built.

    Raises:
        ValueError: If there are several, or it is of one class in several where the classifier
            gives a probability for each by itself.
    """
    if isinstance(loss, dict | list | tuple):
        raise ValueError(
            f"`loss` must be one loss for a classifier with one output. Received: {loss}."
        )
    end = probability_layer(classifier)
    if end is not None and is_of_labels(end) and is_of_classes(loss):
        raise ValueError(
            f"`loss` is of one class in several, and the classifier ends in sigmoids, layer "
            f"{end.name!r}, each by itself; train lexirobust.logits(classifier)."
        )


class OutputLosses:
    """The compiled losses of several outputs; called, it adds up those of the outputs given.

    Args:
        losses: A Keras loss, its name, or a function, for each output.
    """

    def __init__(self, losses: Mapping[str, Any]) -> None:
        self._given = dict(losses)
        self._losses = {name: CompileLoss(loss) for name, loss in losses.items()}

    def __call__(
        self, y: Mapping[str, Any], outputs: Mapping[str, Any], sample_weight: Any = None
    ) -> tf.Tensor:
        """Computes losses of outputs.

        Args:
            y: Labels by output.
            outputs: Outputs by name, all or some.
            sample_weight: Weights by output, or `[N]`, the same for all outputs, or `None`.

        Returns:
            Scalar, the sum of the losses.
        """
        if not isinstance(sample_weight, Mapping):
            sample_weight = dict.fromkeys(outputs, sample_weight)
        return sum(
            loss(y[name], outputs[name], self._beside_values(name, y, outputs, sample_weight[name]))
            for name, loss in self._losses.items()
            if name in outputs
        )

    def _beside_values(
        self, name: str, y: Mapping[str, Any], outputs: Mapping[str, Any], weights: Any
    ) -> Any:
        """Weights with the axes of the values that they weigh; Keras would broadcast the last."""
        output = outputs[name]
        if weights is None or weights.shape.rank != 1 or output.shape.rank < 3:
            return weights
        loss = get_loss(self._given[name], y[name], output)
        specs = [keras.KerasTensor(t.shape, keras.config.floatx()) for t in (y[name], output)]
        values = compute_output_spec(loss.call, *specs)
        return tf.reshape(weights, [-1] + [1] * (len(values.shape) - 1))


def _described(values: Any) -> str:
    """A description of a value without its numbers."""
    if isinstance(values, Mapping):
        return f"a dict with {sorted(map(str, values))}"
    if isinstance(values, list | tuple):
        return f"a list of {len(values)}"
    return type(values).__name__
