"""The ways to write a function that streams, over the scripted streams of `stream_sources`.

A `Form` is one way of writing: it makes a guarded function over a `Supply`. `read` consumes one
as its user would, and returns a `Reading` with the items and the error.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio.lowlevel

from resilient_llm import Target
from tests.support.stream_sources import (
    AsyncSdkManager,
    AsyncSdkStream,
    SdkManager,
    SdkStream,
    Supply,
)
from tests.support.ways import run_async

# Forms.


@dataclass(frozen=True)
class Form:
    """One way to write a function that streams.

    Attributes:
        make: ``(decorator, supply) -> function``.
        manages: Whether what it returns must be entered.
        is_lazy: Whether nothing is called before the first item is asked for.
        backend: The loop of async code, or None.
        by_call: Whether it is made by ``policy.call``, which a guard has not.
    """

    name: str
    make: Callable[[Any, Supply], Callable[..., Any]]
    manages: bool = False
    is_lazy: bool = False
    backend: str | None = None
    by_call: bool = False


def _generator(decorate: Any, supply: Supply) -> Any:
    @decorate
    def ask(target: Target) -> Iterator[Any]:
        source = supply.open(target)
        try:
            yield from source
        finally:
            source.close()

    return ask


def _returned(decorate: Any, supply: Supply) -> Any:
    @decorate
    def ask(target: Target) -> Any:
        return supply.open(target)

    return ask


def _returned_generator(decorate: Any, supply: Supply) -> Any:
    def items(source: Any) -> Iterator[Any]:
        try:
            yield from source
        finally:
            source.close()

    @decorate
    def ask(target: Target) -> Any:
        return items(supply.open(target))

    return ask


def _sdk(decorate: Any, supply: Supply) -> Any:
    @decorate
    def ask(target: Target) -> Any:
        return SdkStream(supply.open(target))

    return ask


def _manager(decorate: Any, supply: Supply) -> Any:
    @decorate
    def ask(target: Target) -> Any:
        return SdkManager(lambda: supply.open(target))

    return ask


def _contextmanager(decorate: Any, supply: Supply) -> Any:
    @decorate
    @contextmanager
    def ask(target: Target) -> Iterator[Any]:
        source = supply.open(target)
        try:
            yield source
        finally:
            source.close()

    return ask


def _method(decorate: Any, supply: Supply) -> Any:
    class Client:
        @decorate
        def ask(self, target: Target) -> Iterator[Any]:
            source = supply.open(target)
            try:
                yield from source
            finally:
                source.close()

    return Client().ask


def _classmethod(decorate: Any, supply: Supply) -> Any:
    class Client:
        @decorate
        @classmethod
        def ask(cls, target: Target) -> Any:
            return SdkStream(supply.open(target))

    return Client.ask


def _staticmethod(decorate: Any, supply: Supply) -> Any:
    class Client:
        @staticmethod
        @decorate
        def ask(target: Target) -> Iterator[Any]:
            source = supply.open(target)
            try:
                yield from source
            finally:
                source.close()

    return Client.ask


def _partial(decorate: Any, supply: Supply) -> Any:
    def ask(target: Target, given: Supply) -> Iterator[Any]:
        source = given.open(target)
        try:
            yield from source
        finally:
            source.close()

    return decorate(functools.partial(ask, given=supply))


def _callable_object(decorate: Any, supply: Supply) -> Any:
    class Client:
        def __call__(self, target: Target) -> Iterator[Any]:
            source = supply.open(target)
            try:
                yield from source
            finally:
                source.close()

    return decorate(Client())


def _call_of_generator(policy: Any, supply: Supply) -> Any:
    def ask(target: Target) -> Iterator[Any]:
        source = supply.open(target)
        try:
            yield from source
        finally:
            source.close()

    return lambda: policy.call(ask)


def _call(policy: Any, supply: Supply) -> Any:
    def ask(target: Target) -> Any:
        return SdkStream(supply.open(target))

    return lambda: policy.call(ask)


def _asyncgen(decorate: Any, supply: Supply) -> Any:
    @decorate
    async def ask(target: Target) -> AsyncIterator[Any]:
        source = supply.aopen(target)
        try:
            async for item in source:
                yield item
        finally:
            await source.aclose()

    return ask


def _coroutine(decorate: Any, supply: Supply) -> Any:
    @decorate
    async def ask(target: Target) -> Any:
        await anyio.lowlevel.checkpoint()
        return supply.aopen(target)

    return ask


def _coroutine_sdk(decorate: Any, supply: Supply) -> Any:
    @decorate
    async def ask(target: Target) -> Any:
        await anyio.lowlevel.checkpoint()
        return AsyncSdkStream(supply.aopen(target))

    return ask


def _plain_coroutine(decorate: Any, supply: Supply) -> Any:
    async def answer(target: Target) -> Any:
        await anyio.lowlevel.checkpoint()
        return AsyncSdkStream(supply.aopen(target))

    @decorate
    def ask(target: Target) -> Any:
        return answer(target)

    return ask


def _plain_asyncgen(decorate: Any, supply: Supply) -> Any:
    async def items(source: Any) -> AsyncIterator[Any]:
        try:
            async for item in source:
                yield item
        finally:
            await source.aclose()

    @decorate
    def ask(target: Target) -> Any:
        return items(supply.aopen(target))

    return ask


def _plain_source(decorate: Any, supply: Supply) -> Any:
    @decorate
    def ask(target: Target) -> Any:
        return supply.aopen(target)

    return ask


def _async_manager(decorate: Any, supply: Supply) -> Any:
    @decorate
    def ask(target: Target) -> Any:
        return AsyncSdkManager(lambda: supply.aopen(target))

    return ask


def _asynccontextmanager(decorate: Any, supply: Supply) -> Any:
    @decorate
    @asynccontextmanager
    async def ask(target: Target) -> AsyncIterator[Any]:
        await anyio.lowlevel.checkpoint()
        source = supply.aopen(target)
        try:
            yield source
        finally:
            await source.aclose()

    return ask


def _async_method(decorate: Any, supply: Supply) -> Any:
    class Client:
        @decorate
        async def ask(self, target: Target) -> AsyncIterator[Any]:
            source = supply.aopen(target)
            try:
                async for item in source:
                    yield item
            finally:
                await source.aclose()

    return Client().ask


def _call_of_asyncgen(policy: Any, supply: Supply) -> Any:
    async def ask(target: Target) -> AsyncIterator[Any]:
        source = supply.aopen(target)
        try:
            async for item in source:
                yield item
        finally:
            await source.aclose()

    return lambda: policy.call(ask)


def _call_of_coroutine(policy: Any, supply: Supply) -> Any:
    async def ask(target: Target) -> Any:
        return AsyncSdkStream(supply.aopen(target))

    return lambda: policy.call(ask)


SYNC_FORMS = [
    Form("generator", _generator, is_lazy=True),
    Form("returned", _returned),
    Form("returned-generator", _returned_generator),
    Form("sdk", _sdk),
    Form("manager", _manager, manages=True),
    Form("contextmanager", _contextmanager, manages=True),
    Form("method", _method, is_lazy=True),
    Form("classmethod", _classmethod),
    Form("staticmethod", _staticmethod, is_lazy=True),
    Form("partial", _partial, is_lazy=True),
    Form("callable-object", _callable_object, is_lazy=True),
    Form("call-generator", _call_of_generator, is_lazy=True, by_call=True),
    Form("call", _call, by_call=True),
]
_ASYNC_FORMS = [
    Form("asyncgen", _asyncgen, is_lazy=True),
    Form("coroutine", _coroutine),
    Form("coroutine-sdk", _coroutine_sdk),
    Form("plain-coroutine", _plain_coroutine),
    Form("plain-asyncgen", _plain_asyncgen),
    Form("plain-source", _plain_source),
    Form("async-manager", _async_manager, manages=True),
    Form("asynccontextmanager", _asynccontextmanager, manages=True),
    Form("async-method", _async_method, is_lazy=True),
    Form("call-asyncgen", _call_of_asyncgen, is_lazy=True, by_call=True),
    Form("call-coroutine", _call_of_coroutine, by_call=True),
]
ASYNC_FORMS = [
    Form(f"{form.name}-{backend}", form.make, form.manages, form.is_lazy, backend, form.by_call)
    for form in _ASYNC_FORMS
    for backend in ("asyncio", "trio")
]
FORMS = SYNC_FORMS + ASYNC_FORMS
"""Every way to write one."""
FEW_FORMS = [
    form
    for form in FORMS
    if form.name
    in (
        "generator",
        "sdk",
        "manager",
        "asyncgen-asyncio",
        "coroutine-sdk-trio",
        "plain-source-asyncio",
        "async-manager-trio",
    )
]
"""Those that differ in how they are driven."""
LAZY_FORMS = [form for form in FORMS if form.is_lazy]
GUARDED_FORMS = [
    form
    for form in FORMS
    if form in FEW_FORMS
    or form.name in ("returned-generator", "contextmanager", "classmethod", "plain-asyncgen-trio")
]
"""Those that a breaker guards in ways of their own."""


# Consumers.


@dataclass
class Reading:
    """What a consumer saw."""

    items: list[Any] = field(default_factory=list)
    error: BaseException | None = None

    @property
    def text(self) -> str:
        """The text of what it was given."""
        return "".join(item["choices"][0]["delta"].get("content") or "" for item in self.items)


def read(
    form: Form,
    ask: Callable[..., Any],
    *args: Any,
    take: int | None = None,
    into: list[Any] | None = None,
) -> Reading:
    """Make one call and read its items, all or the first few, then close it; from sync code."""
    reading = Reading([] if into is None else into)
    if form.backend is None:
        _read(reading, form, ask, args, take)
    else:
        run_async(functools.partial(_aread, reading, form, ask, args, take), backend=form.backend)
    return reading


def _read(
    reading: Reading, form: Form, ask: Callable[..., Any], args: Any, take: int | None
) -> None:
    try:
        with ExitStack() as stack:
            stream = ask(*args)
            if form.manages:
                stream = stack.enter_context(stream)
            stack.callback(getattr(stream, "close", lambda: None))
            if take != 0:
                for item in stream:
                    reading.items.append(item)
                    if len(reading.items) == take:
                        break
    except BaseException as error:
        reading.error = error


async def _aread(
    reading: Reading, form: Form, ask: Callable[..., Any], args: Any, take: int | None
) -> None:
    try:
        async with AsyncExitStack() as stack:
            stream = ask(*args)
            if hasattr(type(stream), "__await__"):
                stream = await stream
            if form.manages:
                stream = await stack.enter_async_context(stream)
            closes = getattr(stream, "aclose", None) or getattr(stream, "close", None)
            if closes is not None:
                stack.push_async_callback(closes)
            if take != 0:
                async for item in stream:
                    reading.items.append(item)
                    if len(reading.items) == take:
                        break
    except Exception as error:
        reading.error = error
