"""Warnings of targets that ask for nothing, or were not reached."""

from typing import Any

import numpy as np

from lexirobust.loss_checks import is_of_classes
from lexirobust.training.state.target_estimates import TOLERANCE, TargetEstimates
from lexirobust.warn import warn


def warn_of_idle_targets(estimates: TargetEstimates, loss: Any, classes: int) -> None:
    """Warns of losses on clean inputs that a classifier has without having learned anything.

    Args:
        estimates: The targets.
        loss: As compiled.
        classes: The number of classes.
    """
    if not is_of_classes(loss):
        return
    of_equal_logits = np.log(classes)
    for rank, target in zip(estimates.ranks, estimates.targets, strict=True):
        ((_, first), *others) = rank.terms
        clean = not others and first.gives_logits and first.attack is None
        if target is None or target.loss is None or not clean or target.loss < of_equal_logits:
            continue
        warn(
            f"The target of {rank.name!r} asks for nothing: a loss of {target.loss:g}, where equal "
            f"logits for all {classes} classes give {of_equal_logits:.4g}. An accuracy is asked "
            "for as in lexirobust.Target(accuracy=0.99)."
        )


def warn_of_missed_targets(history: dict[str, list[float]], estimates: TargetEstimates) -> None:
    """Warns at the end of a training of targets missed by more than a twentieth.

    Args:
        history: The logs of `fit`.
        estimates: The targets.
    """
    for name, target in estimates.by_name.items():
        # What held-out data said after the last epoch is not in its estimates yet.
        log = next((log for log in ("held_out", "estimate") if f"{log}@{name}" in history), None)
        if log is None or not history[f"{log}@{name}"]:
            continue
        last = history[f"{log}@{name}"][-1]
        kind, error = ("loss", last) if target.accuracy is None else ("accuracy", 1.0 - last)
        if error <= (1.0 + 0.5 * TOLERANCE) * target.error:
            continue
        warn(
            f"The target of {name!r} was not reached: {kind} {last:.4g} (`{log}@{name}`) after "
            f"the last epoch, asked {target.value:.4g}. The ranks below it had what it left to "
            "them. Train longer, use a larger network, or ask for what plain training reaches."
        )
