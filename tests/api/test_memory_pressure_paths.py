"""`on_memory_pressure` in streams, races, probes and simulations, and when it changes meanwhile."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest

from resilient_llm import (
    AttemptFailed,
    ErrorKind,
    StreamInterrupted,
    StreamInterruptedError,
    Target,
    TargetBenched,
    TargetUnbenched,
    bench_model,
    breaker,
    classify,
    configure,
    failover,
    health,
    is_benched,
    list_benched,
    reset,
)
from resilient_llm._core.circuit import triggers
from resilient_llm.probes import HealthProbe, ProbeResult
from resilient_llm.probes._http import StatusError
from resilient_llm.testing import FakeClock, Fault, Weather, capture_events, isolated, simulate
from tests.support.hedges import Stage, played
from tests.support.ways import GROQ, OPENAI, down, on_both_loops, run_async

MODES: Any = ("skip", "warn", "off")
KIND_UNDER = {"skip": "memory_pressure", "warn": "memory_pressure", "off": "transient"}
CHARGED_UNDER = {"skip": (True, 1), "warn": (False, 0), "off": (False, 1)}
"""``{setting: (whether one error benches, errors that it counts)}``"""

over_modes = pytest.mark.parametrize("mode", MODES)


@pytest.fixture(autouse=True)
def _without_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "JITTER", 0.0)


def charged(key: str = GROQ) -> tuple[bool, int]:
    """Return whether a key is benched, and the errors that it counts."""
    return is_benched(key), health([key])[key].errors


def left(key: str = GROQ) -> float | None:
    """Return the seconds until the bench of a key ends; None if it is not benched."""
    return next((each.remaining for each in list_benched() if each.model == key), None)


# Streams.


def chunk(content: str | None, **more: Any) -> dict[str, Any]:
    """Return an item of a stream of an OpenAI-like server."""
    return {"choices": [{"delta": {"content": content}, "finish_reason": None}], **more}


OUT_OF_MEMORY = {"error": {"message": "CUDA error: out of memory", "type": "server_error"}}
ENDS: dict[str, Any] = {"raised": MemoryError, "an item": lambda: OUT_OF_MEMORY}


def items(end: Any, *, content: bool) -> Iterator[Any]:
    """Yield the items of a stream that breaks before or after its first content."""
    yield chunk("Hel" if content else None)
    given = end()
    if isinstance(given, BaseException):
        raise given
    yield given


def read(guarded: Any, *, is_async: bool) -> list[Any]:
    """Return the items of a stream."""

    async def main() -> list[Any]:
        return [item async for item in guarded()]

    return run_async(main) if is_async else list(guarded())


def stream(decorate: Any, source: Callable[[], Iterator[Any]], *, is_async: bool) -> Any:
    """Return a decorated stream whose first target gives these items."""

    @decorate
    async def astream(target: Target) -> AsyncIterator[Any]:
        for item in source() if target.key == GROQ else [chunk("Hi"), chunk(None, done=True)]:
            yield item

    @decorate
    def sync_stream(target: Target) -> Iterator[Any]:
        yield from source() if target.key == GROQ else [chunk("Hi"), chunk(None, done=True)]

    return astream if is_async else sync_stream


@over_modes
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_stream_that_breaks_before_its_content_moves_on(
    is_async: bool, end: str, mode: Any
) -> None:
    """The next target streams instead."""
    configure(on_memory_pressure=mode)
    policy = failover([GROQ, OPENAI], attempts=1)
    guarded = stream(policy, lambda: items(ENDS[end], content=False), is_async=is_async)

    with capture_events(AttemptFailed) as events:
        got = read(guarded, is_async=is_async)

    assert [chunk("Hi"), chunk(None, done=True)] == got
    assert [(GROQ, KIND_UNDER[mode])] == [(each.target, each.kind) for each in events]
    assert CHARGED_UNDER[mode] == charged()


@over_modes
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_stream_that_breaks_after_its_content_is_interrupted(
    is_async: bool, end: str, mode: Any
) -> None:
    """The consumer gets the same error under each setting; the events say the kind."""
    configure(on_memory_pressure=mode)
    policy = failover([GROQ, OPENAI], attempts=1)
    guarded = stream(policy, lambda: items(ENDS[end], content=True), is_async=is_async)

    with (
        capture_events(AttemptFailed, StreamInterrupted) as events,
        pytest.raises(StreamInterruptedError),
    ):
        read(guarded, is_async=is_async)

    assert [(AttemptFailed, KIND_UNDER[mode]), (StreamInterrupted, KIND_UNDER[mode])] == [
        (type(each), each.kind) for each in events
    ]
    assert CHARGED_UNDER[mode] == charged()


@over_modes
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_guarded_stream_counts_alike(is_async: bool, end: str, mode: Any) -> None:
    """Where there is only a breaker, too: errors that are raised, and those in a last item."""
    configure(on_memory_pressure=mode)

    @breaker(GROQ)
    def guarded() -> Iterator[Any]:
        yield from items(ENDS[end], content=True)

    @breaker(GROQ)
    async def aguarded() -> AsyncIterator[Any]:
        for item in items(ENDS[end], content=True):
            yield item

    try:
        read(aguarded if is_async else guarded, is_async=is_async)
    except MemoryError:
        assert "raised" == end

    assert CHARGED_UNDER[mode] == charged()


# Races.


@on_both_loops
@over_modes
@pytest.mark.parametrize("first", [GROQ, OPENAI])
def test_one_of_two_that_run_side_by_side_runs_out_of_memory(
    first: str, mode: Any, backend: str, clock: FakeClock
) -> None:
    """The other one answers; the one that failed is charged, or only told of."""
    configure(on_memory_pressure=mode)
    stage = Stage()
    other = OPENAI if first == GROQ else GROQ

    @failover([GROQ, OPENAI], hedge=2.0)
    async def ask(target: Target) -> Any:
        return await stage.provide(target)

    async def main() -> Any:
        async with played(ask) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            stage.says(first, MemoryError())
            while first not in stage.ended:
                await anyio.lowlevel.checkpoint()
            stage.says(other, "yes")
            return await play.ends()

    with capture_events(AttemptFailed) as events:
        assert "yes" == run_async(main, backend=backend)

    assert [(first, KIND_UNDER[mode])] == [(each.target, each.kind) for each in events]
    assert CHARGED_UNDER[mode] == charged(first)


# Health probes.


def probe(outcome: BaseException, **options: Any) -> ProbeResult:
    """Run one tick of one probe, which raises this."""

    def once() -> None:
        raise outcome

    async def tick() -> ProbeResult:
        return (await HealthProbe({GROQ: once}, **options).tick())[GROQ]

    return anyio.run(tick)


def benched_by_failures(clock: FakeClock) -> None:
    for _ in range(5):
        breaker(GROQ).record(down(), 0.0)


def half_open(clock: FakeClock) -> None:
    benched_by_failures(clock)
    clock.advance(30.0)


STATES: dict[str, Callable[[FakeClock], object]] = {
    "closed": lambda clock: None,
    "half-open": half_open,
    "open": benched_by_failures,
    "manual": lambda clock: bench_model(GROQ, 500.0),
}


@pytest.mark.parametrize("state", STATES)
def test_a_probe_that_finds_memory_pressure_only_tells_if_asked(
    state: str, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The key is not well and says why; no state changes, and the probe is not taken for broken."""
    configure(on_memory_pressure="warn")
    STATES[state](clock)
    clock.advance(1.0)
    before = health([GROQ])[GROQ]
    caplog.clear()

    with capture_events() as events:
        result = probe(MemoryError(), interval=600.0)

    after = health([GROQ])[GROQ]
    assert (False, "memory_pressure", "out_of_memory") == (result.ok, result.kind, result.reason)
    assert ([], []) == (events, caplog.messages)
    assert (before.state, before.errors, before.benched and before.benched.until) == (
        after.state,
        after.errors,
        after.benched and after.benched.until,
    )


