"""What the deciding rule recognised, in words, and where that was found.

Used by ``classify.explain`` only. Gives only what is safe to print: words of the tables in
this folder, names of classes, fields and headers, numbers. Never a text of the error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from resilient_llm._values.explanation import Reasons
from resilient_llm.rules import _judge, codes, frameworks, network, python, sentences
from resilient_llm.rules._bodies import HOLDERS, MOST_DETAILS
from resilient_llm.rules._class_info import class_of
from resilient_llm.rules._evidence import ATTRIBUTES_OF_CODES, CODES, MESSAGES, Evidence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from resilient_llm.rules._judge import Rule

_MOST_WALKED: Final = 200


def reasons(error: BaseException, wall: Callable[[], float]) -> Reasons:
    """Return by what the built-in rules recognise this error.

    Args:
        error: Any error but a cancellation or one of ours.
        wall: Gives seconds since 1970.
    """
    evidence = Evidence(error, class_of[type(error)], wall)
    _, rule = _judge.decide(evidence)
    if rule is None:
        return Reasons(
            "no rule knows its class, and it has no code, words or status that one knows"
        )
    because, field = _match(evidence)
    return Reasons(because, field, _place(rule, evidence), evidence.hint_from)


def _place(rule: Rule, evidence: Evidence) -> str:
    """Return the file of the table or function that decided."""
    kind, what = evidence.matched_by
    module = cast("str", cast("Any", rule).__module__)
    if kind == "code":
        tables = [
            each
            for each in _judge.PROVIDERS
            if what in getattr(each, "CODES", ()) or what in getattr(each, "CATEGORIES", ())
        ]
        module = tables[0].__name__ if tables else codes.__name__
    elif rule in (_judge.by_framework, _judge.beneath_client):
        module = frameworks.__name__
    elif rule is _judge.beneath_refusal:
        pass  # it is in this file, and has no table
    elif module == _judge.__name__ and kind == "words":
        module = sentences.__name__
    elif module == _judge.__name__:
        is_network = network.class_verdict(evidence.error_class)[0] is not None
        module = (network if is_network else python).__name__
    return module.removeprefix("resilient_llm.").replace(".", "/") + ".py"


def _match(evidence: Evidence) -> tuple[str, str]:
    kind, what = evidence.matched_by
    if kind == "code":
        return f"the code {what}", next(_fields_of_code(evidence, what), "")
    if kind == "words":
        words = cast("tuple[str, ...]", what)
        said = " and ".join(f'"{phrase}"' for phrase in words)
        return f"the words {said}", _field_of_words(evidence, words)
    if kind == "status":
        return f"the status {what}", _field_of_status(evidence, what)
    if kind == "status without an answer":
        return f"nothing shows that a provider sent the status {what}", _field_of_status(
            evidence, what
        )
    if kind == "status without a word":
        return f"the status {what} without a code or a message", _field_of_status(evidence, what)
    if kind == "status of a success":
        return f"the client could not read an answer with the status {what}", _field_of_status(
            evidence, what
        )
    return _OTHERS[kind].format(str(what).removeprefix("builtins.")), ""


_OTHERS: Final = {
    "class": "the class {}",
    "class beneath": "beneath it is {}",
    "class of a framework": "{} is control flow of a framework, which no provider sent",
    "framework beneath": "beneath it is {}, control flow of a framework",
    "refusal beneath": "beneath it is {}, which a guard of this library raised",
    "full pool beneath": "beneath it is {}: no connection of the client was free",
    "schema": "the answer did not fit what the caller asked for: {}",
    "raised in a client": "a client could not decode what it was sent: {}",
    "raised while reading": "a client could not read the answer: {}",
    "error object": "a client gave the provider's error as the text of: {}",
    "field": "{}",
    "close code": "the close code {}",
    "": "its class",
}


def _fields_of_code(evidence: Evidence, code: str) -> Iterator[str]:
    """Yield where a code was found, the most specific place first."""
    for path, part in _paths(evidence):
        for name in CODES:
            word = part.get(name)
            if type(word) is str and word.lower() == code:
                yield f"{path}.{name}"
    for name in ATTRIBUTES_OF_CODES:
        word = evidence.attributes.get(name)
        if type(word) is str and word.lower() == code:
            yield name
        elif callable(word):
            yield f"{name}()"
    yield "error.code"


def _field_of_words(evidence: Evidence, words: tuple[str, ...]) -> str:
    """Return where the words were found, if they are all in one place."""
    for path, part in _paths(evidence):
        for name in MESSAGES:
            text = part.get(name)
            if type(text) is str and all(phrase in text.lower() for phrase in words):
                return f"{path}.{name}"
    if type(evidence.body) is str:
        return "body"
    for name in ("error", "detail", "title", "message"):
        if type(evidence.attributes.get(name)) is str:
            return name
    return "details()" if callable(evidence.attributes.get("details")) else "args"


def _field_of_status(evidence: Evidence, status: int) -> str:
    for name in ("status_code", "status", "http_status", "code"):
        if str(evidence.attributes.get(name)) == str(status):
            return name
    if evidence.status == status:
        return "response"
    for path, part in _paths(evidence):
        for name in ("code", "status_code", "status"):
            if str(part.get(name)) == str(status):
                return f"{path}.{name}"
    return ""


def _paths(evidence: Evidence) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the mappings that evidence is read from, with paths, the most specific first."""
    for part in evidence.parts:
        yield _path_to(part, evidence.body), part


def _path_to(part: dict[str, Any], body: Any) -> str:
    waiting: list[tuple[str, Any]] = [("body", body)]
    for path, value in waiting:  # grows during the loop
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
