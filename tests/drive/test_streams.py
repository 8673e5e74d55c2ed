"""Streams through the public API: held back until the first content, always closed."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from unittest.mock import AsyncMock, MagicMock, Mock, NonCallableMagicMock

import pytest

from resilient_llm import (
    Attempt,
    AttemptFailed,
    AttemptSucceeded,
    BreakerOpenError,
    CallFailed,
    ChainExhaustedError,
    ConfigurationError,
    DeadlineExceededError,
    ErrorKind,
    FailedOver,
    ResponseRejectedError,
    StreamCommitted,
    StreamInterrupted,
    StreamInterruptedError,
    StreamPolicy,
    Target,
    Trace,
    Verdict,
    breaker,
    configure,
    failover,
    health,
    is_benched,
    reset,
)
from resilient_llm._core.circuit.permit import held_leases
from resilient_llm.testing import FakeClock, capture_events
from tests.support.stream_forms import (
    ASYNC_FORMS,
    END,
    FEW_FORMS,
    FORMS,
    GUARDED_FORMS,
    LAZY_FORMS,
    ROLE,
    SILENT,
    SYNC_FORMS,
    AsyncSdkStream,
    Form,
    Quiet,
    SdkStream,
    Supply,
    chunk,
    read,
    said,
    says,
)
from tests.support.ways import (
    GROQ,
    MISTRAL,
    OPENAI,
    ProviderError,
    Script,
    StrangeError,
    on_both_loops,
    over,
    rate_limited,
    refused_content,
    run_async,
)


@pytest.fixture(autouse=True)
def _no_lease_is_held() -> None:
    """Start without a lease that a failed test may have left in this thread."""
    held_leases.set(())


def down() -> ProviderError:
    """Return the error of a provider that is overloaded."""
    return ProviderError(503)


def facts(events: list[Any]) -> list[tuple[Any, ...]]:
    """Return events without what differs from call to call."""
    return [
        (
            type(event).__name__,
            *(getattr(event, each.name) for each in dataclasses.fields(event)[2:]),
        )
        for event in events
    ]


def names(events: list[Any]) -> list[str]:
    """Return the names of events."""
    return [type(event).__name__ for event in events]


# --- A whole answer ----------------------------------------------------------------------------


@over(FORMS)
def test_every_form_gives_every_item_once(form: Form, clock: FakeClock) -> None:
    """In every form the first target's items come once each, in order, and it is closed."""
    supply = Supply({GROQ: [says("It", " is")]})
    ask = form.make(failover([GROQ, OPENAI]), supply)

    with capture_events() as events:
        reading = read(form, ask)

    assert says("It", " is") == reading.items
    assert reading.error is None
    assert [GROQ] == supply.calls
    assert [] == supply.left_open
    assert ["StreamCommitted", "AttemptSucceeded"] == names(events)


@over(LAZY_FORMS)
def test_nothing_runs_before_the_first_item_is_asked_for(form: Form) -> None:
    """Calling a generator function calls no target; the result may be closed or dropped."""
    supply = Supply({GROQ: [says("It")]})
    ask = form.make(failover([GROQ]), supply)

    with capture_events() as events:
        read(form, ask, take=0)

    assert [] == supply.calls
    assert [] == events


@over(
    [
        form
        for form in FORMS
        if not form.is_lazy and not form.manages and "asyncgen" not in form.name
    ]
)
def test_a_returned_stream_closed_unread_is_closed(form: Form) -> None:
    """Closing a stream before reading from it closes what was opened; no failure is counted."""
    supply = Supply({GROQ: [says("It")]})
    ask = form.make(failover([GROQ]), supply)

    reading = read(form, ask, take=0)

    assert reading.error is None
    assert [GROQ] == supply.calls
    assert [] == supply.left_open
    assert 0 == health([GROQ])[GROQ].errors


@over(FEW_FORMS)
def test_the_call_returns_with_the_first_content(form: Form) -> None:
    """A consumer that reads one item and closes makes the provider give only its first content."""
    supply = Supply({GROQ: [says("It", " is")]})
    ask = form.make(failover([GROQ, OPENAI]), supply)

    reading = read(form, ask, take=1)

    assert [ROLE] == reading.items
    assert reading.error is None
    assert [] == supply.left_open
    assert 2 == supply.opened[0].taken


# --- Before the first content: as any call -----------------------------------------------------

BEFORE = {
    "a retry": ([down], {"attempts": 2}, {}),
    "two retries": ([down, down], {}, {}),
    "the next target": ([down, down], {"attempts": 2}, {}),
    "a rate limit": ([lambda: rate_limited(20)], {}, {}),
    "a dead key": ([lambda: ProviderError(401)], {}, {}),
    "an unknown error": ([StrangeError], {}, {}),
    "a wrong request": ([lambda: ProviderError(400)], {}, {}),
    "a wrong request that is raised": (
        [lambda: ProviderError(400)],
        {"on_request_error": "raise"},
        {},
    ),
    "a refusal": ([refused_content], {}, {}),
    "a caller's bug": ([lambda: TypeError("mine")], {}, {}),
    "all of one": ([down] * 3, {"chain": [GROQ]}, {}),
    "all of both": ([down] * 3, {}, {OPENAI: [down] * 3}),
    "at most so many": ([down] * 3, {"max_attempts": 2}, {}),
    "its own error": ([down] * 3, {"reraise": True, "chain": [GROQ]}, {}),
}


@over(FEW_FORMS)
@pytest.mark.parametrize("when", ["at the call", "within the stream"])
@pytest.mark.parametrize("scenario", BEFORE)
def test_errors_before_content_are_handled_as_in_a_plain_call(
    form: Form, when: str, scenario: str, clock: FakeClock
) -> None:
    """Before content a stream is retried and benched as a plain call: same events and waits."""
    errors, options, of_others = BEFORE[scenario]
    options = {"backoff": lambda n: float(n), **options}
    policy = failover(options.pop("chain", [GROQ, OPENAI]), **options)
    plain = Script({GROQ: [*errors, "yes"], OPENAI: [*of_others.get(OPENAI, []), "yes"]})

    def line(error: Callable[[], BaseException]) -> Any:
        return error if when == "at the call" else [ROLE, SILENT, error]

    supply = Supply(
        {
            GROQ: [*(line(error) for error in errors), says("It")],
            OPENAI: [*(line(error) for error in of_others.get(OPENAI, [])), says("It")],
        }
    )

    @policy
    def ask_plain(target: Target) -> Any:
        return plain(target)

    ended: BaseException | None = None
    with capture_events() as plain_events:
        try:
            ask_plain()
        except Exception as error:
            ended = error
    sleeps, clock.sleeps = clock.sleeps, []
    reset()
    ask = form.make(policy, supply)
    with capture_events() as stream_events:
        reading = read(form, ask)

    def of_interest(events: list[Any]) -> list[tuple[Any, ...]]:
        # Of benches the moment, with its jitter, differs.
        return [
            tuple(each for each in fact if not hasattr(each, "tzinfo"))
            for fact in facts(events)
            if fact[0] not in ("StreamCommitted", "HealthChanged")
        ]

    assert of_interest(plain_events) == of_interest(stream_events)
    assert sleeps == clock.sleeps
    assert type(ended) is type(reading.error)
    assert plain.calls == supply.calls
    assert [] == supply.left_open
    assert ([] if ended else says("It")) == reading.items


# --- The commit point --------------------------------------------------------------------------


@over(FORMS)
def test_exactly_one_preamble_reaches_the_caller(form: Form, clock: FakeClock) -> None:
    """Items of a target that failed before its first content are dropped."""
    supply = Supply({GROQ: [[ROLE, SILENT, ROLE, down]], OPENAI: [says("It", " is")]})
    ask = form.make(failover([GROQ, OPENAI], attempts=1), supply)

    reading = read(form, ask)

    assert says("It", " is") == reading.items
    assert [GROQ, OPENAI] == supply.calls
    assert [] == supply.left_open


@over(FEW_FORMS)
@pytest.mark.parametrize(("held", "calls"), [(63, [GROQ, OPENAI]), (64, [GROQ])])
def test_so_many_items_are_held_back(
    form: Form, held: int, calls: list[str], clock: FakeClock
) -> None:
    """At most 64 items without content are held back; an error after that is an interruption."""
    supply = Supply({GROQ: [[SILENT] * held + [down]], OPENAI: [says("It")]})
    ask = form.make(failover([GROQ, OPENAI], attempts=1), supply)

    reading = read(form, ask)

    assert calls == supply.calls
    assert ([SILENT] * held if calls == [GROQ] else says("It")) == reading.items
    assert (calls == [GROQ]) is isinstance(reading.error, StreamInterruptedError)


@over(FEW_FORMS)
@pytest.mark.parametrize(("size", "calls"), [(60_000, [GROQ, OPENAI]), (90_000, [GROQ])])
def test_so_many_bytes_are_held_back(
    form: Form, size: int, calls: list[str], clock: FakeClock
) -> None:
    """256 KiB without content are held back at most."""
    supply = Supply(
        {GROQ: [[{**SILENT, "padding": "x" * size}] * 3 + [down]], OPENAI: [says("It")]}
    )
    ask = form.make(failover([GROQ, OPENAI], attempts=1), supply)

    read(form, ask)

    assert calls == supply.calls


@over(FEW_FORMS)
def test_own_items_commit_as_the_policy_says(form: Form, clock: FakeClock) -> None:
    """``commit=`` decides for the caller's own items, whatever they are."""
    supply = Supply({GROQ: [["one", "two", down]], OPENAI: [["one", "go", "on"]]})
    stream = StreamPolicy(commit=lambda item: item == "go")
    ask = form.make(failover([GROQ, OPENAI], attempts=1, stream=stream), supply)

    reading = read(form, ask)

    assert ["one", "go", "on"] == reading.items
    assert [GROQ, OPENAI] == supply.calls


