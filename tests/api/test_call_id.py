"""`call_id`: the name of the call that this code belongs to, the same as in events and traces."""

import asyncio
import contextvars
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import resilient_llm
from resilient_llm import (
    Attempt,
    AttemptFailed,
    AttemptSucceeded,
    Target,
    Trace,
    breaker,
    call_id,
    failover,
)
from resilient_llm._runtime import call_ids
from resilient_llm.testing import capture_events, isolated
from tests.support.ways import GROQ, OPENAI, ProviderError, down, run_async

CHAIN = [GROQ, OPENAI]
ENDS = (AttemptSucceeded, AttemptFailed)


@pytest.fixture(autouse=True)
def carried() -> None:
    """Have calls carry their names, as after the first access of the function."""
    call_ids.switch_on()


def twice(ask: Callable[[], Any], seen: list[Any]) -> None:
    """Make three calls; each has a name of its own, which its events have, and none is left."""
    names: list[Any] = []
    for _ in range(3):
        with capture_events(*ENDS) as events:
            ask()
        assert call_id() is None
        assert {event.call_id for event in events} == set(seen)
        assert len(set(seen)) == 1
        names += set(seen)
        seen.clear()
    assert None not in names
    assert 3 == len(set(names))


def test_outside_of_calls_there_is_none() -> None:
    """Nor in the block of a breaker, which is no call."""
    with breaker(GROQ):
        inside = call_id()

    assert (None, None) == (call_id(), inside)


def test_in_the_function() -> None:
    """The same in every attempt of a call, and in `reject`."""
    seen: list[Any] = []

    def reject(answer: str) -> bool:
        seen.append(call_id())
        return answer == "no"

    @failover(CHAIN, reject=reject, attempts=1)
    def ask(target: Target) -> str:
        seen.append(call_id())
        return "no" if target.provider == "groq" else "yes"

    twice(ask, seen)


def test_after_a_failure() -> None:
    """On the next target, and after a retry."""
    seen: list[Any] = []

    @failover(CHAIN, attempts=2, backoff=lambda n: 0.0)
    def ask(target: Target) -> str:
        seen.append(call_id())
        if target.provider == "groq":
            raise down()
        return "yes"

    twice(ask, seen)


def test_of_a_target_with_a_call_of_its_own() -> None:
    """Also where the wrapper calls through an invoker, and with params."""
    seen: list[Any] = []

    def own(**kwargs: Any) -> str:
        seen.append(call_id())
        return "yes"

    @failover([Target(GROQ, call=own, params={"x": 1})])
    def ask() -> str:
        raise AssertionError

    twice(ask, seen)


def test_in_a_strategy() -> None:
    """It belongs to the call that it orders."""
    seen: list[Any] = []

    def order(targets: Any) -> Any:
        seen.append(call_id())
        return targets

    @failover(CHAIN, strategy=order)
    def ask(target: Target) -> str:
        seen.append(call_id())
        return "yes"

    twice(ask, seen)


def test_with_policy_call_and_a_pin() -> None:
    """Calls that the wrapper does not make by itself."""
    seen: list[Any] = []

    def plain(target: Target) -> str:
        seen.append(call_id())
        return "yes"

    @failover(CHAIN)
    def pinned(*, target: Target | None = None) -> str:
        seen.append(call_id())
        return "yes"

    twice(lambda: failover(CHAIN).call(plain), seen)
    twice(lambda: pinned(target=OPENAI), seen)


