"""The calendar of budgets: hours, days and months, where clocks are changed and dates are skipped."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient_llm._core.spending.periods import Period, at, period_at
from resilient_llm._values.money import Period as PeriodName
from resilient_llm._values.money import zone_named


def period(per: PeriodName, zone: str, moment: str) -> tuple[str, str]:
    """Return start and end of the period that a moment of UTC is in, in UTC."""
    seconds = datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp()
    found = period_at(per, zone_named(zone), seconds)
    return _text(found.starts_at), _text(found.ends_at)


def _text(moment: datetime) -> str:
    assert moment.tzinfo is UTC
    return moment.strftime("%Y-%m-%d %H:%M:%S").removesuffix(":00")


@pytest.mark.parametrize(
    ("zone", "moment", "start", "end"),
    [
        ("UTC", "2024-02-29 12:00", "2024-02-29 00:00", "2024-03-01 00:00"),
        ("UTC", "2024-02-29 00:00", "2024-02-29 00:00", "2024-03-01 00:00"),
        ("UTC", "2024-12-31 23:59:59", "2024-12-31 00:00", "2025-01-01 00:00"),
        # 23 and 25 hours.
        ("Europe/Berlin", "2026-03-29 12:00", "2026-03-28 23:00", "2026-03-29 22:00"),
        ("Europe/Berlin", "2026-10-25 12:00", "2026-10-24 22:00", "2026-10-25 23:00"),
        # 22 hours: clocks go forward by two at 01:00.
        ("Antarctica/Troll", "2026-03-29 12:00", "2026-03-29 00:00", "2026-03-29 22:00"),
        # Begins at 01:00, since 00:00 is skipped.
        ("America/Sao_Paulo", "2018-11-04 12:00", "2018-11-04 03:00", "2018-11-05 02:00"),
        ("Asia/Beirut", "2022-03-27 12:00", "2022-03-26 22:00", "2022-03-27 21:00"),
        ("Africa/Cairo", "2024-04-26 12:00", "2024-04-25 22:00", "2024-04-26 21:00"),
        # Begins at 00:30: clocks went forward at 23:30 by an hour.
        ("America/Toronto", "1919-03-31 12:00", "1919-03-31 04:30", "1919-04-01 04:00"),
        # 00:00 comes twice.
        ("America/Havana", "2026-11-01 12:00", "2026-11-01 04:00", "2026-11-02 05:00"),
        # 00:00 of the next day is put off: 23:00 comes twice.
        ("America/Sao_Paulo", "2018-02-18 02:30", "2018-02-17 02:00", "2018-02-18 03:00"),
        # Clocks went back from 00:01 to 23:01: the new day goes on although the old date is shown.
        ("America/St_Johns", "2006-10-29 02:40", "2006-10-29 02:30", "2006-10-30 03:30"),
        # Half an hour.
        ("Asia/Kolkata", "2026-11-29 18:29", "2026-11-28 18:30", "2026-11-29 18:30"),
        ("Australia/Lord_Howe", "2026-04-04 16:00", "2026-04-04 13:00", "2026-04-05 13:30"),
        # The 30th was skipped: one day ends where the other begins.
        ("Pacific/Apia", "2011-12-30 09:59:59", "2011-12-29 10:00", "2011-12-30 10:00"),
        ("Pacific/Apia", "2011-12-30 10:00", "2011-12-30 10:00", "2011-12-31 10:00"),
        # A date came twice, which is one long day.
        ("Pacific/Kwajalein", "1969-10-01 00:00", "1969-09-29 13:00", "1969-10-01 12:00"),
        ("Pacific/Kwajalein", "1993-08-21 00:00", "1993-08-20 12:00", "1993-08-21 12:00"),
        # Offsets of local mean time have seconds.
        ("Asia/Manila", "1844-12-30 20:00", "1844-12-30 15:56:08", "1844-12-31 15:56:08"),
    ],
    ids=lambda value: value.replace(" ", "T"),
)
def test_a_day_begins_with_its_date(zone: str, moment: str, start: str, end: str) -> None:
    """A day begins at the first moment of its date, and ends where the next one begins."""
    assert (start, end) == period("day", zone, moment)


@pytest.mark.parametrize(
    ("zone", "moment", "start", "end"),
    [
        ("UTC", "2026-01-31 23:59:59", "2026-01-01 00:00", "2026-02-01 00:00"),
        ("UTC", "2024-02-29 23:59:59", "2024-02-01 00:00", "2024-03-01 00:00"),
        ("UTC", "2026-12-31 23:59:59", "2026-12-01 00:00", "2027-01-01 00:00"),
        ("Europe/Berlin", "2026-03-31 22:00", "2026-03-31 22:00", "2026-04-30 22:00"),
        ("America/New_York", "2026-11-01 03:59:59", "2026-10-01 04:00", "2026-11-01 04:00"),
        ("Pacific/Apia", "2011-12-30 12:00", "2011-12-01 10:00", "2011-12-31 10:00"),
    ],
    ids=lambda value: value.replace(" ", "T"),
)
def test_a_month_begins_with_its_first_day(zone: str, moment: str, start: str, end: str) -> None:
    """Months have all their days, leap days and skipped ones."""
    assert (start, end) == period("month", zone, moment)


def test_hours_are_those_of_utc() -> None:
    """The zone does not matter for an hour, also where its offset is half of one."""
    assert ("2026-11-29 18:00", "2026-11-29 19:00") == period(
        "hour", "Asia/Kolkata", "2026-11-29 18:59:59"
    )
    assert ("1969-12-31 23:00", "1970-01-01 00:00") == period("hour", "UTC", "1969-12-31 23:59:59")


ZONES = (
    "Europe/Berlin",
    "America/Sao_Paulo",
    "Pacific/Apia",
    "Australia/Lord_Howe",
    "Africa/Cairo",
)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["hour", "day", "month"]),
    st.sampled_from(ZONES),
    st.integers(-1_000_000_000, 3_000_000_000),
)
def test_periods_follow_each_other(per: PeriodName, name: str, second: int) -> None:
    """Each moment is in one period, which is the same for all of its moments; the next one adjoins."""
    zone = ZoneInfo(name)

    found = period_at(per, zone, second)

    assert found.start <= second < found.end
    assert found == period_at(per, zone, found.start) == period_at(per, zone, found.end - 1)
    assert found == period_at(per, zone, found.end - 0.001)
    assert found.end == period_at(per, zone, found.end).start
    assert found.start == period_at(per, zone, found.start - 1).end


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ZONES), st.integers(-1_000_000_000, 3_000_000_000))
def test_a_day_shows_its_date(name: str, second: int) -> None:
    """What a zone shows a second before a day begins is an earlier date."""
    zone = ZoneInfo(name)

    start = period_at("day", zone, second).start

    assert at(start - 1).astimezone(zone).date() < at(start).astimezone(zone).date()


def test_a_period_is_shown_in_utc() -> None:
    """What users see are aware datetimes of UTC."""
    shown = Period(0, 3600)

    assert datetime(1970, 1, 1, tzinfo=UTC) == shown.starts_at
    assert datetime(1970, 1, 1, 1, tzinfo=UTC) == shown.ends_at
