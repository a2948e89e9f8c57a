"""Pictures of training: metrics by epoch, and conflicts between ranks."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lexirobust.plotting.style import BLUE, RED, SERIES, check_not_empty


class History(Protocol):
    """What `fit` returns."""

    history: Mapping[str, Sequence[float]]


AnyHistory: TypeAlias = History | Mapping[str, Sequence[float]]


def training_curves(
    histories: Mapping[str, AnyHistory] | AnyHistory, validation_freq: int = 1
) -> Figure:
    """Draws accuracies and losses by epoch, one row for each training method.

    Each rank has a color of its own, and all are drawn alike: training data as solid lines, test
    data as dashed ones on top. Losses that span more than two decades get a logarithmic axis.

    Args:
        histories: mapping from a method's name to its history, or one history: what `fit` returns,
            or its `history`, a list of values per epoch under keys such as "accuracy@natural" or
            "loss@l2=4", with "val_" before them for test data. Keys without "@" are left out.
        validation_freq: after how many epochs test data were measured: the argument of `fit`.

    Returns:
        Figure with a row of two axes, accuracy and loss, for each method.

    Raises:
        ValueError: if there is no history, a history has no key with "@", or test data were not
            measured as often as `validation_freq` says.
        TypeError: if something is no history.

    Example:

    >>> history = {"accuracy@natural": [0.5, 1.0], "loss@natural": [0.7, 0.1]}
    >>> figure = training_curves({"Standard": history, "OLSRC": history})
    >>> len(figure.axes)
    4

    Reference: section 6.1.1, Figure 9 of the paper.
    """
    histories = _by_name(histories)
    check_not_empty("histories", histories)
    for method, history in histories.items():
        if not any("@" in key for key in history):
            raise ValueError(
                f"`histories[{method!r}]` must have keys such as 'loss@natural'. "
                f"Received: {sorted(history)}."
            )
        counts = {prefix: _counts(history, prefix) for prefix in ("", "val_")}
        trained = max(counts[""], default=0)
        if trained and not counts["val_"] <= {trained // validation_freq}:
            raise ValueError(
                f"`validation_freq` must be that of `fit`. Received: {validation_freq}, and "
                f"{' and '.join(map(str, sorted(counts['val_'])))} values of test data in "
                f"{trained} epochs of {method!r}."
            )
    ranks = sorted(
        {
            key.split("@", 1)[1]
            for history in histories.values()
            for key in history
            if key.removeprefix("val_").startswith(("accuracy@", "loss@"))
        },
        key=_rank_order,
    )
    colors = dict(zip(ranks, itertools.cycle(style["color"] for style in SERIES), strict=False))
    tested = any(key.startswith("val_") for h in histories.values() for key in h)
    styles = _split_styles(tested)

    figure = Figure(figsize=(9.0, 1.2 + 1.9 * len(histories)), layout="constrained")
    grid = figure.subplots(len(histories), 2, sharex=True, sharey="col", squeeze=False)
    for row, (method, history) in zip(grid, histories.items(), strict=True):
        for axes, quantity in zip(row, ("accuracy", "loss"), strict=True):
            # Rank 1 matters most, so it is drawn last and on top; and test data over training data.
            for (prefix, style), rank in itertools.product(styles.items(), reversed(ranks)):
                values = history.get(f"{prefix}{quantity}@{rank}")
                if values is not None:
                    every = validation_freq if prefix else 1
                    epochs = every * np.arange(1, len(values) + 1)
                    axes.plot(
                        epochs,
                        values,
                        label=f"{prefix}{quantity}@{rank}",
                        color=colors[rank],
                        **style,
                    )
            axes.grid(alpha=0.25)
            axes.margins(x=0.02)
        row[0].set_ylabel(method, fontweight="bold")
    grid[0, 0].set(title="accuracy", ylim=(-0.04, 1.04))
    grid[0, 1].set_title("loss")
    losses = [v for h in histories.values() for k, vs in h.items() if "loss@" in k for v in vs]
    if _spans_decades(losses):
        grid[0, 1].set_yscale("log", nonpositive="mask")
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    handles = [
        *(Line2D([], [], color=color, label=rank) for rank, color in colors.items()),
        *(
            Line2D([], [], color="black", label="test" if prefix else "train", **style)
            for prefix, style in styles.items()
        ),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5))
    return figure


def _by_name(histories: Any) -> dict[str, Mapping[str, Sequence[float]]]:
    """Histories by their names, which one alone has not."""
    named = isinstance(histories, Mapping) and not any(
        isinstance(values, Sequence | np.ndarray) for values in histories.values()
    )
    histories = histories if named else {"": histories}
    return {name: _values_of("histories", history) for name, history in histories.items()}


def _values_of(argument: str, history: Any) -> Mapping[str, Sequence[float]]:
    """The values of what `fit` returned, or of its `history`."""
    values = getattr(history, "history", history)
    if not isinstance(values, Mapping):
        raise TypeError(
            f"`{argument}` must be what `fit` returns, or its `history`. Received: "
            f"{type(history).__name__}."
        )
    return values


def _counts(history: Mapping[str, Sequence[float]], prefix: str) -> set[int]:
    """The numbers of values of training data, or with the prefix "val_" of test data."""
    kept = [key for key in history if "@" in key and key.startswith("val_") == bool(prefix)]
    return {len(history[key]) for key in kept}


def target_curves(history: AnyHistory) -> Figure:
    """Draws how each rank with a target comes to it, one column a rank.

    Above, what is compared with the target, and the target as a line; what held-out data said, if
    `callbacks.HeldOutTargets` asked them. Below, how fast steps descend the rank, in units of its
    own gradient: at 1 as fast as along it, below 0 the ranks below it spend it.

    Args:
        history: What `fit` of a model with `targets` returns, or its `history`.

    Returns:
        Figure with two axes for each rank with a target.

    Raises:
        ValueError: If the history is of a model without targets.
        TypeError: If it is no history.

    Example:

    >>> history = {"target@natural": [0.1, 0.1], "estimate@natural": [0.4, 0.12]}
    >>> figure = target_curves({**history, "descent@natural": [1.0, 0.1]})
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['natural', 'descent']
    """
    history = _values_of("history", history)
    ranks = [name.split("@", 1)[1] for name in history if name.startswith("target@")]
    if not ranks:
        raise ValueError(
            "`history` must be of a model with `targets`, with keys such as 'target@natural'. "
            f"Received: {sorted(history)}."
        )
    figure = Figure(figsize=(4.5 * len(ranks), 5.0), layout="constrained")
    grid = figure.subplots(2, len(ranks), sharex=True, squeeze=False, height_ratios=[2, 1])
    for (above, below), rank in zip(grid.T, ranks, strict=True):
        epochs = np.arange(1, len(history[f"target@{rank}"]) + 1)
        above.plot(epochs, history[f"estimate@{rank}"], color=RED, label="estimate")
        held_out = history.get(f"held_out@{rank}")
        if held_out is not None:
            above.plot(epochs, held_out, color=BLUE, label="held-out data")
        above.axhline(history[f"target@{rank}"][-1], color="black", ls="--", lw=1, label="target")
        above.set_ylabel(rank, fontweight="bold")
        if _spans_decades(history[f"estimate@{rank}"]):
            above.set_yscale("log", nonpositive="mask")
        below.plot(epochs, np.clip(history[f"descent@{rank}"], -3.0, None), color=RED)
        below.axhline(0.0, color="black", lw=1)
        below.set(xlabel="epoch", ylabel="descent")
        below.xaxis.set_major_locator(MaxNLocator(integer=True))
        above.legend(frameon=False)
        for axes in (above, below):
            axes.grid(alpha=0.25)
            axes.margins(x=0.02)
    return figure


def pairs(names: Sequence[str], values: Any) -> Figure:
    """Draws what there is to say of each pair of ranks, red where it is below 0.

    Args:
        names: the ranks, the most important first.
        values: array `[T, T]`, the higher rank of each pair in rows; not a number: left empty.

    Returns:
        Figure with one axes, a number in every cell.

    Raises:
        ValueError: if the shape does not fit.

    Example:

    >>> figure = pairs(["natural", "l2=4"], [[np.nan, -0.5], [np.nan, np.nan]])
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['−0.50']
    """
    values = np.asarray(values, float)
    if values.shape != (len(names), len(names)):
        raise ValueError(
            f"`values` must be [T, T] for T names. Received: shape {values.shape}, "
            f"{len(names)} names."
        )
    figure = Figure(figsize=(2.0 + 0.9 * len(names), 1.2 + 0.7 * len(names)), layout="constrained")
    axes = figure.subplots()
    most = np.nanmax(np.abs(values), initial=1e-9)
    axes.imshow(values, cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
    for row, column in np.argwhere(np.isfinite(values)):
        value = values[row, column]
        shade = "white" if abs(value) > 0.6 * most else "black"
        text = f"{value:.2f}".replace("-", "−")
        axes.text(column, row, text, ha="center", va="center", color=shade)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="lower rank", ylabel="higher rank")
    return figure


def _rank_order(name: str) -> tuple[float, str]:
    """Sorts "natural" first, "l2=4" by its magnitude, and what has none last."""
    if name == "natural":
        return 0.0, name
    try:
        number = name.partition("=")[2].split(" ")[0]  # "l2=4 (1)" is of 4, too.
        return float(number.replace("_", ".")), name  # As `magnitude_name` has it.
    except ValueError:
        return math.inf, name


def _split_styles(tested: bool) -> dict[str, dict[str, Any]]:
    """Lines of training and test data, which often lie on each other, by their keys' prefix."""
    if not tested:
        return {"": {"linewidth": 1.3}}
    test = {"linewidth": 1.3, "linestyle": (0, (4, 2))}
    return {"": {"linewidth": 2.6, "alpha": 0.5}, "val_": test}


def _spans_decades(values: Sequence[float]) -> bool:
    positive = [value for value in values if 0 < value < math.inf]
    return bool(positive) and max(positive) > 100 * min(positive)