def test_attempt_and_trace_have_the_same() -> None:
    """`Attempt.call_id`, `trace.calls`, and the name that a trace gives."""

    @failover(CHAIN)
    def ask(target: Target, attempt: Attempt) -> tuple[str | None, str]:
        return call_id(), attempt.call_id

    with Trace() as trace:
        first = ask()
    with Trace(call_id="mine"):
        second = ask()
    third = ask()

    assert first == (trace.calls[0].call_id,) * 2
    assert ("mine", "mine") == second
    assert third[0] == third[1] not in (None, "mine")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_in_asynchronous_functions(backend: str) -> None:
    """Many at once, with a failure in between; tasks and threads of a call have its name."""

    async def main() -> None:
        pairs: list[tuple[Any, Any, Any]] = []

        @failover(CHAIN, attempts=1)
        async def ask(target: Target, attempt: Attempt) -> str:
            before = call_id()
            await anyio.lowlevel.checkpoint()
            in_task: list[Any] = []

            async def child() -> None:
                in_task.append(call_id())

            async with anyio.create_task_group() as group:
                group.start_soon(child)
            in_thread = await anyio.to_thread.run_sync(call_id)
            pairs.append((attempt.call_id, in_thread, *in_task))
            assert before == call_id()
            if target.provider == "groq":
                raise down()
            return "yes"

        @failover(CHAIN)
        async def plain(target: Target) -> str | None:
            await anyio.lowlevel.checkpoint()
            return call_id()

        answers: list[Any] = []

        async def one() -> None:
            answers.append(await plain())

        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(ask)
                group.start_soon(one)
        assert call_id() is None
        assert all(len(set(each)) == 1 and each[0] for each in pairs)
        assert 10 == len({each[0] for each in pairs})
        assert 10 == len({*answers} - {None})

    run_async(main, backend=backend)


def test_of_coroutines_that_were_made_before_the_first_binding() -> None:
    """All are made before the first of them runs."""

    @failover(CHAIN)
    async def ask(target: Target) -> str | None:
        await asyncio.sleep(0)
        return call_id()

    async def main() -> list[str | None]:
        return await asyncio.gather(*[ask() for _ in range(5)])

    assert 5 == len(set(asyncio.run(main())) - {None})


def test_of_an_awaitable_that_a_plain_function_gives() -> None:
    """Where it is awaited."""
    seen: list[Any] = []

    async def answer() -> str:
        await asyncio.sleep(0)
        seen.append(call_id())
        return "yes"

    @failover(CHAIN)
    def ask(target: Target) -> Any:
        seen.append(call_id())
        return answer()

    async def main() -> None:
        await ask()

    twice(lambda: asyncio.run(main()), seen)


def test_a_coroutine_may_go_on_in_another_context() -> None:
    """It is sent on by hand in a context that is not the one it began in."""

    @failover(CHAIN)
    async def ask(target: Target) -> str | None:
        await _Suspend()
        return "yes"

    ask_now = ask()
    contextvars.copy_context().run(ask_now.send, None)
    with pytest.raises(StopIteration) as end:
        contextvars.copy_context().run(ask_now.send, None)

    assert "yes" == end.value.value
    assert call_id() is None


class _Suspend:
    def __await__(self) -> Iterator[None]:
        yield


def test_in_the_body_of_a_stream_and_never_between_its_items() -> None:
    """Before the first item, at each item, and when it is closed."""
    seen: list[Any] = []
    outside: list[Any] = []

    @failover(CHAIN)
    def ask(target: Target) -> Iterator[str]:
        try:
            for item in "abc":
                seen.append(call_id())
                yield item
        finally:
            seen.append(call_id())

    def read(most: int) -> None:
        stream = ask()
        outside.append(call_id())
        for number, _ in enumerate(stream, 1):
            outside.append(call_id())
            if number == most:
                break
        stream.close()

    twice(lambda: read(9), seen)
    twice(lambda: read(1), seen)
    assert {None} == set(outside)


