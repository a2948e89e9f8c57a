"""MkDocs hook: links of the tutorials, which are notebooks, lead to pages of the site.

In notebooks links name files, which MkDocs turns into addresses in Markdown alone. They stay as
they are in the repository, where a notebook is read beside the pages' sources.
"""

import logging
import posixpath
import re
import urllib.parse
from typing import Any

_LOG = logging.getLogger("mkdocs.hooks.notebooks")
_LINK = re.compile(r'(<a [^>]*?href|<img [^>]*?src)="([^":]+)"')
_DOWNLOADS = (
    '<p>Download: <a href="{name}.ipynb">notebook</a>, <a href="../{name}.py">script</a></p>'
)


def on_page_content(content: str, page: Any, files: Any, **kwargs: Any) -> str:
    """Rewrites the links of a notebook's page, and adds where to download it."""
    del kwargs
    source = page.file.src_uri
    if not source.endswith(".ipynb"):
        return content

    def link(found: re.Match[str]) -> str:
        parts = urllib.parse.urlsplit(found[2])
        if not parts.path:
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), parts.path))
        file = files.get_file_from_path(path)
        if file is None:
            # `--strict` makes an error of it.
            _LOG.warning("%s links to %r, which is not there.", source, found[2])
            return found[0]
        address = urllib.parse.urlunsplit(parts._replace(path=file.url_relative_to(page.file)))
        return f'{found[1]}="{address}"'

    content = _LINK.sub(link, content)
    name = posixpath.basename(source).removesuffix(".ipynb")
    return content.replace("</h1>", f"</h1>\n{_DOWNLOADS.format(name=name)}", 1)
