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
@pytest.mark.parametrize("method", ["adversarial", TRACED])
def test_a_weighted_sum_and_a_ranking_are_as_the_table_says(method, row):
    assert (FEATURES[row[0]](method) or "yes") == row[1 + [*METHODS].index(method)]


@pytest.mark.release
@pytest.mark.parametrize("row", ROWS[2:], ids=lambda row: row[0])
def test_every_cell_of_the_table_is_true(row):
    feature, *cells = row
    assert [FEATURES[feature](method) or "yes" for method in METHODS] == cells