@pytest.mark.parametrize(
    ("mode", "state", "expected"),
    [
        ("skip", "closed", ("open", 40.0, "memory_pressure")),
        ("skip", "half-open", ("open", 40.0, "memory_pressure")),
        ("off", "closed", ("closed", None, "transient")),
        ("off", "half-open", ("open", 60.0, "transient")),
        # One that is not well confirms the bench until the next tick is over, at most for
        # `max_cooldown` from its start.
        ("off", "open", ("open", 299.0, "transient")),
    ],
)
def test_a_probe_that_finds_memory_pressure_is_charged_as_a_call_is(
    mode: Any, state: str, expected: tuple[Any, ...], clock: FakeClock
) -> None:
    """With skip it benches for the cooldown, with off it is one transient failure."""
    configure(on_memory_pressure=mode, memory_pressure_cooldown=40.0)
    STATES[state](clock)
    clock.advance(1.0)

    result = probe(MemoryError(), interval=600.0)

    assert expected == (breaker(GROQ).state, left(), result.kind)


@over_modes
def test_a_rule_may_say_so_of_a_status(mode: Any, clock: FakeClock) -> None:
    """A probe over HTTP has no text to read; a rule that knows the server's status has the word."""
    configure(on_memory_pressure=mode)
    classify.rule(
        lambda error: "memory_pressure" if getattr(error, "status_code", None) == 507 else None
    )

    result = probe(StatusError(507, {}))

    assert KIND_UNDER[mode] == result.kind
    assert CHARGED_UNDER[mode] == charged()


