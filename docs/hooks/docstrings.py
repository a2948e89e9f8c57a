"""Griffe extension: shows the examples of docstrings as code.

Docstrings have Keras's form: "Example:" and a doctest below it, at the same indentation. Google's
parser wants it indented, and Markdown takes ">>>" for three nested quotations.
"""

import re
import textwrap
from typing import Any

import griffe

_DOCTEST = re.compile(r"^>>> .*(?:\n(?!\s*$).*)*", flags=re.MULTILINE)
_FLAG = re.compile(r"  # doctest: \+\w+")
_HEADING = re.compile(r"^(Example|Reference):[ ]*(.*)$", flags=re.MULTILINE)
_REFERENCE = re.compile(r"^Reference:\n((?:[ ]+\S.*\n?)+)", flags=re.MULTILINE)


class Examples(griffe.Extension):
    """Rewrites docstrings before they are parsed: doctests in fences, bold headings."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrites a docstring as soon as it was read."""
        del kwargs
        if obj.docstring is None:
            return
        text = _DOCTEST.sub(lambda found: f"```pycon\n{found[0]}\n```", obj.docstring.value)
        text = _FLAG.sub("", text)
        # The parser would make a box of an indented reference, larger than what it refers to.
        text = _REFERENCE.sub(lambda found: f"Reference: {textwrap.dedent(found[1])}", text)
        obj.docstring.value = _HEADING.sub(_bold, text)


def _bold(found: re.Match[str]) -> str:
    return f"**{found[1]}**: {found[2]}" if found[2] else f"**{found[1]}**"
