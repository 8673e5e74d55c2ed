"""Events: emitted in order to every observer, and to the log."""

import dataclasses
import logging
from datetime import UTC, datetime, timedelta

import anyio
import pytest
import trio

import resilient_llm
from resilient_llm import (
    AttemptFailed,
    AttemptSucceeded,
    CallFailed,
    ChainExhaustedError,
    ErrorKind,
    Event,
    FailedOver,
    HealthChanged,
    ObserverFailed,
    RetryScheduled,
    RetryStopped,
    Target,
    TargetBenched,
    TargetSkipped,
    TargetUnbenched,
    UnknownError,
    bench_model,
    breaker,
    configure,
    events,
    failover,
    list_benched,
    observe,
    testing,
    unbench_model,
)
from resilient_llm._api import observing
from resilient_llm._core.circuit.outbox import Fact
from resilient_llm._drive.tasks import waker
from resilient_llm._runtime.runtime import runtime
from resilient_llm.testing import capture_events
from tests.support.guards import PATIENCE, fail, half_open, is_refused, seen, state, succeed, trip
from tests.support.ways import (
    CHAIN_SHAPES,
    GROQ,
    OPENAI,
    SHAPES,
    ProviderError,
    Shape,
    StrangeError,
    down,
    on_both_loops,
    over,
    run_async,
    unreachable,
)

EVENTS = [
    "AttemptSucceeded",
    "AttemptFailed",
    "AttemptCancelled",
    "RetryScheduled",
    "RetryStopped",
    "TargetSkipped",
    "TargetBenched",
    "TargetUnbenched",
    "FailedOver",
    "CallFailed",
    "HealthChanged",
    "StreamCommitted",
    "StreamInterrupted",
    "UnknownError",
    "ObserverFailed",
    "HedgeStarted",
    "OrderChanged",
    "ToolLoopDetected",
    "SpendRecorded",
    "BudgetWarning",
    "BudgetExceeded",
    "StoreUnavailable",
    "StoreAvailable",
    "StoreLost",
    "ConfigReloaded",
    "ConfigReloadFailed",
]
FIELDS = {
    "AttemptSucceeded": {"number", "seconds"},
    "AttemptFailed": {"number", "seconds", "kind", "reason", "status"},
    "AttemptCancelled": {"number", "seconds", "reason"},
    "RetryScheduled": {"number", "delay", "source"},
    "RetryStopped": {"reason"},
    "TargetSkipped": {"reason"},
    "TargetBenched": {"kind", "reason", "trigger", "until", "retry_after", "by", "source"},
    "TargetUnbenched": {"reason", "by", "source"},
    "FailedOver": {"from_target", "to_target", "kind", "reason"},
    "CallFailed": {"attempts", "kind"},
    "HealthChanged": {"old", "new"},
    "StreamCommitted": {"seconds"},
    "StreamInterrupted": {"items_sent", "kind", "reason"},
    "UnknownError": {"type_name", "status"},
    "ObserverFailed": {"type_name"},
    "HedgeStarted": {"number", "delay", "beside"},
    "OrderChanged": {"order"},
    "ToolLoopDetected": {"tool", "repeats", "action"},
    "SpendRecorded": {"usd", "usage", "estimated", "spend_key"},
    "BudgetWarning": {"budget", "key", "spent", "cap", "resets_at"},
    "BudgetExceeded": {"budget", "key", "spent", "cap", "resets_at"},
    "StoreUnavailable": {"url", "reason", "type_name"},
    "StoreAvailable": {"url", "seconds"},
    "StoreLost": {"url"},
    "ConfigReloaded": {"source", "changed"},
    "ConfigReloadFailed": {"source", "problems"},
}


SECRET = "sk-secret-prompt"


def name_of(target: object) -> str:
    """The key of what an event calls a target."""
    return str(getattr(target, "key", target))


def names(found: list[object]) -> list[str]:
    """The names of events, in order."""
    return [type(event).__name__ for event in found]


