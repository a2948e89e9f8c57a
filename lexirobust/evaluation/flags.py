"""Warnings about robust accuracies that cannot be trusted: findings, meaning and remedy."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import tensorflow as tf

from lexirobust.attacks import (
    FGSM,
    PGD,
    Attack,
    AutoAttack,
    Classifier,
    Spatial,
    Square,
    WithinMagnitude,
    losses,
)
from lexirobust.attacks.classifier import logits_of
from lexirobust.attacks.minimum_norm.decisions import DecisionAttack
from lexirobust.checks import logits_problem, randomness_problem
from lexirobust.geometry import balls
from lexirobust.probabilities import probability_layer
from lexirobust.tensors import classes_of

SHARE: Final = 0.03
"""Of the samples looked at; what a stronger attack may break more without a flag."""
_NOISE_DRAWS: Final = 20
_SEARCH_QUERIES: Final = 200


@dataclasses.dataclass(frozen=True)
class Flag:
    """A reason not to take an accuracy at its face value.

    Attributes:
        name: What was found, in a word or two.
        message: The finding, with its numbers, and what it means.
        advice: What to do.
    """

    name: str
    message: str
    advice: str


class Probe(NamedTuple):
    """A few samples, attacked at one magnitude, that all checks examine.

    Attributes:
        classifier: Maps inputs to logits.
        attacks: The attacks that were measured with, of which each sample keeps the worst outcome.
        x: `[n, ...]` clean inputs.
        y: `[n]` labels.
        magnitude: A magnitude at which some samples resist and some do not, if there is one.
        norms: `[n]` what it comes to for each sample: the same, unless classes have priors.
        resists: `[n]` bool: what was classified as labeled under all attacks.
        seed: What all attacks that the checks make draw from.
    """

    classifier: Classifier
    attacks: Sequence[Attack]
    x: tf.Tensor
    y: np.ndarray
    magnitude: float
    norms: np.ndarray
    resists: np.ndarray
    seed: int

    def right(self, x: tf.Tensor) -> np.ndarray:
        """`[n]` bool: whether inputs `[n, ...]` are classified as labeled."""
        return np.asarray(classes_of(logits_of(self.classifier, x))) == self.y

    def under(self, attack: Attack, norms: Any | None = None) -> np.ndarray:
        """`[n]` bool: what is classified as labeled under an attack."""
        norms = self.norms if norms is None else norms
        with attack.drawing_from(self.seed):
            return self.right(attack(self.classifier, self.x, self.y, norms))

    def broken(self, right: np.ndarray) -> str | None:
        """The share of what resists that is wrong here, in %; `None` if it is not worth a flag."""
        broken = self.resists & ~right
        if not np.mean(broken) > SHARE:
            return None
        return f"{np.sum(broken) / np.sum(self.resists):.0%}"

    @property
    def follows_gradients(self) -> bool:
        """Whether one of the attacks does."""
        searches = [a.attack if isinstance(a, WithinMagnitude) else a for a in self.attacks]
        return not all(isinstance(each, Square | Spatial | DecisionAttack) for each in searches)

    @property
    def limits(self) -> dict[str, Any]:
        """Norm, constraint and bounds of what all attacks together may do."""
        exact = all(getattr(a, "constraint", "exact") == "exact" for a in self.attacks)
        return {
            "norm": self.attacks[0].norm,
            "constraint": "exact" if exact else "maximum",
            "bounds": self.attacks[0].bounds,
        }


def _probabilities(probe: Probe) -> Flag | None:
    problem = logits_problem(logits_of(probe.classifier, probe.x))
    end = probability_layer(probe.classifier)
    if problem is None and end is not None:
        problem = (
            f"`classifier` ends in probabilities, layer {end.name!r}: their gradients mislead "
            "attacks, and accuracies come out too high."
        )
    return _flag("probabilities", problem, "Measure `lexirobust.logits(model)`.")


def _randomized(probe: Probe) -> Flag | None:
    first, second = (logits_of(probe.classifier, probe.x) for _ in range(2))
    return _flag(
        "randomized",
        randomness_problem(first, second),
        "Switch the randomness off, or measure the mean over many calls.",
    )


def _batch_dependent(probe: Probe) -> Flag | None:
    together = np.asarray(logits_of(probe.classifier, probe.x))
    half = max(len(together) // 2, 1)
    alone = np.asarray(logits_of(probe.classifier, probe.x[:half]))
    apart = np.abs(together[:half] - alone).max()
    if not apart > 1e-3 * np.abs(together).max():
        return None
    return Flag(
        "batch-dependent",
        f"A sample's outputs depend on which others share its batch: by {apart:.2g} here. Batch "
        "normalization in training mode does that. What an attack finds in one batch need not hold "
        "in another.",
        "Call the model with training=False.",
    )


def _zero_gradients(probe: Probe) -> Flag | None:
    if not probe.follows_gradients:
        return None
    with tf.GradientTape() as tape:
        tape.watch(probe.x)
        logits = logits_of(probe.classifier, probe.x)
        # Of logits: cross entropy has no gradient in float32 where a classifier is sure.
        margins = losses.margin(logits, tf.constant(probe.y), tf.constant(False))
    gradient = tape.gradient(margins, probe.x)
    if gradient is None:
        share = 1.0
    else:
        flat = np.reshape(gradient, (len(probe.y), -1))
        share = float(np.mean(~np.any(flat, axis=1) | ~np.all(np.isfinite(flat), axis=1)))
    if share <= 0.1:
        return None
    return Flag(
        "no gradients",
        f"For {share:.0%} of the samples looked at, the logits have no gradient by the input, or "
        "none that is finite. Attacks that follow gradients stay where they start there, and the "
        "accuracy says nothing.",
        "Measure with an attack that needs no gradients, or a differentiable stand-in for the step "
        "that hides them.",
    )


def _too_weak(probe: Probe) -> Flag | None:
    for attack in probe.attacks:
        config = attack.get_config() if isinstance(attack, PGD) else {}
        for setting in ("steps", "restarts"):
            one_start = setting == "restarts" and not config.get("random_start", True)
            if one_start or setting not in config:
                continue
            stronger = type(attack).from_config({**config, setting: 2 * config[setting]})
            share = probe.broken(probe.under(stronger))
            if share:
                return Flag(
                    "attack too weak",
                    f"With twice the {setting}, {2 * config[setting]}, {type(attack).__name__} "
                    f"breaks at magnitude {probe.magnitude:g} another {share} of what resists, of "
                    f"{len(probe.y)} samples looked at. The true accuracy is lower.",
                    f"Double `{setting}` until the accuracy stays, or measure with `AutoAttack`.",
                )
    return None


def _one_step_is_stronger(probe: Probe) -> Flag | None:
    if not probe.follows_gradients:
        return None
    share = probe.broken(probe.under(FGSM(**probe.limits)))
    if share is None:
        return None
    return Flag(
        "one step is stronger",
        f"One step of the gradient's sign or direction breaks {share} of the samples that resist "
        f"{_named(probe)}: iterating goes astray, as it does where gradients are masked.",
        "Try other losses and step sizes, and an attack without gradients.",
    )


def _noise_is_stronger(probe: Probe) -> Flag | None:
    limits, right = probe.limits, probe.resists
    radius = tf.cast(probe.norms, probe.x.dtype)
    for draw in range(_NOISE_DRAWS):
        noise = balls.random_perturbation(
            probe.x, radius, limits["norm"], tf.constant([draw, 0]), surface=True
        )
        noisy = probe.x + noise
        if limits["bounds"] is not None:
            noisy = tf.clip_by_value(noisy, *limits["bounds"])
        right = right & probe.right(noisy)
    share = probe.broken(right)
    if share is None:
        return None
    return Flag(
        "noise is stronger",
        f"{_NOISE_DRAWS} random perturbations of the same norm break {share} of the samples that "
        f"resist {_named(probe)}, which goes astray.",
        "Measure with an attack that needs no gradients, and look for what hides them.",
    )


def _search_is_stronger(probe: Probe) -> Flag | None:
    search = Square(max_queries=_SEARCH_QUERIES, seed=0, **probe.limits)
    share = probe.broken(probe.under(search))
    if share is None:
        return None
    return Flag(
        "search is stronger",
        f"A random search of {_SEARCH_QUERIES} queries, which sees no gradients, breaks {share} of "
        f"the samples that resist {_named(probe)}, which goes astray.",
        "Measure with `AutoAttack`, and look for what hides the gradients.",
    )


def _not_at_chance(probe: Probe) -> Flag | None:
    attacks = [attack for attack in probe.attacks if isinstance(attack, PGD | AutoAttack)]
    if not attacks:
        return None
    flat = np.reshape(probe.x, (len(probe.y), -1)).astype(np.float64)
    # The whole box is in reach, or ten times what the data span: every class is.
    box = attacks[0].bounds or (10.0 * flat.min() - 1.0, 10.0 * flat.max() + 1.0)
    size = balls.diagonal(box, flat.shape[1:], attacks[0].norm)
    right = np.ones(len(probe.y), bool)
    for attack in attacks:
        if isinstance(attack, PGD):  # AutoAttack's magnitudes are the most that may be added.
            config = {**attack.get_config(), "constraint": "maximum"}
            attack = type(attack).from_config(config)
        right &= probe.under(attack, size)
    classes = logits_of(probe.classifier, probe.x[:1]).shape[-1]
    chance = 1.0 / classes
    accuracy, allowed = float(np.mean(right)), chance + 2 * (chance / len(probe.y)) ** 0.5
    if accuracy <= allowed:
        return None
    return Flag(
        "not at chance",
        f"At a maximum norm of {size:g}, where every class is in reach, the accuracy is still "
        f"{accuracy:.0%}; chance is {chance:.0%}. The attack does not find what is there.",
        "Raise steps and restarts; look for what hides gradients.",
    )


CHECKS: Final[tuple[Callable[[Probe], Flag | None], ...]] = (
    _probabilities,
    _randomized,
    _batch_dependent,
    _zero_gradients,
    _not_at_chance,
    _noise_is_stronger,
    _search_is_stronger,
    _one_step_is_stronger,
    _too_weak,
)
"""The gravest first."""
_OF_NORMS: Final = (
    _not_at_chance,
    _noise_is_stronger,
    _search_is_stronger,
    _one_step_is_stronger,
)
_OF_ATTACKS: Final = (*_OF_NORMS, _too_weak)


def find_flags(probe: Probe) -> Iterator[Flag]:
    """Looks for reasons not to trust what was measured.

    A classifier that answers at random, or by batch, is not attacked any further: whatever such
    attacks found would be chance.

    Args:
        probe: What to look at.

    Yields:
        One flag a reason, the gravest first.
    """
    unsteady = False
    raises = probe.magnitude > 0 and all(
        getattr(attack, "goal", "maximize") == "maximize" for attack in probe.attacks
    )
    of_norms = all(attack.norm in balls.NORMS for attack in probe.attacks)
    for check in CHECKS:
        if check in _OF_ATTACKS and (unsteady or not raises):
            continue
        if check in _OF_NORMS and not of_norms:
            continue
        flag = check(probe)
        if flag is not None:
            unsteady |= check in (_randomized, _batch_dependent)
            yield flag


def _named(probe: Probe) -> str:
    """The attacks by their classes."""
    return " and ".join(dict.fromkeys(type(attack).__name__ for attack in probe.attacks))


def _flag(name: str, problem: str | None, advice: str) -> Flag | None:
    return None if problem is None else Flag(name, problem, advice)
