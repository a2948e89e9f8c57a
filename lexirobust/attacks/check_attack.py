"""The check of what is to be an attack."""

from typing import Any

from lexirobust.attacks.base import Attack
from lexirobust.attacks.minimum_norm.base import MinimumNormAttack


def check_attack(attack: Any) -> None:
    """Checks that something perturbs inputs by a magnitude.

    Args:
        attack: What is to be an `Attack`.

    Raises:
        TypeError: If it is something else.
    """
    if isinstance(attack, Attack):
        return
    kind = type(attack).__name__
    if isinstance(attack, MinimumNormAttack):
        raise TypeError(
            f"`attack` must keep to a magnitude. Received: {kind}, which looks for the nearest "
            f"adversarial example; lexirobust.attacks.WithinMagnitude({kind}(...)) keeps to one."
        )
    raise TypeError(
        f"`attack` must be an attack, such as lexirobust.attacks.PGD('l2'). Received: {attack!r}."
    )
