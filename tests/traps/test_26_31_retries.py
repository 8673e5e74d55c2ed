"""Traps of retries, hints and classification, as calls through a chain meet them."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from resilient_llm import (
    ChainExhaustedError,
    ErrorKind,
    RetryScheduled,
    RetryStopped,
    Target,
    Verdict,
    breaker,
    configure,
    failover,
    health,
    is_benched,
    list_benched,
)
from resilient_llm.testing import capture_events, scripted
from tests.support.ways import (
    CHAIN_SHAPES,
    GROQ,
    OPENAI,
    ProviderError,
    Shape,
    down,
    on_both_loops,
    over,
    run_async,
)


def play(outcome: Any) -> Any:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def ask_by(form: str, script: dict[str, list[Any]], **options: Any) -> Any:
    """Ask a chain of the script's targets once, in one of the forms of a call."""
    policy = failover(chain=list(script), **{"backoff": lambda number: 1.0, **options})

    def outcome(target: Target) -> Any:
        return play(script[target.key].pop(0))

    if form == "sync":
        return policy(lambda *, target: outcome(target))()
    if form == "call":
        return policy.call(lambda *, target: outcome(target))
    if form == "loop":
        result = None
        for attempt in policy:
            with attempt as target:
                result = outcome(target)
        return result
    shape, _, backend = form.partition("-")

    async def decorated() -> Any:
        @policy
        async def ask(target: Target) -> Any:
            return outcome(target)

        return await ask()

    async def loop() -> Any:
        result = None
        async for attempt in policy:
            async with attempt as target:
                result = outcome(target)
        return result

    return run_async(decorated if shape == "async" else loop, backend=backend)


FORMS = ["sync", "call", "loop", "async-asyncio", "async-trio", "aloop-asyncio", "aloop-trio"]
in_every_form = pytest.mark.parametrize("form", FORMS)


def limited(retry_after: object = None, **headers: str) -> ProviderError:
    error = ProviderError(429, retry_after=retry_after, message="slow down")
    error.response.headers.update(headers)
    return error


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        (lambda: limited("1.5"), 1.5),
        (lambda: limited(**{"retry-after-ms": "250"}), 0.25),
        (lambda: limited("6m0s"), 360.0),
        (lambda: limited("0"), None),
        (lambda: limited("-1"), 15.0),
        (lambda: limited("soon"), 15.0),
        (lambda: limited("99999999"), 3600.0),
    ],
    ids=["seconds", "milliseconds", "go-duration", "zero", "negative", "word", "absurd"],
)
@in_every_form
def test_trap_26_a_hint_is_read_rightly_or_ignored(
    form: str, error: Callable[[], ProviderError], wait: float | None, clock: Any
) -> None:
    """Every dialect benches for what it says; nonsense for the default; nothing sleeps for days."""
    result = ask_by(form, {GROQ: [error()], OPENAI: ["yes"]})

    benched = {each.model: each.remaining for each in list_benched()}
    assert ("yes", []) == (result, clock.sleeps)
    assert ({} if wait is None else {GROQ: pytest.approx(wait)}) == benched


def test_trap_26_a_date_is_read_by_the_wall_clock(clock: Any) -> None:
    """An HTTP date in half a minute benches for half a minute."""
    moment = datetime.fromtimestamp(clock.wall(), UTC) + timedelta(seconds=30)

    ask_by("sync", {GROQ: [limited(format_datetime(moment, usegmt=True))], OPENAI: ["yes"]})

    assert pytest.approx(30.0, abs=1.0) == list_benched()[0].remaining


@in_every_form
def test_trap_27_the_latest_hint_counts(form: str, clock: Any) -> None:
    """The first error says 9 s and is waited for; the second says 107 s, which is too long, and counts."""
    with pytest.raises(ChainExhaustedError) as caught:
        ask_by(form, {GROQ: [limited(9), limited(107)]})

    assert [9.0] == clock.sleeps
    assert pytest.approx(107.0) == caught.value.retry_after == list_benched()[0].remaining


