"""`@breaker(name)`: a function with a fresh guard around every call, and around its stream.

Results and errors leave unchanged; errors are classified and counted. No item of a stream is
held back. A stream that breaks off without an error counts as a failure, and for its consumer
it just ends.
"""

from __future__ import annotations

import functools
import inspect
from types import CodeType, GeneratorType
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from resilient_llm._core.call.steps import RERAISE, Deliver, Done, Reply, Step
from resilient_llm._core.circuit.permit import pop_permit, push_permit
from resilient_llm._core.memory_pressure import as_configured
from resilient_llm._core.stream.stream_state import StreamState
from resilient_llm._drive.cancellation import was_cancelled
from resilient_llm._drive.opening import SYNC, OpenStream, StartedStream
from resilient_llm._drive.results import is_awaitable, kind_of, refuse_unawaited
from resilient_llm._drive.sources import Sources
from resilient_llm._drive.tasks import current_task
from resilient_llm._runtime.answered_headers import hear_if_any
from resilient_llm._runtime.classify import classify
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values import event_names
from resilient_llm._values.built_in import class_name
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.stream_policy import DEFAULT

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
    from types import TracebackType

    from resilient_llm._core.call.call_flow import CallFlow
    from resilient_llm._core.call.hooks import CallHook
    from resilient_llm._core.circuit.permit import Permit
    from resilient_llm._drive.results import ResultKind
    from resilient_llm._drive.session import Suspended


class Guard(Protocol):
    """A guard as `breaker` makes it."""

    def __enter__(self) -> Guard: ...
    async def __aenter__(self) -> Guard: ...
    @property
    def enters_at_once(self) -> bool: ...
    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...
    def again(self) -> Guard: ...
    @property
    def name(self) -> str: ...
    def taken(self) -> Permit: ...


def guarded(guard: Guard, fn: Any) -> Any:
    """Return the function with a fresh guard around every call.

    Raises:
        ConfigurationError: If it is no function, method or callable object.
    """
    # Not by `isinstance`, which asks a foreign object for its class.
    cls = cast("type[object]", type(fn))
    if issubclass(cls, (classmethod, staticmethod)):
        wrapped = guarded(guard, fn.__func__)
        return classmethod(wrapped) if issubclass(cls, classmethod) else staticmethod(wrapped)
    if not callable(fn) or issubclass(cls, type):
        name = getattr(fn, "__name__", cls.__name__)
        raise ConfigurationError(
            f"{name} cannot be guarded: decorate a function, a method or a callable object"
        )
    inner: Any = fn
    while issubclass(type(inner), functools.partial):
        inner = inner.func
    if not _is_routine(inner):
        inner = type(inner).__call__
    fresh = guard.again
    if inspect.iscoroutinefunction(inner):
        return _guarded_coroutine(fn, fresh)
    if inspect.isasyncgenfunction(inner):
        return _guarded_asyncgen(fn, fresh)
    if inspect.isgeneratorfunction(inner):
        return _guarded_generator(fn, lambda: fresh().__enter__())
    return _guarded_function(fn, fresh)


_HERE: Final = guarded.__code__.co_filename


def is_guarded(fn: Any) -> bool:
    """Return whether a function, or that of a method, is what `guarded` has made."""
    code: Any = getattr(fn, "__code__", None)
    return type(code) is CodeType and (code.co_filename, code.co_name) == (_HERE, "wrapper")


def _is_routine(value: object) -> bool:
    try:
        return inspect.isroutine(value)
    except Exception:  # noqa: BLE001  # it asks an object for its class, and for its members
        return False


def _guarded_coroutine(fn: Any, fresh: Callable[[], Guard]) -> Any:
    @functools.wraps(fn)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        guard = fresh()
        guard = guard.__enter__() if guard.enters_at_once else await guard.__aenter__()
        return await _awaited(guard, fn(*args, **kwargs))

    return wrapper


async def _entered(guard: Guard) -> Guard:
    return guard.__enter__() if guard.enters_at_once else await guard.__aenter__()


def _guarded_function(fn: Any, fresh: Callable[[], Guard]) -> Any:
    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        guard = fresh().__enter__()
        try:
            result = fn(*args, **kwargs)
        except BaseException as error:
            guard.__exit__(type(error), error, None)
            raise
        # What came back decides how long the guard is needed.
        if is_awaitable(result) or _is_old_coroutine(result):
            return _awaited(guard, result)
        kind = kind_of(result)
        if kind is not None:
            return _guarded_stream(guard, result, kind, is_awaited=False)
        guard.__exit__(None, None, None)
        return result

    return wrapper


def _is_old_coroutine(result: object) -> bool:
    """Return whether it is a coroutine of a generator function under ``types.coroutine``."""
    return type(result) is GeneratorType and bool(
        cast("Any", result).gi_code.co_flags & inspect.CO_ITERABLE_COROUTINE
    )


