"""Zhipu (GLM, Z.ai), which sends numbers for codes, under statuses that are less specific.

https://docs.z.ai/api-reference/api-code, as of November 2026. A number counts only in
the form in which Zhipu sends it, ``{"error": {"code": "1113", "message": ...}}``, since other
providers number their errors as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm.rules._verdicts import dead, limited, transient, wrong_request

if TYPE_CHECKING:
    from resilient_llm._values.verdict import Verdict
    from resilient_llm.rules._evidence import Evidence

NUMBERS: Final[dict[str, Verdict]] = {
    **dict.fromkeys(("1000", "1001", "1002", "1003", "1004"), dead("invalid_credentials")),
    **dict.fromkeys(("1110", "1111", "1112", "1121", "1313"), dead("account_disabled")),
    **dict.fromkeys(("1113", "1309"), dead("insufficient_quota")),
    **dict.fromkeys(("1220", "1311"), dead("permission_denied", scope="target")),
    **dict.fromkeys(("1211", "1212"), dead("model_not_found", scope="target")),
    **dict.fromkeys(("1213", "1214", "1215"), wrong_request()),
    "1261": wrong_request("context_length_exceeded"),
    "1301": wrong_request("content_policy"),
    **dict.fromkeys(("1302", "1303"), limited()),
    **dict.fromkeys(("1304", "1308", "1310"), limited("quota_window", retryable=False)),
    "1305": limited("capacity"),
    **dict.fromkeys(("1230", "1234"), transient("server_error")),
}
_FIELDS: Final = {"code", "message"}


def by_message(evidence: Evidence) -> Verdict | None:
    """Return the verdict on the number of the error."""
    for part in evidence.parts[:1]:
        code = part.get("code")
        if type(code) is str and part.keys() == _FIELDS and code in NUMBERS:
            evidence.matched_by = ("field", f"the number {code} of Zhipu")
            return NUMBERS[code]
    return None
