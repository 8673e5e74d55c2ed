"""Streams in asynchronous code: held back until the first content, then handed over.

The twin of `streams`. No cancel scope is held across a ``yield``: each wait for an item has
one of its own, if it has a limit. Closing is shielded from cancellation, for a few seconds,
or a cancelled call would leave its connection open.
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from types import AsyncGeneratorType
from typing import TYPE_CHECKING, Any, Final

import anyio

from resilient_llm._core.call.steps import Deliver, Done, Raise, Reraise
from resilient_llm._core.circuit.permit import pop_leases, push_leases
from resilient_llm._drive.aio import CUT_OFF, abandon, advance
from resilient_llm._drive.results import StartedStream, special, stream_state_of
from resilient_llm._drive.session import BaseOpenStream, BaseStreamSession
from resilient_llm._drive.sync import is_awaitable
from resilient_llm._drive.tasks import spawn
from resilient_llm._runtime.runtime import runtime

if TYPE_CHECKING:
    import weakref
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

    from resilient_llm._core.call.call import Call
    from resilient_llm._core.call.steps import Try
    from resilient_llm._drive.results import ResultKind
    from resilient_llm._drive.session import Suspended

_CLOSES_WITHIN: Final = 5.0
"""Seconds that closing a connection may take once nobody waits for it any more."""


class OpenStream(BaseOpenStream):
    """The one of asynchronous code."""

    __slots__ = ()
    starts = "__aiter__"
    reads = "__anext__"

    async def leave(self, *error: Any) -> Any:
        """Close it as ``async with`` does; return whether the error is to be swallowed."""
        if self._is_closed:
            return None
        self._is_closed = True
        swallows = None
        try:  # no shield holds asyncio's own cancellation off, so each part is closed whatever comes of the others
            await self.hang_up()
        finally:
            if self.is_managed:
                with anyio.move_on_after(_CLOSES_WITHIN, shield=True):
                    swallows = await special(self.value, "__aexit__")(
                        *(error or (None, None, None))
                    )
        return swallows

    async def hang_up(self) -> None:
        """Close the stream, and not its manager."""
        with anyio.move_on_after(_CLOSES_WITHIN, shield=True):
            try:
                await close(self.source)
            finally:
                await close(self.stream)

    async def abandon(self) -> None:
        """Close it whatever comes of that, since the call has moved on."""
        with suppress(Exception):
            await self.leave()


async def close(stream: Any) -> None:
    """Close what can be closed; best effort, since the call has moved on."""
    closing = getattr(stream, "aclose", None) or getattr(stream, "close", None)
    with suppress(Exception):
        if closing is not None and is_awaitable(closed := closing()):
            await closed


async def begin(call: Call, step: Try, value: Any, kind: ResultKind) -> StartedStream:
    """Take items until one has content, or until that is not worth waiting for.

    Raises:
        BaseException: Whatever the stream raised; it is closed then.
    """
    leases = step.permit.leases
    push_leases(leases)
    try:
        stream = await special(value, "__aenter__")() if kind.is_manager else value
        opened = OpenStream(value, stream, is_managed=kind.is_manager)
        started = StartedStream(opened, stream_state_of(call, step))
        try:
            if opened.is_stream:
                await _hold_back(started)
        except BaseException:
            await opened.abandon()
            raise
        started.start(call, step, runtime.clock())
        return started
    finally:
        pop_leases(leases)


async def _hold_back(started: StartedStream) -> None:
    stream_state = started.stream_state
    async for item in started.opened.source:
        stream_state.fault = stream_state.hold_back(item)
        if stream_state.fault is not None or stream_state.may_begin:
            return
    started.is_over = True
    stream_state.fault = stream_state.ended_before()


class StreamSession(BaseStreamSession):
    """The one of asynchronous code."""

    __slots__ = ("_is_iterated",)

    def __init__(self, start: Callable[[], Suspended], pending: Any = None) -> None:
        super().__init__(start, pending)
        self._is_iterated = False

    @property
    def has_begun(self) -> bool:
        """Whether something is open that must be closed."""
        return (self._start is None or self._pending is not None) and not self.is_over

    async def started(self) -> StartedStream | None:
        """Return the stream that serves, which this waits for at first; None if the call is over."""
        if self._start is not None:
            call, steps, step, given = self._start_call()
            if type(step) is not Deliver:
                step, given = await advance(call, steps, step, pending=given, enters=True)
            self._deliver(step, given)
        return self._started_stream

    async def enter(self) -> Any:
        """Return what entering the manager gives: the guarded stream, or an answer of another kind."""
        self.is_entered = True
        try:
            started = await self.started()
            assert started is not None
            return (
                await present_when_started(self)
                if started.opened.is_stream
                else started.opened.stream
            )
        except BaseException:
            self.is_entered = False
            await self.finish()
            raise

    async def items(self) -> AsyncGenerator[Any, None]:
        """Give the items of the stream that serves, and of those that take its place.

        This is what a consumer iterates, so nothing is done for each item but counting it
        and keeping the last few, which tell whether the stream had come to its end.
        """
        error: BaseException | None = None
        self._is_iterated = True
        try:
            started = await self.started()
            while started is not None:
                stream_state = started.stream_state
                rest, sent, last, second, third = None, stream_state.items_sent, None, None, None
                try:
                    for item in started.preamble():
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
                started, error = await self._ended(started, error, (third, second, last)), None
        finally:
            error = item = rest = last = second = third = None
            await self.finish()

    async def stop(self) -> None:
        """End it because the consumer had enough."""
        generator = self._bound()
        if generator is not None:
            try:
                await generator.aclose()
            except (
                RuntimeError
            ):  # another task waits for an item: it is told by the closed connection
                await self._hang_up()
                return
        if not self.is_over and self._started_stream is not None:  # it was never asked for an item
            self._started_stream.stream_state.stopped_by_consumer = True
            with suppress(GeneratorExit):
                await self._ended(self._started_stream, GeneratorExit(), ())
        await self.finish()

    async def _hang_up(self) -> None:
        if self._started_stream is not None:
            self._started_stream.stream_state.stopped_by_consumer = True
            await self._started_stream.opened.abandon()

    async def leave(self, *error: Any) -> Any:
        """Leave the manager that the consumer had entered; return whether to swallow the error."""
        self.is_entered = False
        started, self._started_stream = self._started_stream, None
        return None if started is None else await started.opened.leave(*error)

    async def finish(self) -> None:
        """Let go of everything."""
        pending, self._pending = self._pending, None
        self._let_go()
        if pending is not None:
            await close(pending)
        started = self._started_stream
        if started is not None and self.is_entered:
            await started.opened.hang_up()  # whoever entered its manager will leave it
        elif started is not None:
            self._started_stream = None
            await abandon(started)

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
            self._let_go()
            spawn(lambda: close(pending))
            return
        if self._is_iterated:
            return  # its generator goes with it, and Python has the loop close that
        started, self._started_stream = self._started_stream, None
        if started is not None and self._steps is not None:
            started.stream_state.stopped_by_consumer = True
            self._steps.send(started.reply(runtime.clock(), GeneratorExit(), ()))
            spawn(started.opened.abandon)
        self._let_go()

    def _rest(self, started: StartedStream) -> Any:
        """Return what comes after the items that were held."""
        if started.is_over or not hasattr(started.opened.source, "__anext__"):
            return _each(() if started.is_over else started.opened.source)
        source = started.opened.source
        if started.timer is None and started.stream_state.policy.keep_text is None:
            return source
        return _timed(started)

    async def _ended(
        self, started: StartedStream, error: BaseException | None, last: tuple[Any, ...]
    ) -> StartedStream | None:
        """Tell the call flow how a stream ended; return the one that takes its place, if any."""
        assert self._call is not None
        assert self._steps is not None
        step = given = None
        try:
            step = self._steps.send(started.reply(runtime.clock(), error, last))
            if type(step) is Reraise:
                assert error is not None
                raise error
            if type(step) is Done:
                return None
            if not (
                self.is_entered and type(step) is Raise
            ):  # its manager is told by whoever entered it
                await abandon(started)
            step, given = await advance(self._call, self._steps, step, enters=True)
            return self._deliver(step, given)
        finally:
            error = step = given = None


async def _each(items: Iterable[Any]) -> AsyncGenerator[Any, None]:
    for item in items:
        yield item


async def _timed(started: StartedStream) -> AsyncGenerator[Any, None]:
    """Give the items of a stream whose pace or text matters."""
    source, timer, stream_state = started.opened.source, started.timer, started.stream_state
    counts = timer is not None and timer.counts_content
    limit: float | None = None
    item: Any = None
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
                with runtime.time.cancel_after(limit):
                    item = await source.__anext__()
                if item is CUT_OFF:
                    raise started.late()
        except StopAsyncIteration:
            return
        if timer is not None:
            waited = runtime.clock() - since
            if limit is not None and waited > limit:
                raise started.late()
            is_content = counts and stream_state.is_content(item)
            timer.received(waited, is_content=is_content)
            if is_content or not counts:
                started.waits_since = None
        stream_state.keep(item)
        yield item


class Items:
    """What a consumer of a stream iterates; the only thing that notices being dropped."""

    # A slot, so that Python finds the generator's own method there, without a call in between.
    __slots__ = ("__anext__", "__weakref__", "_flow")
    __anext__: Callable[[], Awaitable[Any]]

    def __init__(self, session: StreamSession, generator: Any) -> None:
        self._flow = session
        self.__anext__ = generator.__anext__

    def __aiter__(self) -> Items:
        return self

    def __del__(self) -> None:
        if self._flow.has_begun:
            self._flow.dropped()


class _BorrowedIterator:
    """Stands in an SDK's stream object for its iterator, and reads from the guarded items."""

    __slots__ = ("_generator",)

    def __init__(self, generator: weakref.ref[Any]) -> None:
        self._generator = generator

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        generator = self._generator()
        if generator is None:
            raise StopAsyncIteration
        return await generator.__anext__()

    async def aclose(self) -> None:
        generator = self._generator()
        if generator is not None:
            await generator.aclose()


StreamSession.borrowed = _BorrowedIterator


async def present_when_started(session: StreamSession) -> Any:
    """Return what the consumer gets of a stream that has begun: a proxy of it."""
    started = await session.started()
    assert started is not None
    return present(session, started.opened.stream)


def present(session: StreamSession, stream: Any = None) -> Any:
    """Return what the consumer gets: a proxy of the SDK's object, or of an asynchronous generator.

    Args:
        session: The call.
        stream: The SDK's object; None if the function is an asynchronous generator.
    """
    from resilient_llm._drive import proxies

    generator = session.items()
    session.bind(generator)
    if stream is None or isinstance(stream, AsyncGeneratorType):
        return proxies.AsyncStream(generator, session, generator)
    proxy = proxies.AsyncStream(stream, session, generator)
    session.shown_as(proxy)
    return proxy
