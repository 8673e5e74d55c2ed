"""Opens an asynchronous stream: the asynchronous half of `opening`.

Closing is shielded from cancellation for a few seconds, or a cancelled call would leave its
connection open. Loads anyio, and so is itself loaded with the first asynchronous stream.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Final

import anyio

from resilient_llm._drive.opening import begin_with
from resilient_llm._drive.results import is_awaitable, special

if TYPE_CHECKING:
    from resilient_llm._core.call.call import Call
    from resilient_llm._core.call.steps import Try
    from resilient_llm._drive.opening import FirstContentTimeout, StartedStream
    from resilient_llm._drive.results import ResultKind

_CLOSES_WITHIN: Final = 5.0
"""Seconds that closing a connection may take after a cancellation."""


async def begin(call: Call, step: Try, value: Any, kind: ResultKind) -> StartedStream:
    """Open an asynchronous stream up to its first content.

    Raises:
        BaseException: Whatever the stream raised; it is closed then.
    """
    return await begin_with(ASYNC, call, step, value, kind)


async def close(stream: Any) -> None:
    """Close what can be closed. Errors are dropped, since the call has moved on."""
    closing = getattr(stream, "aclose", None) or getattr(stream, "close", None)
    with suppress(Exception):
        if closing is not None and is_awaitable(closed := closing()):
            await closed


class _AsyncIO:
    """Streams that ``async for`` iterates."""

    is_async: ClassVar[bool] = True
    reads: ClassVar[str] = "__anext__"

    def gives_items(self, kind: ResultKind) -> bool:
        return kind.async_items

    def iterator(self, stream: Any) -> Any:
        return special(stream, "__aiter__")()

    async def enter(self, manager: Any) -> Any:
        return await special(manager, "__aenter__")()

    async def leave(self, manager: Any, *error: Any) -> Any:
        with anyio.move_on_after(_CLOSES_WITHIN, shield=True):
            return await special(manager, "__aexit__")(*error)
        return None

    async def close(self, stream: Any, iterator: Any = None) -> None:
        with anyio.move_on_after(_CLOSES_WITHIN, shield=True):
            try:  # no shield holds asyncio's own cancellation off, so each is closed by itself
                await close(iterator)
            finally:
                await close(stream)

    async def hold_back(self, started: StartedStream, limit: FirstContentTimeout | None) -> None:
        assert limit is None  # the limit is a cancel scope around the whole attempt
        stream_state = started.stream_state
        async for item in started.opened.source:
            stream_state.fault = stream_state.hold_back(item)
            if stream_state.fault is not None or stream_state.may_begin:
                return
        started.is_over = True
        stream_state.fault = stream_state.ended_before()


ASYNC: Final = _AsyncIO()
