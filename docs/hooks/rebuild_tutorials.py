"""Runs the tutorials and writes their notebooks, with outputs, beside them.

    python docs/hooks/rebuild_tutorials.py
    python docs/hooks/rebuild_tutorials.py mnist targets

Each runs with the interpreter that this was started by, in a folder of its own. Outputs leave out
what differs between runs and says nothing: durations, folders, TensorFlow's messages about the
machine, metadata; and colors.
"""

import os

# Before kernels inherit it.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pathlib
import re
import sys
import tempfile

import jupytext
import nbclient
import nbformat
import tqdm

TUTORIALS = pathlib.Path(__file__).parents[1] / "tutorials"
ROOT = TUTORIALS.parents[1]

_NOISE = re.compile(
    r"^(?:INFO:tensorflow:|.*absl::InitializeLog\(\)|[IW]\d{4} ).*\n?", re.MULTILINE
)
_COLOR = re.compile(r"\x1b\[[0-9;]*m")
# Keras's "3s 19ms/step - " and tqdm's " [00:12<00:00,  1.50s/epoch, loss=0.1]".
_KERAS_TIME = re.compile(r"(?:\d+m?s )?\d+(?:\.\d+)?(?:s|ms|us)/(?:step|epoch) - ")
_TQDM_TIME = re.compile(r" \[\d[\d:]*<[\d:?]+, +[\d.?]+ ?[^,\]]+?(?:, ([^\]]*))?\]")


def clean(text: str) -> str:
    """A stream's text without TensorFlow's messages, colors, durations and folders."""
    text = _NOISE.sub("", text).replace(f"{ROOT}/", "")
    text = _KERAS_TIME.sub("", _COLOR.sub("", text))
    return _TQDM_TIME.sub(lambda found: f" {found[1]}" if found[1] else "", text)


def outputs(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The outputs of a cell that are worth keeping."""
    kept = []
    # Progress bars and warnings come first: where among the rest they arrive is left to chance.
    for output in sorted(cell.outputs, key=lambda output: output.get("name") != "stderr"):
        output.pop("execution_count", None)
        if output.output_type == "stream":
            output.text = clean(output.text)
            if not output.text.strip():
                continue
        elif "image/png" in output.get("data", {}):
            # Beside a picture nobody reads how large it is.
            output.data = {"image/png": output.data["image/png"]}
            output.metadata = {}
        if output.output_type == "execute_result":
            output.execution_count = cell.execution_count
        kept.append(output)
    return kept


def rebuild(source: pathlib.Path) -> None:
    """Runs one tutorial, and writes its notebook."""
    notebook = jupytext.read(source)
    with tempfile.TemporaryDirectory() as folder:
        nbclient.NotebookClient(
            notebook,
            timeout=None,
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
        ).execute()
    for number, cell in enumerate(notebook.cells):
        # Random otherwise: a notebook that is made anew is to differ only where it does.
        cell.id = f"cell-{number}"
        if cell.cell_type == "code":
            cell.metadata = {}
            cell.outputs = outputs(cell)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, source.with_suffix(".ipynb"))


def main() -> None:
    """Rebuilds the notebooks that are named, or all."""
    os.environ["PYTHONPATH"] = str(ROOT)
    names = sys.argv[1:] or [path.stem for path in sorted(TUTORIALS.glob("*.py"))]
    for name in tqdm.tqdm(names, "tutorials"):
        rebuild(TUTORIALS / f"{name}.py")


if __name__ == "__main__":
    main()
