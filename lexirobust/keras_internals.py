"""Names of Keras that are not public, and all that the package does by them.

Keras changes such names between minor releases; `tests/test_keras_internals.py` says which. Three
are kept where they are used: the moments of each optimizer (`training/step/preconditioners.py`),
how metrics are built on replicas (`_maybe_symbolic_build`, `_distribute_strategy`), and how `fit`
calls `evaluate` (`_use_cached_eval_dataset`), both in `CheckedModel`.
"""

import functools
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend import compute_output_spec as compute_output_spec
from keras.src.trainers.compile_utils import CompileLoss as CompileLoss
from keras.src.trainers.compile_utils import get_loss as get_loss

# What a Keras layer or model knows of itself besides what it computes: how it is trained, saved and
# called, and what it was called on.
_NAMES: Final = """
    _allow_non_tensor_positional_args _auto_config _build_shapes_dict _call_context_args
    _call_has_context_arg _call_has_mask_arg _call_has_training_arg _call_signature _called
    _compile_config _compile_loss _compile_metrics _compiled_trainable_state
    _compute_loss_has_training_arg _convert_input_args _distribute_reduction_method
    _distribute_strategy _distributed_dataset _eval_epoch_iterator _functional _inbound_nodes
    _initial_epoch _input_spec _inputs _inputs_struct _jit_compile _lock _loss_ids _loss_tracker
    _losses _losses_override _metrics _nodes _nodes_by_depth _non_trainable_variables
    _operations_by_depth _outbound_nodes _outputs _outputs_struct _parent_path _path _remat_mode
    _run_eagerly _saved_model_arg_spec _saved_model_inputs_spec _seed_generators
    _self_name_based_restores _self_saveable_object_factories _self_setattr_tracking
    _self_unconditional_checkpoint_dependencies _self_unconditional_deferred_dependencies
    _self_unconditional_dependency_names _self_update_uid _supports_masking _tracked _tracker
    _trainable_variables activity_regularizer build built call_signature_parameters compiled
    history loss name optimizer output_names predict_function quantize steps_per_execution
    stop_evaluating stop_predicting stop_training supports_jit test_function train_function
    unrolled_steps_per_execution
"""
BOOKKEEPING: Final = frozenset(_NAMES.split())

IMAGE_PREPROCESSING: Final[Any] = keras.layers.RandomFlip.__mro__[1]
"""What random layers for images have in common, which Keras does not export."""


class Call(NamedTuple):
    """A symbolic call of a layer or another operation.

    Attributes:
        inputs: The tensors that it was given.
        outputs: The tensors that it made.
    """

    inputs: Sequence[keras.KerasTensor]
    outputs: Sequence[keras.KerasTensor]


def calls_of(operation: Any) -> list[Call]:
    """All symbolic calls of a layer or another operation, in any model."""
    return [Call(node.input_tensors, node.outputs) for node in operation._inbound_nodes]


def made_by(tensor: keras.KerasTensor) -> tuple[Any, Call]:
    """The layer or other operation that made a symbolic tensor, and the call of it that did."""
    operation, index, _ = tensor._keras_history
    return operation, calls_of(operation)[index]


def layers_inside(layer: keras.Layer) -> list[keras.Layer]:
    """All layers inside a layer, at any depth, without itself."""
    return list(layer._flatten_layers(include_self=False))


def random_states(layer: keras.Layer) -> list[keras.Variable]:
    """The states of all random generators of a layer and of the layers inside it."""
    layers = [layer, *layers_inside(layer)]
    return [generator.state for each in layers for generator in each._seed_generators]


@functools.cache
def activity_penalties_add_up() -> bool:
    """Tells if activity regularizers add up over a batch, as in old releases of Keras.

    In newer ones they are means over samples, as every other loss.
    """
    layer = keras.layers.ActivityRegularization(l1=1.0)
    layer(np.ones((2, 1), np.float32))
    return float(layer.losses[0]) > 1.5


def clipped(
    optimizer: keras.optimizers.Optimizer, gradients: Sequence[tf.Tensor | None]
) -> list[tf.Tensor | None]:
    """Gradients as an optimizer will clip them."""
    return list(optimizer._clip_gradients(list(gradients)))


def places_in(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]
) -> tuple[list[int], int]:
    """Indices of variables among those that an optimizer was built on, and the number of those.

    Raises:
        ValueError: If it was not built on one of them.
    """
    try:
        places = [optimizer._get_variable_index(variable) for variable in variables]
    except KeyError:
        raise ValueError(
            "`optimizer` was built on other variables than those that are trained now. Compile "
            "with a new one."
        ) from None
    return places, len(optimizer._trainable_variables)


def assign_past_scopes(variable: keras.Variable, value: Any) -> None:
    """Assigns to a variable itself, where a `keras.StatelessScope` would keep the value."""
    variable._direct_assign(value)


def begin_at(model: keras.Model, epoch: int | None) -> None:
    """Has `fit` begin at an epoch, which is kept until it is `None` again."""
    model._initial_epoch = epoch


def loss_metric(model: keras.Model) -> keras.Metric | None:
    """The metric that shows a compiled model's loss."""
    return model._loss_tracker


def compiled_loss(model: keras.Model) -> CompileLoss | None:
    """The loss that a model was compiled with, as it is computed."""
    return model._compile_loss


def leave_loss_out(model: keras.Model) -> None:
    """Has Keras compute nothing of the loss that a model was compiled with."""
    model._compile_loss = None
