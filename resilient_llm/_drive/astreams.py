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

from resilient_llm._core.call.steps import Deliver, Done, LetThrough, Raise
from resilient_llm._core.circuit.permit import hold, let_go
from resilient_llm._drive.aio import CUT_OFF, abandon, advance
from resilient_llm._drive.results import Begun, intake_of, special
from resilient_llm._drive.session import AnyFlow, AnyOpened
from resilient_llm._drive.sync import is_awaitable
from resilient_llm._drive.tasks import spawn
from resilient_llm._runtime.runtime import runtime

if TYPE_CHECKING:
    import weakref
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

    from resilient_llm._core.call.call import Call
    from resilient_llm._core.call.steps import Try
    from resilient_llm._drive.results import Shape
    from resilient_llm._drive.session import Parts

_CLOSES_WITHIN: Final = 5.0
"""Seconds that closing a connection may take once nobody waits for it any more."""


class Opened(AnyOpened):
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


async def begin(call: Call, step: Try, value: Any, shape: Shape) -> Begun:
    """Take items until one has content, or until that is not worth waiting for.

    Raises:
        BaseException: Whatever the stream raised; it is closed then.
    """
    places = step.permit.places
    hold(places)
    try:
        stream = await special(value, "__aenter__")() if shape.is_manager else value
        opened = Opened(value, stream, is_managed=shape.is_manager)
        begun = Begun(opened, intake_of(call, step))
        try:
            if opened.is_stream:
                await _take(begun)
        except BaseException:
            await opened.abandon()
            raise
        begun.start(call, step, runtime.clock())
        return begun
    finally:
        let_go(places)


async def _take(begun: Begun) -> None:
    intake = begun.intake
    async for item in begun.opened.source:
        intake.wrong = intake.take(item)
        if intake.wrong is not None or intake.may_begin:
            return
    begun.is_over = True
    intake.wrong = intake.ended_before()


class Flow(AnyFlow):
    """The one of asynchronous code."""

    __slots__ = ("_is_iterated",)

    def __init__(self, start: Callable[[], Parts], pending: Any = None) -> None:
        super().__init__(start, pending)
        self._is_iterated = False

    @property
    def has_begun(self) -> bool:
        """Whether something is open that must be closed."""
        return (self._start is None or self._pending is not None) and not self.is_over

    async def begun(self) -> Begun | None:
        """Return the stream that serves, which this waits for at first; None if the call is over."""
        if self._start is not None:
            call, steps, step, given = self._started()
            if type(step) is not Deliver:
                step, given = await advance(call, steps, step, pending=given, enters=True)
            self._deliver(step, given)
        return self._begun

    async def enter(self) -> Any:
        """Return what entering the manager gives: the guarded stream, or an answer of another kind."""
        self.is_entered = True
        try:
            begun = await self.begun()
            assert begun is not None
            return await started(self) if begun.opened.is_stream else begun.opened.stream
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
            begun = await self.begun()
            while begun is not None:
                intake = begun.intake
                rest, sent, last, second, third = None, intake.items_sent, None, None, None
                try:
                    for item in begun.preamble():
                        sent += 1
                        third, second, last = second, last, item
                        try:
                            yield item
                        except BaseException:
                            intake.stopped = True
                            raise
                    rest = self._rest(begun)
                    async for item in rest:
                        sent += 1
                        third = second
                        second = last
                        last = item
                        try:
                            yield item
                        except BaseException:
                            intake.stopped = True
                            raise
                except BaseException as caught:  # noqa: BLE001  # the story judges it
                    error = caught
                intake.items_sent = sent
                if rest is not None and rest is not begun.opened.source:
                    await rest.aclose()
                begun, error = await self._ended(begun, error, (third, second, last)), None
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
        if not self.is_over and self._begun is not None:  # it was never asked for an item
            self._begun.intake.stopped = True
            with suppress(GeneratorExit):
                await self._ended(self._begun, GeneratorExit(), ())
        await self.finish()

    async def _hang_up(self) -> None:
        if self._begun is not None:
            self._begun.intake.stopped = True
            await self._begun.opened.abandon()

    async def leave(self, *error: Any) -> Any:
        """Leave the manager that the consumer had entered; return whether to swallow the error."""
        self.is_entered = False
        begun, self._begun = self._begun, None
        return None if begun is None else await begun.opened.leave(*error)

    async def finish(self) -> None:
        """Let go of everything."""
        pending, self._pending = self._pending, None
        self._let_go()
        if pending is not None:
            await close(pending)
        begun = self._begun
        if begun is not None and self.is_entered:
            await begun.opened.hang_up()  # whoever entered its manager will leave it
        elif begun is not None:
            self._begun = None
            await abandon(begun)

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
        begun, self._begun = self._begun, None
        if begun is not None and self._steps is not None:
            begun.intake.stopped = True
            self._steps.send(begun.told(runtime.clock(), GeneratorExit(), ()))
            spawn(begun.opened.abandon)
        self._let_go()

    def _rest(self, begun: Begun) -> Any:
        """Return what comes after the items that were held."""
        if begun.is_over or not hasattr(begun.opened.source, "__anext__"):
            return _each(() if begun.is_over else begun.opened.source)
        source = begun.opened.source
        if begun.pace is None and begun.intake.policy.keep_text is None:
            return source
        return _careful(begun)

    async def _ended(
        self, begun: Begun, error: BaseException | None, last: tuple[Any, ...]
    ) -> Begun | None:
        """Tell the story how a stream ended; return the one that takes its place, if any."""
        assert self._call is not None
        assert self._steps is not None
        step = given = None
        try:
            step = self._steps.send(begun.told(runtime.clock(), error, last))
            if type(step) is LetThrough:
                assert error is not None
                raise error
            if type(step) is Done:
                return None
            if not (
                self.is_entered and type(step) is Raise
            ):  # its manager is told by whoever entered it
                await abandon(begun)
            step, given = await advance(self._call, self._steps, step, enters=True)
            return self._deliver(step, given)
        finally:
            error = step = given = None


