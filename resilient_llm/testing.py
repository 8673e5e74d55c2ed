"""Test tools for users of this library: fake clock, isolated state, scripted providers.

`fake_clock` moves time by hand, `isolated` gives a fresh state of the process,
`capture_events` collects events, `scripted` and `ascripted` return or raise given outcomes
in turn, `fake_stream` and `http_error` are outcomes as real clients have them. The pytest
plugin offers the fixtures ``resilient_llm`` and ``fake_clock``.
"""

from __future__ import annotations

import itertools
import json
import math
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from resilient_llm._api import wiring as _wiring
from resilient_llm._api.observing import observe
from resilient_llm._drive.tasks import waker
from resilient_llm._runtime.classify import classify
from resilient_llm._runtime.runtime import runtime
from resilient_llm._runtime.watchdog import shut_down_read_of
from resilient_llm._values import checks as check
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.events import Event

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from resilient_llm._runtime.time_limit import Cancellable

E = TypeVar("E", bound="Event")

__all__ = [
    "FakeClock",
    "FakeHTTPError",
    "FakeStream",
    "Scripted",
    "ascripted",
    "capture_events",
    "fake_clock",
    "fake_stream",
    "http_error",
    "isolated",
    "scripted",
]


_wiring.wire(runtime)  # this module may be imported first, and the state needs its observer


class _Moment(float):
    """A moment of the fake clock. Two readings of the same time still have an order."""

    __slots__ = ("order",)
    order: int

    def __new__(cls, seconds: float, order: int) -> _Moment:
        self = super().__new__(cls, seconds)
        self.order = order
        return self

    def __gt__(self, other: float) -> bool:
        if isinstance(other, _Moment) and float(self) == float(other):
            return self.order > other.order
        return float(self) > float(other)

    def __reduce__(self) -> tuple[Any, ...]:
        return float, (float(self),)


class _Timer:
    """A cancel scope that ends at a moment of the fake clock."""

    def __init__(self, at: float, scope: Cancellable) -> None:
        self.at = at
        self.scope = scope
        self.thread = threading.get_ident()
        self.soon = waker()

    def fire(self) -> None:
        from resilient_llm._runtime.time_limit import is_trio

        # asyncio cancels a task that runs just now at its next wait, also if the limit was left
        # before; in a callback the task is waiting.
        if is_trio() and threading.get_ident() == self.thread:
            self.scope.cancel()
        else:
            self.soon(self.scope.cancel)


class _FakeAlarm:
    """Ends the wait of a thread at a moment of the fake clock."""

    def __init__(self, clock: FakeClock) -> None:
        self.is_over = False
        self.at: float = math.inf
        self._clock = clock
        self._thread = 0

    def set(self, seconds: float, /) -> None:
        self.is_over = False
        self._thread = threading.get_ident()
        self.at = self._clock.monotonic() + max(0.0, seconds)
        self._clock.alarms.append(self)

    def off(self) -> bool:
        self.at = math.inf
        if self in self._clock.alarms:
            self._clock.alarms.remove(self)
        return self.is_over

    def raised(self, error: BaseException, /) -> bool:
        return False

    def close(self) -> None:
        self.off()

    @property
    def is_cut_off(self) -> bool:
        return self.is_over and self._thread == threading.get_ident()

    def fire(self) -> None:
        self.is_over = True
        if self._thread != threading.get_ident():
            shut_down_read_of(self._thread)


