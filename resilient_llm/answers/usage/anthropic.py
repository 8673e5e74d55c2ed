"""Anthropic's messages, also through Bedrock's InvokeModel and Vertex.

``Usage`` and ``MessageDeltaUsage`` of anthropic 2.14 and
https://docs.claude.com/en/docs/build-with-claude/prompt-caching: ``input_tokens`` are those after
the last cache breakpoint, so the whole request has besides what was read from the cache and what
was written to it. A stream has the usage of the request in ``message_start``, with the first tokens
of the answer, and in ``message_delta`` what it came to: cumulative, and often only of the answer.
Some servers write zeros there for the request (https://github.com/sgl-project/sglang/issues/20830).

``BetaUsage.iterations`` of the same release lists what the server did for one request. The counts
beside it have neither those of a ``compaction`` nor those of an ``advisor_message``, and after a
fallback only those of the attempt that answered, while each attempt is billed that wrote anything
(https://platform.claude.com/docs/en/build-with-claude/refusals-and-fallback, November 2026). An
advisor and a fallback are other models, whose prices nobody here knows: their tokens count as if
they were of this one.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from resilient_llm.answers._reading import inside, items
from resilient_llm.answers.usage._counts import count, held, part, usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resilient_llm._values.usage import Usage

_WRITTEN: Final = "cache_creation_input_tokens"
_BY_AGE: Final = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
_FALLBACK: Final = "fallback_message"
"""Type of the iteration in which another model has answered."""
_BESIDE: Final = ("compaction", "advisor_message")
"""Types of iterations that are never in the counts beside them."""


class _Parts(NamedTuple):
    """Tokens of one request or of one of its iterations, none of which are in another part."""

    plain: int
    cached: int
    written: int
    received: int


_NOTHING: Final = _Parts(0, 0, 0, 0)


def read(record: Mapping[str, Any]) -> Usage | None:
    """Read a ``usage``; None if it is of another protocol."""
    if count(record, "input_tokens") is None:
        return None
    if count(record, "output_tokens") is None and record.get("output_tokens") is not None:
        return None  # unreadable
    reasoning = part(record, "output_tokens_details", "thinking_tokens", "reasoning_tokens")
    told = _parts(record)
    iterations = items(record.get("iterations"))
    if iterations:
        found = _usage(_with_iterations(told, iterations), reasoning)
        if found is not None:
            return found
    return _usage(told, reasoning)


def _parts(record: Mapping[str, Any]) -> _Parts:
    return _Parts(
        plain=count(record, "input_tokens") or 0,
        cached=count(record, "cache_read_input_tokens") or 0,
        written=count(record, _WRITTEN) or sum(part(record, "cache_creation", n) for n in _BY_AGE),
        received=count(record, "output_tokens") or 0,
    )


def _usage(parts: _Parts, reasoning: int) -> Usage | None:
    return usage(
        parts.plain + parts.cached + parts.written,
        parts.received,
        cached=parts.cached,
        cache_write=parts.written,
        reasoning=reasoning,
    )


def _with_iterations(told: _Parts, iterations: list[Any]) -> _Parts:
    """Return what a request came to with all that the server did for it.

    Args:
        told: The counts beside the iterations, which have some of them.
        iterations: What the server did, one by one.
    """
    inside_told, beside = _NOTHING, _NOTHING
    entries = [held(each) for each in iterations]
    has_fallback = any(_kind(entry) == _FALLBACK for entry in entries)
    for entry in entries:
        parts = _parts(entry)
        if _kind(entry) in _BESIDE:
            beside = _sum(beside, parts)
        elif parts.received or not has_fallback:  # one that declined at once is not billed
            inside_told = _sum(inside_told, parts)
    # Which iterations the counts have differs, and one list may be cut: the larger is the bill.
    return _sum(beside, _Parts(*map(max, told, inside_told)))


def _kind(entry: Mapping[str, Any]) -> str:
    kind = entry.get("type")
    return kind if type(kind) is str else ""


def _sum(one: _Parts, other: _Parts) -> _Parts:
    return _Parts(*map(operator.add, one, other))


def usage_in_event(item: Mapping[str, Any]) -> Any:
    """Return the ``usage`` of the first event of a stream, or None."""
    return inside(item.get("message")).get("usage")
