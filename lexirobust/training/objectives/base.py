"""The base classes of ranks and objectives."""

import abc
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self, TypeAlias

import tensorflow as tf

from lexirobust.attacks import Attack, Classifier, WorstCase
from lexirobust.configs import arguments_of, deserialized, serialized
from lexirobust.names import check_name
from lexirobust.training.objectives.forward import Forward

Score: TypeAlias = Callable[[tf.Tensor, tf.Tensor, tf.Tensor | None], tf.Tensor]
"""The compiled loss: labels, logits and sample weights to a scalar. Where the classifier has
several outputs: dicts of labels and of outputs, all or some of them, to the sum of their losses."""


class Batch(NamedTuple):
    """A batch as `fit` brings it: inputs, labels, and sample weights or `None`.

    Weights are `[N]`, however they were given. Where the classifier has several outputs, labels are
    a dict by their names, and so are weights unless they are the same for all; those of an output
    with more axes may have them too. The samples' indices in the data set are there where
    `lexirobust.datasets.with_index` gave them.
    """

    x: Any
    y: Any
    sample_weight: Any = None
    index: Any = None


def single_attacks(attack: Attack | None, magnitude: float = 1.0) -> Iterator[tuple[Attack, float]]:
    """Yields the attacks that perturb inputs, several for a `WorstCase`.

    Args:
        attack: The attack of an objective, or `None`.
        magnitude: The objective's own.

    Yields:
        Each attack with the magnitude that it moves by.
    """
    if isinstance(attack, WorstCase):
        for each, own in zip(attack.attacks, attack.magnitudes, strict=True):
            yield from single_attacks(each, own * magnitude)
    elif attack is not None:
        yield attack, magnitude


class Rank(abc.ABC):
    """One place in the ranking: an objective, or a weighted sum of several.

    Args:
        name: What the logs call it, without the characters of format strings, `. [ ] { } : !`.

    Raises:
        ValueError: If the name holds one of these.
    """

    by_losses = False
    """Tells if `weigh` is given the losses, which takes one more forward pass for each step."""

    def __init__(self, name: str) -> None:
        self.name = check_name(name)

    @property
    @abc.abstractmethod
    def terms(self) -> list[tuple[float, "Objective"]]:
        """The objectives whose losses add up to this rank's, each with its weight."""

    def weigh(self, losses: tf.Tensor | None) -> list[Any]:
        """Returns the weights of the terms in a step: those of `terms`, unless overridden.

        Args:
            losses: `[K]` losses of the terms on the whole batch; `None` unless `by_losses`.

        Returns:
            One weight a term, through which no gradient flows.
        """
        del losses
        return [weight for weight, _ in self.terms]

    def get_config(self) -> dict[str, Any]:
        """Returns the settings from which `from_config` makes an equal rank.

        A subclass that keeps each argument of its constructor as an attribute of the same name
        need not override this.
        """
        return serialized(arguments_of(self))

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes a rank from what `get_config` returned."""
        return cls(**deserialized(config))


class Objective(Rank):
    """One loss: what it sees, and how that is scored.

    A subclass writes `loss`; one that sees perturbed inputs sets `attack` and
    `magnitude` too; one whose loss comes without logits sets `gives_logits = False`.

    Args:
        name: What the logs call it.
        attack: Perturbs the inputs, or `None`.
        magnitude: Norm of the perturbation.

    Example:

    >>> import keras, lexirobust as lr, tensorflow as tf
    >>> @keras.saving.register_keras_serializable(package="example")
    ... class Confidence(lr.objectives.Objective):
    ...     # A rank that is a function of the outputs: small logits, whatever the labels.
    ...     def loss(self, forward, batch, inputs, score):
    ...         logits = forward(inputs)
    ...         return tf.reduce_mean(tf.square(logits)), logits
    >>> classifier = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    >>> ranks = [lr.objectives.Natural(), Confidence("confidence")]
    >>> model = lr.LexicographicModel(classifier, ranks)
    >>> model.compile("sgd")
    >>> history = model.fit(*lr.datasets.toy(20, seed=0), verbose=0).history
    >>> sorted(name for name in history if name.endswith("@confidence"))
    ['accuracy@confidence', 'loss@confidence', 'step_cosine@confidence']

    Reference:
        Section 4.2 of the paper.
    """

    gives_logits = True
    """Tells if `loss` returns logits too; the logs then hold their accuracy."""

    def __init__(self, name: str, attack: Attack | None = None, magnitude: float = 0.0) -> None:
        super().__init__(name)
        self.attack = attack
        self.magnitude = magnitude

    @property
    def terms(self) -> list[tuple[float, "Objective"]]:
        """The objective itself, with weight 1."""
        return [(1.0, self)]

    def target(self, classifier: Classifier, batch: Batch) -> tf.Tensor:
        """Returns what the attack works against: the labels, unless a subclass says otherwise.

        Args:
            classifier: Maps inputs to logits.
            batch: The clean batch.

        Returns:
            `[N]` integer labels, or `[N, C]` probabilities.
        """
        del classifier
        return batch.y

    def valid(self, x: tf.Tensor, x_adv: tf.Tensor) -> tf.Tensor | None:
        """Says which samples the loss is an average over.

        Args:
            x: `[N, ...]` clean inputs.
            x_adv: The perturbed inputs.

        Returns:
            `[N]` bool tensor, or `None` where all count.
        """
        return None if self.attack is None else self.attack.valid(x, x_adv, self.magnitude)

    @abc.abstractmethod
    def loss(
        self, forward: Forward, batch: Batch, inputs: tf.Tensor, score: Score
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Computes the objective's loss.

        Args:
            forward: The classifier in training, inputs to logits (to a dict where it has several
                outputs); calls with the same tensor share one pass.
            batch: The clean batch.
            inputs: The perturbed inputs, or the clean ones where there is no attack.
            score: The compiled loss.

        Returns:
            The scalar loss, and the `[N, C]` logits at `inputs`, or `None` in their place where
            `gives_logits` is false.
        """
