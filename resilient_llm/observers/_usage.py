"""Reads how many tokens an answer, or an item of a stream, says that it used.

By the names of the fields that the SDKs have, in objects and in dicts; no SDK is imported. Code of
foreign classes does not run: only what an object holds is read.
"""

from __future__ import annotations

from typing import Any, Final, cast

Usage = tuple[int | None, int | None]
"""Tokens of the request and of the answer; None if not told."""

NOTHING: Final[Usage] = (None, None)

_BARE: Final = frozenset((str, bytes, int, float, bool, type(None), list, tuple))
# Where the counts are held, seen November 2026: openai, anthropic, mistralai, groq, cohere, boto3
# and litellm; google-genai; an event of openai's Responses API or of anthropic's, which holds the
# answer; langchain; an event of boto3's stream.
_HOLDERS: Final = ("usage", "usage_metadata", "usageMetadata")
_AROUND: Final = ("response", "message", "metadata")
_INPUT: Final = (
    "input_tokens",
    "prompt_tokens",
    "prompt_token_count",
    "promptTokenCount",
    "inputTokens",
    "prompt_eval_count",
)
_OUTPUT: Final = (
    "output_tokens",
    "completion_tokens",
    "candidates_token_count",
    "candidatesTokenCount",
    "outputTokens",
    "eval_count",
)
# Parts of the request that anthropic counts apart, and litellm in its prompt_tokens.
# OpenTelemetry counts all of it.
_CACHED: Final = ("cache_read_input_tokens", "cache_creation_input_tokens")
# Thoughts are part of the answer's tokens, and google counts them apart.
_THOUGHTS: Final = ("thoughts_token_count", "thoughtsTokenCount")


def usage_of(answer: object) -> Usage:
    """Return the tokens of the request and of the answer, each None if it is not told."""
    if type(answer) in _BARE:
        return NOTHING
    found = _usage_in(answer)
    if found is not NOTHING:
        return found
    for name in _AROUND:
        inner = _held(answer, name)
        if inner is not None and type(inner) not in _BARE:
            found = _usage_in(inner)
            if found is not NOTHING:
                return found
    return NOTHING


def _usage_in(answer: object) -> Usage:
    for name in _HOLDERS:
        usage = _held(answer, name)
        if usage is not None:
            found = _counts(_held(usage, "tokens") or usage)  # cohere
            if found is not NOTHING:
                return found
    # ollama has the counts in the answer itself, at its end
    if _held(answer, "prompt_eval_count") is not None or _held(answer, "eval_count") is not None:
        return _counts(answer)
    return NOTHING


def _counts(usage: object) -> Usage:
    sent = _count(usage, _INPUT)
    received = _count(usage, _OUTPUT)
    if sent is None and received is None:
        return NOTHING
    if sent is not None and _count(usage, ("prompt_tokens",)) is None:
        sent += sum(_count(usage, (name,)) or 0 for name in _CACHED)
    if received is not None:
        received += _count(usage, _THOUGHTS) or 0
    return sent, received


def _count(usage: object, names: tuple[str, ...]) -> int | None:
    for name in names:
        value = _held(usage, name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 2**53:
            return int(value)
    return None


def _held(thing: object, name: str) -> Any:
    """Return an item of a dict, or an attribute that an object holds, or None."""
    if isinstance(thing, dict):
        return cast("dict[str, Any]", thing).get(name)
    for store in ("__dict__", "__pydantic_extra__"):
        try:
            held: Any = object.__getattribute__(thing, store)
        except AttributeError:
            continue
        if type(held) is dict and name in held:
            return cast("dict[str, Any]", held)[name]
    return None
