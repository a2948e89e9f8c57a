"""Images beside what was found out about them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from lexirobust.plotting.style import check_not_empty

_SIGNED: Final = "RdBu_r"


def explanations(
    columns: Mapping[str, Any], captions: Mapping[str, Sequence[str]] | None = None
) -> Figure:
    """Draws images, one a row, and beside each what was found out about it.

    Columns with values below 0 show signs: red above 0, blue below, each image by its own largest,
    with a color scale below all. The others are gray, from black at 0 to white at 1.

    Args:
        columns: Mapping from a title to `[N, height, width]` or `[N, height, width, 1]`.
        captions: Mapping from a title in `columns` to `[N]` texts that stand below its images, such
            as their labels and predictions.

    Returns:
        Figure with an axes for each image and column, and one for the color scale, if there is any.

    Raises:
        ValueError: If there is none, the columns are not of the same images, or captions are not
            of a column and one an image.

    Example:

    >>> image = np.linspace(0, 1, 64).reshape(1, 8, 8)
    >>> captions = {"image": ["label 7, classified 7"]}
    >>> figure = explanations({"image": image, "way from 0.5": image - 0.5}, captions)
    >>> figure.axes[0].get_xlabel(), len(figure.axes)
    ('label 7, classified 7', 3)

    Reference: section 9.3 of the paper.
    """
    check_not_empty("columns", columns)
    images = {
        title: np.squeeze(np.asarray(each), -1) if np.ndim(each) == 4 else np.asarray(each)
        for title, each in columns.items()
    }
    shapes = {each.shape for each in images.values()}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 3 or not shape[0]:
        raise ValueError(
            "`columns` must be of the same images, [N, height, width]. Received: "
            f"{ {title: np.shape(each) for title, each in columns.items()} }."
        )
    captions = captions or {}
    for title, texts in captions.items():
        if title not in images or len(texts) != shape[0]:
            raise ValueError(
                f"`captions` must map titles of `columns` to {shape[0]} texts each. Received: "
                f"{len(texts)} for {title!r}."
            )
    signs = {title: bool(np.nanmin(each) < 0) for title, each in images.items()}
    lines = max((text.count("\n") + 1 for texts in captions.values() for text in texts), default=0)
    height = (1.3 + 0.17 * lines) * shape[0] + (0.7 if any(signs.values()) else 0.3)
    figure = Figure(figsize=(1.35 * len(images), height), layout="constrained")
    grid = figure.subplots(shape[0], len(images), squeeze=False)
    for column, (title, each) in zip(grid.T, images.items(), strict=True):
        column[0].set_title(title, fontsize=8.5)
        for row, (axes, image) in enumerate(zip(column, each, strict=True)):
            most = np.nanmax(np.abs(image)) or 1.0
            limits = (-most, most) if signs[title] else (0.0, 1.0)
            colors = _SIGNED if signs[title] else "gray"
            axes.imshow(image, cmap=colors, vmin=limits[0], vmax=limits[1])
            axes.set(xticks=[], yticks=[])
            if title in captions:
                axes.set_xlabel(captions[title][row], fontsize=7.5, labelpad=2)
    if any(signs.values()):
        _draw_scale(figure, figure.axes)
    return figure


def _draw_scale(figure: Figure, beside: Sequence[Axes]) -> None:
    """The colors of signed values, in shares of each image's largest."""
    scale = ScalarMappable(Normalize(-1, 1), _SIGNED)
    bar = figure.colorbar(
        scale, ax=beside, location="bottom", aspect=50, fraction=0.02, ticks=[-1, 0, 1], shrink=0.6
    )
    bar.ax.set_xticklabels(["− largest value", "0", "+ largest value"], fontsize=7.5)
