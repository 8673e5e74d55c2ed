"""The documentation as a reader sees it: the built site, searched for what its source promises."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import pytest

import resilient_llm
from resilient_llm import ErrorKind, testing
from resilient_llm._values import errors, events, kinds
from tests.support.pages import BLOCK, PAGES, README, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

DOCS = ROOT / "docs"
SOURCES = [page for page in PAGES if page != README]
SEPARATOR = re.compile(r"^\|(?: *:?-+:? *\|)+$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)

CONSOLE = re.compile(r"^```console\n(?P<lines>.*?)^```$", re.MULTILINE | re.DOTALL)

# Addresses in the scripts of the theme that a page of this site does not ask.
UNUSED = {
    "https://api.github.com": "the number of stars, only with a repo_url",
    "https://bit.ly": "a hint in a warning of the search",
    "https://clipboardjs.com": "a comment",
    "http://lunrjs.com": "a comment",
    "http://tartarus.org": "a comment",
}

# What a browser loads by itself when it shows a page.
LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}


@dataclass
class Page(HTMLParser):
    """One built page, read once.

    Attributes:
        text: All text, with the tags taken out.
        paragraphs: The text of each paragraph.
        rows: The number of rows with data cells, for each table.
        classes: Every class of every element.
        loaded: Every address that a browser loads with the page.
        links: Every address that a reader can follow.
        names: Every place in the page that a link can lead to.
        copied: What the copy button takes of each block of code.
    """

    text: str = ""
    paragraphs: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    classes: set[str] = field(default_factory=set)
    loaded: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    copied: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._in_paragraph = self._has_cells = False
        self._open_spans: list[bool] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what begins here."""
        given = dict(attrs)
        self.classes.update((given.get("class") or "").split())
        is_page = tag == "link" and given.get("rel") not in ("stylesheet", "preload", "icon")
        if tag in LOADED and not is_page and (address := given.get(LOADED[tag])):
            self.loaded.append(address)
        if tag == "a" and (address := given.get("href")):
            self.links.append(address)
        self.names.update(filter(None, (given.get("id"), given.get("name"))))
        if tag == "pre":
            self._open_spans = []
            self.copied.append("")
        elif tag == "span" and self._open_spans is not None:
            # The style sheet takes these out while a block is copied.
            self._open_spans.append(given.get("class") in ("gp", "go"))
        if tag == "p":
            self._in_paragraph = True
            self.paragraphs.append("")
        elif tag == "table":
            self.rows.append(0)
        elif tag == "tr":
            self._has_cells = False
        elif tag == "td" and not self._has_cells:
            self._has_cells = True
            self.rows[-1] += 1

    def handle_endtag(self, tag: str) -> None:
        """Note what ends here."""
        if tag == "p":
            self._in_paragraph = False
        elif tag == "pre":
            self._open_spans = None
        elif tag == "span" and self._open_spans:
            self._open_spans.pop()

    def handle_data(self, data: str) -> None:
        """Keep the text."""
        self.text += data
        if self._open_spans is not None and not any(self._open_spans):
            self.copied[-1] += data
        if self._in_paragraph:
            self.paragraphs[-1] += data


def _read(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


@pytest.fixture(scope="module")
def site(place: Path) -> dict[str, Page]:
    """Return ``{path of a page below docs/, without suffix: the built page}``."""
    built = {}
    for source in SOURCES:
        name = source.relative_to(DOCS).with_suffix("").as_posix()
        built[name] = _read(place / ("" if name == "index" else name) / "index.html")
    return built


def test_every_table_is_a_table(site: dict[str, Page]) -> None:
    """Each table of the source is a table of the page, with rows; no row is shown as text."""
    for source in SOURCES:
        name = source.relative_to(DOCS).with_suffix("").as_posix()
        text = FENCE.sub("", source.read_text(encoding="utf-8"))
        tables = len(SEPARATOR.findall(text))

        if "\n::: " in text:  # docstrings have tables as well
            assert tables <= len(site[name].rows), name
        else:
            assert tables == len(site[name].rows), name
        assert all(site[name].rows), name
        assert [] == [each for each in site[name].paragraphs if each.lstrip().startswith("|")]


def test_the_page_of_errors_has_every_recorded_case(site: dict[str, Page]) -> None:
    """The tables of the cases have a row for each case."""
    source = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")

    assert len(re.findall(r"^\| (?!-|:)", source, re.MULTILINE)) == (
        sum(site["reference/errors"].rows) + len(SEPARATOR.findall(source))
    )


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text))


def _documented(module: ModuleType) -> Iterator[tuple[str, str]]:
    """Give ``(name, docstring)`` of what a module offers, and of the methods that have one."""
    every = [name for name, each in vars(module).items() if inspect.isclass(each)]
    for name in getattr(module, "__all__", every):
        each = getattr(module, name)
        if name.startswith("_") or "resilient_llm" not in each.__module__:
            continue
        yield name, inspect.getdoc(each) or ""
        for member, value in vars(each).items() if inspect.isclass(each) else ():
            if not member.startswith("_") and inspect.isfunction(value) and value.__doc__:
                yield f"{name}.{member}", inspect.cleandoc(value.__doc__)


