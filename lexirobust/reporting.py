"""One page about accuracy curves: whether to trust them, what they show, and their ranking."""

import base64
import datetime
import importlib.util
import io
import itertools
import operator
import os
import pathlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np

from lexirobust.atomic_files import write_whole
from lexirobust.evaluation import AccuracyCurve, Order, compare, rank
from lexirobust.evaluation.curve import check_pair

_EXTRA: Final = ("jinja2", "matplotlib")
_SIGNIFICANCE: Final = 0.05
_SAMPLES: Final = 4
"""The number of samples shown for each curve."""
_MAGNITUDES: Final = 3
"""At how many magnitudes they are shown."""
_COARSE: Final = 64
"""Up to how many pixels a side their squares are to be seen."""
_ELSEWHERE: Final = ("attacks", "magnitudes")
"""Settings that the page shows in other places."""
_LABELS: Final = {
    "data": "data digest",
    "classifier": "weights digest",
    "genuine": "digest of the points with cells",
    "priors": "priors that magnitudes are over",
    "batch_size": "batch size",
    "checks": "checked for flags",
}

_Item = TypeVar("_Item", bound=Hashable)


class _Cell(NamedTuple):
    """A curve at one magnitude: accuracy, its interval, samples left out; shares of 1."""

    accuracy: float
    low: float
    high: float
    excluded: float


class _Summary(NamedTuple):
    """The first classifiers, and the numbers of one of them; shares of 1, `None` if not measured.

    Attributes:
        names: All that share place 1, by the strict order.
        kind: What the accuracy under attack is called.
        natural: The accuracy of the first of them at magnitude 0.
        robust: Magnitudes and the accuracy there: the largest at which most samples still are
            right, if there is one, and the largest of all.
        flags: Names of the warnings about any of `names`.
        others: Names of classifiers that share another place and have warnings.
        checked: Whether all of `names` were checked.
    """

    names: list[str]
    kind: str
    natural: float | None
    robust: list[tuple[float, float]]
    flags: list[str]
    others: list[str]
    checked: bool


class _Warning(NamedTuple):
    """A warning with all classifiers that it concerns."""

    name: str
    owners: list[str]
    messages: list[tuple[tuple[str, ...], list[str]]]
    advice: list[str]


class _Place(NamedTuple):
    """Classifiers that share a place, and why.

    Attributes:
        number: The place.
        names: The classifiers, by the strict order.
        p_value: The smallest corrected p-value among them; `None` for one alone.
        circle: Whether some are significantly ahead of others, which are ahead of them in turn.
    """

    number: int
    names: list[str]
    p_value: float | None
    circle: bool


class _Pair(NamedTuple):
    """Two classifiers, what decides between them, and their accuracies there."""

    ahead: str
    behind: str
    order: Order
    accuracies: list[float]


class _Attack(NamedTuple):
    """An attack's class, and its settings by name."""

    name: str
    config: tuple[tuple[str, str], ...]


class _Perturbed(NamedTuple):
    """A sample as an attack left it at one magnitude; pictures are data URLs."""

    magnitude: float
    norm: float | None
    decision: str
    right: bool
    image: str
    perturbation: str