def ask_chain(outcomes: dict[str, list[object]], **options: object) -> object:
    """Make one call over the targets that have scripted outcomes."""
    scripts = {key: testing.scripted(*script) for key, script in outcomes.items()}
    settings = {"attempts": 1, "backoff": lambda n: 0.25} | options

    @failover(chain=list(outcomes), **settings)
    def ask(target: Target) -> object:
        return scripts[target.key]()

    return ask()


# --- what an event is -------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVENTS)
def test_events_are_frozen_dataclasses_with_time_call_and_target(name: str):
    """Every event has its fields beside `.at`, `.call_id` and `.target`."""
    event_class = getattr(resilient_llm, name)

    fields = {field.name for field in dataclasses.fields(event_class)}

    assert event_class.__dataclass_params__.frozen
    assert {"at", "call_id", "target"} | FIELDS[name] <= fields


def test_an_event_cannot_be_changed(clock):
    """What an observer is given is frozen."""
    with seen(TargetBenched) as found:
        trip()

    with pytest.raises(dataclasses.FrozenInstanceError):
        found[0].reason = "other"


def test_an_event_holds_its_moment_its_call_and_its_target(clock):
    """`.at` is an aware datetime, and events of one call share its id."""
    with seen(AttemptFailed, AttemptSucceeded) as found:
        ask_chain({GROQ: [down()], OPENAI: ["answer"]})
        ask_chain({OPENAI: ["answer"]})

    assert [timedelta(0)] * 3 == [event.at.utcoffset() for event in found]
    assert [GROQ, OPENAI, OPENAI] == [name_of(event.target) for event in found]
    assert found[0].call_id == found[1].call_id != found[2].call_id
    assert found[0].call_id


def test_moments_follow_the_clock(clock):
    """`.at` grows by what the clock was moved."""
    with seen(TargetBenched) as found:
        bench_model(GROQ)
        clock.advance(90)
        bench_model(OPENAI)

    assert 90 == pytest.approx((found[1].at - found[0].at).total_seconds())


def test_moments_are_near_the_real_time_without_a_fake_clock():
    """`.at` is the time of the wall clock."""
    with seen(TargetBenched) as found:
        bench_model(GROQ)

    assert abs((datetime.now(UTC) - found[0].at).total_seconds()) < 20


# --- which events there are -------------------------------------------------------------------


@over(CHAIN_SHAPES)
def test_a_success_is_emitted_with_its_number_and_seconds(clock, shape: Shape):
    """An attempt that succeeds is AttemptSucceeded."""

    def provider() -> str:
        clock.advance(1.5)
        return "answer"

    with seen() as found:
        shape.run(GROQ, provider)

    (event,) = [event for event in found if isinstance(event, AttemptSucceeded)]
    assert (1, GROQ) == (event.number, name_of(event.target))
    assert 1.5 == pytest.approx(event.seconds)


@over(CHAIN_SHAPES)
def test_a_failure_is_emitted_with_kind_reason_and_status(clock, shape: Shape):
    """An attempt that fails is AttemptFailed, and its call CallFailed."""
    error = down()

    def provider() -> None:
        clock.advance(2)
        raise error

    with seen(AttemptFailed, CallFailed) as found, pytest.raises(ProviderError):
        shape.run(GROQ, provider)

    failed, call_failed = found
    assert (1, ErrorKind("transient"), 503) == (failed.number, failed.kind, failed.status)
    assert 2 == pytest.approx(failed.seconds)
    assert failed.reason
    assert isinstance(call_failed, CallFailed)
    assert ErrorKind("transient") == call_failed.kind


def test_attempts_are_numbered_within_their_target(clock):
    """Numbers start from 1 at each target."""
    with seen(AttemptFailed, AttemptSucceeded) as found:
        ask_chain({GROQ: [down(), down()], OPENAI: [down(), "answer"]}, attempts=2)

    assert [(GROQ, 1), (GROQ, 2), (OPENAI, 1), (OPENAI, 2)] == [
        (name_of(event.target), event.number) for event in found
    ]


def test_a_retry_is_emitted_before_it_is_made(clock):
    """RetryScheduled comes between two attempts, with its delay and where that is from."""
    with seen(AttemptFailed, RetryScheduled, AttemptSucceeded) as found:
        ask_chain({GROQ: [down(), "answer"]}, attempts=3)

    assert ["AttemptFailed", "RetryScheduled", "AttemptSucceeded"] == names(found)
    assert 0.25 == pytest.approx(found[1].delay)
    assert found[1].source


