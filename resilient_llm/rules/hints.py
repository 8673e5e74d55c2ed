"""How long a provider asks to wait: every form of ``Retry-After``.

Pure functions over what was read from an error; the wall time, for dates, is an argument. A
hint is a finite number of seconds from 0 to a day. 0 is a hint ("now"); a negative number,
a word, NaN and infinity are not; a longer wait is cut to a day. The chain cuts further
where it benches and waits.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Final, cast

from resilient_llm.rules._memo import LONGEST_TEXT, memoized

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LONGEST: Final = 86_400.0
_MILLISECONDS: Final = ("retry-after-ms", "x-retry-after-ms", "x-ms-retry-after-ms")
_SECONDS: Final = ("retry-after", "x-retry-after", "x-amzn-bedrock-retry-after")
_FIELDS: Final = (
    ("retry_after_ms", 1000), ("retry_after", 1), ("retry_after_seconds", 1),
    ("retryAfter", 1), ("retryAfterSeconds", 1), ("resets_in_seconds", 1), ("estimated_time", 1),
)  # fmt: skip
_HINTS: Final = frozenset(("retryDelay", *(name for name, _ in _FIELDS)))
_REFILLED: Final = ("x-ratelimit-reset-requests", "x-ratelimit-reset-tokens")
_LONGEST_VALUE: Final = 64
_LARGEST: Final = 1e300  # a larger whole number may not fit a float
# A number above this is a moment, not a duration: seconds since 1970 in the year 2001.
_EPOCH: Final = 1e9

_UNIT: Final = {
    "ms": 0.001,
    "us": 1e-6,
    "µs": 1e-6,
    "ns": 1e-9,
    "s": 1.0,
    "m": 60.0,
    "h": 3_600.0,
    "d": 86_400.0,
}  # Go writes microseconds with this sign
_GO: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|s|m|h|d)")
_WORDS: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)[\s,]*(?:and\s+)?")
_ASKS: Final = re.compile(
    r"\b(?:again|retry|retry your request|retry-after|wait|resets?|available)"
    r"(?:\s+(?:again|after|in|for|at least|about|approximately)){0,4}[\s:~]{0,8}(?=\d)"
)
_SPELLED: Final = re.compile(
    r"(?:m(?:illi)?s(?:ec(?:ond)?s?)?|s(?:ec(?:ond)?s?)?|m(?:in(?:ute)?s?)?|h(?:(?:ou)?rs?)?"
    r"|d(?:ays?)?)?"
)


def seconds(value: object) -> float | None:
    """Return a duration in seconds: finite, not negative, at most a day."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        return None  # NaN is not in this range either
    return float(min(value, LONGEST))


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def moment_or_seconds(value: str, now: float) -> float | None:
    """Return the wait that one header's value means, in any form.

    Seconds (``1.5``), a Go duration (``6m0s``, ``812ms``), an HTTP date, RFC 3339, or
    seconds or milliseconds since 1970.

    Args:
        value: The header's value.
        now: Seconds since 1970.
    """
    value = value[: 2 * _LONGEST_VALUE].strip()
    if not value or len(value) > _LONGEST_VALUE:
        return None
    try:
        number = float(value)
    except ValueError:
        return _go(value) if value[0].isdigit() and value[-1] in "smhd" else _date(value, now)
    if number >= _EPOCH:
        return _until(number / 1000 if number >= _EPOCH * 1000 else number, now)
    return seconds(number)


def from_headers(headers: Mapping[str, str], now: float) -> float | None:
    """Return the wait in ``Retry-After`` or a similar header.

    Args:
        headers: ``{lower-cased name: value}``.
        now: Seconds since 1970.
    """
    for name in _MILLISECONDS:
        hint = _number(headers[name]) if name in headers else None
        if hint is not None:
            return _until(hint / 1000, now) if hint >= _EPOCH * 1000 else seconds(hint / 1000)
    for name in _SECONDS:
        hint = moment_or_seconds(headers[name], now) if name in headers else None
        if hint is not None:
            return hint
    return None


