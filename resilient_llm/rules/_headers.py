"""Which headers of a response are read: those that name a wait, and those about a rate limit."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, cast

from resilient_llm._values.class_cache import ClassCache
from resilient_llm.rules._class_info import package_of
from resilient_llm.rules._foreign import attribute

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NO_HEADERS: Final[Mapping[str, str]] = {}
_LONGEST: Final = 128
_MOST_HEADERS: Final = 256
_LARGEST_NUMBER: Final = 10**18
_WAITS: Final = frozenset(
    """retry-after retry-after-ms x-retry-after x-retry-after-ms x-ms-retry-after-ms
    x-should-retry""".split()
)
_RAW_WAITS: Final = frozenset(name.encode() for name in _WAITS)
_RATE: Final = re.compile("ratelimit|rate-limit").search
_RAW_RATE: Final = re.compile(b"ratelimit|rate-limit").search


def read_headers(headers: Any, waits: dict[str, str], rates: dict[str, str]) -> None:
    """Add ``{lower-cased name: value}`` of the headers about waits and about rate limits.

    Args:
        headers: The headers in any of the forms that clients use, or None.
        waits: Receives headers that name a wait or forbid a retry.
        rates: Receives headers about how much of a rate limit is used.
    """
    try:
        raw = _raw_pairs(headers)
        if raw is not None:  # decoding the few that matter is much cheaper than items()
            for name, value in raw:
                if name in _RAW_WAITS:
                    waits[name.decode()] = _value(value)
                # ``in`` takes five times as long as ``find``
                elif name.find(b"limit") >= 0 and _RAW_RATE(name):
                    rates[name.decode("latin-1")] = _value(value)
            return
        for name, value in _pairs(headers):
            low = _name(name)
            if low in _WAITS:
                waits[low] = _value(value)
            elif "limit" in low and _RATE(low):
                rates[low] = _value(value)
    except Exception:  # noqa: BLE001, S110  # headers of an unknown type
        pass


def _is_httpx(cls: type) -> bool:
    return package_of(cls) == "httpx" and cls.__name__ == "Headers"


_of_httpx: Final = ClassCache(_is_httpx)


def names_no_wait(headers: Any) -> bool:
    """Return whether it is sure that none of the headers names a wait.

    Only for httpx, which keeps the names lower-cased: reading those is cheap.
    """
    try:
        return _of_httpx[type(headers)] and _RAW_WAITS.isdisjoint(
            [low for _, low, _ in headers._list[:_MOST_HEADERS]]
        )
    except Exception:  # noqa: BLE001  # another release, or a class that only says it is httpx
        return False


def _raw_pairs(headers: object) -> Iterable[tuple[bytes, object]] | None:
    """Return lower-cased names and values as bytes, as httpx has them; None of other headers."""
    raw = attribute(headers, "raw")
    if type(raw) is not list:
        return None
    return (
        (name.lower(), value)
        for name, value in cast("list[tuple[Any, object]]", raw)[:_MOST_HEADERS]
        if type(name) is bytes and len(name) <= _LONGEST
    )


def _pairs(headers: Any) -> Any:
    if headers is None:
        return ()
    return islice(headers.items() if hasattr(headers, "items") else headers, _MOST_HEADERS)


def _name(name: object) -> str:
    """Return a header's name, lower-cased; some clients have bytes."""
    if type(name) is bytes:
        return name[:_LONGEST].decode("latin-1").lower()
    return name[:_LONGEST].lower() if isinstance(name, str) else ""


def _value(value: object) -> str:
    """Return a header's value; empty if it is neither text nor bytes nor a number."""
    if type(value) is bytes:
        return value[:_LONGEST].decode("latin-1")
    if type(value) is int:
        return str(value) if abs(value) < _LARGEST_NUMBER else ""
    return str(value)[:_LONGEST] if type(value) is str or type(value) is float else ""
