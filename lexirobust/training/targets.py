"""Targets: how good a rank is to be before it lets the ranks below it spend what is left."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from lexirobust.training.objectives import Rank


@keras.saving.register_keras_serializable(package="lexirobust")
class Target:
    """The loss or the accuracy at which a rank is good enough.

    While a rank misses its target, the ranks below it must let it descend: half as fast as it would
    alone if it is on its way there, and as fast as alone, in most of each step, if it would be late
    for the end of `fit`. Once it has met it, they may spend what is left: as much as brings it back
    to its target, and no more. Far above its target it keeps its alpha, which is shared by the
    ranks below it the more, the nearer it comes. So a model with `Target(accuracy=0.99)` for its
    natural rank is as robust as training finds at 99 % accuracy.

    What is compared with the target is a running mean over the last few training steps, or, with
    `callbacks.HeldOutTargets`, what held-out data say. A target that cannot be reached takes most
    of each step; `fit` warns of it at its end.

    Args:
        loss: The loss of the rank as it is logged, `loss@NAME`, above 0, without the classifier's
            regularization losses.
        accuracy: The share of samples that are classified rightly, above 0 and below 1: on
            perturbed inputs, if the rank sees such. Whatever samples weigh, each counts as one,
            and those of weight 0 do not. Only of a rank with logits.

    Raises:
        ValueError: If not one of both is given, or it is out of range.

    Example:

    >>> import keras, lexirobust as lr
    >>> x, y = lr.datasets.toy(100, seed=0)
    >>> attack = lr.attacks.PGD(norm="l2", steps=1, restarts=2, bounds=None)
    >>> classifier = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    >>> model = lr.OLSRC(classifier, attack, [4.0], targets=[lr.Target(accuracy=0.9)])
    >>> model.compile("adam")
    >>> logs = model.fit(x, y, epochs=1, verbose=0).history
    >>> sorted(name for name in logs if name.startswith(("estimate", "target", "violation")))
    ['estimate@natural', 'target@natural', 'violation@natural']

    Reference:
        Section 8 of the paper, "easing the lexicographical preference"; Gong, Liu and Liu,
        "Bi-objective trade-off with dynamic barrier gradient descent", NeurIPS 2021. Error rates
        constrained through a loss's gradient: Cotter et al., arXiv 1804.06500.
    """

    def __init__(self, *, loss: float | None = None, accuracy: float | None = None) -> None:
        if (loss is None) == (accuracy is None):
            raise ValueError(
                "`loss` or `accuracy` must be given, and not both. Received: "
                f"loss={loss!r}, accuracy={accuracy!r}."
            )
        if loss is not None and not 0 < loss < np.inf:
            raise ValueError(f"`loss` must be finite and above 0. Received: {loss!r}.")
        if accuracy is not None and not 0 < accuracy < 1:
            raise ValueError(
                f"`accuracy` must lie between 0 and 1, as in 0.99. Received: {accuracy!r}."
            )
        self.loss = None if loss is None else float(loss)
        self.accuracy = None if accuracy is None else float(accuracy)

    @property
    def value(self) -> float:
        """The loss, or the accuracy."""
        return self.error if self.accuracy is None else self.accuracy

    @property
    def error(self) -> float:
        """The largest loss, or the largest error rate, that meets the target."""
        if self.loss is not None:
            return self.loss
        assert self.accuracy is not None
        return 1.0 - self.accuracy

    def get_config(self) -> dict[str, Any]:
        """Returns the settings from which `from_config` makes an equal one."""
        return {"loss": self.loss, "accuracy": self.accuracy}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Target":
        """Makes one from what `get_config` returned."""
        return cls(**config)


def check_targets(targets: Any, ranks: Sequence[Rank]) -> list[Target | None]:
    """Checks targets, and fills them up.

    Args:
        targets: For each rank, the first one first, a `Target`, a number for a loss, or `None`;
            those that are left out are `None`.
        ranks: The ranked losses.

    Returns:
        One a rank.

    Raises:
        ValueError: If there are too many, one is out of range, the last rank has one, or one of
            accuracy is of a rank that has none.
        TypeError: If one is something else.
    """
    if isinstance(targets, str | Target) or not isinstance(targets, Sequence):
        raise TypeError(f"`targets` must be a list, one a rank. Received: {targets!r}.")
    checked: list[Target | None] = []
    for target in targets:
        if isinstance(target, int | float) and not isinstance(target, bool):
            target = Target(loss=target)
        if not (target is None or isinstance(target, Target)):
            raise TypeError(
                "`targets` must hold Target, numbers, which are losses, or None. Received: "
                f"{target!r}."
            )
        checked.append(target)
    names = [rank.name for rank in ranks]
    if len(names) == 1 and any(target is not None for target in checked):
        raise ValueError(
            "`targets` need two ranks at least: below the last one there is nothing. Received: "
            f"{len(checked)} targets for the one rank {names[0]!r}; OLSRC has several."
        )
    if len(checked) > len(names) or (len(checked) == len(names) and checked[-1] is not None):
        raise ValueError(
            f"`targets` must leave the last rank without one: nothing is below it. Received: "
            f"{len(checked)} targets for the ranks {names}."
        )
    for target, rank in zip(checked, ranks, strict=False):
        measured = len(rank.terms) == 1 and rank.terms[0][1].gives_logits
        if target is not None and target.accuracy is not None and not measured:
            raise ValueError(
                f"`targets` can be of accuracy for ranks of one objective with logits alone. "
                f"Received: accuracy={target.accuracy} for {rank.name!r}; give it a loss."
            )
    return checked + [None] * (len(names) - len(checked))


def shared_alphas(
    alphas: Sequence[float], targets: Sequence[Target | None], kept: Sequence[Any]
) -> list[Any]:
    """Gives the weight of each rank with a target to the ranks below it, by their own.

    Args:
        alphas: Weights of the ranks, summing to 1.
        targets: A target for each rank, or `None`, as for the last.
        kept: The share of its weight that each rank with a target keeps.

    Returns:
        One weight a rank, summing to 1.

    Example:

    >>> shared_alphas([0.5, 0.25, 0.25], [Target(loss=0.1), None, None], [0.0, 0.0, 0.0])
    [0.0, 0.5, 0.5]
    """
    shared: list[Any] = list(alphas)
    for rank, target in enumerate(targets):
        if target is None:
            continue
        given = (1.0 - kept[rank]) * shared[rank]
        shared[rank] = kept[rank] * shared[rank]
        left = sum(alphas[rank + 1 :])
        for low in range(rank + 1, len(alphas)):
            part = alphas[low] / left if left else 1.0 / (len(alphas) - rank - 1)
            shared[low] += part * given
    return shared
