"""`call_probe`: makes a small call, and takes any answer for well."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Final

from resilient_llm._api.breaker import Breaker
from resilient_llm._api.failover import Failover
from resilient_llm._binding import breaker_decorator
from resilient_llm._values import checks as check
from resilient_llm._values.errors import ConfigurationError


def call_probe(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Callable[[], Any]:
    """Return a probe that calls a function, and is well whatever that returns.

    It is asynchronous if the function is. With ``HealthProbe(proves="answers")`` it should ask for
    a real, short completion.

    Examples:
        >>> call_probe(client.chat.completions.create, model="llama", messages=[…], max_tokens=1)

    Args:
        fn: A function that no ``@failover`` and no ``@breaker`` guards: such a guard would refuse
            the probe when it is needed.
        *args: What it is called with.
        **kwargs: Keyword arguments of the call.

    Raises:
        ConfigurationError: If it cannot be called, is guarded, or is a generator function.
    """
    if not callable(fn):
        raise ConfigurationError(f"fn of type {type(fn).__name__} is not allowed: write a function")
    name = getattr(fn, "__name__", type(fn).__name__)
    if is_guarded(fn):
        raise ConfigurationError(
            f"{name} is guarded by @failover or @breaker, which would refuse the probe or ask "
            "another target: write a function without a guard"
        )
    if gives_items(fn):
        raise ConfigurationError(
            f"{name} gives items: write a function that asks for one short answer"
        )
    call = functools.partial(fn, *args, **kwargs)
    return _AsyncCall(name, call) if check.is_async(_inside(fn)) else _Call(name, call)


class _Call:
    """Calls a function, and shows neither what it is called with nor what it returns."""

    __slots__ = ("_call", "_name")

    def __init__(self, name: str, call: Callable[[], Any]) -> None:
        self._call = call
        self._name = name

    def __call__(self) -> Any:
        value = self._call()
        return _answered(value) if inspect.isawaitable(value) else None

    def __repr__(self) -> str:
        return f"<call_probe of {self._name}>"


class _AsyncCall(_Call):
    """The same for an asynchronous function."""

    __slots__ = ()

    async def __call__(self) -> None:
        await self._call()


async def _answered(value: Any) -> None:
    await value


def is_guarded(fn: Any) -> bool:
    """Return whether a guard of this library is around a function, at any depth."""
    for _ in range(_DEEPEST):
        fn = _inside(fn)
        if isinstance(getattr(fn, "policy", None), Failover) or breaker_decorator.is_guarded(fn):
            return True
        owner = getattr(fn, "__self__", None)
        if isinstance(owner, (Failover, Breaker)):  # ``policy.call``
            return True
        inner = getattr(fn, "__wrapped__", None)
        if inner is None:
            return False
        fn = inner
    return False


_DEEPEST: Final = 50
"""Wrappers that are looked through; a ring of them must end."""


def gives_items(fn: Any) -> bool:
    """Return whether a call of this gives a generator, which does nothing until it is read."""
    inside = _inside(fn)
    return any(
        inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each)
        for each in (inside, type(inside).__call__)
    )


def _inside(fn: Any) -> Any:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return fn
