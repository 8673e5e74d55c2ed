"""The session of an asynchronous stream: delivers its items, restarts it, ends it.

`streams` shows how a stream gets from the target to the consumer. No cancel scope is held across
a ``yield``: each wait for an item has its own, if it has a limit.
"""

from __future__ import annotations

import warnings
import weakref
from types import AsyncGeneratorType
from typing import TYPE_CHECKING, Any, cast

from resilient_llm._drive.aio import advance
from resilient_llm._drive.aopening import ASYNC
from resilient_llm._drive.attempting import CUT_OFF
from resilient_llm._drive.interruption import interruption_of
from resilient_llm._drive.opening import refuse_open_scope
from resilient_llm._drive.reads import AsyncReads
from resilient_llm._drive.session import DROPPED, BaseStreamSession
from resilient_llm._drive.sync import trim
from resilient_llm._drive.tasks import spawn
from resilient_llm._runtime import call_ids
from resilient_llm._runtime.runtime import runtime
from resilient_llm._runtime.time_limit import is_trio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

    from resilient_llm._core.call.call import Call
    from resilient_llm._core.call.steps import Step
    from resilient_llm._drive.interruption import Interruption
    from resilient_llm._drive.opening import StartedStream
    from resilient_llm._drive.session import Suspended
    from resilient_llm._runtime.clock import CancelScope


class StreamSession(BaseStreamSession):
    """One call whose answer is an asynchronous stream.

    Nothing can be awaited when the consumer drops it, so that warns, and starts a task that
    closes what is open.
    """

    __slots__ = ("_closing",)

    def __init__(self, start: Suspended | Callable[[], Suspended], pending: Any = None) -> None:
        super().__init__(ASYNC, start, pending)
        self._closing: Interruption | None = None
        """The cancellation by which another task closes it while one reads."""

    @property
    def has_begun(self) -> bool:
        """Whether something is open that must be closed."""
        return (self._start is None or self._pending is not None) and not self.is_over

    async def apresent(self) -> Any:
        """Return what the consumer gets of a stream whose first content has come."""
        started = await self.astarted()
        assert started is not None
        return self.present(started.opened.stream)

    def present(self, stream: Any = None) -> Any:
        """Return what the consumer gets: a proxy of the SDK's object, or of a generator.

        Args:
            stream: The SDK's object; None if the function is an asynchronous generator.
        """
        from resilient_llm._drive import proxies  # loads wrapt

        generator = self.items()
        self._bind(generator)
        items = Items(self, generator)
        if stream is None or type(stream) is AsyncGeneratorType:
            return proxies.AsyncStream(generator, self, items)
        proxy = proxies.AsyncStream(stream, self, items)
        self._proxy = weakref.ref(proxy)
        return proxy

    async def items(self) -> AsyncGenerator[Any, None]:  # noqa: C901  # one loop, in its order
        """Give the items of the stream, and of those that replace it after an interruption.

        The consumer iterates this, so all that is done for each item is to count it and to keep
        the last three, which show whether the stream was complete.
        """
        error: BaseException | None = None
        self._is_iterated = True
        try:
            started = await self.astarted()
            while True:
                if started is None:
                    break
                stream_state = started.stream_state
                rest, sent, last, second, third = None, stream_state.items_sent, None, None, None
                try:
                    for item in started.first_items():
                        sent += 1
                        third, second, last = second, last, item
                        try:
                            yield item
                        except BaseException:
                            stream_state.stopped_by_consumer = True
                            raise
                    rest = self._rest(started)
                    async for item in rest:
                        sent += 1
                        third = second
                        second = last
                        last = item
                        try:
                            yield item
                        except BaseException:
                            stream_state.stopped_by_consumer = True
                            raise
                except BaseException as caught:  # noqa: BLE001  # the call flow judges it
                    error = caught
                stream_state.items_sent = sent
                if rest is not None and rest is not started.opened.source:
                    await rest.aclose()
                started = await self.aended(started, error, (third, second, last))
                error = None
            if self._lent is not None:
                self._lent.is_over = True
        except BaseException as caught:
            if self._leaves(caught):
                raise
        finally:
            if self._closing is not None:
                self._closing.take_back()
            error = item = rest = last = second = third = None
            await self.afinish()

    def _rest(self, started: StartedStream) -> Any:
        """Return the items after those that were held back."""
        call_id = self.call_id
        items = _later_items(started)
        if call_id is None:
            return items
        return _of_call(items, call_id, closes=items is not started.opened.source)

    def _leaves(self, error: BaseException) -> bool:
        """Return whether an error is raised to the reader: not if another task has closed it."""
        if self._closing is not None and self._closing.has_raised(error):
            return False
        if issubclass(type(error), Exception):
            trim(error)
        return True

    def dropped(self) -> None:
        """Warn of a stream that was dropped unclosed, and close it as soon as a task can."""
        warnings.warn(
            "an asynchronous stream was dropped before its end: close it with `async with`, "
            "`aclose()` or contextlib.aclosing",
            ResourceWarning,
            stacklevel=3,
            source=self,
        )
        pending, self._pending = self._pending, None
        if pending is not None:
            self._release()
            io = self._io
            spawn(lambda: io.close(pending))
            return
        if self._is_iterated:
            return  # its generator is collected with it, and Python lets the loop close that
        started, self._started_stream = self._started_stream, None
        if started is not None and self._flow is not None:
            started.stream_state.stopped_by_consumer = True
            self._settled(started.reply(runtime.clock(), GeneratorExit(), ()))
            spawn(started.opened.aabandon)
        self._release()

    def _borrowed_iterator(self, generator: weakref.ref[Any], original: Any) -> BorrowedIterator:
        return BorrowedIterator(generator, original)

    async def _advance(self, step: Step, given: Any) -> tuple[Step, Any]:
        assert self._flow is not None
        # A step to advance from comes of a call flow, whose call is a Call.
        return await advance(cast("Call", self._call), self._flow, step, pending=given, enters=True)

    async def _close_generator(self, generator: Any) -> bool:
        try:
            await generator.aclose()
        except RuntimeError:
            if generator.ag_running:
                return False
            raise
        return True

    async def _close_elsewhere(self, generator: Any) -> None:
        interruption = interruption_of(generator)
        if interruption is None:  # on trio, or by code that the stream itself runs
            if not await self._hang_up_elsewhere():
                raise RuntimeError("aclose(): asynchronous generator is already running")
            return
        self._closing = interruption
        self._is_closing = True
        await self._hang_up_elsewhere()
        if not await interruption.end(lambda: self._close_generator(generator)):
            raise RuntimeError("aclose(): asynchronous generator is already running")


