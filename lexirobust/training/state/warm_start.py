"""Warm starts: attacks in training begin at each sample's last perturbation."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import keras
import tensorflow as tf

from lexirobust.attacks import DAA, PGD, Classifier
from lexirobust.checks import check_count, check_flag
from lexirobust.data_checks import check_index
from lexirobust.data_forms import only_input, unindexed
from lexirobust.datasets import with_index
from lexirobust.tensors import choose, of_dtype
from lexirobust.training.objectives import Batch, Objective
from lexirobust.training.replicas import gather_from_replicas
from lexirobust.training.state.saved_variables import replicated
from lexirobust.training.step.micro_batches import map_micro_batches
from lexirobust.training.step.objective_losses import ObjectiveLosses
from lexirobust.warn import warn

RANDOM_STARTS: Final = "random_starts"
"""The log name of the share of samples whose attacks had a random start."""
_SAME: Final = 1e-5
"""Marks of inputs that differ by less, relative to what they could be, are of the same input."""
_NO_INDEX: Final = (
    "`x` must come with the indices of its samples where `warm_start` is set; see "
    "lexirobust.datasets.with_index."
)


@keras.saving.register_keras_serializable(package="lexirobust")
class WarmStart:
    """Starts every attack in training at the sample's last perturbation.

    A few steps on each visit then do what many steps from a random start do. Perturbations are kept
    by the index of the sample, so that shuffled data work, and are saved with the model. `fit`
    counts the samples of arrays by itself; a dataset carries the indices that
    `lexirobust.datasets.with_index` gives it. What `OLGRC` shows its discriminator begins where it
    ended, too, and takes its steps even where `free` is set.

    A perturbation belongs to the input that it was found for. What augmentation by layers makes of
    an input, it makes of the perturbation, too. Where a sample comes back as another one, since it
    was augmented on its way here, its attacks begin at random; the log `random_starts` is the share
    of samples for which they did.

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
        self.free = check_flag("free", free)
        check_count("reset_every", reset_every, optional=True)
        check_count("samples", samples, optional=True)
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


def warn_of_random_starts(history: dict[str, list[float]], warm_start: WarmStart | None) -> None:
    """Warns if attacks began at random in spite of a warm start.

    Args:
        history: The logs of `fit`.
        warm_start: The user's settings, or `None`.
    """
    shares = history.get(RANDOM_STARTS, [])
    reset = warm_start is not None and warm_start.reset_every == 1
    if len(shares) > 1 and min(shares) > 0.5 and not reset:
        warn(
            f"In every epoch attacks began at random for {min(shares):.0%} of the samples or more "
            "in spite of `warm_start`: inputs, or indices, were others than on the visit before. "
            "Attacks get no more than their own steps then; give them more, and leave "
            "`warm_start` out."
        )


def next_starts(objective_losses: ObjectiveLosses, classifier: Classifier) -> list[tf.Tensor]:
    """The perturbations that attacks on the same samples begin with the next time.

    Args:
        objective_losses: Knows the batch, its perturbed inputs, and, if attacks take their one
            step along gradients that training has computed anyway, these gradients.
        classifier: Maps inputs to logits.

    Returns:
        `[N, ...]` perturbations, one tensor an attacked objective.
    """
    terms = [term for rank in objective_losses.ranks for _, term in rank.terms]
    inputs = [each for own in objective_losses.objective_inputs for each in own]
    pairs = [
        (term, each.inputs)
        for term, each in zip(terms, inputs, strict=True)
        if term.attack is not None
    ]
    x_adv = [each for _, each in pairs]
    if not objective_losses.by_inputs:
        return [each - objective_losses.batch.x for each in x_adv]
    by_rank = objective_losses.input_gradients
    gradients = [g for rank in range(len(objective_losses.ranks)) for g in by_rank[rank]]

    def part(tensors: Any, number: tf.Tensor, share: Any) -> tuple[Any, Any]:
        del number, share
        batch, x_adv, gradients = tensors
        perturbations = []
        for (term, _), each, gradient in zip(pairs, x_adv, gradients, strict=True):
            assert isinstance(term.attack, PGD)
            magnitude = tf.fill(tf.shape(batch.x)[:1], of_dtype(term.magnitude, batch.x.dtype))
            stepped = term.attack.follow(classifier, batch.x, batch.y, magnitude, each, gradient)
            perturbations.append(stepped - batch.x)
        return [], perturbations

    tensors = (objective_losses.batch, x_adv, gradients)
    return map_micro_batches(part, tensors, objective_losses.micro_batch_size)[1]


