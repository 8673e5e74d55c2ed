"""Opens an asynchronous stream: the asynchronous half of `opening`.

Where a cancellation is pending, the objects of SDKs are closed behind a shield, or a cancelled
call would leave its connection open. A generator and a manager are closed as ``async with`` does
it: they may keep a task group open, which cannot be left inside a scope that is younger.
Loads anyio, and so is itself loaded with the first asynchronous stream.
"""

from __future__ import annotations

from contextlib import nullcontext
from types import AsyncGeneratorType
from typing import TYPE_CHECKING, Any, ClassVar, Final

import anyio

from resilient_llm._drive.opening import begin_with
from resilient_llm._drive.results import is_awaitable, special
from resilient_llm._runtime.time_limit import TaskScope, innermost_scope, is_trio

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from resilient_llm._core.call.call import Call
    from resilient_llm._core.call.steps import Try
    from resilient_llm._drive.opening import FirstContentTimeout, StartedStream
    from resilient_llm._drive.results import ResultKind

_CLOSES_WITHIN: Final = 5.0
"""Seconds that closing a connection may take."""
_PENDING: Final = float("-inf")
"""The deadline that anyio names where a cancellation has begun."""


async def begin(call: Call, step: Try, value: Any, kind: ResultKind) -> StartedStream:
    """Open an asynchronous stream up to its first content.

    Raises:
        BaseException: Whatever the stream raised; it is closed then.
    """
    return await begin_with(ASYNC, call, step, value, kind)


async def close(stream: Any) -> None:
    """Close what can be closed. Errors are dropped, since the call has moved on."""
    closing = getattr(stream, "aclose", None) or getattr(stream, "close", None)
    try:
        if closing is not None and is_awaitable(closed := closing()):
            await closed
    except Exception:  # noqa: BLE001  # as just said
        return
    except BaseExceptionGroup as group:
        # A task group that a closed generator was in gives its GeneratorExit in a group.
        if group.split((GeneratorExit, Exception))[1] is not None:
            raise


def closing_time() -> AbstractContextManager[Any]:
    """Return the limit of closing an SDK's object, with a shield where it needs one."""
    if anyio.current_effective_deadline() == _PENDING:
        return anyio.move_on_after(_CLOSES_WITHIN, shield=True)
    return nullcontext() if is_trio() else TaskScope(_CLOSES_WITHIN)


class _AsyncIO:
    """Streams that ``async for`` iterates."""

    is_async: ClassVar[bool] = True
    reads: ClassVar[str] = "__anext__"

    def innermost_scope(self, *, leaves: bool) -> object:
        return innermost_scope(of_anyio=leaves)

    def is_on_trio(self) -> bool:
        return is_trio()

    def gives_items(self, kind: ResultKind) -> bool:
        return kind.async_items

    def iterator(self, stream: Any) -> Any:
        return special(stream, "__aiter__")()

    async def enter(self, manager: Any) -> Any:
        return await special(manager, "__aenter__")()

    async def leave(self, manager: Any, *error: Any) -> Any:
        return await special(manager, "__aexit__")(*error)

    async def close(self, stream: Any, iterator: Any = None) -> None:
        is_generator = type(stream or iterator) is AsyncGeneratorType
        with nullcontext() if is_generator else closing_time():
            try:  # no shield holds asyncio's own cancellation off, so each is closed by itself
                await close(iterator)
            finally:
                if stream is not iterator:
                    await close(stream)

    async def hold_back(self, started: StartedStream, limit: FirstContentTimeout | None) -> None:
        assert limit is None  # the limit is a cancel scope around the whole attempt
        stream_state = started.stream_state
        async for item in started.opened.source:
            started.note_sources()
            stream_state.fault = stream_state.hold_back(item)
            if stream_state.fault is not None or stream_state.may_begin:
                return
        started.is_over = True
        stream_state.left_early = started.is_left_early
        stream_state.fault = stream_state.ended_before()


ASYNC: Final = _AsyncIO()
