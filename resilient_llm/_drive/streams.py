"""Streams in synchronous code: held back until the first content, then handed over.

What the consumer iterates is one plain generator, whatever the target gave. It owns nothing:
the `Flow` behind it closes what is open when the last of the two goes, so that a consumer
who just stops leaves no connection behind.
"""

from __future__ import annotations

from contextlib import suppress
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from resilient_llm._core.call.steps import Deliver, Done, Raise, Reraise
from resilient_llm._core.circuit.permit import pop_leases, push_leases
from resilient_llm._drive.results import (
    NoContentError,
    StartedStream,
    no_content,
    special,
    stream_state_of,
)
from resilient_llm._drive.session import BaseOpenStream, BaseStreamSession
from resilient_llm._drive.sync import advance
from resilient_llm._runtime.runtime import runtime

if TYPE_CHECKING:
    import weakref
    from collections.abc import Generator
    from types import TracebackType

    from resilient_llm._core.call.call import Call
    from resilient_llm._core.call.steps import Try
    from resilient_llm._drive.results import ResultKind


class FirstContentTimeout:
    """The limit of an attempt until its first content.

    A context manager: what an attempt that was cut off made of it leaves as a `NoContentError`.
    """

    __slots__ = ("_alarm", "_ends_at", "_limit")

    def __init__(self, step: Try) -> None:
        assert step.limit is not None
        self._limit = step.limit
        self._ends_at = step.permit.entered_at + step.limit
        self._alarm = runtime.time.alarm()

    def __enter__(self) -> FirstContentTimeout:
        self._alarm.set(self._ends_at - runtime.clock())
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        was_over = self._alarm.off()
        self._alarm.close()
        if was_over and isinstance(error, Exception) and not isinstance(error, NoContentError):
            raise no_content(self._limit) from error

    def check(self) -> None:
        """Raise NoContentError if the limit has passed: for waits that could not be ended."""
        if self._alarm.is_over or runtime.clock() > self._ends_at:
            raise no_content(self._limit)


class OpenStream(BaseOpenStream):
    """The one of synchronous code."""

    __slots__ = ()
    starts = "__iter__"
    reads = "__next__"

    def leave(self, *error: Any) -> Any:
        """Close it as ``with`` does; return whether the error is to be swallowed."""
        if self._is_closed:
            return None
        self._is_closed = True
        self.hang_up()
        if self.is_managed:
            return special(self.value, "__exit__")(*(error or (None, None, None)))
        return None

    def hang_up(self) -> None:
        """Close the stream, and not its manager."""
        for each in (self.source, self.stream):
            with suppress(Exception):  # closing is best effort: the call has moved on
                each.close()

    def abandon(self) -> None:
        """Close it whatever comes of that, since the call has moved on."""
        with suppress(Exception):
            self.leave()


def begin(
    call: Call,
    step: Try,
    value: Any,
    kind: ResultKind,
    first_content_timeout: FirstContentTimeout | None,
) -> StartedStream:
    """Take items until one has content, or until that is not worth waiting for.

    Raises:
        BaseException: Whatever the stream raised; it is closed then.
    """
    leases = step.permit.leases
    push_leases(leases)
    try:
        stream = special(value, "__enter__")() if kind.is_manager else value
        opened = OpenStream(value, stream, is_managed=kind.is_manager)
        started = StartedStream(opened, stream_state_of(call, step))
        try:
            if opened.is_stream:
                _hold_back(started, first_content_timeout)
        except BaseException:
            opened.abandon()
            raise
        started.start(call, step, runtime.clock())
        return started
    finally:
        pop_leases(leases)


def _hold_back(started: StartedStream, first_content_timeout: FirstContentTimeout | None) -> None:
    stream_state = started.stream_state
    for item in started.opened.source:
        if first_content_timeout is not None:
            first_content_timeout.check()
        stream_state.fault = stream_state.hold_back(item)
        if stream_state.fault is not None or stream_state.may_begin:
            return
    if first_content_timeout is not None:
        first_content_timeout.check()
    started.is_over = True
    stream_state.fault = stream_state.ended_before()


