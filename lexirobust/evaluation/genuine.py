"""Genuine accuracy: attacks that keep to the Voronoi cells of a data set."""

from typing import Any

import numpy as np
import tensorflow as tf

from lexirobust.attacks import PGD, Attack, VoronoiCells, VoronoiPGD
from lexirobust.data_checks import check_data, check_inputs, check_labels, flat_labels


def cell_points(
    x: Any,
    y: Any,
    data: Any | None,
    genuine: bool,
    priors: np.ndarray | None,
    bounds: tuple[float, float] | None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Finds the points whose cells genuine perturbations keep to.

    Args:
        x: Inputs, as of `evaluate_robustness`, as are the others.
        y: Labels.
        data: The points, or pairs of points and labels, or `None`.
        genuine: Whether genuine accuracy is measured.
        priors: `[C]` probabilities of the classes, or `None`.
        bounds: Lowest and highest value of an input, or `None`.

    Returns:
        `[M, ...]` points, each once, and their `[M]` weights, or `None` if all weigh the same.

    Raises:
        ValueError: If `data` is not what `evaluate_robustness` asks for.
    """
    if not genuine:
        raise ValueError("`data` is for genuine accuracy. Received: data with `genuine=False`.")
    if data is None and isinstance(x, tf.data.Dataset):
        raise ValueError("`data` must be given where `x` is a dataset and `genuine` is true.")
    if priors is None:
        given, name = (x, "`x`") if data is None else (data, "`data`")
        check_inputs(given, bounds, name)
        points = np.asarray(given)
        return np.unique(points.astype(np.float32), axis=0), None
    if data is not None and not (isinstance(data, tuple | list) and len(data) == 2):
        raise ValueError(
            "`data` must be a pair of points and labels where `priors` are given. Received: "
            f"{type(data).__name__}."
        )
    points, labels = (x, y) if data is None else data
    check_inputs(points, bounds, "`x`" if data is None else "`data`")
    check_data(points, labels)
    points, labels = np.asarray(points), np.asarray(labels)
    check_labels(labels, len(priors))
    labels = flat_labels(tf.constant(labels)).numpy()
    points, rows, places = np.unique(
        points.astype(np.float32), axis=0, return_index=True, return_inverse=True
    )
    if (labels != labels[rows][places.reshape(-1)]).any():
        raise ValueError("`data` must not hold a point with two labels where `priors` are given.")
    return points, priors[labels[rows]]


def check_own(attack: Attack, x: np.ndarray) -> None:
    """Checks that inputs are among the points, whose weights theirs are.

    Args:
        attack: Keeps to cells.
        x: `[N, ...]` inputs.

    Raises:
        ValueError: If one of them is not.
    """
    assert isinstance(attack, VoronoiPGD)
    strangers = np.sum(attack.cells.own(tf.constant(x)) < 0)
    if strangers:
        raise ValueError(
            "`x` must be among `data` where `genuine` is true and `priors` are given. Received: "
            f"{strangers} samples that are not."
        )


def inside_cells(attack: Attack, points: np.ndarray, weights: np.ndarray | None) -> VoronoiPGD:
    """Makes the same attack inside Voronoi cells.

    Args:
        attack: A `PGD`.
        points: `[M, ...]` points of the cells.
        weights: `[M]` weights of their distances, or `None`.

    Returns:
        The attack, with an even number of starts.

    Raises:
        ValueError: If the attack is another.
    """
    if type(attack) is not PGD:
        raise ValueError(
            "`attack` must be a PGD, and none of its kinds, where `genuine` is true. Received: "
            f"{type(attack).__name__}."
        )
    cells = VoronoiCells(points, attack.norm, weights)
    # Both sides of an input are tried, and success is not all that is asked for.
    restarts = attack.restarts + attack.restarts % 2 if attack.random_start else 1
    return VoronoiPGD(cells, **{**attack.get_config(), "restarts": restarts, "early_stop": False})