def test_retries_that_are_used_up_are_emitted(clock):
    """RetryStopped says that there were no attempts left."""
    with seen(RetryStopped) as found:
        ask_chain({GROQ: [down(), down()], OPENAI: ["answer"]}, attempts=2)

    assert ["attempts"] == [str(event.reason) for event in found]


def test_retries_that_the_budget_refuses_are_emitted(clock):
    """RetryStopped says that the retry budget is spent."""
    configure(retry_budget=0.0001)
    breaker(GROQ, failures=1000, min_calls=1000)

    with seen(RetryStopped) as found, pytest.raises(ChainExhaustedError):
        ask_chain({GROQ: [down() for _ in range(30)]}, attempts=30, backoff=lambda n: 0.0)

    assert ["budget"] == [str(event.reason) for event in found]


def test_retries_that_the_deadline_refuses_are_emitted(clock):
    """RetryStopped says that a wait does not fit the deadline."""
    with seen(RetryStopped) as found, pytest.raises(resilient_llm.ResilientLLMError):
        ask_chain({GROQ: [down(), down()]}, attempts=2, timeout=3, backoff=lambda n: 9.0)

    assert ["deadline"] == [str(event.reason) for event in found]


def test_retries_that_a_hint_refuses_are_emitted(clock):
    """RetryStopped says that the provider asked for a wait that is too long."""
    limited = ProviderError(429, retry_after=900, message="Rate limit reached for this model")

    with seen(RetryStopped) as found, pytest.raises(ChainExhaustedError):
        ask_chain({GROQ: [limited, "answer"]}, attempts=2)

    assert ["hint"] == [str(event.reason) for event in found]


def test_a_failover_is_emitted_with_both_targets(clock):
    """FailedOver comes after the failed attempt and before the next target's."""
    with seen(AttemptFailed, FailedOver, AttemptSucceeded) as found:
        ask_chain({GROQ: [down()], OPENAI: ["answer"]})

    assert ["AttemptFailed", "FailedOver", "AttemptSucceeded"] == names(found)
    assert (GROQ, OPENAI) == (name_of(found[1].from_target), name_of(found[1].to_target))
    assert ErrorKind("transient") == found[1].kind
    assert found[0].reason == found[1].reason


def test_a_skip_is_emitted_and_is_no_failover(clock):
    """A benched target is TargetSkipped, and nothing failed over."""
    bench_model(GROQ)

    with seen(TargetSkipped, FailedOver, AttemptFailed) as found:
        ask_chain({GROQ: ["never"], OPENAI: ["answer"]})

    assert ["TargetSkipped"] == names(found)
    assert GROQ == name_of(found[0].target)
    assert found[0].reason


def test_a_call_whose_targets_are_all_used_up_is_emitted_once(clock):
    """CallFailed is emitted once per call that failed, and never for one that was served."""
    with seen(CallFailed) as found:
        ask_chain({GROQ: [down()], OPENAI: ["answer"]})
        served = list(found)
        with pytest.raises(ChainExhaustedError):
            ask_chain({GROQ: [down()], OPENAI: [down()]})

    assert [] == served
    assert 1 == len(found)


@over(SHAPES)
def test_a_bench_is_emitted_with_kind_reason_trigger_and_end(clock, shape: Shape):
    """Opening is emitted once, with the moment it ends."""
    with seen(TargetBenched) as found:
        for _ in range(7):
            shape.outcome(GROQ, down())

    (event,) = found
    (bench,) = list_benched()
    assert (GROQ, ErrorKind("transient")) == (name_of(event.target), event.kind)
    assert abs(event.until - bench.until) < timedelta(seconds=0.01)
    assert event.reason
    assert event.trigger


def test_a_bench_with_a_hint_holds_it(clock):
    """TargetBenched has the provider's hint."""
    with seen(TargetBenched) as found:
        fail(
            error=lambda: ProviderError(
                429, retry_after=42, message="Rate limit reached for this model"
            )
        )

    assert [(ErrorKind("rate_limited"), 42)] == [(event.kind, event.retry_after) for event in found]