@pytest.mark.parametrize(
    ("proves", "state"),
    [("reachable", "open"), ("answers", "closed")],
    ids=["reachable", "answers"],
)
def test_only_a_probe_that_is_answered_ends_a_bench_early(
    proves: Any, state: str, clock: FakeClock
) -> None:
    """A server that lists its models may still have no memory for one, whatever the cooldown."""
    configure(memory_pressure_cooldown=40.0)
    breaker(GROQ).record(MemoryError(), 0.0)
    clock.advance(1.0)

    async def tick() -> None:
        await HealthProbe({GROQ: lambda: True}, proves=proves).tick()

    anyio.run(tick)

    assert state == breaker(GROQ).state


# Changes.


@over_modes
def test_a_running_bench_keeps_its_end(mode: Any, clock: FakeClock) -> None:
    """Neither another cooldown nor another setting shortens, lengthens or ends it."""
    breaker(GROQ).record(MemoryError(), 0.0)
    clock.advance(20.0)

    with capture_events() as events:
        configure(on_memory_pressure=mode, memory_pressure_cooldown=10.0)
    after = left(), list_benched()[0].kind
    clock.advance(100.0)

    assert ([], (100.0, ErrorKind.MEMORY_PRESSURE)) == (events, after)
    assert "half_open" == breaker(GROQ).state
    breaker(GROQ).record(MemoryError(), 0.0)
    assert {"skip": 10.0, "warn": None, "off": 60.0}[mode] == left()


@pytest.mark.parametrize("is_first", [True, False], ids=["first call", "later call"])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@over_modes
def test_a_running_call_keeps_its_setting(mode: Any, is_async: bool, is_first: bool) -> None:
    """A call that began before a change is judged as calls were judged then."""
    configure(on_memory_pressure=mode)
    other: Any = "skip" if mode != "skip" else "off"

    def answer(target: Target, *, fails: bool) -> str:
        if fails and target.key == GROQ:
            configure(on_memory_pressure=other)
            raise MemoryError
        return target.key

    async def aanswer(target: Target, *, fails: bool) -> str:
        return answer(target, fails=fails)

    guarded: Any = failover([GROQ, OPENAI], attempts=1)(aanswer if is_async else answer)

    def call(*, fails: bool) -> str:
        return run_async(lambda: guarded(fails=fails)) if is_async else guarded(fails=fails)

    if not is_first:
        call(fails=False)
    call(fails=True)

    assert CHARGED_UNDER[mode] == charged()


@pytest.mark.parametrize("content", [False, True], ids=["before content", "after content"])
@pytest.mark.parametrize("end", ENDS)
@over_modes
def test_a_running_stream_keeps_its_setting(mode: Any, end: str, content: bool) -> None:
    """The same holds for what is said in an item of a stream."""
    configure(on_memory_pressure=mode)
    other: Any = "skip" if mode != "skip" else "off"

    def source() -> Iterator[Any]:
        for item in items(ENDS[end], content=content):
            yield item
            configure(on_memory_pressure=other)

    guarded = stream(failover([GROQ, OPENAI], attempts=1), source, is_async=False)

    with capture_events(AttemptFailed) as events, contextlib.suppress(StreamInterruptedError):
        read(guarded, is_async=False)

    assert [KIND_UNDER[mode]] == [each.kind for each in events]
    assert CHARGED_UNDER[mode] == charged()


