"""Reads what a request says: its query and its JSON, with bounds on size and depth."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import parse_qsl

from resilient_llm._values import checks as check
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.keys import check_key, parse_key
from resilient_llm._values.money import spend_key_of
from resilient_llm.admin._problems import Problem

if TYPE_CHECKING:
    from starlette.requests import Request

MOST_BYTES: Final = 16 * 1024
MOST_LEVELS: Final = 20
LONGEST_REASON: Final = 200
FIELDS: Final = ("model", "seconds", "until", "reason")

_RFC_3339: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


class WantedBench(NamedTuple):
    """A bench as the body of a request asks for it."""

    model: str
    until: datetime | float | None
    reason: str


def query(request: Request, *allowed: str) -> dict[str, list[str]]:
    """Return the parameters of the query, ``{name: values}``.

    Raises:
        Problem: If one is unknown, or is not UTF-8.
    """
    try:
        text = request.scope.get("query_string", b"").decode("ascii")
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict")
    except ValueError:
        raise Problem(422, "the query is not UTF-8 in percent-encoding") from None
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    _refuse_unknown("parameter", found, allowed)
    return found


def key(text: Any) -> str:
    """Return a key as it was written, if it is one.

    Raises:
        Problem: If it is no key, above 512 characters, or has control characters or lone
            surrogates.
    """
    try:
        if isinstance(text, str):
            check_key(text)  # before the blanks around it are removed, a newline among them
        parse_key(text)
    except ConfigurationError as error:
        raise Problem(422, str(error)) from None
    return text


def spend_key(given: list[str]) -> str | None:
    """Return the key of ``spend_key`` that a parameter names; None if there is none.

    Raises:
        Problem: If it is no such key, or there are several.
    """
    if len(given) > 1:
        raise Problem(422, "write one parameter 'key', or none")
    try:
        return spend_key_of(given[0]) if given else None
    except ConfigurationError as error:
        raise Problem(422, str(error)) from None


async def wanted_bench(request: Request) -> WantedBench:
    """Return the bench that the body of a request asks for.

    Raises:
        Problem: If the body is not JSON, too large or too deep, or a field is wrong.
    """
    body = _object(await _content(request))
    _refuse_unknown("field", body, FIELDS)
    if "model" not in body:
        raise Problem(422, "the field 'model' is missing: write a key such as 'groq/llama'")
    seconds, until = body.get("seconds"), body.get("until")
    if seconds is not None and until is not None:
        raise Problem(422, "'seconds' and 'until' exclude each other: write one of them, or none")
    model = key(body["model"])
    reason = _reason(body.get("reason", ""))
    if seconds is not None:
        try:
            return WantedBench(model, check.seconds("seconds", seconds, zero=True), reason)
        except ConfigurationError as error:
            raise Problem(422, str(error)) from None
    return WantedBench(model, None if until is None else _moment(until), reason)


def _reason(value: Any) -> str:
    if not isinstance(value, str):
        raise Problem(422, "'reason' is no text")
    if len(value) > LONGEST_REASON:
        raise Problem(
            422,
            f"'reason' has {len(value)} characters: at most {LONGEST_REASON} are allowed",
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Problem(422, "'reason' has half of a surrogate pair") from None
    return value


def _moment(value: Any) -> datetime:
    wrong = Problem(422, "'until' is no moment: write RFC 3339, such as '2030-01-31T06:00:00Z'")
    if not isinstance(value, str) or not _RFC_3339.fullmatch(value):
        raise wrong
    text = value.upper()
    # Python keeps six digits of a second and reads no more of them before 3.13.
    text = re.sub(r"(\.\d{6})\d+", r"\1", text)
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise wrong from None


def _refuse_unknown(what: str, names: Any, allowed: tuple[str, ...]) -> None:
    for name in names:
        if name not in allowed:
            near = check.near_names(name, allowed)
            hint = f"did you mean {near[0]!r}? " if near else ""
            known = f"allowed are {', '.join(allowed)}" if allowed else "none is allowed"
            shown = f"{name[:40]!r}…" if len(name) > 40 else repr(name)
            raise Problem(422, f"unknown {what} {shown}: {hint}{known}")


async def _content(request: Request) -> bytes:
    """Return the body of a request, unless it is no JSON or too large.

    It is not read further than that.
    """
    kind, _, parameters = request.headers.get("content-type", "").partition(";")
    charset = parameters.strip().lower().replace('"', "")
    if kind.strip().lower() != "application/json" or charset not in ("", "charset=utf-8"):
        raise Problem(415, "the body must be JSON in UTF-8: send Content-Type: application/json")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(415, "the body must not be compressed")
    too_large = Problem(413, f"the body is larger than {MOST_BYTES} bytes")
    length = request.headers.get("content-length", "")
    if length.isdigit() and (len(length) > 9 or int(length) > MOST_BYTES):
        raise too_large
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MOST_BYTES:
            raise too_large
    return bytes(content)


def _object(content: bytes) -> dict[str, Any]:
    try:
        text = content.decode()
        if _levels(text) > MOST_LEVELS:
            raise Problem(400, f"the JSON is nested deeper than {MOST_LEVELS} levels")
        value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise Problem(400, "the body is not JSON in UTF-8, or names a field twice") from None
    if not isinstance(value, dict):
        raise Problem(422, 'the body is no JSON object: write {"model": "groq/llama"}')
    return value  # pyright: ignore[reportUnknownVariableType]  # texts, of JSON


_TEXT: Final = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)


def _levels(text: str) -> int:
    """Return how deep arrays and objects lie in one another, before anything is built of them."""
    deepest = level = 0
    for each in _TEXT.sub("", text):
        if each in "[{":
            level += 1
            deepest = max(deepest, level)
        elif each in "]}":
            level -= 1
    return deepest


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a field is named twice")
    return found