def test_a_manual_bench_is_emitted(clock):
    """bench_model and unbench_model emit events as well."""
    with seen(TargetBenched, TargetUnbenched) as found:
        bench_model(GROQ, 60, reason="maintenance")
        unbench_model(GROQ)
        unbench_model(GROQ)

    assert ["TargetBenched", "TargetUnbenched"] == names(found)
    assert [GROQ, GROQ] == [name_of(event.target) for event in found]
    assert "maintenance" == found[0].reason


def test_a_manual_bench_without_an_end_has_none_in_its_event(clock):
    """`.until` is None until unbenched."""
    with seen(TargetBenched) as found:
        bench_model(GROQ)

    assert [None] == [event.until for event in found]


@over(SHAPES)
def test_a_recovery_is_emitted(clock, shape: Shape):
    """A probe that closes a circuit is TargetUnbenched."""
    half_open(clock)

    with seen(TargetUnbenched) as found:
        shape.run(GROQ, lambda: "answer")

    assert [GROQ] == [name_of(event.target) for event in found]
    assert found[0].reason


@over(SHAPES)
def test_changes_of_health_are_emitted(clock, shape: Shape):
    """HealthChanged is emitted for each step from healthy to down and back, and each begins where the last ended."""
    with seen(HealthChanged) as found:
        for _ in range(5):
            shape.outcome(GROQ, down())
        clock.advance(34)
        shape.outcome(GROQ, "answer")
        steps = [(event.old, event.new) for event in found if name_of(event.target) == GROQ]

    assert "healthy" == steps[0][0]
    assert "down" in [new for _, new in steps]
    assert "healthy" == steps[-1][1]
    assert [new for _, new in steps[:-1]] == [old for old, _ in steps[1:]]
    assert all(old != new for old, new in steps)


@over(SHAPES)
def test_an_unknown_error_is_emitted_by_its_type(clock, shape: Shape):
    """What no rule knows is UnknownError, without its text."""
    with seen(UnknownError) as found:
        shape.outcome(GROQ, StrangeError("a secret"))

    (event,) = found
    assert "StrangeError" == event.type_name.rpartition(".")[2]
    assert "secret" not in repr(event)


def test_an_unknown_error_is_logged_once_per_class(clock, caplog):
    """A class no rule knows is one line in the log, however often it is raised."""
    caplog.set_level(logging.INFO, logger="resilient_llm")

    for _ in range(4):
        fail(error=lambda: StrangeError("x"))

    assert 1 == sum("StrangeError" in message for message in caplog.messages)


# --- observers --------------------------------------------------------------------------------


def test_an_observer_without_types_receives_everything(clock):
    """observe(callback) is for every event."""
    with seen() as found:
        ask_chain({GROQ: [down()], OPENAI: ["answer"]})
        bench_model(GROQ)

    assert {"AttemptFailed", "FailedOver", "AttemptSucceeded", "TargetBenched"} <= set(names(found))


def test_an_observer_receives_only_the_types_it_asked_for(clock):
    """observe(callback, *types) is for these types."""
    with seen(FailedOver, TargetBenched) as found:
        ask_chain({GROQ: [down()], OPENAI: ["answer"]})
        bench_model(GROQ)

    assert ["FailedOver", "TargetBenched"] == names(found)


def test_an_observer_that_unsubscribed_receives_nothing(clock):
    """observe returns what ends it, and ending it twice is fine."""
    found: list[object] = []
    unsubscribe = observe(found.append, TargetBenched)
    bench_model(GROQ)

    unsubscribe()
    unsubscribe()
    bench_model(OPENAI)

    assert [GROQ] == [name_of(event.target) for event in found]


def test_two_observers_both_receive_an_event(clock):
    """Observers do not replace each other."""
    with seen(TargetBenched) as first, seen(TargetBenched) as second:
        bench_model(GROQ)

    assert 1 == len(first) == len(second)
    assert first == second


