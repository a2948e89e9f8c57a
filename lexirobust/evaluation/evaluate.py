"""Measures accuracy as a function of the magnitude, batch by batch."""

import copy
import dataclasses
import functools
import hashlib
import operator
import os
import pathlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from lexirobust import progress
from lexirobust.attacks import (
    Attack,
    AutoAttack,
    Classifier,
    MinimumNormAttack,
    WithinMagnitude,
)
from lexirobust.attacks.classifier import classifier_of, logits_of
from lexirobust.attacks.compiled_attack import draw_seed
from lexirobust.attacks.gradient.region import RegionPGD
from lexirobust.attacks.losses import classification_loss
from lexirobust.attacks.staged_run import Found
from lexirobust.checks import check_count, check_magnitudes, check_priors
from lexirobust.data_checks import check_data, check_labels
from lexirobust.data_forms import one_array
from lexirobust.evaluation.attack_settings import describe
from lexirobust.evaluation.backup import Backup, Digest
from lexirobust.evaluation.batches import evaluation_batches
from lexirobust.evaluation.curve import AccuracyCurve, ExampleInputs
from lexirobust.evaluation.devices import on_devices
from lexirobust.evaluation.fingerprints import digest_weights, few_logits
from lexirobust.evaluation.flags import Flag, Probe, find_flags
from lexirobust.evaluation.genuine import cell_points, check_own, inside_cells
from lexirobust.evaluation.scale_flags import in_reach, infeasible, not_finite, of_another_scale
from lexirobust.tensors import classes_of
from lexirobust.version import __version__

AnyAttack: TypeAlias = Attack | MinimumNormAttack

_SHOWN: Final = 8
_PROBED: Final = 64
_OUTCOMES: Final = ("correct", "losses", "norms", "feasible", "valid")


