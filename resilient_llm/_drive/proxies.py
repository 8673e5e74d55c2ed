"""Transparent proxies of the objects that SDKs give for a stream: only reading and closing differ.

Methods of the object run with the proxy as ``self``, so that what they read and close goes
through the guard as well.
"""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any

import wrapt

from resilient_llm._drive import streams
from resilient_llm._drive.results import kind_of
from resilient_llm._runtime.runtime import runtime

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from resilient_llm._core.call.call import Call
    from resilient_llm._core.call.call_flow import CallFlow
    from resilient_llm._core.call.steps import Step
    from resilient_llm._drive import astreams
    from resilient_llm._drive.session import Suspended

_Proxy: Any = wrapt.ObjectProxy  # it ships no types, so none of its types leak into ours


class _Proxied(_Proxy):
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


class SyncStream(_Proxied):
    """A stream in synchronous code."""

    def __init__(
        self, stream: Any, session: streams.StreamSession, generator: Generator[Any, None, None]
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


class AsyncStream(_Proxied):
    """A stream in asynchronous code; of an asynchronous generator, it passes for one."""

    def __init__(self, stream: Any, session: astreams.StreamSession, generator: Any) -> None:
        from resilient_llm._drive.astreams import Items

        super().__init__(stream)  # pyright: ignore[reportUnknownMemberType]  # it has no types
        self._self_session = session
        self._self_items = Items(session, generator)

    def __aiter__(self) -> Any:
        return self._self_items

    def __anext__(self) -> Awaitable[Any]:
        return self._self_items.__anext__()

    async def __aenter__(self) -> Any:
        entered = await self.__wrapped__.__aenter__()
        return self if entered is self.__wrapped__ else entered

    async def __aexit__(self, *error: Any) -> Any:
        await self._self_session.stop()
        return await self.__wrapped__.__aexit__(*error)

    def __getattr__(self, name: str) -> Any:
        if name in ("close", "aclose"):
            getattr(self.__wrapped__, name)  # AttributeError if the stream has none
            return self._self_session.stop
        return super().__getattr__(name)


class Manager(_Proxied):
    """A context manager that yields a stream. Entering it makes the call; once, as the SDKs' own."""

    def __init__(self, manager: Any, suspended: Suspended) -> None:
        super().__init__(manager)  # pyright: ignore[reportUnknownMemberType]  # it has no types
        self._self_suspended: Suspended | None = suspended
        self._self_given_at = runtime.clock()
        self._self_session: Any = None

    def _self_start(self) -> Suspended:
        suspended, self._self_suspended = self._self_suspended, None
        if suspended is None:
            raise RuntimeError(
                "this manager of a stream was entered already: call the function anew"
            )
        call, _, step, _ = suspended
        # Nothing was asked of the provider while it lay around.
        idle = runtime.clock() - self._self_given_at
        step.permit.entered_at += idle  # type: ignore[union-attr]  # a manager comes of a Try
        if call.deadline is not None:
            call.deadline += idle
        return suspended

    def __enter__(self) -> Any:
        session = streams.StreamSession(self._self_start)
        entered = session.enter()
        self._self_session = session
        return entered

    def __exit__(self, *error: Any) -> Any:
        session, self._self_session = self._self_session, None
        if session is None:
            return None
        session.stop()
        return session.leave(*error)

    async def __aenter__(self) -> Any:
        from resilient_llm._drive import astreams

        session = astreams.StreamSession(self._self_start)
        entered = await session.enter()
        self._self_session = session
        return entered

    async def __aexit__(self, *error: Any) -> Any:
        session, self._self_session = self._self_session, None
        return None if session is None else await _left(session, error)


class GuardedManager(_Proxied):
    """A context manager that yields a stream, inside one guard."""

    def __init__(self, manager: Any, guard: Any, suspended: Callable[[Any], Suspended]) -> None:
        super().__init__(manager)  # pyright: ignore[reportUnknownMemberType]  # it has no types
        self._self_guard = guard
        self._self_suspended = suspended
        self._self_session: Any = None

    def _self_leave(self, error: BaseException | None) -> None:
        guard, self._self_guard = self._self_guard, None
        if guard is not None:
            guard.__exit__(type(error), error, None)

    def _self_opened(self, kind: Any, session: Any, stream: Any) -> Any:
        opened = kind(self.__wrapped__, stream, is_managed=True)
        if not opened.is_stream:
            self._self_leave(None)
            return None
        self._self_guard = None  # from here on it is the flow's
        suspended = self._self_suspended(opened)
        self._self_session = session(lambda: suspended)
        return self._self_session

    def __enter__(self) -> Any:
        try:
            stream = self.__wrapped__.__enter__()
        except BaseException as error:
            self._self_leave(error)
            raise
        session = self._self_opened(streams.OpenStream, streams.StreamSession, stream)
        return stream if session is None else session.enter()

    def __exit__(self, *error: Any) -> Any:
        session, self._self_session = self._self_session, None
        if session is None:
            return self.__wrapped__.__exit__(*error)
        session.stop()
        return session.leave(*error)

    async def __aenter__(self) -> Any:
        from resilient_llm._drive import astreams

        try:
            stream = await self.__wrapped__.__aenter__()
        except BaseException as error:
            self._self_leave(error)
            raise
        session = self._self_opened(astreams.OpenStream, astreams.StreamSession, stream)
        return stream if session is None else await session.enter()

    async def __aexit__(self, *error: Any) -> Any:
        session, self._self_session = self._self_session, None
        return (
            await self.__wrapped__.__aexit__(*error)
            if session is None
            else await _left(session, error)
        )

    def __del__(self) -> None:
        self._self_leave(GeneratorExit())  # never entered


async def _left(session: Any, error: tuple[Any, ...]) -> Any:
    try:
        await session.stop()
    finally:
        swallows = await session.leave(*error)
    return swallows


def manager(call: Call, steps: CallFlow, step: Step, given: Any) -> Any:
    """Return a guarded manager of a stream."""
    assert kind_of(given) is not None
    return Manager(given, (call, steps, step, given))