async def _awaited(guard: Guard, result: Any) -> Any:
    try:
        value = await result
        refuse_unawaited(value, guard.name)
    except BaseException as error:
        guard.__exit__(type(error), error, None)
        raise
    kind = kind_of(value)
    if kind is not None:
        return _guarded_stream(guard, value, kind, is_awaited=True)
    guard.__exit__(None, None, None)
    return value


def _guarded_stream(guard: Guard, stream: Any, kind: ResultKind, *, is_awaited: bool) -> Any:
    """Return a stream, or a manager of one, that is guarded until it ends."""
    if kind.is_manager:
        from resilient_llm._drive import managers  # loads wrapt

        return managers.GuardedManager(
            stream, guard, lambda opened: _suspended(GuardedStream(guard), opened)
        )
    if not kind.is_either:
        return _read_stream(GuardedStream(guard), stream, kind, is_async=kind.async_items)
    if is_awaited:
        return _read_stream(GuardedStream(guard), stream, kind, is_async=True)
    if current_task() is None:
        return _read_stream(GuardedStream(guard), stream, kind, is_async=False)
    from resilient_llm._drive import proxies  # loads wrapt

    guarded_stream = GuardedStream(guard)
    return proxies.EitherStream(
        stream, lambda is_async: _read_stream(guarded_stream, stream, kind, is_async=is_async)
    )


def _read_stream(
    guarded_stream: GuardedStream, stream: Any, kind: ResultKind, *, is_async: bool
) -> Any:
    """Return a guarded stream that the consumer reads by ``for`` or by ``async for``."""
    if not is_async:
        from resilient_llm._drive import streams  # loaded with the first stream

        opened = OpenStream(SYNC, stream, stream, kind, is_managed=False)
        session = streams.StreamSession(_suspended(guarded_stream, opened))
        session.started()
        return session.present(stream)
    from resilient_llm._drive import aopening, astreams  # load anyio

    opened = OpenStream(aopening.ASYNC, stream, stream, kind, is_managed=False)
    suspended = _suspended(guarded_stream, opened)
    return astreams.StreamSession(suspended, stream).present(stream)


class _GuardedCall:
    """What a session needs of its call, where there is only a breaker; see `StreamedCall`."""

    def __init__(self) -> None:
        self.delivered: StreamState | None = None
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}
        self.hook: CallHook | None = None

    def clear(self) -> None:
        self.delivered = None


def _suspended(guarded_stream: GuardedStream, opened: OpenStream) -> Suspended:
    """Return the suspended call of a stream that has begun, since nothing of it is held back."""
    from resilient_llm._drive.session import Suspended  # loaded with the first stream

    flow = _breaker_flow(guarded_stream)
    started = StartedStream(opened, StreamState(DEFAULT, runtime.item_inspector()))
    started.began_at = runtime.clock()
    started.note_sources()
    guarded_stream.record_first_content()
    return Suspended(_GuardedCall(), flow, next(flow), started)


def _breaker_flow(guarded_stream: GuardedStream) -> CallFlow:
    """Deliver a stream, and report to the circuit how it ended; no error is replaced."""
    reply: Reply | None = None
    delivery = Deliver(restarts=False, settle=guarded_stream.settle)
    try:
        reply = yield delivery
        step = guarded_stream.settle(reply)
        reply = None
        yield step
    finally:
        reply = None
        delivery.is_closed = True
        guarded_stream.give_back()