@pytest.mark.parametrize("types", [(int,), ("TargetBenched",), (3,)], ids=str)
def test_observing_what_is_no_event_is_refused(types: tuple[object, ...]):
    """A type that is not an event can never be emitted."""
    with pytest.raises((resilient_llm.ConfigurationError, TypeError)):
        observe(print, *types)


@over(SHAPES)
def test_an_observer_that_raises_harms_neither_the_call_nor_other_observers(clock, shape: Shape):
    """Calls go on, and the other observers receive the event and the failure of the first."""

    def broken(event: object) -> None:
        raise RuntimeError("a broken observer")

    observe(broken)
    with seen(TargetBenched, ObserverFailed) as found:
        outcomes = [
            shape.outcome(GROQ, outcome) for outcome in ["answer", *(down() for _ in range(6))]
        ]

    assert ["served", *["failed"] * 5, "refused"] == outcomes
    assert "open" == state()
    assert "TargetBenched" in names(found)
    assert {"RuntimeError"} == {
        event.type_name.rpartition(".")[2] for event in found if isinstance(event, ObserverFailed)
    }


def test_an_observer_that_raises_is_logged_once(clock, caplog):
    """A broken observer does not flood the log."""
    caplog.set_level(logging.WARNING, logger="resilient_llm")

    class BrokenObserverError(Exception):
        pass

    def broken(event: object) -> None:
        raise BrokenObserverError

    observe(broken, TargetBenched)
    for number in range(5):
        bench_model(f"groq/{number}")

    assert 1 == sum("BrokenObserverError" in message for message in caplog.messages)


def test_an_observer_of_its_own_failures_does_not_run_for_ever(clock):
    """An observer that fails on ObserverFailed does not receive that again without end."""
    received = []

    def broken(event: object) -> None:
        received.append(event)
        raise RuntimeError

    observe(broken)
    bench_model(GROQ)

    assert 1 <= len(received) <= 10


def test_events_of_a_key_arrive_in_order(clock):
    """What happened first is emitted first, with moments that never go back."""
    with seen() as found:
        for _ in range(3):
            trip()
            clock.advance(34)
            succeed()

    of_key = [event for event in found if name_of(event.target) == GROQ]
    kinds = [name for name in names(of_key) if name in ("TargetBenched", "TargetUnbenched")]
    assert ["TargetBenched", "TargetUnbenched"] * 3 == kinds
    assert sorted(event.at for event in of_key) == [event.at for event in of_key]


def test_observers_of_a_policy_receive_its_calls_only(clock):
    """failover(observers=...) observes the calls of that policy."""
    found: list[object] = []

    @failover(chain=[GROQ, OPENAI], attempts=1, observers=[found.append])
    def ask(target: Target) -> str:
        if target.key == GROQ:
            raise down()
        return "answer"

    ask()
    own = names(found)
    ask_chain({OPENAI: ["answer"]})

    assert ["AttemptFailed", "FailedOver", "AttemptSucceeded"] == [
        name for name in own if name in ("AttemptFailed", "FailedOver", "AttemptSucceeded")
    ]
    assert own == names(found)


def test_isolated_has_observers_of_its_own(clock):
    """An observer from outside receives no event from inside isolated(), and does so again after."""
    with seen(TargetBenched) as found:
        with testing.isolated():
            bench_model(GROQ)
        inside = list(found)
        bench_model(OPENAI)

    assert [] == inside
    assert [OPENAI] == [name_of(event.target) for event in found]


def test_capture_events_collects_what_happens_inside(clock):
    """testing.capture_events() is an observer for tests."""
    with testing.capture_events() as captured:
        bench_model(GROQ)
    bench_model(OPENAI)

    assert [GROQ] == [
        name_of(event.target) for event in captured if isinstance(event, TargetBenched)
    ]


def test_what_waits_when_captured_events_end_is_among_them(clock):
    """However much it is: a thread that emits hands over a share of what others have left."""
    bench_model(GROQ)
    outbox = runtime.registry.circuit(GROQ).outbox
    with testing.capture_events(TargetUnbenched) as captured:
        for _ in range(100):
            outbox.add(Fact("TargetUnbenched", runtime.clock(), fields={"reason": "manual"}))
        assert [] == captured

    assert 100 == len(captured)
    assert not outbox


