"""Guards of one key inside each other: a success counts once per key, as an error does."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from resilient_llm import Target, breaker, failover, health
from resilient_llm._core.circuit.nesting import Look
from resilient_llm._runtime.runtime import runtime
from resilient_llm.testing import FakeClock
from tests.support.guards import Held, eager_threads, in_threads, totals
from tests.support.ways import GROQ, OPENAI, ProviderError, down, on_both_loops, run_async

WINDOW = 300.0


def slot(key: str = GROQ) -> object:
    """What the healthy path finds; None while calls are looked at."""
    return runtime.circuits[key].slot


def inside(key: str) -> str:
    """A call under a guard of its own, as a client function may have one."""
    with breaker(key):
        return "yes"


async def inside_async(key: str) -> str:
    """The same, after other tasks have run."""
    async with breaker(key):
        await anyio.lowlevel.checkpoint()
        return "yes"


# --- where the inner guard is ------------------------------------------------------------------


async def in_the_same_task(key: str) -> None:
    await inside_async(key)


async def in_a_task_group(key: str) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(inside_async, key)


async def in_a_thread(key: str) -> None:
    await anyio.to_thread.run_sync(inside, key)


@on_both_loops
@pytest.mark.parametrize("where", [in_the_same_task, in_a_task_group, in_a_thread])
@pytest.mark.parametrize("key", [GROQ, "groq"])
def test_a_success_counts_once_wherever_the_inner_guard_is(
    clock: FakeClock, where: Callable[[str], Any], key: str, backend: str
) -> None:
    """Tasks and threads that the call started are of its context."""

    @failover(chain=[GROQ, OPENAI])
    async def ask(target: Target) -> str:
        await where(key)
        return "yes"

    async def main() -> None:
        for _ in range(7):
            await ask()

    run_async(main, backend=backend)

    assert ((7, 0), (7, 0)) == (totals(GROQ), totals("groq"))


def test_chains_in_chains_in_guards() -> None:
    """Five guards of one target and its provider are one success."""

    @failover(chain=GROQ)
    def innermost(target: Target) -> str:
        return inside(target.key)

    @failover(chain=[GROQ, OPENAI])
    @breaker("groq")
    def outer(target: Target) -> str:
        return innermost()

    for _ in range(9):
        with breaker("groq"):
            outer()

    assert ((9, 0), (9, 0)) == (totals(GROQ), totals("groq"))


def test_other_keys_inside_count_for_themselves() -> None:
    """Two providers, two accounts, two targets of one provider: each has answered."""

    @failover(chain=GROQ)
    def ask(target: Target) -> str:
        return inside("groq@eu") + inside(OPENAI) + inside("groq/other")

    for _ in range(5):
        ask()

    assert [5, 5, 5, 5] == [totals(key)[0] for key in (GROQ, "groq@eu", OPENAI, "groq/other")]
    assert (10, 0) == totals("groq")


def test_streams_inside_streams() -> None:
    """A generator under a guard that a guarded generator reads."""

    @breaker(GROQ)
    def source() -> Iterator[str]:
        yield from "abc"

    @failover(chain=[GROQ, OPENAI])
    def ask(target: Target) -> Iterator[str]:
        yield from source()

    for _ in range(4):
        assert "abc" == "".join(ask())

    assert (4, 0) == totals()


def test_asynchronous_streams_inside_streams() -> None:
    """Read in tasks of their own, too."""

    @breaker(GROQ)
    async def source() -> AsyncIterator[str]:
        for letter in "abc":
            await asyncio.sleep(0)
            yield letter

    @failover(chain=[GROQ, OPENAI])
    async def ask(target: Target) -> AsyncIterator[str]:
        async for letter in source():
            yield letter

    async def read() -> str:
        return "".join([letter async for letter in ask()])

    async def main() -> None:
        assert ["abc"] * 12 == await asyncio.gather(*[read() for _ in range(12)])

    asyncio.run(main())

    assert (12, 0) == totals()


# --- what comes of inner and outer --------------------------------------------------------------


def test_an_answer_inside_counts_and_so_does_the_failure_after_it() -> None:
    """They are two outcomes of one key."""
    for _ in range(3):
        with pytest.raises(ProviderError), breaker(GROQ):
            inside(GROQ)
            raise down()

    assert (6, 3) == totals()


def test_a_failure_inside_that_is_overcome_counts_beside_the_answer() -> None:
    """Nothing inside has counted a success, so the outer guard does."""
    for _ in range(3):
        with breaker(GROQ), pytest.raises(ProviderError), breaker(GROQ):
            raise down()

    assert (6, 3) == totals()
    assert 0 == health()[GROQ].consecutive_failures


def test_several_answers_inside_count_each() -> None:
    """Those are calls of their own, and the guard around them adds none."""
    for _ in range(3):
        with breaker(GROQ):
            inside(GROQ)
            inside(GROQ)

    assert (6, 0) == totals()


def test_what_outlives_the_outer_guard_counts_for_itself() -> None:
    """A task started in a call that ends after it."""

    async def main() -> None:
        go = asyncio.Event()

        async def later() -> None:
            await go.wait()
            await inside_async(GROQ)

        async with breaker(GROQ):
            task = asyncio.create_task(later())
        go.set()
        await task

    asyncio.run(main())

    assert (2, 0) == totals()


def test_guards_beside_each_other_are_not_nested() -> None:
    """Many tasks and threads in one guard at once are many calls, and the healthy path is back."""

    async def main() -> None:
        await asyncio.gather(*[inside_async(GROQ) for _ in range(40)])

    asyncio.run(main())
    with eager_threads():
        in_threads(8, lambda _: [inside(GROQ) for _ in range(50)])
    inside(GROQ)

    assert (441, 0) == totals()
    assert slot() is not None


def test_nested_calls_of_many_threads_count_once() -> None:
    """From the first on, whichever of them comes first."""

    @failover(chain=[GROQ, OPENAI])
    def ask(target: Target) -> str:
        with breaker("groq"):
            return inside(GROQ)

    with eager_threads():
        in_threads(12, lambda _: [ask() for _ in range(40)])

    assert 480 == totals()[0]
    assert 480 == totals("groq")[0]


# --- how it is found out ------------------------------------------------------------------------


def test_a_program_without_nested_guards_is_on_the_healthy_path_after_one_call() -> None:
    """One look at one call of a key, or its first 16 at once."""
    inside(GROQ)
    inside(GROQ)

    assert slot() is not None


def test_a_program_that_nests_later_is_found_out_in_a_window(clock: FakeClock) -> None:
    """Until then the two guards count each, from then on together."""

    def nested() -> None:
        with breaker("groq"):
            inside(GROQ)

    inside(GROQ)
    inside("groq")
    for _ in range(5):
        nested()
    doubled = totals("groq")[0]
    clock.advance(WINDOW + 1.0)
    inside(GROQ)  # is seen to end after a window, so that the next call is looked at
    for _ in range(20):
        nested()

    assert 2 + 2 * 5 == doubled
    assert 1 + 20 == totals("groq")[0]


def test_a_look_ends_when_its_calls_have_ended(clock: FakeClock) -> None:
    """A long call among the first keeps others looked at, and no longer than a window."""
    held = Held(GROQ)
    inside(GROQ)
    assert slot() is None
    clock.advance(WINDOW)
    for _ in range(3):  # ends that look; the next one begins with the new window, and ends
        inside(GROQ)

    assert slot() is not None
    held.finish()


def test_a_call_that_is_given_up_is_waited_for_no_longer() -> None:
    """Cancelled, interrupted, closed: each is the end of a call."""
    for error in (asyncio.CancelledError(), KeyboardInterrupt(), GeneratorExit(), down()):
        with pytest.raises(type(error)), breaker(OPENAI + str(len(str(error)))) as guard:
            raise error
        inside(guard.name)
        inside(guard.name)
        assert slot(guard.name) is not None


def test_a_look_waits_for_its_first_calls_only() -> None:
    """Under load there is always another one."""
    look = Look(ends_at=WINDOW)
    waited_for = [look.begin_one() for _ in range(20)]

    assert 16 == sum(waited_for)
    for _ in range(16):
        assert not look.is_over(0.0)
        look.end_one()
    assert look.is_over(0.0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_waits_for_no_call_of_its_parent() -> None:
    """Its own first call is looked at instead."""
    held = Held(GROQ)
    child = os.fork()
    if not child:
        inside(GROQ)
        inside(GROQ)
        os._exit(0 if slot() is not None else 1)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    held.finish()
