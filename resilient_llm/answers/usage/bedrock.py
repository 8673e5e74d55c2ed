"""Amazon Bedrock: Converse, and the metrics at the end of a stream of InvokeModel.

``TokenUsage`` of botocore 1.44 and
https://docs.aws.amazon.com/bedrock/latest/userguide/prompt-caching.html: ``inputTokens`` are those
that were neither read from the cache nor written to it. A stream has the usage in its
``metadata`` event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm.answers._reading import inside
from resilient_llm.answers.usage._counts import count, usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resilient_llm._values.usage import Usage

METRICS = "amazon-bedrock-invocationMetrics"
"""Field of the last event of a stream of InvokeModel, whatever the model's own protocol is."""


def read(record: Mapping[str, Any]) -> Usage | None:
    """Read a ``usage`` or the metrics; None if it is of another protocol."""
    plain = count(record, "inputTokens", "inputTokenCount")
    if plain is None:
        return None
    cached = count(record, "cacheReadInputTokens", "cacheReadInputTokenCount") or 0
    written = count(record, "cacheWriteInputTokens", "cacheWriteInputTokenCount") or 0
    return usage(
        plain + cached + written,
        count(record, "outputTokens", "outputTokenCount"),
        cached=cached,
        cache_write=written,
    )


def usage_in_event(item: Mapping[str, Any]) -> Any:
    """Return the ``usage`` of an event of a stream, or None."""
    return inside(item.get("metadata")).get("usage")
