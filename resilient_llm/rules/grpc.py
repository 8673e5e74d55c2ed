"""Errors of gRPC (xai-sdk, Google's older clients): the wait stands in the trailing metadata.

The status code and the details are read like a code and a message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from resilient_llm.rules import hints
from resilient_llm.rules._evidence import called, transient

if TYPE_CHECKING:
    from resilient_llm._values import Verdict
    from resilient_llm.rules._evidence import Evidence


_REFUSED: Final = transient("network", scope="provider")


def SENTENCES(evidence: Evidence) -> Verdict | None:  # noqa: N802  # one of the names a provider's file may have
    """Return that no connection came about; gRPC says UNAVAILABLE to that and to a busy server."""
    if "grpc.RpcError" not in evidence.shape.names:
        return None
    text = evidence.text
    return _REFUSED if "failed to connect to all addresses" in text or "dns resolution failed" in text else None


def HINTS(evidence: Evidence) -> float | None:  # noqa: N802  # one of the names a provider's file may have
    """Return the wait in the trailing metadata of a call that failed."""
    method = evidence.facts.get("trailing_metadata")
    for pair in (called(method) or ()) if callable(method) else ():
        name, value = pair[0], pair[1]
        if name == "retry-after" and isinstance(value, str):
            return hints.moment_or_seconds(value, evidence.wall())
        if name == "grpc-retry-pushback-ms" and isinstance(value, str):
            delay = hints.seconds(value)
            return None if delay is None else delay / 1000
        if name == "grpc-status-details-bin" and isinstance(value, bytes):
            delay = _retry_info(value)
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
            if byte < 0x80:
                break
        fields[field] = number
    return hints.seconds(fields.get(1, 0) + fields.get(2, 0) / 1e9)
