"""Where attacks in training begin: where they left each sample the last time."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lexirobust.attacks import DAA, PGD, Classifier
from lexirobust.training.objectives import Batch, Objective
from lexirobust.training.parts import over_parts


@keras.saving.register_keras_serializable(package="lexirobust")
class WarmStart:
    """Starts every attack in training at the sample's last perturbation.

    A few steps on each visit then do what many steps from a random start do. Perturbations are kept
    by the index of the sample, so that shuffled data work, and are saved with the model. `fit`
    counts the samples of arrays by itself; a dataset carries the indices that
    `lexirobust.datasets.with_index` gives it. What `OLGRC` shows its discriminator begins where it
    ended, too, and takes its steps even where `free` is set.

    Args:
        free: Whether the objectives' attacks take no steps of their own. The backward pass that
            gives the gradient of a rank's weights gives that of its inputs too, and one step along
            it is where the next visit begins: a perturbation without a pass of the classifier.
        reset_every: After how many visits a sample starts at random again; `None`: never.
        samples: How many samples there are. `None`: as many as the arrays that `fit` is given
            hold.

    Raises:
        ValueError: If a number is not an integer of at least 1.
        TypeError: If `free` is not a bool.

    Example:

    >>> import keras, lexirobust as lr
    >>> classifier = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    >>> attack = lr.attacks.PGD(norm="l2", steps=3, bounds=None)
    >>> model = lr.OLSRC(classifier, attack, [1.0, 2.0], warm_start=lr.WarmStart())
    >>> model.compile("adam")
    >>> history = model.fit(*lr.datasets.toy(20, seed=0), epochs=2, verbose=0)

    Reference:
        Shafahi et al., arXiv 1904.12843, and Zheng et al., arXiv 1912.11969, which reuse
        perturbations in other ways.
    """

    def __init__(
        self, *, free: bool = False, reset_every: int | None = None, samples: int | None = None
    ) -> None:
        if not isinstance(free, bool):
            raise TypeError(f"`free` must be a bool. Received: {free!r}.")
        for name, value in (("reset_every", reset_every), ("samples", samples)):
            integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
            if value is not None and not (integer and value > 0):
                raise ValueError(
                    f"`{name}` must be an integer of at least 1 or None. Received: {value!r}."
                )
        self.free = free
        self.reset_every = None if reset_every is None else int(reset_every)
        self.samples = None if samples is None else int(samples)

    def get_config(self) -> dict[str, Any]:
        """Returns the settings from which `from_config` makes an equal one."""
        return {"free": self.free, "reset_every": self.reset_every, "samples": self.samples}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "WarmStart":
        """Makes one from what `get_config` returned."""
        return cls(**config)


def check_warm_start(warm_start: Any, terms: Sequence[Objective]) -> None:
    """Checks that attacks can begin where they left off.

    Args:
        warm_start: What is to be a `WarmStart`.
        terms: All objectives.

    Raises:
        ValueError: If an attack cannot be given its start, or there is none.
        TypeError: If `warm_start` is something else.
    """
    if not isinstance(warm_start, WarmStart):
        raise TypeError(f"`warm_start` must be a WarmStart or None. Received: {warm_start!r}.")
    attacks = [term.attack for term in terms if term.attack is not None]
    if not attacks or not all(isinstance(attack, PGD) for attack in attacks):
        raise ValueError(
            "`warm_start` needs objectives whose attacks follow gradients as PGD does. Received: "
            f"attacks {attacks}."
        )
    if warm_start.free and any(isinstance(attack, DAA) for attack in attacks):
        raise ValueError(
            "`warm_start` with free=True needs attacks that only ask for a gradient's direction, "
            "which DAA does not. Received: DAA."
        )


def free_steps(
    terms: Sequence[Objective],
    classifier: Classifier,
    batch: Batch,
    moved: Sequence[tf.Tensor],
    gradients: Sequence[tf.Tensor],
    micro_batch_size: int | None,
) -> list[tf.Tensor]:
    """Takes one step of every attack along gradients that are known already.

    Args:
        terms: All objectives.
        classifier: Maps inputs to logits.
        batch: The clean batch.
        moved: The perturbed inputs, one tensor an attacked objective.
        gradients: The gradient of each one's loss there, up to a positive factor a sample.
        micro_batch_size: Most samples at a time, or `None`.

    Returns:
        The perturbations after the step, one tensor an attacked objective.
    """
    attacked = [term for term in terms if term.attack is not None]

    def part(tensors: Any, number: tf.Tensor, share: Any) -> tuple[Any, Any]:
        del number, share
        batch, moved, gradients = tensors
        perturbations = []
        for term, inputs, gradient in zip(attacked, moved, gradients, strict=True):
            assert isinstance(term.attack, PGD)
            magnitude = tf.fill(tf.shape(batch.x)[:1], term.magnitude)
            onward = term.attack.follow(classifier, batch.x, batch.y, magnitude, inputs, gradient)
            perturbations.append(onward - batch.x)
        return [], perturbations

    return over_parts(part, (batch, list(moved), list(gradients)), micro_batch_size)[1]


class Starts:
    """The perturbations that attacks begin with, for every sample and every objective.

    Args:
        count: How many objectives are attacked.
        samples: How many samples there are.
        shape: The shape of a sample.
        reset_every: After how many visits a sample starts at random again; `None`: never.
    """

    def __init__(
        self, count: int, samples: int, shape: Sequence[int], reset_every: int | None
    ) -> None:
        self._reset_every = reset_every
        # Each replica's copy is written by that replica, always with what all of them found.
        none = tf.VariableAggregation.NONE
        self._kept = [
            tf.Variable(
                tf.zeros((samples, *shape), keras.config.floatx()),
                trainable=False,
                aggregation=none,
            )
            for _ in range(count)
        ]
        # Not int32: TensorFlow keeps such variables off the GPU, where XLA cannot reach them.
        self._visits = tf.Variable(
            tf.zeros((samples,), tf.int64), trainable=False, aggregation=none
        )

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return int(self._visits.shape[0])

    @property
    def variables(self) -> list[tf.Variable]:
        """All that is to be saved."""
        return [*self._kept, self._visits]

    def at(self, index: tf.Tensor) -> list[tf.Tensor]:
        """Reads perturbations.

        Args:
            index: `[n]` integer tensor.

        Returns:
            One `[n, ...]` tensor an objective; zeros where a sample is to start at random.
        """
        starts = [tf.gather(kept, index) for kept in self._kept]
        if self._reset_every is None:
            return starts
        goes_on = tf.gather(self._visits, index) % self._reset_every != 0
        goes_on = tf.reshape(goes_on, [-1] + [1] * (starts[0].shape.rank - 1))
        return [tf.where(goes_on, start, 0.0) for start in starts]

    def keep(self, index: tf.Tensor, perturbations: Sequence[tf.Tensor]) -> None:
        """Writes perturbations, and counts the visit.

        Args:
            index: `[n]` integer tensor.
            perturbations: One `[n, ...]` tensor an objective.
        """
        index, *perturbations = (_of_all_replicas(t) for t in (index, *perturbations))
        for kept, perturbation in zip(self._kept, perturbations, strict=True):
            kept.scatter_update(tf.IndexedSlices(tf.cast(perturbation, kept.dtype), index))
        self._visits.scatter_add(tf.IndexedSlices(tf.ones_like(index, tf.int64), index))


def _of_all_replicas(tensor: tf.Tensor) -> tf.Tensor:
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return tensor
    return tf.distribute.get_replica_context().all_gather(tensor, axis=0)
