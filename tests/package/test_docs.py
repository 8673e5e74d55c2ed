"""Every visible block of Python in the documentation runs, and every example does, offline."""

from __future__ import annotations

import ast
import html
import re
from pathlib import Path

import pytest

from tests.support.pages import (
    BLOCK,
    COMMENT,
    FRAMEWORK_PAGES,
    PAGES,
    README,
    ROOT,
    files,
    run,
    script,
)

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

# Packages that a page needs and that not every environment has.
OPTIONAL = ["openai", "anthropic", "prometheus_client", "starlette", "celery", "redis"]
OPTIONAL += ["django", "flask", "dramatiq", "gevent"]  # tested elsewhere

# Tests of their own run these, with a server for the real clients.
_OF_INTEGRATIONS = "wrap-a-client http-clients langchain langgraph litellm pydantic-ai"
WITH_A_SERVER = {
    README,
    ROOT / "docs" / "tutorial.md",
    *(ROOT / "docs" / "how-to" / f"{name}.md" for name in _OF_INTEGRATIONS.split()),
}
WITH_A_SERVER |= FRAMEWORK_PAGES

# Clients that would send the key of another provider to their base_url.
CLIENTS = re.compile(r"^(Async)?(Azure)?(OpenAI|Anthropic|Groq|Mistral)$")


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page not in WITH_A_SERVER],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    """The visible blocks of one page run one after another, as a reader would paste them."""
    text = page.read_text(encoding="utf-8")
    if not BLOCK.search(text):
        return
    for package in OPTIONAL:
        if f"from {package}" in text:
            pytest.importorskip(package)
    # The name shows in a traceback, with the page's own line numbers.
    copy = tmp_path / page.name
    copy.write_text(script(text), encoding="utf-8")
    shown = files(text)
    for name, content in shown.items():
        (tmp_path / name).write_text(content, encoding="utf-8")

    done = run(copy, tmp_path if shown else None)

    assert 0 == done.returncode, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_runs(example: Path) -> None:
    """An example ends well and says something."""
    done = run(example)

    assert 0 == done.returncode, done.stdout + done.stderr
    assert done.stdout


def test_there_are_pages_and_examples() -> None:
    """The two tests above do not pass because they found nothing."""
    assert 5 < len(PAGES)
    assert 3 <= len(EXAMPLES)


def test_every_fence_is_understood() -> None:
    """A block of Python that is written in another way would not be run."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")

        assert len(re.findall(r"```\s*(?:py|python)\b", text, re.IGNORECASE)) == len(
            BLOCK.findall(text)
        ), page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_hides_code(page: Path) -> None:
    """A page has no comment, so what its examples need is where the reader sees it."""
    assert [] == COMMENT.findall(page.read_text(encoding="utf-8"))


def _code(source: Path) -> ast.Module:
    """Return the code of a page, or of an example."""
    text = source.read_text(encoding="utf-8")
    return ast.parse(script(text) if source.suffix == ".md" else text)


def _clients(code: ast.AST) -> list[ast.Call]:
    """Return the calls that make a client of an SDK."""
    return [
        node
        for node in ast.walk(code)
        if isinstance(node, ast.Call)
        and CLIENTS.match(getattr(node.func, "id", getattr(node.func, "attr", "")))
    ]


@pytest.mark.parametrize(
    "source", [*PAGES, *EXAMPLES], ids=lambda source: str(source.relative_to(ROOT))
)
def test_a_client_with_an_address_has_its_own_key(source: Path) -> None:
    """No example makes a client with a ``base_url`` and without an ``api_key``.

    Such a client takes the key of its own provider from the environment, and sends it there.
    """
    given = {
        call.lineno: {keyword.arg for keyword in call.keywords} for call in _clients(_code(source))
    }

    assert [] == [
        line for line, names in given.items() if "base_url" in names and "api_key" not in names
    ]


@pytest.mark.parametrize(
    "source", [*PAGES, *EXAMPLES], ids=lambda source: str(source.relative_to(ROOT))
)
def test_no_asynchronous_client_is_shared_between_loops(source: Path) -> None:
    """A script with several event loops makes its asynchronous clients inside a function.

    The open connections of such a client belong to one loop; the next loop fails on them.
    """
    code = _code(source)
    loops = [
        node
        for node in ast.walk(code)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "asyncio.run"
    ]
    outside = [
        node
        for node in code.body
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ]

    assert len(loops) < 2 or [] == [
        call.lineno
        for node in outside
        for call in _clients(node)
        if getattr(call.func, "id", "").startswith("Async")
    ]


@pytest.mark.parametrize(
    "source", sorted((ROOT / "docs" / "img").glob("*.dot")), ids=lambda p: p.stem
)
def test_a_diagram_shows_what_its_source_says(source: Path) -> None:
    """Each Graphviz source has a picture with its labels, and a page shows the picture."""
    dot = source.read_text(encoding="utf-8")
    labels = re.findall(r'\[label="((?:[^"\\]|\\.)*)"', dot)
    picture = html.unescape(source.with_suffix(".svg").read_text(encoding="utf-8"))

    assert labels
    assert [] == [
        line
        for label in labels
        for line in label.replace(r"\"", '"').split(r"\n")
        if f">{line}</text>" not in picture.replace("\xa0", " ")
    ]
    assert 1 == sum(f"/{source.stem}.svg)" in page.read_text(encoding="utf-8") for page in PAGES)