@over(FEW_FORMS)
def test_a_predicate_that_raises_is_the_callers_bug(form: Form) -> None:
    """An error of ``commit=`` leaves unchanged; no failure is counted and nothing stays open."""
    supply = Supply({GROQ: [["one"]], OPENAI: [["one"]]})
    stream = StreamPolicy(commit=lambda item: 1 // 0)
    ask = form.make(failover([GROQ, OPENAI], stream=stream), supply)

    reading = read(form, ask)

    assert ZeroDivisionError is type(reading.error)
    assert [GROQ] == supply.calls
    assert [] == supply.left_open
    assert 0 == health([GROQ])[GROQ].errors


class Thing:
    """An item of an unknown class."""


@over(FEW_FORMS)
@pytest.mark.parametrize(
    "item", [Thing(), 1, {"a": 1}, "It", b"It"], ids=["object", "int", "dict", "str", "bytes"]
)
def test_unknown_items_commit_at_once(form: Form, item: Any) -> None:
    """The first item of an unknown type, and any text, is content."""
    supply = Supply({GROQ: [[item, down]], OPENAI: [["no"]]})
    ask = form.make(failover([GROQ, OPENAI], attempts=1), supply)

    reading = read(form, ask)

    assert [item] == reading.items
    assert isinstance(reading.error, StreamInterruptedError)
    assert 1 == reading.error.items_sent


@over(FEW_FORMS)
@pytest.mark.parametrize("item", ["", b"", None, SILENT], ids=["str", "bytes", "None", "delta"])
def test_nothing_does_not_commit(form: Form, item: Any) -> None:
    """An item that holds nothing is held back."""
    supply = Supply({GROQ: [[item, item, down]], OPENAI: [["It"]]})
    ask = form.make(failover([GROQ, OPENAI], attempts=1), supply)

    reading = read(form, ask)

    assert ["It"] == reading.items


@over(FEW_FORMS)
def test_a_tool_call_and_reasoning_commit(form: Form) -> None:
    """A call of a tool and a thought are content."""
    tool = chunk({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ""}}]})
    thought = chunk({"reasoning_content": "Hm."})
    supply = Supply({GROQ: [[ROLE, tool, down], [ROLE, thought, down]], OPENAI: [says("no")]})
    ask = form.make(failover([GROQ, OPENAI], attempts=1), supply)

    readings = [read(form, ask), read(form, ask)]

    assert [[ROLE, tool], [ROLE, thought]] == [reading.items for reading in readings]
    assert [GROQ, GROQ] == supply.calls


@over(FEW_FORMS)
@pytest.mark.parametrize(
    ("said_of_it", "kind", "reason"),
    [
        (True, ErrorKind.BAD_RESPONSE, "rejected"),
        ("sorry", ErrorKind.BAD_RESPONSE, "sorry"),
        (ErrorKind.TRANSIENT, ErrorKind.TRANSIENT, "rejected"),
        (Verdict(ErrorKind.TRANSIENT, "overloaded"), ErrorKind.TRANSIENT, "overloaded"),
    ],
    ids=["True", "word", "kind", "verdict"],
)
def test_reject_sees_the_first_content(
    form: Form, said_of_it: Any, kind: ErrorKind, reason: str
) -> None:
    """``reject`` is called once per stream, with its first item that has content."""
    seen: list[Any] = []

    def reject(item: Any) -> Any:
        seen.append(item)
        return said_of_it if item == said("Sorry") else None

    supply = Supply({GROQ: [says("Sorry", " no")], OPENAI: [says("It", " is")]})
    ask = form.make(failover([GROQ, OPENAI], attempts=1, reject=reject), supply)

    with capture_events(AttemptFailed) as failed:
        reading = read(form, ask)

    assert says("It", " is") == reading.items
    assert [said("Sorry"), said("It")] == seen
    assert [(GROQ, kind, reason)] == [(event.target, event.kind, event.reason) for event in failed]
    assert [] == supply.left_open