def _later_items(started: StartedStream) -> Any:
    """Return the items after those that were held back."""
    source = started.opened.source
    own = None
    if started.is_over or not hasattr(source, "__anext__"):
        own = _each(() if started.is_over else source)
    elif started.is_watched:
        own = _timed(started)
    items = source if own is None else own
    for scope in started.opened.scopes:
        items = AsyncReads(items, scope, own)
    within = started.opened.within
    if within is None:
        return items
    from resilient_llm._drive.contexts import AsyncItemsWithin  # loaded with the first hedge

    return AsyncItemsWithin(items, within, own)


async def _each(items: Iterable[Any]) -> AsyncGenerator[Any, None]:
    for item in items:
        yield item


async def _of_call(items: Any, call_id: str, *, closes: bool) -> AsyncGenerator[Any, None]:
    """Give items, each asked for inside the call; close them if nobody else does."""
    try:
        while True:
            entered = call_ids.enter(call_id)
            try:
                item = await items.__anext__()
            except StopAsyncIteration:
                return
            finally:
                call_ids.leave(entered)
            yield item
    finally:
        if closes:
            await items.aclose()


async def _timed(started: StartedStream) -> AsyncGenerator[Any, None]:
    """Give the items of a stream that `StartedStream.is_watched`."""
    source, timer, stream_state = started.opened.source, started.timer, started.stream_state
    counts = timer is not None and timer.counts_content
    limit: float | None = None
    item: Any = None
    on_trio = is_trio()
    scope: CancelScope | None = None
    while True:
        since = runtime.clock()
        if timer is not None:
            limit = timer.next_timeout(since)
            if started.waits_since is None:
                started.waits_since = since
        try:
            if limit is None:
                item = await source.__anext__()
            else:
                item = CUT_OFF
                with runtime.time.cancel_after(limit) as scope:
                    if on_trio:
                        item = await _closed_item(started)
                    else:
                        item = await source.__anext__()
                if item is CUT_OFF:
                    raise started.late()
        except StopAsyncIteration:
            # A generator may catch the cancellation and return.
            if scope is not None and scope.cancel_called:
                raise started.late() from None
            return
        if timer is not None:
            waited = runtime.clock() - since
            if limit is not None and waited > limit:
                raise started.late()
            is_content = counts and stream_state.is_content(item)
            timer.received(waited, is_content=is_content)
            if is_content or not counts:
                started.waits_since = None
        stream_state.note(item)
        yield item


async def _closed_item(started: StartedStream) -> Any:
    """Return the next item of a stream on trio, which must leave all scopes that it opens."""
    scope = started.opened.io.innermost_scope(leaves=False)
    item = await started.opened.source.__anext__()
    await refuse_open_scope(scope, started.opened)
    return item


class Items:
    """What the consumer of a stream iterates. Of what it holds, only this notices being dropped."""

    # A slot, so that Python finds the generator's own method there, without a call in between.
    __slots__ = ("__anext__", "__weakref__", "_session")
    __anext__: Callable[[], Awaitable[Any]]

    def __init__(self, session: StreamSession, generator: Any) -> None:
        self._session = session
        self.__anext__ = generator.__anext__

    def __aiter__(self) -> Items:
        return self

    def __del__(self) -> None:
        session = getattr(self, "_session", None)  # missing if an interrupt came before it was made
        if session is not None and session.has_begun and not session.is_entered:
            session.dropped()


class BorrowedIterator:
    """Replaces the iterator of an SDK's stream object, and reads from the guarded items."""

    __slots__ = ("_generator", "_original", "is_over")

    def __init__(self, generator: weakref.ref[Any], original: Any) -> None:
        self._generator = generator
        self._original = original
        self.is_over = False

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        generator = self._generator()
        if generator is None:
            if self.is_over:
                raise StopAsyncIteration
            raise RuntimeError(DROPPED)
        if self._original is not None and generator.ag_running:
            return await self._original.__anext__()  # the guard reads, through a tracer's proxy
        return await generator.__anext__()

    async def aclose(self) -> None:
        generator = self._generator()
        if generator is not None:
            await generator.aclose()
