"""Accuracy as a function of the perturbation's magnitude."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from scipy import stats

from lexirobust.atomic_files import write_whole
from lexirobust.checks import check_number
from lexirobust.evaluation.attack_settings import norm_of
from lexirobust.evaluation.backup import check_alike
from lexirobust.evaluation.flags import Flag
from lexirobust.evaluation.outcomes import as_array, decode_rows, encode_row, number_or_none
from lexirobust.geometry import balls

SCHEMA_VERSION: Final = 1
"""The version of the JSON that `AccuracyCurve.to_json` writes; docs/accuracy_curve.schema.json."""
_MATRICES: Final = {"correct": bool, "losses": np.float32, "norms": np.float32, "feasible": bool}


@dataclasses.dataclass(frozen=True, eq=False)
class ExampleInputs:
    """A few samples with what an attack made of them, to be looked at.

    Attributes:
        x: `[n, ...]` clean inputs.
        y: `[n]` labels.
        x_adv: `[K, n, ...]` perturbed inputs.
        decisions: `[K, n]` the classes that the classifier gives them; -1 for logits that are not
            numbers.
    """

    x: np.ndarray
    y: np.ndarray
    x_adv: np.ndarray
    decisions: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class AccuracyCurve:
    """The accuracy of a classifier at each magnitude, sample by sample.

    The sum of two curves is the curve under both attacks: of each sample and magnitude the worse
    outcome.

    Attributes:
        magnitudes: `[K]` norms.
        correct: `[K, N]` bool: whether the perturbed sample is classified as labeled.
        losses: `[K, N]` cross entropies at the perturbed samples, in nats. `AutoAttack` searches
            from the largest magnitude down, and gives back a sample that resists there as it was at
            all smaller ones: such losses are those of clean inputs, and norms are 0.
        norms: `[K, N]` norms that the perturbations reached; not a number where an attack's
            magnitudes are no norms, as those of `Spatial`.
        feasible: `[K, N]` bool: whether the bounds have room for a perturbation of that norm.
        valid: `[K, N]` bool: whether the sample counts at that magnitude; all do, unless points
            that are explored already are left out.
        flags: Why the numbers may not be what they seem, the gravest first.
        settings: What the curve was measured with.
        shown: A few samples with their perturbations, or `None`.

    Raises:
        ValueError: If the shapes do not fit each other.
        TypeError: If an outcome is not of its kind: numbers, or bools, which 0 and 1 are, too.
    """

    magnitudes: np.ndarray
    correct: np.ndarray
    losses: np.ndarray
    norms: np.ndarray
    feasible: np.ndarray
    valid: np.ndarray = None  # type: ignore[assignment]  # All, once constructed.
    flags: tuple[Flag, ...] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    shown: ExampleInputs | None = None

    def __post_init__(self) -> None:
        for name, kind in {"magnitudes": np.float64, **_MATRICES, "valid": bool}.items():
            values = getattr(self, name)
            if name == "valid" and values is None:
                values = np.ones_like(self.correct)
            object.__setattr__(self, name, as_array(name, values, kind))
        shape, length = self.correct.shape, self.magnitudes.shape
        for name in (*_MATRICES, "valid"):
            own = getattr(self, name).shape
            if own != shape or shape[:1] != length:
                raise ValueError(
                    "`magnitudes` must be [K] and all outcomes [K, N]. Received: magnitudes of "
                    f"shape {length}, `{name}` of {own}."
                )

    def __repr__(self) -> str:
        """The accuracies and the names of warnings: all arrays would be a thousand lines."""
        pairs = zip(self.magnitudes, self.accuracy, strict=True)
        accuracies = ", ".join(
            f"{'undefined' if np.isnan(accuracy) else f'{accuracy:.1%}'} at {magnitude:g}"
            for magnitude, accuracy in pairs
        )
        warned = ", ".join(flag.name for flag in self.flags)
        warned = warned or ("none" if self.checked else "not looked for")
        return (
            f"<AccuracyCurve of {self.correct.shape[1]} samples, {self.norm or 'magnitude'}: "
            f"{accuracies}; warnings: {warned}>"
        )

    @property
    def norm(self) -> str | None:
        """The norm that magnitudes are of: "l1", "l2" or "linf".

        `None` where attacks have different norms or none, where priors scale it, and where it is
        not known.
        """
        norms = {norm_of(attack) for attack in self.settings.get("attacks", [])}
        known = len(norms) == 1 and norms <= set(balls.NORMS)
        return norms.pop() if known and self.settings.get("priors") is None else None

    @property
    def checked(self) -> bool:
        """Tells if reasons not to trust the numbers were looked for, and `flags` has all of them.

        Where that is not known, as of a curve made of outcomes alone, they were not.
        """
        return self.settings.get("checks") is True

    @property
    def counts(self) -> np.ndarray:
        """`[K]` how many samples count."""
        return np.sum(self.valid, axis=1)

    @property
    def excluded(self) -> np.ndarray:
        """`[K]` share of samples that do not count, from 0 to 1."""
        return 1.0 - self.counts / self.correct.shape[1]

    @property
    def accuracy(self) -> np.ndarray:
        """`[K]` share of the samples that count classified as labeled, from 0 to 1.

        Not a number where none counts: there the accuracy is undefined.
        """
        return np.divide(
            self._right,
            self.counts,
            out=np.full(len(self.magnitudes), np.nan),
            where=self.counts > 0,
        )

    @property
    def _right(self) -> np.ndarray:
        return np.sum(self.correct & self.valid, axis=1)

    def interval(self, confidence: float = 0.95) -> np.ndarray:
        """Says how far the accuracy on other samples like these may be from that on these.

        Args:
            confidence: Probability that the interval holds the true accuracy, between 0 and 1.

        Returns:
            `[K, 2]` lower and upper ends; not a number where no sample counts.

        Raises:
            ValueError: If the confidence is not as above.

        Example: nine of ten samples, and three of them at magnitude 1.

        >>> from lexirobust.evaluation import AccuracyCurve
        >>> correct = np.arange(10) < np.array([[9], [3]])
        >>> zeros = np.zeros((2, 10))
        >>> curve = AccuracyCurve(np.array([0.0, 1.0]), correct, zeros, zeros, zeros == 0)
        >>> curve.interval().round(3)
        array([[0.596, 0.982],
               [0.108, 0.603]])

        Reference:
            Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
        """
        check_number("confidence", confidence, 0, 1, inside=True)
        ends = np.full((len(self.magnitudes), 2), np.nan)
        for row, (right, count) in enumerate(zip(self._right, self.counts, strict=True)):
            if count:
                test = stats.binomtest(int(right), int(count))
                ends[row] = test.proportion_ci(confidence, method="wilson")
        return ends

    def __add__(self, other: "AccuracyCurve") -> "AccuracyCurve":
        """The curve under both attacks, the same samples each."""
        if not isinstance(other, AccuracyCurve):
            return NotImplemented
        check_pair(self, other)
        classifiers = [curve.settings.get("classifier") for curve in (self, other)]
        if None not in classifiers and classifiers[0] != classifiers[1]:
            raise ValueError(
                "Curves that are added must be of one classifier. Received: weights of digests "
                f"{classifiers[0]} and {classifiers[1]}; `compare` takes two."
            )
        one, another = (curve.settings.get("logits") for curve in (self, other))
        if one is not None and another is not None:
            count = min(len(one), len(another))  # A small batch has fewer samples to show.
            problem = (
                "Curves that are added must be of one classifier. Received: other logits of the "
                "same samples; `compare` takes two."
            )
            check_alike(one[:count], another[:count], problem)
        worse = ~other.correct & self.correct
        worse |= (other.correct == self.correct) & (other.losses > self.losses)
        worse = other.valid & (worse | ~self.valid)
        merged = {
            name: np.where(worse, getattr(other, name), getattr(self, name)) for name in _MATRICES
        }
        lists = {
            name: [*self.settings.get(name, []), *other.settings.get(name, [])]
            for name in ("attacks", "seeds")
        }
        settings = {**self.settings, **lists, "checks": self.checked and other.checked}
        return dataclasses.replace(
            self,
            **merged,
            valid=self.valid | other.valid,
            flags=tuple(dict.fromkeys((*self.flags, *other.flags))),
            settings=settings,
            shown=_worse_shown(self.shown, other.shown, worse),
        )

    def plot(self) -> Any:
        """Draws the curve with its 95 % interval.

        Returns:
            A `matplotlib.figure.Figure`; `lexirobust.plotting.accuracy_curves` draws several.
        """
        # Not at the top: matplotlib is an extra, and measuring needs none.
        from lexirobust import plotting

        return plotting.accuracy_curves({"": self})

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """Writes everything but the samples shown, which are pictures.

        Args:
            path: A file that is to hold the text, whole or not at all, or `None`.

        Returns:
            JSON text, in the schema of docs/accuracy_curve.schema.json.
        """
        clean = self.accuracy[self.magnitudes == 0]
        content = {
            "schema_version": SCHEMA_VERSION,
            "settings": dict(self.settings),
            # RobustBench's names, and its per cent.
            "eps": self.magnitudes.tolist(),
            "clean_acc": number_or_none(100 * clean[0]) if clean.size else None,
            "adv_acc": [number_or_none(100 * accuracy) for accuracy in self.accuracy],
            "interval": [[number_or_none(100 * end) for end in ends] for ends in self.interval()],
            "flags": [dataclasses.asdict(flag) for flag in self.flags],
            **{
                name: [encode_row(row) for row in getattr(self, name)]
                for name in (*_MATRICES, "valid")
            },
        }
        text = json.dumps(content, allow_nan=False) + "\n"
        if path is not None:
            write_whole(
                pathlib.Path(path), lambda unfinished: unfinished.write_text(text, encoding="utf-8")
            )
        return text

    @classmethod
    def from_json(cls, text: str | os.PathLike[str]) -> "AccuracyCurve":
        """Reads what `to_json` wrote.

        Args:
            text: JSON text, or the `pathlib.Path` of a file that holds it.

        Returns:
            An equal curve, without samples to show.

        Raises:
            ValueError: If the text is no JSON, of another version, lacks something, or does not
                hold what the schema says.
        """
        if isinstance(text, os.PathLike):
            text = pathlib.Path(text).read_text(encoding="utf-8")
        try:
            content = json.loads(text)
        except RecursionError as error:
            raise ValueError(
                "`text` must be an accuracy curve, not JSON nested so deep."
            ) from error
        except (TypeError, ValueError) as error:
            raise ValueError(
                "`text` must be JSON, or where that is in a file, its path as a pathlib.Path. "
                f"Received: {_shortened(text)}: {error}."
            ) from error
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"`text` must be an accuracy curve of schema version {SCHEMA_VERSION}. Received: "
                f"version {version!r}."
            )
        missing = {"eps", "settings", "flags", "valid", *_MATRICES} - content.keys()
        if missing:
            raise ValueError(f"`text` must hold a whole curve. Received: no {sorted(missing)}.")
        try:
            # They are to be written again.
            json.dumps([content["settings"], content["eps"]], allow_nan=False)
            if None in content["eps"]:
                raise ValueError("magnitudes must be numbers")
            return cls(
                magnitudes=np.asarray(content["eps"], np.float64),
                correct=decode_rows(content["correct"], bool),
                losses=decode_rows(content["losses"], np.float32),
                norms=decode_rows(content["norms"], np.float32),
                feasible=decode_rows(content["feasible"], bool),
                valid=decode_rows(content["valid"], bool),
                flags=tuple(_flag(flag) for flag in content["flags"]),
                settings={**content["settings"]},
            )
        except (TypeError, ValueError, ArithmeticError) as error:
            raise ValueError(f"`text` must hold a curve as the schema says: {error}") from error


def check_pair(first: AccuracyCurve, second: AccuracyCurve) -> None:
    """Checks that two curves are of the same samples, magnitudes, priors and kind.

    Args:
        first: A curve.
        second: Another.

    Raises:
        ValueError: If they are not.
        TypeError: If one is no curve.
    """
    for curve in (first, second):
        if not isinstance(curve, AccuracyCurve):
            raise TypeError(f"Curves must be AccuracyCurves. Received: {curve!r}.")
    if not np.array_equal(first.magnitudes, second.magnitudes):
        raise ValueError(
            "Curves must have the same magnitudes. Received: "
            f"{first.magnitudes.tolist()} and {second.magnitudes.tolist()}."
        )
    if first.correct.shape != second.correct.shape:
        raise ValueError(
            "Curves must be of the same samples. Received: "
            f"{first.correct.shape[1]} and {second.correct.shape[1]} samples."
        )
    digests = [curve.settings.get("data") for curve in (first, second)]
    if None not in digests and digests[0] != digests[1]:
        raise ValueError(
            "Curves must be of the same samples in the same order. Received: data of digests "
            f"{digests[0]} and {digests[1]}."
        )
    priors = [curve.settings.get("priors") for curve in (first, second)]
    if priors[0] != priors[1]:
        raise ValueError(
            "Curves must have the same priors, by which magnitudes are scaled. Received: "
            f"{priors[0]} and {priors[1]}."
        )
    cells = [curve.settings.get("genuine") for curve in (first, second)]
    if cells[0] != cells[1]:
        raise ValueError(
            "Curves must be of the same kind: of accuracy, or of genuine accuracy in the cells of "
            f"the same points. Received: cells of digests {cells[0]} and {cells[1]}."
        )


def _worse_shown(
    first: ExampleInputs | None, second: ExampleInputs | None, worse: np.ndarray
) -> ExampleInputs | None:
    """Samples that both curves show, each as the attack left it that `worse` `[K, N]` says."""
    if first is None or second is None:
        return None
    count = min(len(first.y), len(second.y))

    def chosen(of_first: np.ndarray, of_second: np.ndarray) -> np.ndarray:
        of_first, of_second = of_first[:, :count], of_second[:, :count]
        taken = np.expand_dims(worse[:, :count], tuple(range(2, of_first.ndim)))
        return np.where(taken, of_second, of_first)

    return ExampleInputs(
        x=first.x[:count],
        y=first.y[:count],
        x_adv=chosen(first.x_adv, second.x_adv),
        decisions=chosen(first.decisions, second.decisions),
    )


def _shortened(value: Any) -> str:
    """The beginning of what may be a long text."""
    text = repr(value)
    return text if len(text) < 60 else f"{text[:60]}…"


def _flag(fields: Any) -> Flag:
    flag = Flag(**fields)
    if not all(isinstance(text, str) for text in dataclasses.astuple(flag)):
        raise TypeError(f"flags must consist of texts, not {fields}")
    return flag
