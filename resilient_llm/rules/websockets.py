"""Realtime sessions over websockets, where the close code takes the place of the status.

https://www.iana.org/assignments/websocket/websocket.xhtml#close-code-number
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm.rules._foreign import attribute
from resilient_llm.rules._verdicts import dead, transient, wrong_request

if TYPE_CHECKING:
    from resilient_llm._values.verdict import Verdict
    from resilient_llm.rules._evidence import Evidence

CLOSE_CODES: Final = {
    1002: transient("network"),
    1003: wrong_request(),
    1007: wrong_request(),
    1008: wrong_request(),
    1009: wrong_request("too_large"),
    1011: transient("server_error"),
    1012: transient("server_error"),
    1013: transient("overloaded"),
    1014: transient("gateway"),
    3000: dead("invalid_credentials"),
    3003: dead("permission_denied", scope="target"),
    3008: transient("timeout"),
}


def by_class(evidence: Evidence) -> Verdict | None:
    """Return the verdict on the close code of the server."""
    code = attribute(evidence.attributes.get("rcvd"), "code")
    evidence.matched_by = ("close code", code)
    return CLOSE_CODES.get(code) if isinstance(code, int) else None
