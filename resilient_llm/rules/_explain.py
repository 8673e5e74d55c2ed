"""By what sign a rule knew an error, in words, and where that was found.

Used by nobody but ``classify.explain``. Says only what is safe to print: words of the
tables here, names of classes, fields and headers, numbers. Never a text of the error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from resilient_llm import rules
from resilient_llm._values.explanation import Reasons
from resilient_llm.rules import PROVIDERS, codes, network, python, sentences
from resilient_llm.rules._evidence import (
    ATTRIBUTES_OF_CODES,
    CODES,
    HOLDERS,
    MESSAGES,
    MOST_DETAILS,
    Evidence,
    shape_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from resilient_llm.rules import Rule

_MOST_WALKED: Final = 200


def reasons(error: BaseException, wall: Callable[[], float]) -> Reasons:
    """Return by what sign the built-in rules know this error.

    Args:
        error: Any error but a cancellation or one of ours.
        wall: Gives seconds since 1970.
    """
    evidence = Evidence(error, shape_of[type(error)], wall)
    _, rule = rules.decide(evidence)
    if rule is None:
        return Reasons(
            "no rule knows its class, and it has no code, words or status that one knows"
        )
    because, field = _sign(evidence)
    return Reasons(because, field, _place(rule, evidence), evidence.hint_sign)


def _place(rule: Rule, evidence: Evidence) -> str:
    """Return the file in which to look for what decided."""
    sort, what = evidence.sign
    module = cast("str", cast("Any", rule).__module__)
    if sort == "code":
        tables = [
            each
            for each in PROVIDERS
            if what in getattr(each, "CODES", ()) or what in getattr(each, "CATEGORIES", ())
        ]
        module = tables[0].__name__ if tables else codes.__name__
    elif module == rules.__name__ and sort == "words":
        module = sentences.__name__
    elif module == rules.__name__ and sort != "status of a success":
        module = (
            network if network.class_verdict(evidence.shape)[0] is not None else python
        ).__name__
    name = module.removeprefix("resilient_llm.")
    return "rules/__init__.py" if name == "rules" else name.replace(".", "/") + ".py"


def _sign(evidence: Evidence) -> tuple[str, str]:
    sort, what = evidence.sign
    if sort == "code":
        return f"the code {what}", next(_fields_of_code(evidence, what), "")
    if sort == "words":
        words = cast("tuple[str, ...]", what)
        said = " and ".join(f'"{phrase}"' for phrase in words)
        return f"the words {said}", _field_of_words(evidence, words)
    if sort == "status":
        return f"the status {what}", _field_of_status(evidence, what)
    if sort == "status without a word":
        return f"the status {what} without a code or a message", _field_of_status(evidence, what)
    if sort == "status of a success":
        return f"the client could not read an answer with the status {what}", _field_of_status(
            evidence, what
        )
    return _OTHERS[sort].format(str(what).removeprefix("builtins.")), ""


_OTHERS: Final = {
    "class": "the class {}",
    "class beneath": "beneath it is {}",
    "raised in a client": "a client could not decode what it was sent: {}",
    "field": "{}",
    "close code": "the close code {}",
    "": "its class",
}


def _fields_of_code(evidence: Evidence, code: str) -> Iterator[str]:
    """Yield where a code stands, the most special place first."""
    for path, part in _paths(evidence):
        for name in CODES:
            word = part.get(name)
            if type(word) is str and word.lower() == code:
                yield f"{path}.{name}"
    for name in ATTRIBUTES_OF_CODES:
        word = evidence.facts.get(name)
        if type(word) is str and word.lower() == code:
            yield name
        elif callable(word):
            yield f"{name}()"
    yield "error.code"


def _field_of_words(evidence: Evidence, words: tuple[str, ...]) -> str:
    """Return where the words stand, if they are all in one place."""
    for path, part in _paths(evidence):
        for name in MESSAGES:
            text = part.get(name)
            if type(text) is str and all(phrase in text.lower() for phrase in words):
                return f"{path}.{name}"
    if type(evidence.body) is str:
        return "body"
    for name in ("error", "detail", "title", "message"):
        if type(evidence.facts.get(name)) is str:
            return name
    return "details()" if callable(evidence.facts.get("details")) else "args"


def _field_of_status(evidence: Evidence, status: int) -> str:
    for name in ("status_code", "status", "http_status", "code"):
        if str(evidence.facts.get(name)) == str(status):
            return name
    if evidence.status == status:
        return "response"
    for path, part in _paths(evidence):
        for name in ("code", "status_code", "status"):
            if str(part.get(name)) == str(status):
                return f"{path}.{name}"
    return ""


def _paths(evidence: Evidence) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the mappings that evidence is read from, each with its path, the most special first."""
    for part in evidence.parts:
        yield _path_to(part, evidence.body), part


def _path_to(part: dict[str, Any], body: Any) -> str:
    waiting: list[tuple[str, Any]] = [("body", body)]
    for path, value in waiting:  # grows while it is walked
        if value is part:
            return path
        if isinstance(value, dict):
            mapping = cast("dict[str, Any]", value)
            waiting.extend((f"{path}.{name}", mapping[name]) for name in HOLDERS if name in mapping)
        elif isinstance(value, list):
            items = cast("list[Any]", value)[:MOST_DETAILS]
            waiting.extend((f"{path}[{number}]", item) for number, item in enumerate(items))
        if len(waiting) > _MOST_WALKED:
            break
    return "body"