def test_a_guard_judges_by_the_present_setting() -> None:
    """The block of a breaker is no call: as its other options, the setting holds at once."""
    with pytest.raises(MemoryError), breaker(GROQ):
        configure(on_memory_pressure="warn")
        raise MemoryError

    assert (False, 0) == charged()


def test_reset_ends_its_benches(clock: FakeClock) -> None:
    """They are automatic; the setting stays."""
    configure(memory_pressure_cooldown=40.0)
    breaker(GROQ).record(MemoryError(), 0.0)

    with capture_events(TargetUnbenched) as events:
        reset()
    breaker(GROQ).record(MemoryError(), 0.0)

    assert ([(GROQ, "reset")], 40.0) == ([(e.target, e.reason) for e in events], left())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_has_the_setting_and_the_benches(clock: FakeClock) -> None:
    """A worker that is forked after `configure` judges as its parent does."""
    configure(memory_pressure_cooldown=40.0)
    breaker(GROQ).record(MemoryError(), 0.0)
    configure(on_memory_pressure="warn")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            breaker(OPENAI).record(MemoryError(), 0.0)
            status = 0 if (left(), left(OPENAI)) == (40.0, None) else 2
        finally:
            os._exit(status)

    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# Simulations and explanations.


def test_a_simulation_has_the_setting(clock: FakeClock) -> None:
    """What is benched costs few attempts; what is only told of, one in each call meanwhile."""
    classify.rule(
        lambda error: "memory_pressure" if getattr(error, "status_code", None) == 503 else None
    )
    weather = {
        "a/m": Weather(spread=0.0, faults=[Fault("outage", 0, 300)]),
        "b/m": Weather(spread=0.0),
    }
    wasted: dict[str, int] = {}

    for mode in MODES:
        configure(on_memory_pressure=mode, memory_pressure_cooldown=60.0)
        report = simulate(failover("a/m, b/m", attempts=1), weather, rate=1.0, seconds=300.0)
        wasted[mode] = report.wasted

    assert report.calls == wasted["warn"]
    assert 5 <= wasted["skip"] <= 10  # a probe in each minute, and what was under way at first
    assert wasted["skip"] < wasted["off"] < wasted["warn"] / 4


@over_modes
def test_the_explanation_says_what_follows_from_the_setting(mode: Any) -> None:
    """Kind, health and what comes next are those of a call that is made now."""
    configure(on_memory_pressure=mode)

    lines = str(classify.explain(MemoryError())).splitlines()

    because = "the class MemoryError" + (
        f"; on_memory_pressure is {mode!r}" if mode != "skip" else ""
    )
    health_, then = {
        "skip": (
            "a failure of the target",
            "the next target; benched at once for memory_pressure_cooldown",
        ),
        "warn": ("untouched", "the next target"),
        "off": (
            "a failure of the target",
            "retried with backoff while attempts are left, then the next target",
        ),
    }[mode]
    assert f"{KIND_UNDER[mode]}: out_of_memory" == lines[0]
    assert [because, health_, then] == [
        line[15:] for line in lines if line[2:15].strip() in ("because", "health", "then")
    ]
    assert classify.explain(MemoryError()).verdict == classify(MemoryError())


def test_nothing_is_changed_of_other_errors() -> None:
    """A verdict of another kind is the same object under each setting."""
    seen: set[int] = set()
    for mode in MODES:
        with isolated():
            configure(on_memory_pressure=mode)
            seen.add(id(classify(ConnectionResetError())))

    assert 1 == len(seen)


def test_the_event_of_a_bench_says_so(clock: FakeClock) -> None:
    """Kind, trigger and end are those of memory pressure with the cooldown that is configured."""
    configure(memory_pressure_cooldown=40.0)

    with capture_events(TargetBenched) as events:
        breaker(GROQ).record(MemoryError(), 0.0)

    (event,) = events
    assert ("memory_pressure", "out_of_memory", "memory_pressure") == (
        event.kind,
        event.reason,
        event.trigger,
    )
    assert event.until is not None
    assert 40.0 == pytest.approx((event.until - event.at).total_seconds(), abs=1e-3)
