"""pydantic-ai's ``RequestUsage`` and ``RunUsage``, whatever the provider.

``UsageBase`` of pydantic-ai 1.0 to 2.68: ``input_tokens`` have the tokens that were read from a
cache and those that were written to it, and ``output_tokens`` have the reasoning. Older releases
have the reasoning in ``details`` alone, under the name of the provider.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from resilient_llm.answers.usage._counts import count, part, usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resilient_llm._values.usage import Usage

_ITS_OWN: Final = ("cache_read_tokens", "cache_write_tokens", "input_audio_tokens")
"""Fields that no other protocol has all of."""


def read(record: Mapping[str, Any]) -> Usage | None:
    """Read a ``usage``; None if it is of another protocol."""
    if not all(name in record for name in _ITS_OWN):
        return None
    sent, received = count(record, "input_tokens"), count(record, "output_tokens")
    if not sent and not received:
        return None  # zeros stand for a usage that the provider did not tell
    return usage(
        sent,
        received,
        cached=count(record, "cache_read_tokens") or 0,
        cache_write=count(record, "cache_write_tokens") or 0,
        reasoning=count(record, "output_reasoning_tokens")
        or part(record, "details", "reasoning_tokens"),
    )
