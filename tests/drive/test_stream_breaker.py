"""Streams under ``@breaker``: counted, and otherwise unchanged."""

from __future__ import annotations

import inspect
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from resilient_llm import (
    BreakerOpenError,
    Target,
    breaker,
    health,
)
from resilient_llm._core.circuit.permit import held_leases
from resilient_llm.testing import FakeClock
from tests.support.guards import half_open
from tests.support.stream_forms import (
    GUARDED_FORMS,
    Form,
    read,
)
from tests.support.stream_sources import (
    PROBE_ENDS,
    ROLE,
    SILENT,
    SdkStream,
    Supply,
    said,
    says,
)
from tests.support.ways import (
    GROQ,
    down,
    on_both_loops,
    over,
    run_async,
)


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
    half_open(clock)
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
@pytest.mark.parametrize("end", PROBE_ENDS)
def test_a_probe_under_a_guard_ends_with_its_stream(form: Form, end: str, clock: FakeClock) -> None:
    """The end of a probe's stream closes or opens its circuit."""
    line, take, state = PROBE_ENDS[end]
    half_open(clock)
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
    half_open(clock)
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
    half_open(clock)
    stream = form.make(breaker(GROQ), Supply({GROQ: [says("It", " is")]}))(Target(GROQ))
    next(iter(stream))

    closing = threading.Thread(target=stream.close)
    closing.start()
    closing.join(10.0)

    assert () == held_leases()
