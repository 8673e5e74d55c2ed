"""The rate-limit headers of each dialect, from answers that were recorded or are documented."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient_llm._core.limits.dialects import BY_HEADER, ROWS, STRUCTURED
from resilient_llm._core.limits.headers import Figure, rate_headers, read_figures

WALL = 1_785_082_930.0
"""Seconds since 1970 when the answers were read: 2026-07-26 16:22:10."""
NOW = 5_000.0

CORPUS = Path(__file__).parent.parent / "corpus"


def _read(headers: Any, provider: str = "somebody", *, wall: float = WALL) -> dict[str, Figure]:
    figures = read_figures(headers, provider, now=NOW, wall=wall)
    return {figure.name: figure for figure in figures}


def _plain(figures: dict[str, Figure]) -> dict[str, tuple[Any, ...]]:
    """Return ``{name: (counts, remaining, limit, seconds to the reset, kind, scope)}``."""
    return {
        name: (
            each.counts,
            each.remaining,
            each.limit,
            None if each.resets_at is None else round(each.resets_at - NOW, 4),
            each.kind,
            each.scope,
        )
        for name, each in figures.items()
    }


X = "x-ratelimit-remaining-"
A = "anthropic-ratelimit-"

ANSWERS: dict[str, tuple[str, str, dict[str, str], dict[str, tuple[Any, ...]]]] = {
    "openai": (
        "openai",
        "the example of the documentation",
        {
            "x-ratelimit-limit-requests": "60",
            "x-ratelimit-limit-tokens": "150000",
            "x-ratelimit-remaining-requests": "59",
            "x-ratelimit-remaining-tokens": "149984",
            "x-ratelimit-reset-requests": "1s",
            "x-ratelimit-reset-tokens": "6m0s",
        },
        {
            X + "requests": ("requests", 59, 60, 1.0, "refill", "target"),
            X + "tokens": ("tokens", 149_984, 150_000, 360.0, "refill", "target"),
        },
    ),
    "openai, of a day": (
        "openai",
        "recorded when a daily cap was spent",
        {
            "x-ratelimit-limit-requests": "10000",
            "x-ratelimit-remaining-requests": "1",
            "x-ratelimit-reset-requests": "23h59m49.524s",
        },
        {X + "requests": ("requests", 1, 10_000, 86_389.524, "refill", "target")},
    ),
    "openai, milliseconds": (
        "openai",
        "recorded, https://community.openai.com/t/1268905",
        {
            "x-ratelimit-limit-requests": "5000",
            "x-ratelimit-limit-tokens": "160000",
            "x-ratelimit-limit-tokens_usage_based": "160000",
            "x-ratelimit-remaining-requests": "4999",
            "x-ratelimit-remaining-tokens": "159976",
            "x-ratelimit-remaining-tokens_usage_based": "159976",
            "x-ratelimit-reset-requests": "12ms",
            "x-ratelimit-reset-tokens": "9ms",
            "x-ratelimit-reset-tokens_usage_based": "9ms",
        },
        {
            X + "requests": ("requests", 4_999, 5_000, 0.012, "refill", "target"),
            X + "tokens": ("tokens", 159_976, 160_000, 0.009, "refill", "target"),
        },
    ),
    "groq": (
        "groq",
        "the example of the documentation",
        {
            "x-ratelimit-limit-requests": "14400",
            "x-ratelimit-limit-tokens": "18000",
            "x-ratelimit-remaining-requests": "14370",
            "x-ratelimit-remaining-tokens": "17997",
            "x-ratelimit-reset-requests": "2m59.56s",
            "x-ratelimit-reset-tokens": "7.66s",
        },
        {
            X + "requests": ("requests", 14_370, 14_400, 179.56, "refill", "target"),
            X + "tokens": ("tokens", 17_997, 18_000, 7.66, "refill", "target"),
        },
    ),
    "azure": (
        "azure",
        "recorded from a deployment in GitHub Models, which is Azure's",
        {
            "x-ratelimit-limit-requests": "20000",
            "x-ratelimit-remaining-requests": "19999",
            "x-ratelimit-limit-tokens": "2000000",
            "x-ratelimit-remaining-tokens": "1999962",
            "x-ratelimit-renewalperiod-requests": "60",
            "x-ratelimit-renewalperiod-tokens": "60",
            "x-ratelimit-reset-requests": "3",
            "x-ratelimit-reset-tokens": "1",
            "x-ratelimit-abusepenalty-active": "False",
        },
        {
            X + "requests": ("requests", 19_999, 20_000, 3.0, "window", "target"),
            X + "tokens": ("tokens", 1_999_962, 2_000_000, 1.0, "window", "target"),
        },
    ),
    "azure, not counted": (
        "azure",
        "recorded, https://learn.microsoft.com/en-us/answers/questions/5625878",
        {
            "x-ratelimit-limit-tokens": "-1",
            "x-ratelimit-remaining-tokens": "-1",
            "x-ratelimit-reset-tokens": "0",
        },
        {},
    ),
    "xai": (
        "xai",
        "recorded; there is no reset",
        {
            "x-ratelimit-limit-requests": "480",
            "x-ratelimit-remaining-requests": "479",
            "x-ratelimit-limit-tokens": "2000000",
            "x-ratelimit-remaining-tokens": "1999000",
        },
        {
            X + "requests": ("requests", 479, 480, None, "window", "target"),
            X + "tokens": ("tokens", 1_999_000, 2_000_000, None, "window", "target"),
        },
    ),
    "anthropic": (
        "anthropic",
        "recorded",
        {
            "anthropic-ratelimit-input-tokens-limit": "80000",
            "anthropic-ratelimit-input-tokens-remaining": "79000",
            "anthropic-ratelimit-input-tokens-reset": "2026-07-26T16:22:11Z",
            "anthropic-ratelimit-output-tokens-limit": "16000",
            "anthropic-ratelimit-output-tokens-remaining": "16000",
            "anthropic-ratelimit-output-tokens-reset": "2026-07-26T16:22:10Z",
            "anthropic-ratelimit-requests-limit": "1000",
            "anthropic-ratelimit-requests-remaining": "999",
            "anthropic-ratelimit-requests-reset": "2026-07-26T16:22:08Z",
            "anthropic-ratelimit-tokens-limit": "96000",
            "anthropic-ratelimit-tokens-remaining": "95000",
            "anthropic-ratelimit-tokens-reset": "2026-07-26T18:22:11+02:00",
            "anthropic-organization-id": "36562039",
        },
        {
            A + "input-tokens-remaining": ("input", 79_000, 80_000, 1.0, "refill", "target"),
            A + "output-tokens-remaining": ("output", 16_000, 16_000, 0.0, "refill", "target"),
            A + "requests-remaining": ("requests", 999, 1_000, 0.0, "refill", "target"),
            A + "tokens-remaining": ("tokens", 95_000, 96_000, 1.0, "refill", "target"),
        },
    ),
    "mistral": (
        "mistral",
        "recorded, https://github.com/mistralai/client-ts/issues/169",
        {
            "x-ratelimit-limit-tokens-minute": "5000000",
            "x-ratelimit-remaining-tokens-minute": "4999911",
            "x-ratelimit-tokens-query-cost": "52",
            "x-ratelimit-limit-req-minute": "720",
            "x-ratelimit-remaining-req-minute": "717",
        },
        {
            X + "req-minute": ("requests", 717, 720, 60.0, "window", "target"),
            X + "tokens-minute": ("tokens", 4_999_911, 5_000_000, 60.0, "window", "target"),
        },
    ),
    "mistral, of a month": (
        "mistral",
        "recorded behind its gateway; a month has no reset",
        {
            "x-ratelimit-limit-tokens-month": "4000000",
            "x-ratelimit-remaining-tokens-month": "3950246",
        },
        {X + "tokens-month": ("tokens", 3_950_246, 4_000_000, None, "window", "target")},
    ),
    "cerebras": (
        "cerebras",
        "the example of the documentation",
        {
            "x-ratelimit-limit-requests-day": "14400",
            "x-ratelimit-limit-tokens-minute": "60000",
            "x-ratelimit-remaining-requests-day": "13693",
            "x-ratelimit-remaining-tokens-minute": "60000",
            "x-ratelimit-reset-requests-day": "11726.2840924263",
            "x-ratelimit-reset-tokens-minute": "26.28409242630005",
        },
        {
            X + "requests-day": ("requests", 13_693, 14_400, 11_726.2841, "window", "target"),
            X + "tokens-minute": ("tokens", 60_000, 60_000, 26.2841, "window", "target"),
        },
    ),
    "cerebras, minute, hour and day": (
        "cerebras",
        "the shape that was recorded, with the resets of the documentation",
        {
            "x-ratelimit-limit-requests-minute": "5",
            "x-ratelimit-remaining-requests-minute": "4",
            "x-ratelimit-reset-requests-minute": "11.5",
            "x-ratelimit-limit-requests-hour": "150",
            "x-ratelimit-remaining-requests-hour": "149",
            "x-ratelimit-reset-requests-hour": "1300.25",
            "x-ratelimit-limit-tokens-hour": "1000000",
            "x-ratelimit-remaining-tokens-hour": "999000",
            "x-ratelimit-reset-tokens-hour": "1300.25",
            "x-ratelimit-limit-tokens-day": "1000000",
            "x-ratelimit-remaining-tokens-day": "999000",
            "x-ratelimit-reset-tokens-day": "26600",
        },
        {
            X + "requests-minute": ("requests", 4, 5, 11.5, "window", "target"),
            X + "requests-hour": ("requests", 149, 150, 1_300.25, "window", "target"),
            X + "tokens-hour": ("tokens", 999_000, 1_000_000, 1_300.25, "window", "target"),
            X + "tokens-day": ("tokens", 999_000, 1_000_000, 26_600.0, "window", "target"),
        },
    ),
    "openrouter": (
        "openrouter",
        "recorded with a 429, which names the minute's end in milliseconds",
        {
            "X-RateLimit-Limit": "50",
            "X-RateLimit-Remaining": "0",
            "X-RateLimit-Reset": "1785082980000",
        },
        {"x-ratelimit-remaining": ("requests", 0, 50, 50.0, "window", "target")},
    ),
    "together": (
        "together",
        "the headers of the documentation; tokens have no reset of their own",
        {
            "x-ratelimit-limit": "10",
            "x-ratelimit-remaining": "0",
            "x-ratelimit-reset": "6",
            "x-tokenlimit-limit": "3000",
            "x-tokenlimit-remaining": "2876",
        },
        {
            "x-ratelimit-remaining": ("requests", 0, 10, 6.0, "window", "target"),
            "x-tokenlimit-remaining": ("tokens", 2_876, 3_000, None, "window", "target"),
        },
    ),
    "ietf-fields": (
        "somebody",
        "draft 06, section 5.1 and appendix",
        {"RateLimit-Limit": "100, 100;w=60", "RateLimit-Remaining": "50", "RateLimit-Reset": "30"},
        {"ratelimit-remaining": ("requests", 50, 100, 30.0, "window", "provider")},
    ),
    "ietf, dictionary": (
        "somebody",
        "draft 07, section 3",
        {"RateLimit": "limit=100, remaining=50, reset=5", "RateLimit-Policy": "100;w=60"},
        {"ratelimit": ("requests", 50, 100, 5.0, "window", "provider")},
    ),
    "ietf-structured": (
        "somebody",
        "draft 10, sections 3 and 4",
        {
            "RateLimit-Policy": '"burst";q=100;w=60,"daily";q=1000;w=86400',
            "RateLimit": '"burst";r=0;t=30, "daily";r=983',
        },
        {
            "ratelimit burst": ("requests", 0, 100, 30.0, "window", "provider"),
            "ratelimit daily": ("requests", 983, 1_000, None, "window", "provider"),
        },
    ),
    "ietf, other units": (
        "somebody",
        "draft 10, section 3.1.2",
        {
            "RateLimit-Policy": '"bytes";q=65535;qu="content-bytes";w=10,"calls";q=9;qu="requests"',
            "RateLimit": '"bytes";r=0;t=10,"calls";r=8;t=3;pk=:dHJpYWwxMjEzMjM=:',
        },
        {"ratelimit calls": ("requests", 8, 9, 3.0, "window", "provider")},
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers(name: str) -> None:
    """Each dialect is read as it was recorded or is documented."""
    provider, _source, headers, expected = ANSWERS[name]

    assert expected == _plain(_read(headers, provider))


def test_every_row_has_an_answer() -> None:
    """No row of the table is without an answer, and each names where it is documented."""
    read = {
        (each.dialect, each.name)
        for provider, _source, headers, _expected in ANSWERS.values()
        for each in _read(headers, provider).values()
    }

    assert {(row.dialect, row.remaining) for row in ROWS} <= read
    assert ("ietf-structured", f"{STRUCTURED} daily") in read
    assert all(row.source.startswith("https://") for row in ROWS)
    assert all(name == name.lower() for name in BY_HEADER)


@pytest.mark.parametrize(
    "name",
    [name for name in ANSWERS if name not in ("together", "openrouter", "xai")],
)
def test_answers_under_another_name(name: str) -> None:
    """Under a name that no dialect has, the form of the reset decides."""
    _provider, _source, headers, expected = ANSWERS[name]

    assert expected == _plain(_read(headers, "my-gateway"))


def test_headers_of_two_dialects_are_distinguished_by_their_form() -> None:
    """OpenRouter's and Together's headers have one name; xAI's are OpenAI's without a reset."""
    for name in ("together", "openrouter"):
        _provider, _source, headers, expected = ANSWERS[name]
        assert expected == _plain(_read(headers, "my-gateway"))
    figures = _read(ANSWERS["xai"][2], "my-gateway").values()
    assert [None, None] == [each.resets_at for each in figures]


def test_a_providers_own_dialect_comes_first() -> None:
    """The same headers are OpenAI's or Groq's by the name in the key."""
    headers = ANSWERS["groq"][2]

    assert {"groq"} == {each.dialect for each in _read(headers, "groq").values()}
    assert {"openai"} == {each.dialect for each in _read(headers, "openai").values()}


@pytest.mark.parametrize(
    "value",
    ["-1", "-0.5", "inf", "nan", "1e5", "", " ", "none", "٣", "1,5", "9" * 30, "0x10", "+1"],
)
def test_figures_that_count_as_absent(value: str) -> None:
    """What is negative, not finite or unreadable is no figure."""
    assert {} == _read({X + "requests": value, "x-ratelimit-reset-requests": "1s"})
    if "," not in value:  # which ends a member of the list
        assert {} == _read({"ratelimit": f'"day";r={value};t=3'})


@pytest.mark.parametrize(
    "reset", ["-1s", "1x", "s", "1.5.2s", "", "-3", "inf", "1s 2s", "soon", "1e3", "9" * 100]
)
def test_resets_that_count_as_absent(reset: str) -> None:
    """A figure whose reset cannot be read is only shown."""
    (figure,) = _read({X + "requests": "5", "x-ratelimit-reset-requests": reset}).values()

    assert (5.0, None) == (figure.remaining, figure.resets_at)


def test_limits_that_count_as_absent() -> None:
    """A figure may come without its limit."""
    (figure,) = _read(
        {X + "tokens": "5", "x-ratelimit-limit-tokens": "-1", "x-ratelimit-reset-tokens": "1s"}
    ).values()

    assert (5.0, None) == (figure.remaining, figure.limit)


@pytest.mark.parametrize(
    ("reset", "seconds"),
    [
        ("1785082980", 50.0),
        ("1785082980000", 50.0),
        ("1785082980500", 50.5),
        ("1785000000", 0.0),
        ("30", 30.0),
        ("0", 0.0),
        ("2.5", 2.5),
    ],
)
def test_moments_and_durations(reset: str, seconds: float) -> None:
    """A number is seconds since 1970, milliseconds since 1970, or seconds; the past is now."""
    (figure,) = _read({"x-ratelimit-remaining": "0", "x-ratelimit-reset": reset}).values()

    assert seconds == pytest.approx((figure.resets_at or 0.0) - NOW)


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the time zone cannot be set here")
def test_a_date_without_a_zone_is_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the machine stands."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        (figure,) = _read(
            {
                "anthropic-ratelimit-requests-remaining": "5",
                "anthropic-ratelimit-requests-reset": "2026-07-26T16:22:40",
            }
        ).values()
    finally:
        monkeypatch.undo()
        time.tzset()

    assert NOW + 30.0 == figure.resets_at


PAIRS = [("X-RateLimit-Remaining-Requests", "5"), ("X-RateLimit-Reset-Requests", "2s")]
RAW = [(name.encode(), value.encode()) for name, value in PAIRS]


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(dict(PAIRS), id="dict"),
        pytest.param(PAIRS, id="pairs"),
        pytest.param(RAW, id="raw"),
        pytest.param(dict(RAW), id="bytes"),
        pytest.param(httpx.Headers(PAIRS), id="httpx"),
        pytest.param(httpx2.Headers(PAIRS), id="httpx2"),
        pytest.param({"X-RateLimit-Remaining-Requests": 5, PAIRS[1][0]: PAIRS[1][1]}, id="numbers"),
    ],
)
def test_forms_of_headers(headers: Any) -> None:
    """Headers are read as each client has them."""
    (figure,) = _read(headers, "openai").values()

    assert (5.0, NOW + 2.0) == (figure.remaining, figure.resets_at)


@pytest.mark.parametrize(
    "headers", [None, 5, object(), [1], [("a", "b", "c")], {None: 3}, "x-ratelimit", [(b"\xff", 1)]]
)
def test_what_is_no_headers(headers: Any) -> None:
    """Foreign objects are read as nothing, and raise nothing."""
    assert {} == rate_headers(headers)


def test_many_and_long_headers() -> None:
    """A flood of headers, or one of a megabyte, costs little and tells nothing wrong."""
    flood = {f"x-ratelimit-{number}": "0" for number in range(100_000)}
    huge = {X + "requests": "0" * 1_000_000, STRUCTURED: '"' * 1_000_000}

    assert {} == _read(flood)
    assert {} == _read(huge)


def test_a_field_that_comes_twice() -> None:
    """The lines of a list are one list; two figures under one name are none."""
    twice = httpx.Headers([("RateLimit", '"a";r=1;t=2'), ("RateLimit", '"b";r=3;t=4')])
    figure = httpx.Headers([(X + "requests", "1"), (X + "requests", "2")])

    assert {"ratelimit a", "ratelimit b"} == set(_read(twice))
    assert {} == _read(figure)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.dictionaries(
        st.sampled_from([*BY_HEADER, *(row.limit for row in ROWS), "ratelimit", "ratelimit-policy"])
        | st.sampled_from([row.reset for row in ROWS if row.reset]),
        st.text(max_size=40) | st.from_regex(r'"[a-z]+";[rtqw]=-?[0-9]{1,4}(;[rtqw]=[0-9]*)?'),
        max_size=12,
    )
)
def test_whatever_they_hold(headers: dict[str, str]) -> None:
    """Figures are finite and not negative, and no value raises."""
    for figure in _read(headers).values():
        assert 0.0 <= figure.remaining < float("inf")
        assert figure.limit is None or 0.0 <= figure.limit < float("inf")
        assert figure.resets_at is None or NOW <= figure.resets_at < float("inf")


def _recorded() -> list[Any]:
    found: list[Any] = []
    for file in sorted(CORPUS.glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            case = json.loads(line)
            headers = (case.get("wire") or {}).get("headers") or {}
            if any("ratelimit-remaining" in name.lower() for name in headers):
                found.append(pytest.param(case, headers, id=case["id"]))
    return found


@pytest.mark.parametrize(("case", "headers"), _recorded())
def test_recorded_errors(case: Any, headers: dict[str, str]) -> None:
    """The answers of the corpus tell figures, and the limit that was hit is 0 among them."""
    stamp = datetime.fromtimestamp(WALL + 45, UTC).isoformat()
    filled = {
        name: stamp
        if "rfc3339" in value
        else f"{(WALL + 5_400) * 1000:.0f}"
        if "{{" in value
        else value
        for name, value in headers.items()
    }
    figures = _read(filled, case["provider"])

    assert figures
    names = [name.lower() for name, value in headers.items() if value == "0"]
    assert {name for name in names if "remaining" in name} == {
        name for name, each in figures.items() if each.remaining == 0
    }
