"""The documentation site: its code runs, its reference is complete, and browsers show it."""

import ast
import functools
import html.parser
import http.server
import json
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import types
import urllib.parse
from collections.abc import Iterator

import pytest

import lexirobust as lr
import lexirobust.plotting  # An attribute of the package from here on.
from tests.forks import run_forked

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
MODULES = (
    "lexirobust",
    "lexirobust.attacks",
    "lexirobust.attacks.geometry",
    "lexirobust.callbacks",
    "lexirobust.datasets",
    "lexirobust.evaluation",
    "lexirobust.gem",
    "lexirobust.plotting",
    "lexirobust.pretrained",
    "lexirobust.training",
    "lexirobust.training.methods",
    "lexirobust.training.objectives",
)
README = ROOT / "README.md"


def fenced(language: str, path: pathlib.Path) -> list[str]:
    """The blocks of code of a page."""
    fence = re.compile(rf"^```{language}\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
    return fence.findall(path.read_text(encoding="utf-8"))


def patched(diff: str) -> str:
    """What a diff leads to, with layers of the first page's network for those it leaves out."""
    code = re.sub(r"^-.*\n|^[ +]", "", diff, flags=re.MULTILINE)
    assert code.count("[...]") == 1
    return code.replace("[...]", "network().layers")


CODE = {
    **{
        path.relative_to(DOCS).as_posix(): fenced("python", path)
        for path in sorted(DOCS.rglob("*.md"))
    },
    "README.md": [*map(patched, fenced("diff", README)), *fenced("python", README)],
}


@pytest.mark.release  # Minutes together.
@pytest.mark.parametrize("page", [page for page, blocks in CODE.items() if blocks])
def test_code_of_pages_runs(page: str, tmp_path: pathlib.Path) -> None:
    """All blocks of a page, in turn, after the data and the network of the first page."""
    blocks = CODE[page] if page == "start.md" else [CODE["start.md"][0], *CODE[page]]
    script = tmp_path / "page.py"
    # Whether it runs is asked, and not how well what is trained here does.
    code = re.sub(r"\bepochs=\d+", "epochs=2", "\n".join(blocks))
    code = re.sub(r"_test\[:\d+\]", "_test[:10]", code)
    script.write_text(code, encoding="utf-8")
    # A process of its own: no page may lean on what other tests made.
    done = run_forked(script.name, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]


def identifiers() -> list[str]:
    """What the pages of the reference have mkdocstrings show."""
    pages = sorted((DOCS / "reference").glob("*.md"))
    texts = [page.read_text(encoding="utf-8") for page in pages]
    return [each for text in texts for each in re.findall(r"^::: (\S+)$", text, re.MULTILINE)]


def named(identifier: str) -> object:
    """What a dotted name stands for, which may be a module that is an attribute of another."""
    return functools.reduce(getattr, identifier.split(".")[1:], lr)


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_on_a_reference_page(module: str) -> None:
    shown = {id(named(each)) for each in identifiers()}
    public = named(module)
    # A module is shown by its names, which are another case of this test.
    names = [n for n in public.__all__ if not isinstance(getattr(public, n), types.ModuleType)]
    assert [name for name in names if id(getattr(public, name)) not in shown] == []


def test_all_public_modules_are_asked_about() -> None:
    found = {
        f"{module}.{name}"
        for module in MODULES
        for name in named(module).__all__
        if isinstance(getattr(named(module), name), types.ModuleType)
    }
    asked = {id(named(module)) for module in MODULES}
    # It says by itself what is public: all that has no underscore.
    rest = {name for name in found if id(named(name)) not in asked}
    assert rest == {"lexirobust.attacks.bounds"}
    bounds = {name for name in vars(lr.attacks.bounds) if not name.startswith("_")}
    own = {
        name
        for name in bounds
        if getattr(named(f"lexirobust.attacks.bounds.{name}"), "__module__", "")
        == lr.attacks.bounds.__name__
    }
    assert {f"lexirobust.attacks.bounds.{name}" for name in own} <= set(identifiers())


def messages() -> Iterator[tuple[re.Pattern[str], int]]:
    """Every text that the package writes, as a pattern, and how much of it stands in the source.

    Values may be anything.
    """
    for path in sorted((ROOT / "lexirobust").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts = [node.value]
            elif isinstance(node, ast.JoinedStr):
                parts = [
                    str(part.value) if isinstance(part, ast.Constant) else ""
                    for part in node.values
                ]
            else:
                continue
            pattern = "".join(re.escape(part) if part else ".+?" for part in parts)
            yield re.compile(pattern), sum(map(len, parts))


def test_messages_are_quoted_as_the_package_prints_them() -> None:
    known = list(messages())

    def is_printed(text: str) -> bool:
        # Of values alone, a pattern would match whatever is quoted.
        return any(2 * own >= len(text) and pattern.fullmatch(text) for pattern, own in known)

    assert not is_printed("This message was never written by the package.")
    for page in ("troubleshooting.md", "inputs.md"):
        quoted = re.findall(r"^> (.+)$", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)
        assert quoted
        assert [text for text in quoted if not is_printed(text)] == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The site, built with every warning an error."""
    pytest.importorskip("mkdocs", reason="needs the extra `docs`")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


class Page(html.parser.HTMLParser):
    """The links of a page, and what can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            elif name == "href" and value and tag == "a":
                self.links.append(value)
            elif name in ("src", "href") and value:
                self.loaded.append(value)


@pytest.mark.release
def test_every_identifier_is_shown(site: pathlib.Path) -> None:
    """Each has a heading of its own, and classes show their public methods."""
    shown = set()
    for path in (site / "reference").rglob("index.html"):
        shown |= Page(path.read_text(encoding="utf-8")).anchors
    members = {
        f"{identifier}.{name}"
        for identifier in identifiers()
        if isinstance(one := named(identifier), type)
        for name, member in vars(one).items()
        if not name.startswith("_")
        and isinstance(member, types.FunctionType)
        and member.__doc__
        and member.__module__.startswith("lexirobust.")
    }
    assert sorted({*identifiers(), *members} - shown) == []


@pytest.mark.release
def test_links_of_the_built_site_lead_somewhere(site: pathlib.Path) -> None:
    pages = {
        path: Page(path.read_text(encoding="utf-8"))
        for path in site.rglob("*.html")
        if path.name != "404.html"  # Its links are those of any depth.
    }
    broken = []
    for path, page in pages.items():
        for link in page.links + page.loaded:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = path
            if parts.path:
                target = (path.parent / urllib.parse.unquote(parts.path)).resolve()
            if target.is_dir():
                target = target / "index.html"
            there = target.exists()
            if there and parts.fragment and target in pages:
                fragment = urllib.parse.unquote(parts.fragment)
                there = fragment in pages[target].anchors or fragment.startswith("__")
            if not there:
                broken.append(f"{path.relative_to(site)}: {link}")
    assert len(pages) > 30
    assert broken == []


@pytest.mark.release
def test_pages_load_nothing_from_elsewhere(site: pathlib.Path) -> None:
    loaded = {
        link
        for path in site.rglob("*.html")
        for link in Page(path.read_text(encoding="utf-8")).loaded
        if urllib.parse.urlsplit(link).netloc
    }
    assert loaded == set()


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


# Chromium prints a page when it has loaded, and the search answers later. So the page is framed by
# another, which copies the results, and loads a picture until there are some.
SEARCH = """<!doctype html><p id="found"></p><iframe id="page" src="/?q={term}"></iframe>
<script>
const timer = setInterval(() => {{
  const links = document.getElementById("page").contentDocument.querySelectorAll(
    ".md-search-result__link")
  if (!links.length) return
  clearInterval(timer)
  document.getElementById("found").textContent = [...links].map(link => link.href).join(" ")
  fetch("/found")
}}, 100)
</script><img src="/wait">"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the site, and pages that show what its search finds."""

    found = threading.Event()

    def do_GET(self) -> None:
        """Answers, to a picture as soon as something was found."""
        path, _, term = self.path.partition("?")
        if path == "/wait":
            self.found.wait(20)
            self.found.clear()
        elif path == "/found":
            self.found.set()
        if path not in ("/search-for", "/wait", "/found"):
            super().do_GET()
            return
        content = SEARCH.format(term=term).encode() if path == "/search-for" else b""
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Writes nothing: the tests' output is not a server's log."""


@pytest.fixture(scope="module")
def address(site: pathlib.Path) -> Iterator[str]:
    """Where the site is served: the search needs more than files."""
    handler = functools.partial(Handler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def browsed(address: str, width: int, profile: pathlib.Path, *flags: str) -> tuple[str, str]:
    """The page as Chromium ends up with, and what it writes to its console."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            "--v=0",
            f"--user-data-dir={profile}",
            f"--window-size={width},900",
            *flags,
            "--dump-dom",
            address,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, "\n".join(re.findall(r".*CONSOLE.*", done.stderr))


@pytest.mark.release
@needs_chromium
@pytest.mark.parametrize("width", [1200, 390])
def test_pages_open_without_console_errors(
    site: pathlib.Path, address: str, width: int, tmp_path: pathlib.Path
) -> None:
    pages = [path.parent.relative_to(site).as_posix() for path in site.rglob("index.html")]
    assert len(pages) > 30
    for page in sorted(pages):
        # What scripts do within ten seconds of their own time, which pass at once.
        patience = "--virtual-time-budget=10000"
        dom, console = browsed(f"{address}/{page}/", width, tmp_path, patience)
        assert 'class="md-content"' in dom, page
        assert console == "", page


@pytest.mark.release
@needs_chromium
@pytest.mark.parametrize(
    ("term", "page"),
    [
        ("AutoAttack", "evaluation/"),
        ("batch normalization", "inputs/"),
        ("RunningMean", "reference/training/"),
        ("out of memory", "troubleshooting/"),
        ("Foolbox", "coming_from/foolbox/"),
    ],
)
def test_search_finds(address: str, term: str, page: str, tmp_path: pathlib.Path) -> None:
    dom, _ = browsed(f"{address}/search-for?{urllib.parse.quote(term)}", 1200, tmp_path)
    found = re.search(r'<p id="found">(.*?)</p>', dom)
    assert found is not None
    results = [re.split("[?#]", link)[0] for link in found[1].split()]
    assert any(result.endswith(page) for result in results), results


@pytest.mark.release
def test_search_index_holds_every_page(site: pathlib.Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    indexed = {entry["location"].partition("#")[0] for entry in index["docs"]}
    pages = {path.parent.relative_to(site).as_posix() + "/" for path in site.rglob("index.html")}
    assert {page.removeprefix("./") for page in pages} <= indexed | {""}
