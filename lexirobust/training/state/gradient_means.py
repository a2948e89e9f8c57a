"""Running means of each rank's gradient, by which ranks are compared."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from lexirobust.checks import check_count
from lexirobust.graphs import compiled
from lexirobust.tensors import wide
from lexirobust.training.state.saved_variables import replicated
from lexirobust.training.step.objective_losses import Gradient


@keras.saving.register_keras_serializable(package="lexirobust")
class RunningMean:
    """Compares ranks by the running means of their gradients over the last steps.

    A gradient of a batch says little of the data set, and its noise hides conflicts: a step that
    helps every rank on this batch may hurt a higher rank on all others. With a memory, the
    projection is solved between the mean gradients, and the weights of the ranks that follow from
    it are those of the batch's own gradients in the step: on average over batches, no rank's part
    of it opposes the mean of a higher rank, as far as weights and metric do not depend on the
    batch. In the optimizer's metric the step that reaches the weights does not oppose the first
    rank's mean, where without a memory it is held to that rank's batch.

    The mean weighs all steps alike until there are `steps` of them, and forgets from then on by one
    part in `steps` a step. It begins anew where weights are not what the last step left, as the
    sums of about a thousand values of each variable tell: after other weights were set, or the
    optimizer's averages took their place. Steps in which a gradient is not finite, which loss
    scaling skips, are not remembered. It is as large as the weights, for every rank.

    Args:
        steps: Time constant in training steps. A longer mean is of more samples and of older
            weights: what it says of the present ones fades where steps are large.

    Raises:
        ValueError: If `steps` is no integer of at least 1.

    Example:

    >>> import keras, lexirobust as lr
    >>> x, y = lr.datasets.toy(100, seed=0)
    >>> attack = lr.attacks.PGD(norm="l2", steps=1, restarts=2, bounds=None)
    >>> classifier = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    >>> model = lr.OLSRC(classifier, attack, [4.0], memory=lr.RunningMean())
    >>> model.compile("adam")
    >>> logs = model.fit(x, y, batch_size=10, epochs=2, verbose=0).history
    >>> min(logs["memory_step_cosine@natural"]) >= 0
    True

    Reference:
        The paper trains on full batches for want of it (sections 6 and 8). Tracked gradients in
        multi-objective descent: Fernando et al., arXiv 2210.12624.
    """

    def __init__(self, *, steps: int = 20) -> None:
        check_count("steps", steps)
        self.steps = int(steps)

    def get_config(self) -> dict[str, Any]:
        """Returns the settings from which `from_config` makes an equal one."""
        return {"steps": self.steps}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "RunningMean":
        """Makes one from what `get_config` returned."""
        return cls(**config)


def check_memory(
    memory: Any, ranks: int, update: str, keep_gradients: bool, safeguard: bool
) -> None:
    """Checks that ranks can be compared by a memory.

    Args:
        memory: What is to be a `RunningMean`.
        ranks: How many ranks there are.
        update: As of `LexicographicModel`, like those below.
        keep_gradients: Whether all gradients are at hand.
        safeguard: Whether steps are checked by the batch's loss.

    Raises:
        ValueError: If there is nothing to be compared, or the other options do not go with it.
        TypeError: If `memory` is something else.
    """
    if not isinstance(memory, RunningMean):
        raise TypeError(f"`memory` must be a RunningMean or None. Received: {memory!r}.")
    if ranks < 2:
        raise ValueError("`memory` needs at least two ranks: one alone is compared to none.")
    if update != "onestep" or not keep_gradients or safeguard:
        raise ValueError(
            "`memory` needs update='onestep', keep_gradients=True and safeguard=False. Received: "
            f"{update!r}, {keep_gradients}, {safeguard}."
        )


class GradientMeans:
    """The means of a model's ranks, and the weights that they belong to.

    Args:
        settings: A `RunningMean`.
        ranks: How many ranks there are.
        trained: Gives the variables that gradients are by.
    """

    def __init__(
        self, settings: RunningMean, ranks: int, trained: Callable[[], Sequence[keras.Variable]]
    ) -> None:
        self._steps = settings.steps
        self._ranks = ranks
        self._trained = trained
        # Where the model is made its variables are.
        self._strategy = tf.distribute.get_strategy()
        self._means: list[list[tf.Variable]] = []

    @property
    def _suits(self) -> bool:
        """Whether there is room for what is trained now."""
        return [tuple(mean.shape) for mean in self._means[0]] == [
            tuple(variable.shape) for variable in self._trained()
        ]

    @property
    def variables(self) -> list[tf.Variable]:
        """All that is to be saved."""
        if not self._means:
            return []
        means = [variable for mean in self._means for variable in mean]
        return [*means, self._count, self._fingerprint]

    @property
    def means(self) -> list[Gradient]:
        """The mean gradients, one for each rank; empty before the first step."""
        if not self._means or not int(self._count):
            return []
        return [[variable.value() for variable in mean] for mean in self._means]

    def build(self) -> None:
        """Makes room, anew if other variables are trained than before."""
        if self._means and self._suits:
            return
        variables = self._trained()
        with tf.init_scope(), self._strategy.scope():
            self._means = [
                # Small parts of what is added are lost in fewer digits.
                [replicated(tf.zeros(v.shape, wide(v.dtype))) for v in variables]
                for _ in range(self._ranks)
            ]
            self._count = replicated(tf.zeros([], tf.int64))
            self._fingerprint = replicated(tf.zeros([2], tf.float64))

    def update(self, gradients: Sequence[Gradient]) -> list[Gradient]:
        """Adds gradients to the means.

        Args:
            gradients: The ranks' gradients on the batch, the first rank's first, summed over
                replicas.

        Returns:
            The means, this step's gradients among them.

        Raises:
            ValueError: If other variables are trained than when room was made.
        """
        if not self._suits:
            raise ValueError(
                "`compile` must be called again after layers were frozen or unfrozen: `memory` "
                "holds the mean gradients of the weights that were trained before."
            )
        fingerprint = weight_fingerprint([v.value for v in self._trained()])
        # Keras swaps weights and averages by sums and differences, and so back with rounding. What
        # is not a number is not the same.
        same = tf.reduce_all(tf.abs(fingerprint - self._fingerprint) <= 1e-6 * fingerprint[1])
        count = tf.where(same, self._count + 1, 1)
        share = 1.0 / tf.cast(tf.minimum(count, self._steps), keras.config.floatx())
        before = [[variable.value() for variable in mean] for mean in self._means]
        means, finite = _updated(before, list(gradients), share)
        for variables_of_mean, mean in zip(self._means, means, strict=True):
            for variable, value in zip(variables_of_mean, mean, strict=True):
                variable.assign(value)
        self._count.assign(tf.where(finite, count, count - 1))
        return [
            [
                None if g is None else tf.cast(value, g.dtype)
                for g, value in zip(gradient, mean, strict=True)
            ]
            for gradient, mean in zip(gradients, means, strict=True)
        ]

    def commit_state(self, replaced: tf.Tensor) -> None:
        """Saves the fingerprint of the weights after a step.

        Args:
            replaced: Scalar bool: whether they are others than the step led to, so that the next
                step begins anew.
        """
        fingerprint = weight_fingerprint([v.value for v in self._trained()])
        # No weights have sizes that add up to less than 0.
        self._fingerprint.assign(
            tf.where(replaced, tf.constant(-1.0, fingerprint.dtype), fingerprint)
        )

    def load(self, values: Sequence[Any]) -> None:
        """Sets the means to what was saved.

        Args:
            values: What was saved; empty if nothing had been kept.

        Raises:
            ValueError: If they are of another number of ranks or variables.
        """
        if not values:
            return
        self.build()
        if len(values) != len(self.variables):
            raise ValueError(
                "A file must hold a memory of as many ranks and variables as the model has. "
                f"Received: {len(values)} values in the file, {len(self.variables)} in the model."
            )
        for variable, value in zip(self.variables, values, strict=True):
            variable.assign(value)


def averages_taken(optimizer: keras.optimizers.Optimizer) -> tf.Tensor:
    """Says whether an optimizer has just put the weights' running averages in their place.

    Args:
        optimizer: Keras optimizer, after it was applied, maybe wrapped for loss scaling.

    Returns:
        Scalar bool tensor.
    """
    innermost = getattr(optimizer, "inner_optimizer", optimizer)
    if not (innermost.use_ema and innermost.ema_overwrite_frequency):
        return tf.constant(False)
    return tf.equal(innermost.iterations.value % innermost.ema_overwrite_frequency, 0)


# Compiled: one pass over the means, which are as long as the weights.
@compiled
def _updated(
    means: list[list[tf.Tensor]], gradients: list[Gradient], share: tf.Tensor
) -> tuple[list[list[tf.Tensor]], tf.Tensor]:
    """The means updated by the gradients, if all are finite; and if they are."""
    present = [g for gradient in gradients for g in gradient if g is not None]
    finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in present])
    share = tf.where(finite, share, 0.0)

    def updated(old: tf.Tensor, new: tf.Tensor | None) -> tf.Tensor:
        part = tf.cast(share, old.dtype)
        there = tf.zeros_like(old) if new is None else tf.cast(new, old.dtype)
        return (1.0 - part) * old + tf.math.multiply_no_nan(there, part)

    pairs = zip(means, gradients, strict=True)
    return [[*map(updated, mean, gradient)] for mean, gradient in pairs], finite


def weight_fingerprint(values: list[tf.Tensor]) -> tf.Tensor:
    """`[2]` float64 that identify weights: the sum of some, and the sum of their sizes."""
    sums = []
    for value in values:
        # A thousand of each variable tell other weights as well as all of them.
        some = tf.reshape(value, [-1])[:: max(1, value.shape.num_elements() // 1000)]
        some = tf.cast(some, tf.float64)
        sums.append(tf.stack([tf.reduce_sum(some), tf.reduce_sum(tf.abs(some))]))
    return tf.add_n(sums)
