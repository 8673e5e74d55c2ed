"""The calendar of budgets: which hour, day or month is in force at a moment, and when it ends.

Hours are those of UTC. A day of a time zone begins at the first moment of its date, which is not
always midnight: where clocks are put forward at 00:00 it is 01:00, a date that a zone skipped has
no day, and one that a zone lived through twice has one day of about 48 hours. Days follow each
other without gap or overlap, so every moment is in exactly one of them, and so for months.

`zoneinfo` tells the offset of a zone at a moment, but not when it changes. So the first moment of
a date is looked for in the hours in which any zone may begin it; this takes less than a
millisecond, and happens once in a period.

Knows no clock: moments are passed in, in seconds since 1970.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import tzinfo

    from resilient_llm._values.money import Period as PeriodName

_HOUR: Final = 3600
_DAY: Final = 86_400
_FARTHEST: Final = 17 * _HOUR
"""Seconds that a zone may be away from UTC: Manila was 15:56 behind it until 1844."""
_ONE_DAY: Final = timedelta(days=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def at(moment: float) -> datetime:
    """Return a moment, given in seconds since 1970, in UTC."""
    # datetime.fromtimestamp() takes no negative numbers on Windows.
    return _EPOCH + timedelta(seconds=moment)


class Period(NamedTuple):
    """One hour, day or month.

    Attributes:
        start: Its first moment, in seconds since 1970.
        end: The first moment of the next one.
    """

    start: int
    end: int

    @property
    def starts_at(self) -> datetime:
        """Its first moment, in UTC."""
        return at(self.start)

    @property
    def ends_at(self) -> datetime:
        """The first moment of the next one, in UTC."""
        return at(self.end)


def period_at(per: PeriodName, zone: tzinfo, moment: float) -> Period:
    """Return the period that a moment is in.

    Args:
        per: ``"hour"``, ``"day"`` or ``"month"``.
        zone: Where days and months begin; not asked for hours.
        moment: Seconds since 1970.
    """
    second = int(moment // 1)
    if per == "hour":
        start = second - second % _HOUR
        return Period(start, start + _HOUR)
    is_month = per == "month"
    # Where clocks were put back over midnight, the next date has begun although the present one
    # is shown again: see the loop.
    today = at(second).astimezone(zone).date()
    first = today.replace(day=1) if is_month else today
    start = _start(first, zone)
    following = _next(first, is_month=is_month)
    end = _start(following, zone)
    while end <= second:
        first, start = following, end
        following = _next(first, is_month=is_month)
        end = _start(following, zone)
    return Period(start, end)


def _next(first: date, *, is_month: bool) -> date:
    if not is_month:
        return first + _ONE_DAY
    return (first + 31 * _ONE_DAY).replace(day=1)


def _start(day: date, zone: tzinfo) -> int:
    """Return the first moment of a date, or of the next one that the zone did not skip."""
    while True:
        found = _first_moment(day, zone)
        if found is not None:
            return found
        day += _ONE_DAY


def _first_moment(day: date, zone: tzinfo) -> int | None:
    """Return the first moment of a date in a zone; None if the zone skipped it."""
    midnight = (day - _EPOCH.date()).days * _DAY
    found: int | None = None
    for begin, end, offset in _stretches(midnight - _FARTHEST, midnight + _FARTHEST, zone):
        # While the offset is constant, the date is shown from here, and for a day.
        shown = midnight - offset
        first = max(begin, shown)
        if first < min(end, shown + _DAY) and (found is None or first < found):
            found = first
    return found


def _stretches(begin: int, end: int, zone: tzinfo) -> Iterator[tuple[int, int, int]]:
    """Give ``(from, to, offset in seconds)`` of the times in which a zone's offset is constant."""
    offset = _offset(begin, zone)
    since = begin
    for later in range(begin + _HOUR, end + 1, _HOUR):
        new = _offset(later, zone)
        if new == offset:
            continue
        low, high = later - _HOUR, later  # no zone changes twice in an hour
        while high - low > 1:
            middle = (low + high) // 2
            if _offset(middle, zone) == offset:
                low = middle
            else:
                high = middle
        yield since, high, offset
        since, offset = high, new
    yield since, end, offset


def _offset(second: int, zone: tzinfo) -> int:
    offset = at(second).astimezone(zone).utcoffset()
    return 0 if offset is None else round(offset.total_seconds())
