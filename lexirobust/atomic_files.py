"""Files that are there whole or not at all."""

import json
import os
import pathlib
from collections.abc import Callable
from typing import Any


def write_whole(path: pathlib.Path, write: Callable[[pathlib.Path], Any]) -> None:
    """Writes a file whole or not at all: beside its place, and then moves it there.

    Args:
        path: Where the file shall be.
        write: Is given the place beside it, whose name ends like the file's, and writes it there.

    Example:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "numbers.txt"
    ...     write_whole(path, lambda unfinished: unfinished.write_text("1 2 3"))
    ...     path.read_text()
    '1 2 3'
    """
    unfinished = path.with_name(f".part-{path.name}")
    try:
        write(unfinished)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())  # The name must not be there before what it names.
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes JSON for people and programs, whole or not at all; its folder is made.

    Args:
        path: Where the file shall be.
        content: What JSON can hold.
    """
    text = json.dumps(content, indent=1) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))
