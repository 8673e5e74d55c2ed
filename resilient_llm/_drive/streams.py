"""The session of a synchronous stream: delivers its items, restarts it, ends it.

How a stream gets from the target to the consumer, in synchronous and in asynchronous code:

    call flow --- Try --------> advance     makes the attempt (`sync`, `aio`)
        |                          |
        |                          v
        |                       begin       opens what the attempt gave: an OpenStream knows the
        |                          |        SDK's object and how to close it. Items are held back
        |                          |        until one has content: the StreamState holds them, the
        |                          |        ItemInspector looks at them (`opening`)
        |                          v
        +<-- Reply ----- StartedStream      with a StreamTimer if its items have limits
        |                          |
        +--- Deliver -> StreamSession       its items() is the one generator that the consumer reads
        |                          |
        |                       present     the consumer gets that generator, or a proxy of the
        |                          |        SDK's object whose own iterator is replaced by a
        |                          |        BorrowedIterator, which reads from items() as well
        |                          v
        +<-- Reply ------ end of items      Done and Reraise end the call. On any other step the
                                            session advances again, and items() goes on with the
                                            stream of the next target

The generator owns nothing. The session behind it closes what is open when the consumer has
dropped both the generator and the proxy, so that a consumer who just stops leaves no
connection behind.
"""

from __future__ import annotations

import weakref
from contextlib import suppress
from types import GeneratorType
from typing import TYPE_CHECKING, Any, cast

from resilient_llm._drive.opening import SYNC
from resilient_llm._drive.reads import Reads
from resilient_llm._drive.session import DROPPED, BaseStreamSession
from resilient_llm._drive.sync import advance, trim
from resilient_llm._drive.tasks import run_to_end
from resilient_llm._runtime import call_ids
from resilient_llm._runtime.runtime import runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from resilient_llm._core.call.call import Call
    from resilient_llm._core.call.steps import Step
    from resilient_llm._drive.opening import StartedStream
    from resilient_llm._drive.session import Suspended
    from resilient_llm._runtime.clock import Alarm


class StreamSession(BaseStreamSession):
    """One call whose answer is a synchronous stream. It ends when the consumer drops it."""

    __slots__ = ()

    def __init__(self, start: Suspended | Callable[[], Suspended]) -> None:
        super().__init__(SYNC, start)

    def started(self) -> StartedStream | None:
        """Return the current stream, after waiting for its first content; None if it is over."""
        return self._started_stream if self._start is None else run_to_end(self.astarted())

    def enter(self) -> Any:
        """Return what entering the manager gives: the guarded stream, or another answer."""
        return run_to_end(self.aenter())

    def leave(self, *error: Any) -> Any:
        """End the stream and leave its manager; return whether the error is to be swallowed."""
        return run_to_end(self.aleave(*error))

    def stop(self) -> None:
        """End the stream because the consumer reads no further."""
        run_to_end(self.astop())

    def __del__(self) -> None:
        if getattr(self, "is_over", True):  # missing if an interrupt came before it was made
            return
        self.is_entered = False
        if self._is_iterated:
            return  # its generator is collected with it, and knows its last items
        with suppress(Exception):  # Python would only print it
            self.stop()

    def present(self, stream: Any = None) -> Any:
        """Return what the consumer gets: the generator, or a proxy of the SDK's object.

        Args:
            stream: The SDK's object; None if the function is a generator, whose call starts when
                the first item is asked for.
        """
        generator = self.items()
        self._bind(generator)
        if stream is None or type(stream) is GeneratorType:
            return GuardedGenerator(generator, self)
        from resilient_llm._drive import proxies  # loads wrapt

        proxy = proxies.SyncStream(stream, self, generator)
        self._proxy = weakref.ref(proxy)
        return proxy

    def items(self) -> Generator[Any, None, None]:
        """Give the items of the stream, and of those that replace it after an interruption.

        The consumer iterates this, so all that is done for each item is to count it and to keep
        the last three, which show whether the stream was complete.
        """
        error: BaseException | None = None
        self._is_iterated = True
        try:
            started = self.started()
            while True:
                if started is None:
                    break
                stream_state = started.stream_state
                sent, last, second, third = stream_state.items_sent, None, None, None
                try:
                    for item in started.first_items():
                        sent += 1
                        third, second, last = second, last, item
                        try:
                            yield item
                        except BaseException:
                            stream_state.stopped_by_consumer = True
                            raise
                    # Not chained to the first items: a generator is iterated faster by itself.
                    for item in self._rest(started):
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
                started = run_to_end(self.aended(started, error, (third, second, last)))
                error = None
            if self._lent is not None:
                self._lent.is_over = True
        except Exception as caught:
            if not self._is_closing:
                trim(caught)
                raise
        finally:
            error = item = last = second = third = None
            run_to_end(self.afinish())

    def _rest(self, started: StartedStream) -> Any:
        """Return the items after those that were held back."""
        call_id = self.call_id
        items = _later_items(started)
        return items if call_id is None else _of_call(items, call_id)

    def _borrowed_iterator(self, generator: weakref.ref[Any], original: Any) -> BorrowedIterator:
        return BorrowedIterator(generator, original)

    async def _advance(self, step: Step, given: Any) -> tuple[Step, Any]:
        assert self._flow is not None
        # A step to advance from comes of a call flow, whose call is a Call.
        return advance(cast("Call", self._call), self._flow, step, pending=given, enters=True)

    async def _close_generator(self, generator: Any) -> bool:
        try:
            generator.close()
        except ValueError:  # it is being executed
            return False
        return True

    async def _close_elsewhere(self, generator: Any) -> None:
        from resilient_llm._runtime import watchdog

        if watchdog.is_inside(generator):  # a signal handler or a finaliser interrupts the reader
            if not await self._hang_up_elsewhere():
                raise ValueError("generator already executing")
            self._is_closing = True
            return
        self._is_closing = True

        def is_closed() -> bool:
            has_hung_up = run_to_end(self._hang_up_elsewhere())
            return run_to_end(self._close_generator(generator)) or has_hung_up

        if not watchdog.end_read_inside(generator, is_closed):
            raise ValueError("generator already executing")


