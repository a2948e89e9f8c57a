"""Holds docs/compatibility.md to what happens."""

import pytest

from tests.compatibility import FEATURES
from tests.training.by_hand import METHODS, ROOT

PAGE = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|\n").split("|")]
    for line in PAGE[PAGE.index("| Feature") :].splitlines()
    if line.startswith("|")
]


def test_the_table_has_every_feature_and_every_method():
    assert [row[0] for row in ROWS[2:]] == [*FEATURES]
    assert all(len(row) == 1 + len(METHODS) for row in ROWS)


@pytest.mark.release
@pytest.mark.parametrize("row", ROWS[2:], ids=lambda row: row[0])
def test_every_cell_of_the_table_is_true(row):
    feature, *cells = row
    for method, cell in zip(METHODS, cells, strict=True):
        assert (FEATURES[feature](method) or "yes") == cell, method
