"""Bodies of error responses: how they are decoded, and which mappings inside them are read.

Never more than 64 KiB, and never a body that is not downloaded yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from resilient_llm.rules._foreign import as_status

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST_BODY: Final = 65_536
MOST_DETAILS: Final = 16
HOLDERS: Final = ("error", "Error", "errors", "details", "detail", "innererror", "metadata")
"""Names under which a body holds the mappings that are read."""
_OUTER: Final = HOLDERS[:3]


def downloaded(response: object) -> bytes | None:
    """Return the content of a response if it is here already; asking might use the network."""
    try:
        attributes: dict[str, Any] = response.__dict__
    except Exception:  # noqa: BLE001  # a foreign class
        return None
    if type(attributes) is not dict:
        return None
    for name in ("_content", "body", "_body"):  # httpx and requests; websockets; aiohttp
        if name not in attributes:
            continue
        content = attributes[name]
        if type(content) is bytes or type(content) is bytearray:
            return bytes(content[:LONGEST_BODY])
    return None


def decoded(body: str | bytes) -> Any:
    """Return what a body is as JSON, or its text."""
    if len(body) > LONGEST_BODY:
        body = body[:LONGEST_BODY]
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    if text.lstrip()[:1] in ("{", "["):
        import json

        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            pass
    return text


def quoted_body(message: object) -> Any:
    """Return the JSON object inside ``"GeminiException - {...}"``."""
    if not isinstance(message, str) or (start := message.find("{")) < 0:
        return None
    import json

    try:
        return json.JSONDecoder().raw_decode(message[:LONGEST_BODY], start)[0]
    except (ValueError, RecursionError):
        return None


def failure_in(parts: tuple[dict[str, Any], ...]) -> int | None:
    """Return the first number in a body that is a failing HTTP status.

    OpenRouter sends them in a stream, where the status of the response is 200.
    """
    for part in parts:
        for name in (
            "code",
            "status_code",
            "status",
            "http_status_code",
            "http_code",
            "statusCode",
        ):
            number = as_status(part.get(name))
            if number is not None and number >= 400:
                return number
    return None


def parts_of(body: Any) -> tuple[dict[str, Any], ...]:
    """Return the mappings in which providers put codes and messages, the outermost last."""
    if type(body) is not dict:  # nearly always it is; to ask what it is not takes longer
        if isinstance(body, list):
            body = cast("list[Any]", body)[0] if body else None
        if not isinstance(body, dict):
            return ()
    outer = cast("dict[str, Any]", body)
    found: list[dict[str, Any]] = []
    for name in _OUTER:
        if name not in outer:
            continue
        inner: Any = outer[name]
        if type(inner) is not dict and isinstance(inner, list) and inner:
            inner = cast("list[Any]", inner)[0]
        if isinstance(inner, dict):
            _add_nested(found, cast("dict[str, Any]", inner))
    _add_nested(found, outer)
    return tuple(found)


def _add_nested(found: list[dict[str, Any]], part: dict[str, Any]) -> None:
    """Add the details inside an error object, then the object."""
    if "details" in part:  # google.rpc
        details: Any = part["details"]
        if isinstance(details, list):
            found.extend(_mappings(cast("list[Any]", details)))
        elif isinstance(details, dict):  # anthropic
            found.append(cast("dict[str, Any]", details))
    if "detail" in part:  # FastAPI
        details = part["detail"]
        if isinstance(details, list):
            found.extend(_mappings(cast("list[Any]", details)))
        elif isinstance(details, dict):  # elevenlabs, and other servers that FastAPI runs
            found.append(cast("dict[str, Any]", details))
    if "innererror" in part:  # azure
        inner: Any = part["innererror"]
        if isinstance(inner, dict):
            found.append(cast("dict[str, Any]", inner))
    if "metadata" in part:  # openrouter: its own fields, and the body of the provider behind it
        inner = part["metadata"]
        if isinstance(inner, dict):
            metadata = cast("dict[str, Any]", inner)
            found.extend(parts_of(decoded(raw)) if type(raw := metadata.get("raw")) is str else ())
            found.append(metadata)
    found.append(part)


def _mappings(items: list[Any]) -> Iterator[dict[str, Any]]:
    for item in items[:MOST_DETAILS]:
        if isinstance(item, dict):
            yield cast("dict[str, Any]", item)