def _later_items(started: StartedStream) -> Any:
    """Return the items after those that were held back."""
    if started.is_over:
        return ()
    items = _timed(started) if started.is_watched else started.opened.source
    for scope in started.opened.scopes:
        items = Reads(items, scope)
    within = started.opened.within
    if within is None:
        return items
    from resilient_llm._drive.contexts import ItemsWithin  # loaded with the first hedge

    return ItemsWithin(items, within)


def _of_call(items: Any, call_id: str) -> Generator[Any, None, None]:
    """Give items, of which each is asked for inside the call."""
    iterator = iter(items)
    while True:
        entered = call_ids.enter(call_id)
        try:
            item = next(iterator)
        except StopIteration:
            return
        finally:
            call_ids.leave(entered)
        yield item


def _timed(started: StartedStream) -> Generator[Any, None, None]:
    """Give the items of a stream that `StartedStream.is_watched`."""
    source, timer, stream_state = started.opened.source, started.timer, started.stream_state
    counts = timer is not None and timer.counts_content
    limit: float | None = None
    alarm = None if timer is None else runtime.time.alarm()
    try:
        while True:
            since = runtime.clock()
            if timer is not None and alarm is not None:
                limit = timer.next_timeout(since)
                if limit is not None and limit <= 0:
                    raise started.late()
                if limit is not None:
                    alarm.set(limit)
            try:
                item = next(source)
            except StopIteration:
                if alarm is not None and alarm.off() and limit is not None:
                    raise started.late() from None
                return
            except BaseException as error:
                if alarm is not None and limit is not None and _ended_by(alarm, error):
                    # The alarm's own exception may be one that an application's limit raises.
                    raise started.late() from None if alarm.raised(error) else error
                raise
            if timer is not None and alarm is not None:
                waited = runtime.clock() - since
                if alarm.off() or (limit is not None and waited > limit):
                    assert limit is not None
                    raise started.late()
                timer.received(waited, is_content=counts and stream_state.is_content(item))
            stream_state.note(item)
            yield item
    finally:
        if alarm is not None:
            alarm.close()


def _ended_by(alarm: Alarm, error: BaseException) -> bool:
    """Return whether a wait that raised this error was ended by its alarm, and turn that off."""
    return (alarm.off() and issubclass(type(error), Exception)) or alarm.raised(error)


class GuardedGenerator:
    """The generator of a stream's items, which another thread may close while it is read.

    ``for`` and ``yield from`` read the generator itself.
    """

    # A slot, so that Python finds the generator's own method there, without a call in between.
    __slots__ = ("__next__", "__weakref__", "_generator", "_session")
    __next__: Callable[[], Any]

    def __init__(self, generator: Generator[Any, None, None], session: StreamSession) -> None:
        self.__next__ = generator.__next__
        self._generator = generator
        self._session = session

    @property
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  # not set
        return GeneratorType  # `inspect` and frameworks see a generator

    def __iter__(self) -> Any:
        return self._generator

    def close(self) -> None:
        """End the stream, and a wait for its next item in another thread."""
        self._session.stop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)

    def __repr__(self) -> str:
        return repr(self._generator)


class BorrowedIterator:
    """Replaces the iterator of an SDK's stream object, and reads from the guarded items."""

    __slots__ = ("_generator", "_original", "is_over")

    def __init__(self, generator: weakref.ref[Any], original: Any) -> None:
        self._generator = generator
        self._original = original
        self.is_over = False

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        generator = self._generator()
        if generator is None:
            if self.is_over:
                raise StopIteration
            raise RuntimeError(DROPPED)
        if self._original is not None and generator.gi_running:
            return next(self._original)  # the guard reads, through the proxy of a tracer
        return next(generator)

    def close(self) -> None:
        generator = self._generator()
        if generator is not None:
            generator.close()
