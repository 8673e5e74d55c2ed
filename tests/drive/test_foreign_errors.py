"""Errors that raise when they are looked at: they are judged, and never replaced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from resilient_llm import ChainExhaustedError, StreamPolicy, Target, breaker, failover, health
from tests.support.ways import GROQ, OPENAI


class WithoutDictError(ConnectionResetError):
    """Its attributes cannot be read."""

    @property
    def __dict__(self) -> Any:  # type: ignore[override]  # on purpose
        raise ValueError("do not look")


class DictOfAnotherKindError(ConnectionResetError):
    """Its attributes are no dictionary."""

    __dict__ = None  # type: ignore[assignment]  # on purpose


class WithoutClassError(ConnectionResetError):
    """It does not say what it is."""

    @property
    def __class__(self) -> Any:
        raise ValueError("do not look")


class WithoutAttributesError(ConnectionResetError):
    """No attribute can be read."""

    def __getattribute__(self, name: str) -> Any:
        raise ValueError("do not look")


class _Meta(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]  # on purpose
        raise ValueError("do not look")


class WithoutNameError(ConnectionResetError, metaclass=_Meta):
    """Its class has no name."""


class BareError(RuntimeError):
    """One whose cause cannot be read, of the class that Python itself raises for coroutines."""

    def __getattribute__(self, name: str) -> Any:
        raise ValueError("do not look")


name_of: Callable[[type], str] = type.__dict__["__name__"].__get__

ERRORS = [
    WithoutDictError,
    DictOfAnotherKindError,
    WithoutClassError,
    WithoutAttributesError,
    WithoutNameError,
    BareError,
]
of_each_kind = pytest.mark.parametrize("kind", ERRORS, ids=[name_of(kind) for kind in ERRORS])


def _plain(policy: Any, provider: Callable[[str], Any]) -> Any:
    @policy
    def ask(target: Target) -> Any:
        return provider(target.key)

    return ask()


def _coroutine(policy: Any, provider: Callable[[str], Any]) -> Any:
    @policy
    async def ask(target: Target) -> Any:
        return provider(target.key)

    return asyncio.run(ask())


def _limited(policy: Any, provider: Callable[[str], Any]) -> Any:
    return _coroutine(policy.using(attempt_timeout=60.0), provider)


def _loop(policy: Any, provider: Callable[[str], Any]) -> Any:
    for attempt in policy:
        with attempt as target:
            return provider(target.key)
    raise AssertionError


def _aloop(policy: Any, provider: Callable[[str], Any]) -> Any:
    async def ask() -> Any:
        async for attempt in policy.using(attempt_timeout=60.0):
            async with attempt as target:
                return provider(target.key)
        raise AssertionError

    return asyncio.run(ask())


def _stream(policy: Any, provider: Callable[[str], Any]) -> Any:
    @policy
    def ask(target: Target) -> Iterator[Any]:
        yield provider(target.key)

    items = list(ask())
    return items[0]


def _limited_stream(policy: Any, provider: Callable[[str], Any]) -> Any:
    return _stream(policy.using(stream=StreamPolicy(first_item_timeout=60.0)), provider)


def _astream(policy: Any, provider: Callable[[str], Any]) -> Any:
    @policy
    async def ask(target: Target) -> AsyncIterator[Any]:
        yield provider(target.key)

    async def main() -> list[Any]:
        return [item async for item in ask()]

    return asyncio.run(main())[0]


WAYS = [_plain, _coroutine, _limited, _loop, _aloop, _stream, _limited_stream, _astream]


@of_each_kind
@pytest.mark.parametrize("way", WAYS)
def test_the_next_target_is_called(way: Any, kind: Any) -> None:
    """The failure is counted, and the call goes on."""

    def provider(target: str) -> str:
        if target == GROQ:
            with breaker(GROQ):
                raise kind
        return "answer"

    policy = failover([GROQ, OPENAI], attempts=1, on_unknown="transient")

    assert "answer" == _outcome(lambda: way(policy, provider))
    assert 1 == _errors()


@of_each_kind
@pytest.mark.parametrize("way", WAYS)
def test_a_chain_that_is_used_up_names_them(way: Any, kind: Any) -> None:
    """What all targets raised is in the error of the chain, and can be shown."""

    def provider(target: str) -> str:
        raise kind

    policy = failover([GROQ, OPENAI], attempts=1, on_unknown="transient")
    caught = _outcome(lambda: way(policy, provider))

    assert type(caught) is ChainExhaustedError
    assert [kind, kind] == [type(error) for error in caught.exceptions]
    assert name_of(kind) in repr(caught)


@of_each_kind
def test_a_breaker_lets_them_pass(kind: Any) -> None:
    """The error leaves as it is, and what nobody knows is told of by its name."""
    guard = breaker(GROQ)

    @guard
    def ask() -> None:
        raise kind

    assert kind is type(_outcome(ask))
    guard.record(kind(), 0.1)
    # What cannot be read at all is an unknown error, which a guard does not count.
    assert (0 if kind in (WithoutAttributesError, BareError) else 2) == _errors()


def _outcome(call: Callable[[], Any]) -> Any:
    """Return what a call returns or raises; `pytest.raises` would look at the error."""
    try:
        return call()
    except BaseException as error:
        return error


def _errors() -> int:
    seen = health([GROQ, "groq"])
    return max(seen[GROQ].errors, seen["groq"].errors)