class FakeClock:
    """The SDK's monotonic and wall clock, moved by hand.

    Waits of the SDK, sync and async, return at once and move it; deadlines fire when it
    passes them.

    Attributes:
        sleeps: Seconds of every wait of the SDK, oldest first.
    """

    def __init__(self, start: float, wall: float) -> None:
        self.sleeps: list[float] = []
        self._now = start
        self._offset = wall - start
        self._order = itertools.count()
        self._lock = threading.Lock()
        self._timers: list[_Timer] = []
        self.alarms: list[_FakeAlarm] = []

    def __reduce__(self) -> tuple[Any, ...]:
        # With a wrapper that is bound to it. It stands still until that is bound there.
        return FakeClock, (self._now, self.wall())

    def advance(self, seconds: float) -> None:
        """Let time pass; deadlines that it passes fire.

        Args:
            seconds: 0 or more.

        Raises:
            ValueError: If ``seconds`` is negative or not finite.
        """
        if not math.isfinite(seconds) or seconds < 0:
            raise ValueError(f"seconds={seconds} is not allowed: write a finite number, 0 or more")
        with self._lock:
            self._now += seconds
            ended = [timer for timer in self._timers if timer.at <= self._now]
            self._timers = [timer for timer in self._timers if timer.at > self._now]
        for timer in ended:
            timer.fire()
        for alarm in [alarm for alarm in self.alarms if alarm.at <= self._now]:
            alarm.fire()

    def jump_wall(self, seconds: float) -> None:
        """Let the wall clock alone jump, forwards or backwards, as when it is set."""
        self._offset += seconds

    def monotonic(self) -> float:
        return _Moment(self._now, next(self._order))

    def wall(self) -> float:
        return self._now + self._offset

    def alarm(self) -> _FakeAlarm:
        return _FakeAlarm(self)

    def is_cut_off(self) -> bool:
        return any(alarm.is_cut_off for alarm in self.alarms)

    def sleep(self, seconds: float, /) -> None:
        self.sleeps.append(seconds)
        self.advance(seconds)

    async def asleep(self, seconds: float, /) -> None:
        import anyio.lowlevel

        self.sleeps.append(seconds)
        self.advance(seconds)
        await anyio.lowlevel.checkpoint()

    @contextmanager
    def cancel_after(self, seconds: float, /) -> Generator[Cancellable, None, None]:
        from resilient_llm._runtime.time_limit import cancellable

        with cancellable() as scope:
            timer = _Timer(self._now + max(0.0, seconds), scope)
            with self._lock:
                self._timers.append(timer)
            try:
                yield scope
            finally:
                with self._lock:
                    if timer in self._timers:
                        self._timers.remove(timer)


@contextmanager
def fake_clock() -> Generator[FakeClock, None, None]:
    """Replace the clock of the SDK by one that is moved by hand, for the whole process.

    It starts at the present time, in whole seconds.
    """
    before = runtime.time
    clock = FakeClock(float(math.ceil(before.monotonic())), float(math.floor(before.wall())))
    _use(clock)
    with _left_in_order("fake_clock()", lambda: _use(before)):
        yield clock


def _use(clock: Any) -> None:
    with runtime.lock:
        runtime.use_clock(clock)
        runtime.unbind_all()


@contextmanager
def isolated() -> Generator[None, None, None]:
    """Use a fresh state inside the block: no benches, counts, observers or settings.

    Process-wide, also for functions decorated at import; the real state is back afterwards.
    Rules that were registered with ``@classify.rule`` stay active inside; those registered
    inside are removed at the end.
    """
    before, rules = runtime.exchange(), classify.rules

    def restore() -> None:
        runtime.exchange(before)
        classify.replace_rules(rules)

    with _left_in_order("isolated()", restore):
        yield


_restores: list[Callable[[], None]] = []
"""What ends each ``isolated()`` and ``fake_clock()`` that is entered, the outermost first."""


@contextmanager
def _left_in_order(what: str, restore: Callable[[], None]) -> Generator[None, None, None]:
    """Restore at the end what was before; all of it if another block was entered and not left."""
    _restores.append(restore)
    try:
        yield
    finally:
        if _restores and _restores[-1] is restore:
            _restores.pop()
            restore()
        elif any(each is restore for each in _restores):
            while _restores:
                _restores.pop()()
            raise RuntimeError(
                f"{what} was left before a block that was entered later: leave the inner one "
                "first; the state from before all of them is back"
            )


@overload
def capture_events() -> AbstractContextManager[list[Event]]: ...
@overload
def capture_events(*types: type[E]) -> AbstractContextManager[list[E]]: ...
@contextmanager
def capture_events(*types: type[Any]) -> Generator[list[Any], None, None]:
    """Collect the events of these types, of all if none is named, in order, into a list."""
    captured: list[Any] = []
    stop = observe(captured.append, *types)
    try:
        yield captured
    finally:
        stop()


class Scripted:
    """A provider that returns or raises each of its outcomes in turn.

    Attributes:
        calls: ``(args, kwargs)`` of every call, oldest first.
    """

    def __init__(self, outcomes: tuple[Any, ...]) -> None:
        self._outcomes = outcomes
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        number = len(self.calls)
        self.calls.append((args, kwargs))
        if number >= len(self._outcomes):
            raise AssertionError(
                f"the script has {len(self._outcomes)} outcomes and was called once more"
            )
        outcome: Any = self._outcomes[number]
        if _is_error(outcome):
            raise outcome
        return outcome


def _is_error(outcome: Any) -> bool:
    """Return whether this can be raised: an exception, or a class of exceptions."""
    cls: Any = outcome if isinstance(outcome, type) else type(outcome)
    return issubclass(cls, BaseException)