def from_buckets(headers: Mapping[str, str], now: float, *, is_named: bool = False) -> float | None:
    """Return when the exhausted limits are reset; the longest wait, since all limits apply.

    For rate limits only: with any other error these headers are not about the error.

    Args:
        headers: ``{lower-cased name: value}``.
        now: Seconds since 1970.
        is_named: Whether the answer names its wait. Then the resets of buckets that are refilled
            evenly do not count: they say when these are full, which is later than a call fits.
    """
    exhausted: list[float] = []
    unclear: list[float] = []
    for name, value in headers.items():
        if (
            name == "ratelimit"
        ):  # IETF draft: "default";r=0;t=30, before: limit=10, remaining=0, reset=30
            match = re.search(r"\b(?:t|reset)=(\d+)", value)
            hint = (
                seconds(match[1]) if match and re.search(r"\b(?:r|remaining)=0\b", value) else None
            )
            remaining: str | None = "0"
        elif is_named and _is_refilled(name, value):
            continue
        elif "reset" in name and ("ratelimit" in name or "rate-limit" in name):
            hint = moment_or_seconds(value, now)
            remaining = headers.get(name.replace("reset", "remaining"))
        else:
            continue
        if hint is None:
            continue
        if remaining is None:
            unclear.append(hint)
        elif remaining.strip() in ("0", "0.0"):
            exhausted.append(hint)
    # Without remaining numbers, a single limit is the one that is exhausted.
    return max(exhausted) if exhausted else unclear[0] if len(unclear) == 1 else None


def _is_refilled(name: str, value: str) -> bool:
    """Return whether a header tells when a bucket is full; keep in sync with limits/dialects.py.

    Of OpenAI and Groq, which write a duration with its unit (Azure and others write the seconds of
    a window under the same names), and of Anthropic.
    """
    if name.startswith("anthropic-ratelimit-"):
        return name.endswith("-reset")
    return name in _REFILLED and value.strip()[-1:].isalpha() and _go(value.strip()) is not None


def from_parts(parts: Iterable[Mapping[str, Any]]) -> float | None:
    """Return the hint among the fields of a body, such as Google's ``retryDelay``."""
    for part in parts:
        if _HINTS.isdisjoint(part):
            continue
        delay = part.get("retryDelay")
        if isinstance(delay, str):
            hint = _go(delay)
            if hint is not None:
                return hint
        if isinstance(delay, dict):
            return _duration(cast("dict[str, Any]", delay))
        for name, unit in _FIELDS:
            value = part.get(name)
            if unit != 1 and isinstance(value, (int, float)) and not isinstance(value, bool):
                value = value / unit if -_LARGEST < value < _LARGEST else None
            hint = seconds(value)
            if hint is not None:
                return hint
    return None


def from_text(text: str) -> float | None:
    """Return the hint in a lower-cased sentence, such as "try again in 7m12s"."""
    return _wait_memoized(text) if len(text) <= LONGEST_TEXT else _wait_in(text)


def _wait_in(text: str) -> float | None:
    if not (
        "again" in text
        or "retry" in text
        or "wait" in text
        or "reset" in text
        or "available" in text
    ):
        return None
    match = _ASKS.search(text)
    return spelled_out(text[match.end() : match.end() + 64]) if match else None


_wait_memoized: Final = memoized(_wait_in)


def spelled_out(text: str) -> float | None:
    """Return the duration with which a text begins: ``20s``, ``7m12s``, ``1 minute 30 seconds``.

    A number without a unit is in seconds; a number before another word is not a duration.
    """
    total = 0.0
    end = 0
    while (match := _WORDS.match(text, end)) is not None:
        number, word = match.groups()
        if not _SPELLED.fullmatch(word):
            break
        total += float(number) * _unit(word)
        end = match.end()
    return seconds(total) if end else None


def _unit(word: str) -> float:
    if not word:
        return 1.0
    return 0.001 if word.startswith(("ms", "mil")) else _UNIT[word[0]]


def _go(value: str) -> float | None:
    if len(value) > _LONGEST_VALUE:
        return None
    total = 0.0
    end = 0
    for match in _GO.finditer(value):
        if match.start() != end:
            return None
        total += float(match[1]) * _UNIT[match[2]]
        end = match.end()
    return seconds(total) if end and end == len(value) else None


def _date(value: str, now: float) -> float | None:
    if value[:4].isdigit():
        from datetime import UTC, datetime

        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return None
        return _until((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp(), now)
    if "," not in value and ":" not in value:
        return None
    from email.utils import parsedate_to_datetime

    try:
        return _until(parsedate_to_datetime(value).timestamp(), now)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _until(moment: float, now: float) -> float | None:
    """Return the seconds left; a moment that has passed means now."""
    return seconds(max(0.0, moment - now))


def _duration(fields: Mapping[str, Any]) -> float | None:
    """Read protobuf's Duration as JSON clients decode it."""
    whole, nanos = fields.get("seconds", 0), fields.get("nanos", 0)
    if not isinstance(nanos, int) or not 0 <= nanos < 1_000_000_000:
        return None
    found = seconds(whole)
    return None if found is None else seconds(found + nanos / 1e9)
