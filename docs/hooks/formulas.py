"""MkDocs hook: turns TeX into MathML, which browsers draw without a script."""

import html
import re
from typing import Any

import latex2mathml.converter

# What pymdownx.arithmatex leaves with `generic: true`.
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content: str, **kwargs: Any) -> str:
    """Replaces the formulas of a page."""
    del kwargs

    def formula(found: re.Match[str]) -> str:
        display = "block" if found[2] == "[" else "inline"
        text = html.unescape(found[3]).strip()
        math = latex2mathml.converter.convert(text, display=display)
        return f'<{found[1]} class="formula">{math}</{found[1]}>'

    return _FORMULA.sub(formula, content)
