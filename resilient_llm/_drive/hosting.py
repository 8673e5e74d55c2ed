"""Reads a stream in the task in which it has begun, on asyncio, for a reader in another task.

A generator may keep a time limit, a task group or a cancel scope open while it gives its items, and
what it has set in context variables. All of these belong to the task in which it began. So the task
of a hedge whose stream has won does not end: it does each step of the stream, one at a time, and
the reader waits for what comes of it.

Theory of operation. A cancellation of the reader is passed on to the step, and what that makes of
it is what the reader gets. A cancellation of the task between two steps comes of a limit or a task
group of the stream itself, or of the end of its loop: it is thrown into the stream at once, and
what comes of that is kept for the next step. The task ends with the stream, and when nobody refers
to the `HostedSource` any more: the task itself does not.

Owns the requests of the reader.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, nullcontext, suppress
from types import AsyncGeneratorType
from typing import TYPE_CHECKING, Any, ClassVar, Final

import anyio

from resilient_llm._drive.aopening import ASYNC, closing_time
from resilient_llm._runtime.time_limit import innermost_scope

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractContextManager

    from resilient_llm._drive.opening import OpenStream, StartedStream
    from resilient_llm._drive.results import ResultKind

_PENDING: Final = float("-inf")
"""The deadline that anyio names where a cancellation has begun."""

_closing: set[Any] = set()
"""Tasks that close a stream which was dropped: the loop keeps only weak references to them."""


class _Request:
    """One step, and what came of it."""

    __slots__ = ("cancels", "error", "is_done", "is_needed", "value", "waiter", "work")

    def __init__(self, work: Callable[[], Awaitable[Any]], *, is_needed: bool = False) -> None:
        self.work: Callable[[], Awaitable[Any]] | None = work
        self.is_needed = is_needed
        """Whether it is done even if the reader is cancelled before it begins."""
        self.waiter: asyncio.Future[None] | None = None
        self.cancels = 0
        """How often its reader was cancelled."""
        self.is_done = False
        self.value: Any = None
        self.error: BaseException | None = None

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def take(self) -> Any:
        """Return what came of it, or raise that; once."""
        value, error, self.value, self.error = self.value, self.error, None, None
        try:
            if error is not None:
                raise error
            return value
        finally:
            value = error = None


class Host:
    """The task of a stream, and what its reader asks of it."""

    def __init__(self, opened: OpenStream) -> None:
        """Take a stream; made in its task."""
        task = asyncio.current_task()
        assert task is not None
        self._task: asyncio.Task[Any] = task
        with suppress(AttributeError):  # nothing is lost with it if its loop is closed before
            setattr(task, "_log_destroy_pending", False)  # noqa: B010  # it is not in the stubs
        self._loop = asyncio.get_running_loop()
        self._source = opened.source
        self._stream = opened.stream
        self._manager = opened.value if opened.is_managed else None
        self._permits = opened.permits
        self._requests: list[_Request] = []
        self._running: _Request | None = None
        self._cancels = 0
        """How often the running step was cancelled."""
        self._kept: _Request | None = None
        """What a cancellation between two steps made of the stream."""
        self._waiter: asyncio.Future[None] | None = None
        self._is_left = False
        self._is_dropped = False
        self._is_over = False

    # In the task of the stream.

    async def serve(self) -> None:
        """Do the steps that the reader asks for, until the stream is over."""
        if self._permits is not None:
            self._permits.enter()  # to the end of this task, in which nothing else runs
        try:
            while True:
                if self._has_ended:
                    break
                try:
                    request = await self._next()
                except asyncio.CancelledError:
                    request = self._kept = _Request(self._break_off)
                await self._do(request)
                del request
        finally:
            self._is_over = True
        while self._requests:
            await self._do(self._requests.pop(0))

    @property
    def _has_ended(self) -> bool:
        if self._manager is not None:
            return self._is_left
        return self._source.ag_frame is None

    async def _next(self) -> _Request:
        while not self._requests:
            if self._is_dropped:
                return _Request(self._end)
            self._waiter = self._loop.create_future()
            try:
                with self._idle():
                    await self._waiter
            finally:
                self._waiter = None
        return self._requests.pop(0)

    def _idle(self) -> AbstractContextManager[Any]:
        """Return what holds the scopes of the stream off: they cancel what it waits for."""
        if innermost_scope(of_anyio=True) is None:
            return nullcontext()
        return anyio.CancelScope(shield=True)

    async def _do(self, request: _Request) -> None:
        work, request.work = request.work, None
        assert work is not None
        self._running, self._cancels = request, 0
        if request.cancels:
            self._loop.call_soon(self._cancel, request)
        try:
            request.value = await work()
        except BaseException as error:  # noqa: BLE001  # it is the reader's
            request.error = error
        finally:
            self._running = None
            if hasattr(self._task, "uncancel"):  # a task factory may make tasks that do not count
                for _ in range(self._cancels):
                    self._task.uncancel()
            request.is_done = True
            request.wake()
            del work, request

    def _cancel(self, request: _Request) -> None:
        """Cancel a step, if it is the one that runs."""
        if self._running is request:
            self._cancels += 1
            self._task.cancel()

    async def _break_off(self) -> Any:
        """Throw a cancellation into the stream; return the item that it gives nevertheless."""
        error = asyncio.CancelledError()
        try:
            if self._manager is None:
                return await self._source.athrow(error)
            if not await self._leave(type(error), error, None):
                raise error
            raise StopAsyncIteration
        finally:
            del error

    async def _read(self) -> Any:
        kept, self._kept = self._kept, None
        return await self._source.__anext__() if kept is None else kept.take()

    async def _leave_manager(self, *error: Any) -> Any:
        kept, self._kept = self._kept, None
        if kept is None or error[0] is not None:
            return await self._leave(*error)
        with suppress(StopAsyncIteration):
            kept.take()
        return None

    async def _leave(self, *error: Any) -> Any:
        if self._is_left:
            return None
        self._is_left = True
        try:
            await ASYNC.close(self._stream, self._source)
        finally:
            swallows = await ASYNC.leave(self._manager, *error)
        return swallows

    async def _end(self) -> None:
        if self._manager is None:
            await self._source.aclose()
        else:
            await self._leave(None, None, None)

    # In the task of the reader.

    async def read(self) -> Any:
        """Return the next item."""
        return await self._ask(_Request(self._read))

    async def close(self) -> None:
        """Close the stream, but do not leave its manager."""
        await self._ask(_Request(lambda: ASYNC.close(self._stream, self._source), is_needed=True))

    async def leave(self, *error: Any) -> Any:
        """Leave the manager; return whether it swallows the error."""
        return await self._ask(_Request(lambda: self._leave_manager(*error), is_needed=True))

    async def _ask(self, request: _Request) -> Any:
        """Have a step done; return what it returns, or raise that."""
        if (
            self._is_over
            or asyncio.get_running_loop() is not self._loop
            or asyncio.current_task() is self._task
        ):
            assert request.work is not None
            return await request.work()
        interrupted: asyncio.CancelledError | None = None
        self._requests.append(request)
        self._wake()
        try:
            with ExitStack() as shields:
                while True:
                    if request.is_done:
                        break
                    request.waiter = self._loop.create_future()
                    try:
                        await request.waiter
                    except asyncio.CancelledError as error:
                        if not self._passes_on(request):
                            raise
                        interrupted = error
                        if anyio.current_effective_deadline() == _PENDING:
                            shields.enter_context(anyio.CancelScope(shield=True))
            if interrupted is not None and issubclass(type(request.error), asyncio.CancelledError):
                request.error = None
                raise interrupted
            return request.take()
        except GeneratorExit:  # the coroutine that reads is closed
            self._passes_on(request)
            raise
        finally:
            del interrupted, request

    def _passes_on(self, request: _Request) -> bool:
        """Cancel a step; return False if nothing is to be waited for."""
        if request.is_done:
            return False
        if request in self._requests and not request.is_needed:
            self._requests.remove(request)
            return False
        request.cancels += 1
        self._cancel(request)
        return True

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def drop(self) -> None:
        """End the task soon, since nobody can read any more. Called from any thread."""
        if not self._is_over and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._drop)

    def _drop(self) -> None:
        self._is_dropped = True
        _closing.add(self._task)
        self._task.add_done_callback(_closing.discard)
        self._wake()


class HostedSource:
    """The items of a stream that is read in its own task."""

    __slots__ = ("host",)

    def __init__(self, host: Host) -> None:
        self.host = host

    def __aiter__(self) -> HostedSource:
        return self

    async def __anext__(self) -> Any:
        return await self.host.read()

    async def aclose(self) -> None:
        await self.host.close()

    def __del__(self) -> None:
        host = getattr(self, "host", None)  # missing if an interrupt came before it was made
        if host is not None:
            host.drop()


class _HostedIO:
    """Streams that are read, closed and left in their own tasks."""

    is_async: ClassVar[bool] = True
    reads: ClassVar[str] = "__anext__"

    def __init__(self, source: HostedSource) -> None:
        self._source = source

    def innermost_scope(self, *, leaves: bool) -> object:
        return ASYNC.innermost_scope(leaves=leaves)

    def is_on_trio(self) -> bool:
        return False

    def gives_items(self, kind: ResultKind) -> bool:
        return ASYNC.gives_items(kind)

    def iterator(self, stream: Any) -> Any:
        return ASYNC.iterator(stream)

    async def enter(self, manager: Any) -> Any:
        return await ASYNC.enter(manager)

    async def leave(self, manager: Any, *error: Any) -> Any:
        return await self._source.host.leave(*error)

    async def close(self, stream: Any, iterator: Any = None) -> None:
        is_generator = type(stream) is AsyncGeneratorType
        with nullcontext() if is_generator else closing_time():
            await self._source.host.close()

    async def hold_back(self, started: StartedStream, limit: Any) -> None:
        await ASYNC.hold_back(started, limit)


def host(opened: OpenStream) -> Host:
    """Have a stream read in the present task from now on; return what has to be served."""
    hosting = Host(opened)
    source = HostedSource(hosting)
    if opened.held is opened.source:
        opened.held = source
    opened.source, opened.io, opened.permits = source, _HostedIO(source), None
    return hosting
