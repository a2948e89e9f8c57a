"""The tutorials: their notebooks are those of their sources, and the sources run."""

import pathlib
import re

import pytest

from tests.forks import run_forked
from tests.helpers import data_folder

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted((ROOT / "docs" / "tutorials").glob("*.py"))
jupytext = pytest.importorskip("jupytext", reason="needs the extra `test`")


def cells(path: pathlib.Path) -> list[tuple[str, str]]:
    """Kind and text of each cell."""
    return [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]


def lines_of_code(path: pathlib.Path) -> list[str]:
    """All lines of code cells, those for Jupyter among them, without blank ones and comments."""
    lines = [line for kind, text in cells(path) if kind == "code" for line in text.splitlines()]
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def test_there_are_four() -> None:
    names = [path.stem for path in SOURCES]
    assert names == ["mnist", "own_classifier", "serving", "targets"]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_notebook_has_the_cells_of_its_source(source: pathlib.Path) -> None:
    """So outputs cannot be those of other code; docs/hooks/rebuild_tutorials.py makes them."""
    assert cells(source.with_suffix(".ipynb")) == cells(source)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_notebook_holds_clean_outputs(source: pathlib.Path) -> None:
    path = source.with_suffix(".ipynb")
    assert path.stat().st_size < 300_000
    notebook = jupytext.read(path)
    assert "widgets" not in notebook.metadata
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    texts = [output.text for output in outputs if output.output_type == "stream"]
    # A folder, a duration, TensorFlow's messages.
    for unwanted in ("/home", "/tmp", "/work", "ms/step", "it/s", "absl::"):
        assert not [text for text in texts if unwanted in text]


def test_first_tutorial_has_at_most_twenty_lines_of_code() -> None:
    assert len(lines_of_code(ROOT / "docs" / "tutorials" / "mnist.py")) <= 20


def shortened(code: str) -> str:
    """The same code with less data: whole, notebooks were made of it, and hold the outputs."""
    code, images = re.subn(r'"train\[:\d+\]"', '"train[:1000]"', code)
    code, epochs = re.subn(r"\bepochs=\d+", "epochs=2", code)
    code, tested = re.subn(r"test\[:\d{3}\]", "test[:20]", code)
    assert images == 1
    assert epochs == 1
    assert tested >= 1
    return code


@pytest.mark.release  # Half a minute each.
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_source_runs(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    script = tmp_path / source.name
    script.write_text(shortened(source.read_text("utf-8")), encoding="utf-8")
    used = "fashion_mnist" if "datasets.fashion_mnist(" in source.read_text("utf-8") else "mnist"
    folder = data_folder(used)
    if folder is None:
        pytest.skip(f"{used} is in none of TFDS_DATA_DIR, ../shared/tfds, ~/tensorflow_datasets")
    done = run_forked(script.name, cwd=tmp_path, TFDS_DATA_DIR=str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