@in_every_form
def test_trap_28_a_hint_longer_than_the_deadline_is_not_slept_for(form: str, clock: Any) -> None:
    """With 10 s left and a wait of 30 s the target is benched and the call ends now."""
    with capture_events(RetryStopped) as stopped, pytest.raises(ChainExhaustedError):
        ask_by(form, {GROQ: [limited(30)]}, timeout=10)

    assert ([], ["hint"], True) == (
        clock.sleeps,
        [event.reason for event in stopped],
        is_benched(GROQ),
    )


@in_every_form
def test_trap_29_a_rate_limit_moves_on_at_once_when_another_target_is_live(
    form: str, clock: Any
) -> None:
    """A short wait is not waited for either while somebody else can answer."""
    result = ask_by(form, {GROQ: [limited(1)], OPENAI: ["yes"]})

    assert ("yes", [], True) == (result, clock.sleeps, is_benched(GROQ))


@in_every_form
def test_trap_29_an_overloaded_target_that_names_a_wait_is_left_for_it(
    form: str, clock: Any
) -> None:
    """A 503 with Retry-After benches like a rate limit while another target is live."""
    result = ask_by(form, {GROQ: [ProviderError(503, retry_after=20)], OPENAI: ["yes"]})

    assert ("yes", []) == (result, clock.sleeps)
    assert [(GROQ, pytest.approx(20.0))] == [
        (each.model, each.remaining) for each in list_benched()
    ]


def test_trap_30_a_client_that_retries_by_itself_is_warned_about_where_it_is_written() -> None:
    """A target's own call= of a client with retries is a warning that says what to do."""

    class Completions:
        _client = SimpleNamespace(max_retries=2)

        def create(self, *, model: str) -> str:
            return model

    with pytest.warns(UserWarning, match="max_retries=0"):
        failover(chain=[Target(GROQ, call=Completions().create)])


