"""Holds docs/compatibility.md to what happens, each row in a process of its own."""

import json

import pytest

from tests.compatibility import FEATURES
from tests.training.by_hand import METHODS, ROOT, run_python

ROWS = [
    [cell.strip() for cell in line.strip("|\n").split("|")]
    for line in (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("|")
]


def test_the_table_has_every_feature_and_every_method():
    assert [row[0] for row in ROWS[2:]] == [*FEATURES]
    assert all(len(row) == 1 + len(METHODS) for row in ROWS)


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS[2:], ids=lambda row: row[0])
def test_every_cell_of_the_table_is_true(row):
    feature, *cells = row
    finished = run_python("-m", "tests.compatibility", feature, timeout=600)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert [*json.loads(finished.stdout.splitlines()[-1]).values()] == cells
