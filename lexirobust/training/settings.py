"""The settings that all ranked models share."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final

import keras

from lexirobust.checks import check_count, check_flag, check_number
from lexirobust.configs import serialized
from lexirobust.data_forms import check_one_input
from lexirobust.keras_internals import activity_penalties_add_up, layers_inside
from lexirobust.probabilities import is_of_labels, probability_layer
from lexirobust.training.objectives import Objective, Rank
from lexirobust.training.state.gradient_means import GradientMeans, RunningMean, check_memory
from lexirobust.training.state.target_estimates import TargetEstimates
from lexirobust.training.state.warm_start import PerturbationBuffer, WarmStart, check_warm_start
from lexirobust.training.targets import Target, check_targets

METRICS: Final = ("optimizer", "euclidean")
UPDATES: Final = ("onestep", "per_rank")


@dataclasses.dataclass
class TrainingSettings:
    """How a ranked model is trained, besides what its ranks and their weights are.

    Attributes are the arguments of the same names of `LexicographicModel`.

    Raises:
        ValueError: If one of them is out of range, or two do not go together.
        TypeError: If one of them is of another type.
    """

    margin: float = 0.0
    metric: str = "optimizer"
    update: str = "onestep"
    micro_batch_size: int | None = None
    keep_gradients: bool = True
    safeguard: bool = False
    detailed_logs: bool = False
    warm_start: WarmStart | None = None
    memory: RunningMean | None = None
    augmentation: keras.Layer | None = None
    targets: Sequence[Target | float | None] | None = None

    def __post_init__(self) -> None:
        # As Python's own numbers, which can be written as JSON.
        self.margin = check_number("margin", self.margin, 0)
        for name, value, known in (
            ("metric", self.metric, METRICS),
            ("update", self.update, UPDATES),
        ):
            if value not in known:
                raise ValueError(f"`{name}` must be one of {known}. Received: {value!r}.")
        if self.safeguard and self.metric != "optimizer":
            raise ValueError(f"`safeguard` needs metric='optimizer'. Received: {self.metric!r}.")
        check_count("micro_batch_size", self.micro_batch_size, optional=True)
        if not (self.augmentation is None or isinstance(self.augmentation, keras.Layer)):
            raise TypeError(
                f"`augmentation` must be a Keras layer or None. Received: {self.augmentation!r}."
            )
        if self.micro_batch_size is not None:
            self.micro_batch_size = int(self.micro_batch_size)
        for name in ("keep_gradients", "safeguard", "detailed_logs"):
            setattr(self, name, check_flag(name, getattr(self, name)))

    def check_ranks(self, ranks: Sequence[Rank]) -> None:
        """Checks that the settings suit a ranking.

        Args:
            ranks: The ranked losses.

        Raises:
            ValueError: If they do not.
            TypeError: If `warm_start`, `memory` or one of `targets` is something else.
        """
        if self.warm_start is not None:
            check_warm_start(self.warm_start, terms_of(ranks))
        if self.memory is not None:
            check_memory(self.memory, len(ranks), self.update, self.keep_gradients, self.safeguard)
        if self.targets is not None:
            self.targets = check_targets(self.targets, ranks)
            plain = self.update == "onestep" and self.keep_gradients
            if not plain or self.safeguard or self.margin:
                raise ValueError(
                    "`targets` need update='onestep', keep_gradients=True, safeguard=False and "
                    f"margin=0. Received: {self.update!r}, {self.keep_gradients}, "
                    f"{self.safeguard}, {self.margin}."
                )

    def make_state(
        self,
        ranks: Sequence[Rank],
        attacks: Callable[[], int],
        trained: Callable[[], Sequence[keras.Variable]],
    ) -> tuple[PerturbationBuffer | None, GradientMeans | None, TargetEstimates | None]:
        """Makes what training keeps from step to step, each `None` if it is not asked for.

        Args:
            ranks: The ranked losses.
            attacks: Gives the number of attacks on each sample.
            trained: Gives the variables that gradients are by.

        Returns:
            Perturbations by sample, mean gradients, and estimates of targets.
        """
        starts, memory, estimates = None, None, None
        if self.warm_start is not None:
            starts = PerturbationBuffer(self.warm_start, attacks)
        if self.memory is not None:
            memory = GradientMeans(self.memory, len(ranks), trained)
        if self.targets is not None:
            estimates = TargetEstimates(check_targets(self.targets, ranks), ranks)
        return starts, memory, estimates

    def get_config(self) -> dict[str, Any]:
        """Returns the keyword arguments that make equal settings, serialized."""
        fields = dataclasses.fields(self)
        return serialized({field.name: getattr(self, field.name) for field in fields})


def terms_of(ranks: Sequence[Rank]) -> list[Objective]:
    """The objectives of all ranks, in order."""
    return [term for rank in ranks for _, term in rank.terms]


def tightest_bounds(terms: Sequence[Objective]) -> tuple[float, float] | None:
    """The bounds of inputs that all attacks of objectives keep, or `None`."""
    attacks = [term.attack for term in terms if term.attack is not None]
    known = [attack.bounds for attack in attacks if attack.bounds is not None]
    if not known:
        return None
    return max(low for low, _ in known), min(high for _, high in known)


def check_logits(classifier: keras.Model, ranks: Sequence[Rank]) -> None:
    """Checks that a classifier whose layers are known does not end in probabilities.

    Args:
        classifier: What is to be trained.
        ranks: The ranked losses.

    Raises:
        ValueError: If losses are of logits, and its last layer makes probabilities of them.
    """
    end = probability_layer(classifier)
    if is_of_labels(end):
        return  # A loss of one's own may be of them; `compile` knows it.
    if end is not None and any(term.gives_logits for term in terms_of(ranks)):
        raise ValueError(
            "`classifier` must give logits. Received: one whose last layer, "
            f"{end.name!r}, makes probabilities of them; train lexirobust.logits(classifier)."
        )


def check_activity_penalties(classifier: keras.Model) -> None:
    """Checks that what a classifier adds to its loss is the same in micro-batches.

    Raises:
        ValueError: If it is a sum over the batch, of which micro-batches would give a part.
    """
    penalized = [
        layer.name
        for layer in layers_inside(classifier)
        if getattr(layer, "activity_regularizer", None) is not None
    ]
    if penalized and activity_penalties_add_up():
        raise ValueError(
            "`micro_batch_size` must be None for a classifier with activity regularizers: Keras "
            f"{keras.__version__} adds their losses up over a batch, where newer releases take the "
            f"mean. Received: layers {penalized}."
        )


def check_classifier(classifier: Any) -> None:
    """Checks what is to be trained.

    Args:
        classifier: What is to be a Keras model of one input.

    Raises:
        TypeError: If it is something else.
        ValueError: If it has several inputs.
    """
    if not isinstance(classifier, keras.Model):
        remedy = "; keras.Sequential([layer]) makes a model of it"
        raise TypeError(
            f"`classifier` must be a Keras model. Received: {classifier!r}"
            f"{remedy * isinstance(classifier, keras.Layer)}."
        )
    check_one_input(classifier)


def check_objectives(objectives: Any) -> None:
    """Checks ranked losses by themselves.

    Args:
        objectives: What is to be a sequence of ranks.

    Raises:
        ValueError: If it is empty or holds something else, or two objectives have one name.
    """
    if not objectives or not all(isinstance(rank, Rank) for rank in objectives):
        raise ValueError(
            "`objectives` must be a non-empty list of lexirobust objectives. Received: "
            f"{objectives!r}."
        )
    names = [term.name for term in terms_of(objectives)]
    if len(set(names)) != len(names):
        raise ValueError(f"`objectives` must have different names. Received: {names}.")


def check_trainable(classifier: keras.Model) -> None:
    """Checks that there is something to train.

    Args:
        classifier: A Keras model that has been built.

    Raises:
        ValueError: If no weight is trainable.
    """
    if not classifier.trainable_variables:
        raise ValueError(
            "`classifier` must have trainable weights. Received: none; set `trainable = True` "
            "for it, or for some of its layers, and compile again."
        )


def checked_optimizer(optimizer: Any, loss_weights: Any = None) -> keras.optimizers.Optimizer:
    """Checks that an optimizer can take ranked steps.

    Args:
        optimizer: Keras optimizer or its name.
        loss_weights: As given to `compile`.

    Returns:
        The optimizer.

    Raises:
        ValueError: If there is none, it accumulates gradients, or losses have weights.
    """
    optimizer = keras.optimizers.get(optimizer)
    if optimizer is None:
        raise ValueError("`optimizer` must be a Keras optimizer or its name. Received: None.")
    innermost = getattr(optimizer, "inner_optimizer", optimizer)
    accumulation = getattr(innermost, "gradient_accumulation_steps", None)
    if accumulation:
        raise ValueError(
            "`gradient_accumulation_steps` must be None: the optimizer would average gradients "
            f"that are projected already. Use a larger batch. Received: {accumulation}."
        )
    if loss_weights is not None:
        raise ValueError(
            f"`loss_weights` must be None: ranks are weighed by `alphas`. Received: {loss_weights}."
        )
    return optimizer
