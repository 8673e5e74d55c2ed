"""The SDKs made by the generator of openai's: an error event in a stream is a bare ``APIError``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm.rules._evidence import transient

if TYPE_CHECKING:
    from resilient_llm._values import Verdict
    from resilient_llm.rules._evidence import Evidence

_IN_STREAM: Final = transient("stream_error")


def CLASSES(evidence: Evidence) -> Verdict | None:  # noqa: N802  # one of the names a provider's file may have
    """Return that the stream told of an error, if it did not say which."""
    shape = evidence.shape
    return _IN_STREAM if shape.is_client and shape.simple_names[0] == "APIError" else None
