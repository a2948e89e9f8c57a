"""Warnings that point to the user's line."""

import contextlib
import os
import pathlib
import sys
import warnings
from typing import Final

import keras
import tensorflow as tf

# Whose frames are not the user's.
_OWN: Final = (
    *(
        f"{folder}{os.sep}"
        for module in (keras, tf, sys.modules["lexirobust"])
        for file in [pathlib.Path(str(module.__file__))]
        for folder in (file.parent, file.resolve().parent)  # Links stay in the names of frames.
    ),
    contextlib.__file__,
)


def warn(message: str) -> None:
    """Warns, and names the line of the user's that led to it, however deep below it this is called.

    Args:
        message: What is wrong, with its numbers, and what to do about it.
    """
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OWN):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)
