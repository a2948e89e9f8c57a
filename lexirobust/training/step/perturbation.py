"""The inputs of all objectives on one batch, perturbed if they have an attack."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from lexirobust.attacks import PGD, Classifier
from lexirobust.tensors import of_dtype
from lexirobust.training.objectives import Batch, Divergence, Objective, Rank
from lexirobust.training.step.micro_batches import map_micro_batches
from lexirobust.training.step.objective_losses import ObjectiveInputs, average_over


def perturb_objectives(
    ranks: Sequence[Rank],
    classifier: Classifier,
    batch: Batch,
    seed: tf.Tensor,
    initial: Sequence[tf.Tensor] | None = None,
    take_steps: bool = True,
    micro_batch_size: int | None = None,
) -> list[list[ObjectiveInputs]]:
    """Perturbs the inputs of every objective that has an attack.

    Args:
        ranks: The ranked losses.
        classifier: Maps inputs to logits.
        batch: The clean batch.
        seed: `[2]` integer tensor.
        initial: The perturbation that each attacked objective's attack begins with, shaped like the
            clean inputs, or `None`.
        take_steps: Whether attacks take their steps, or stay at their start.
        micro_batch_size: Most samples that are attacked at a time, or `None`.

    Returns:
        For each rank, the inputs of each of its objectives.
    """
    terms = [term for rank in ranks for _, term in rank.terms]

    def part(tensors: Any, number: tf.Tensor, share: Any) -> tuple[Any, Any]:
        del share
        batch, initial = tensors
        own = tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int32), number)
        inputs = perturb(terms, classifier, batch, own, initial, take_steps)
        valid = {
            term.name: term.valid(batch.x, x_adv) for term, x_adv in zip(terms, inputs, strict=True)
        }
        return [], (inputs, {name: mask for name, mask in valid.items() if mask is not None})

    _, (inputs, valid) = map_micro_batches(part, (batch, initial), micro_batch_size)
    weights = {name: average_over(mask) for name, mask in valid.items()}
    remaining = iter(inputs)
    return [
        [ObjectiveInputs(next(remaining), weights.get(term.name)) for _, term in rank.terms]
        for rank in ranks
    ]


def perturb(
    terms: Sequence[Objective],
    classifier: Classifier,
    batch: Batch,
    seed: tf.Tensor,
    initial: Sequence[tf.Tensor] | None = None,
    take_steps: bool = True,
) -> list[tf.Tensor]:
    """Perturbs the inputs of every objective.

    Objectives that share an attack and a target are perturbed in one sweep over magnitudes.

    Args:
        terms: The objectives.
        classifier: Maps inputs to logits.
        batch: The clean batch.
        seed: `[2]` integer tensor.
        initial: The perturbation that each attacked objective's attack begins with, shaped like the
            clean inputs, or `None`.
        take_steps: Whether attacks take their steps, or stay at their start.

    Returns:
        One tensor an objective, shaped like the clean inputs.
    """
    perturbed = [batch.x] * len(terms)
    attacked = [index for index, term in enumerate(terms) if term.attack is not None]
    starts = {} if initial is None else dict(zip(attacked, initial, strict=True))
    groups: dict[tuple[int, Any], list[int]] = {}
    for index in attacked:
        key = (id(terms[index].attack), _target_key(terms[index]))
        groups.setdefault(key, []).append(index)
    for number, indices in enumerate(groups.values()):
        own = tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int32), number)
        term = terms[indices[0]]
        assert term.attack is not None
        if not take_steps:
            assert isinstance(term.attack, PGD)
            for index in indices:
                magnitude = tf.fill(
                    tf.shape(batch.x)[:1], of_dtype(terms[index].magnitude, batch.x.dtype)
                )
                perturbed[index] = term.attack.start(batch.x, magnitude, own, starts[index])
            continue
        given = (
            {"initial_perturbation": tf.stack([starts[index] for index in indices])}
            if starts
            else {}
        )
        swept = term.attack.sweep_in_graph(
            classifier,
            batch.x,
            term.target(classifier, batch),
            [terms[index].magnitude for index in indices],
            own,
            **given,
        )
        for index, inputs in zip(indices, tf.unstack(swept), strict=True):
            perturbed[index] = inputs
    return perturbed


def _target_key(term: Objective) -> Any:
    """Equal where targets are: one that a subclass has written may depend on its settings."""
    target = type(term).target
    return target if target in (Objective.target, Divergence.target) else id(term)


def attack_numbers(terms: Sequence[Objective]) -> list[int]:
    """Numbers of the attacks of objectives that have one: equal where they share it."""
    attacks = [id(term.attack) for term in terms if term.attack is not None]
    return [attacks.index(each) for each in attacks]


def share_attacks(terms: Sequence[Objective], numbers: Sequence[int]) -> None:
    """Has objectives share their attacks again.

    Args:
        terms: Objectives, those with an attack in the order that `attack_numbers` saw.
        numbers: What it returned.
    """
    attacked = [term for term in terms if term.attack is not None]
    for term, number in zip(attacked, numbers, strict=True):
        term.attack = attacked[number].attack
