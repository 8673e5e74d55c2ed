"""Asks the formats about a whole answer; reads texts and responses of HTTP clients by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from resilient_llm.answers._reading import LONGEST, field, has, is_dict, is_text, plain_body
from resilient_llm.answers._verdicts import BESIDE_AN_ERROR, BROKEN, error_in
from resilient_llm.answers.formats import FORMATS

if TYPE_CHECKING:
    from resilient_llm.answers._response import ResponseInfo

_READERS: Final = tuple(each.answer for each in FORMATS if each.answer is not None)


def read_object(answer: object, info: ResponseInfo) -> None:
    """Read an answer of any known format; an unknown one only if it is a failed response."""
    info.error = error_in(answer)
    for read in _READERS:
        if read(answer, info):
            return
    _read_failed_response(answer, info)


def read_text(answer: str | bytes | bytearray, info: ResponseInfo) -> None:
    """Read a text: the answer of the caller's own function, unless no model would write it."""
    if isinstance(answer, str):
        has_content = is_text(answer)
        start = answer[:LONGEST]
    else:
        has_content = bool(answer)
        start = bytes(answer[:LONGEST]).decode("utf-8", "replace")
    start = start.lstrip("\ufeff \t\r\n")
    is_raw = not isinstance(answer, str)
    if start[:14].lower().startswith(("<!doctype html", "<html")) or _is_event_stream(start):
        info.fault = BROKEN
    elif start.startswith("{") and len(answer) <= LONGEST:
        _read_json(start, info, is_raw=is_raw)
        if is_raw and (info.choices or info.fault or info.error):
            return
    info.add().has_content = has_content


def _is_event_stream(text: str) -> bool:
    """Return whether it is a stream of events, sent although none was requested."""
    return text.startswith('data: {"') or (text.startswith("event: ") and "\ndata: {" in text[:256])


def _read_json(text: str, info: ResponseInfo, *, is_raw: bool) -> None:
    """Read a body that was not decoded.

    As a text it may be JSON that the model was asked for; then only an error counts.
    """
    import json

    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        if is_raw:
            info.fault = BROKEN
        return
    if is_raw:
        read_object(body, info)
    elif isinstance(body, dict):
        fields = cast("dict[str, Any]", body)
        if isinstance(fields.get("error"), dict) and BESIDE_AN_ERROR.issuperset(fields):
            error = cast("dict[str, Any]", fields["error"])
            if isinstance(error.get("message"), str) and ("code" in error or "type" in error):
                info.error = plain_body(fields)


def _read_failed_response(answer: object, info: ResponseInfo) -> None:
    """Read a response of an HTTP client that does not raise, or a body with a failing status."""
    if info.error is not None:
        return
    status = field(answer, "status_code", "status")
    if type(status) is not int or not 400 <= status <= 599:
        return
    if is_dict(answer):  # dashscope returns this instead of raising
        if is_text(field(answer, "code")) and has(answer, "message"):
            info.error = plain_body(cast("dict[str, Any]", answer))
    elif has(answer, "headers") or has(answer, "_headers"):
        info.error = answer
