"""Holds the tables of README and docs to the results that are kept."""

import shutil

import pytest

from tests.forks import ROOT, run_forked


@pytest.mark.release
def test_tables_are_what_the_results_say(tmp_path):
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "README.md", tmp_path)
    finished = run_forked(ROOT / "benchmarks" / "redraw.py", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr[-3000:]
    pages = [path.relative_to(ROOT) for path in (ROOT / "docs").rglob("*.md")]
    for page in ("README.md", *pages):
        assert (tmp_path / page).read_text("utf-8") == (ROOT / page).read_text("utf-8"), page
