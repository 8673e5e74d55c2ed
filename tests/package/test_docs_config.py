"""Each configuration file that the documentation shows is one, and the reference has all of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from resilient_llm import config
from resilient_llm.config import (
    _chains,
    _default_options,
    _environment,
    _options,
    _parsing,
    _sections,
    _source,
    _yaml,
)
from resilient_llm.config._kinds import Kind
from resilient_llm.testing import isolated
from tests.support.pages import PAGES, ROOT, files

REFERENCE = ROOT / "docs/reference/config-file.md"
FILES = [
    pytest.param(name, text, id=f"{page.stem}-{name}")
    for page in PAGES
    for name, text in files(page.read_text(encoding="utf-8")).items()
]
TABLES: dict[str, tuple[str, Mapping[str, Kind]]] = {
    "settings": ("## Settings\n", _default_options.SETTINGS),
    "stream": ("`stream` is a table:\n", _default_options.STREAM),
    "adaptive": ("`adaptive` may be a table", _default_options.ADAPTIVE),
    "tool_loop": ("`tool_loop` may be a table", _default_options.TOOL_LOOP),
    "breakers": ("## Breakers\n", _options.BREAKER),
    "targets": ("## Targets\n", _options.TARGET),
    "conditions": ("A rule has `chain`", _options.CONDITIONS),
    "limits": ("## Limits\n", _options.LIMIT),
    "budgets": ("## Budgets\n", _options.BUDGET),
    "prices": ("## Prices\n", _options.PRICE),
    "state": ("## State\n", _options.STATE),
}


def test_there_are_files() -> None:
    """The tests below do not pass because they found nothing."""
    assert 6 <= len(FILES)


@pytest.mark.parametrize(("name", "text"), FILES)
def test_a_file_of_the_documentation_can_be_loaded(name: str, text: str, tmp_path: Path) -> None:
    """A reader who copies it has a configuration without a problem."""
    if name.endswith(".yaml"):
        pytest.importorskip("yaml")
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")

    with isolated():
        loaded = config.load(path)

    assert loaded.chains


def rows(text: str, begin: str) -> list[list[str]]:
    """Return the cells of the first table after some words, without its heading."""
    lines = text.partition(begin)[2].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("| "))
    found: list[list[str]] = []
    for line in lines[first + 2 :]:
        if not line.startswith("| "):
            break
        found.append([each.strip() for each in re.split(r"(?<!\\)\|", line)[1:-1]])
    return found


def in_a_file(allowed: str) -> str:
    """Return what a check allows in the words of a file, which has neither None nor True."""
    for in_code, written in (
        (", or None", ""),
        (" or None", ""),
        ("True or False", "`true` or `false`"),
        ("a sequence of words", "a list of words"),
    ):
        allowed = allowed.replace(in_code, written)
    return allowed


@pytest.mark.parametrize("what", TABLES)
def test_the_reference_has_each_option(what: str) -> None:
    """Each table has the options of the code in their order, with what may be written."""
    begin, kinds = TABLES[what]

    found = rows(REFERENCE.read_text(encoding="utf-8"), begin)

    assert {f"`{name}`": in_a_file(kind.allowed) for name, kind in kinds.items()} == {
        row[0]: row[1] for row in found
    }
    assert all(row[2] for row in found)


def test_the_reference_has_each_section() -> None:
    """The sections of the code, each with a heading that its row links to."""
    text = REFERENCE.read_text(encoding="utf-8")

    listed = re.findall(r"^\| \[`(\w+)`\]\(#\w+\) \|", text, re.MULTILINE)
    assert list(_sections.SECTIONS) == listed
    for section in _sections.SECTIONS:
        assert f"[`{section}`](#{section})" in text
        assert f"\n## {section.capitalize()}\n" in text


def test_the_limits_are_those_of_the_code() -> None:
    """The numbers of the table are those that the reader enforces."""
    text = REFERENCE.read_text(encoding="utf-8")
    numbers = [
        int(re.match(r"[\d,]+", row[1])[0].replace(",", ""))  # type: ignore[index]  # each has one
        for row in rows(text, "## Limits of a file\n")
    ]

    assert [
        _source.LARGEST // 1024,
        _parsing.DEEPEST,
        _yaml.MOST_ALIASES,
        _environment.MOST_VALUES,
        _chains.MOST_ENTRIES,
        _options.MOST_RULES,
        _options.MOST_PATTERNS,
        _options.LONGEST_GLOB,
        _environment.LONGEST // 1024,
    ] == numbers


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ({"settings": {"timeout": None, "attempts": None}}, 0),
        ({"breakers": {"groq": None}}, 1),
        ({"breakers": {"groq": {"cooldown": None}}}, 1),
        ({"limits": {"groq": None}}, 1),
        ({"prices": {"groq": None}}, 1),
    ],
)
def test_where_null_is_allowed(source: dict[str, Any], count: int) -> None:
    """It takes options of settings back, and nothing that has a key."""
    assert "cannot be `null`" in REFERENCE.read_text(encoding="utf-8")
    assert count == len(config.validate(source))


WRONG = {
    "the file is empty": "",
    "there is no section 'chain': did you mean chains?": "[chain]\n",
    "settings has no option 'timeot': did you mean timeout?": "[settings]\ntimeot = 1\n",
    "chain entry 'groq': 'groq' names no model": "[chains]\na = 'groq'\n",
    "name '@slow' is not defined: there is @fast": "[chains]\nfast = '@slow'\n",
    "names form a loop: @a → @b → @a": "[chains]\na = '@b'\nb = '@a'\n",
    "provider 'grok' is not known: known are groq, openai": "[chains]\na = 'grok/x'\n",
    "the variable NAME is not set": "[chains]\na = 'x/${NAME}'\n",
    "profile 'chap' is not defined": "[settings]\nprofile = 'chap'\n",
    "timeout='${LLM_TIMEOUT}' has a value that is not allowed": "[settings]\ntimeout='${LLM_TIMEOUT}'\n",
}


@pytest.mark.parametrize("message", WRONG)
def test_a_message_of_the_reference_is_one_of_the_code(
    message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the table explains is what a wrong file is told."""
    monkeypatch.setenv("LLM_TIMEOUT", "soon")
    monkeypatch.delenv("NAME", raising=False)
    path = tmp_path / "config.toml"
    path.write_text(WRONG[message], encoding="utf-8")

    problems = config.validate(path, providers=["groq", "openai"])

    assert f"`{message}`" in REFERENCE.read_text(encoding="utf-8")
    assert any(each.message.startswith(message) for each in problems), problems
