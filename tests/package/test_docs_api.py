"""The API page as a reader sees it: signatures, a row for each option, types, examples."""

from __future__ import annotations

import ast
import doctest
import html
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import resilient_llm
from resilient_llm import chains, classify, config, testing
from resilient_llm._api.configuring import Changes
from resilient_llm._values import errors, events
from resilient_llm._values.policy import FailoverOptions
from resilient_llm._values.settings import BreakerOptions
from resilient_llm._values.stream_policy import StreamOptions

HEADING = re.compile(r'<h[2-5] id="(?P<id>[^"]*)" class="doc doc-heading">')
COLUMNS = re.compile(r"<thead>(.*?)</thead>", re.DOTALL)
ROW = re.compile(r'<tr class="doc-section-item">(.*?)</tr>', re.DOTALL)
CELL = re.compile(r"<td>(.*?)</td>", re.DOTALL)
COLUMN = re.compile(r"<th>(.*?)</th>", re.DOTALL)
SIGNATURE = re.compile(r'<div class="doc-signature.*?</div>', re.DOTALL)

MADE_BY_USERS = (
    "Adaptive Budget Limit Price StreamPolicy Target ToolLoop Trace Usage Verdict".split()
)

WITH_EXAMPLE = [
    resilient_llm.Attempt,
    resilient_llm.Budget,
    resilient_llm.Limit,
    resilient_llm.Price,
    resilient_llm.StreamPolicy,
    resilient_llm.Target,
    resilient_llm.Trace,
    resilient_llm.Usage,
    resilient_llm.bench_model,
    resilient_llm.breaker,
    resilient_llm.can_call,
    resilient_llm.configure,
    resilient_llm.events,
    resilient_llm.failover,
    resilient_llm.observe,
    classify.rule,
]

# Methods that the modules of the package use, and users do not.
INTERNAL = """
    Breaker.again Breaker.taken Breaker.enters_at_once StreamPolicy.is_timed StreamPolicy.over
    Target.options Settings.for_key Settings.changed Settings.is_limited Settings.price_of
""".split()


def _text(markup: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", markup)).split())


@pytest.fixture(scope="module")
def sections(place: Path) -> dict[str, str]:
    """Return ``{name of an object: its part of the page, up to the next object}``."""
    page = Path(place, "reference", "api", "index.html").read_text(encoding="utf-8")
    found = list(HEADING.finditer(page))
    ends = [each.start() for each in found[1:]] + [len(page)]
    return {
        each["id"].removeprefix("resilient_llm."): page[each.end() : end]
        for each, end in zip(found, ends, strict=True)
    }


def _rows(section: str) -> list[dict[str, str]]:
    """Return each row of the tables of an object, as ``{column: text}``."""
    rows = []
    columns: list[str] = []
    for part in re.finditer(f"{COLUMNS.pattern}|{ROW.pattern}", section, re.DOTALL):
        if part[1] is not None:
            columns = COLUMN.findall(part[1])
        else:
            cells = map(_text, CELL.findall(part[2]))
            rows.append(dict(zip(columns, cells, strict=True)))
    return rows


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", MADE_BY_USERS)
def test_a_class_shows_how_it_is_made(name: str, sections: dict[str, str]) -> None:
    """The part of a class that users make begins with its constructor, with every argument."""
    signature = SIGNATURE.search(sections[name])
    assert signature
    shown = _text(signature[0])

    assert shown.startswith((f"{name} (", f"{name}("))
    given = getattr(resilient_llm, name)
    names = StreamOptions.__annotations__ if name == "StreamPolicy" else _arguments(given)
    assert [] == [each for each in names if not re.search(rf"\b{each}\b ?:", shown)]


def _arguments(cls: type) -> list[str]:
    return [each for each in inspect.signature(cls).parameters if each != "self"]


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("failover", FailoverOptions),
        ("breaker", BreakerOptions),
        ("configure", Changes),
        ("StreamPolicy", StreamOptions),
    ],
)
def test_every_option_has_a_row(name: str, options: Any, sections: dict[str, str]) -> None:
    """An option has one row, with its type, a sentence and its default."""
    rows = {row["Name"]: row for row in _rows(sections[name]) if "Name" in row}

    assert options.__annotations__.keys() <= rows.keys()
    assert [] == [each for each in options.__annotations__ if not all(rows[each].values())]
    assert len(rows) == sum("Name" in row for row in _rows(sections[name]))


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_every_attribute_has_a_type_and_a_sentence(sections: dict[str, str]) -> None:
    """No row of a table of attributes or parameters has an empty cell, but for the default."""
    rows = [(name, row) for name, section in sections.items() for row in _rows(section)]
    empty = [
        (name, row)
        for name, row in rows
        if [column for column, text in row.items() if not text and column != "Default"]
    ]

    assert 300 < len(rows)
    assert [] == empty


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_nothing_internal_is_shown(sections: dict[str, str]) -> None:
    """What only the modules of the package call has no place on the page of users."""
    assert [] == [name for name in INTERNAL if name in sections]
    assert [] == [name for name in sections if name.rpartition(".")[2].startswith("_")]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_every_object_is_described(sections: dict[str, str]) -> None:
    """Each object on the page has a sentence, not only a signature."""
    assert [] == [name for name, section in sections.items() if "<p>" not in section]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_chain_is_typed(sections: dict[str, str]) -> None:
    """The type of ``chain=`` is the alias that users import, and not ``Any``."""
    [row] = [row for row in _rows(sections["failover"]) if row.get("Name") == "chain"]

    assert row["Type"].startswith("Chain")
    assert "Chain" in sections


@pytest.mark.parametrize("thing", WITH_EXAMPLE, ids=lambda thing: thing.__qualname__)
def test_the_main_names_have_an_example(thing: Any) -> None:
    """Each of these has an example in its docstring."""
    assert "\nExamples:\n" in (inspect.getdoc(thing) or "")


def _examples() -> dict[str, str]:
    """Return ``{name: docstring}`` of what is on the page and has an example."""
    modules = (resilient_llm, chains, config, errors, events, testing)
    things: dict[str, Any] = {"classify.rule": classify.rule, "classify": type(classify)}
    for module in modules:
        for name in getattr(module, "__all__", dir(module)):
            thing = getattr(module, name)
            if callable(thing) and not name.startswith("_"):
                things[f"{module.__name__}.{name}"] = thing
    return {name: text for name, thing in things.items() if ">>>" in (text := thing.__doc__ or "")}


@pytest.mark.parametrize("name", _examples())
def test_an_example_is_python(name: str) -> None:
    """Each example of a docstring is correct Python."""
    examples = doctest.DocTestParser().get_examples(_examples()[name])

    assert examples
    for example in examples:
        # What is awaited there stands in a function of the reader.
        body = "".join(f"    {line}\n" for line in example.source.splitlines())
        ast.parse(f"async def example():\n{body}")


@pytest.mark.parametrize("name", ["Budget", "Limit", "Price", "Target", "Usage"])
def test_an_example_gives_what_it_shows(name: str) -> None:
    """The examples of plain values run, and give the results that are written below them."""
    thing = getattr(resilient_llm, name)
    test = doctest.DocTestParser().get_doctest(
        inspect.getdoc(thing) or "", vars(resilient_llm) | {name: thing}, name, None, 0
    )

    assert test.examples
    assert 0 == doctest.DocTestRunner().run(test).failed
