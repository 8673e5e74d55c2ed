"""Streams through the public API: held back until the first content, always closed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from resilient_llm import (
    AttemptFailed,
    ErrorKind,
    StreamInterruptedError,
    StreamPolicy,
    Target,
    Verdict,
    failover,
    health,
    reset,
)
from resilient_llm.testing import FakeClock, capture_events
from tests.support.stream_forms import (
    FEW_FORMS,
    FORMS,
    LAZY_FORMS,
    Form,
    read,
)
from tests.support.stream_sources import (
    ROLE,
    SILENT,
    Supply,
    Thing,
    chunk,
    names,
    said,
    says,
)
from tests.support.ways import (
    GROQ,
    OPENAI,
    ProviderError,
    Script,
    StrangeError,
    down,
    over,
    rate_limited,
    refused_content,
)


def facts(events: list[Any]) -> list[tuple[Any, ...]]:
    """Return events without what differs from call to call."""
    return [
        (
            type(event).__name__,
            *(getattr(event, each.name) for each in dataclasses.fields(event)[2:]),
        )
        for event in events
    ]


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