@in_every_form
def test_trap_30_a_request_that_the_sdk_retried_is_logged_once(
    form: str, clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """An error whose request was the SDK's own retry is logged once for its provider."""

    def retried() -> ProviderError:
        error = down()
        error.request = SimpleNamespace(headers={"x-stainless-retry-count": "2"})  # type: ignore[attr-defined]
        return error

    with caplog.at_level(logging.WARNING, logger="resilient_llm"):
        ask_by(form, {GROQ: [retried(), retried()], OPENAI: ["yes"]}, attempts=2)

    assert 1 == sum("max_retries=0" in message for message in caplog.messages)


@on_both_loops
def test_trap_31_extra_attempts_in_an_outage_stay_within_the_budget(
    backend: str, clock: Any
) -> None:
    """A thousand callers of a provider that is down make two hundred extra attempts, not two thousand."""
    breaker(GROQ, mode="metrics_only")

    @failover(chain=[GROQ], backoff=lambda number: 0.0)
    async def ask(target: Target) -> str:
        await anyio.lowlevel.checkpoint()
        raise down()

    async def one() -> None:
        with pytest.raises(ChainExhaustedError):
            await ask()

    async def outage() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(1_000):
                group.start_soon(one)

    with capture_events(RetryScheduled) as retries:
        run_async(outage, backend=backend)

    assert (200, 1_200) == (len(retries), health()[GROQ].total)


def test_trap_31_the_budget_has_a_floor_and_moving_on_is_never_refused(clock: Any) -> None:
    """Ten retries are always allowed in ten seconds; a spent budget ends retries, not the chain."""
    breaker(GROQ, mode="metrics_only")
    configure(retry_budget=0.001)

    @failover(chain=[GROQ, OPENAI], attempts=2, backoff=lambda number: 0.0)
    def ask(target: Target) -> str:
        if target.key == GROQ:
            raise down()
        return "yes"

    with capture_events(RetryScheduled) as retries:
        answers = [ask() for _ in range(30)]
    clock.advance(10)
    with capture_events(RetryScheduled) as later:
        ask()

    assert (["yes"] * 30, 10, 1) == (answers, len(retries), len(later))


def test_trap_33_a_chatroom_is_no_memory_pressure(clock: Any) -> None:
    """`oom` inside a word of an echoed prompt benches nobody for memory."""
    error = ProviderError(400, message="unknown field in 'my chatroom zooms in on a bloom'")

    ask_by("sync", {GROQ: [error], OPENAI: ["yes"]})

    assert [] == list_benched()


@over(CHAIN_SHAPES)
@pytest.mark.parametrize(
    "bug", [TypeError, AttributeError, KeyError, ZeroDivisionError, AssertionError, ValueError]
)
def test_trap_34_a_bug_in_the_callers_function_leaves_at_once(
    shape: Shape, bug: type[Exception], clock: Any
) -> None:
    """It is raised unchanged, tried once, and harms nobody's health."""
    calls: list[int] = []
    error = bug("mine")

    def provider() -> Any:
        calls.append(1)
        raise error

    with pytest.raises(bug) as caught:
        shape.run(GROQ, provider)

    assert (error, 1, []) == (caught.value, len(calls), list_benched())
    assert 0 == health()[GROQ].errors


@in_every_form
def test_trap_35_a_safety_refusal_is_not_sent_to_another_model(form: str, clock: Any) -> None:
    """It leaves as it is, unless the policy asks otherwise."""
    refusal = ProviderError(400)
    policy = {"classify": lambda error: Verdict(ErrorKind.REQUEST_SPECIFIC, "content_policy")}

    with pytest.raises(ProviderError) as caught:
        ask_by(form, {GROQ: [refusal], OPENAI: ["spliced"]}, **policy)
    asked = ask_by(
        form, {GROQ: [ProviderError(400)], OPENAI: ["yes"]}, on_content_policy="next", **policy
    )

    assert (refusal, "yes", 0) == (caught.value, asked, health()[GROQ].errors)


@in_every_form
@pytest.mark.parametrize("windows", [(None, None), (8_000, None), (8_000, 8_000), (None, 128_000)])
def test_trap_36_a_request_too_long_is_raised_when_no_target_is_known_to_take_more(
    form: str, windows: tuple[int | None, int | None], clock: Any
) -> None:
    """One clear error at once; the others are not asked."""
    too_long = ProviderError(400)
    chain = [Target(GROQ, context_window=windows[0]), Target(OPENAI, context_window=windows[1])]

    with pytest.raises(ProviderError) as caught:
        _too_long(form, chain, too_long)

    assert too_long is caught.value
    assert OPENAI not in health() or 0 == health()[OPENAI].total


def _too_long(form: str, chain: list[Target], error: Exception) -> Any:
    policy = failover(
        chain=chain,
        classify=lambda error: Verdict(ErrorKind.REQUEST_SPECIFIC, "context_length_exceeded"),
    )
    answers = scripted(error)
    if form in ("sync", "call", "loop"):
        return policy.call(lambda *, target: answers())

    async def ask(target: Target) -> Any:
        return answers()

    return run_async(lambda: policy.call(ask), backend=form.partition("-")[2])


@over([shape for shape in CHAIN_SHAPES if shape.backend is None])
@pytest.mark.parametrize("signal", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_trap_37_signals_pass_through_sync_calls(
    shape: Shape, signal: type[BaseException], clock: Any
) -> None:
    """They leave at once, are tried once, and count for nothing."""
    calls: list[int] = []

    def provider() -> Any:
        calls.append(1)
        raise signal

    with pytest.raises(signal):
        shape.run(GROQ, provider)

    assert (1, 0, []) == (len(calls), health()[GROQ].total, list_benched())


def test_trap_37_signals_pass_through_async_calls(clock: Any) -> None:
    """A cancellation and a SystemExit inside a coroutine leave at once and count for nothing."""

    @failover(chain=[GROQ, OPENAI])
    async def ask(target: Target, signal: type[BaseException]) -> str:
        raise signal

    async def main() -> list[str]:
        left: list[str] = []
        for signal in (asyncio.CancelledError, GeneratorExit):
            try:
                await ask(signal)
            except BaseException as error:  # they are what is looked for
                left.append(type(error).__name__)
        return left

    assert ["CancelledError", "GeneratorExit"] == asyncio.run(main())
    assert (0, []) == (health()[GROQ].total, list_benched())