@pytest.mark.parametrize(
    ("module", "page"),
    [(events, "reference/api"), (errors, "reference/api"), (testing, "reference/testing")],
    ids=["events", "exceptions", "testing helpers"],
)
def test_docstrings_are_shown(module: ModuleType, page: str, site: dict[str, Page]) -> None:
    """The first sentence of each event, exception and testing helper is on its page."""
    shown = _words(site[page].text)
    documented = dict(_documented(module))

    assert 5 < len(documented)
    assert [] == [
        name
        for name, text in documented.items()
        if not text or _words(text.partition("\n\n")[0]) not in shown
    ]


def test_every_kind_is_described(site: dict[str, Page]) -> None:
    """The API page has a sentence for each member of ``ErrorKind``."""
    source = inspect.getsource(kinds)
    sentences = dict(re.findall(r'^    ([A-Z_]+) = "\w+"\n    """(.+)"""$', source, re.MULTILINE))
    shown = _words(site["reference/api"].text)

    assert [kind.name for kind in ErrorKind] == list(sentences)
    assert [] == [kind for kind, text in sentences.items() if _words(text) not in shown]


def test_the_code_that_runs_is_the_code_that_is_shown(site: dict[str, Page]) -> None:
    """Every block that test_docs.py runs is on the built page, line by line."""
    for source in SOURCES:
        name = source.relative_to(DOCS).with_suffix("").as_posix()
        for block in BLOCK.finditer(source.read_text(encoding="utf-8")):
            assert _words(block["code"]) in _words(site[name].text), name


def test_a_page_loads_nothing_from_another_host(site: dict[str, Page]) -> None:
    """No script, style, picture or frame comes from elsewhere, and no diagram needs a script.

    The theme fetches mermaid from a content delivery network as soon as a page has a diagram.
    """
    assert {} == {
        name: far
        for name, page in site.items()
        if (far := [each for each in page.loaded if re.match(r"(https?:)?//", each)])
    }
    assert [] == [name for name, page in site.items() if "mermaid" in page.classes]


def test_no_style_and_no_script_names_another_host(place: Path) -> None:
    """What the styles and scripts load is on this site; the address of a diagram script is gone."""
    styles = "".join(each.read_text(encoding="utf-8") for each in place.rglob("*.css"))
    own = [each for each in place.rglob("*.js") if "lunr" not in each.parts]  # word lists
    scripts = "".join(each.read_text(encoding="utf-8") for each in own)

    assert [] == re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//[^)\"']*", styles)
    named = set(re.findall(r"https?://[\w.-]+\.\w+", scripts))
    assert set() == named - UNUSED.keys()
    assert "https://api.github.com" in named  # the search above finds addresses
    pages = [each.read_text(encoding="utf-8") for each in place.rglob("*.html")]
    assert not any('data-md-component="source"' in page for page in pages)


def test_no_internal_link_is_dead(place: Path) -> None:
    """Each link to a page, a file or a heading of this site leads to one that exists."""
    pages = {each: _read(each) for each in place.rglob("*.html") if each.name != "404.html"}
    dead = []
    for source, page in pages.items():
        for link in page.links:
            if re.match(r"[a-z]+:", link):
                continue
            path, _, name = unquote(link).partition("#")
            aim = (source.parent / path).resolve() if path else source
            aim = aim / "index.html" if aim.is_dir() else aim
            known = aim.exists() and (not name or aim not in pages or name in pages[aim].names)
            if not known:
                dead.append((str(source.relative_to(place)), link))

    assert 1000 < sum(len(page.links) for page in pages.values())
    assert [] == dead


def test_a_session_is_copied_without_prompts_and_output(place: Path, site: dict[str, Page]) -> None:
    """The copy button takes the commands of a terminal session, and nothing beside them."""
    style = (place / "extra" / "site.css").read_text(encoding="utf-8")
    seen = 0
    for source in SOURCES:
        name = source.relative_to(DOCS).with_suffix("").as_posix()
        copied = {_words(each) for each in site[name].copied}
        for block in CONSOLE.finditer(source.read_text(encoding="utf-8")):
            commands = re.findall(r"^\$ ((?:.*\\\n)*.*)$", block["lines"], re.MULTILINE)
            assert commands, (name, block["lines"])
            assert _words("\n".join(commands)) in copied, (name, commands)
            seen += 1

    assert 20 < seen
    assert re.search(
        r"\[data-md-copying\] \.gp,\s*\.md-typeset \[data-md-copying\] \.go \{\s*display: none",
        style,
    )


def test_names_in_tables_do_not_break(place: Path, site: dict[str, Page]) -> None:
    """Each page has the style sheet that keeps the name of an option in one piece."""
    style = (place / "extra" / "site.css").read_text(encoding="utf-8")

    assert re.search(r"td code,[^}]*\{[^}]*white-space: nowrap", style)
    assert [] == [
        name
        for name, page in site.items()
        if not any(each.endswith("extra/site.css") for each in page.loaded)
    ]


def test_every_public_name_is_described_somewhere(site: dict[str, Page]) -> None:
    """Each class and function that ``resilient_llm`` exports has its first sentence on a page."""
    shown = _words(" ".join(page.text for page in site.values()))

    assert [] == [
        name
        for name in resilient_llm.__all__
        if inspect.isclass(each := getattr(resilient_llm, name)) or inspect.isfunction(each)
        if _words((inspect.getdoc(each) or "?").partition("\n\n")[0]) not in shown
    ]
