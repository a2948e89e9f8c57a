"""One page about accuracy curves: whether to trust them, what they show, and their ranking."""

import datetime
import importlib.util
import itertools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from lexirobust.atomic_files import write_whole
from lexirobust.evaluation import AccuracyCurve
from lexirobust.evaluation.order import check_comparable, under_same_attacks
from lexirobust.reporting.content import (
    attacks_in_words,
    attacks_of,
    by_owners,
    common,
    plot_of,
    rows_of,
    settings_of,
    summary_of,
    warnings_of,
    without_warnings,
)
from lexirobust.reporting.ranking import SIGNIFICANCE, pairs_of, places_of, strict_order
from lexirobust.reporting.samples import samples_of

_EXTRA: Final = ("jinja2", "matplotlib")


def report(
    curves: Mapping[str, AccuracyCurve],
    path: str | os.PathLike[str],
    *,
    class_names: Sequence[str] | None = None,
    data: str | None = None,
    date: datetime.date | None = None,
) -> None:
    """Writes a page about classifiers under attack that needs nothing but a browser.

    After a summary comes what speaks against the numbers, then accuracy by magnitude, drawn and as
    a table, the ranking of the classifiers at significance 0.05, samples where inputs are images,
    and the settings. The page is one HTML file that loads nothing and runs no script. The extra
    `report` brings what writing it needs.

    Args:
        curves: Mapping from a classifier's name to its curve, all of the same samples, magnitudes
            and norm, and all of genuine accuracy or none.
        path: The file to write, whole or not at all; one that is there already is replaced.
        class_names: The classes' names, by label, for the samples; `None`: the labels themselves.
        data: What the samples are, such as "test images of MNIST"; `None`: the page does not say.
        date: The day that the page bears; `None`: today.

    Raises:
        ValueError: If there is no curve, they are not of the same samples, magnitudes, norm and
            kind, `path` is a folder or in none, or a sample's class has no name.
        TypeError: If `curves` does not map names to curves, or another argument is not as above.
        ImportError: If Jinja or Matplotlib is not installed.

    Example: the toy problem's third classifier is ahead of the first.

    >>> import pathlib, tempfile
    >>> import lexirobust as lr
    >>> x, y = lr.datasets.toy(100, seed=0)
    >>> attack = lr.attacks.PGD(norm="l2", steps=1, restarts=2, bounds=None)
    >>> f1, f3 = (
    ...     lr.evaluate_robustness(classifier, x, y, attack, [0, 0.5], checks=False)
    ...     for classifier in map(lr.datasets.toy_classifier, ("f1", "f3"))
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "report.html")
    ...     report({"f1": f1, "f3": f3}, path)
    ...     "<strong>f3</strong> is ahead of <strong>f1</strong>" in path.read_text()
    True
    """
    _check_curves(curves)
    place = _check_place(path)
    class_names = _check_class_names(class_names, curves)
    _check_kind("data", data, str)
    _check_kind("date", date, datetime.date)
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f'`report` needs {" and ".join(missing)}, which the extra "report" brings: '
            "pip install 'lexirobust[report]'."
        )
    places = places_of(curves)
    page = _render(
        curves=curves,
        date=f"{date or datetime.date.today():%Y-%m-%d}",
        data=data,
        norm=common([curve.norm for curve in curves.values()]),
        attacks_in_words=attacks_in_words(curves),
        summary=summary_of(curves, places[0].names),
        warnings=warnings_of(curves),
        quiet=without_warnings(curves),
        plot=plot_of(curves),
        rows=rows_of(curves),
        some_left_out=any(curve.excluded.any() for curve in curves.values()),
        places=places,
        pairs=pairs_of(curves, places),
        strict=strict_order(curves),
        significance=SIGNIFICANCE,
        same_attacks=under_same_attacks(curves.values()),
        samples={name: samples_of(curve, class_names) for name, curve in curves.items()},
        without_samples=[name for name, curve in curves.items() if curve.shown is None],
        attacks=by_owners({name: attacks_of(curve) for name, curve in curves.items()}),
        settings=settings_of(curves),
    )
    write_whole(place, lambda unfinished: unfinished.write_text(page, encoding="utf-8"))


def _check_curves(curves: Any) -> None:
    if not isinstance(curves, Mapping):
        raise TypeError(f"`curves` must map names to curves. Received: {type(curves).__name__}.")
    if not curves:
        raise ValueError("`curves` must hold at least one curve. Received: none.")
    for name, curve in curves.items():
        if not isinstance(name, str) or not isinstance(curve, AccuracyCurve):
            raise TypeError(
                f"`curves` must map names to curves. Received: {name!r} with "
                f"{type(curve).__name__}."
            )
    for one, other in itertools.combinations(curves.values(), 2):
        check_comparable(one, other)


def _check_place(path: str | os.PathLike[str]) -> pathlib.Path:
    place = pathlib.Path(path)
    if place.is_dir() or not place.parent.is_dir():
        raise ValueError(
            f"`path` must be a file in a folder that exists. Received: {os.fspath(path)!r}."
        )
    return place


def _check_kind(argument: str, value: Any, kind: type) -> None:
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"`{argument}` must be a {kind.__name__} or None. Received: {value!r}.")


def _check_class_names(names: Any, curves: Mapping[str, AccuracyCurve]) -> list[str] | None:
    if names is None:
        return None
    is_list = isinstance(names, Sequence | np.ndarray) and not isinstance(names, str)
    if not is_list or not all(isinstance(name, str) for name in names):
        raise TypeError(f"`class_names` must be a text for each class. Received: {names!r}.")
    shown = [curve.shown for curve in curves.values() if curve.shown is not None]
    classes = 1 + max((int(np.max([*e.y, *np.ravel(e.decisions)])) for e in shown), default=-1)
    if classes > len(names):
        raise ValueError(
            f"`class_names` must name all classes, at least {classes}. Received: {len(names)} "
            "names."
        )
    return list(names)


def _render(**content: Any) -> str:
    import jinja2  # Not at the top: it is an extra.

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lexirobust"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}"
    environment.filters["p_value"] = lambda p: "below 0.001" if p < 0.001 else f"{p:.3f}"
    return environment.get_template("report.html.jinja").render(content)
