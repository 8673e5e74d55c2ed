"""`Verdict` checks what it is built from, and a rule that builds a bad one has failed."""

from __future__ import annotations

import math
from decimal import Decimal
from http import HTTPStatus
from typing import Any

import pytest

from resilient_llm import (
    BreakerOpenError,
    ConfigurationError,
    ErrorKind,
    ObserverFailed,
    ResponseRejectedError,
    Target,
    Verdict,
    classify,
    failover,
    list_benched,
)
from resilient_llm.testing import capture_events
from tests.support.ways import GROQ, OPENAI, Script, down

SECRET = "sk-SECRET in the text of a provider, which is long"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        (20, 20.0),
        (0, 0.0),
        (1.5, 1.5),
        ("20", 20.0),
        (" 0.5 ", 0.5),
        (Decimal("1.5"), 1.5),
    ],
)
def test_a_wait_is_a_number_of_seconds(given: Any, expected: float | None) -> None:
    """Numbers stay, and a numeric text, as headers have it, becomes a number."""
    verdict = Verdict(ErrorKind.RATE_LIMITED, retry_after=given)

    assert expected == verdict.retry_after
    assert type(expected) is type(verdict.retry_after)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retry_after", -5),
        ("retry_after", -0.1),
        ("retry_after", math.nan),
        ("retry_after", math.inf),
        ("retry_after", 10**400),
        ("retry_after", True),
        ("retry_after", "nan"),
        ("retry_after", "-1"),
        ("retry_after", "in a minute"),
        ("retry_after", ""),
        ("retry_after", b"20"),
        ("retry_after", [20]),
        ("status", "429"),
        ("status", 429.0),
        ("status", True),
        ("retryable", "no"),
        ("retryable", 0),
        ("harms_health", 1),
        ("harms_health", "yes"),
        ("scope", "model"),
        ("scope", ["target"]),
        ("reason", 7),
        ("reason", b"timeout"),
    ],
)
def test_what_cannot_be_meant_is_refused(name: str, value: Any) -> None:
    """The message names the field."""
    with pytest.raises(ConfigurationError, match=f"^{name}"):
        Verdict(ErrorKind.RATE_LIMITED, **{name: value})


@pytest.mark.parametrize("name", ["kind", "reason", "retry_after", "status", "scope", "retryable"])
def test_no_message_shows_a_text(name: str) -> None:
    """A rule may build a verdict from what a provider said, so its text is not repeated."""
    fields: dict[str, Any] = {"kind": "transient", name: [SECRET] if name == "reason" else SECRET}

    with pytest.raises(ConfigurationError) as caught:
        Verdict(**fields)

    assert "SECRET" not in str(caught.value)


def test_a_long_reason_is_cut() -> None:
    """A reason is a short word; of a longer text 40 characters stay."""
    verdict = Verdict(ErrorKind.TRANSIENT, "x" * 50)

    assert "x" * 40 == verdict.reason


def test_words_and_numbers_of_enumerations_are_taken() -> None:
    """The word of a kind is that kind, and a status may be an `HTTPStatus`."""
    verdict = Verdict("transient", status=HTTPStatus.BAD_GATEWAY)  # type: ignore[arg-type]  # the word of a kind

    assert (ErrorKind.TRANSIENT, 502) == (verdict.kind, verdict.status)
    assert type(verdict.status) is int


def _bad_verdict(error: BaseException) -> Verdict:
    return Verdict(ErrorKind.RATE_LIMITED, retry_after=-1)


def test_a_rule_that_builds_a_bad_verdict_is_passed_over_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The built-in rules decide, and an outage does not fill the log."""
    classify.rule(_bad_verdict)

    kinds = [classify(down()).kind for _ in range(3)]

    assert [ErrorKind.TRANSIENT] * 3 == kinds
    assert ["ConfigurationError" in message for message in caplog.messages] == [True]


def test_a_header_that_a_rule_copies_is_a_wait(clock: Any) -> None:
    """A rule that passes the text of a header on benches for that time."""

    @classify.rule
    def copies(error: BaseException) -> Verdict:
        header: Any = "20"
        return Verdict(ErrorKind.RATE_LIMITED, retry_after=header)

    script = Script({GROQ: [down], OPENAI: ["yes"]})

    @failover(chain=[GROQ, OPENAI])
    def ask(target: Target) -> Any:
        return script(target)

    assert "yes" == ask()
    assert [20.0] == [bench.remaining for bench in list_benched()]


def test_a_policys_classify_that_builds_a_bad_verdict_is_passed_over(clock: Any) -> None:
    """The other rules decide, and one event says that it failed, not one for each error."""
    script = Script({GROQ: [down], OPENAI: ["yes"]})

    @failover(chain=[GROQ, OPENAI], attempts=2, classify=_bad_verdict)
    def ask(target: Target) -> Any:
        return script(target)

    with capture_events(ObserverFailed) as failed:
        answers = [ask() for _ in range(3)]

    assert ["yes"] * 3 == answers
    assert ["ConfigurationError"] == [getattr(event, "type_name", "") for event in failed]


def test_reject_that_builds_a_bad_verdict_is_the_callers_own_mistake() -> None:
    """It leaves the call like any other error inside ``reject``."""

    @failover(chain=GROQ, reject=lambda _: Verdict(ErrorKind.TRANSIENT, retry_after=-1))
    def ask(target: Target) -> str:
        return "yes"

    with pytest.raises(ConfigurationError, match="retry_after"):
        ask()


def test_a_reason_that_a_rule_copied_is_cut_in_messages() -> None:
    """What leaves the call holds no long text of a provider."""

    @classify.rule
    def copies(error: BaseException) -> Verdict:
        return Verdict(ErrorKind.REQUEST_SPECIFIC, "x" * 40 + SECRET)

    @failover(chain=[GROQ, OPENAI])
    def ask(target: Target) -> Any:
        raise down()

    with pytest.raises(ExceptionGroup) as caught:
        ask()

    notes = [note for member in caught.value.exceptions for note in member.__notes__]
    assert "SECRET" not in str(caught.value) + "".join(notes)


@pytest.mark.parametrize("wait", [-1.0, math.nan, math.inf])
def test_an_error_of_ours_with_an_odd_wait_is_still_a_rejection(wait: float) -> None:
    """Users may raise our errors themselves; a wait that is no number is left out."""
    verdict = classify(BreakerOpenError("groq/x", "open", wait))

    assert (ErrorKind.REJECTED, None) == (verdict.kind, verdict.retry_after)


def test_an_error_of_ours_with_an_odd_kind_is_still_a_bad_response() -> None:
    """A kind or reason that nobody knows does not hide what the error is."""
    verdict = classify(ResponseRejectedError("groq/x", 7, "no such kind"))  # type: ignore[arg-type]  # built by a user

    assert Verdict(ErrorKind.BAD_RESPONSE) == verdict
