"""pydantic-ai's ``RequestUsage`` and ``RunUsage``, whatever the provider.

``UsageBase`` of pydantic-ai 1.0 to 2.68: ``input_tokens`` have the tokens that were read from a
cache and those that were written to it, and ``output_tokens`` have the reasoning. Older releases
have the reasoning in ``details`` alone, under the name of the provider. Newer ones keep only the
counts that were told, beside ``details``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from resilient_llm.answers.usage._counts import count, part, usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resilient_llm._values.usage import Usage

_ITS_OWN: Final = ("cache_read_tokens", "cache_write_tokens", "details")
"""Fields that no other protocol has beside ``input_tokens``."""


def read(record: Mapping[str, Any]) -> Usage | None:
    """Read a ``usage``; None if it is of another protocol."""
    if not any(name in record for name in _ITS_OWN) or "prompt_tokens" in record:
        return None
    sent, received = count(record, "input_tokens"), count(record, "output_tokens")
    return usage(
        sent,
        received,
        cached=count(record, "cache_read_tokens") or 0,
        cache_write=count(record, "cache_write_tokens") or 0,
        reasoning=count(record, "output_reasoning_tokens")
        or part(record, "details", "reasoning_tokens"),
    )
