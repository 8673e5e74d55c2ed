"""The loop over a policy: each round is an attempt."""

import asyncio
import contextlib
import gc
import weakref
from typing import Any

import pytest

from resilient_llm import ChainExhaustedError, breaker, failover, health
from resilient_llm.testing import FakeClock
from tests.support.ways import GROQ, OPENAI, down


def test_the_loop_tries_the_next_after_an_error(clock: Any) -> None:
    """The body is the attempt; its error stays inside while there is another try."""
    seen: list[tuple[str, int]] = []
    for attempt in failover(chain=[GROQ, OPENAI], attempts=2, backoff=lambda n: 1.0):
        with attempt as target:
            seen.append((target.key, attempt.number))
            if target.key == GROQ:
                raise down()

    assert ([(GROQ, 1), (GROQ, 2), (OPENAI, 1)], [1.0]) == (seen, clock.sleeps)


def test_the_loop_may_be_left_and_runs_twice_at_once() -> None:
    """`break`, `return` and two loops over one policy are fine."""
    policy = failover(chain=[GROQ, OPENAI])

    def leave() -> str:
        for attempt in policy:
            with attempt as target:
                return target.key
        raise AssertionError

    for outer in policy:
        with outer as target:
            inner = [leave() for _ in range(2)]
            break

    assert ([GROQ, GROQ], GROQ, 2) == (inner, target.key, health()[GROQ].total)


def test_a_loop_that_is_left_before_its_attempt_gives_the_place_back(clock: FakeClock) -> None:
    """`break` before `with` is fine."""
    policy = failover(chain="groq/a", attempts=1)
    with contextlib.suppress(ConnectionResetError), breaker("groq/a", failures=1):
        raise ConnectionResetError
    clock.advance(40.0)

    for attempt in policy:
        assert 1 == attempt.number
        break
    del attempt

    with breaker("groq/a"):
        pass
    assert "closed" == breaker("groq/a").state


def test_the_loops_result_is_looked_at() -> None:
    """`attempt.result` runs reject, and a refused one tries the next."""
    for attempt in failover(chain=[GROQ, OPENAI], reject=lambda answer: answer == GROQ):
        with attempt as target:
            attempt.result = target.key

    assert OPENAI == target.key


def test_the_loop_ends_in_the_chains_error() -> None:
    """When nobody answers the loop raises ChainExhaustedError, also in async code."""

    async def main() -> None:
        async for attempt in failover(chain=[GROQ, OPENAI], attempts=1):
            async with attempt:
                raise down()

    with pytest.raises(ChainExhaustedError) as caught:
        asyncio.run(main())

    assert 2 == len(caught.value.exceptions)


def test_an_attempt_must_be_entered() -> None:
    """A loop that forgets `with attempt` is told so instead of asking nobody."""
    with pytest.raises(RuntimeError, match="with attempt"):
        for _attempt in failover(chain=[GROQ, OPENAI]):
            pass


@pytest.mark.parametrize("is_set", [True, False])
def test_reject_looks_at_a_result_that_was_set(is_set: bool) -> None:
    """None is an answer where it is set; where nothing is set, `reject` is not asked."""
    asked: list[Any] = []
    for attempt in failover(chain=GROQ, reject=asked.append):
        with attempt:
            assert attempt.result is None
            if is_set:
                attempt.result = None

    assert ([None] if is_set else []) == asked


class Prompt:
    """Something large that a failing attempt holds."""


def _loop(policy: Any, body: Any, leaves: str) -> str | None:
    for attempt in policy:
        with attempt as target:
            body(target.key)
            if leaves == "return":
                return "answer"
            if leaves == "break":
                break
        if leaves == "break after an error":
            break
    return None


async def _aloop(policy: Any, body: Any, leaves: str) -> str | None:
    async for attempt in policy:
        async with attempt as target:
            body(target.key)
            if leaves == "return":
                return "answer"
            if leaves == "break":
                break
        if leaves == "break after an error":
            break
    return None


@pytest.mark.parametrize("leaves", ["return", "break", "break after an error", "raise"])
@pytest.mark.parametrize("is_async", [False, True])
def test_nothing_is_kept_of_a_loop_that_is_left(leaves: str, is_async: bool) -> None:
    """Errors and what their frames hold are freed at once, without a garbage collection."""
    held: list[weakref.ref[Prompt]] = []
    policy = failover(chain=[GROQ, OPENAI], attempts=1)

    def body(target: str) -> None:
        if target == GROQ or leaves == "raise":
            prompt = Prompt()
            held.append(weakref.ref(prompt))
            raise down()

    async def main() -> None:
        with contextlib.suppress(ChainExhaustedError):
            if is_async:
                await _aloop(policy, body, leaves)
            else:
                _loop(policy, body, leaves)

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
        freed = [ref() is None for ref in held]
    finally:
        gc.enable()

    assert [True] * (2 if leaves == "raise" else 1) == freed
