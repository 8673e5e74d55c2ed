"""Asks the host of a target for any answer at all, and reads its clock."""

from __future__ import annotations

import email.utils
import time
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from typing import TYPE_CHECKING, Final, NamedTuple

from resilient_llm import __version__
from resilient_llm.cli._output import shown
from resilient_llm.cli._remote import NO_ANSWER, UNREACHABLE, opener, origin_of, why_unreachable
from resilient_llm.cli._within import within

if TYPE_CHECKING:
    import http.client
    from collections.abc import Iterable

SLOWEST: Final = 5.0
"""Seconds within which a host must resolve and answer."""
MOST_SKEW: Final = 60.0
"""Seconds that the clock of this machine may differ from that of a host."""
_AT_ONCE: Final = 16


class HostAnswer(NamedTuple):
    """What a host answered.

    Attributes:
        host: Its name and port.
        status: The HTTP status, or None without an answer.
        seconds: How long it took.
        why_not: Why there is no answer; empty if there is one.
        skew: Seconds that this machine's clock is ahead of its ``Date``; None if it sent none.
    """

    host: str
    status: int | None
    seconds: float
    why_not: str
    skew: float | None


def ask_all(urls: Iterable[str]) -> dict[str, HostAnswer]:
    """Return the answer of each URL's host; each host is asked once, without a key."""
    origins = {url: origin_of(url) for url in urls}
    different = sorted(set(origins.values()))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = dict(zip(different, pool.map(_ask, different), strict=True))
    return {url: answers[origin] for url, origin in origins.items()}


def _ask(origin: str) -> HostAnswer:
    host = shown(urllib.parse.urlsplit(origin).netloc)
    if not origin:
        return HostAnswer(host, None, 0.0, "its URL is not one of http or https", None)

    def answered() -> tuple[int, http.client.HTTPMessage, float]:
        request = urllib.request.Request(origin, method="GET")
        request.add_header("User-Agent", f"resilient-llm/{__version__}")
        with opener(urllib.parse.urlsplit(origin).hostname or "").open(
            request, timeout=SLOWEST
        ) as response:
            return response.status, response.headers, time.time()

    began = time.monotonic()
    try:
        status, headers, now = within(SLOWEST, answered)
    except (*UNREACHABLE, ValueError) as failure:
        why = why_unreachable(failure)
        if why == NO_ANSWER:
            why = f"no answer within {SLOWEST:g} s"
        return HostAnswer(host, None, time.monotonic() - began, why, None)
    return HostAnswer(host, status, time.monotonic() - began, "", _skew(headers, now))


def _skew(headers: http.client.HTTPMessage, now: float) -> float | None:
    try:
        date = email.utils.parsedate_to_datetime(headers["date"])
    except (TypeError, ValueError):
        return None
    if date.tzinfo is None:  # written as -0000
        date = date.replace(tzinfo=UTC)
    age = headers.get("age", "")  # of an answer that a cache has kept
    return now - date.timestamp() - (int(age[:9]) if age.isascii() and age.isdigit() else 0)
