"""How streams end, and what their circuits, figures and traces have of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from resilient_llm import (
    AttemptFailed,
    AttemptSucceeded,
    BreakerOpenError,
    ChainExhaustedError,
    ErrorKind,
    ResponseRejectedError,
    StreamCommitted,
    StreamInterrupted,
    StreamInterruptedError,
    StreamPolicy,
    Target,
    Trace,
    breaker,
    configure,
    failover,
    health,
    is_benched,
)
from resilient_llm.testing import FakeClock, capture_events
from tests.support.guards import half_open
from tests.support.stream_forms import (
    FEW_FORMS,
    FORMS,
    SYNC_FORMS,
    Form,
    read,
)
from tests.support.stream_sources import (
    END,
    PROBE_ENDS,
    ROLE,
    SILENT,
    Quiet,
    Supply,
    Thing,
    chunk,
    names,
    said,
    says,
)
from tests.support.ways import (
    GROQ,
    MISTRAL,
    OPENAI,
    down,
    over,
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


@over(FEW_FORMS)
@pytest.mark.parametrize("end", PROBE_ENDS)
def test_a_probe_ends_with_its_stream(form: Form, end: str, clock: FakeClock) -> None:
    """The end of a probe's stream closes or opens its circuit, and gives back the lease."""
    line, take, state = PROBE_ENDS[end]
    half_open(clock)
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
    half_open(clock)
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
