"""What a page says of curves: summary, warnings, accuracies, attacks and settings."""

import io
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np

from lexirobust.evaluation import AccuracyCurve
from lexirobust.reporting.samples import data_url

_ELSEWHERE: Final = ("attacks", "magnitudes", "logits")
"""Settings that the page shows in other places, or that are there to tell classifiers apart."""
_LABELS: Final = {
    "data": "data digest",
    "classifier": "weights digest",
    "genuine": "digest of the points with cells",
    "priors": "priors that magnitudes are over",
    "batch_size": "batch size",
    "checks": "checked for flags",
}

_Item = TypeVar("_Item", bound=Hashable)


class Cell(NamedTuple):
    """A curve at one magnitude: accuracy, its interval, samples left out; shares of 1."""

    accuracy: float
    low: float
    high: float
    excluded: float


class Summary(NamedTuple):
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


class Warned(NamedTuple):
    """A warning with all classifiers that it concerns."""

    name: str
    owners: list[str]
    messages: list[tuple[tuple[str, ...], list[str]]]
    advice: list[str]


class UsedAttack(NamedTuple):
    """An attack's class, and its settings by name."""

    name: str
    config: tuple[tuple[str, str], ...]


def by_owners(
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


def common(values: Sequence[_Item]) -> _Item | None:
    """The value that all have; `None` where they differ."""
    return values[0] if len(set(values)) == 1 else None


def warnings_of(curves: Mapping[str, AccuracyCurve]) -> list[Warned]:
    """Each kind of warning once: whom it concerns, what was found of each, and what to do."""
    names = dict.fromkeys(flag.name for curve in curves.values() for flag in curve.flags)
    warnings = []
    for name in names:
        own = {
            owner: [flag for flag in curve.flags if flag.name == name]
            for owner, curve in curves.items()
        }
        advice = dict.fromkeys(flag.advice for flags in own.values() for flag in flags)
        messages = by_owners({o: [flag.message for flag in flags] for o, flags in own.items()})
        owners = [owner for owner, flags in own.items() if flags]
        warnings.append(Warned(name, owners, messages, list(advice)))
    return warnings


def without_warnings(
    curves: Mapping[str, AccuracyCurve],
) -> list[tuple[tuple[str, ...], list[bool]]]:
    """The classifiers without warnings, grouped by whether they were checked for any."""
    return by_owners({name: [curve.checked] for name, curve in curves.items() if not curve.flags})


def summary_of(curves: Mapping[str, AccuracyCurve], first: list[str]) -> Summary:
    """The numbers of the first classifier, and the warnings about those that share its place."""
    curve = curves[first[0]]
    ascending = [row for row in np.argsort(curve.magnitudes) if not np.isnan(curve.accuracy[row])]
    points = [(float(curve.magnitudes[row]), float(curve.accuracy[row])) for row in ascending]
    attacked = [point for point in points if point[0] > 0]
    mostly = [point for point in attacked if point[1] >= 0.5]
    return Summary(
        names=first,
        kind="robust" if curve.settings.get("genuine") is None else "genuine",
        natural=next((accuracy for magnitude, accuracy in points if magnitude == 0), None),
        robust=list(dict.fromkeys(mostly[-1:] + attacked[-1:])),
        flags=list(dict.fromkeys(flag.name for name in first for flag in curves[name].flags)),
        others=[name for name, each in curves.items() if each.flags and name not in first],
        checked=all(curves[name].checked for name in first),
    )


def attacks_in_words(curves: Mapping[str, AccuracyCurve]) -> list[str]:
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


def plot_of(curves: Mapping[str, AccuracyCurve]) -> str:
    """Accuracy by magnitude, drawn, as data URL."""
    from lexirobust import plotting  # Not at the top: it is an extra.

    # Matplotlib takes what stands between two dollars for a formula.
    figure = plotting.accuracy_curves({name.replace("$", r"\$"): c for name, c in curves.items()})
    file = io.BytesIO()
    figure.savefig(file, format="svg", transparent=True)
    return data_url("image/svg+xml", file)


def rows_of(curves: Mapping[str, AccuracyCurve]) -> list[tuple[float, list[Cell]]]:
    """The table: a row for each magnitude, ascending, a cell for each curve."""
    columns = [
        np.column_stack([curve.accuracy, curve.interval(), curve.excluded]).tolist()
        for curve in curves.values()
    ]
    magnitudes = next(iter(curves.values())).magnitudes
    return [
        (magnitudes[row], [Cell(*column[row]) for column in columns])
        for row in np.argsort(magnitudes, kind="stable")
    ]


def attacks_of(curve: AccuracyCurve) -> list[UsedAttack]:
    """The attacks that a curve was measured with."""
    return [
        UsedAttack(
            attack["class_name"],
            tuple((name, _written(value)) for name, value in attack["config"].items()),
        )
        for attack in curve.settings.get("attacks", [])
    ]


def settings_of(curves: Mapping[str, AccuracyCurve]) -> list[tuple[str, list[str]]]:
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