def test_of_a_stream_that_a_function_returns_and_of_its_manager() -> None:
    """The function, the manager and the items have one name."""
    seen: list[Any] = []
    outside: list[Any] = []

    def items() -> Iterator[str]:
        for item in "abc":
            seen.append(call_id())
            yield item

    @contextmanager
    def opened() -> Iterator[Iterator[str]]:
        seen.append(call_id())
        yield items()
        seen.append(call_id())

    @failover(CHAIN)
    def returned(target: Target) -> Iterator[str]:
        seen.append(call_id())
        return items()

    @failover(CHAIN)
    def managed(target: Target) -> Any:
        seen.append(call_id())
        return opened()

    def read() -> None:
        for _ in returned():
            outside.append(call_id())  # noqa: PERF401  # between the items

    def enter() -> None:
        with managed() as stream:
            for _ in stream:
                outside.append(call_id())  # noqa: PERF401  # between the items

    twice(read, seen)
    twice(enter, seen)
    assert {None} == set(outside)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_in_the_body_of_an_asynchronous_stream(backend: str) -> None:
    """And never between its items."""
    seen: list[Any] = []
    outside: list[Any] = []

    @failover(CHAIN, attempts=1)
    async def ask(target: Target) -> AsyncIterator[str]:
        try:
            for item in "abc":
                seen.append(call_id())
                if target.provider == "groq":
                    raise down()
                await anyio.lowlevel.checkpoint()
                yield item
        finally:
            seen.append(call_id())

    async def read() -> None:
        stream = ask()
        async for _ in stream:
            outside.append(call_id())  # noqa: PERF401  # between the items
        await stream.aclose()

    twice(lambda: run_async(read, backend=backend), seen)
    assert {None} == set(outside)


def test_in_the_block_of_a_loop() -> None:
    """Of both loops, in each attempt, and not between them."""
    seen: list[Any] = []
    outside: list[Any] = []
    policy = failover(CHAIN, attempts=1)

    def loop() -> None:
        for attempt in policy:
            outside.append(call_id())
            with attempt as target:
                seen.extend((call_id(), attempt.call_id))
                if target.provider == "groq":
                    raise down()

    async def aloop() -> None:
        async for attempt in policy:
            outside.append(call_id())
            async with attempt as target:
                await anyio.lowlevel.checkpoint()
                seen.extend((call_id(), attempt.call_id))
                if target.provider == "groq":
                    raise down()

    twice(loop, seen)
    twice(lambda: run_async(aloop, backend="asyncio"), seen)
    assert {None} == set(outside)


def test_the_innermost_call_counts() -> None:
    """A call inside another one has its own name, and the outer one has its own after it."""
    outer: list[Any] = []

    @failover(OPENAI)
    def inner(target: Target) -> str | None:
        return call_id()

    @failover(GROQ)
    def ask(target: Target) -> str | None:
        outer.append(call_id())
        with isolated():
            inside = inner()
        outer.append(call_id())
        return inside

    ask()
    inside = ask()

    assert outer[2] == outer[3]
    assert inside not in (None, outer[2])


def test_a_thread_that_is_given_the_context_has_it() -> None:
    """And one that is not has none."""

    @failover(GROQ)
    def ask(target: Target) -> tuple[Any, Any]:
        found: list[Any] = []
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(lambda: found.append(call_id()),))
        thread.start()
        thread.join()
        return call_id(), found[0]

    ask()
    mine, threads = ask()

    assert mine == threads is not None


def test_an_interrupt_leaves_nothing_behind() -> None:
    """What leaves a call takes its name with it, whatever it is."""

    @failover(CHAIN, reject=lambda answer: 1 / 0)
    def ask(target: Target, error: BaseException | None) -> str:
        if error is not None:
            raise error
        return "yes"

    for error in (KeyboardInterrupt(), SystemExit(), TypeError(), ProviderError(400), None):
        with pytest.raises(BaseException):  # noqa: B017  # each in turn
            ask(error)
        assert call_id() is None


def test_wrong_strategies_and_pins_leave_nothing_behind() -> None:
    """A call that could not begin is over as well."""

    @failover(CHAIN, strategy=lambda targets: 1 / 0)
    def ask(*, target: Target | None = None) -> str:
        return "yes"

    with pytest.raises(ZeroDivisionError):
        ask()
    with pytest.raises(ValueError, match="names no target"):
        ask(target="nobody/x")

    assert call_id() is None