def test_events_and_logs_hold_neither_prompts_nor_texts_of_providers(clock, caplog):
    """Arguments, results, error texts and headers stay out of events, logs and our own errors."""
    caplog.set_level(logging.DEBUG, logger="resilient_llm")

    @failover(chain=[GROQ, OPENAI], attempts=2, backoff=lambda n: 0.0)
    def ask(target: Target, prompt: str) -> str:
        raise ProviderError(503, message=f"cannot answer {prompt}, key sk-VERY-SECRET")

    with seen() as found, pytest.raises(ChainExhaustedError) as caught:
        ask("THE-PROMPT")

    records = [str(vars(record)) for record in caplog.records]
    words = " ".join([*map(repr, found), *caplog.messages, *records, str(caught.value)])
    assert found
    assert caplog.records
    assert "THE-PROMPT" not in words
    assert "SECRET" not in words


def test_no_prompt_key_or_text_of_a_provider_is_emitted(caplog: pytest.LogCaptureFixture) -> None:
    """Messages, events and log lines hold none of them, whatever goes wrong."""
    caplog.set_level("DEBUG", logger="resilient_llm")

    @failover(
        chain=[Target(GROQ, params={"api_key": SECRET}), OPENAI], attempts=2, backoff=lambda n: 0.0
    )
    def ask(target: Target, prompt: str) -> str:
        raise ProviderError(503, message=f"{prompt} {SECRET}")

    with capture_events() as events, pytest.raises(ChainExhaustedError) as caught:
        ask(SECRET)

    emitted = [str(caught.value), repr(caught.value.attempts), *map(repr, events), *caplog.messages]
    emitted += [repr(record.__dict__) for record in caplog.records]
    emitted += [note for member in caught.value.exceptions for note in member.__notes__]
    assert [] == [text for text in emitted if SECRET in text]
    assert repr(Target(GROQ, params={"api_key": SECRET})) == "Target('groq/llama')"


# --- events() for async consumers -------------------------------------------------------------


@on_both_loops
def test_an_async_consumer_gets_events_in_order(clock, backend: str):
    """`async for` over events() yields what happened since it was entered."""

    async def main() -> list[str]:
        bench_model("before/it")
        found = []
        async with events() as stream:
            for number in range(3):
                bench_model(f"groq/{number}")
            with anyio.fail_after(PATIENCE):
                async for event in stream:
                    if isinstance(event, TargetBenched):
                        found.append(name_of(event.target))
                    if len(found) == 3:
                        break
        return found

    assert ["groq/0", "groq/1", "groq/2"] == run_async(main, backend=backend)


@on_both_loops
def test_an_async_consumer_that_waits_is_woken(clock, backend: str):
    """An event that happens in a task or in a thread reaches a consumer that is waiting for it."""

    async def main() -> list[str]:
        found = []
        async with events() as stream:

            async def consume() -> None:
                async for event in stream:
                    if isinstance(event, TargetBenched):
                        found.append(name_of(event.target))
                    if len(found) == 2:
                        break

            with anyio.fail_after(PATIENCE):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(consume)
                    await anyio.wait_all_tasks_blocked()
                    bench_model("from/task")
                    await anyio.wait_all_tasks_blocked()
                    await anyio.to_thread.run_sync(bench_model, "from/thread")
        return found

    assert ["from/task", "from/thread"] == run_async(main, backend=backend)


@pytest.mark.slow
@on_both_loops
def test_a_consumer_that_waits_is_woken_from_another_thread(backend: str) -> None:
    """Events reach the loop they are awaited in from whichever thread makes them."""

    async def main() -> str:
        async with events(TargetBenched) as stream, anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, bench_model, "late")
            with anyio.fail_after(10):
                async for event in stream:
                    return event.target
        raise AssertionError

    assert "late" == run_async(main, backend=backend)