@over(FEW_FORMS)
def test_a_reject_that_raises_closes_the_stream(form: Form) -> None:
    """An error of ``reject`` itself leaves as it is, and nothing stays open."""
    supply = Supply({GROQ: [says("It")]})
    ask = form.make(failover([GROQ], reject=lambda item: 1 // 0), supply)

    reading = read(form, ask)

    assert ZeroDivisionError is type(reading.error)
    assert [] == supply.left_open


@over(FEW_FORMS)
def test_an_error_among_the_items_is_an_error(form: Form) -> None:
    """An item that reports an error counts as one: a failure before content, else interruption."""
    error = {"error": {"type": "overloaded_error", "message": "Overloaded"}}
    supply = Supply({GROQ: [[ROLE, error], [ROLE, said("It"), error]], OPENAI: [says("yes")]})
    ask = form.make(failover([GROQ, OPENAI], attempts=1), supply)

    first, second = read(form, ask), read(form, ask)

    assert says("yes") == first.items
    assert [ROLE, said("It")] == second.items[:2]
    assert isinstance(second.error, StreamInterruptedError)
    assert 2 == health()[GROQ].errors


# --- After the first content -------------------------------------------------------------------


@over(FORMS)
def test_an_error_after_content_interrupts(form: Form) -> None:
    """An error after content is raised, with the provider's as cause; no other target is called."""
    error = down()
    supply = Supply({GROQ: [[ROLE, said("It"), said(" is"), lambda: error]], OPENAI: [says("no")]})
    ask = form.make(failover([GROQ, OPENAI]), supply)

    with capture_events(
        StreamCommitted, AttemptFailed, StreamInterrupted, FailedOver, CallFailed
    ) as events:
        reading = read(form, ask)

    assert [ROLE, said("It"), said(" is")] == reading.items
    assert StreamInterruptedError is type(reading.error)
    assert (GROQ, 3, None) == (
        reading.error.target,
        reading.error.items_sent,
        reading.error.text_so_far,
    )
    assert error is reading.error.__cause__
    assert [GROQ] == supply.calls
    assert [] == supply.left_open
    assert (1, 1) == (health()[GROQ].total, health()[GROQ].errors)
    assert [
        ("StreamCommitted", GROQ),
        ("AttemptFailed", GROQ, 1, ErrorKind.TRANSIENT, "overloaded", 503),
        ("StreamInterrupted", GROQ, 3, ErrorKind.TRANSIENT, "overloaded"),
        ("CallFailed", GROQ, 1, ErrorKind.TRANSIENT),
    ] == [tuple(each for each in fact if type(each) is not float) for fact in facts(events)]


@over(FORMS)
def test_a_restart_gives_the_marker_and_then_another_answer(form: Form) -> None:
    """``on_interrupt="restart"`` gives the marker and then all items of the next target."""
    marker = {"restarted": True}
    supply = Supply({GROQ: [[ROLE, said("It"), down]], OPENAI: [says("Once", " more")]})
    stream = StreamPolicy(on_interrupt="restart", restart_marker=marker)
    ask = form.make(failover([GROQ, OPENAI], stream=stream), supply)

    with capture_events(FailedOver, StreamInterrupted, AttemptSucceeded, CallFailed) as events:
        reading = read(form, ask)

    assert [ROLE, said("It"), marker, *says("Once", " more")] == reading.items
    assert reading.error is None
    assert [GROQ, OPENAI] == supply.calls
    assert [] == supply.left_open
    assert ["StreamInterrupted", "FailedOver", "AttemptSucceeded"] == names(events)
    assert (1, 0) == (health()[GROQ].errors, health()[OPENAI].errors)


@over(FEW_FORMS)
def test_without_a_marker_there_is_none(form: Form) -> None:
    """A restarted stream has a marker only if one was set; None may be a marker, too."""
    supply = Supply({GROQ: [[ROLE, said("It"), down]], OPENAI: [says("Once")]})
    stream = StreamPolicy(on_interrupt="restart")

    plain = read(form, form.make(failover([GROQ, OPENAI], stream=stream), supply))
    with_none = read(
        form, form.make(failover([GROQ, OPENAI], stream=stream.using(restart_marker=None)), supply)
    )

    assert [ROLE, said("It"), *says("Once")] == plain.items
    assert [ROLE, said("It"), None, *says("Once")] == with_none.items


@over(FEW_FORMS)
@pytest.mark.parametrize(
    "of_next", [None, StreamPolicy(on_interrupt="raise"), StreamPolicy(idle_timeout=5.0)]
)
def test_the_marker_is_that_of_the_target_that_broke(
    form: Form, of_next: StreamPolicy | None
) -> None:
    """The marker is that of the interrupted target's policy, not of the next target's."""
    supply = Supply({GROQ: [[ROLE, said("It"), down]], OPENAI: [says("Once")]})
    restarts = StreamPolicy(on_interrupt="restart", restart_marker="again")
    ask = form.make(
        failover([Target(GROQ, stream=restarts), Target(OPENAI, stream=of_next)]), supply
    )

    reading = read(form, ask)

    assert [ROLE, said("It"), "again", *says("Once")] == reading.items


@over(FEW_FORMS)
def test_several_interruptions_in_a_row(form: Form) -> None:
    """Each broken stream is followed by the next target; all items and markers are counted."""
    supply = Supply(
        {
            GROQ: [[ROLE, said("a"), down]],
            OPENAI: [[ROLE, said("b"), said("bb"), down]],
            MISTRAL: [says("c")],
        }
    )
    stream = StreamPolicy(on_interrupt="restart", restart_marker="again")
    ask = form.make(failover([GROQ, OPENAI, MISTRAL], stream=stream), supply)

    with capture_events(StreamInterrupted) as events:
        reading = read(form, ask)

    assert [
        ROLE,
        said("a"),
        "again",
        ROLE,
        said("b"),
        said("bb"),
        "again",
        *says("c"),
    ] == reading.items
    assert [2, 6] == [event.items_sent for event in events]
    assert [] == supply.left_open


@over(FEW_FORMS)
def test_the_last_target_broken(form: Form) -> None:
    """When no target is left the interruption leaves, with the chain's error as its cause."""
    supply = Supply(
        {GROQ: [[ROLE, said("a"), down]], OPENAI: [[ROLE, said("b"), lambda: ProviderError(502)]]}
    )
    ask = form.make(failover([GROQ, OPENAI], stream=StreamPolicy(on_interrupt="restart")), supply)

    with capture_events(CallFailed) as events:
        reading = read(form, ask)

    assert [ROLE, said("a"), ROLE, said("b")] == reading.items
    assert StreamInterruptedError is type(reading.error)
    assert (OPENAI, 4) == (reading.error.target, reading.error.items_sent)
    cause = reading.error.__cause__
    assert isinstance(cause, ChainExhaustedError)
    assert [ProviderError, ProviderError] == [type(each) for each in cause.exceptions]
    assert 1 == len(events)
    assert [] == supply.left_open


@over(FEW_FORMS)
def test_after_a_restart_errors_before_content_move_on_as_ever(
    form: Form, clock: FakeClock
) -> None:
    """The target that follows an interruption is retried and passed over like any other."""
    supply = Supply(
        {GROQ: [[ROLE, said("a"), down]], OPENAI: [[ROLE, down]], MISTRAL: [down, says("c")]}
    )
    policy = failover(
        [GROQ, OPENAI, MISTRAL], attempts=2, stream=StreamPolicy(on_interrupt="restart")
    )
    ask = form.make(policy, supply)

    reading = read(form, ask)

    assert [ROLE, said("a"), *says("c")] == reading.items
    assert [GROQ, OPENAI, OPENAI, MISTRAL, MISTRAL] == supply.calls


@over(FEW_FORMS)
def test_all_that_follow_an_interruption_fail(form: Form, clock: FakeClock) -> None:
    """The error is the interruption when the targets after it give no content at all."""
    supply = Supply({GROQ: [[ROLE, said("a"), down]], OPENAI: [down]})
    policy = failover([GROQ, OPENAI], attempts=1, stream=StreamPolicy(on_interrupt="restart"))
    ask = form.make(policy, supply)

    reading = read(form, ask)

    assert [ROLE, said("a")] == reading.items
    assert StreamInterruptedError is type(reading.error)
    assert (GROQ, 2) == (reading.error.target, reading.error.items_sent)
    assert isinstance(reading.error.__cause__, ChainExhaustedError)


@over(FEW_FORMS)
@pytest.mark.parametrize("option", ["on_content_policy", "on_request_error", "on_unknown"])
def test_what_must_not_go_to_another_target_does_not_restart(form: Form, option: str) -> None:
    """A refusal, a bad request or an unknown error that raises ends a stream without a restart."""
    error = {
        "on_content_policy": refused_content,
        "on_request_error": lambda: ProviderError(400),
        "on_unknown": StrangeError,
    }[option]
    supply = Supply({GROQ: [[ROLE, said("a"), error]], OPENAI: [says("no")]})
    policy = failover(
        [GROQ, OPENAI], stream=StreamPolicy(on_interrupt="restart"), **{option: "raise"}
    )
    ask = form.make(policy, supply)

    reading = read(form, ask)

    assert [GROQ] == supply.calls
    assert StreamInterruptedError is type(reading.error)


@over(FEW_FORMS)
def test_a_target_after_an_interruption_that_is_asked_wrong(form: Form) -> None:
    """Once content was delivered, an error that would leave unchanged becomes an interruption."""
    supply = Supply(
        {
            GROQ: [[ROLE, said("a"), down]],
            OPENAI: [lambda: ProviderError(400)],
            MISTRAL: [says("no")],
        }
    )
    policy = failover(
        [GROQ, OPENAI, MISTRAL],
        on_request_error="raise",
        stream=StreamPolicy(on_interrupt="restart"),
    )
    ask = form.make(policy, supply)

    reading = read(form, ask)

    assert [ROLE, said("a")] == reading.items
    assert StreamInterruptedError is type(reading.error)
    assert ProviderError is type(reading.error.__cause__)
    assert [GROQ, OPENAI] == supply.calls


@over(FEW_FORMS)
def test_what_commits_is_what_keeps_a_stream_going(form: Form, clock: FakeClock) -> None:
    """``commit=`` decides which items are content for the time limits as well."""
    steps: list[Any] = ["go"]
    for item in ("go", "go", ".", ".", "."):
        steps += [Quiet(clock, 4.0), item]
    supply = Supply({GROQ: [steps]})
    stream = StreamPolicy(commit=lambda item: item == "go", idle_timeout=10.0)
    ask = form.make(failover([GROQ], stream=stream), supply)

    reading = read(form, ask)

    assert ["go", "go", "go", ".", "."] == reading.items
    assert StreamInterruptedError is type(reading.error)


def _continuing(form_name: str, supply: Supply, policy: Any, seen: list[Any]) -> Any:
    if form_name == "sync":

        @policy
        def ask(target: Target, prompt: str, *, prefix: str = "") -> Iterator[Any]:
            seen.append((target.spec, prompt, prefix))
            yield from supply.open(target)

        return ask

    @policy
    async def aask(target: Target, prompt: str, *, prefix: str = "") -> Any:
        seen.append((target.spec, prompt, prefix))
        return AsyncSdkStream(supply.aopen(target))

    return aask


CONTINUING = [
    SYNC_FORMS[0],
    next(form for form in ASYNC_FORMS if form.name == "coroutine-sdk-trio"),
]


@over(CONTINUING)
def test_a_function_says_how_to_go_on(form: Form) -> None:
    """``on_interrupt`` may be a function from the interruption to the next target's arguments."""
    seen: list[Any] = []
    received: list[StreamInterruptedError] = []
    error = down()

    def go_on(interruption: StreamInterruptedError) -> dict[str, Any]:
        received.append(interruption)
        assert error is interruption.__cause__
        return {"prefix": interruption.text_so_far, "prompt": "go on"}

    supply = Supply({GROQ: [[ROLE, said("It"), lambda: error]], OPENAI: [[said(" is"), END]]})
    policy = failover([GROQ, OPENAI], stream=StreamPolicy(on_interrupt=go_on, keep_text=100))
    ask = _continuing("async" if form.backend else "sync", supply, policy, seen)

    reading = read(form, ask, "why")

    assert [ROLE, said("It"), said(" is"), END] == reading.items
    assert [(GROQ, "why", ""), (OPENAI, "go on", "It")] == seen
    assert [(GROQ, 2)] == [(each.target, each.items_sent) for each in received]


@over(CONTINUING)
def test_a_function_keeps_the_whole_text_while_it_continues(form: Form) -> None:
    """A second interruption knows the text of both streams, since the caller put them together."""
    seen: list[Any] = []
    texts: list[str | None] = []

    def go_on(interruption: StreamInterruptedError) -> dict[str, Any]:
        texts.append(interruption.text_so_far)
        return {}

    supply = Supply(
        {GROQ: [[said("It"), down]], OPENAI: [[said(" is"), down]], MISTRAL: [[said(" so"), END]]}
    )
    policy = failover(
        [GROQ, OPENAI, MISTRAL], stream=StreamPolicy(on_interrupt=go_on, keep_text=100)
    )
    ask = _continuing("async" if form.backend else "sync", supply, policy, seen)

    read(form, ask, "why")

    assert ["It", "It is"] == texts


@over(CONTINUING)
@pytest.mark.parametrize("gives", [None, "error", "nonsense"])
def test_a_function_that_will_not_go_on(form: Form, gives: Any) -> None:
    """None raises the interruption; an error of the function leaves; no other target is called."""

    def stop(interruption: StreamInterruptedError) -> Any:
        if gives == "error":
            raise LookupError("mine")
        return 5 if gives == "nonsense" else None

    supply = Supply({GROQ: [[ROLE, said("It"), down]], OPENAI: [says("no")]})
    policy = failover([GROQ, OPENAI], stream=StreamPolicy(on_interrupt=stop))
    ask = _continuing("async" if form.backend else "sync", supply, policy, [])

    reading = read(form, ask, "why")

    assert [GROQ] == supply.calls
    assert [ROLE, said("It")] == reading.items
    assert {None: StreamInterruptedError, "error": LookupError, "nonsense": TypeError}[
        gives
    ] is type(reading.error)
    assert [] == [source for source in supply.opened if not source.closed and form.backend]


@over(FEW_FORMS)
def test_a_target_has_its_own_policy_for_interruptions(form: Form) -> None:
    """A target's stream policy overrides the chain's, for that target alone."""
    supply = Supply(
        {GROQ: [[ROLE, said("a"), down]], OPENAI: [[ROLE, said("b"), down]], MISTRAL: [says("c")]}
    )
    first = Target(GROQ, stream=StreamPolicy(on_interrupt="restart"))
    ask = form.make(failover([first, OPENAI, MISTRAL]), supply)

    reading = read(form, ask)

    assert [ROLE, said("a"), ROLE, said("b")] == reading.items
    assert [GROQ, OPENAI] == supply.calls
    assert StreamInterruptedError is type(reading.error)


@over(FEW_FORMS)
@pytest.mark.parametrize(
    ("most", "kept"),
    [(1, "b"), (2, "b"), (3, "öb"), (4, "aöb"), (7, "€aöb"), (6, "aöb"), (1000, "€aöb")],
)
def test_the_end_of_the_text_is_kept_by_bytes(form: Form, most: int, kept: str) -> None:
    """``keep_text`` keeps so many bytes, and never half a character."""
    supply = Supply({GROQ: [[ROLE, said("€"), said("aö"), said("b"), down]]})
    ask = form.make(failover([GROQ], stream=StreamPolicy(keep_text=most)), supply)

    reading = read(form, ask)

    assert isinstance(reading.error, StreamInterruptedError)
    assert kept == reading.error.text_so_far


def test_a_surrogate_in_the_text_breaks_nothing() -> None:
    """Half of a pair, which some providers send, does not turn into another error."""
    supply = Supply({GROQ: [[said("ab\ud83d"), said("cd"), down]]})
    ask = SYNC_FORMS[0].make(failover([GROQ], stream=StreamPolicy(keep_text=3)), supply)

    reading = read(SYNC_FORMS[0], ask)

    assert isinstance(reading.error, StreamInterruptedError)
    assert "cd" == reading.error.text_so_far


@over(FEW_FORMS)
def test_text_that_is_kept_is_nowhere_else(form: Form) -> None:
    """The text is in no message, note, event or pickle of the error."""
    supply = Supply({GROQ: [[ROLE, said("secret"), down]]})
    ask = form.make(failover([GROQ], stream=StreamPolicy(keep_text=100)), supply)

    with capture_events() as events:
        error = read(form, ask).error

    assert isinstance(error, StreamInterruptedError)
    assert "secret" == error.text_so_far
    shown = [
        str(error),
        repr(error),
        repr(error.args),
        repr(events),
        *getattr(error, "__notes__", ()),
    ]
    assert [] == [each for each in shown if "secret" in each]
    assert b"secret" not in pickle.dumps(error)
    again = pickle.loads(pickle.dumps(error))
    assert (GROQ, 2, None) == (again.target, again.items_sent, again.text_so_far)
    assert copy.copy(error).text_so_far is None


@over(FEW_FORMS)
def test_the_callers_own_bug_leaves_as_it_is(form: Form) -> None:
    """An error of the caller's code inside a stream is neither an interruption nor a failure."""
    error = TypeError("mine")
    supply = Supply({GROQ: [[ROLE, said("It"), lambda: error]], OPENAI: [says("no")]})
    ask = form.make(failover([GROQ, OPENAI], stream=StreamPolicy(on_interrupt="restart")), supply)

    reading = read(form, ask)

    assert error is reading.error
    assert [GROQ] == supply.calls
    assert [] == supply.left_open
    assert 0 == health([GROQ])[GROQ].errors


@over([form for form in SYNC_FORMS if form in FEW_FORMS])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_ways_out_pass_through_a_stream(form: Form, error: type[BaseException]) -> None:
    """KeyboardInterrupt and the like leave a stream unchanged, and count as no failure."""
    supply = Supply({GROQ: [[ROLE, said("It"), error]], OPENAI: [says("no")]})
    ask = form.make(failover([GROQ, OPENAI], stream=StreamPolicy(on_interrupt="restart")), supply)

    reading = read(form, ask)

    assert error is type(reading.error)
    assert [GROQ] == supply.calls
    assert [] == supply.left_open
    assert 0 == health([GROQ])[GROQ].errors


def test_what_a_consumer_throws_into_the_items_leaves() -> None:
    """An error thrown into the generator leaves it, and the attempt counts as a success."""
    supply = Supply({GROQ: [says("It", " is")]})
    stream = SYNC_FORMS[0].make(failover([GROQ]), supply)()
    next(stream)
    error = ValueError("mine")

    with pytest.raises(ValueError, match="mine") as caught:
        stream.throw(error)

    assert error is caught.value
    assert (1, 0) == (health()[GROQ].total, health()[GROQ].errors)
    assert [] == supply.left_open


# --- Time --------------------------------------------------------------------------------------


@over(FORMS)
def test_the_first_content_must_come_in_time(form: Form, clock: FakeClock) -> None:
    """``first_item_timeout`` is from the start of the attempt to its first content."""
    slow = [
        ROLE,
        Quiet(clock, 4.0),
        SILENT,
        Quiet(clock, 4.0),
        SILENT,
        Quiet(clock, 4.0),
        *says("late"),
    ]
    supply = Supply({GROQ: [slow], OPENAI: [says("It")]})
    ask = form.make(
        failover([GROQ, OPENAI], attempts=1, stream=StreamPolicy(first_item_timeout=10.0)), supply
    )

    with capture_events(AttemptFailed) as failed:
        reading = read(form, ask)

    assert says("It") == reading.items
    assert [(GROQ, ErrorKind.TRANSIENT, "timeout")] == [
        (event.target, event.kind, event.reason) for event in failed
    ]
    assert [] == supply.left_open


@over(FEW_FORMS)
def test_the_first_content_in_time_ends_its_limit(form: Form, clock: FakeClock) -> None:
    """After the first content ``first_item_timeout`` and ``attempt_timeout`` have no effect."""
    slow = [ROLE, Quiet(clock, 9.0), said("It"), Quiet(clock, 90.0), said(" is"), END]
    supply = Supply({GROQ: [slow], OPENAI: [says("no")]})
    stream = StreamPolicy(first_item_timeout=10.0)
    first = (
        Target(GROQ, attempt_timeout=10.0)
        if form.name.startswith(("asyncgen", "coroutine"))
        else GROQ
    )
    ask = form.make(failover([first, OPENAI], stream=stream), supply)

    reading = read(form, ask)

    assert "It is" == reading.text
    assert reading.error is None


@over([form for form in FEW_FORMS if form.name.startswith(("generator", "asyncgen", "coroutine"))])
def test_the_attempts_limit_holds_until_the_first_content(form: Form, clock: FakeClock) -> None:
    """``attempt_timeout`` limits a stream up to its first content, if it is the shorter limit."""
    supply = Supply(
        {GROQ: [[ROLE, Quiet(clock, 6.0), SILENT, *says("late")]], OPENAI: [says("It")]}
    )
    policy = failover(
        [GROQ, OPENAI],
        attempts=1,
        attempt_timeout=5.0,
        stream=StreamPolicy(first_item_timeout=50.0),
    )
    ask = form.make(policy, supply)

    reading = read(form, ask)

    assert "It" == reading.text


@over(FEW_FORMS)
def test_a_target_has_limits_of_its_own(form: Form, clock: FakeClock) -> None:
    """The time limits of a target's policy override those of the chain's."""
    slow = [ROLE, Quiet(clock, 20.0), *says("It")]
    supply = Supply({GROQ: [slow], OPENAI: [slow]})
    chain = [GROQ, Target(OPENAI, stream=StreamPolicy(first_item_timeout=30.0))]
    ask = form.make(
        failover(chain, attempts=1, stream=StreamPolicy(first_item_timeout=10.0)), supply
    )

    reading = read(form, ask)

    assert "It" == reading.text
    assert [GROQ, OPENAI] == supply.calls


@over(FORMS)
def test_a_stream_that_falls_silent_is_interrupted(form: Form, clock: FakeClock) -> None:
    """``idle_timeout`` is the longest wait for the next content; silent items do not reset it."""
    steps = [
        ROLE,
        said("It"),
        Quiet(clock, 4.0),
        SILENT,
        Quiet(clock, 4.0),
        SILENT,
        Quiet(clock, 4.0),
        said("no"),
    ]
    supply = Supply({GROQ: [steps], OPENAI: [says("no")]})
    ask = form.make(failover([GROQ, OPENAI], stream=StreamPolicy(idle_timeout=10.0)), supply)

    with capture_events(StreamInterrupted) as events:
        reading = read(form, ask)

    assert [ROLE, said("It"), SILENT, SILENT] == reading.items
    assert StreamInterruptedError is type(reading.error)
    assert isinstance(reading.error.__cause__, TimeoutError)
    assert [(GROQ, 4, "timeout")] == [
        (event.target, event.items_sent, event.reason) for event in events
    ]
    assert [] == supply.left_open
    assert 1 == health()[GROQ].errors


@over(FEW_FORMS)
def test_every_content_resets_the_idle_timeout(form: Form, clock: FakeClock) -> None:
    """A stream that is slow as a whole is fine while each content comes in time."""
    steps = [ROLE]
    for number in range(5):
        steps += [Quiet(clock, 5.0), SILENT, Quiet(clock, 4.0), said(str(number))]
    supply = Supply({GROQ: [[*steps, END]]})
    ask = form.make(failover([GROQ], stream=StreamPolicy(idle_timeout=10.0)), supply)

    reading = read(form, ask)

    assert "01234" == reading.text
    assert reading.error is None


@over(FEW_FORMS)
def test_the_end_is_waited_for_as_well(form: Form, clock: FakeClock) -> None:
    """A stream that gives all content and then hangs without ending is interrupted."""
    supply = Supply({GROQ: [[*says("It"), Quiet(clock, 11.0)]]})
    ask = form.make(failover([GROQ], stream=StreamPolicy(idle_timeout=10.0)), supply)

    reading = read(form, ask)

    assert "It" == reading.text
    # Only the end of the connection is missing: the answer has its finish reason.
    assert reading.error is None or StreamInterruptedError is type(reading.error)


@pytest.mark.parametrize(
    "limits", [{"idle_timeout": 10.0}, {"min_rate": 1.0}, {"idle_timeout": 10.0, "min_rate": 1.0}]
)
@over(FEW_FORMS)
def test_the_consumers_own_time_does_not_count(
    form: Form, limits: dict[str, float], clock: FakeClock
) -> None:
    """A consumer may take its time between two items: only waiting for the provider has a limit."""
    supply = Supply({GROQ: [says(*"abcdef")]})
    ask = form.make(failover([GROQ], stream=StreamPolicy(**limits)), supply)

    class Slow(list[Any]):
        def append(self, item: Any) -> None:
            super().append(item)
            clock.advance(100.0)

    reading = read(form, ask, into=Slow())

    assert "abcdef" == reading.text
    assert reading.error is None


@over(FEW_FORMS)
def test_a_drip_is_too_slow(form: Form, clock: FakeClock) -> None:
    """``min_rate`` ends a stream that gives fewer items with content per second of waiting."""
    drip = [step for number in range(40) for step in (said(str(number)), Quiet(clock, 3.0))]
    supply = Supply({GROQ: [[ROLE, *drip, END]]})
    ask = form.make(failover([GROQ], stream=StreamPolicy(min_rate=1.0, rate_window=10.0)), supply)
    began = clock.monotonic()

    reading = read(form, ask)

    assert StreamInterruptedError is type(reading.error)
    assert 10.0 <= clock.monotonic() - began <= 21.0


@over(FEW_FORMS)
def test_a_rate_that_is_kept_is_fine(form: Form, clock: FakeClock) -> None:
    """A stream as fast as ``min_rate`` asks for is never ended, in however many windows."""
    steady = [step for number in range(100) for step in (said(str(number % 10)), Quiet(clock, 0.5))]
    supply = Supply({GROQ: [[ROLE, *steady, END]]})
    ask = form.make(failover([GROQ], stream=StreamPolicy(min_rate=1.0, rate_window=10.0)), supply)

    reading = read(form, ask)

    assert reading.error is None
    assert 102 == len(reading.items)


@over(FEW_FORMS)
def test_silent_items_are_no_rate(form: Form, clock: FakeClock) -> None:
    """Keep-alives do not count as items for ``min_rate``."""
    pings = [step for _ in range(100) for step in (SILENT, Quiet(clock, 0.5))]
    supply = Supply({GROQ: [[ROLE, said("It"), *pings, END]]})
    ask = form.make(failover([GROQ], stream=StreamPolicy(min_rate=1.0, rate_window=10.0)), supply)

    reading = read(form, ask)

    assert StreamInterruptedError is type(reading.error)


@over(FEW_FORMS)
def test_one_targets_whole_stream_has_a_limit(form: Form, clock: FakeClock) -> None:
    """``StreamPolicy(timeout=)`` limits one target's whole stream; the next has its full time."""
    slow = [
        ROLE,
        *(step for number in range(9) for step in (said(str(number)), Quiet(clock, 3.0))),
        END,
    ]
    supply = Supply({GROQ: [slow], OPENAI: [[*slow[:6], END]]})
    stream = StreamPolicy(timeout=10.0, on_interrupt="restart", restart_marker="again")
    ask = form.make(failover([GROQ, OPENAI], stream=stream), supply)

    reading = read(form, ask)

    assert [
        ROLE,
        *(said(str(number)) for number in range(4)),
        "again",
        ROLE,
        said("0"),
    ] == reading.items[:8]
    assert reading.error is None
    assert [GROQ, OPENAI] == supply.calls
    assert (1, 0) == (health()[GROQ].errors, health()[OPENAI].errors)


@over(FORMS)
def test_the_whole_deadline_before_content(form: Form, clock: FakeClock) -> None:
    """The deadline before content raises DeadlineExceededError, and counts as no failure."""
    # In sync code a wait cannot be ended: the deadline is checked at every item.
    in_time_to_check = [] if form.backend else [SILENT]
    supply = Supply({GROQ: [[ROLE, Quiet(clock, 11.0), *in_time_to_check, *says("late")]]})
    ask = form.make(failover([GROQ], timeout=10.0, stream=StreamPolicy()), supply)

    reading = read(form, ask)

    assert DeadlineExceededError is type(reading.error)
    assert [] == reading.items
    assert 0 == health([GROQ])[GROQ].errors
    assert [] == supply.left_open


@over(FEW_FORMS)
def test_a_fallback_is_reached_before_the_deadline(form: Form, clock: FakeClock) -> None:
    """With another live target the first content may take three quarters of the time left."""
    supply = Supply(
        {
            GROQ: [[ROLE, Quiet(clock, 7.6), SILENT, Quiet(clock, 9.0), *says("late")]],
            OPENAI: [says("It")],
        }
    )
    ask = form.make(failover([GROQ, OPENAI], timeout=10.0, stream=StreamPolicy()), supply)

    reading = read(form, ask)

    assert "It" == reading.text
    assert 1 == health()[GROQ].errors


@over(FEW_FORMS)
def test_the_whole_deadline_after_content(form: Form, clock: FakeClock) -> None:
    """The deadline after content is an interruption as well; no failure, no other target."""
    supply = Supply(
        {GROQ: [[ROLE, said("It"), Quiet(clock, 11.0), said(" is"), END]], OPENAI: [says("no")]}
    )
    policy = failover(
        [GROQ, OPENAI], timeout=10.0, stream=StreamPolicy(on_interrupt="restart", keep_text=10)
    )
    ask = form.make(policy, supply)

    reading = read(form, ask)

    assert [ROLE, said("It")] == reading.items
    assert isinstance(reading.error, StreamInterruptedError)
    assert isinstance(reading.error, DeadlineExceededError)
    assert (GROQ, 2, "It", 10.0) == (
        reading.error.target,
        reading.error.items_sent,
        reading.error.text_so_far,
        reading.error.timeout,
    )
    assert [GROQ] == supply.calls
    assert [] == supply.left_open
    assert 0 == health([GROQ])[GROQ].errors
    again = pickle.loads(pickle.dumps(reading.error))
    assert (GROQ, 2, None, 10.0) == (
        again.target,
        again.items_sent,
        again.text_so_far,
        again.timeout,
    )


@over(FEW_FORMS)
def test_the_deadline_that_ends_while_a_restart_looks_for_content(
    form: Form, clock: FakeClock
) -> None:
    """A deadline that ends before the restarted stream's first content is an interruption."""
    late = [ROLE, Quiet(clock, 20.0), SILENT, *says("late")]
    supply = Supply({GROQ: [[ROLE, said("It"), down]], OPENAI: [late]})
    policy = failover([GROQ, OPENAI], timeout=10.0, stream=StreamPolicy(on_interrupt="restart"))
    ask = form.make(policy, supply)

    reading = read(form, ask)

    assert [ROLE, said("It")] == reading.items
    assert isinstance(reading.error, StreamInterruptedError)
    assert isinstance(reading.error, DeadlineExceededError)
    assert (GROQ, 2) == (reading.error.target, reading.error.items_sent)
    assert [] == supply.left_open


@over(FEW_FORMS)
def test_an_error_before_the_deadline_is_the_providers(form: Form, clock: FakeClock) -> None:
    """An error before the deadline is an interruption and not a DeadlineExceededError."""
    supply = Supply({GROQ: [[ROLE, said("It"), Quiet(clock, 5.0), down]]})
    ask = form.make(failover([GROQ], timeout=10.0), supply)

    reading = read(form, ask)

    assert StreamInterruptedError is type(reading.error)
    assert 1 == health()[GROQ].errors


@over([form for form in FORMS if form.manages])
def test_the_time_of_a_manager_begins_when_it_is_entered(form: Form, clock: FakeClock) -> None:
    """The time between the call and entering its manager does not count, as nothing was sent."""
    supply = Supply({GROQ: [says("It")], OPENAI: [says("no")]})
    inner = form.make(failover([GROQ, OPENAI], stream=StreamPolicy(first_item_timeout=5.0)), supply)

    def ask() -> Any:
        manager = inner()
        clock.advance(30.0)
        return manager

    reading = read(form, ask)

    assert "It" == reading.text
    assert [GROQ] == supply.calls
    first_content = health()[GROQ].first_content
    assert first_content is not None
    assert first_content < 5.0


def test_an_attempt_has_its_limit() -> None:
    """An `Attempt` has the seconds left until the first content, and its number."""
    attempts: list[Attempt] = []

    @failover(
        [GROQ], attempts=2, stream=StreamPolicy(first_item_timeout=7.0), backoff=lambda n: 0.0
    )
    def ask(target: Target, attempt: Attempt) -> Iterator[Any]:
        attempts.append(attempt)
        if len(attempts) == 1:
            raise down()
        yield from says("It")

    assert says("It") == list(ask())
    assert [1, 2] == [attempt.number for attempt in attempts]
    assert [True, True] == [
        attempt.remaining is not None and attempt.remaining <= 7.0 for attempt in attempts
    ]


# --- Ends --------------------------------------------------------------------------------------


@over(FEW_FORMS)
@pytest.mark.parametrize(
    "line", [[], [ROLE], [ROLE, SILENT], [ROLE, END]], ids=["none", "role", "silence", "finished"]
)
def test_an_end_without_content_moves_on(form: Form, line: list[Any]) -> None:
    """A stream that ends without content, finished or cut short, is a failed attempt."""
    supply = Supply({GROQ: [line], OPENAI: [says("It")]})
    ask = form.make(failover([GROQ, OPENAI], attempts=1), supply)

    with capture_events(AttemptFailed) as failed:
        reading = read(form, ask)

    cut = line and line[-1] is not END
    expected = (
        (ErrorKind.TRANSIENT, "stream_interrupted") if cut else (ErrorKind.BAD_RESPONSE, "empty")
    )
    assert says("It") == reading.items
    assert [expected] == [(event.kind, event.reason) for event in failed]
    assert [] == supply.left_open


@over(FEW_FORMS)
@pytest.mark.parametrize("line", [[], [ROLE, END]], ids=["none", "finished"])
def test_an_empty_stream_may_be_accepted(form: Form, line: list[Any]) -> None:
    """``on_empty="accept"``: it is given as it is, and is a success."""
    supply = Supply({GROQ: [line], OPENAI: [says("no")]})
    ask = form.make(failover([GROQ, OPENAI], stream=StreamPolicy(on_empty="accept")), supply)

    reading = read(form, ask)

    assert line == reading.items
    assert reading.error is None
    assert (1, 0) == (health()[GROQ].total, health()[GROQ].errors)
    assert [] == supply.left_open


@over(FEW_FORMS)
def test_what_is_empty_and_cut_short_needs_both(form: Form) -> None:
    """A stream without content and without an end is accepted if both are."""
    supply = Supply({GROQ: [[ROLE]], OPENAI: [says("It")]})
    options = [
        {"on_empty": "accept"},
        {"on_truncated": "accept"},
        {"on_empty": "accept", "on_truncated": "accept"},
    ]

    readings = [
        read(
            form,
            form.make(failover([GROQ, OPENAI], attempts=1, stream=StreamPolicy(**each)), supply),
        )
        for each in options
    ]

    assert [says("It"), says("It"), [ROLE]] == [reading.items for reading in readings]


@over(FEW_FORMS)
def test_all_streams_empty(form: Form) -> None:
    """If no target gives content the call fails as one whose answers were rejected."""
    supply = Supply({GROQ: [[]], OPENAI: [[ROLE, END]]})
    ask = form.make(failover([GROQ, OPENAI]), supply)

    reading = read(form, ask)

    assert isinstance(reading.error, ChainExhaustedError)
    assert ErrorKind.BAD_RESPONSE is reading.error.kind
    assert [ResponseRejectedError] * 2 == [type(each) for each in reading.error.exceptions]


@over(FORMS)
def test_an_end_without_a_finish_reason_interrupts(form: Form) -> None:
    """A stream that just stops after content is interrupted, though nothing was raised."""
    supply = Supply({GROQ: [[ROLE, said("It"), said(" is")]], OPENAI: [says("no")]})
    ask = form.make(failover([GROQ, OPENAI]), supply)

    with capture_events(StreamInterrupted) as events:
        reading = read(form, ask)

    assert [ROLE, said("It"), said(" is")] == reading.items
    assert StreamInterruptedError is type(reading.error)
    assert [(3, ErrorKind.TRANSIENT, "stream_interrupted")] == [
        (event.items_sent, event.kind, event.reason) for event in events
    ]
    assert 1 == health()[GROQ].errors


@over(FEW_FORMS)
def test_a_stream_cut_short_may_be_restarted_or_accepted(form: Form) -> None:
    """What follows an end without a finish reason is the policy's choice, as for an error."""
    supply = Supply({GROQ: [[ROLE, said("It")]], OPENAI: [says("yes")]})
    restarts, accepts = StreamPolicy(on_interrupt="restart"), StreamPolicy(on_truncated="accept")

    restarted = read(form, form.make(failover([GROQ, OPENAI], stream=restarts), supply))
    accepted = read(form, form.make(failover([GROQ, OPENAI], stream=accepts), supply))

    assert [ROLE, said("It"), *says("yes")] == restarted.items
    assert [ROLE, said("It")] == accepted.items
    assert accepted.error is None
    assert (2, 1) == (health()[GROQ].total, health()[GROQ].errors)


@over(FEW_FORMS)
def test_the_usage_may_follow_the_end(form: Form) -> None:
    """Items after the finish reason, such as the usage, do not make a stream incomplete."""
    usage = {"object": "chat.completion.chunk", "choices": [], "usage": {"total_tokens": 7}}
    supply = Supply({GROQ: [[*says("It"), usage]]})
    ask = form.make(failover([GROQ]), supply)

    reading = read(form, ask)

    assert reading.error is None
    assert usage == reading.items[-1]


@over(FEW_FORMS)
def test_a_limit_of_tokens_is_a_good_end(form: Form) -> None:
    """An answer cut off at its limit of tokens had been finished by the provider."""
    supply = Supply({GROQ: [[ROLE, said("It"), chunk({}, "length")]]})
    ask = form.make(failover([GROQ]), supply)

    reading = read(form, ask)

    assert "It" == reading.text
    assert reading.error is None


@over(FEW_FORMS)
def test_items_whose_end_nobody_knows_just_end(form: Form) -> None:
    """Texts and unknown items have no finish reason that could be missing."""
    thing = Thing()
    supply = Supply({GROQ: [["It", " is"], [thing]]})
    ask = form.make(failover([GROQ]), supply)

    assert [["It", " is"], [thing]] == [read(form, ask).items, read(form, ask).items]
    assert (2, 0) == (health()[GROQ].total, health()[GROQ].errors)


# --- Health ------------------------------------------------------------------------------------


@over(FORMS)
def test_a_success_is_counted_at_the_end(form: Form, clock: FakeClock) -> None:
    """A stream is one success; its time to first content and its duration are two figures."""
    steps = [ROLE, Quiet(clock, 2.0), said("It"), Quiet(clock, 6.0), said(" is"), END]
    supply = Supply({GROQ: [steps]})
    ask = form.make(failover([GROQ]), supply)

    with capture_events(StreamCommitted, AttemptSucceeded) as events:
        read(form, ask)

    seen = health()
    assert [("StreamCommitted", GROQ, 2.0), ("AttemptSucceeded", GROQ, 1, 8.0)] == facts(events)
    assert [(1, 0, 2.0, 8.0)] * 2 == [
        (seen[key].total, seen[key].errors, seen[key].first_content, seen[key].latency)
        for key in (GROQ, "groq")
    ]


def test_without_streams_there_is_no_first_content() -> None:
    """A key that no stream was read from has no time to the first content."""

    @failover([GROQ])
    def ask(target: Target) -> str:
        return "It"

    ask()

    assert health()[GROQ].first_content is None


@over(FORMS)
def test_a_consumer_who_stops_after_content_was_served(form: Form) -> None:
    """A consumer that stops after content leaves a success of the target that served."""
    supply = Supply({GROQ: [says("It", " is", " so")]})
    ask = form.make(failover([GROQ]), supply)

    with capture_events() as events:
        reading = read(form, ask, take=2)

    assert [ROLE, said("It")] == reading.items
    assert reading.error is None
    assert (1, 0) == (health()[GROQ].total, health()[GROQ].errors)
    assert ["StreamCommitted", "AttemptSucceeded"] == names(events)
    assert [] == supply.left_open


@over(FEW_FORMS)
def test_a_consumer_who_stops_before_content_says_nothing(form: Form) -> None:
    """A consumer that stops after silent items only leaves neither a success nor a failure."""
    supply = Supply({GROQ: [[SILENT] * 100]})
    ask = form.make(failover([GROQ]), supply)

    reading = read(form, ask, take=3)

    assert [SILENT] * 3 == reading.items
    assert reading.error is None
    assert (0, 0) == (health([GROQ])[GROQ].total, health([GROQ])[GROQ].errors)
    assert [] == supply.left_open


@over(FEW_FORMS)
def test_content_that_comes_after_what_was_held_counts(form: Form) -> None:
    """A consumer who stops after content that came later than could be held back was served."""
    supply = Supply({GROQ: [[*[SILENT] * 64, said("It"), *[SILENT] * 10]]})
    ask = form.make(failover([GROQ]), supply)

    read(form, ask, take=66)

    assert (1, 0) == (health([GROQ])[GROQ].total, health([GROQ])[GROQ].errors)


@over(FEW_FORMS)
def test_a_failure_is_charged_once(form: Form) -> None:
    """A failure of a stream is one error of its target, before content and after."""
    supply = Supply({GROQ: [[ROLE, down], [ROLE, said("It"), down]], OPENAI: [says("It")]})
    ask = form.make(failover([GROQ, OPENAI], attempts=1), supply)

    read(form, ask)
    before = health()[GROQ].errors
    read(form, ask)

    assert (1, 2) == (before, health()[GROQ].errors)


def test_a_guard_inside_a_guarded_stream_charges_once() -> None:
    """A provider guarded inside and outside is charged once for what it raised in the middle."""

    @failover([GROQ])
    def ask(target: Target) -> Iterator[Any]:
        with breaker(target.key):
            yield ROLE
            yield said("It")
            raise down()

    with pytest.raises(StreamInterruptedError):
        list(ask())

    assert 1 == health()[GROQ].errors


def test_a_chain_within_a_chain_charges_once() -> None:
    """An interruption of an inner chain is not a failure of the outer chain's target."""
    supply = Supply({GROQ: [[ROLE, said("It"), down]]})
    inner = SYNC_FORMS[0].make(failover([GROQ]), supply)

    @failover([OPENAI])
    def ask(target: Target) -> Iterator[Any]:
        yield from inner()

    with pytest.raises(StreamInterruptedError):
        list(ask())

    assert (1, 0) == (health()[GROQ].errors, health([OPENAI])[OPENAI].errors)


@over(FEW_FORMS)
def test_slowness_is_judged_by_the_first_content(form: Form, clock: FakeClock) -> None:
    """A long answer that began at once is not slow; one that began late is."""
    configure(breakers={"*": {"slow_call": 5.0, "min_calls": 3, "slow_rate": 0.5}}, logging=False)
    long = [ROLE, said("It"), Quiet(clock, 100.0), said(" is"), END]
    late = [ROLE, Quiet(clock, 6.0), *says("It")]
    supply = Supply({GROQ: [long], OPENAI: [late]})
    of_long, of_late = form.make(failover([GROQ]), supply), form.make(failover([OPENAI]), supply)

    for _ in range(3):
        read(form, of_long)
        read(form, of_late)

    assert (False, True) == (is_benched(GROQ), is_benched(OPENAI))


def test_slowness_under_a_guard_is_judged_by_the_first_content(clock: FakeClock) -> None:
    """The same for `@breaker`, on a generator function and on a function that returns a stream."""
    configure(breakers={"*": {"slow_call": 5.0, "min_calls": 3, "slow_rate": 0.5}}, logging=False)

    def items() -> Iterator[Any]:
        yield said("It")
        clock.advance(20.0)
        yield said(" is")
        yield END

    def late() -> Iterator[Any]:
        yield ROLE
        clock.advance(6.0)
        yield from says("It")

    # One after the other: all of them together would outlast the window.
    for guarded in (breaker(GROQ)(items), breaker(OPENAI)(lambda: items()), breaker(MISTRAL)(late)):
        for _ in range(3):
            list(guarded())

    assert (False, False, True) == (is_benched(GROQ), is_benched(OPENAI), is_benched(MISTRAL))


def test_a_long_stream_that_is_interrupted_by_hand_was_not_slow(clock: FakeClock) -> None:
    """KeyboardInterrupt in the middle of a stream counts like a consumer that stops."""
    configure(breakers={"*": {"slow_call": 5.0, "min_calls": 3, "slow_rate": 0.5}}, logging=False)

    def items() -> Iterator[Any]:
        yield said("It")
        clock.advance(20.0)
        yield said(" is")
        raise KeyboardInterrupt

    @failover([GROQ])
    def ask(target: Target) -> Iterator[Any]:
        yield from items()

    for read_all in (ask, breaker(OPENAI)(items)):
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                list(read_all())

    assert (False, False) == (is_benched(GROQ), is_benched(OPENAI))


def _half_open(key: str, clock: FakeClock) -> None:
    for _ in range(5):
        breaker(key).record(TimeoutError(), 0.1)
    assert "open" == breaker(key).state
    clock.advance(60.0)
    assert "half_open" == breaker(key).state


ENDS = {
    "a good end": (says("It", " is"), None, "closed"),
    "an interruption": ([ROLE, said("It"), TimeoutError], None, "open"),
    "no finish reason": ([ROLE, said("It")], None, "open"),
    "stopped after content": (says("It", " is"), 2, "closed"),
    "stopped before content": ([SILENT] * 100, 2, "half_open"),
    "a caller's bug": ([ROLE, said("It"), TypeError], None, "half_open"),
}


@over(FEW_FORMS)
@pytest.mark.parametrize("end", ENDS)
def test_a_probe_ends_with_its_stream(form: Form, end: str, clock: FakeClock) -> None:
    """The end of a probe's stream closes or opens its circuit, and gives back the lease."""
    line, take, state = ENDS[end]
    _half_open(GROQ, clock)
    supply = Supply({GROQ: [line]})
    ask = form.make(failover([GROQ], when_all_benched="raise"), supply)

    read(form, ask, take=take)

    assert state == breaker(GROQ).state
    if state == "half_open":
        with breaker(GROQ):  # a lease is free
            pass


@over([form for form in FEW_FORMS if form.backend is None])
def test_the_lease_of_a_probe_is_kept_while_its_stream_runs(form: Form, clock: FakeClock) -> None:
    """While the stream of a probe is read every other call is rejected."""
    _half_open(GROQ, clock)
    supply = Supply({GROQ: [says("It", " is", " so")], OPENAI: [says("other")]})
    ask = form.make(failover([GROQ, OPENAI]), supply)
    stream = ask()
    if form.manages:
        manager, stream = stream, stream.__enter__()
    items = iter(stream)
    next(items)

    other = read(form, ask)

    assert "other" == other.text
    with pytest.raises(BreakerOpenError), breaker(GROQ):
        pass
    assert 5 == len([ROLE, *items])
    if form.manages:
        manager.__exit__(None, None, None)
    assert "closed" == breaker(GROQ).state


@over(FEW_FORMS)
def test_a_trace_knows_who_served(form: Form) -> None:
    """A trace has the attempts of a stream's call, and who served in the end."""
    supply = Supply({GROQ: [[ROLE, down]], OPENAI: [says("It")]})
    ask = form.make(failover([GROQ, OPENAI], attempts=1), supply)

    def traced() -> Any:
        return ask()

    with Trace(call_id="mine") as trace, capture_events(StreamCommitted) as events:
        read(form, traced)

    assert OPENAI == trace.served_by
    assert [(GROQ, "overloaded"), (OPENAI, "")] == [
        (each.target, each.reason or "") for each in trace.calls[0].attempts
    ]
    assert ["mine"] == [event.call_id for event in events]


# --- What comes back ---------------------------------------------------------------------------


def _sdk(lines: list[Any], **options: Any) -> tuple[Any, Supply]:
    supply = Supply({GROQ: [lines], OPENAI: [says("other")]})

    @failover([GROQ, OPENAI], **options)
    def ask(target: Target) -> SdkStream:
        return SdkStream(supply.open(target))

    return ask(), supply


def test_a_proxy_passes_for_the_clients_object() -> None:
    """Its class, attributes and methods are those of the object of the target that serves."""
    stream, supply = _sdk(says("It", " is"))

    assert isinstance(stream, SdkStream)
    assert {"x-served-by": GROQ} == stream.response.headers
    stream.mine = 1
    assert 1 == stream.mine
    assert ["", "It", " is", ""] == stream.texts()
    assert [] == supply.left_open


def test_the_object_of_the_target_that_serves_comes_back() -> None:
    """After a failure before content its attributes are those of the next target's object."""
    stream, _ = _sdk([ROLE, down], attempts=1)

    assert {"x-served-by": OPENAI} == stream.response.headers


def test_methods_of_the_client_read_guarded_items() -> None:
    """A method that reads all items sees an interruption, and what a loop left over."""
    stream, supply = _sdk([ROLE, said("It"), down])

    assert ROLE == next(stream)
    with pytest.raises(StreamInterruptedError) as caught:
        stream.texts()

    assert 2 == caught.value.items_sent
    assert [] == supply.left_open
    assert 1 == health()[GROQ].errors


def test_methods_and_loops_share_the_items() -> None:
    """A method and a loop each get the next item; after the end there is none."""
    stream, _ = _sdk(says("It", " is", " so"))

    assert ROLE == next(stream)
    assert said("It") == next(iter(stream))
    assert [" is", " so", ""] == stream.texts()
    assert [] == list(stream)


def test_a_stream_is_a_manager_as_before() -> None:
    """``with`` on it gives the proxy and closes what served."""
    stream, supply = _sdk(says("It", " is"))

    with stream as entered:
        assert entered is stream
        assert [ROLE, said("It")] == [next(entered), next(entered)]

    assert [] == supply.left_open
    assert (1, 0) == (health()[GROQ].total, health()[GROQ].errors)


def test_closing_twice_is_fine() -> None:
    """The second time does nothing, and a closed stream has no more items."""
    stream, _ = _sdk(says("It", " is"))
    next(stream)

    stream.close()
    stream.close()

    assert [] == list(stream)
    assert 1 == health()[GROQ].total


def test_an_error_in_a_with_block_leaves_unchanged() -> None:
    """An error of the consumer's own code leaves the block as it is."""
    stream, supply = _sdk(says("It", " is"))
    next(stream)

    with pytest.raises(KeyError), stream:
        raise KeyError("mine")

    assert [] == supply.left_open
    assert 0 == health([GROQ])[GROQ].errors


def test_a_stream_is_not_pickled() -> None:
    """An open connection cannot be put into a pickle, and says so."""
    stream, _ = _sdk(says("It"))

    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(stream)


def test_what_has_no_close_gets_none() -> None:
    """A stream object without ``close`` is given none."""

    class Bare:
        def __init__(self) -> None:
            self._items = iter(["It"])

        def __iter__(self) -> Bare:
            return self

        def __next__(self) -> str:
            return next(self._items)

    @failover([GROQ])
    def ask(target: Target) -> Bare:
        return Bare()

    stream = ask()

    assert not hasattr(stream, "close")
    assert ["It"] == list(stream)


def test_files_and_other_answers_are_not_streams() -> None:
    """A list, text, dict or file is a plain answer and is returned unchanged."""
    import io

    for answer in (
        ["It"],
        "It",
        {"It": 1},
        io.StringIO("It"),
        io.BytesIO(b"It"),
        ("It",),
        range(2),
    ):

        @failover([GROQ])
        def ask(target: Target, answer: Any = answer) -> Any:
            return answer

        assert answer is ask()


@on_both_loops
@pytest.mark.parametrize("kind", [Mock, MagicMock, AsyncMock, NonCallableMagicMock])
def test_a_mock_is_an_answer(backend: str, kind: type) -> None:
    """A mock, which has every method of a stream, is a plain answer and is returned unchanged."""
    answer = kind()

    @failover([GROQ])
    def ask(target: Target) -> Any:
        return answer

    @failover([GROQ])
    async def aask(target: Target) -> Any:
        return answer

    @breaker(GROQ)
    def guarded() -> Any:
        return answer

    assert answer is ask()
    assert answer is guarded()
    assert answer is run_async(aask, backend=backend)
    assert (3, 0) == (health()[GROQ].total, health()[GROQ].errors)


@on_both_loops
def test_an_async_proxy_passes_for_the_clients_object(backend: str) -> None:
    """The same in async code: its class, attributes, methods, ``async with`` and ``close``."""
    supply = Supply({GROQ: [says("It", " is")]})

    @failover([GROQ])
    async def ask(target: Target) -> AsyncSdkStream:
        return AsyncSdkStream(supply.aopen(target))

    async def main() -> None:
        stream = await ask()
        assert isinstance(stream, AsyncSdkStream)
        assert {"x-served-by": GROQ} == stream.response.headers
        async with stream as entered:
            assert entered is stream
            assert ROLE == await anext(aiter(entered))
            assert ["It", " is", ""] == await entered.texts()
        await stream.close()

    run_async(main, backend=backend)

    assert [] == supply.left_open
    assert (1, 0) == (health()[GROQ].total, health()[GROQ].errors)


def test_a_manager_is_entered_once() -> None:
    """As the clients' own: entering it makes the call, a second time is refused."""
    form = next(form for form in SYNC_FORMS if form.name == "manager")
    supply = Supply({GROQ: [says("It")]})
    manager = form.make(failover([GROQ]), supply)()

    with manager as stream:
        assert says("It") == list(stream)
    with pytest.raises(RuntimeError), manager:
        pass

    assert [] == supply.left_open


def test_an_error_in_the_block_of_a_manager_reaches_it() -> None:
    """The client's own manager gets the error of the block, and may swallow it."""
    seen: list[Any] = []

    class Manager:
        def __init__(self, swallows: bool) -> None:
            self._swallows = swallows

        def __enter__(self) -> Iterator[Any]:
            return iter(says("It"))

        def __exit__(self, kind: Any, error: Any, traceback: Any) -> bool:
            seen.append(kind)
            return self._swallows

    @failover([GROQ])
    def ask(target: Target, swallows: bool) -> Any:
        return Manager(swallows)

    with pytest.raises(KeyError), ask(False):
        raise KeyError
    with ask(True):
        raise KeyError

    assert [KeyError, KeyError] == seen
    assert 0 == health([GROQ])[GROQ].errors


# --- What a decorated function looks like -------------------------------------------------------


@failover([GROQ])
def of_module(target: Target, prompt: str, *, loud: bool = False) -> Iterator[str]:
    """Give the prompt."""
    yield prompt


@failover([GROQ])
async def of_module_async(target: Target, prompt: str) -> AsyncIterator[str]:
    """Give the prompt, too."""
    yield prompt


class OfModule:
    """Has guarded methods."""

    @failover([GROQ])
    def ask(self, target: Target, prompt: str) -> Iterator[str]:
        yield prompt

    @classmethod
    @failover([GROQ])
    def ask_class(cls, target: Target, prompt: str) -> Iterator[str]:
        yield prompt

    @staticmethod
    @failover([GROQ])
    def ask_static(target: Target, prompt: str) -> Iterator[str]:
        yield prompt


def test_generator_functions_pass_for_ones() -> None:
    """`inspect` and the frameworks that ask it see what was decorated, without the target."""
    assert inspect.isgeneratorfunction(of_module)
    assert inspect.isasyncgenfunction(of_module_async)
    assert not inspect.isasyncgenfunction(of_module)
    assert not inspect.iscoroutinefunction(of_module_async)
    assert inspect.isgeneratorfunction(OfModule().ask)
    assert "(prompt: 'str', *, loud: 'bool' = False) -> 'Iterator[str]'" == str(
        inspect.signature(of_module)
    )
    assert "(prompt: 'str') -> 'Iterator[str]'" == str(inspect.signature(OfModule().ask))
    assert ("of_module", "Give the prompt.", __name__) == (
        of_module.__name__,
        of_module.__doc__,
        of_module.__module__,
    )
    assert inspect.isgenerator(of_module("It"))


@on_both_loops
def test_an_async_generator_passes_for_one(backend: str) -> None:
    """What a decorated async generator function gives is seen as an async generator."""

    async def main() -> None:
        stream = of_module_async("It")
        assert inspect.isasyncgen(stream)
        assert ["It"] == [item async for item in stream]
        await stream.aclose()

    run_async(main, backend=backend)


@pytest.mark.parametrize("function", [of_module, of_module_async], ids=["sync", "async"])
def test_functions_are_pickled_by_name(function: Any) -> None:
    """They come back as the same object, and are copied as functions are."""
    assert function is pickle.loads(pickle.dumps(function))
    assert function is copy.copy(function)
    assert function is copy.deepcopy(function)


def test_methods_of_each_kind() -> None:
    """Instance, class and static methods give items however they are found."""
    assert ["It"] == list(OfModule().ask("It"))
    assert ["It"] == list(OfModule.ask(OfModule(), "It"))
    assert ["It"] == list(OfModule.ask_class("It"))
    assert ["It"] == list(OfModule().ask_class("It"))
    assert ["It"] == list(OfModule.ask_static("It"))
    assert OfModule.ask.policy.chain == of_module.policy.chain
    assert ["It"] == list(OfModule().ask.policy.using(chain=[OPENAI])(of_module.__wrapped__)("It"))


def test_using_gives_another_stream_function() -> None:
    """``using`` of a generator function gives one with other options."""
    changed = of_module.using(chain=[OPENAI])

    assert inspect.isgeneratorfunction(changed)
    assert [OPENAI] == [target.key for target in changed.policy.chain]
    assert ["It"] == list(changed("It"))
    assert 1 == health()[OPENAI].total


@pytest.mark.parametrize("names", ["target", "model", "provider"])
def test_a_stream_function_is_given_its_target_by_name(names: str) -> None:
    """Keyword-only parameters are filled in as for any function; a caller may pin the call."""
    supply = Supply({GROQ: [[ROLE, down]], OPENAI: [says("It")]})

    @failover([GROQ, OPENAI], attempts=1)
    def ask(*, target: Target | None = None, model: str = "", provider: str = "") -> Iterator[Any]:
        assert target is not None
        assert (target.model, target.provider) == (model, provider)
        yield from supply.open(target)

    assert says("It") == list(ask())
    if names == "target":
        assert says("It") == list(ask(target=Target(OPENAI)))
    elif names == "model":
        assert says("It") == list(ask(target=OPENAI))
    with pytest.raises(ValueError, match="openai/gpt"):
        list(ask(target="unknown/x"))
    assert [GROQ, *([OPENAI] * (len(supply.calls) - 1))] == supply.calls


@over([form for form in SYNC_FORMS if form.name in ("generator", "sdk")])
def test_a_pinned_stream_goes_nowhere_else(form: Form) -> None:
    """A call pinned by ``model=`` is guarded, and never leaves its target."""
    supply = Supply({GROQ: [says("no")], OPENAI: [[ROLE, down]]})

    @failover([GROQ, OPENAI], attempts=1)
    def ask(*, model: str = "", target: Target | None = None) -> Any:
        assert target is not None
        return supply.open(target)

    with pytest.raises(ChainExhaustedError):
        list(ask(model="gpt"))

    assert [OPENAI] == supply.calls
    assert 1 == health()[OPENAI].errors


def test_a_target_with_a_call_of_its_own() -> None:
    """A target's ``call=`` may be a generator function, too."""

    def own(prompt: str) -> Iterator[str]:
        yield f"own {prompt}"

    @failover([Target(GROQ, call=own), OPENAI])
    def ask(target: Target, prompt: str) -> Iterator[str]:
        yield prompt

    assert ["own It"] == list(ask("It"))


def test_a_target_that_does_not_stream_where_others_do() -> None:
    """A plain answer where the decorated function is a generator is a ConfigurationError."""

    @failover([Target(GROQ, call=lambda: "answer"), OPENAI])
    def ask(target: Target) -> Iterator[str]:
        yield "It"

    with pytest.raises(ConfigurationError, match="stream"):
        list(ask())


def test_arguments_are_let_go_when_the_stream_has_begun() -> None:
    """A prompt is released when the stream has begun, if no other target can be called."""
    import gc
    import weakref

    class Prompt:
        pass

    @failover([GROQ, OPENAI])
    def ask(target: Target, prompt: Prompt) -> Any:
        return iter(says("It", " is"))

    prompt = Prompt()
    gone = weakref.ref(prompt)
    stream = ask(prompt)
    next(stream)
    del prompt
    gc.collect()

    assert gone() is None
    assert 3 == len(list(stream))


# --- @breaker ----------------------------------------------------------------------------------


@over(GUARDED_FORMS)
def test_a_guard_changes_nothing_of_a_stream(form: Form) -> None:
    """``@breaker`` gives every item at once, silent ones as well; the end is one success."""
    supply = Supply({GROQ: [[SILENT, SILENT, *says("It"), SILENT]]})
    ask = form.make(breaker(GROQ), supply)

    reading = read(form, ask, Target(GROQ))

    assert [SILENT, SILENT, *says("It"), SILENT] == reading.items
    assert reading.error is None
    assert (1, 0) == (health()[GROQ].total, health()[GROQ].errors)
    assert [] == supply.left_open


@over(GUARDED_FORMS)
def test_a_guard_holds_nothing_back(form: Form) -> None:
    """The first item is there before the second was asked for."""
    supply = Supply({GROQ: [[SILENT, *says("It")]]})
    ask = form.make(breaker(GROQ), supply)

    read(form, ask, Target(GROQ), take=1)

    assert 1 == supply.opened[0].taken
    assert [] == supply.left_open


@over(GUARDED_FORMS)
@pytest.mark.parametrize(
    "line", [[down], [ROLE, down], [ROLE, said("It"), down]], ids=["first", "before", "after"]
)
def test_an_error_under_a_guard_is_counted_and_unchanged(form: Form, line: list[Any]) -> None:
    """It is one failure wherever it comes, and leaves as the object that was raised."""
    error = down()
    supply = Supply({GROQ: [[*line[:-1], lambda: error]]})
    ask = form.make(breaker(GROQ), supply)

    reading = read(form, ask, Target(GROQ))

    assert error is reading.error
    assert line[:-1] == reading.items
    assert (1, 1) == (health()[GROQ].total, health()[GROQ].errors)
    assert [] == supply.left_open


@over(GUARDED_FORMS)
@pytest.mark.parametrize(
    ("line", "take", "counted"),
    [(says("It", " is"), 2, (1, 0)), ([SILENT] * 5, 2, (0, 0)), (says("It"), 0, None)],
    ids=["after content", "before content", "unread"],
)
def test_stopping_early_under_a_guard(form: Form, line: list[Any], take: int, counted: Any) -> None:
    """Stopping counts as a success after content and as nothing before it; it always closes."""
    supply = Supply({GROQ: [line]})
    ask = form.make(breaker(GROQ), supply)

    reading = read(form, ask, Target(GROQ), take=take)

    seen = health([GROQ])[GROQ]
    assert reading.error is None
    assert counted in (None, (seen.total, seen.errors))
    assert 0 == seen.errors
    if (
        take or "gen" not in form.name
    ):  # a generator of the caller's that never began can close nothing
        assert [] == supply.left_open


@over([form for form in GUARDED_FORMS if not form.manages])
def test_a_probe_under_a_guard_whose_stream_is_never_read(form: Form, clock: FakeClock) -> None:
    """A stream that is closed before anything was read gives back the lease of its probe."""
    _half_open(GROQ, clock)
    ask = form.make(breaker(GROQ), Supply({GROQ: [says("It")]}))

    read(form, ask, Target(GROQ), take=0)

    with breaker(GROQ):  # a lease is free
        pass


@over(GUARDED_FORMS)
def test_a_stream_cut_short_under_a_guard_just_ends(form: Form) -> None:
    """A stream that is cut short counts as a failure, and nothing is raised."""
    supply = Supply({GROQ: [[ROLE, said("It")]]})
    ask = form.make(breaker(GROQ), supply)

    reading = read(form, ask, Target(GROQ))

    assert [ROLE, said("It")] == reading.items
    assert reading.error is None
    assert (1, 1) == (health()[GROQ].total, health()[GROQ].errors)


@over(GUARDED_FORMS)
def test_an_open_guard_refuses_a_stream(form: Form) -> None:
    """No stream is opened, and the first use of the result raises BreakerOpenError."""
    for _ in range(5):
        breaker(GROQ).record(TimeoutError(), 0.1)
    supply = Supply({GROQ: [says("It")]})
    ask = form.make(breaker(GROQ), supply)

    reading = read(form, ask, Target(GROQ))

    assert BreakerOpenError is type(reading.error)
    assert [] == supply.calls


@over(GUARDED_FORMS)
def test_five_streams_that_die_midway_open_a_guard(form: Form) -> None:
    """The fifth failure opens the circuit."""
    supply = Supply({GROQ: [[ROLE, said("It"), lambda: TimeoutError()]]})
    ask = form.make(breaker(GROQ), supply)

    for _ in range(5):
        read(form, ask, Target(GROQ))

    assert "open" == breaker(GROQ).state


@over(GUARDED_FORMS)
@pytest.mark.parametrize("end", ENDS)
def test_a_probe_under_a_guard_ends_with_its_stream(form: Form, end: str, clock: FakeClock) -> None:
    """The end of a probe's stream closes or opens its circuit."""
    line, take, state = ENDS[end]
    _half_open(GROQ, clock)
    ask = form.make(breaker(GROQ), Supply({GROQ: [line]}))

    read(form, ask, Target(GROQ), take=take)

    assert state == breaker(GROQ).state
    if state == "half_open":
        with breaker(GROQ):  # a lease is free
            pass


def test_sending_into_a_guarded_generator() -> None:
    """``send``, ``throw`` and the value of a return work as without a guard."""

    @breaker(GROQ)
    def ask() -> Any:
        got = []
        try:
            got.append((yield "a"))
        except KeyError:
            got.append("caught")
        try:
            got.append((yield "b"))
        except KeyError:
            got.append("caught")
        return got

    stream = ask()
    steps = [next(stream), stream.send("sent")]
    with pytest.raises(StopIteration) as end:
        stream.throw(KeyError())

    assert ["a", "b"] == steps
    assert ["sent", "caught"] == end.value.value
    assert (1, 0) == (health()[GROQ].total, health()[GROQ].errors)


@on_both_loops
def test_sending_into_a_guarded_async_generator(backend: str) -> None:
    """``asend`` and ``athrow`` work as without a guard."""
    got: list[Any] = []

    @breaker(GROQ)
    async def ask() -> Any:
        got.append((yield "a"))
        try:
            yield "b"
        except KeyError:
            got.append("caught")
        yield "c"

    async def main() -> list[str]:
        stream = ask()
        items = [await anext(stream), await stream.asend("sent"), await stream.athrow(KeyError())]
        await stream.aclose()
        return items

    assert ["a", "b", "c"] == run_async(main, backend=backend)
    assert ["sent", "caught"] == got
    assert (1, 0) == (health()[GROQ].total, health()[GROQ].errors)


def test_a_guarded_generator_function_passes_for_one() -> None:
    """`inspect` sees a generator function, its name and signature; pickled by name elsewhere."""

    @breaker(GROQ)
    def ask(prompt: str) -> Iterator[str]:
        """Ask."""
        yield prompt

    @breaker(GROQ)
    async def aask(prompt: str) -> AsyncIterator[str]:
        yield prompt

    assert inspect.isgeneratorfunction(ask)
    assert inspect.isasyncgenfunction(aask)
    assert ("ask", "Ask.", ["prompt"]) == (
        ask.__name__,
        ask.__doc__,
        list(inspect.signature(ask).parameters),
    )


def test_a_guarded_stream_keeps_its_object() -> None:
    """The client's object is still seen as its class, with its methods and attributes."""
    supply = Supply({GROQ: [says("It", " is")]})

    @breaker(GROQ)
    def ask() -> SdkStream:
        return SdkStream(supply.open(Target(GROQ)))

    stream = ask()

    assert isinstance(stream, SdkStream)
    assert {"x-served-by": GROQ} == stream.response.headers
    assert ["", "It", " is", ""] == stream.texts()
    assert (1, 0) == (health()[GROQ].total, health()[GROQ].errors)


@over([form for form in GUARDED_FORMS if form.backend is None and not form.manages])
def test_while_a_guarded_probe_is_read_others_are_refused(form: Form, clock: FakeClock) -> None:
    """Calls of the consumer between two items do not share the lease of the stream's probe."""
    _half_open(GROQ, clock)
    stream = form.make(breaker(GROQ), Supply({GROQ: [says("It", " is")]}))(Target(GROQ))
    items = iter(stream)
    next(items)

    with pytest.raises(BreakerOpenError), breaker(GROQ):
        pass

    assert 3 == len(list(items))
    assert "closed" == breaker(GROQ).state


@over([form for form in GUARDED_FORMS if form.backend is None and not form.manages])
def test_a_guarded_probe_closed_by_another_thread_leaves_nothing_behind(
    form: Form, clock: FakeClock
) -> None:
    """Its first thread keeps no lease that later calls would borrow in vain."""
    _half_open(GROQ, clock)
    stream = form.make(breaker(GROQ), Supply({GROQ: [says("It", " is")]}))(Target(GROQ))
    next(iter(stream))

    closing = threading.Thread(target=stream.close)
    closing.start()
    closing.join(10.0)

    assert () == held_leases.get()