class PerturbationBuffer:
    """The last perturbation of every sample by every attack.

    Room for them is made once it is known how many samples there are, and of what shape.

    Args:
        warm_start: The user's settings.
        attacks: Gives the number of attacks on each sample, when room is made.
    """

    def __init__(self, warm_start: WarmStart, attacks: Callable[[], int]) -> None:
        self._settings = warm_start
        self._attacks = attacks
        # Where the model is made its variables are.
        self._strategy = tf.distribute.get_strategy()
        self._kept: list[tf.Variable] = []
        self._visits: tf.Variable | None = None
        self._fingerprints: tf.Variable | None = None

    @property
    def variables(self) -> list[tf.Variable]:
        """All that is to be saved."""
        return [] if self._visits is None else [*self._kept, self._visits, self._fingerprints]

    def build(self, shape: Sequence[int | None], samples: int | None = None) -> None:
        """Makes room for perturbations, once.

        Args:
            shape: The shape of a batch.
            samples: How many samples there are, if that is known otherwise than from the settings.

        Raises:
            ValueError: If it is not known, or not as many as there is room for.
        """
        samples = self._settings.samples or samples
        if self._visits is not None:
            room = int(self._visits.shape[0])
            if samples is not None and samples != room:
                raise ValueError(
                    "`x` must hold the samples that `warm_start` keeps perturbations of; for other "
                    "data make a new model with the same classifier. Received: "
                    f"{samples} samples, perturbations of {room}."
                )
            return
        if samples is None:
            raise ValueError(
                "`warm_start` must name the number of `samples` where `x` is no array, as in "
                "WarmStart(samples=60_000)."
            )

        def zeros(shape: Sequence[int | None], dtype: Any) -> tf.Variable:
            return replicated(tf.zeros(shape, dtype))

        with tf.init_scope(), self._strategy.scope():
            floats = keras.config.floatx()
            self._kept = [zeros((samples, *shape[1:]), floats) for _ in range(self._attacks())]
            # Not int32: TensorFlow keeps such variables off the GPU, where XLA cannot reach them.
            self._visits = zeros((samples,), tf.int64)
            self._fingerprints = zeros((samples,), floats)

    def indexed(self, x: Any) -> Any:
        """Numbers the samples of arrays, and makes room for perturbations.

        Args:
            x: What `fit` is given: arrays, what `datasets.with_index` made of them, or a dataset.

        Returns:
            The same, arrays with their indices.

        Raises:
            ValueError: If a dataset has no indices, or they are not those of the samples.
        """
        if isinstance(x, tf.data.Dataset):
            inputs = x.element_spec[0]
            if unindexed(inputs) is inputs:
                raise ValueError(_NO_INDEX)
            self.build(only_input(inputs).shape)
            return x
        inputs = only_input(x)
        if not hasattr(inputs, "shape"):
            return x
        if unindexed(x) is x:
            x = with_index(inputs)
        samples = self._settings.samples or len(inputs)
        check_index(x["index"], samples)
        self.build(inputs.shape, samples)
        return x

    def read(self, batch: Batch) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Reads the perturbations that the attacks on a batch begin with.

        Args:
            batch: The clean batch.

        Returns:
            One `[n, ...]` tensor an attack, zeros if a sample is to start at random; and, as
            the one value to log, the share of samples that are.

        Raises:
            ValueError: If the batch has no indices.
        """
        if batch.index is None:
            raise ValueError(_NO_INDEX)
        self.build(batch.x.shape)
        assert self._visits is not None
        assert self._fingerprints is not None
        visits = tf.gather(self._visits, batch.index)
        fingerprint, size = input_fingerprint(batch.x)
        goes_on = tf.abs(fingerprint - tf.gather(self._fingerprints, batch.index)) <= _SAME * size
        goes_on &= visits > 0
        if self._settings.reset_every is not None:
            goes_on &= visits % self._settings.reset_every != 0
        starts = [tf.gather(kept, batch.index) for kept in self._kept]
        starts = [choose(goes_on, start, tf.zeros_like(start)) for start in starts]
        share = tf.reduce_mean(tf.cast(~goes_on, tf.float32))
        return starts, [share]

    def write(self, batch: Batch, perturbations: Sequence[tf.Tensor]) -> None:
        """Writes perturbations, and counts the visit.

        Args:
            batch: The clean batch.
            perturbations: One `[n, ...]` tensor an attack.
        """
        assert self._visits is not None
        given = (batch.index, *perturbations, input_fingerprint(batch.x)[0])
        index, *values = (gather_from_replicas(tensor) for tensor in given)
        for kept, value in zip([*self._kept, self._fingerprints], values, strict=True):
            kept.scatter_update(tf.IndexedSlices(tf.cast(value, kept.dtype), index))
        self._visits.scatter_add(tf.IndexedSlices(tf.ones_like(index, tf.int64), index))

    def load(self, values: Sequence[Any]) -> None:
        """Sets the perturbations to what was saved.

        Args:
            values: What was saved; empty if nothing had been kept.

        Raises:
            ValueError: If they are of another number of attacks or samples.
        """
        if not values:
            return
        self.build(values[0].shape, len(values[0]))
        if len(values) != len(self.variables):
            raise ValueError(
                "A file must hold perturbations of as many attacks as the model has; give it the "
                f"objectives that it was saved with. Received: {len(values) - 2} in the file, "
                f"{len(self._kept)} in the model."
            )
        for variable, value in zip(self.variables, values, strict=True):
            variable.assign(value)


def input_fingerprint(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """`[N]` numbers that distinguish inputs `[N, ...]`, and how large they could be."""
    rows = tf.reshape(x, [tf.shape(x)[0], -1])
    # Integers are the same wherever they are computed; XLA would draw other random numbers.
    scattered = tf.range(tf.shape(rows)[1]) % 1024 * 619 % 1024
    weights = 0.5 + tf.cast(scattered, rows.dtype) / 1024.0
    return tf.linalg.matvec(rows, weights), tf.reduce_sum(tf.abs(rows), axis=1)