class AsyncScripted(Scripted):
    """The same for async code."""

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)


def scripted(*outcomes: Any) -> Scripted:
    """Return a function that returns or raises each outcome in turn, whatever it is passed.

    Exceptions, instances or classes, are raised; everything else is returned. One call more
    than there are outcomes is an AssertionError.
    """
    return Scripted(outcomes)


def ascripted(*outcomes: Any) -> AsyncScripted:
    """Return an async function that returns or raises each outcome in turn."""
    return AsyncScripted(outcomes)


class FakeStream:
    """A stream as clients give it, for ``for`` and for ``async for``; made by `fake_stream`.

    It is its own iterator, is read once, and is a context manager that closes it.

    Attributes:
        closed: Whether it was closed, or read to its end.
    """

    def __init__(self, items: tuple[Any, ...], then: BaseException | type[BaseException] | None):
        self.closed = False
        self._left = iter(items)  # a guard sees in it whether the end was reached
        self._then = then

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if not self.closed:
            for item in self._left:
                return item
            self.closed = True
            if self._then is not None:
                raise self._then
        raise StopIteration

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return self.__next__()
        except StopIteration:
            raise StopAsyncIteration from None

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()


def fake_stream(*items: Any, then: BaseException | type[BaseException] | None = None) -> FakeStream:
    """Return a stream of these items, for synchronous and for asynchronous code.

    Examples:
        >>> client = scripted(fake_stream("Hel", then=ConnectionError()), "Hello")

    Args:
        *items: What it gives.
        then: An exception, or a class, that is raised after the items; None for a regular end.

    Raises:
        ConfigurationError: If ``then`` cannot be raised.
    """
    if then is not None and not _is_error(then):
        raise ConfigurationError(
            f"then of type {type(then).__name__} is not allowed: expected an exception or None; "
            "items come before it, without a keyword"
        )
    return FakeStream(items, then)


class _Headers(dict[str, str]):
    """``{lower-cased name: value}``, found in any spelling, as the headers of clients are."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__({name.lower(): value for name, value in headers.items()})

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)


class _FakeResponse:
    """The response of a `FakeHTTPError`, with the names that httpx and requests use."""

    def __init__(self, status: int, headers: _Headers, content: bytes) -> None:
        self.status_code = status
        self.headers = headers
        self.content = self._content = content

    @property
    def text(self) -> str:
        return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        return json.loads(self.content)


class FakeHTTPError(Exception):
    """An error as a client raises it for a response; made by `http_error`.

    Attributes:
        status_code: The HTTP status.
        headers: ``{lower-cased name: value}``; a name is found in any spelling.
        body: The decoded body: a dict, a text, or None.
        response: The same as a response of httpx or requests, with ``.text`` and ``.json()``.
    """

    def __init__(
        self, status: int, headers: Mapping[str, str], body: dict[str, Any] | str | None
    ) -> None:
        super().__init__(f"Error code: {status}")
        self.status_code = status
        self.headers = _Headers(headers)
        self.body = body
        text = body if isinstance(body, str) else "" if body is None else json.dumps(body)
        self.response = _FakeResponse(status, self.headers, text.encode())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.status_code, dict(self.headers), self.body)


def http_error(
    status: int,
    *,
    headers: Mapping[str, str | int | float] | None = None,
    body: dict[str, Any] | str | None = None,
) -> FakeHTTPError:
    """Return an error as clients raise it for a provider's response with this status.

    It is classified like the error of a real client for the same response.

    Examples:
        >>> http_error(429, headers={"retry-after": "20"})
        >>> http_error(400, body={"error": {"code": "context_length_exceeded"}})

    Args:
        status: From 100 to 599.
        headers: ``{name: value}``
        body: What the provider answers: a dict, for JSON, or a text.

    Raises:
        ConfigurationError: If one of them is not allowed; also a ValueError.
    """
    number = check.whole("status", status, low=100)
    if number > 599:
        raise ConfigurationError(f"status={number} is not allowed: expected 100 to 599")
    given = check.mapping("headers", {} if headers is None else headers)
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ConfigurationError(
                f"headers[{name!r}] of type {type(value).__name__} is not allowed: expected a text"
            )
    if body is not None and not isinstance(body, (dict, str)):  # pyright: ignore[reportUnnecessaryIsInstance]  # users' input
        raise ConfigurationError(
            f"body of type {type(body).__name__} is not allowed: expected a dict or a text"
        )
    return FakeHTTPError(number, {name: str(value) for name, value in given.items()}, body)
