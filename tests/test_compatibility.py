"""Holds docs/compatibility.md to what happens."""

import pytest

from tests.compatibility import FEATURES, TRACED
from tests.training.by_hand import METHODS, ROOT

ROWS = [
    [cell.strip() for cell in line.strip("|\n").split("|")]
    for line in (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("|")
]
# These need processes of their own, or minutes of compiling.
HEAVY = ("`jit_compile=True`", "`MirroredStrategy`", "`MultiWorkerMirroredStrategy`")
LIGHT = [row for row in ROWS[2:] if row[0] not in HEAVY]


def test_the_table_has_every_feature_and_every_method():
    assert [row[0] for row in ROWS[2:]] == [*FEATURES]
    assert all(len(row) == 1 + len(METHODS) for row in ROWS)


@pytest.mark.parametrize("row", LIGHT, ids=lambda row: row[0])
def test_a_ranking_is_as_the_table_says(row):
    assert (FEATURES[row[0]](TRACED) or "yes") == row[1 + [*METHODS].index(TRACED)]


@pytest.mark.release
@pytest.mark.parametrize("row", ROWS[2:], ids=lambda row: row[0])
def test_every_other_cell_of_the_table_is_true(row):
    feature, *cells = row
    for method, cell in zip(METHODS, cells, strict=True):
        if row not in LIGHT or method != TRACED:
            assert (FEATURES[feature](method) or "yes") == cell, method
