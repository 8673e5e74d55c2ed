"""`observe` and `events`: subscribe a function, or an ``async for``, to events."""

from __future__ import annotations

import inspect
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar, overload

from resilient_llm._drive.tasks import waker
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values import checks as check
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.events import Event
from resilient_llm._values.exported import exported

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

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
    """Call a function with every event of these types, or of all types if none is named.

    It runs after the fact, outside every lock, in order for each key, on the thread that
    made the event. An observer that raises is logged once and does not affect the call.

    Returns:
        A function that ends the subscription.

    Raises:
        ConfigurationError: If it is not a plain function, or a type is not a type of event.
    """
    if not callable(callback) or inspect.iscoroutinefunction(callback):
        raise ConfigurationError(
            "observe() takes a plain function: for async code write `async with events() as stream`"
        )
    _check_types(types)
    dispatcher = runtime.dispatcher
    unsubscribe = dispatcher.subscribe(callback, types)
    runtime.unbind_all()

    def stop() -> None:
        unsubscribe()
        runtime.unbind_all()

    return stop


def _check_types(types: tuple[Any, ...]) -> None:
    for each in types:
        if not isinstance(each, type) or not issubclass(each, Event):
            raise ConfigurationError(
                f"{each!r} is no type of event: write classes such as TargetBenched"
            )


@exported
class EventStream:
    """Events for one async consumer; made by `events`.

    Attributes:
        dropped: How many of the oldest events gave way to newer ones because the consumer
            was too slow.
    """

    def __init__(self, types: tuple[type[Event], ...], buffer: int) -> None:
        self.dropped = 0
        self._types = types
        self._buffer: deque[Event] = deque()
        self._most = buffer
        self._stop: Callable[[], None] | None = None
        self._arrived: Any = None
        self._soon: Callable[[Callable[[], object]], object] | None = None

    async def __aenter__(self) -> Self:
        import anyio

        self._arrived = anyio.Event()
        self._soon = waker()
        self._stop = observe(self._put, *self._types)
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._stop is not None:
            self._stop()
            self._stop = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        import anyio

        while not self._buffer:
            if self._stop is None:
                raise StopAsyncIteration
            self._arrived = anyio.Event()
            # Checked again: an event may have arrived before the new `anyio.Event` was stored.
            if not self._buffer:
                await self._arrived.wait()
        return self._buffer.popleft()

    def _put(self, event: Event) -> None:
        if len(self._buffer) >= self._most:
            self._buffer.popleft()
            self.dropped += 1
        self._buffer.append(event)
        if self._soon is not None:
            try:
                self._soon(self._wake)
            except RuntimeError:  # the consumer's loop is closed
                self._soon = None

    def _wake(self) -> None:
        self._arrived.set()


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
    _check_types(types)
    return EventStream(types, check.whole("buffer", buffer, low=1))
