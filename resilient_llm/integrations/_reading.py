"""`Reading`: reads a stream in a task of its own, and gives its items as server-sent events.

A stream begins in an endpoint and goes on in its response. Between the two there is no place for a
task group, and a generator may hold cancel scopes open that belong to the task in which it began.
So one task reads the stream from its beginning to its end.

Owns that task. Knows nothing of requests and of responses.
"""

from __future__ import annotations

import json
import re
import sys
from contextlib import AsyncExitStack, suppress
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
import anyio.to_thread

from resilient_llm._drive.results import is_awaitable, kind_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

_PATIENCE: Final = 5.0
"""Seconds that `Reading.stop` waits, at most, until the stream is closed."""

_FORMS: Final = (
    ("__aiter__", "async items"),
    ("__aenter__", "async manager"),
    ("__await__", "awaitable"),
    ("__iter__", "items"),
    ("__enter__", "manager"),
)
"""``(special method, how a stream is read whose class has it)``; the first that fits."""

_LINE_END: Final = re.compile("\r\n|\n|\r")
_END: Final = object()
_EXPECTED: Final = (
    "an asynchronous or synchronous iterable, a context manager of one, or an awaitable of these"
)


class Reading:
    """One stream, while it is read.

    Attributes:
        error: What ended the stream, until it is taken; None if it ended well or was stopped.
        is_stopped: Whether it was stopped before its end.
    """

    def __init__(self, stream: Any) -> None:
        """Take a stream.

        Raises:
            TypeError: If it is not a stream.
        """
        if not _form(stream):
            hint = "; call the function" if callable(stream) else ""
            raise TypeError(f"stream of type {type(stream).__name__}: expected {_EXPECTED}{hint}")
        self.error: BaseException | None = None
        self.is_stopped = False
        self._stream: Any = stream
        self._event: bytes | None = None
        self._is_given = anyio.Event()
        self._is_taken = anyio.Event()
        self._has_ended = anyio.Event()
        self._cancel: Callable[[], object] = _nothing
        self._call_soon: Callable[[Callable[[], object]], object] | None = None
        self._synchronous: Any = None
        """The synchronous stream that is read just now."""

    def start(self) -> None:
        """Start to read."""
        trio: Any = sys.modules.get("trio")
        if trio is not None and _runs(trio.lowlevel.current_task):
            self._call_soon = trio.lowlevel.current_trio_token().run_sync_soon
            scope = trio.CancelScope()
            self._cancel = scope.cancel
            trio.lowlevel.spawn_system_task(self._run_in, scope, context=copy_context())
        else:
            import asyncio

            loop = asyncio.get_running_loop()
            self._call_soon = loop.call_soon_threadsafe
            task = loop.create_task(self._run())
            task.add_done_callback(self._end)  # it may be cancelled before it begins
            self._cancel = task.cancel

    async def next(self) -> bytes | None:
        """Return the next event, or None at the end."""
        await self._is_given.wait()
        if self._has_ended.is_set() or self.is_stopped:
            return None
        event, self._event = self._event, None
        self._is_given = anyio.Event()
        self._is_taken.set()
        return event

    async def stop(self) -> None:
        """End the call and close the stream, unless it has ended; wait until that is done.

        The wait ends after 5 seconds, since a stream that is read in a thread may not end before
        its next item. An error in closing is dropped: whoever stops a stream has no use for it.
        """
        if self._has_ended.is_set():
            return
        self.is_stopped = True
        with anyio.move_on_after(_PATIENCE):
            if self._call_soon is not None:
                self._interrupt()
                if self._synchronous is not None:
                    with suppress(Exception):
                        await _close_beside(self._synchronous)
                await self._has_ended.wait()
            if self._stream is not None:  # the task did not begin
                with suppress(Exception):
                    await self._discard()

    def abandon(self) -> None:
        """End the call, from any thread."""
        if self._has_ended.is_set() or self._call_soon is None:
            return
        self.is_stopped = True
        try:
            # How to interrupt it is decided in its own thread, where it cannot go on meanwhile.
            self._call_soon(self._interrupt)
        except RuntimeError:  # its loop has ended, and so has its task
            pass

    def take_error(self) -> BaseException:
        """Return the error, and keep it no longer, since its traceback refers to this object."""
        assert self.error is not None
        error, self.error = self.error, None
        try:
            return error
        finally:
            del error

    def take_foreign_error(self) -> Exception | None:
        """Return the error that was not taken, if it is one that may leave."""
        return cast("Any", self.take_error()) if isinstance(self.error, Exception) else None

    def _interrupt(self) -> None:
        """Cancel the task; if it reads in a thread, which no cancellation ends, let it look."""
        if self._synchronous is None:
            self._cancel()
        else:
            self._is_taken.set()

    async def _discard(self) -> None:
        """Close a stream that was not begun."""
        stream, self._stream = self._stream, None
        form = _form(stream)
        if form == "async items":
            await _aclose(stream)
        elif form in ("items", "awaitable"):  # Python warns about a coroutine that is left open
            await _close_beside(stream)

    async def _run_in(self, scope: Any) -> None:
        with scope:
            await self._run()

    async def _run(self) -> None:
        try:
            async with AsyncExitStack() as stack:
                items = await self._opened(stack)
                if self.is_stopped:  # while a manager was entered in a thread
                    return
                async for item in items:
                    self._event = _event_of(item)
                    self._is_given.set()
                    await self._is_taken.wait()
                    if self.is_stopped:
                        break
                    self._is_taken = anyio.Event()
        except Exception as error:  # noqa: BLE001  # the reader raises it
            if not self.is_stopped:
                self.error = error
        except BaseException as error:
            if not self.is_stopped:
                self.error = error
            raise
        finally:
            self._end()

    def _end(self, _task: object = None) -> None:
        self._synchronous = None
        self._has_ended.set()
        self._is_given.set()

    async def _opened(self, stack: AsyncExitStack) -> AsyncIterator[Any]:
        """Return the items; what has to be closed is closed by the stack."""
        stream: Any = self._stream
        self._stream = None
        if _form(stream) == "awaitable":
            stream = await stream
            if _form(stream) in ("", "awaitable"):
                raise TypeError(
                    f"stream: awaited, it gave a {type(stream).__name__}; expected {_EXPECTED}"
                )
        form = _form(stream)
        if form.endswith("manager"):
            if form == "async manager":
                stream = await stack.enter_async_context(stream)
            else:
                manager = self._synchronous = stream
                stream = await _in_thread(manager.__enter__)
                stack.push_async_exit(_leaving(manager))
            form = _form(stream)
            if form not in ("items", "async items"):
                raise TypeError(
                    f"stream: entered, it gave a {type(stream).__name__}; expected an asynchronous "
                    "or synchronous iterable"
                )
        if form == "async items":
            stack.push_async_callback(_aclose, stream)
            return aiter(stream)
        self._synchronous = stream
        stack.push_async_callback(_close_beside, stream)
        iterator = await _in_thread(iter, stream)
        if iterator is not stream:
            stack.push_async_callback(_close_beside, iterator)
        return _ThreadedItems(iterator)


