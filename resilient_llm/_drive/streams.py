"""Streams in synchronous code: held back until the first content, then handed over.

What the consumer iterates is one plain generator, whatever the target gave. It owns nothing:
the `Flow` behind it closes what is open when the last of the two goes, so that a consumer
who just stops leaves no connection behind.
"""

from __future__ import annotations

from contextlib import suppress
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from resilient_llm._core.call.steps import Deliver, Done, LetThrough, Raise
from resilient_llm._core.circuit.permit import hold, let_go
from resilient_llm._drive.results import Begun, NoContentError, intake_of, no_content, special
from resilient_llm._drive.session import AnyFlow, AnyOpened
from resilient_llm._drive.sync import advance
from resilient_llm._runtime.runtime import runtime

if TYPE_CHECKING:
    import weakref
    from collections.abc import Generator
    from types import TracebackType

    from resilient_llm._core.call.call import Call
    from resilient_llm._core.call.steps import Try
    from resilient_llm._drive.results import Shape


class Watch:
    """The limit of an attempt until its first content.

    A context manager: what an attempt that was cut off made of it leaves as a `NoContentError`.
    """

    __slots__ = ("_alarm", "_ends_at", "_limit")

    def __init__(self, step: Try) -> None:
        assert step.limit is not None
        self._limit = step.limit
        self._ends_at = step.permit.entered_at + step.limit
        self._alarm = runtime.time.alarm()

    def __enter__(self) -> Watch:
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


class Opened(AnyOpened):
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


def begin(call: Call, step: Try, value: Any, shape: Shape, watch: Watch | None) -> Begun:
    """Take items until one has content, or until that is not worth waiting for.

    Raises:
        BaseException: Whatever the stream raised; it is closed then.
    """
    places = step.permit.places
    hold(places)
    try:
        stream = special(value, "__enter__")() if shape.is_manager else value
        opened = Opened(value, stream, is_managed=shape.is_manager)
        begun = Begun(opened, intake_of(call, step))
        try:
            if opened.is_stream:
                _take(begun, watch)
        except BaseException:
            opened.abandon()
            raise
        begun.start(call, step, runtime.clock())
        return begun
    finally:
        let_go(places)


def _take(begun: Begun, watch: Watch | None) -> None:
    intake = begun.intake
    for item in begun.opened.source:
        if watch is not None:
            watch.check()
        intake.wrong = intake.take(item)
        if intake.wrong is not None or intake.may_begin:
            return
    if watch is not None:
        watch.check()
    begun.is_over = True
    intake.wrong = intake.ended_before()


class Flow(AnyFlow):
    """The one of synchronous code."""

    __slots__ = ()

    def begun(self) -> Begun | None:
        """Return the stream that serves, which this waits for at first; None if the call is over."""
        if self._start is not None:
            call, steps, step, given = self._started()
            if type(step) is not Deliver:
                step, given = advance(call, steps, step, pending=given, enters=True)
            self._deliver(step, given)
        return self._begun

    def enter(self) -> Any:
        """Return what entering the manager gives: the guarded stream, or an answer of another kind."""
        self.is_entered = True
        try:
            begun = self.begun()
        except BaseException:
            self.finish()
            raise
        assert begun is not None
        return present(self) if begun.opened.is_stream else begun.opened.stream

    def items(self) -> Generator[Any, None, None]:
        """Give the items of the stream that serves, and of those that take its place.

        This is what a consumer iterates, so nothing is done for each item but counting it
        and keeping the last few, which tell whether the stream had come to its end.
        """
        error: BaseException | None = None
        try:
            begun = self.begun()
            while begun is not None:
                intake = begun.intake
                sent, last, second, third = intake.items_sent, None, None, None
                try:
                    for item in begun.preamble():
                        sent += 1
                        third, second, last = second, last, item
                        try:
                            yield item
                        except BaseException:
                            intake.stopped = True
                            raise
                    # Not chained to what came before: a generator is iterated faster by itself.
                    for item in self._rest(begun):
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
                begun, error = self._ended(begun, error, (third, second, last)), None
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
        if not self.is_over and self._begun is not None:  # it was never asked for an item
            self._begun.intake.stopped = True
            with suppress(GeneratorExit):
                self._ended(self._begun, GeneratorExit(), ())
        self.finish()

    def _hang_up(self) -> None:
        if self._begun is not None:
            self._begun.intake.stopped = True
            self._begun.opened.abandon()

    def leave(self, *error: Any) -> Any:
        """Leave the manager that the consumer had entered; return whether to swallow the error."""
        self.is_entered = False
        begun, self._begun = self._begun, None
        return None if begun is None else begun.opened.leave(*error)

    def finish(self) -> None:
        """Let go of everything."""
        self._let_go()
        begun = self._begun
        if begun is not None and self.is_entered:
            begun.opened.hang_up()  # whoever entered its manager will leave it
        elif begun is not None:
            self._begun = None
            begun.opened.abandon()

    def __del__(self) -> None:
        if not self.is_over:
            self.is_entered = False
            with suppress(Exception):  # nobody is there to be told
                self.stop()

    def _rest(self, begun: Begun) -> Any:
        """Return what comes after the items that were held."""
        if begun.is_over:
            return ()
        if begun.pace is None and begun.intake.policy.keep_text is None:
            return begun.opened.source
        return _careful(begun)

    def _ended(
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
                begun.opened.abandon()
            step, given = advance(self._call, self._steps, step, enters=True)
            return self._deliver(step, given)
        finally:
            error = step = given = None


def _careful(begun: Begun) -> Generator[Any, None, None]:
    """Give the items of a stream whose pace or text matters."""
    source, pace, intake = begun.opened.source, begun.pace, begun.intake
    counts = pace is not None and pace.counts_content
    limit: float | None = None
    alarm = None if pace is None else runtime.time.alarm()
    try:
        while True:
            since = runtime.clock()
            if pace is not None and alarm is not None:
                limit = pace.patience(since)
                if limit is not None and limit <= 0:
                    raise begun.late()
                if limit is not None:
                    alarm.set(limit)
            try:
                item = next(source)
            except StopIteration:
                if alarm is not None and alarm.off() and limit is not None:
                    raise begun.late() from None
                return
            except Exception as error:
                if alarm is not None and alarm.off() and limit is not None:
                    raise begun.late() from error
                raise
            if pace is not None and alarm is not None:
                waited = runtime.clock() - since
                if alarm.off() or (limit is not None and waited > limit):
                    assert limit is not None
                    raise begun.late()
                pace.came(waited, is_content=counts and intake.is_content(item))
            intake.keep(item)
            yield item
    finally:
        if alarm is not None:
            alarm.close()


class _Lent:
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


Flow.lent = _Lent


def lazily(flow: Flow) -> Generator[Any, None, None]:
    """Return the items of a call that is made when the first of them is asked for."""
    generator = flow.items()
    flow.bind(generator)
    return generator


def present(flow: Flow) -> Any:
    """Return what the consumer gets of a stream that has begun: a generator, or a proxy of the SDK's object."""
    begun = flow.begun()
    assert begun is not None
    generator = lazily(flow)
    if isinstance(begun.opened.stream, GeneratorType):
        return generator
    from resilient_llm._drive import proxies

    proxy = proxies.SyncStream(begun.opened.stream, flow, generator)
    flow.shown_as(proxy)
    return proxy