class _Sample(NamedTuple):
    """A clean sample, and what an attack made of it."""

    label: str
    coarse: bool
    image: str
    perturbed: list[_Perturbed]


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
        curves: Mapping from a classifier's name to its curve, all of the same samples and
            magnitudes.
        path: The file to write, whole or not at all; one that is there already is replaced.
        class_names: The classes' names, by label, for the samples; `None`: the labels themselves.
        data: What the samples are, such as "test images of MNIST"; `None`: the page does not say.
        date: The day that the page bears; `None`: today.

    Raises:
        ValueError: If there is no curve, they are not of the same samples and magnitudes, `path`
            is a folder or in none, or a sample's class has no name.
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
    places = _places(curves)
    page = _render(
        curves=curves,
        date=f"{date or datetime.date.today():%Y-%m-%d}",
        data=data,
        norm=_one([curve.norm for curve in curves.values()]),
        attacks_in_words=_attacks_in_words(curves),
        summary=_summary(curves, places[0].names),
        warnings=_warnings(curves),
        quiet=_quiet(curves),
        plot=_plot(curves),
        rows=_rows(curves),
        some_left_out=any(curve.excluded.any() for curve in curves.values()),
        places=places,
        pairs=_pairs(curves, places),
        strict=_strict(curves),
        significance=_SIGNIFICANCE,
        samples={name: _samples(curve, class_names) for name, curve in curves.items()},
        without_samples=[name for name, curve in curves.items() if curve.shown is None],
        attacks=_by_owners({name: _attacks(curve) for name, curve in curves.items()}),
        settings=_settings(curves),
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
        check_pair(one, other)


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
    # Not at the top, here and below: they are extras, and measuring needs none.
    import jinja2

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


def _by_owners(
    items: Mapping[str, Iterable[_Item]],
) -> list[tuple[tuple[str, ...], list[_Item]]]:
    """The items that curves have, each once, grouped by the names of the curves that have it."""
    owners: dict[_Item, list[str]] = {}
    for name, own in items.items():
        for item in dict.fromkeys(own):
            owners.setdefault(item, []).append(name)
    groups: dict[tuple[str, ...], list[_Item]] = {}
    for item, names in owners.items():
        groups.setdefault(tuple(names), []).append(item)
    return list(groups.items())


def _one(values: Sequence[_Item]) -> _Item | None:
    """The value that all have; `None` where they differ."""
    return values[0] if len(set(values)) == 1 else None


def _warnings(curves: Mapping[str, AccuracyCurve]) -> list[_Warning]:
    """Each kind of warning once: whom it concerns, what was found of each, and what to do."""
    names = dict.fromkeys(flag.name for curve in curves.values() for flag in curve.flags)
    warnings = []
    for name in names:
        own = {
            owner: [flag for flag in curve.flags if flag.name == name]
            for owner, curve in curves.items()
        }
        advice = dict.fromkeys(flag.advice for flags in own.values() for flag in flags)
        messages = _by_owners({o: [flag.message for flag in flags] for o, flags in own.items()})
        owners = [owner for owner, flags in own.items() if flags]
        warnings.append(_Warning(name, owners, messages, list(advice)))
    return warnings


def _quiet(curves: Mapping[str, AccuracyCurve]) -> list[tuple[tuple[str, ...], list[bool]]]:
    """The classifiers without warnings, grouped by whether they were checked for any."""
    return _by_owners(
        {name: [_checked(curve)] for name, curve in curves.items() if not curve.flags}
    )


def _checked(curve: AccuracyCurve) -> bool:
    return curve.settings.get("checks") is not False


def _summary(curves: Mapping[str, AccuracyCurve], first: list[str]) -> _Summary:
    curve = curves[first[0]]
    ascending = [row for row in np.argsort(curve.magnitudes) if not np.isnan(curve.accuracy[row])]
    points = [(float(curve.magnitudes[row]), float(curve.accuracy[row])) for row in ascending]
    attacked = [point for point in points if point[0] > 0]
    mostly = [point for point in attacked if point[1] >= 0.5]
    return _Summary(
        names=first,
        kind="robust" if curve.settings.get("genuine") is None else "genuine",
        natural=next((accuracy for magnitude, accuracy in points if magnitude == 0), None),
        robust=list(dict.fromkeys(mostly[-1:] + attacked[-1:])),
        flags=list(dict.fromkeys(flag.name for name in first for flag in curves[name].flags)),
        others=[name for name, each in curves.items() if each.flags and name not in first],
        checked=all(_checked(curves[name]) for name in first),
    )


def _attacks_in_words(curves: Mapping[str, AccuracyCurve]) -> list[str]:
    """The attacks that the curves were measured with; one phrase if they are the same for all."""
    attacks = (curve.settings.get("attacks") for curve in curves.values())
    return list(dict.fromkeys(_worst_of(each) for each in attacks if each))


def _worst_of(attacks: Sequence[Mapping[str, Any]]) -> str:
    *others, last = map(_in_words, attacks)
    return f"the worst of {', '.join(others)} and {last}" if others else last


def _in_words(attack: Mapping[str, Any]) -> str:
    config = attack["config"]
    if "attacks" in config:
        return _worst_of(config["attacks"])
    if "attack" in config:
        return _in_words(config["attack"])
    if "norm" not in config:
        return attack["class_name"]
    constraint = f"{config['constraint']} " if "constraint" in config else ""
    return f"{attack['class_name']} with {constraint}{config['norm']} norm"


def _plot(curves: Mapping[str, AccuracyCurve]) -> str:
    from lexirobust import plotting

    # Matplotlib takes what stands between two dollars for a formula.
    figure = plotting.accuracy_curves({name.replace("$", r"\$"): c for name, c in curves.items()})
    file = io.BytesIO()
    figure.savefig(file, format="svg", transparent=True)
    return _data_url("image/svg+xml", file)


def _rows(curves: Mapping[str, AccuracyCurve]) -> list[tuple[float, list[_Cell]]]:
    """The table: a row for each magnitude, ascending, a cell for each curve."""
    columns = [
        np.column_stack([curve.accuracy, curve.interval(), curve.excluded]).tolist()
        for curve in curves.values()
    ]
    magnitudes = next(iter(curves.values())).magnitudes
    return [
        (magnitudes[row], [_Cell(*column[row]) for column in columns])
        for row in np.argsort(magnitudes, kind="stable")
    ]


def _places(curves: Mapping[str, AccuracyCurve]) -> list[_Place]:
    """Places with names, the most robust first, where chance decides nothing."""
    numbers = rank(list(curves.values()), significance=_SIGNIFICANCE)
    strict = dict(zip(curves, rank(list(curves.values())), strict=True))
    shared: dict[int, list[str]] = {}
    for number, name in sorted(
        zip(numbers, curves, strict=True), key=lambda p: (p[0], strict[p[1]])
    ):
        shared.setdefault(number, []).append(name)
    return [_place(curves, number, names) for number, names in shared.items()]


def _place(curves: Mapping[str, AccuracyCurve], number: int, names: list[str]) -> _Place:
    orders = [
        compare(curves[one], curves[other], significance=_SIGNIFICANCE)
        for one, other in itertools.combinations(names, 2)
    ]
    p_value = min((order.p_value for order in orders), default=None)
    return _Place(number, names, p_value, circle=any(order.order for order in orders))


def _pairs(curves: Mapping[str, AccuracyCurve], places: Sequence[_Place]) -> list[_Pair]:
    """For each classifier the first in the place before its own that is ahead of it."""
    pairs: list[_Pair] = []
    for before, place in itertools.pairwise(places):
        for behind in place.names:
            found = (_pair(curves, ahead, behind) for ahead in before.names)
            # In a circle some are behind by way of others alone.
            pairs.extend(itertools.islice((pair for pair in found if pair.order.order > 0), 1))
    return pairs


def _strict(curves: Mapping[str, AccuracyCurve]) -> list[tuple[int, str, Order | None]]:
    """Places in the strict order with names, and what puts each behind the one before it."""
    places = zip(rank(list(curves.values())), curves, strict=True)
    ranked = sorted(places, key=operator.itemgetter(0))
    names = [name for _, name in ranked]
    orders = [compare(curves[one], curves[other]) for one, other in itertools.pairwise(names)]
    decided = [None, *(order if order.order else None for order in orders)]
    return [(*place, order) for place, order in zip(ranked, decided, strict=True)]


def _pair(curves: Mapping[str, AccuracyCurve], ahead: str, behind: str) -> _Pair:
    both = curves[ahead], curves[behind]
    order = compare(*both, significance=_SIGNIFICANCE)
    at = both[0].magnitudes == order.at
    accuracies = [float(curve.accuracy[at][0]) for curve in both if order.order]
    return _Pair(ahead, behind, order, accuracies)


def _samples(curve: AccuracyCurve, class_names: Sequence[str] | None) -> list[_Sample]:
    """A few samples with their perturbations; none where inputs are no images."""
    shown = curve.shown
    if shown is None or not _are_images(shown.x):
        return []
    span = min(shown.x.min(), shown.x_adv.min()), max(shown.x.max(), shown.x_adv.max())
    return [
        _Sample(
            label=_class(shown.y[index], class_names),
            coarse=max(clean.shape[:2]) <= _COARSE,
            image=_picture(clean, *span, colors="gray"),
            perturbed=[
                _Perturbed(
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
    from matplotlib import image

    shares = (pixels.astype(np.float64) - low) / ((high - low) or 1.0)
    if shares.ndim == 3 and shares.shape[-1] == 1:
        shares = shares[..., 0]
    file = io.BytesIO()
    image.imsave(file, shares.clip(0, 1), vmin=0, vmax=1, cmap=colors, format="png")
    return _data_url("image/png", file)


def _data_url(kind: str, file: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _attacks(curve: AccuracyCurve) -> list[_Attack]:
    return [
        _Attack(
            attack["class_name"],
            tuple((name, _written(value)) for name, value in attack["config"].items()),
        )
        for attack in curve.settings.get("attacks", [])
    ]


def _settings(curves: Mapping[str, AccuracyCurve]) -> list[tuple[str, list[str]]]:
    """All other settings: what they are called, and the value of each curve."""
    names = dict.fromkeys(
        name
        for curve in curves.values()
        for name, value in curve.settings.items()
        if name not in _ELSEWHERE and value is not None
    )
    return [
        (_LABELS.get(name, name), [_written(c.settings.get(name)) for c in curves.values()])
        for name in names
    ]


def _written(value: Any) -> str:
    """A setting as text, where Keras's form of an object is its class and its settings."""
    if isinstance(value, Mapping):
        if "class_name" in value:
            return f"{value['class_name']}({_written(value['config'])})"
        return ", ".join(f"{name}={_written(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_written, value))}]"
    return str(value)