class _ThreadedItems:
    """The items of a synchronous iterator, each of which is awaited in a thread."""

    def __init__(self, iterator: Any) -> None:
        self._iterator = iterator

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        item = await _in_thread(next, self._iterator, _END)
        if item is _END:
            raise StopAsyncIteration
        return item


def _form(value: object) -> str:
    """Return how a stream is read, or an empty text for what is not a stream.

    What can be iterated is not entered, even if it can be: closing it does the same. A proxy has
    all special methods, and so is looked into first.
    """
    if isinstance(value, (str, bytes, bytearray, dict)):
        return ""
    kind = kind_of(value)
    if kind is not None:
        if kind.async_items or kind.items:
            return "async items" if kind.async_items else "items"
        return "async manager" if kind.async_manager else "manager"
    for name, form in _FORMS:
        if getattr(type(value), name, None) is not None:
            return form
    return ""


async def _aclose(stream: Any) -> None:
    closing = getattr(stream, "aclose", None) or getattr(stream, "close", None)
    if closing is not None:
        closed = closing()
        if is_awaitable(closed):
            await closed


async def _in_thread(function: Callable[..., Any], /, *args: Any) -> Any:
    return await anyio.to_thread.run_sync(function, *args)


async def _close_beside(stream: Any) -> None:
    """Close a synchronous stream in a thread, also while another one reads it.

    That is not one of the threads that all share, which may all be reading.
    """
    closing = getattr(stream, "close", None)
    if closing is None:
        return
    try:
        await anyio.to_thread.run_sync(closing, limiter=anyio.CapacityLimiter(1))
    except ValueError:  # a generator that runs; it is closed when it gives its next item
        pass


def _leaving(manager: Any) -> Any:
    async def leave(*error: Any) -> Any:
        return await anyio.to_thread.run_sync(
            manager.__exit__, *error, limiter=anyio.CapacityLimiter(1)
        )

    return leave


def _runs(current: Callable[[], object]) -> bool:
    try:
        current()
    except RuntimeError:
        return False
    return True


def _nothing() -> None:
    """Cancel a task that is not started."""


# --- events ------------------------------------------------------------------------------------


def _event_of(item: Any) -> bytes:
    """Return an item as one event.

    Only these three end a line of an event; `str.splitlines` knows others.

    Raises:
        TypeError: If an event cannot express the item.
    """
    text = item if isinstance(item, str) else _json(item)
    event = "".join(f"data: {line}\n" for line in _LINE_END.split(text)) + "\n"
    try:
        return event.encode()
    except UnicodeEncodeError:  # some servers split an emoji; the error would hold the item
        pass
    raise TypeError(
        f"an item of a stream of type {type(item).__name__} holds a lone surrogate, which UTF-8 "
        "cannot express: expected whole characters"
    )


def _json(item: Any) -> str:
    if isinstance(item, (bytes, bytearray, memoryview)):
        raise TypeError("an item of a stream is bytes: expected a text, or what JSON can express")
    try:
        from pydantic_core import to_json
    except ImportError:  # Starlette does not bring it; FastAPI and the SDKs do
        return _json_without_pydantic(item)
    try:
        return to_json(item, by_alias=True, inf_nan_mode="null").decode()
    except ValueError:  # its message would show the item
        raise _unfit(item) from None


def _json_without_pydantic(item: Any) -> str:
    write = partial(json.dumps, default=_plain, separators=(",", ":"), ensure_ascii=False)
    try:
        try:
            return write(item, allow_nan=False)
        except ValueError:  # NaN and infinities become null, as pydantic writes them
            return write(json.loads(write(item), parse_constant=lambda _: None))
    except ValueError:  # it contains itself
        raise _unfit(item) from None


def _plain(value: Any) -> Any:
    import dataclasses

    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise _unfit(value)


def _unfit(item: Any) -> TypeError:
    return TypeError(
        f"an item of a stream is of type {type(item).__name__}: expected a text, or what JSON can "
        "express"
    )
