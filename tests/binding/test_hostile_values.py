"""Answers and errors whose class, attributes or metaclass raise or lie when they are looked at."""

from __future__ import annotations

import asyncio
import signal
import types
from collections.abc import Callable, Iterator
from typing import Any, Never

import pytest

from resilient_llm import ChainExhaustedError, StreamInterruptedError, breaker, failover, health
from tests.support.ways import GROQ


def _raises(error: type[BaseException]) -> Callable[..., Any]:
    def attribute(self: object, *_: Any) -> Never:
        raise error("looked at")

    return attribute


def _made(name: str, base: type, meta: type = type, **members: Any) -> Any:
    return types.new_class(name, (base,), {"metaclass": meta}, lambda space: space.update(members))


def _meta(base: type = type, **members: Any) -> type:
    return type("Meta", (base,), members)


ANSWERS: dict[str, Callable[[], Any]] = {
    "class raises": lambda: _made("A", object, __class__=property(_raises(RuntimeError))),
    "class interrupts": lambda: _made("A", object, __class__=property(_raises(KeyboardInterrupt))),
    "passes for a coroutine": lambda: _made("A", object, __class__=types.CoroutineType),
    "passes for a generator": lambda: _made("A", object, __class__=types.GeneratorType),
    "attributes raise": lambda: _made("A", object, __getattr__=_raises(RuntimeError)),
    "attributes exit": lambda: _made("A", object, __getattr__=_raises(SystemExit)),
    "all attributes raise": lambda: _made("A", object, __getattribute__=_raises(RuntimeError)),
    "metaclass raises": lambda: _made("A", object, _meta(__getattribute__=_raises(RuntimeError))),
    "metaclass has no hash": lambda: _made("A", object, _meta(__hash__=_raises(RuntimeError))),
}

ERRORS: dict[str, Callable[[], Any]] = {
    "attributes exit": lambda: _made("E", RuntimeError, __getattr__=_raises(SystemExit)),
    "attributes close": lambda: _made("E", RuntimeError, __getattr__=_raises(GeneratorExit)),
    "a property exits": lambda: _made("E", RuntimeError, status_code=property(_raises(SystemExit))),
    "class raises": lambda: _made("E", RuntimeError, __class__=property(_raises(RuntimeError))),
    "metaclass raises": lambda: _made(
        "E", RuntimeError, _meta(__getattribute__=_raises(RuntimeError))
    ),
    "metaclass exits": lambda: _made(
        "E", RuntimeError, _meta(__getattribute__=_raises(SystemExit))
    ),
    "metaclass has no hash": lambda: _made(
        "E", RuntimeError, _meta(__hash__=_raises(RuntimeError))
    ),
}


def _run(ask: Any) -> Any:
    """Run a coroutine function; asyncio itself looks at what leaves its main task."""
    answers: list[Any] = []
    raised: list[BaseException] = []

    async def main() -> None:
        try:
            answers.append(await ask())
        except BaseException as error:
            raised.append(error)

    asyncio.run(main())
    if raised:
        raise raised[0]
    return answers[0]


def _breaker(get: Callable[[], Any]) -> Any:
    return breaker(GROQ)(get)()


def _breaker_async(get: Callable[[], Any]) -> Any:
    async def ask() -> Any:
        return get()

    return _run(breaker(GROQ)(ask))


def _breaker_items(get: Callable[[], Any]) -> Any:
    def ask() -> Iterator[Any]:
        yield 1
        yield get()

    return list(breaker(GROQ)(ask)())[-1]


def _block(get: Callable[[], Any]) -> Any:
    with breaker(GROQ):
        return get()


def _chain(get: Callable[[], Any]) -> Any:
    @failover(GROQ, attempts=1)
    def ask(*, target: Any = None) -> Any:
        return get()

    return ask()


def _chain_async(get: Callable[[], Any]) -> Any:
    @failover(GROQ, attempts=1)
    async def ask(*, target: Any = None) -> Any:
        return get()

    return _run(ask)


def _chain_items(get: Callable[[], Any]) -> Any:
    @failover(GROQ, attempts=1)
    def ask(*, target: Any = None) -> Iterator[Any]:
        yield 1
        yield get()

    return list(ask())[-1]


WAYS = (_breaker, _breaker_async, _breaker_items, _block, _chain, _chain_async, _chain_items)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_resists_being_looked_at_is_returned(way: Any, name: str) -> None:
    """It is a plain answer, counted as a success."""
    answer = object.__new__(ANSWERS[name]())

    assert way(lambda: answer) is answer
    assert (1, 0) == (health()[GROQ].total, health()[GROQ].errors)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ERRORS)
def test_an_error_that_resists_being_looked_at_leaves(way: Any, name: str) -> None:
    """It is judged, by a breaker raised unchanged, and by a chain the cause of its own error."""
    error = type.__call__(ERRORS[name]())

    def get() -> Never:
        raise error

    try:
        way(get)
    except BaseException as caught:
        ours = (ChainExhaustedError, StreamInterruptedError)
        found = caught.__cause__ if issubclass(type(caught), ours) else caught
        is_it = found is error
    else:
        is_it = False
    assert is_it


@pytest.mark.parametrize("way", [_breaker, _block, _chain])
def test_an_exit_of_a_signal_handler_is_raised(way: Any) -> None:
    """A handler interrupts the look at an error: the process ends, as it was told to."""

    def leave(*_: Any) -> Never:
        raise SystemExit(3)

    signals: list[int] = []

    def attribute(self: object) -> Never:
        if signals:
            signal.raise_signal(signals.pop())
        raise AttributeError

    error = _made("E", RuntimeError, status_code=property(attribute))()

    def get() -> Never:
        raise error

    before = signal.signal(signal.SIGUSR1, leave)
    signals.append(signal.SIGUSR1)
    try:
        with pytest.raises(SystemExit):
            way(get)
    finally:
        signals.clear()
        signal.signal(signal.SIGUSR1, before)


def test_a_callable_that_resists_being_looked_at_can_be_guarded() -> None:
    """Its class decides what it is."""
    members = {"__class__": property(_raises(RuntimeError)), "__call__": lambda self: 1}

    assert 1 == breaker(GROQ)(_made("A", object, **members)())()