def evaluate_robustness(
    classifier: Classifier,
    x: Any,
    y: Any,
    attack: AnyAttack | Sequence[AnyAttack],
    magnitudes: Sequence[float] | np.ndarray,
    batch_size: int = 500,
    backup: str | os.PathLike[str] | None = None,
    checks: bool = True,
    genuine: bool = False,
    data: Any | None = None,
    priors: Sequence[float] | np.ndarray | None = None,
) -> AccuracyCurve:
    """Measures a classifier under attack at several magnitudes.

    Genuine accuracy asks only for perturbed inputs to which no other point of the data is nearer
    than their own sample. With an exact norm some samples have none, and do not count at that
    magnitude (`AccuracyCurve.excluded`); where none counts, the accuracy is undefined.

    Inside the scope of a `tf.distribute` strategy, batches are shared out among the devices of this
    process. That changes how long it takes, and not what is measured.

    Args:
        classifier: Maps inputs to logits: a Keras model or any other callable.
        x: `[N, ...]` inputs inside the attack's bounds, or a finite `tf.data.Dataset` of
            `(input, label)`, batched or not, that yields them in the same order each time.
        y: `[N]` integer labels; `None` where `x` is a dataset.
        attack: Perturbs the inputs. Of several attacks, each sample keeps the worst outcome. One
            that looks for the nearest adversarial example searches once for all magnitudes.
        magnitudes: `[K]` norms, at least 0; at 0 the clean inputs are measured.
        batch_size: Number of samples perturbed at a time.
        backup: Folder for what is measured so far. The same call made again goes on from there,
            and gives the numbers of one that was not interrupted; the folder is removed at the end.
        checks: Whether to look for reasons not to trust the result (`AccuracyCurve.flags`), on up
            to 64 samples.
        genuine: Whether to measure genuine accuracy, under the attack's like that keeps to Voronoi
            cells, with an even number of starts. The attack must be a `PGD`.
        data: `[M, ...]` the points whose cells they are, inside the bounds; `None`: `x`, if that is
            no dataset. With priors, a pair of points and their `[M]` labels.
        priors: `[C]` how probable the classes are, above 0, with a sum of 1. Where they are given,
            a sample of class c is perturbed by a norm of the magnitude over `priors[c]`, and cells
            go by distances times the priors of their points. `None`: classes are treated alike.

    Returns:
        An `AccuracyCurve`.

    Raises:
        ValueError: If the data, the magnitudes, the batch size, the priors or what the classifier
            gives are not as above, or the backup is of another evaluation.
        TypeError: If the classifier is nothing to call, inputs are no numbers, labels no integers
            or attacks no attacks.

    Example: the toy problem's third classifier is right up to magnitude 1.

    >>> import lexirobust as lr
    >>> x, y = lr.datasets.toy(100, seed=0)
    >>> attack = lr.attacks.PGD(norm="l2", steps=1, restarts=2, bounds=None)
    >>> curve = evaluate_robustness(lr.datasets.toy_classifier("f3"), x, y, attack, [0, 0.9, 4])
    >>> curve.accuracy.tolist(), curve.flags
    ([1.0, 1.0, 0.0], ())

    Example: genuinely, it is right wherever that is defined, unlike the first.

    >>> for f in ("f1", "f3"):
    ...     classifier = lr.datasets.toy_classifier(f)
    ...     curve = evaluate_robustness(classifier, x, y, attack, [0, 0.5, 4], genuine=True)
    ...     print(curve.accuracy.tolist(), curve.counts.tolist())
    [1.0, 0.75, 1.0] [100, 4, 2]
    [1.0, 1.0, 1.0] [100, 4, 2]

    Reference:
        Definitions 4 and 5 of the paper, section 9.2 for priors; for finite data Kim et al.,
        arXiv 2005.02540.
    """
    if not callable(classifier):
        raise TypeError(
            "`classifier` must be a Keras model or another callable that gives logits, and comes "
            f"first, before `x` and `y`. Received: {type(classifier).__name__}."
        )
    magnitudes = check_magnitudes(magnitudes, ranked=False)
    attacks = _check_attacks(attack)
    x = one_array(x)
    priors = None if priors is None else check_priors(priors)
    check_count("batch_size", batch_size)
    batches, count = evaluation_batches(x, y, int(batch_size), attacks[0].bounds)
    settings: dict[str, Any] = {
        "attacks": [describe(attack) for attack in attacks],
        "genuine": None,
        "priors": None if priors is None else priors.tolist(),
        "classifier": digest_weights(classifier_of(classifier)),
        "batch_size": int(batch_size),
        "magnitudes": magnitudes,
    }
    if genuine or data is not None:
        points, weights = cell_points(x, y, data, genuine, priors, attacks[0].bounds)
        settings["genuine"] = hashlib.sha256(points.tobytes()).hexdigest()[:16]
        attacks = [inside_cells(attack, points, weights) for attack in attacks]
    store = None if backup is None else Backup(pathlib.Path(backup), settings)
    seeds = [draw_seed() if attack.seed is None else attack.seed for attack in attacks]
    # The drawn ones too are the same when a backup is gone on with.
    seeds = seeds if store is None else store.seeds(seeds)

    # Where several devices draw from an attack at the same time, each thread has its own.
    by_thread = {threading.get_ident(): attacks}
    digest = Digest()
    first: list[tuple[np.ndarray, np.ndarray]] = []
    lowest: list[float] = []
    highest: list[float] = []

    def measure(number: int, x: np.ndarray, y: np.ndarray, so_far: str) -> list[dict[str, Any]]:
        known = None if store is None else store.read(number, so_far)
        if known is None:
            scale = None if priors is None else 1.0 / priors[y]
            own = by_thread.setdefault(threading.get_ident(), [copy.copy(each) for each in attacks])
            known = [
                _measure(classifier, attack, x, y, magnitudes, scale, seed=(seed, number))
                for attack, seed in zip(own, seeds, strict=True)
            ]
            if store is not None:
                store.write(number, so_far, known)
        return known

    def tasks() -> Iterator[Callable[[], list[dict[str, Any]]]]:
        classes = 0
        for number, (inputs, labels) in enumerate(batches):
            if not first:
                few = tf.constant(inputs[:_SHOWN])
                answers = [logits_of(classifier, few) for _ in range(2)]
                classes = int(answers[0].shape[-1])
                settings["logits"] = few_logits(*answers)
                first.append((inputs[:_PROBED], labels[:_PROBED]))
                if store is not None:
                    store.check_classifier(*answers)
                if priors is not None:
                    check_priors(priors, classes)
                if y is not None:
                    check_labels(np.asarray(y), classes)  # Those of later batches, too.
            check_data(inputs, labels, attacks[0].bounds, classes=classes)
            if genuine and priors is not None:
                check_own(attacks[0], inputs)
            digest.add(inputs, labels)
            lowest.append(float(inputs.min()))
            highest.append(float(inputs.max()))
            yield functools.partial(measure, number, inputs, labels, digest.hex())

    shown = progress.bar(None, "evaluate", count, delay=1.0)
    parts = []
    with shown:
        for part in on_devices(tasks()):
            parts.append(part)
            shown.update()
    if not first:
        raise ValueError("`x` must hold at least one sample. Received: an empty dataset.")

    settings |= {
        "samples": sum(part[0]["correct"].shape[1] for part in parts),
        "data": digest.hex(),
        "seeds": seeds,
        "checks": bool(checks),
        "versions": {
            "lexirobust": __version__,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
        },
    }
    curves = [
        _curve(magnitudes, [part[index] for part in parts], first[0], settings, index, attack)
        for index, attack in enumerate(attacks)
    ]
    worst = functools.reduce(operator.add, curves)
    if checks:
        worst = _flagged(
            worst, classifier, attacks, seeds[0], first[0], priors, (min(lowest), max(highest))
        )
    if store is not None:
        store.remove()
    return worst