async def _each(items: Iterable[Any]) -> AsyncGenerator[Any, None]:
    for item in items:
        yield item


async def _careful(begun: Begun) -> AsyncGenerator[Any, None]:
    """Give the items of a stream whose pace or text matters."""
    source, pace, intake = begun.opened.source, begun.pace, begun.intake
    counts = pace is not None and pace.counts_content
    limit: float | None = None
    item: Any = None
    while True:
        since = runtime.clock()
        if pace is not None:
            limit = pace.patience(since)
            if begun.waits_since is None:
                begun.waits_since = since
        try:
            if limit is None:
                item = await source.__anext__()
            else:
                item = CUT_OFF
                with runtime.time.cancel_after(limit):
                    item = await source.__anext__()
                if item is CUT_OFF:
                    raise begun.late()
        except StopAsyncIteration:
            return
        if pace is not None:
            waited = runtime.clock() - since
            if limit is not None and waited > limit:
                raise begun.late()
            is_content = counts and intake.is_content(item)
            pace.came(waited, is_content=is_content)
            if is_content or not counts:
                begun.waits_since = None
        intake.keep(item)
        yield item


class Items:
    """What a consumer of a stream iterates; the only thing that notices being dropped."""

    # A slot, so that Python finds the generator's own method there, without a call in between.
    __slots__ = ("__anext__", "__weakref__", "_flow")
    __anext__: Callable[[], Awaitable[Any]]

    def __init__(self, flow: Flow, generator: Any) -> None:
        self._flow = flow
        self.__anext__ = generator.__anext__

    def __aiter__(self) -> Items:
        return self

    def __del__(self) -> None:
        if self._flow.has_begun:
            self._flow.dropped()


class _Lent:
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


Flow.lent = _Lent


async def started(flow: Flow) -> Any:
    """Return what the consumer gets of a stream that has begun: a proxy of it."""
    begun = await flow.begun()
    assert begun is not None
    return present(flow, begun.opened.stream)


def present(flow: Flow, stream: Any = None) -> Any:
    """Return what the consumer gets: a proxy of the SDK's object, or of an asynchronous generator.

    Args:
        flow: The call.
        stream: The SDK's object; None if the function is an asynchronous generator.
    """
    from resilient_llm._drive import proxies

    generator = flow.items()
    flow.bind(generator)
    if stream is None or isinstance(stream, AsyncGeneratorType):
        return proxies.AsyncStream(generator, flow, generator)
    proxy = proxies.AsyncStream(stream, flow, generator)
    flow.shown_as(proxy)
    return proxy
