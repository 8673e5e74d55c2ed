"""Transparent proxies of the stream objects of SDKs: only reading and closing differ.

Each names the kind that another guard around it takes it for, since a transparent proxy has the
methods of what is inside it as well.

Methods of the object run with the proxy as ``self``, so that what they read and close goes
through the guard as well. Knows of a session only how to stop it. Loads wrapt, and so is itself
loaded with the first stream that needs it.
"""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any, Protocol

import wrapt

from resilient_llm._drive.results import ResultKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

_Proxy: Any = wrapt.ObjectProxy  # it ships no types, so none of its types leak into ours


class Stoppable(Protocol):
    """What a proxy in synchronous code needs of a session."""

    def stop(self) -> None: ...


class AsyncStoppable(Protocol):
    """What a proxy in asynchronous code needs of a session."""

    async def astop(self) -> None: ...


class Proxied(_Proxy):
    """A proxy whose methods see the proxy."""

    def __getattr__(self, name: str) -> Any:
        wrapped = self.__wrapped__
        value = getattr(wrapped, name)
        if isinstance(value, MethodType) and value.__self__ is wrapped:
            return MethodType(value.__func__, self)
        return value

    def __reduce__(self) -> Any:
        raise TypeError(f"cannot pickle a stream of {type(self.__wrapped__).__name__}")

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__reduce__()


class SyncStream(Proxied):
    """A proxy of an SDK's stream object in synchronous code; like those, its own iterator."""

    _self_kind = ResultKind(items=True)

    def __init__(
        self, stream: Any, session: Stoppable, generator: Generator[Any, None, None]
    ) -> None:
        super().__init__(stream)  # pyright: ignore[reportUnknownMemberType]  # it has no types
        self._self_session = session
        self._self_generator = generator

    def __iter__(self) -> Any:
        return self._self_generator

    def __next__(self) -> Any:
        return next(self._self_generator)

    def __enter__(self) -> Any:
        entered = self.__wrapped__.__enter__()
        return self if entered is self.__wrapped__ else entered

    def __exit__(self, *error: Any) -> Any:
        self._self_session.stop()
        return self.__wrapped__.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        if name == "close":
            getattr(self.__wrapped__, name)  # AttributeError if the stream has none
            return self._self_session.stop
        return super().__getattr__(name)


class AsyncStream(Proxied):
    """A proxy of an SDK's stream object, or of a generator, in asynchronous code."""

    _self_kind = ResultKind(async_items=True)

    def __init__(self, stream: Any, session: AsyncStoppable, items: Any) -> None:
        super().__init__(stream)  # pyright: ignore[reportUnknownMemberType]  # it has no types
        self._self_session = session
        self._self_items = items

    def __iter__(self) -> Any:
        # The proxy itself would read from the SDK's object, past the guard.
        raise TypeError("this stream is read by `async for`, since it was awaited")

    def __aiter__(self) -> Any:
        return self._self_items

    def __anext__(self) -> Awaitable[Any]:
        return self._self_items.__anext__()

    async def __aenter__(self) -> Any:
        entered = await self.__wrapped__.__aenter__()
        return self if entered is self.__wrapped__ else entered

    async def __aexit__(self, *error: Any) -> Any:
        await self._self_session.astop()
        return await self.__wrapped__.__aexit__(*error)

    def __getattr__(self, name: str) -> Any:
        if name in ("close", "aclose"):
            getattr(self.__wrapped__, name)  # AttributeError if the stream has none
            return self._self_session.astop
        return super().__getattr__(name)


class EitherStream(Proxied):
    """A proxy of a stream that ``for`` and ``async for`` read; the first to ask decides which.

    Args:
        stream: The SDK's object.
        start: Returns the proxy of the started stream: an asynchronous one if it is given True.
    """

    _self_kind = ResultKind(items=True, async_items=True)

    def __init__(self, stream: Any, start: Callable[[bool], Any]) -> None:
        super().__init__(stream)  # pyright: ignore[reportUnknownMemberType]  # it has no types
        self._self_start = start
        self._self_started: Any = None

    def _self_read(self, *, is_async: bool) -> Any:
        if self._self_started is None:
            self._self_started = self._self_start(is_async)
            del self._self_start  # it holds the call
        return self._self_started

    def __iter__(self) -> Any:
        return iter(self._self_read(is_async=False))

    def __next__(self) -> Any:
        return next(self._self_read(is_async=False))

    def __aiter__(self) -> Any:
        return aiter(self._self_read(is_async=True))

    def __anext__(self) -> Awaitable[Any]:
        return anext(self._self_read(is_async=True))

    def __enter__(self) -> Any:
        return self._self_read(is_async=False).__enter__()

    def __exit__(self, *error: Any) -> Any:
        return self._self_started.__exit__(*error)

    async def __aenter__(self) -> Any:
        return await self._self_read(is_async=True).__aenter__()

    async def __aexit__(self, *error: Any) -> Any:
        return await self._self_started.__aexit__(*error)

    def __getattr__(self, name: str) -> Any:
        if name in ("close", "aclose"):
            closing = getattr(self.__wrapped__, name)  # AttributeError if the stream has none
            # Without a first item there is no call that would have to end.
            return closing if self._self_started is None else getattr(self._self_started, name)
        return super().__getattr__(name)
