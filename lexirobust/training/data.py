"""The door for data: whatever `fit` is given, checked, and the batches of a step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

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
from lexirobust.data_forms import check_labels_fit, only_input, sized, unindexed
from lexirobust.training.objectives import Batch
from lexirobust.training.outputs import Outputs


def input_shape(x: Any) -> tf.TensorShape | None:
    """The shape `[N, ...]` of inputs, or of a dataset's batches; `None` if they have none."""
    if isinstance(x, tf.data.Dataset):
        spec = x.element_spec
        x = spec[0] if isinstance(spec, tuple) else spec
    shape = getattr(only_input(x), "shape", None)
    return None if shape is None else tf.TensorShape(shape)


def sized_inputs(x: Any, built: bool, one_size: bool) -> Any:
    """Tells a dataset whose inputs are of unknown shape what it is, as the first batch has it.

    Args:
        x: Inputs, or a dataset of batches.
        built: Whether the model is built already.
        one_size: Whether all inputs must be of one size.

    Returns:
        The same, or a dataset that knows more of its shapes.

    Raises:
        ValueError: If there are no inputs.
    """
    if only_input(x) is None:
        raise ValueError("`x` must be inputs or a dataset of (inputs, labels). Received: None.")
    if not isinstance(x, tf.data.Dataset):
        return x
    shape = input_shape(x)
    unknown = shape is None or shape.rank is None or shape[-1] is None
    return sized(x, one_size or (unknown and not built))


@dataclasses.dataclass(frozen=True)
class DataFormat:
    """The form of the data that a built model is trained on.

    Attributes:
        outputs: The classifier's several outputs; `None` if it has one.
        classes: The number of classes of the one output.
        bounds: Lowest and highest value of an input, or `None`.
        loss: The compiled loss.
    """

    outputs: Outputs | None
    classes: int | None
    bounds: tuple[float, float] | None
    loss: Any

    @property
    def named(self) -> Callable[..., dict[str, Any]] | None:
        """Names several outputs, or what belongs to them."""
        return None if self.outputs is None else self.outputs.named

    @property
    def _weighed(self) -> Callable[[Any], list[Weighed]]:
        """Tells whose weights are whose."""
        return one_weighed if self.outputs is None else self.outputs.weighed

    def check(
        self, x: Any, y: Any = None, sample_weight: Any = None, samples: int | None = None
    ) -> Any:
        """Checks data before anything runs on them.

        Args:
            x: Inputs, as of `LexicographicModel.fit`, or a dataset.
            y: Labels.
            sample_weight: Weights of samples.
            samples: How many samples a dataset's indices are of, where they are looked at.

        Returns:
            `x`, a dataset with its checks added.

        Raises:
            ValueError: As `LexicographicModel.fit`.
            TypeError: As `LexicographicModel.fit`.
        """
        if isinstance(x, tf.data.Dataset):
            x = check_dataset(x, self.bounds, self.classes, self.named, samples, self._weighed)
            if self.outputs is None:
                check_labels_fit(self.loss, x.element_spec[1].shape)
            return x
        inputs = only_input(x)
        if not hasattr(inputs, "shape"):
            return x
        if self.outputs is None:
            check_data(inputs, y, self.bounds, self.classes)
            check_labels_fit(self.loss, np.shape(y))
        else:
            check_outputs(inputs, self.outputs.named(y, "y"))
        for weights in self._weighed(sample_weight):
            check_sample_weight(weights.values, len(inputs), weights.inner, weights.argument)
        return x

    def batch(self, given: Any, y: Any, sample_weight: Any) -> Batch:
        """Makes a batch of what Keras hands to a step.

        Args:
            given: Inputs, with their indices or alone.
            y: Labels.
            sample_weight: Weights of samples, or `None`.

        Returns:
            Inputs as Keras's floats, labels and weights without an axis of length 1.

        Raises:
            ValueError: If labels do not suit the loss.
        """
        x = only_input(given)
        index = None
        if unindexed(given) is not given:
            index = tf.cast(given["index"], tf.int64)  # Rows are looked up by few types.
        x = tf.cast(x, keras.config.floatx())
        samples = tf.shape(x)[0]
        if self.outputs is None:
            if sample_weight is not None:
                sample_weight = flat_sample_weight(sample_weight, samples)
            y = flat_labels(tf.convert_to_tensor(y))
            check_labels_fit(self.loss, y.shape)
            return Batch(x, y, sample_weight, index)
        y = tf.nest.map_structure(tf.convert_to_tensor, self.outputs.named(y, "y"))
        return Batch(x, y, self.outputs.flat_weights(sample_weight, samples), index)
