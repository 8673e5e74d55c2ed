"""`observe` and `events`: subscribe a function, or an ``async for``, to events."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from resilient_llm._drive.tasks import waker
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values import checks as check
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.events import Event
from resilient_llm._values.exported import exported

E = TypeVar("E", bound=Event)
E2 = TypeVar("E2", bound=Event)


@overload
def observe(callback: Callable[[Event], object], /) -> Callable[[], None]: ...
@overload
def observe(callback: Callable[[E], object], type_: type[E], /) -> Callable[[], None]: ...
@overload
def observe(
    callback: Callable[[E | E2], object], type_: type[E], other: type[E2], /
) -> Callable[[], None]: ...
@overload
def observe(callback: Callable[[Any], object], /, *types: type[Event]) -> Callable[[], None]: ...
def observe(callback: Callable[[Any], object], /, *types: type[Event]) -> Callable[[], None]:
    """Call a function with every event of the given types, or of all types if none is given.

    The function runs after the event, outside of every lock, on a thread that emits events, and
    in order for each key. While it runs, later events of the key wait for it, at most 1,000 of
    them; calls and other observers do not wait. An observer that raises is logged once and does
    not affect the call; only KeyboardInterrupt and SystemExit are raised to the caller.

    If a module is loaded again, its function replaces the one that it registered before, and to
    end that older subscription does nothing. Closures, lambdas and methods are not replaced.

    Examples:
        >>> stop = observe(lambda event: alert(event.target, event.reason), TargetBenched)
        >>> stop()  # no more events

    Args:
        callback: A plain function, not async, that takes one event.
        *types: Types of events.

    Returns:
        A function that ends the subscription.

    Raises:
        ConfigurationError: If it is not a plain function, or a type is not a type of event.
    """
    if not callable(callback) or check.is_async(callback):
        raise ConfigurationError(
            "observe() takes a plain function: for async code write `async with events() as stream`"
        )
    check.event_types(types)
    return _subscribe(callback, types)


def _subscribe(
    callback: Callable[[Any], object],
    types: tuple[type[Event], ...],
    after_fork: Callable[[], object] | None = None,
) -> Callable[[], None]:
    listeners = runtime.dispatcher.listeners
    subscription = listeners.subscribe(callback, types, after_fork)
    runtime.unbind_all()

    def stop() -> None:
        listeners.unsubscribe(subscription)
        runtime.unbind_all()

    return stop


@exported
class EventStream:
    """Events for async code; made by `events`.

    Several consumers may iterate over it, also in several event loops; each event goes to one
    of them. All of them end when the ``async with`` block is left.

    Attributes:
        dropped: How many of the oldest events gave way to newer ones because the consumers
            were too slow.
    """

    dropped: int

    def __init__(self, types: tuple[type[Event], ...], buffer: int) -> None:
        self.dropped = 0
        self._types = types
        # Reentrant: a signal handler or a finaliser may emit an event in the midst of it.
        self._lock = threading.RLock()
        self._buffer: deque[Event] = deque(maxlen=buffer)
        self._waiting: deque[_Waiter] = deque()
        """Consumers that wait, each until it is woken once."""
        self._stop: Callable[[], None] | None = None

    async def __aenter__(self) -> Self:
        self._stop = _subscribe(self._put, self._types, self._after_fork)
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        stop, self._stop = self._stop, None
        if stop is not None:
            stop()
        with self._lock:
            self._buffer.clear()
            waiting, self._waiting = self._waiting, deque()
        for waiter in waiting:
            waiter.wake()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while True:
            with self._lock:
                if self._stop is None:
                    raise StopAsyncIteration
                if self._buffer:
                    return self._buffer.popleft()
                waiter = _Waiter()
                self._waiting.append(waiter)
            try:
                await waiter.woken.wait()
            except BaseException:
                self._gives_up(waiter)
                raise

    def _gives_up(self, waiter: _Waiter) -> None:
        """Wake another consumer in place of one that is cancelled, if that one was woken."""
        with self._lock:
            try:
                self._waiting.remove(waiter)
            except ValueError:
                self._wake_one()

    def _put(self, event: Event) -> None:
        with self._lock:
            self.dropped += len(self._buffer) == self._buffer.maxlen
            self._buffer.append(event)
            self._wake_one()

    def _after_fork(self) -> None:
        """Replace the lock, which a thread of the parent may hold, and leave its loops alone."""
        self._lock = threading.RLock()
        self._waiting = deque()

    def _wake_one(self) -> None:
        """Wake the consumer that has waited longest, once, if there is an event for it."""
        while self._buffer and self._waiting and not self._waiting.popleft().wake():
            pass


class _Waiter:
    """A consumer that waits in its event loop, which may be another one than the next one's."""

    __slots__ = ("_soon", "woken")

    def __init__(self) -> None:
        import anyio

        self.woken = anyio.Event()
        self._soon = waker()

    def wake(self) -> bool:
        """End the wait, from any thread; return False if the loop of the consumer is closed."""
        try:
            self._soon(self.woken.set)
        except RuntimeError:
            return False
        return True


def events(*types: type[Event], buffer: int = 1000) -> EventStream:
    """Return the events of these types, or of all types if none is named, for ``async for``.

    Examples:
        >>> async with events() as stream:
        ...     async for event in stream: ...

    Args:
        *types: Types of events.
        buffer: Events that are kept for a slow consumer; then the oldest are dropped and
            counted in ``stream.dropped``.

    Raises:
        ConfigurationError: If a type is not a type of event, or ``buffer`` is below 1.
    """
    check.event_types(types)
    return EventStream(types, check.whole("buffer", buffer, low=1))
