"""Keeps how many tests passed on which releases of Python, Keras and TensorFlow.

    nox --session tests smoke
    python benchmarks/versions.py --page=docs/compatibility.md

`noxfile.py` runs the tests, and calls this with each report.
"""

import importlib.metadata
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import pathlib
import platform
from typing import Any
from xml.etree import ElementTree

import shared
from absl import app, flags

from lexirobust.atomic_files import write_json

ADD = flags.DEFINE_string("add", None, "A report of pytest (--junit-xml) to take the counts from.")
WHOLE = flags.DEFINE_bool("whole", True, "Whether these were all tests of the README's command.")
PAGE = flags.DEFINE_string("page", None, "Page to write the table to, where it has it.")
OUT = flags.DEFINE_string("out", "docs/results/versions.json", "Where counts are kept.")

PACKAGES = ("keras", "tensorflow", "numpy")


def counts(report: pathlib.Path) -> dict[str, Any]:
    """How many tests passed, failed and were skipped, and on what."""
    suite = ElementTree.parse(report).getroot()[0]
    tests, failed, skipped = (
        sum(int(suite.get(name, 0)) for name in names)
        for names in (("tests",), ("failures", "errors"), ("skipped",))
    )
    return {
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in PACKAGES},
        "whole": WHOLE.value,
        "passed": tests - failed - skipped,
        "failed": failed,
        "skipped": skipped,
    }


def minor(version: str) -> tuple[int, ...]:
    """The first two numbers of a version."""
    return tuple(map(int, version.split(".")[:2]))


def corner(run: dict[str, Any]) -> tuple[tuple[int, ...], ...]:
    """The minor releases that a run was made on."""
    return minor(run["python"]), minor(run["tensorflow"]), minor(run["keras"])


def with_run(runs: list[dict[str, Any]], new: dict[str, Any]) -> list[dict[str, Any]]:
    """Puts a run in the place of what there was on the same releases.

    Raises:
        ValueError: If that was of all tests, and this is of some.
    """
    if not new["whole"] and any(run["whole"] for run in runs if corner(run) == corner(new)):
        releases = ", ".join(f"{name} {new[name]}" for name in ("python", *PACKAGES[:2]))
        raise ValueError(
            f"A run of some tests must not replace one of all. Received: --nowhole, {releases}."
        )
    return sorted([*(run for run in runs if corner(run) != corner(new)), new], key=corner)


def table(runs: list[dict[str, Any]]) -> list[list[str]]:
    """One row a release of Keras, one column a release of Python and TensorFlow."""
    by_corner = {corner(run): run for run in runs}
    columns = sorted({key[:2] for key in by_corner})
    heads = [f"Python {_text(python)}, TensorFlow {_text(flow)}" for python, flow in columns]
    rows = [["Keras", *heads]]
    for release in sorted({key[2] for key in by_corner}):
        cells = [_cell(by_corner.get((*column, release))) for column in columns]
        rows.append([_text(release), *cells])
    return rows


def _text(release: tuple[int, ...]) -> str:
    return ".".join(map(str, release))


def _cell(run: dict[str, Any] | None) -> str:
    if run is None:
        return "not run"
    failed = f", {run['failed']} failed" if run["failed"] else ""
    passed = f"{run['passed']:,}{failed}"
    return f"**{passed}**" if run["whole"] else passed


def main(_: list[str]) -> None:
    out = pathlib.Path(OUT.value)
    runs = json.loads(out.read_text(encoding="utf-8")) if out.exists() else []
    if ADD.value:
        new = counts(pathlib.Path(ADD.value))
        runs = with_run(runs, new)
        write_json(out, runs)
        if new["failed"]:
            raise SystemExit(f"{new['failed']} tests failed.")
    rows = table(runs)
    shared.show("Tests passed", rows)
    if PAGE.value:
        shared.write_table(PAGE.value, "versions", rows)


if __name__ == "__main__":
    app.run(main)
