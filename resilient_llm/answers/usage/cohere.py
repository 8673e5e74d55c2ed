"""Cohere's chat and embeddings, in both of its versions.

``Usage`` and ``ApiMeta`` of cohere 7.3 and https://docs.cohere.com/v2/reference/chat: what is
billed is in ``billed_units``. That is less than ``tokens``, which have what Cohere adds to a
prompt. Numbers are floats. Version 2 has them in ``usage``, and in the ``message-end`` event of a
stream; version 1 in ``meta``, and in the ``response`` of the ``stream-end`` event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm.answers._reading import inside
from resilient_llm.answers.usage._counts import count, held, usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resilient_llm._values.usage import Usage


def read(record: Mapping[str, Any]) -> Usage | None:
    """Read a ``usage`` or ``meta``; None if it is of another protocol."""
    for name in ("billed_units", "tokens"):
        units = held(record.get(name))
        sent, received = count(units, "input_tokens"), count(units, "output_tokens")
        if sent is None and received is None:
            continue
        sent = sent or 0
        return usage(sent, received, cached=min(count(record, "cached_tokens") or 0, sent))
    return None


def is_meta(record: Mapping[str, Any]) -> bool:
    """Return whether the ``meta`` of an answer is Cohere's."""
    return "billed_units" in record or "tokens" in record


def usage_in_event(item: Mapping[str, Any]) -> Any:
    """Return the ``usage`` of the last event of a stream, or None."""
    found = inside(item.get("delta")).get("usage")
    return inside(item.get("response")).get("meta") if found is None else found