def _check_attacks(attack: AnyAttack | Sequence[AnyAttack]) -> list[Attack]:
    attacks: list[Any] = list(attack) if isinstance(attack, Sequence) else [attack]
    attacks = [
        WithinMagnitude(each) if isinstance(each, MinimumNormAttack) else each for each in attacks
    ]
    if not attacks or not all(isinstance(each, Attack) for each in attacks):
        raise TypeError(
            "`attack` must be an attack or several, such as lexirobust.attacks.AutoAttack('l2'). "
            f"Received: {attack!r}."
        )
    bounds = {each.bounds for each in attacks}
    if len(bounds) > 1:
        raise ValueError(
            f"Attacks must have the same bounds. Received: {sorted(map(str, bounds))}."
        )
    return attacks


def _measure(
    classifier: Classifier,
    attack: Attack,
    x: np.ndarray,
    y: np.ndarray,
    magnitudes: Sequence[float],
    scale: np.ndarray | None,
    seed: tuple[int, int],
) -> dict[str, np.ndarray]:
    """All that a curve holds, `[K, n]` each, for one batch, and a few perturbed samples."""
    attacked = [magnitude for magnitude in magnitudes if magnitude > 0]
    swept: Iterator[Any] = iter(())
    stages: dict[str, np.ndarray] = {}
    if attacked:
        # A seed of the batch's own, so that it does not matter which were measured before.
        with attack.drawing_from(int(np.random.SeedSequence(seed).generate_state(1)[0]) >> 1):
            if isinstance(attack, AutoAttack):
                found = attack.search(classifier, x, y, attacked, scale=scale)
                swept, stages = iter(found.x_adv), _counted(found)
            else:
                swept = iter(attack.sweep(classifier, x, y, attacked, scale=scale))
    rows: dict[str, list[Any]] = {name: [] for name in (*_OUTCOMES, "x_adv", "decisions")}
    for magnitude in magnitudes:
        x_adv = next(swept) if magnitude > 0 else tf.constant(x)
        logits = logits_of(classifier, x_adv)
        decisions = np.asarray(classes_of(logits))
        size = magnitude if scale is None else magnitude * scale
        valid = attack.valid(x, x_adv, size) if magnitude > 0 else None
        values = {
            "correct": decisions == y,
            "losses": classification_loss(logits, tf.constant(y)),
            "norms": attack.measure(x_adv - x),
            "feasible": attack.feasible(x, size),
            "valid": np.ones(len(y), bool) if valid is None else valid,
            "x_adv": x_adv[:_SHOWN],
            "decisions": decisions[:_SHOWN],
        }
        for name, value in values.items():
            rows[name].append(np.asarray(value))
    return {**{name: np.stack(values) for name, values in rows.items()}, **stages}


