"""Errors of gRPC (xai-sdk, Google's older clients), with the wait in the trailing metadata.

The status code and the details are read like a code and a message.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final, cast

from resilient_llm.rules import hints
from resilient_llm.rules._bodies import LONGEST_BODY
from resilient_llm.rules._foreign import called
from resilient_llm.rules._verdicts import REFUSED

if TYPE_CHECKING:
    from resilient_llm._values.verdict import Verdict
    from resilient_llm.rules._evidence import Evidence

ONLY_FOR: Final = frozenset(("grpc.RpcError",))
_MOST_PAIRS: Final = 256
_LONGEST_VARINT: Final = 63


def by_message(evidence: Evidence) -> Verdict | None:
    """Return that no connection was made; gRPC calls that and a busy server UNAVAILABLE."""
    for words in ("failed to connect to all addresses", "dns resolution failed"):
        if words in evidence.text:
            evidence.matched_by = ("words", (words,))
            return REFUSED
    return None


def retry_after(evidence: Evidence) -> float | None:
    """Return the wait in the trailing metadata of a call that failed."""
    method = evidence.attributes.get("trailing_metadata")
    pairs: Any = (called(method) or ()) if callable(method) else ()
    for pair in islice(pairs, _MOST_PAIRS):
        if not isinstance(pair, tuple) or len(cast("tuple[Any, ...]", pair)) < 2:
            continue
        name, value = cast("tuple[Any, ...]", pair)[:2]
        if name == "retry-after" and type(value) is str:
            return hints.moment_or_seconds(value, evidence.wall())
        if name == "grpc-retry-pushback-ms" and type(value) is str:
            delay = hints.seconds(value)
            return None if delay is None else delay / 1000
        if name == "grpc-status-details-bin" and type(value) is bytes:
            delay = _retry_info(value[:LONGEST_BODY])
            if delay is not None:
                return delay
    return None


def _retry_info(details: bytes) -> float | None:
    """Read ``google.rpc.RetryInfo`` out of the bytes, without protobuf.

    After the type's name come a tag and a length for the value, in it a tag and a length
    for the duration, in it field 1 (seconds) and field 2 (nanoseconds), both varints.
    """
    _, found, rest = details.partition(b"google.rpc.RetryInfo")
    if not found or len(rest) < 4 or rest[0] != 0x12 or rest[2] != 0x0A:
        return None
    fields: dict[int, int] = {}
    data = rest[4 : 4 + rest[3]]
    at = 0
    while at < len(data):
        field = data[at] >> 3
        number = shift = 0
        at += 1
        while at < len(data):
            byte: Any = data[at]
            at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80 or shift > _LONGEST_VARINT:
                break
        fields[field] = number
    return hints.seconds(fields.get(1, 0) + fields.get(2, 0) / 1e9)
