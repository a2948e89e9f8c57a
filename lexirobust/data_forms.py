"""The form that data come in: dense arrays of known sizes, and labels that fit the loss."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import keras
import tensorflow as tf

_REMEDIES: Final = {
    tf.SparseTensor: "`tf.sparse.to_dense` makes it dense",
    tf.SparseTensorSpec: "`map` it through `tf.sparse.to_dense`",
    tf.RaggedTensor: "its method `to_tensor` fills up its rows",
    tf.RaggedTensorSpec: "`map` it through its method `to_tensor`, which fills up rows",
}
_OF_INTEGERS: Final = "sparse_categorical_crossentropy"
_OF_OTHER_LABELS: Final = ("circle", "ctc")


def check_dense(values: Any, argument: str = "`x`") -> None:
    """Checks that data are no sparse or ragged tensor, and no sparse matrix of SciPy.

    Args:
        values: The data, or what `tf.data` tells of them.
        argument: What they are called in an error.

    Raises:
        TypeError: If they are.
    """
    remedies = [remedy for kind, remedy in _REMEDIES.items() if isinstance(values, kind)]
    if hasattr(values, "toarray"):  # SciPy's, which need not be installed.
        remedies.append("its method `toarray` makes it dense")
    if remedies:
        raise TypeError(
            f"{argument} must be one dense array of real numbers. Received: "
            f"{type(values).__name__}; {remedies[0]}."
        )


def only_input(inputs: Any) -> Any:
    """Returns the one array of inputs, without its key and its indices, if it has any.

    Args:
        inputs: An array, or a dict or a list that holds one, or what `datasets.with_index` made.

    Returns:
        The array, or what else inputs are where they are no dict, list or tuple.

    Raises:
        ValueError: If there are several.
        TypeError: If the array is sparse or ragged.
    """
    inputs = unindexed(inputs)
    if isinstance(inputs, Mapping | list | tuple):
        if len(inputs) != 1:
            keys = sorted(inputs) if isinstance(inputs, Mapping) else len(inputs)
            raise ValueError(
                "`x` must be one array, or a dict or a list that holds one: attacks perturb one "
                f"input. Received: {keys}."
            )
        inputs = next(iter(inputs.values() if isinstance(inputs, Mapping) else inputs))
    check_dense(inputs)
    return inputs


def one_array(x: Any) -> Any:
    """Does what `only_input` does where a list is an array, as NumPy takes it.

    Args:
        x: An array, or a dict that holds one.

    Returns:
        The array.

    Raises:
        ValueError: If there are several.
        TypeError: If the array is sparse or ragged, or it is a `PyDataset`.
    """
    if isinstance(x, Mapping):
        return only_input(x)
    if isinstance(x, keras.utils.PyDataset):  # NumPy would read it all, and fail.
        raise TypeError(
            "`x` must be an array, or where data sets are taken a tf.data.Dataset. Received: a "
            f"PyDataset, {type(x).__name__}."
        )
    check_dense(x)
    return x


def in_memory(x: Any) -> Any:
    """Does what `only_input` does where a dataset would not do.

    Args:
        x: An array, or a dict or a list that holds one.

    Returns:
        The array.

    Raises:
        ValueError: If there are several.
        TypeError: If it is no array, or one that is sparse or ragged.
    """
    x = only_input(x)
    if not hasattr(x, "shape"):
        raise TypeError(f"`x` must be an array, all of it in memory. Received: {x!r}.")
    return x


def unindexed(inputs: Any) -> Any:
    """Returns inputs without the indices that `datasets.with_index` gave them, if it did."""
    indexed = isinstance(inputs, dict) and inputs.keys() == {"inputs", "index"}
    return inputs["inputs"] if indexed else inputs


def check_one_input(classifier: Any) -> None:
    """Checks that a Keras model has no more than one input.

    Args:
        classifier: Any classifier.

    Raises:
        ValueError: If it has several.
    """
    is_layer = isinstance(classifier, keras.Layer)
    inputs = (getattr(classifier, "inputs", None) if is_layer else None) or []
    if len(inputs) > 1:
        raise ValueError(
            "`classifier` must have one input, which attacks perturb. Received: inputs "
            f"{[given.name for given in inputs]}; hold the others fixed in a model of one input "
            "that calls it."
        )


def check_sizes(shape: Any) -> None:
    """Checks that sizes of inputs are known where attacks are compiled for them.

    Args:
        shape: `[N, ...]`, of which only N may be unknown.

    Raises:
        ValueError: If another size is, or the rank.
    """
    shape = tf.TensorShape(shape)
    if shape.rank is None or None in shape.as_list()[1:]:
        raise ValueError(
            "`x` must be of known sizes [N, ...] in a graph, where attacks are compiled for them. "
            f"Received: shape {shape}; pad or crop inputs to one size, and name it, as in "
            "tf.ensure_shape(x, [None, 28, 28, 1])."
        )


def sized(dataset: tf.data.Dataset, one_size: bool) -> tf.data.Dataset:
    """Gives a dataset the shapes of its first batch, where it does not know them.

    Where it knows all of them, or has no batch, nothing is read.

    Args:
        dataset: Yields tuples of inputs, labels and more.
        one_size: Whether inputs must be of one size, or only of one rank.

    Returns:
        A dataset of the same elements. Where inputs must be of one size, another one raises
        `InvalidArgumentError`.

    Raises:
        ValueError: If it is known to hold not as many labels as inputs in each of its elements.

    Example:

    >>> spec = tf.TensorSpec(None), tf.TensorSpec(None, tf.int32)
    >>> images = lambda: iter([(tf.zeros((2, 5, 5, 1)), [0, 1])])
    >>> dataset = tf.data.Dataset.from_generator(images, output_signature=spec)
    >>> [part.shape.as_list() for part in sized(dataset, one_size=True).element_spec]
    [[None, 5, 5, 1], [None]]
    >>> [part.shape.as_list() for part in sized(dataset, one_size=False).element_spec]
    [[None, None, None, None], [None]]
    """
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) < 2:
        return dataset
    _check_batched(*spec[:2])
    unknown = [part for part in tf.nest.flatten(spec[:2]) if _is_unknown(part, one_size)]
    first = next(iter(dataset.take(1)), None) if unknown else None
    if first is None:
        return dataset

    def like_first(values: Any, other: Any) -> Any:
        if not isinstance(values, tf.Tensor):  # Sparse, which is refused elsewhere.
            return values
        if not one_size or other.shape.rank == 0:
            return tf.ensure_shape(values, [None] * other.shape.rank)
        message = "`x` must be of one size in all batches, that of the first: pad or crop inputs."
        alike = tf.debugging.assert_equal(tf.shape(values)[1:], other.shape[1:], message)
        with tf.control_dependencies([] if alike is None else [alike]):
            return _shaped_as(tf.identity(values), other)

    def shaped(*batch: Any) -> tuple[Any, ...]:
        x = tf.nest.map_structure(like_first, batch[0], first[0])
        y = tf.nest.map_structure(_shaped_as, batch[1], first[1])
        return x, y, *batch[2:]

    return dataset.map(shaped)


def check_labels_fit(loss: Any, shape: Sequence[int | None]) -> None:
    """Checks that labels are of the form that a loss of Keras compares with logits.

    Args:
        loss: As compiled: a Keras loss, its name, or a function. Of functions that are not
            Keras's own nothing is known.
        shape: Of the labels: `[N]` or `[N, 1]`, or `[N, C]` for probabilities.

    Raises:
        ValueError: If they are of the other form.
    """
    if loss is None or isinstance(loss, dict | list | tuple):
        return
    function = getattr(keras.losses.get(loss), "fn", keras.losses.get(loss))
    name = getattr(function, "__name__", "")
    own = getattr(function, "__module__", None) == keras.losses.mean_squared_error.__module__
    if not own or name in _OF_OTHER_LABELS:
        return
    probabilities = len(shape) == 2 and shape[1] != 1
    if probabilities and name == _OF_INTEGERS:
        raise ValueError(
            f"`y` must be [N] integer labels for the loss {name!r}. Received: shape "
            f"{tuple(shape)}; compile with loss=keras.losses.CategoricalCrossentropy("
            "from_logits=True), or make labels of it, as in np.argmax(y, axis=1)."
        )
    if not probabilities and name != _OF_INTEGERS:
        raise ValueError(
            f"`y` must be [N, classes] probabilities for the loss {name!r}. Received: shape "
            f"{tuple(shape)}; compile with loss=keras.losses.SparseCategoricalCrossentropy("
            "from_logits=True), or make probabilities of it, as in keras.utils.to_categorical(y)."
        )


def _check_batched(x: Any, y: Any) -> None:
    """Checks that an input's first axis is not taken for the samples of a batch."""
    shapes = [getattr(part, "shape", tf.TensorShape(None)) for part in (only_input(x), y)]
    sizes = [shape[0] for shape in shapes if shape.rank]
    if None not in sizes and len({*sizes}) > 1:
        raise ValueError(
            "`x` must yield batches of as many labels as inputs. Received: inputs of shape "
            f"{shapes[0]}, labels of shape {shapes[1]}; single samples become batches by "
            "`dataset.batch(100)`."
        )


def _is_unknown(part: Any, one_size: bool) -> bool:
    """Tells if the rank of a tensor is unknown, or one of its sizes where those matter."""
    if not isinstance(part, tf.TensorSpec):
        return False
    return part.shape.rank is None or (one_size and None in part.shape.as_list()[1:])


def _shaped_as(values: Any, other: Any) -> Any:
    if not isinstance(values, tf.Tensor):
        return values
    return tf.ensure_shape(values, [None, *other.shape[1:]] if other.shape.rank else [])
