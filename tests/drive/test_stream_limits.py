"""The time limits of streams: first content, idle time, rate, whole stream, deadline."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from resilient_llm import (
    Attempt,
    AttemptFailed,
    DeadlineExceededError,
    ErrorKind,
    StreamInterrupted,
    StreamInterruptedError,
    StreamPolicy,
    Target,
    failover,
    health,
)
from resilient_llm.testing import FakeClock, capture_events
from tests.support.stream_forms import (
    FEW_FORMS,
    FORMS,
    Form,
    read,
)
from tests.support.stream_sources import (
    END,
    ROLE,
    SILENT,
    Quiet,
    Supply,
    said,
    says,
)
from tests.support.ways import (
    GROQ,
    OPENAI,
    down,
    over,
)


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