class StreamSession(BaseStreamSession):
    """The one of synchronous code."""

    __slots__ = ()

    def started(self) -> StartedStream | None:
        """Return the stream that serves, which this waits for at first; None if the call is over."""
        if self._start is not None:
            call, steps, step, given = self._start_call()
            if type(step) is not Deliver:
                step, given = advance(call, steps, step, pending=given, enters=True)
            self._deliver(step, given)
        return self._started_stream

    def enter(self) -> Any:
        """Return what entering the manager gives: the guarded stream, or an answer of another kind."""
        self.is_entered = True
        try:
            started = self.started()
        except BaseException:
            self.finish()
            raise
        assert started is not None
        return present(self) if started.opened.is_stream else started.opened.stream

    def items(self) -> Generator[Any, None, None]:
        """Give the items of the stream that serves, and of those that take its place.

        This is what a consumer iterates, so nothing is done for each item but counting it
        and keeping the last few, which tell whether the stream had come to its end.
        """
        error: BaseException | None = None
        try:
            started = self.started()
            while started is not None:
                stream_state = started.stream_state
                sent, last, second, third = stream_state.items_sent, None, None, None
                try:
                    for item in started.preamble():
                        sent += 1
                        third, second, last = second, last, item
                        try:
                            yield item
                        except BaseException:
                            stream_state.stopped_by_consumer = True
                            raise
                    # Not chained to what came before: a generator is iterated faster by itself.
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
                started, error = self._ended(started, error, (third, second, last)), None
        finally:
            error = item = last = second = third = None
            self.finish()

    def stop(self) -> None:
        """End it because the consumer had enough."""
        generator = self._bound()
        if generator is not None:
            try:
                generator.close()
            except (
                ValueError
            ):  # another thread waits for an item: it is told by the closed connection
                self._hang_up()
                return
        if not self.is_over and self._started_stream is not None:  # it was never asked for an item
            self._started_stream.stream_state.stopped_by_consumer = True
            with suppress(GeneratorExit):
                self._ended(self._started_stream, GeneratorExit(), ())
        self.finish()

    def _hang_up(self) -> None:
        if self._started_stream is not None:
            self._started_stream.stream_state.stopped_by_consumer = True
            self._started_stream.opened.abandon()

    def leave(self, *error: Any) -> Any:
        """Leave the manager that the consumer had entered; return whether to swallow the error."""
        self.is_entered = False
        started, self._started_stream = self._started_stream, None
        return None if started is None else started.opened.leave(*error)

    def finish(self) -> None:
        """Let go of everything."""
        self._let_go()
        started = self._started_stream
        if started is not None and self.is_entered:
            started.opened.hang_up()  # whoever entered its manager will leave it
        elif started is not None:
            self._started_stream = None
            started.opened.abandon()

    def __del__(self) -> None:
        if not self.is_over:
            self.is_entered = False
            with suppress(Exception):  # nobody is there to be told
                self.stop()

    def _rest(self, started: StartedStream) -> Any:
        """Return what comes after the items that were held."""
        if started.is_over:
            return ()
        if started.timer is None and started.stream_state.policy.keep_text is None:
            return started.opened.source
        return _timed(started)

    def _ended(
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
                started.opened.abandon()
            step, given = advance(self._call, self._steps, step, enters=True)
            return self._deliver(step, given)
        finally:
            error = step = given = None


def _timed(started: StartedStream) -> Generator[Any, None, None]:
    """Give the items of a stream whose pace or text matters."""
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
            except Exception as error:
                if alarm is not None and alarm.off() and limit is not None:
                    raise started.late() from error
                raise
            if timer is not None and alarm is not None:
                waited = runtime.clock() - since
                if alarm.off() or (limit is not None and waited > limit):
                    assert limit is not None
                    raise started.late()
                timer.received(waited, is_content=counts and stream_state.is_content(item))
            stream_state.keep(item)
            yield item
    finally:
        if alarm is not None:
            alarm.close()


class _BorrowedIterator:
    """Stands in an SDK's stream object for its iterator, and reads from the guarded items."""

    __slots__ = ("_generator",)

    def __init__(self, generator: weakref.ref[Any]) -> None:
        self._generator = generator

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        generator = self._generator()
        if generator is None:
            raise StopIteration
        return next(generator)

    def close(self) -> None:
        generator = self._generator()
        if generator is not None:
            generator.close()


StreamSession.borrowed = _BorrowedIterator


def lazily(session: StreamSession) -> Generator[Any, None, None]:
    """Return the items of a call that is made when the first of them is asked for."""
    generator = session.items()
    session.bind(generator)
    return generator


def present(session: StreamSession) -> Any:
    """Return what the consumer gets of a stream that has begun: a generator, or a proxy of the SDK's object."""
    started = session.started()
    assert started is not None
    generator = lazily(session)
    if isinstance(started.opened.stream, GeneratorType):
        return generator
    from resilient_llm._drive import proxies

    proxy = proxies.SyncStream(started.opened.stream, session, generator)
    session.shown_as(proxy)
    return proxy