def _counted(found: Found) -> dict[str, np.ndarray]:
    """Counts the samples that each stage broke at each magnitude, `[K, S]`, and passes, `[S]`."""
    stages = np.arange(1, len(found.passes) + 1)
    broken = np.sum(found.found_by[..., None] == stages, axis=1)
    return {"broken": broken, "passes": found.passes}


def _curve(
    magnitudes: Sequence[float],
    parts: Sequence[dict[str, np.ndarray]],
    first: tuple[np.ndarray, np.ndarray],
    settings: dict[str, Any],
    index: int,
    attack: Attack,
) -> AccuracyCurve:
    joined = {name: np.concatenate([p[name] for p in parts], axis=1) for name in _OUTCOMES}
    x, y = (values[:_SHOWN] for values in first)
    shown = ExampleInputs(x, y, parts[0]["x_adv"], parts[0]["decisions"])
    description = dict(settings["attacks"][index])
    if "passes" in parts[0]:
        description["stages"] = _described_stages(attack, parts)
    own = {"attacks": [description], "seeds": [settings["seeds"][index]]}
    return AccuracyCurve(
        magnitudes=np.asarray(magnitudes),
        correct=joined["correct"],
        losses=joined["losses"],
        norms=joined["norms"],
        feasible=joined["feasible"],
        valid=joined["valid"],
        settings={**settings, **own},
        shown=shown,
    )


def _described_stages(attack: Any, parts: Sequence[dict[str, np.ndarray]]) -> list[dict[str, Any]]:
    """Tells what each stage of an `AutoAttack` broke at magnitudes above 0, and its passes."""
    broken = np.sum([part["broken"] for part in parts], axis=0)
    passes = np.sum([part["passes"] for part in parts], axis=0)
    return [
        {"name": stage.name, "broken": broken[:, number].tolist(), "passes": int(passes[number])}
        for number, stage in enumerate(attack.stages)
    ]


def _flagged(
    curve: AccuracyCurve,
    classifier: Classifier,
    attacks: Sequence[Attack],
    seed: int,
    first: tuple[np.ndarray, np.ndarray],
    priors: np.ndarray | None,
    span: tuple[float, float],
) -> AccuracyCurve:
    """The curve with what the checks found, at the magnitude that tells most."""
    x, y = first
    attacked = np.flatnonzero(curve.magnitudes > 0)
    undecided = np.abs(curve.accuracy[attacked] - 0.5)
    row = int(attacked[np.nanargmin(undecided)]) if np.any(np.isfinite(undecided)) else 0
    # Of attacks inside a region others would find more, and that would say nothing.
    free = [attack for attack in attacks if not isinstance(attack, RegionPGD)]
    magnitude = float(curve.magnitudes[row]) if free else 0.0
    probe = Probe(
        classifier,
        free or attacks,
        tf.constant(x),
        y,
        magnitude,
        np.full(len(y), magnitude) if priors is None else magnitude / priors[y],
        curve.correct[row, : len(y)],
        seed,
    )
    flags: list[Flag | None] = list(find_flags(probe))
    exact = any(getattr(attack, "constraint", "exact") == "exact" for attack in attacks)
    flags.insert(0, not_finite(curve.losses, curve.magnitudes))
    largest = float(curve.magnitudes.max()) / (1.0 if priors is None else float(priors.min()))
    flags += of_another_scale(*span, largest, attacks)
    no_room = infeasible(curve.feasible, curve.magnitudes, exact)
    flags.append(no_room or in_reach(largest, x.shape[1:], attacks))
    found = [flag for flag in flags if flag is not None]
    return dataclasses.replace(curve, flags=tuple(found))