NEVER_USED = """
import resilient_llm
from resilient_llm import Target, failover

@failover(chain=["a/x"])
def ask(target: Target):
    return "yes"

ask()
before = ask.__code__
from resilient_llm._runtime.call_ids import switch
assert not switch.is_on
assert not [name for name in before.co_names if "call" in name]
resilient_llm.call_id
ask()
assert switch.is_on
assert before is not ask.__code__
"""


IMPORTS_ALL = """
from resilient_llm import *
from resilient_llm._runtime.call_ids import switch
assert not switch.is_on
assert call_id() is None
assert switch.is_on
"""


def test_to_import_all_names_is_not_to_ask_for_it() -> None:
    """The first call of it is."""
    subprocess.run([sys.executable, "-c", IMPORTS_ALL], check=True)


FROM_A_MODULE = """
from resilient_llm import Target, call_id
from resilient_llm._runtime.call_ids import switch
assert switch.is_on
"""


def test_to_import_the_name_is_to_ask_for_it() -> None:
    """So the calls that start after that carry their names."""
    subprocess.run([sys.executable, "-c", FROM_A_MODULE], check=True)


def test_a_process_that_never_asks_for_it_runs_the_same_code_as_before() -> None:
    """Only the access of the name changes that, for functions decorated before, too."""
    subprocess.run([sys.executable, "-c", NEVER_USED], check=True)


FIRST_USE = """
import asyncio
from resilient_llm import AttemptSucceeded, AttemptFailed, Target, Trace, failover
from resilient_llm.testing import capture_events
from resilient_llm._runtime.call_ids import switch

def name():
    from resilient_llm import call_id
    return call_id()

seen = []

def body(target: Target):
    seen.append(name())
    if {fails} and target.provider == "a":
        raise ConnectionResetError
    return "yes"

def items(target: Target):
    for _ in range(3):
        seen.append(name())
        yield "x"

async def abody(target: Target):
    await asyncio.sleep(0)
    return body(target)

CHAIN = ["a/x", "b/x"]
OPTIONS = dict(chain=CHAIN, attempts=1)
plain, stream, aplain = (failover(**OPTIONS)(each) for each in (body, items, abody))

def warm_up():  # bound, and without a name
    global name
    named, name = name, lambda: None
    {form}
    seen.clear()
    name = named

def traced():
    with Trace():
        plain()

warm_up()
assert not switch.is_on
with capture_events(AttemptSucceeded, AttemptFailed) as events:
    {form}
assert events and set(seen) == {{event.call_id for event in events}}, (seen, events)
assert None not in seen and 1 == len(set(seen)), seen
assert name() is None
"""
FORMS = [
    "plain()",
    "failover(**OPTIONS).call(body)",
    "list(stream())",
    "asyncio.run(aplain())",
    "traced()",
]


@pytest.mark.parametrize("fails", [False, True], ids=["answers", "fails over"])
@pytest.mark.parametrize("form", FORMS)
def test_the_first_use_of_all_may_be_inside_a_running_call(form: str, fails: bool) -> None:
    """It has the name that the events of that call have."""
    program = FIRST_USE.format(form=form, fails=fails)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)

    assert b"" == done.stderr


IN_A_CHILD = """
import os
from resilient_llm import Target, call_id, failover

@failover(chain=["a/x"])
def ask(target: Target):
    return call_id()

ask()
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, f"{ask()} {ask()} ".encode())
    os._exit(0)
mine = [ask(), ask()]
os.wait()
theirs = os.read(read, 100).decode().split()
assert 4 == len({*mine, *theirs}), (mine, theirs)
assert all(16 == len(each) for each in mine)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_uses_no_name_again() -> None:
    """Parent and child go on with names of their own."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", IN_A_CHILD], check=True)


def test_it_is_public() -> None:
    """It is a plain function of the package."""
    assert "resilient_llm" == resilient_llm.call_id.__module__
