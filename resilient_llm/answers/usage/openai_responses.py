"""OpenAI's Responses API.

``ResponseUsage`` of openai 3.57 and https://platform.openai.com/docs/api-reference/responses/object:
``input_tokens`` has the cached tokens and ``output_tokens`` has the reasoning. A stream has the
usage in the response of its last event: ``response.completed``, ``.incomplete`` or ``.failed``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm.answers._reading import inside
from resilient_llm.answers.usage._counts import count, part, usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resilient_llm._values.usage import Usage


def read(record: Mapping[str, Any]) -> Usage | None:
    """Read a ``usage``; None if it is of another protocol."""
    if "input_tokens_details" not in record and "total_tokens" not in record:
        return None
    sent, received = count(record, "input_tokens"), count(record, "output_tokens")
    total = count(record, "total_tokens")
    if sent is not None and total is not None and total > sent + (received or 0):
        received = total - sent
    details = "input_tokens_details"
    return usage(
        sent,
        received,
        cached=part(record, details, "cached_tokens"),
        cache_write=part(record, details, "cache_write_tokens"),
        reasoning=part(record, "output_tokens_details", "reasoning_tokens"),
    )


def usage_in_event(item: Mapping[str, Any]) -> Any:
    """Return the ``usage`` of an event of a stream, or None."""
    return inside(item.get("response")).get("usage")
