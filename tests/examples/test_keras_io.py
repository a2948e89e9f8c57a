"""The example in the format of keras.io: its form, and that it runs."""

import ast
import gzip
import pathlib

import numpy as np
import pytest

from tests.training.by_hand import run_python

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples" / "keras_io"
SOURCE = EXAMPLES / "robust_image_classification.py"


def test_it_has_the_format_of_keras_io():
    text = SOURCE.read_text("utf-8")
    assert len(text.splitlines()) < 200
    header, *blocks = [
        node.value.value
        for node in ast.parse(text).body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ]
    fields = [line.split(": ")[0] for line in header.strip().splitlines()]
    asked = ["Title", "Author", "Date created", "Last modified", "Description", "Accelerator"]
    assert fields == asked
    headings = [block.strip().splitlines()[0] for block in blocks if block.strip().startswith("#")]
    assert headings[:2] == ["## Introduction", "## Setup"]
    assert len(headings) >= 6


def write_images(folder, name, count):
    """Images as `keras.datasets.fashion_mnist` reads them: the brighter, the higher the class."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.arange(count, dtype=np.uint8) % 10
    images = np.broadcast_to(25 * labels[:, None], (count, 28 * 28))
    for kind, header, values in (("images-idx3", 16, images), ("labels-idx1", 8, labels)):
        with gzip.open(folder / f"{name}-{kind}-ubyte.gz", "wb", compresslevel=1) as file:
            file.write(bytes(header) + values.tobytes())


@pytest.mark.release
def test_it_runs(tmp_path):
    write_images(tmp_path / "datasets" / "fashion-mnist", "train", 1400)
    write_images(tmp_path / "datasets" / "fashion-mnist", "t10k", 500)
    code = SOURCE.read_text("utf-8")
    for whole, less in (("epochs=10", "epochs=1"), ("12000", "1000"), ("16000", "1400")):
        assert whole in code
        code = code.replace(whole, less)
    script = tmp_path / SOURCE.name
    script.write_text(code.replace("[:500]", "[:20]"), encoding="utf-8")
    surroundings = {"KERAS_HOME": str(tmp_path), "MPLBACKEND": "Agg", "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = run_python(script.name, cwd=tmp_path, **surroundings)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "target 84 %, l2 1.0: " in done.stdout
    assert (tmp_path / "robust_classifier.keras").is_file()
