"""Reading how long to wait, in every dialect."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from resilient_llm.rules import hints

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC).timestamp()


def http_date(after: float) -> str:
    return format_datetime(datetime.fromtimestamp(NOW + after, UTC), usegmt=True)


def rfc3339(after: float) -> str:
    return datetime.fromtimestamp(NOW + after, UTC).isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("20", 20.0),
        ("1.5", 1.5),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("6m0s", 360.0),
        ("1h0m0s", 3600.0),
        ("812ms", 0.812),
        ("4.77s", 4.77),
        ("1m26.4s", 86.4),
        (http_date(30), 30.0),
        (http_date(-30), 0.0),
        (rfc3339(45), 45.0),
        ("2026-11-21T13:00:05+01:00", 5.0),
        (str(int(NOW) + 90), 90.0),
        (str(int(NOW * 1000) + 90_000), 90.0),
        ("99999999", hints.LONGEST),
        ("-1", None),
        ("-6m", None),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("inf", None),
        ("1e400", None),
        ("tomorrow, maybe", None),
        ("Fri, 99 Nov 2026 99:99:99 GMT", None),
        ("6m0", None),
        ("9" * 100, None),
    ],
)
def test_trap_26_retry_after_dialects(value: str, expected: float | None) -> None:
    """Every way to write a wait is read rightly or ignored, and none is longer than a day."""
    hint = hints.from_headers({"retry-after": value}, NOW)

    assert hint == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after-ms": "-5", "retry-after": "1"}, 1.0),
        ({"x-ms-retry-after-ms": "1500"}, 1.5),
        ({}, None),
    ],
)
def test_milliseconds_are_more_exact_than_seconds(
    headers: dict[str, str], expected: float | None
) -> None:
    """A header in milliseconds wins over the one in seconds, unless it cannot be read."""
    assert hints.from_headers(headers, NOW) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (
            {
                "x-ratelimit-remaining-requests": "41",
                "x-ratelimit-reset-requests": "1h0m0s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "812ms",
            },
            0.812,
        ),
        (
            {
                "anthropic-ratelimit-requests-remaining": "49",
                "anthropic-ratelimit-requests-reset": rfc3339(2),
                "anthropic-ratelimit-input-tokens-remaining": "0",
                "anthropic-ratelimit-input-tokens-reset": rfc3339(45),
            },
            45.0,
        ),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "6m0s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "2s",
            },
            360.0,
        ),
        (
            {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOW * 1000) + 5_400_000)},
            5400.0,
        ),
        ({"x-ratelimit-reset": "6"}, 6.0),
        ({"ratelimit": '"default";r=0;t=30'}, 30.0),
        ({"ratelimit": '"default";r=7;t=30'}, None),
        ({"x-ratelimit-remaining-requests": "7", "x-ratelimit-reset-requests": "1h0m0s"}, None),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "2s"}, None),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "never"}, None),
    ],
)
def test_only_an_exhausted_bucket_says_when_to_come_back(
    headers: dict[str, str], expected: float | None
) -> None:
    """Of several buckets those that are empty count, and of these the last to be full again."""
    assert hints.from_buckets(headers, NOW) == (
        None if expected is None else pytest.approx(expected)
    )


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1m0s"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "23h59m59s"}, None),
        (
            {
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": rfc3339(60),
            },
            None,
        ),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "60"}, 60.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "60"}, 60.0),
        ({"ratelimit": '"default";r=0;t=30'}, 30.0),
    ],
)
def test_a_named_wait_counts_more_than_when_a_bucket_is_full(
    headers: dict[str, str], expected: float | None
) -> None:
    """A bucket that is refilled evenly has room before it is full; a window has not."""
    assert expected == hints.from_buckets(headers, NOW, is_named=True)
    assert hints.from_buckets(headers, NOW) is not None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Limit 3, Used 3, Requested 1. Please try again in 20s.", 20.0),
        ("on requests per day (RPD). Please try again in 7m12s. Visit https://example.com", 432.0),
        ("Please retry in 58.934310785s.", 58.934310785),
        ("Please retry after 30 seconds", 30.0),
        ("please try again after 1 seconds", 1.0),
        ("Try again in 1 minute and 30 seconds", 90.0),
        ("Please wait 2 hours before your next request", 7200.0),
        ("Your rate limit resets in ~5s.", 5.0),
        ("try again in 812ms", 0.812),
        ("retry after 12", 12.0),
        ("try again in 1h2m3.5s", 3723.5),
        ("try again later", None),
        ("retry after 3 attempts", None),
        ("You may wait 5 tokens", None),
        ("the limit is 20 requests per 60s", None),
        ("", None),
    ],
)
def test_a_wait_is_read_out_of_a_sentence(text: str, expected: float | None) -> None:
    """A sentence with a time to retry gives seconds, a number of something else nothing."""
    assert hints.from_text(text.lower()) == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"}, 34.0),
        ({"retryDelay": "7.5s"}, 7.5),
        ({"retryDelay": {"seconds": 3, "nanos": 500_000_000}}, 3.5),
        ({"retryDelay": "soon"}, None),
        ({"retry_after": 5}, 5.0),
        ({"retry_after": "5"}, 5.0),
        ({"retry_after": True}, None),
        ({"retry_after": -1}, None),
        ({"retry_after_ms": 250}, 0.25),
        ({"estimated_time": 300.9}, 300.9),
        ({"retry_after": float("nan")}, None),
        ({}, None),
    ],
)
def test_a_wait_is_read_out_of_the_body(part: dict[str, object], expected: float | None) -> None:
    """The fields of a body that name a wait are read, whatever they hold."""
    assert hints.from_parts([part]) == expected