@on_both_loops
def test_a_consumer_that_does_not_read_holds_nobody_up(clock, backend: str):
    """The stream is bounded: calls go on, and the consumer still gets events afterwards."""

    async def main() -> int:
        count = 0
        async with events() as stream:
            for number in range(20_000):
                bench_model(f"groq/{number % 10}")
            with anyio.move_on_after(0.2):
                async for _event in stream:
                    count += 1
        return count

    assert 0 < run_async(main, backend=backend) < 20_000


@on_both_loops
def test_a_slow_consumer_of_events_loses_the_oldest_and_sees_how_many(backend: str) -> None:
    """The buffer is bounded; what is dropped is counted."""

    async def main() -> tuple[list[str], int]:
        async with events(TargetBenched, buffer=2) as stream:
            for key in ("a", "b", "c", "d"):
                bench_model(key)
            found: list[Event] = []
            async for event in stream:
                found.append(event)
                if len(found) == 2:
                    break
            return [event.target for event in found], stream.dropped

    assert (["c", "d"], 2) == run_async(main, backend=backend)


@on_both_loops
def test_two_async_consumers_both_get_every_event(clock, backend: str):
    """Consumers do not share one queue."""

    async def main() -> list[str]:
        found = []
        async with events() as first, events() as second:
            bench_model(GROQ)
            with anyio.fail_after(PATIENCE):
                for stream in (first, second):
                    async for event in stream:
                        if isinstance(event, TargetBenched):
                            found.append(name_of(event.target))
                            break
        return found

    assert [GROQ, GROQ] == run_async(main, backend=backend)


@on_both_loops
def test_leaving_ends_all_consumers_at_once(clock, backend: str):
    """Consumers that wait end, and so do those that have not read everything."""

    async def main() -> list[str]:
        ended = []

        async def consume(name: str) -> None:
            async for _ in stream:
                pass
            ended.append(name)

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                async with events() as stream:
                    tasks.start_soon(consume, "one")
                    tasks.start_soon(consume, "other")
                    await anyio.wait_all_tasks_blocked()
                    bench_model(GROQ)
                tasks.start_soon(consume, "late")
        return sorted(ended)

    assert ["late", "one", "other"] == run_async(main, backend=backend)


@on_both_loops
def test_of_several_consumers_each_event_goes_to_one(clock, backend: str):
    """They share the work, and none of them waits in vain."""

    async def main() -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        record = found.append

        async def consume(number: int) -> None:
            async for event in stream:
                record((event.target, number))

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks, events(TargetBenched) as stream:
                tasks.start_soon(consume, 1)
                tasks.start_soon(consume, 2)
                for number in range(6):
                    await anyio.wait_all_tasks_blocked()
                    bench_model(f"groq/{number}")
                await anyio.wait_all_tasks_blocked()
        return found

    found = run_async(main, backend=backend)

    assert [f"groq/{number}" for number in range(6)] == [target for target, _ in found]
    assert {1, 2} == {number for _, number in found}


@on_both_loops
def test_a_consumer_that_is_cancelled_leaves_its_event_to_another(clock, backend: str):
    """Also if it had been woken for the event, but had not run yet."""

    async def main() -> list[str]:
        found: list[str] = []
        record = found.append

        async def consume(name: str, scope: anyio.CancelScope) -> None:
            with scope:
                async for event in stream:
                    record(f"{name} {event.target}")

        scopes = [anyio.CancelScope() for _ in range(2)]
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks, events(TargetBenched) as stream:
                for name, scope in zip(("first", "second"), scopes, strict=True):
                    tasks.start_soon(consume, name, scope)
                    await anyio.wait_all_tasks_blocked()
                bench_model("groq/a")
                scopes[0].cancel()
                await anyio.wait_all_tasks_blocked()
                bench_model("groq/b")
                await anyio.wait_all_tasks_blocked()
        return found

    assert ["second groq/a", "second groq/b"] == run_async(main, backend=backend)


