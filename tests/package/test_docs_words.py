"""The words of the documentation: plain English, and one word for one thing.

A component has no opinions: it emits, raises, returns, counts or rejects. Old forms and riddles
stop a reader who has English as a second language.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import resilient_llm
from resilient_llm import (
    admin,
    answers,
    chains,
    config,
    limits,
    needs,
    probes,
    stores,
    strategies,
    testing,
)
from resilient_llm.observers import jsonl, otel, prometheus, webhook
from tests.support.pages import PAGES, ROOT

PERSONS = (
    r"says|said|nobody|somebody|anybody|everybody|told(?! apart)|tells|ill|illness|sick|news|"
    r"trusted|believes|believed|blames|blamed|feels|felt|knows|wants|hears"
)
OLD = r"whoever|anew|for ever|thus|hence|thereof|whilst|upon"
# "A key of its own" is worse than "its own key"; "a rule of your own module" is right.
ELLIPSIS = (
    r"of (?:yours|mine|ours)|of (?:its|your|their) own"
    r"(?=[.,;:)|]|\s+(?:and|at|by|for|has|in|is|on|or|that|to|which|with)\b)"
    r"|(?<!there )(?:is|are) no\s+(?!longer|more)"
)
WORDS = re.compile(rf", too\b|\b(?:(?:{PERSONS}|{OLD})\b|{ELLIPSIS})(?:\s*\w+)?", re.IGNORECASE)

CHANGELOG = ROOT / "CHANGELOG.md"

# What is not prose: blocks of code, code in a line, addresses.
CODE = re.compile(r"^( *)```.*?^\1```$|`[^`\n]*`|\]\([^)]*\)|<[^>]+>", re.MULTILINE | re.DOTALL)


def found_in(text: str) -> list[str]:
    """Return each place of a text that has one of the words, with the word after it."""
    prose = CODE.sub(" ", text)
    return [" ".join(each[0].split()) for each in WORDS.finditer(prose)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_is_written_in_plain_words(page: Path) -> None:
    """No sentence of a page has persons' words for components, or an old form."""
    assert [] == found_in(page.read_text("utf-8"))


def test_what_is_not_released_is_told_in_plain_words() -> None:
    """The same holds for the changelog of the next release; earlier ones stay as they are."""
    newest = re.split(r"^## \[", CHANGELOG.read_text("utf-8"), flags=re.MULTILINE)[1]

    assert [] == found_in(newest)


def test_the_words_are_found() -> None:
    """The test above does not pass because it finds nothing, and it leaves code alone."""
    assert ["says that", "of its own", "is no key", "for ever", ", too"] == found_in(
        "It says that\na bench of its own, `says` it: groq is no\nkey, for ever, too."
    )
    assert [] == found_in("It is no longer benched.\n\n```python\nsaid = 1  # nobody\n```\n")
    assert 50 < len(PAGES)


MODULES = [
    resilient_llm,
    admin,
    answers,
    chains,
    config,
    limits,
    needs,
    probes,
    stores,
    strategies,
    testing,
    prometheus,
    jsonl,
    otel,
    webhook,
]


def _docstrings() -> dict[str, str]:
    """Return ``{public name: its docstring}``, methods of classes included."""
    found: dict[str, str] = {}
    for module in MODULES:
        found[module.__name__] = module.__doc__ or ""
        for name in getattr(module, "__all__", ["install"]):
            thing = getattr(module, name)
            if not callable(thing):
                continue
            found[f"{module.__name__}.{name}"] = inspect.getdoc(thing) or ""
            members = vars(thing).items() if inspect.isclass(thing) else ()
            for member, value in members:
                if not member.startswith("_") and (inspect.isroutine(value) or _is_property(value)):
                    found[f"{module.__name__}.{name}.{member}"] = inspect.getdoc(value) or ""
    return found


def _is_property(value: object) -> bool:
    return isinstance(value, property)


DOCSTRINGS = _docstrings()


@pytest.mark.parametrize("name", DOCSTRINGS)
def test_a_docstring_is_written_in_plain_words(name: str) -> None:
    """The same holds for what the API page and an editor show of a public name."""
    assert [] == found_in(DOCSTRINGS[name].replace("``", "`"))
