"""Samples as a page shows them: images, what an attack added to them, and decisions."""

import base64
import io
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from lexirobust.evaluation import AccuracyCurve

_SAMPLES: Final = 4
"""The number of samples shown for each curve."""
_MAGNITUDES: Final = 3
"""At how many magnitudes they are shown."""
_COARSE: Final = 64
"""Up to how many pixels a side their squares are to be seen."""


class Perturbed(NamedTuple):
    """A sample as an attack left it at one magnitude; pictures are data URLs."""

    magnitude: float
    norm: float | None
    decision: str
    right: bool
    image: str
    perturbation: str


class Sample(NamedTuple):
    """A clean sample, and what an attack made of it."""

    label: str
    coarse: bool
    image: str
    perturbed: list[Perturbed]


def samples_of(curve: AccuracyCurve, class_names: Sequence[str] | None) -> list[Sample]:
    """A few samples with their perturbations; none where inputs are no images."""
    shown = curve.shown
    if shown is None or not _are_images(shown.x):
        return []
    span = min(shown.x.min(), shown.x_adv.min()), max(shown.x.max(), shown.x_adv.max())
    return [
        Sample(
            label=_class(shown.y[index], class_names),
            coarse=max(clean.shape[:2]) <= _COARSE,
            image=_picture(clean, *span, colors="gray"),
            perturbed=[
                Perturbed(
                    magnitude=float(curve.magnitudes[row]),
                    norm=_norm(curve.norms[row, index]),
                    decision=_class(shown.decisions[row, index], class_names),
                    right=bool(shown.decisions[row, index] == shown.y[index]),
                    image=_picture(shown.x_adv[row, index], *span, colors="gray"),
                    perturbation=_difference(shown.x_adv[row, index] - clean),
                )
                for row in _spread(curve.magnitudes)
            ],
        )
        for index, clean in enumerate(shown.x[:_SAMPLES])
    ]


def _class(index: int, names: Sequence[str] | None) -> str:
    """A class in words: there is none where logits are not numbers."""
    if index < 0:
        return "not a number"
    return str(index) if names is None else names[index]


def _norm(value: float) -> float | None:
    """`None` where an attack's magnitudes are no norms."""
    return None if np.isnan(value) else float(value)


def _are_images(x: np.ndarray) -> bool:
    return x.ndim == 3 or (x.ndim == 4 and x.shape[-1] in (1, 3))


def _spread(magnitudes: np.ndarray) -> list[int]:
    """Rows of a few magnitudes above 0, from the smallest to the largest."""
    ascending = [row for row in np.argsort(magnitudes, kind="stable") if magnitudes[row] > 0]
    count = min(_MAGNITUDES, len(ascending))
    return [ascending[round(place)] for place in np.linspace(0, len(ascending) - 1, count)]


def _difference(pixels: np.ndarray) -> str:
    """The picture of a perturbation, whose middle color is 0."""
    largest = np.abs(pixels).max() or 1.0
    return _picture(pixels, -largest, largest, colors="RdBu_r")


def _picture(pixels: np.ndarray, low: float, high: float, colors: str) -> str:
    """An image `[H, W]` or `[H, W, C]`, of values from `low` to `high`, as data URL.

    Values of one channel are given the colors of that name; three are red, green and blue.
    """
    from matplotlib import image  # Not at the top: it is an extra.

    shares = (pixels.astype(np.float64) - low) / ((high - low) or 1.0)
    if shares.ndim == 3 and shares.shape[-1] == 1:
        shares = shares[..., 0]
    file = io.BytesIO()
    image.imsave(file, shares.clip(0, 1), vmin=0, vmax=1, cmap=colors, format="png")
    return data_url("image/png", file)


def data_url(kind: str, file: io.BytesIO) -> str:
    """A file of that MIME type as a URL that holds all of it."""
    return f"data:{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
