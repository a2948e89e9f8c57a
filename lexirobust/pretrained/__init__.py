"""Small robust classifiers that come with the package, to try it on and to compare with."""

import json
import pathlib
from typing import Any

import keras

__all__ = ["card", "load", "names"]

_FOLDER = pathlib.Path(__file__).resolve().parent


def names() -> list[str]:
    """Lists the classifiers that come with the package.

    Returns:
        Their names, as `load` and `card` take them.

    Example:

    >>> import lexirobust as lr
    >>> lr.pretrained.names()
    ['fashion_mnist_l2', 'mnist_l2', 'mnist_linf']
    """
    return sorted(path.stem for path in _FOLDER.glob("*.keras"))


def load(name: str) -> keras.Model:
    """Loads a trained classifier.

    Args:
        name: One of `names()`: the data set and the norm of the perturbations that it is trained
            to resist.

    Returns:
        A Keras model that maps `[N, 28, 28, 1]` float32 images from 0 to 1 to `[N, 10]` float32
        logits. It is not compiled.

    Raises:
        ValueError: If there is none of that name.

    Example:

    >>> import lexirobust as lr
    >>> classifier = lr.pretrained.load("mnist_l2")
    >>> classifier.output_shape
    (None, 10)
    """
    model: keras.Model = keras.saving.load_model(_path(name, ".keras"), compile=False)
    return model


def card(name: str) -> dict[str, Any]:
    """Tells how a classifier was trained, and how accurate it is.

    Args:
        name: One of `names()`.

    Returns:
        What it is trained on and for (`data`, `norm`, `magnitude`), how (`method`, `epochs`,
        `target`), the command that trains and measures it anew, and what was measured on test
        images: `natural`, the share of `tested` that is classified rightly, and `robust`, the share
        of the first `attacked` that resists `attack` at `magnitude`, each from 0 to 1.

    Raises:
        ValueError: If there is none of that name.

    Example:

    >>> import lexirobust as lr
    >>> card = lr.pretrained.card("mnist_l2")
    >>> card["norm"], card["magnitude"], card["tested"]
    ('l2', 2.0, 10000)
    """
    found: dict[str, Any] = json.loads(_path(name, ".json").read_text(encoding="utf-8"))
    return found


def _path(name: str, ending: str) -> pathlib.Path:
    """The file of a classifier."""
    if name not in names():
        raise ValueError(f"`name` must be one of {names()}. Received: {name!r}.")
    return _FOLDER / f"{name}{ending}"
