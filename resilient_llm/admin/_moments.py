"""A pattern for moments to come, so that the API's description says what is true of them."""

from __future__ import annotations

import calendar
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

# A 29th of February, which few years have, does not fit; the API itself takes it.
# Digits are written out: to Python, which checks such patterns, others than 0 to 9 are digits too.
_DAYS_OF_ANY_YEAR: Final = (
    "(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31"
)
_HOUR: Final = "(?:[01][0-9]|2[0-3])"
_MINUTE: Final = "[0-5][0-9]"


def later_than(moment: datetime) -> str:
    """Return a pattern of RFC 3339 in UTC for the minutes after a moment, which is in UTC."""
    year, month, day = f"{moment.year:04d}", f"{moment.month:02d}", f"{moment.day:02d}"
    hour = f"{moment.hour:02d}"
    days = calendar.monthrange(moment.year, moment.month)[1]
    months = [
        f"{each:02d}-{_any_of(range(1, calendar.monthrange(moment.year, each)[1] + 1))}"
        for each in range(moment.month + 1, 13)
    ]
    later = [
        f"{_later_year(year)}-(?:{_DAYS_OF_ANY_YEAR})T{_HOUR}:{_MINUTE}",
        *(f"{year}-{each}T{_HOUR}:{_MINUTE}" for each in months),
    ]
    if moment.day < days:
        later.append(f"{year}-{month}-{_any_of(range(moment.day + 1, days + 1))}T{_HOUR}:{_MINUTE}")
    if moment.hour < 23:
        later.append(f"{year}-{month}-{day}T{_any_of(range(moment.hour + 1, 24))}:{_MINUTE}")
    if moment.minute < 59:
        later.append(f"{year}-{month}-{day}T{hour}:{_any_of(range(moment.minute + 1, 60))}")
    return rf"^(?:{'|'.join(later)}):{_MINUTE}(?:\.[0-9]{{1,6}})?Z$"


def _any_of(numbers: Iterable[int]) -> str:
    return f"(?:{'|'.join(f'{each:02d}' for each in numbers)})"


def _later_year(year: str) -> str:
    """Return a pattern of the years after one, by the first digit that is larger."""
    parts = [
        f"{year[:place]}[{int(digit) + 1}-9]" + "[0-9]" * (3 - place)
        for place, digit in enumerate(year)
        if digit != "9"
    ]
    return f"(?:{'|'.join(parts)})"
