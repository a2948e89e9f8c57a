"""Checks of Keras losses before anything runs."""

import inspect
from collections.abc import Sequence
from typing import Any, Final

import keras
import tensorflow as tf

_LOSSES_OF_PROBABILITIES: Final = (
    keras.losses.kl_divergence,
    keras.losses.poisson,
    keras.losses.dice,
    keras.losses.tversky,
    keras.losses.categorical_generalized_cross_entropy,
    keras.losses.mean_squared_logarithmic_error,
)
"""Those of Keras without a `from_logits`: what lies outside of 0 to 1 they cut off, or misread."""


def check_loss(loss: Any) -> Any:
    """Checks that a loss takes logits, and fills in the default.

    Args:
        loss: Keras loss, its name, a function, or `None`. A dict or list of losses belongs to
            several outputs, which need not be logits: it is returned as it is.

    Returns:
        The loss; sparse categorical cross entropy on logits for `None`.

    Raises:
        ValueError: If the loss has a `from_logits` setting that is false, is of probabilities
            alone, or, as any one of several, is not reduced to a number.
    """
    _check_reduced(loss)
    if loss is None:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if isinstance(loss, dict | list | tuple):
        return loss
    resolved = keras.losses.get(loss)
    if getattr(resolved, "fn", resolved) in _LOSSES_OF_PROBABILITIES:
        from_logits = False
    elif isinstance(resolved, keras.losses.Loss):
        from_logits = resolved.get_config().get("from_logits", True)
    else:
        parameter = inspect.signature(resolved).parameters.get("from_logits")
        from_logits = True if parameter is None else parameter.default
    if not from_logits:
        given = getattr(resolved, "name", getattr(resolved, "__name__", None))
        sparse = given != "categorical_crossentropy"  # That one is of one-hot labels.
        raise ValueError(
            "`loss` must take logits, which is what the classifier gives, such as keras.losses."
            f"{'Sparse' * sparse}CategoricalCrossentropy(from_logits=True). Received: {given!r}, "
            "which takes probabilities."
        )
    return loss


def _check_reduced(loss: Any) -> None:
    """Checks that each of the losses of outputs, or the one, gives one number for a batch."""
    for one in tf.nest.flatten(loss):
        resolved = keras.losses.get(one)
        reduction = getattr(resolved, "reduction", "sum_over_batch_size")
        if reduction in (None, "none"):
            raise ValueError(
                "`loss` must give one number for a batch. Received: "
                f"{getattr(resolved, 'name', resolved)!r} with reduction {reduction!r}; "
                "reduction='sum_over_batch_size' takes the mean over samples."
            )


def is_of_classes(loss: Any) -> bool:
    """Tells if a loss is the cross entropy of one class in several.

    Args:
        loss: Keras loss, its name, or a function.
    """
    cross_entropies = (
        keras.losses.SparseCategoricalCrossentropy,
        keras.losses.CategoricalCrossentropy,
    )
    return isinstance(keras.losses.get(loss), cross_entropies)


def check_mean(loss: Any, where: str, also: Sequence[str] = ()) -> None:
    """Checks that a loss over a batch is the mean of losses over its parts, by their sizes.

    Args:
        loss: Keras loss, its name, a function, or a dict or list of these for several outputs.
        where: What needs it, as the message says it.
        also: Reductions that are means there, too.

    Raises:
        ValueError: If a loss is reduced otherwise.
    """
    for one in tf.nest.flatten(loss):
        reduction = getattr(keras.losses.get(one), "reduction", "sum_over_batch_size")
        if reduction not in ("sum_over_batch_size", "mean", *also):
            raise ValueError(
                f"`loss` must be a mean over samples {where}. Received: reduction {reduction!r}."
            )
