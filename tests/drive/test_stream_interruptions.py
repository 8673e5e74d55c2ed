"""Streams that break after their first content: interruptions and restarts."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from resilient_llm import (
    AttemptFailed,
    AttemptSucceeded,
    CallFailed,
    ChainExhaustedError,
    ErrorKind,
    FailedOver,
    StreamCommitted,
    StreamInterrupted,
    StreamInterruptedError,
    StreamPolicy,
    Target,
    failover,
    health,
)
from resilient_llm.testing import FakeClock, capture_events
from tests.support.stream_forms import (
    ASYNC_FORMS,
    FEW_FORMS,
    FORMS,
    SYNC_FORMS,
    Form,
    read,
)
from tests.support.stream_sources import (
    END,
    ROLE,
    AsyncSdkManager,
    AsyncSdkStream,
    Quiet,
    SdkStream,
    Supply,
    names,
    said,
    says,
)
from tests.support.ways import (
    GROQ,
    MISTRAL,
    OPENAI,
    ProviderError,
    StrangeError,
    down,
    on_both_loops,
    over,
    refused_content,
    run_async,
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


@on_both_loops
def test_a_synchronous_stream_after_an_asynchronous_manager(backend: str) -> None:
    """The stream of an entered manager may be replaced by a synchronous one; both are closed."""
    supply = Supply({GROQ: [[ROLE, said("It"), TimeoutError]], OPENAI: [says("Other")]})

    @failover([GROQ, OPENAI], stream=StreamPolicy(on_interrupt="restart"))
    def ask(target: Target) -> Any:
        if target.key == GROQ:
            return AsyncSdkManager(lambda: supply.aopen(target))
        return SdkStream(supply.open(target))

    async def main() -> list[Any]:
        async with ask() as stream:
            return [item async for item in stream]

    assert [ROLE, said("It"), *says("Other")] == run_async(main, backend=backend)
    assert [] == supply.left_open
