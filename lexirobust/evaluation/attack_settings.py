"""What curves keep of the attacks that made them."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from lexirobust.attacks import Attack, MinimumNormAttack
from lexirobust.geometry.explored_region import ExploredRegion
from lexirobust.geometry.voronoi_cells import VoronoiCells


def describe(attack: Attack | MinimumNormAttack) -> dict[str, Any]:
    """Says what an attack's class and settings are, as JSON holds them.

    Args:
        attack: Any attack.

    Returns:
        Its `class_name`, and its `config`.

    Raises:
        ValueError: If a setting is not finite.
    """
    config = attack.get_config()
    try:
        config = json.loads(json.dumps(config, default=_plain, allow_nan=False))
    except ValueError as error:
        raise ValueError(
            "`attack` must have finite settings, as the curve is written with them. Received: "
            f"{config!r}."
        ) from error
    return {"class_name": type(attack).__name__, "config": config}


def norm_of(attack: Mapping[str, Any]) -> str | None:
    """Finds the norm among an attack's settings, or those of the attack inside it.

    Args:
        attack: As `describe` says it; of a `WithinMagnitude` the settings hold an attack.

    Returns:
        `"l1"`, `"l2"`, `"linf"`, or `None` where there is none.
    """
    config = attack.get("config", {})
    return norm_of(config["attack"]) if "attack" in config else config.get("norm")


def _plain(value: Any) -> Any:
    """Turns a setting into what JSON can hold; what nothing is known by is new each time."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Attack | MinimumNormAttack):
        return describe(value)
    if not isinstance(value, ExploredRegion | VoronoiCells):
        return repr(value)
    held = {name: getattr(value, name, None) for name in ("points", "weights")}
    digests = {
        name: hashlib.sha256(np.asarray(array).tobytes()).hexdigest()[:16]
        for name, array in held.items()
        if array is not None
    }
    return {"class_name": type(value).__name__, "norm": value.norm, **digests}
