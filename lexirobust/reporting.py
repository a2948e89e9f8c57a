"""One page about accuracy curves: whether to trust them, what they show, and their ranking."""

import base64
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


class _Pair(NamedTuple):
    """Two neighbors in the strict order, and whether chance may be what puts them there."""

    ahead: str
    behind: str
    strict: Order
    accuracies: list[float]
    tested: Order


class _Attack(NamedTuple):
    """An attack's class, and its settings by name."""

    name: str
    config: tuple[tuple[str, str], ...]


class _Perturbed(NamedTuple):
    """A sample as an attack left it at one magnitude; pictures are data URLs."""

    magnitude: float
    norm: float | None
    decision: int
    image: str
    perturbation: str

    @property
    def decided(self) -> str:
        """The decision in words: there is none where logits are not numbers."""
        return "not a number" if self.decision < 0 else str(self.decision)


class _Sample(NamedTuple):
    """A clean sample, and what an attack made of it."""

    label: int
    coarse: bool
    image: str
    perturbed: list[_Perturbed]


def report(curves: Mapping[str, AccuracyCurve], path: str | os.PathLike[str]) -> None:
    """Writes a page about classifiers under attack that needs nothing but a browser.

    First comes what speaks against the numbers, then accuracy by magnitude, drawn and as a table,
    the order of the classifiers, samples where inputs are images, and the settings. The page is one
    HTML file that loads nothing and runs no script. The extra `report` brings what writing it
    needs.

    Args:
        curves: Mapping from a classifier's name to its curve, all of the same samples and
            magnitudes.
        path: The file to write, whole or not at all; one that is there already is replaced.

    Raises:
        ValueError: If there is no curve, they are not of the same samples and magnitudes, or
            `path` is a folder or in none.
        TypeError: If `curves` does not map names to curves.
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
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f'`report` needs {" and ".join(missing)}, which the extra "report" brings: '
            "pip install 'lexirobust[report]'."
        )
    page = _render(
        curves=curves,
        attacks_in_words=_attacks_in_words(curves),
        flags=_by_owners({name: curve.flags for name, curve in curves.items()}),
        plot=_plot(curves),
        rows=_rows(curves),
        some_left_out=any(curve.excluded.any() for curve in curves.values()),
        places=_places(curves),
        pairs=_pairs(curves),
        significance=_SIGNIFICANCE,
        samples={name: _samples(curve) for name, curve in curves.items()},
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


def _places(curves: Mapping[str, AccuracyCurve]) -> list[tuple[int, str]]:
    """Places in the strict order with names, the most robust first."""
    places = zip(rank(list(curves.values())), curves, strict=True)
    return sorted(places, key=operator.itemgetter(0))


def _pairs(curves: Mapping[str, AccuracyCurve]) -> list[_Pair]:
    pairs = []
    for (_, ahead), (_, behind) in itertools.pairwise(_places(curves)):
        both = curves[ahead], curves[behind]
        strict = compare(*both)
        at = both[0].magnitudes == strict.at
        accuracies = [float(curve.accuracy[at][0]) for curve in both if strict.order]
        tested = compare(*both, significance=_SIGNIFICANCE)
        pairs.append(_Pair(ahead, behind, strict, accuracies, tested))
    return pairs


def _samples(curve: AccuracyCurve) -> list[_Sample]:
    """A few samples with their perturbations; none where inputs are no images."""
    shown = curve.shown
    if shown is None or not _are_images(shown.x):
        return []
    span = min(shown.x.min(), shown.x_adv.min()), max(shown.x.max(), shown.x_adv.max())
    return [
        _Sample(
            label=int(shown.y[index]),
            coarse=max(clean.shape[:2]) <= _COARSE,
            image=_picture(clean, *span, colors="gray"),
            perturbed=[
                _Perturbed(
                    magnitude=float(curve.magnitudes[row]),
                    norm=_norm(curve.norms[row, index]),
                    decision=int(shown.decisions[row, index]),
                    image=_picture(shown.x_adv[row, index], *span, colors="gray"),
                    perturbation=_difference(shown.x_adv[row, index] - clean),
                )
                for row in _spread(curve.magnitudes)
            ],
        )
        for index, clean in enumerate(shown.x[:_SAMPLES])
    ]


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