@on_both_loops
def test_a_loop_is_woken_once_for_a_wait_and_not_for_each_event(
    clock, backend: str, monkeypatch: pytest.MonkeyPatch
):
    """While nobody waits, events cost the loop nothing."""
    wakes = []

    def counted() -> object:
        soon = waker()
        return lambda work: (wakes.append(work), soon(work))

    monkeypatch.setattr(observing, "waker", counted)

    async def main() -> tuple[int, int]:
        async with events(TargetBenched, buffer=10) as stream:
            for _ in range(100):
                bench_model(GROQ)
            unread = len(wakes)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read, stream)
                await anyio.wait_all_tasks_blocked()
                for _ in range(100):
                    bench_model(GROQ)
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
            return unread, stream.dropped

    async def read(stream: object) -> None:
        async for _ in stream:
            pass

    assert (0, 90 + 90) == run_async(main, backend=backend)
    assert 1 == len(wakes)


def test_consumers_in_two_loops_share_one_stream(clock):
    """Each is woken in its own loop, and a loop that has ended does not hold events up."""
    found = []

    async def consume(stream: object, count: int) -> None:
        async for event in stream:
            found.append(event.target)
            if len(found) == count:
                return

    async def waits_and_goes(stream: object) -> None:
        with anyio.move_on_after(0):
            await consume(stream, 99)

    async def main() -> None:
        async with events(TargetBenched) as stream:
            with anyio.fail_after(PATIENCE):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(consume, stream, 1)
                    await anyio.wait_all_tasks_blocked()
                    bench_model("groq/a")
                trio.run(waits_and_goes, stream)
                await anyio.to_thread.run_sync(in_the_other_loop, stream)

    def in_the_other_loop(stream: object) -> None:
        async def run() -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(consume, stream, 2)
                await anyio.wait_all_tasks_blocked()
                bench_model("groq/b")

        trio.run(run)

    anyio.run(main)

    assert ["groq/a", "groq/b"] == found


# --- the log ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("happens", "level", "key"),
    [
        (lambda: bench_model(GROQ), logging.WARNING, GROQ),
        (lambda: trip(), logging.WARNING, GROQ),
        (lambda: ask_chain({GROQ: [down()], OPENAI: ["answer"]}), logging.INFO, OPENAI),
        (lambda: ask_chain({GROQ: ["answer"]}), logging.DEBUG, GROQ),
    ],
    ids=["manual bench", "bench", "failover", "attempt"],
)
def test_the_log_has_a_level_for_each_kind_of_event(clock, caplog, happens, level: int, key: str):
    """Benches are warnings, failovers information, attempts for debugging; fields are in `extra`."""
    caplog.set_level(logging.DEBUG, logger="resilient_llm")

    happens()

    found = [
        record
        for record in caplog.records
        if record.levelno == level and record.name.startswith("resilient_llm")
    ]
    assert found
    assert any(key in map(name_of, vars(record).values()) for record in found)


def test_a_failed_call_is_a_warning(clock, caplog):
    """A call that nobody served is a warning, one that was served is none."""
    caplog.set_level(logging.WARNING, logger="resilient_llm")

    ask_chain({GROQ: [down()], OPENAI: ["answer"]})
    after_served = len(caplog.records)
    with pytest.raises(ChainExhaustedError):
        ask_chain({GROQ: [down()], OPENAI: [down()]})

    assert 0 == after_served
    assert [logging.WARNING] == [record.levelno for record in caplog.records]


def test_logging_can_be_turned_off_and_on(clock, caplog):
    """configure(logging=False) silences the default observer, configure(logging=True) brings it back."""
    caplog.set_level(logging.INFO, logger="resilient_llm")

    configure(logging=False)
    trip()
    ask_chain({OPENAI: [down()], "groq/other": ["answer"]})
    silent = list(caplog.messages)
    configure(logging=True)
    bench_model(OPENAI)

    assert [] == silent
    assert 1 == len(caplog.records)


def test_observers_are_called_though_logging_is_off(clock):
    """The default observer is one of many."""
    configure(logging=False)

    with seen(TargetBenched) as found:
        trip()

    assert 1 == len(found)


def test_a_refused_call_is_no_event_of_a_bench(clock):
    """Rejections do not repeat the event of the bench that causes them."""
    with seen(TargetBenched) as found:
        trip("groq/a", unreachable)
        for _ in range(5):
            assert is_refused("groq/b")

    assert ["groq"] == [name_of(event.target) for event in found]
