"""An ``await`` that was forgotten inside a guarded function is found out, and nobody is blamed."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import warnings
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import anyio
import pytest

from resilient_llm import (
    AttemptFailed,
    ConfigurationError,
    ErrorKind,
    Target,
    breaker,
    classify,
    failover,
    health,
    list_benched,
    testing,
)
from tests.support.ways import GROQ, OPENAI, run_async


async def complete(prompt: str) -> str:
    """Stand for a client's method."""
    raise ConnectionError(prompt)


class Deferred:
    """An awaitable that is no coroutine."""

    def __await__(self) -> Generator[Any, Any, str]:
        yield from ()
        return "answer"


class Entered(Deferred):
    """What some clients give for a request: to be awaited, or to be entered."""

    async def __aenter__(self) -> str:
        return "entered"

    async def __aexit__(self, *error: object) -> None: ...


class Items(Deferred):
    """A stream that can be awaited as a whole."""

    def __aiter__(self) -> Items:
        return self

    async def __anext__(self) -> str:
        raise StopAsyncIteration


FORGOTTEN: dict[str, Callable[[], Awaitable[Any]]] = {
    "coroutine": lambda: complete("why"),
    "awaitable": Deferred,
}


def in_async_function(give: Callable[[], Any], policy: Any) -> Any:
    @policy
    async def ask(target: Target) -> Any:
        return give()

    return ask


def in_plain_function(give: Callable[[], Any], policy: Any) -> Any:
    async def later() -> Any:
        return give()

    @policy
    def ask(target: Target) -> Any:
        return later()

    return ask


def in_policy_call(give: Callable[[], Any], policy: Any) -> Any:
    async def ask(target: Target) -> Any:
        return give()

    return functools.partial(policy.call, ask)


WAYS = [in_async_function, in_plain_function, in_policy_call]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("options", [{}, {"timeout": 5.0}, {"reject": bool}], ids=str)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FORGOTTEN)
def test_an_answer_that_nobody_awaited_leaves_at_once(
    name: str, way: Callable[..., Any], options: dict[str, Any], backend: str
) -> None:
    """It is a ConfigurationError after one attempt; no target is benched, and none is counted."""
    calls: list[str] = []

    def give() -> Any:
        calls.append(name)
        return FORGOTTEN[name]()

    ask = way(give, failover(chain=[GROQ, OPENAI], **options))

    with warnings.catch_warnings(), testing.capture_events(AttemptFailed) as failed:
        warnings.simplefilter("error")
        for _ in range(2):  # the first call and one on the healthy path
            with pytest.raises(ConfigurationError, match=f"{GROQ} returned .*`return await …`"):
                run_async(ask, backend=backend)
        gc.collect()

    assert [name] * 2 == calls
    assert [ErrorKind.CALLER_BUG] * 2 == [each.kind for each in failed]
    assert [] == list_benched()
    assert 0 == health()[GROQ].errors == health()[GROQ].total


def test_a_task_or_future_is_no_answer() -> None:
    """What asyncio runs by itself is not closed, and is refused just so."""

    @failover(chain=[GROQ, OPENAI])
    async def ask(target: Target, give: Callable[[], Any]) -> Any:
        return give()

    async def main() -> None:
        task = asyncio.ensure_future(asyncio.sleep(0, "done"))
        for answer in (task, asyncio.get_running_loop().create_future()):
            with pytest.raises(ConfigurationError, match="was not awaited"):
                await ask(functools.partial(lambda each: each, answer))
        assert "done" == await task

    asyncio.run(main())


def test_it_leaves_from_a_fallback_too() -> None:
    """After a failure of the first target, and after an answer that was refused."""

    @failover(chain=[GROQ, OPENAI], attempts=1)
    async def ask(target: Target) -> Any:
        if target.provider == "groq":
            raise ConnectionError
        return complete("why")

    with pytest.raises(ConfigurationError, match=OPENAI):
        run_async(ask)

    assert 0 == health()[OPENAI].total


@pytest.mark.parametrize("give", [Entered, Items])
def test_what_can_be_entered_or_iterated_is_an_answer(give: type[Deferred]) -> None:
    """Such an object is used by the caller, who may not want to await it."""
    ask = in_async_function(give, failover(chain=[GROQ]))

    assert give is type(run_async(ask))


@pytest.mark.parametrize("own", [True, False], ids=["policy", "registered"])
def test_no_rule_makes_a_failure_of_a_target_of_it(own: bool) -> None:
    """Also where every error is said to be transient."""

    def transient(error: BaseException) -> ErrorKind:
        return ErrorKind.TRANSIENT

    with testing.isolated():
        if not own:
            classify.rule(lambda error: classify(ConnectionError()))
        options: Any = {"classify": transient} if own else {}
        ask = in_async_function(lambda: complete("why"), failover(GROQ, **options))

        for _ in range(2):  # the first call of a key takes another way than the rest
            with pytest.raises(ConfigurationError):
                run_async(ask)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_breaker_refuses_it_as_well(backend: str) -> None:
    """A guarded function that returns a coroutine would count as a success each time."""

    @breaker("search")
    async def search() -> Any:
        return complete("why")

    with pytest.raises(ConfigurationError, match="search returned"):
        run_async(search, backend=backend)

    assert 0 == health()["search"].total


def test_what_is_awaited_is_an_answer_as_before() -> None:
    """A plain function may return a coroutine, and a task group's tasks stay its own."""

    @failover(chain=[GROQ])
    def ask(target: Target) -> Awaitable[str]:
        return later()

    async def later() -> str:
        async with contextlib.AsyncExitStack(), anyio.create_task_group():
            return "answer"

    async def main() -> str:
        return await ask()

    assert "answer" == asyncio.run(main())
