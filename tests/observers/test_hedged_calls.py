"""What is seen of attempts that run side by side: spans, counts, names of calls and contexts."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")
pytest.importorskip("prometheus_client")

import prometheus_client

from resilient_llm import (
    Attempt,
    Target,
    breaker,
    call_id,
    configure,
    failover,
    health,
)
from resilient_llm._runtime.runtime import runtime
from resilient_llm.observers import prometheus
from resilient_llm.testing import capture_events
from tests.support.hedges import Stage, in_flight, played, settle
from tests.support.spans import Recorded, recorded
from tests.support.ways import GROQ, MISTRAL, OPENAI, down, on_both_loops, run_async

CHAIN = [GROQ, OPENAI, MISTRAL]
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")


@pytest.fixture
def spans() -> Iterator[Recorded]:
    with recorded() as found:
        yield found


async def _race(ask: Any, stage: Stage, clock: Any, *says: tuple[str, Any]) -> Any:
    """Run a call whose first attempt is slow; what the attempts give comes one by one."""
    async with played(ask) as play:
        await stage.begins(GROQ)
        clock.advance(2.0)
        await stage.begins(OPENAI)
        for key, outcome in says:
            stage.says(key, outcome)
            await settle()
        return await play.ends()


@on_both_loops
@pytest.mark.parametrize("timeout", [None, 60.0])
@pytest.mark.parametrize("winner", [GROQ, OPENAI])
def test_each_attempt_of_a_race_has_its_own_span(
    backend: str, timeout: float | None, winner: str, spans: Recorded, clock: Any
) -> None:
    """A child of the span of the call, and the parent of what its own attempt records."""
    stage = Stage()

    @failover(chain=CHAIN, hedge=2.0, timeout=timeout)
    async def ask(target: Target) -> Any:
        with spans.tracer.start_as_current_span(f"before {target.provider}"):
            pass
        answer = await stage.provide(target)
        with spans.tracer.start_as_current_span(f"after {target.provider}"):
            pass
        return answer

    async def main() -> None:
        await _race(ask, stage, clock, (winner, "answer"))
        await _race(ask, stage, clock, (winner, "answer"))

    run_async(main, backend=backend)
    loser = OPENAI if winner == GROQ else GROQ
    assert 2 == len(spans.calls)
    for call in spans.calls:
        attempts = [
            each
            for each in spans.attempts
            if each.parent is not None and each.parent.span_id == call.context.span_id
        ]
        seen = {
            str(each.attributes["resilient_llm.outcome"]): each
            for each in attempts  # type: ignore[index]
        }
        assert {"ok", "cancelled"} == set(seen)
        for target, outcome in ((winner, "ok"), (loser, "cancelled")):
            inside = {
                each.name
                for each in spans.spans
                if each.parent is not None and each.parent.span_id == seen[outcome].context.span_id
            }
            provider = target.partition("/")[0]
            names = {f"before {provider}", f"after {provider}"}
            assert (names if outcome == "ok" else {f"before {provider}"}) == inside
        assert "lost" == seen["cancelled"].attributes["resilient_llm.reason"]  # type: ignore[index]
        assert winner == call.attributes["resilient_llm.served_by"]  # type: ignore[index]
        assert 2 == call.attributes["resilient_llm.attempts"]  # type: ignore[index]


@on_both_loops
def test_a_failure_in_a_race_is_that_of_its_own_span(
    backend: str, spans: Recorded, clock: Any
) -> None:
    """Also if another attempt began later."""
    stage = Stage()

    @failover(chain=CHAIN, hedge=2.0)
    async def ask(target: Target) -> Any:
        return await stage.provide(target)

    run_async(_race, ask, stage, clock, (GROQ, down()), (OPENAI, "yes"), backend=backend)
    assert {("llama", "transient"), ("gpt", "ok")} == {
        (each.name.removeprefix("chat "), each.attributes["resilient_llm.outcome"])  # type: ignore[index]
        for each in spans.attempts
    }


@on_both_loops
@pytest.mark.parametrize(
    "says",
    [
        [(GROQ, "first")],
        [(OPENAI, "second")],
        [(GROQ, down()), (OPENAI, "second")],
        [(OPENAI, TypeError())],
        [(GROQ, down()), (OPENAI, down()), (MISTRAL, down())],
    ],
)
def test_what_is_in_flight_goes_back(backend: str, says: list[Any], clock: Any) -> None:
    """Each attempt is counted once at its begin and once at its end, and the call once."""
    stage = Stage()
    registry = prometheus_client.CollectorRegistry()
    uninstall = prometheus.install(registry)

    @failover(chain=CHAIN, hedge=2.0, attempts=1)
    async def ask(target: Target) -> Any:
        return await stage.provide(target)

    async def main() -> None:
        for _ in range(2):
            await _race(ask, stage, clock, *says)

    try:
        run_async(main, backend=backend)
        assert [0, 0, 0] == in_flight(*CHAIN)
        ledger = runtime.dispatcher.ledger
        assert ledger is not None
        (counts,) = ledger.functions.values()
        answered = sum(sum(counts.target(key).answers) for key in CHAIN)
        assert 2 == answered + counts.failed + counts.cancelled
    finally:
        uninstall()


@on_both_loops
def test_a_hedge_runs_in_a_copy_of_the_callers_context(backend: str, clock: Any) -> None:
    """It sees what the caller has set, and nothing that the slow attempt has set."""
    stage, seen = Stage(), dict[str, str]()

    @failover(chain=CHAIN, hedge=2.0)
    async def ask(target: Target) -> Any:
        seen[target.key] = variable.get()
        variable.set(target.key)
        return await stage.provide(target)

    async def main() -> str:
        variable.set("the caller's")
        await _race(ask, stage, clock, (OPENAI, "answer"))
        return variable.get()

    assert "the caller's" == run_async(main, backend=backend)
    assert {GROQ: "the caller's", OPENAI: "the caller's"} == seen


@on_both_loops
def test_all_attempts_of_a_race_are_of_one_call(backend: str, clock: Any) -> None:
    """``call_id()`` and the events say its name."""
    stage, seen = Stage(), set[Any]()

    @failover(chain=CHAIN, hedge=2.0, reject=lambda _: seen.add(call_id()))
    async def ask(target: Target) -> Any:
        seen.add(call_id())
        try:
            return await stage.provide(target)
        finally:
            seen.add(call_id())

    call_id()
    with capture_events() as events:
        run_async(_race, ask, stage, clock, (OPENAI, "answer"), backend=backend)
    assert {each.call_id for each in events} == seen
    assert 1 == len(seen)


@on_both_loops
def test_an_attempt_is_told_what_is_left_for_it(backend: str, clock: Any) -> None:
    """A hedge gets what the slow attempt has left of the deadline, less the share of a fallback."""
    stage, told = Stage(), dict[str, Any]()

    @failover(chain=[GROQ, OPENAI], hedge=2.0, timeout=10.0)
    async def ask(target: Target, attempt: Attempt) -> Any:
        told[target.key] = attempt.number, attempt.remaining
        return await stage.provide(target)

    run_async(_race, ask, stage, clock, (OPENAI, "answer"), backend=backend)
    assert {GROQ: (1, 7.5), OPENAI: (1, 8.0)} == told


@on_both_loops
def test_guards_inside_attempts_of_a_race_count_once(backend: str, clock: Any) -> None:
    """A failure that passes a guard in a hedge is not charged again by its call."""
    stage = Stage()

    @failover(chain=CHAIN, hedge=2.0, attempts=1)
    async def ask(target: Target) -> Any:
        async with breaker(target.key):
            return await stage.provide(target)

    run_async(_race, ask, stage, clock, (OPENAI, down()), (GROQ, "answer"), backend=backend)
    assert (1, 1) == (health()[OPENAI].errors, health()[OPENAI].total)
    assert (0, 1) == (health()[GROQ].errors, health()[GROQ].total)


@on_both_loops
def test_the_budget_is_exact(backend: str, clock: Any) -> None:
    """The floor of ten extra attempts in ten seconds, and not one more, by any of 20 calls."""
    configure(retry_budget=0.0)
    stage = Stage()

    @failover(chain=CHAIN, hedge=0.25)
    async def ask(target: Target) -> Any:
        return await stage.provide(target)

    async def main() -> None:
        for _ in range(20):
            async with played(ask):
                await stage.begins(GROQ)
                clock.advance(0.25)
                await settle()
                stage.says(GROQ, "answer")

    run_async(main, backend=backend)
    assert 10 == stage.asked.count(OPENAI)
    clock.advance(10.0)
    run_async(main, backend=backend)
    assert 20 == stage.asked.count(OPENAI)


@on_both_loops
def test_streams_of_a_race_end_their_spans(backend: str, spans: Recorded, clock: Any) -> None:
    """That of the winner when its stream ends, with its items inside."""
    stage = Stage()

    @failover(chain=CHAIN, hedge=2.0)
    async def ask(target: Target) -> AsyncIterator[Any]:
        yield await stage.provide(target)
        with spans.tracer.start_as_current_span(f"late {target.provider}"):
            pass
        yield "!"

    async def read() -> list[Any]:
        return [item async for item in ask()]

    assert ["hedged", "!"] == run_async(
        _race, read, stage, clock, (OPENAI, "hedged"), backend=backend
    )
    assert "chat gpt" == spans.parent("late openai")
    assert {"chat gpt", "chat llama"} == {each.name for each in spans.attempts}
    assert 1 == len(spans.calls)
