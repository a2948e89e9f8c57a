"""What the paper reports for l2 4 on MNIST, and what is to be known of its attack."""

from typing import Any, Final, NamedTuple


class Accuracies(NamedTuple):
    """Shares of test images that are classified rightly.

    Attributes:
        natural: Clean ones.
        robust: Those perturbed to an l2 norm of 4, by 40 steps from one start.
    """

    natural: float
    robust: float


TABLE: Final = {
    "standard": Accuracies(0.9693, 0.0523),
    "adversarial training": Accuracies(0.9755, 0.2542),
    "TRADES": Accuracies(0.9802, 0.2575),
    "OLSRC": Accuracies(0.9780, 0.2654),
    "OLGRC": Accuracies(0.9793, 0.2671),
}
"""By way of training."""
STEP_SIZES: Final = (0.05, 0.06, 0.07, 0.08, 0.09, 0.1, 0.2)
"""Of attacks that may be like the paper's, which does not say how long its steps are."""


def left_by(attack: str, run: dict[str, Any]) -> float:
    """The share of images that an attack leaves, in a run of `paper_table.py`."""
    return run["right"][attack] / run["tested"]


def likely_attack(standard: dict[str, Any]) -> str:
    """The attack of the shortest steps that leave no more of plain training than the paper's.

    Args:
        standard: A run of plain training.

    Returns:
        The size of its steps, as runs name it.
    """
    names = (f"{size:g}" for size in STEP_SIZES)
    return next(n for n in names if left_by(n, standard) <= TABLE["standard"].robust)
