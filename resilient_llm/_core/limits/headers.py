"""Reads what providers report of their rate limits from the headers of one answer.

Pure: the time is passed in. Headers are foreign: one that cannot be read counts as absent, as does
a figure that is negative or not finite. Which headers there are is the matter of `dialects`.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from resilient_llm._core.limits.dialects import BY_HEADER, POLICY, STRUCTURED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from resilient_llm._core.limits.dialects import Counts, Kind, Row, Scope

_MOST_HEADERS: Final = 256
_MOST_POLICIES: Final = 32
_LONGEST_VALUE: Final = 512
_LONGEST_FIGURE: Final = 64
_NUMBER: Final = re.compile(r"[0-9]{1,18}(?:\.[0-9]{1,18})?")
_EPOCH: Final = 1e9
"""A reset above this is a moment, and no duration: seconds since 1970 in the year 2001."""
_EPOCH_MS: Final = 1e12
# As Go writes one.
_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(h|ms|m|s|us|µs|ns|d)")
_SECONDS: Final = {
    "d": 86_400.0,
    "h": 3_600.0,
    "m": 60.0,
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "µs": 1e-6,
    "ns": 1e-9,
}
_MEMBER: Final = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*")+')
_PARAMETER: Final = re.compile(r'(?:[^";]|"(?:[^"\\]|\\.)*")+')


class Figure(NamedTuple):
    """One figure that an answer reported.

    Attributes:
        name: What distinguishes it from the other figures of its key; a header's name.
        counts: What it counts.
        remaining: What was left, 0 or more.
        limit: What there is when nothing was used, or None if that was not reported.
        resets_at: When it is reset, monotonic seconds; None if that is not known.
        kind: How it comes back.
        scope: Whether it is the target's or its provider's.
        dialect: Of the table.
        rounding: Seconds by which the reset may come later, since it was written in whole seconds.
    """

    name: str
    counts: Counts
    remaining: float
    limit: float | None
    resets_at: float | None
    kind: Kind
    scope: Scope
    dialect: str
    rounding: float = 0.0


def read_figures(headers: object, provider: str, *, now: float, wall: float) -> list[Figure]:
    """Return the figures that an answer reports, in no order.

    Args:
        headers: Those of httpx, a mapping, or pairs of names and values, as texts or bytes.
        provider: Name of the provider, without its account, which decides between dialects.
        now: Monotonic seconds.
        wall: Seconds since 1970, at the same time.
    """
    return figures_of(rate_headers(headers), provider, now=now, wall=wall)


def figures_of(found: Mapping[str, str], provider: str, *, now: float, wall: float) -> list[Figure]:
    """Return the same of what `rate_headers` has found."""
    figures = [
        figure
        for name in found
        if name in BY_HEADER
        if (figure := _figure(found, BY_HEADER[name], provider, now, wall)) is not None
    ]
    if STRUCTURED in found:
        figures += _structured(found[STRUCTURED], found.get(POLICY, ""), now)
    return figures


def rate_headers(headers: object) -> dict[str, str]:
    """Return ``{lower-cased name: value}`` of the headers about rate limits."""
    found: dict[str, str] = {}
    try:
        for name, value in _pairs(headers):
            if type(name) is bytes and b"limit" not in name.lower():
                continue  # most of them, and decoding takes longer
            low = _text(name).lower()
            if "ratelimit" in low or "tokenlimit" in low:
                read = _text(value)
                # A field that comes twice is one list.
                found[low] = f"{found[low]}, {read}" if low in found else read
    except Exception:  # noqa: BLE001, S110  # headers of an unknown type
        pass
    return found


def _pairs(headers: Any) -> Iterable[tuple[object, object]]:
    if headers is None:
        return ()
    raw = getattr(headers, "raw", None)
    if type(raw) is list:  # httpx, whose items() decodes all of them
        pairs = cast("Iterable[tuple[object, object]]", raw)
    else:
        pairs = headers.items() if hasattr(headers, "items") else headers
    return islice(pairs, _MOST_HEADERS)


def _text(value: object) -> str:
    """Return a text; empty if it is not one or is too long, since a part would be misread."""
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if abs(value) < 10**18 else ""
    return value if isinstance(value, str) and len(value) <= _LONGEST_VALUE else ""


def _figure(
    found: Mapping[str, str], rows: tuple[Row, ...], provider: str, now: float, wall: float
) -> Figure | None:
    remaining = _number(found[rows[0].remaining])
    if remaining is None:
        return None
    row, reset = _reset(found, rows, provider, wall)
    at = None if reset is None else now + reset
    rounding = _rounding(found.get(row.reset or "", ""), row.unit)
    limit = _number(re.split("[,;]", found.get(row.limit, ""), maxsplit=1)[0])
    return Figure(
        row.remaining,
        row.counts,
        remaining,
        limit,
        at,
        row.kind,
        row.scope,
        row.dialect,
        rounding,
    )


def _reset(
    found: Mapping[str, str], rows: tuple[Row, ...], provider: str, wall: float
) -> tuple[Row, float | None]:
    """Return the row that fits best, and the seconds until its reset, if it reports one."""
    own_first = sorted(rows, key=lambda row: row.dialect != provider)
    for row in own_first:
        if row.reset is not None and row.reset in found:
            seconds = _wait(found[row.reset], row.unit, wall)
            if seconds is not None:
                return row, seconds
    for row in own_first:
        if row.period is not None:
            return row, row.period
    return own_first[0], None


def _number(value: str) -> float | None:
    """Return a number that is finite and not negative, or None."""
    value = value.strip()
    return float(value) if _NUMBER.fullmatch(value) else None


def _wait(value: str, unit: str, wall: float) -> float | None:
    """Return the seconds until a reset, 0 if it has passed; None if it cannot be read."""
    value = value.strip()
    if len(value) > _LONGEST_FIGURE:
        return None
    if unit == "duration":
        return _duration(value)
    if unit == "rfc3339":
        return _until(value, wall)
    number = _number(value)
    if number is None or (number >= _EPOCH) != (unit == "epoch"):
        return None
    if unit == "seconds":
        return number
    return max(0.0, (number / 1000 if number >= _EPOCH_MS else number) - wall)


def _rounding(value: str, unit: str) -> float:
    """Return by how many seconds a reset may be too early, as it was written without a fraction."""
    if unit == "duration" or not value or "." in value:
        return 0.0
    number = _number(value)
    return 0.0 if number is not None and number >= _EPOCH_MS else 1.0


def _duration(value: str) -> float | None:
    total, end = 0.0, 0
    for match in _DURATION.finditer(value):
        if match.start() != end:
            return None
        total += float(match[1]) * _SECONDS[match[2]]
        end = match.end()
    return total if end and end == len(value) else None


def _until(value: str, wall: float) -> float | None:
    from datetime import UTC, datetime

    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, moment.timestamp() - wall)
    except (ValueError, OverflowError):
        return None


def _structured(value: str, policies: str, now: float) -> list[Figure]:
    """Read the ``RateLimit`` field of the later drafts.

    A list of policies since the eighth, ``"day";r=50;t=30``, and one dictionary in the seventh,
    ``limit=100, remaining=50, reset=30``.
    """
    limits = dict(_members(policies))
    figures: list[Figure] = []
    for name, reported in _members(value):
        policy = limits.get(name, {})
        if policy.get("qu", "requests").strip('"') != "requests":
            continue
        remaining, reset = _number(reported.get("r", "")), _number(reported.get("t", ""))
        if remaining is not None:
            figures.append(_of_ietf(name, remaining, _number(policy.get("q", "")), reset, now))
    if not figures:
        plain = _parameters(value.split(","))
        remaining, reset = _number(plain.get("remaining", "")), _number(plain.get("reset", ""))
        if remaining is not None:
            figures.append(_of_ietf("", remaining, _number(plain.get("limit", "")), reset, now))
    return figures


def _of_ietf(
    name: str, remaining: float, limit: float | None, reset: float | None, now: float
) -> Figure:
    return Figure(
        f"{STRUCTURED} {name}".strip(),
        "requests",
        remaining,
        limit,
        None if reset is None else now + reset,
        "window",
        "provider",
        "ietf-structured",
        1.0,
    )


def _members(value: str) -> Iterable[tuple[str, dict[str, str]]]:
    """Give the members of a list of structured fields (RFC 9651), each with its parameters."""
    for member in islice(_MEMBER.findall(value), _MOST_POLICIES):
        name, *parameters = _PARAMETER.findall(member)
        yield name.strip().strip('"'), _parameters(parameters)


def _parameters(parts: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in parts:
        name, _, value = part.partition("=")
        found[name.strip()] = value.strip()
    return found
