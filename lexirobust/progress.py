"""Progress bars, for a person at a terminal or a notebook; elsewhere there are none."""

import warnings
from collections.abc import Iterable
from typing import Any

import tqdm

with warnings.catch_warnings():
    # A notebook without ipywidgets gets no bars; a warning at each import would help nobody.
    warnings.simplefilter("ignore", tqdm.TqdmWarning)
    import tqdm.auto


def bar(
    iterable: Iterable[Any] | None, title: str, total: int | None = None, delay: float = 0.0
) -> Any:
    """Makes a bar that is gone when it is full.

    Args:
        iterable: What it shows the progress of, or `None` where it is moved by hand.
        title: What is said beside it.
        total: How many steps there are, where the iterable has no length.
        delay: Seconds before it is seen: what ends sooner needs none.

    Returns:
        tqdm's bar.
    """
    return tqdm.auto.tqdm(iterable, title, total, leave=False, disable=None, delay=delay)
