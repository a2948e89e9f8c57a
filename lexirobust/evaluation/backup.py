"""Intermediate results of an evaluation, so that an interruption loses at most one batch."""

import hashlib
import json
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from lexirobust.atomic_files import write_json, write_whole


class Digest:
    """Tells data apart, in whatever batches they come."""

    def __init__(self) -> None:
        self._inputs, self._labels = hashlib.sha256(), hashlib.sha256()

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Takes further inputs `[n, ...]` and labels `[n]`."""
        self._inputs.update(np.ascontiguousarray(x).tobytes())
        self._labels.update(y.astype(np.int64).tobytes())

    def hex(self) -> str:
        """Of all samples so far, 16 hexadecimal digits."""
        both = self._inputs.digest() + self._labels.digest()
        return hashlib.sha256(both).hexdigest()[:16]


def check_alike(kept: Any, logits: Any, problem: str) -> None:
    """Checks that logits of the same samples are those of one classifier.

    Args:
        kept: `[n, C]`: what a classifier gave before.
        logits: `[n, C]`: what one gives now.
        problem: What is said where they are not.

    Raises:
        ValueError: If the shapes differ, or a number by more than a hundredth of the largest.
    """
    now = np.asarray(logits, np.float64)
    near = 0.01 * np.abs(now).max()  # Other machines and more devices round differently.
    if np.shape(kept) != now.shape or not np.allclose(kept, now, rtol=0.0, atol=near):
        raise ValueError(problem)


class Backup:
    """The results so far: the settings, and one file for each batch."""

    def __init__(self, folder: pathlib.Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self._settings = folder / "settings.json"
        self._content: dict[str, Any] = {**json.loads(json.dumps(settings)), "seeds": None}
        if self._settings.exists():
            kept = json.loads(self._settings.read_text(encoding="utf-8"))
            for name, value in self._content.items():
                if name != "seeds" and kept.get(name) != value:
                    raise ValueError(
                        f"`backup` must be of the same evaluation. Received: {str(folder)!r}, "
                        f"whose {name!r} is {kept.get(name)!r} where this call has {value!r}. "
                        "Finish that evaluation, remove the folder, or name another one."
                    )
            self._content = kept
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(
                f"`backup` must be a new or empty folder, or hold the same evaluation. Received: "
                f"{str(folder)!r}."
            )

    def seeds(self, seeds: list[int]) -> list[int]:
        """The seeds of the evaluation that is gone on with; those given where it begins."""
        if self._content["seeds"] is None:
            self._content["seeds"] = [int(seed) for seed in seeds]
            write_json(self._settings, self._content)
        return self._content["seeds"]

    def check_classifier(self, logits: Any, again: Any) -> None:
        """Checks that it is the classifier that was measured; weights alone do not tell.

        Args:
            logits: The classifier's logits of some samples.
            again: Those of a second call, which differ of randomized classifiers: nothing can be
                said of these.

        Raises:
            ValueError: If it is another one.
        """
        now = np.asarray(logits, np.float64)
        if not np.isfinite(now).all() or not np.array_equal(now, again):
            return
        problem = (
            f"`backup` must be of the same evaluation. Received: {str(self.folder)!r}, whose "
            "classifier gave other logits for the first samples. Finish that evaluation, "
            "remove the folder, or name another one."
        )
        check_alike(self._content.setdefault("logits", now.tolist()), now, problem)
        write_json(self._settings, self._content)

    def read(self, number: int, digest: str) -> list[dict[str, np.ndarray]] | None:
        """The results of a batch under each attack, or `None`."""
        path = self._path(number)
        if not path.exists():
            return None
        try:
            with np.load(path) as file:
                content = dict(file)
        except (OSError, ValueError, zipfile.BadZipFile):
            return None  # Half a file is measured again.
        if str(content.pop("digest")) != digest:
            raise ValueError(
                f"`backup` must be of the same data. Received: {str(self.folder)!r}, whose batch "
                f"{number} is of other samples."
            )
        parts: list[dict[str, np.ndarray]] = [{} for _ in self._content["seeds"]]
        for name, value in content.items():
            index, _, outcome = name.partition("_")
            parts[int(index)][outcome] = value
        return parts

    def write(self, number: int, digest: str, parts: Sequence[dict[str, np.ndarray]]) -> None:
        """Keeps what was measured of a batch, whole or not at all."""
        content = {f"{i}_{name}": v for i, part in enumerate(parts) for name, v in part.items()}

        content["digest"] = np.array(digest)

        def save(path: pathlib.Path) -> None:
            with path.open("wb") as file:
                np.savez(file, **content)  # type: ignore[arg-type]

        write_whole(self._path(number), save)

    def remove(self) -> None:
        """Removes what is no longer needed."""
        for path in (*self.folder.glob("batch_*.npz"), self._settings):
            path.unlink()
        self.folder.rmdir()

    def _path(self, number: int) -> pathlib.Path:
        return self.folder / f"batch_{number:06}.npz"
