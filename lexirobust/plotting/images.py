"""Images beside what was found out about them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lexirobust.plotting.style import check_not_empty


def explanations(columns: Mapping[str, Any]) -> Figure:
    """Draws images, one a row, and beside each what was found out about it.

    Columns with values below 0 show signs: red above 0, blue below, each image by its own largest.
    The others are gray, from black at 0 to white at 1.

    Args:
        columns: mapping from a title to `[N, height, width]` or `[N, height, width, 1]`.

    Returns:
        Figure with an axes for each image and column.

    Raises:
        ValueError: if there is none, or the columns are not of the same images.

    Example:

    >>> image = np.linspace(0, 1, 64).reshape(1, 8, 8)
    >>> len(explanations({"image": image, "way from 0.5": image - 0.5}).axes)
    2

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
    figure = Figure(figsize=(1.35 * len(images), 0.3 + 1.3 * shape[0]), layout="constrained")
    grid = figure.subplots(shape[0], len(images), squeeze=False)
    for column, (title, each) in zip(grid.T, images.items(), strict=True):
        column[0].set_title(title, fontsize=8.5)
        signed = np.nanmin(each) < 0
        for axes, image in zip(column, each, strict=True):
            most = np.nanmax(np.abs(image)) or 1.0
            limits = (-most, most) if signed else (0.0, 1.0)
            colors = "RdBu_r" if signed else "gray"
            axes.imshow(image, cmap=colors, vmin=limits[0], vmax=limits[1])
            axes.set(xticks=[], yticks=[])
    return figure