class GuardedStream:
    """A stream inside an entered breaker: what has come of it, and the one report of that.

    Attributes:
        lends: Whether the attempt holds leases, which guards inside the stream's code borrow.
        has_content: Whether an item with content was seen.
        response_time: Seconds to the first content, or to the stream's object: what is
            compared with ``slow_call``.
        quiet_since: Since when the stream has given no content, monotonic seconds; None if
            that is not known.
    """

    def __init__(self, guard: Guard) -> None:
        # From here on only the stream is inside the breaker, and not the consumer's own code.
        self._permit: Permit | None = guard.taken()
        self._lender = self._permit
        self.lends = self._permit.matters_inside
        self._stream_state = StreamState(DEFAULT, runtime.item_inspector(), is_selected=True)
        self._sources: Sources | None = None
        self.has_content = False
        self.response_time: float | None = None
        self.quiet_since: float | None = None

    def inspect(self, item: Any, generator: Any) -> None:
        """Note whether an item of a generator has content; called for each until one has."""
        if self._sources is None or not self._sources.found:
            self._sources = Sources(generator, is_decorated=True)
        self.has_content = self._stream_state.is_content(item)
        if self.has_content:
            self.record_first_content()

    def record_first_content(self) -> None:
        """Note how long the first content took."""
        if self._permit is not None:
            self.response_time = runtime.clock() - self._permit.entered_at

    def with_leases(self, step: Callable[..., Any], *given: Any) -> Any:
        """Run the stream's own code, with the leases known to guards inside it."""
        push_permit(self._lender)
        try:
            return step(*given)
        finally:
            pop_permit(self._lender)

    async def awith_leases(self, step: Callable[..., Awaitable[Any]], *given: Any) -> Any:
        """Do the same with asynchronous code."""
        push_permit(self._lender)
        try:
            return await step(*given)
        finally:
            pop_permit(self._lender)

    def ended(self, *last: Any) -> None:
        """Report a stream that ended by itself, after these items."""
        self._stream_state.left_early = self._sources is None or self._sources.are_left_early
        self._stream_state.fault = self._stream_state.ended_after(
            item for item in last if item is not None
        )
        self.report(None, self._stream_state)

    def settle(self, reply: Reply) -> Step:
        """Report how a stream ended that a session has delivered."""
        stream, error = reply.stream, reply.error
        assert stream is not None
        self.has_content = stream.has_content
        self.quiet_since = stream.quiet_since
        self.report(
            GeneratorExit() if stream.stopped_by_consumer else error,
            stream,
            cancelled=reply.cancelled,
        )
        return Done(None) if error is None else RERAISE

    def give_back(self) -> None:
        """Give back what the permit holds. The stream may still be reported."""
        if self._permit is not None:
            self._permit.abandoned()

    def report(
        self,
        error: BaseException | None,
        stream: StreamState | None,
        *,
        cancelled: bool = False,
    ) -> None:
        """Report to the circuit how the stream ended, once.

        Args:
            error: What ended it, or None.
            stream: Its state, whose fault counts if there is no error; None without one.
            cancelled: Whether it was cancelled, and raised this error instead.
        """
        permit, self._permit = self._permit, None
        if permit is None:
            return
        now = runtime.clock()
        if error is None and stream is not None and stream.fault is not None:
            mode = runtime.settings.on_memory_pressure
            permit.failed(None, now, as_configured(stream.fault, mode))
        elif error is None or (type(error) is GeneratorExit and self.has_content):
            permit.succeeded(now, now - permit.entered_at, self.response_time)
        elif type(error) is GeneratorExit:
            permit.abandoned()  # a consumer that stops reading says nothing about the provider
        else:
            self._failed(permit, error, now, cancelled=cancelled)

    def _failed(self, permit: Permit, error: BaseException, now: float, *, cancelled: bool) -> None:
        hear_if_any(error, permit.circuit.key, permit.entered_at, permit.held)
        verdict = classify(error)
        if cancelled or verdict.kind is ErrorKind.CANCELLED:
            # The clock is not read for each item: the last content may have come just now.
            quiet_since = now if self.quiet_since is None else self.quiet_since
            permit.cancelled(
                now,
                quiet_since=quiet_since if self.has_content else None,
                response_time=self.response_time,
            )
            return
        permit.failed(error, now, verdict)
        if verdict.kind is ErrorKind.UNKNOWN:
            permit.circuit.emit(
                event_names.UnknownError,
                now,
                type_name=class_name(type(error)),
                status=verdict.status,
            )


def _guarded_generator(fn: Any, entered: Callable[[], Guard]) -> Any:
    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        guarded_stream = GuardedStream(entered())
        last = second = third = None
        try:
            stream: Generator[Any, Any, Any] = fn(*args, **kwargs)
            send = (
                functools.partial(guarded_stream.with_leases, stream.send)
                if guarded_stream.lends
                else stream.send
            )
            item = send(None)
            while True:
                third = second
                second = last
                last = item
                if not guarded_stream.has_content:
                    guarded_stream.inspect(item, stream)
                try:
                    sent = yield item
                except GeneratorExit:
                    stream.close()
                    raise
                except BaseException as thrown:  # noqa: BLE001  # by the consumer, for the stream to handle
                    item = guarded_stream.with_leases(stream.throw, thrown)
                else:
                    item = send(sent)
        except StopIteration as end:
            guarded_stream.ended(third, second, last)
            return end.value
        except BaseException as error:
            guarded_stream.report(error, None)
            raise

    return wrapper


def _guarded_asyncgen(fn: Any, fresh: Callable[[], Guard]) -> Any:
    @functools.wraps(fn)
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        guarded_stream = GuardedStream(await _entered(fresh()))
        last = second = third = None
        try:
            stream: AsyncGenerator[Any, Any] = fn(*args, **kwargs)
            send = (
                functools.partial(guarded_stream.awith_leases, stream.asend)
                if guarded_stream.lends
                else stream.asend
            )
            item = await send(None)
            while True:
                third = second
                second = last
                last = item
                if not guarded_stream.has_content:
                    guarded_stream.inspect(item, stream)
                try:
                    sent = yield item
                except GeneratorExit:
                    await stream.aclose()
                    raise
                except BaseException as thrown:  # noqa: BLE001  # by the consumer, for the stream to handle
                    item = await guarded_stream.awith_leases(stream.athrow, thrown)
                else:
                    item = await send(sent)
        except StopAsyncIteration:
            guarded_stream.ended(third, second, last)
        except BaseException as error:
            guarded_stream.report(error, None, cancelled=was_cancelled(error))
            raise

    return wrapper
