"""What an HTTP status means if neither a code nor a sentence is more specific."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from resilient_llm._values.built_in import cause_of
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.verdict import Verdict
from resilient_llm.rules._bodies import quoted_body
from resilient_llm.rules._class_info import package_of
from resilient_llm.rules._verdicts import (
    BAD_BODY,
    SERVER_ERROR,
    UNKNOWN_CODE,
    dead,
    limited,
    stamped,
    transient,
    wrong_request,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resilient_llm.rules._evidence import Evidence

_STATUSES: Final[dict[int, Verdict]] = {
    400: wrong_request(),
    401: dead("invalid_credentials"),
    402: dead("insufficient_quota"),
    403: dead("permission_denied", scope="target"),
    # A path or a model that does not exist. A stored item or file that does not exist has a
    # sentence or a code.
    404: dead("model_not_found", scope="target"),
    405: dead("endpoint_not_found", scope="target"),
    407: dead("invalid_credentials"),
    408: transient("timeout"),
    409: transient("conflict"),
    410: dead("model_not_found", scope="target"),
    413: wrong_request("too_large"),
    414: wrong_request("too_large"),
    # The connection, or something the provider depends on, was at fault; not the request.
    421: transient("network"),
    423: transient("conflict"),
    424: transient("server_error"),
    425: transient("too_early"),
    429: limited(),
    431: wrong_request("too_large"),
    451: dead("region_unsupported"),
    498: dead("invalid_credentials"),  # "invalid token"; groq sends a code with it
    499: transient("server_error"),
    501: dead("endpoint_not_found", scope="target"),
    502: transient("gateway"),
    503: transient("overloaded"),
    504: transient("gateway"),
    529: transient("overloaded"),
    598: transient("timeout"),
    599: transient("timeout"),
}
_GATEWAY: Final = transient("gateway")  # 52x and 530: a proxy in front, mostly Cloudflare
_NO_ENDPOINT: Final = dead("endpoint_not_found", scope="target")

BY_STATUS: Final[dict[int, Verdict]] = {}


def _verdict_of(status: int) -> Verdict:
    known = _STATUSES.get(status)
    if known is not None:
        return stamped(known, status, None)
    if status >= 500:
        return stamped(_GATEWAY if 520 <= status <= 530 else SERVER_ERROR, status, None)
    return stamped(_STATUSES[400] if status >= 400 else _NO_ENDPOINT, status, None)


for _status in range(300, 600):
    BY_STATUS[_status] = _verdict_of(_status)


def by_status(evidence: Evidence) -> Verdict | None:
    """Return the verdict on the status of a failure; None without one."""
    status = evidence.failed_status
    if status is None:
        return None
    if status < 500 and status not in _PASSING and _is_unsigned(evidence):
        evidence.matched_by = ("status without an answer", status)
        # What it was raised from says more.
        return None if cause_of(evidence.error) else stamped(UNSIGNED, status, None)
    if (
        status == 404
        and not evidence.codes
        and evidence.text.strip() in ("", "not found", "404 page not found")
    ):
        evidence.matched_by = ("status without a word", status)
        return stamped(_NO_ENDPOINT, status, None)
    evidence.matched_by = ("status", status)
    return BY_STATUS[status]


# These pass by themselves, also if the application's own server sent them.
_PASSING: Final = frozenset((408, 409, 425, 429))
UNSIGNED: Final = Verdict(ErrorKind.UNKNOWN)
_OF_AN_ANSWER: Final = ("response", "request", "headers")


def _is_unsigned(evidence: Evidence) -> bool:
    """Return whether nothing shows that a provider sent the status.

    It is the number of a class of no known client, without an answer or a request, without a
    body, headers or the words of a client. The application's own server may mean to send it.
    """
    if evidence.error_class.is_client or evidence.parts or evidence.body:
        return False
    attributes = evidence.attributes
    if any(attributes.get(name) is not None for name in _OF_AN_ANSWER):
        return False
    return not _quotes_an_answer(evidence.text)


def _quotes_an_answer(text: str) -> bool:
    """Return whether a text has the words by which clients quote what they were answered."""
    return _OF_CLIENTS.match(text) is not None or ("{" in text and quoted_body(text) is not None)


# openai, anthropic and the others of that generator; urllib; requests and httpx
_OF_CLIENTS: Final = re.compile(
    r"error code: \d{3}\b|http error \d{3}:|(client|server) error '?\d{3}\b|"
    r"\d{3} (client|server) error"
)


def by_success(evidence: Evidence) -> Verdict | None:
    """Return that an answer could not be read, for an error that a client raised on a success."""
    status = evidence.status
    evidence.matched_by = ("status of a success", status)
    if status is None or status >= 300:
        return None
    return UNKNOWN_CODE if evidence.parts and evidence.codes else BAD_BODY


# urllib3 stops retrying with these words and keeps no response.
_LONGEST_WORDS: Final = 1_000
_TOO_MANY: Final = re.compile(r"too many (\d{3}) error responses")
GAVE_UP: Final = frozenset(("urllib3.MaxRetryError", "requests.RetryError"))


def by_retries(evidence: Evidence) -> Verdict | None:
    """Return the verdict on the status with which urllib3's own retries ended."""
    for inner in evidence.inner():
        words = inner.args[0] if inner.args else None
        if (
            package_of(type(inner)) == "urllib3"
            and isinstance(words, str)
            and (match := _TOO_MANY.search(words[:_LONGEST_WORDS]))
        ):
            evidence.matched_by = ("status", int(match[1]))
            return BY_STATUS.get(int(match[1]))
    return None


def asks_to_retry(waits: Mapping[str, str]) -> bool | None:
    """Return the value of ``x-should-retry``, which openai and anthropic send to their SDKs."""
    value = waits.get("x-should-retry", "").lower()
    return True if value == "true" else False if value == "false" else None
