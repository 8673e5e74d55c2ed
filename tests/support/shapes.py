"""The shapes in which a provider can be guarded, as one table the tests are parametrised over.

A shape runs a scripted provider (a function without arguments) under the guard of one key.
``BREAKER_SHAPES`` hold the circuit alone, ``CHAIN_SHAPES`` a chain of that one target.
"""

import asyncio
import contextlib
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from resilient_llm import (
    BreakerOpenError,
    CallRejectedError,
    ChainExhaustedError,
    ErrorKind,
    Target,
    breaker,
    failover,
    health,
    observe,
)

PATIENCE = 10.0
"""Seconds of real time after which a thread which waits for another gives up."""

KEY = "groq/llama"
OTHER = "openai/gpt"
A, B = "groq/a", "openai/b"


class ProviderError(Exception):
    """What an SDK raises for an HTTP answer that is an error."""

    def __init__(
        self, status: int, *, retry_after: object = None, message: str = "the provider said no"
    ) -> None:
        super().__init__(message)
        headers = {} if retry_after is None else {"retry-after": str(retry_after)}
        self.status_code = status
        self.response = SimpleNamespace(status_code=status, headers=headers)


def down() -> ProviderError:
    """A failure of one target."""
    return ProviderError(503)


def unreachable() -> ConnectionRefusedError:
    """A failure of a whole provider."""
    return ConnectionRefusedError(111, "Connection refused")


# --- running things ---------------------------------------------------------------------------


def run_async(
    function: Callable[..., Awaitable[Any]], *args: object, backend: str = "asyncio"
) -> Any:
    """Run a coroutine function to its end on a loop of its own."""
    if backend == "asyncio":
        return asyncio.run(function(*args))  # type: ignore[arg-type]
    return anyio.run(function, *args, backend=backend)


def elsewhere(function: Callable[..., Any], *args: object, **kwargs: object) -> Any:
    """Call a function in a thread of its own, which shares nothing with the caller's context."""
    results: list[Any] = []
    errors: list[BaseException] = []

    def target() -> None:
        try:
            results.append(function(*args, **kwargs))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "the call in the other thread is stuck"
    if errors:
        raise errors[0]
    return results[0]


def in_threads(count: int, function: Callable[[int], Any]) -> list[Any]:
    """Call a function in many threads that start together, and return what each returned or raised."""
    barrier = threading.Barrier(count)
    results: list[Any] = [None] * count

    def target(index: int) -> None:
        barrier.wait(PATIENCE)
        try:
            results[index] = function(index)
        except BaseException as error:
            results[index] = error

    threads = [
        threading.Thread(target=target, args=(index,), daemon=True) for index in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3 * PATIENCE)
    assert not any(thread.is_alive() for thread in threads), "a thread is stuck"
    return results


@contextlib.contextmanager
def eager_threads() -> Iterator[None]:
    """Let the interpreter change threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class Held:
    """A call that stays inside the breaker of a key until it is told how to end."""

    def __init__(self, key: str = KEY, shape: "Shape | None" = None, **options: object) -> None:
        self.refused = False
        self.ended_with: BaseException | None = None
        self._ending: object = None
        self._arrived = threading.Event()
        self._go = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(key, shape or WITH, options), daemon=True
        )
        self._thread.start()
        assert self._arrived.wait(PATIENCE), "the call neither entered nor was refused"

    def finish(self, ending: object = None) -> None:
        """End the call with a result, or with an error which is raised in it."""
        self._ending = ending
        self._go.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the held call is stuck"

    def _run(self, key: str, shape: "Shape", options: dict[str, object]) -> None:
        try:
            shape.run(key, self._body, **options)
        except BaseException as error:
            self.refused = is_refusal(error)
            self.ended_with = error
        finally:
            self._arrived.set()

    def _body(self) -> object:
        self._arrived.set()
        self._go.wait(PATIENCE)
        return play(self._ending)


def play(outcome: object) -> object:
    """Return a scripted outcome, or raise it if it is an error."""
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def is_refusal(error: BaseException) -> bool:
    """Whether an error says that nothing was sent."""
    if isinstance(error, ChainExhaustedError):
        return all(isinstance(member, CallRejectedError) for member in error.exceptions)
    return isinstance(error, BreakerOpenError)


# --- the shapes -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """One way to write a guarded call; ``backend`` is None in sync code."""

    name: str
    call: Callable[..., Any]
    backend: str | None = None

    def run(self, key: str, provider: Callable[[], Any], **options: object) -> Any:
        """Call the provider once under the guard, from sync code; its result or error leaves."""
        if self.backend is None:
            return self.call(key, provider, **options)

        async def aprovider() -> Any:
            return provider()

        async def main() -> Any:
            return await self.call(key, aprovider, **options)

        return run_async(main, backend=self.backend)

    def outcome(self, key: str, outcome: object, **options: object) -> str:
        """Run one scripted outcome and say what became of it: served, failed or refused."""
        try:
            result = self.run(key, lambda: play(outcome), **options)
        except BaseException as error:
            if error is outcome:
                return "failed"
            if is_refusal(error):
                return "refused"
            raise
        assert outcome == result
        return "served"


def _with(key: str, provider: Callable[[], Any], **options: Any) -> Any:
    with breaker(key, **options):
        return provider()


def _decorated(key: str, provider: Callable[[], Any], **options: Any) -> Any:
    @breaker(key, **options)
    def ask() -> Any:
        return provider()

    return ask()


def _generator(key: str, provider: Callable[[], Any], **options: Any) -> Any:
    @breaker(key, **options)
    def stream() -> Iterator[Any]:
        yield provider()

    (item,) = list(stream())
    return item


async def _async_with(key: str, provider: Callable[[], Awaitable[Any]], **options: Any) -> Any:
    async with breaker(key, **options):
        return await provider()


async def _async_decorated(key: str, provider: Callable[[], Awaitable[Any]], **options: Any) -> Any:
    @breaker(key, **options)
    async def ask() -> Any:
        return await provider()

    return await ask()


async def _async_generator(key: str, provider: Callable[[], Awaitable[Any]], **options: Any) -> Any:
    @breaker(key, **options)
    async def stream() -> Any:
        yield await provider()

    (item,) = [item async for item in stream()]
    return item


def chain_of(key: str, **options: Any) -> Any:
    """A chain of one target that makes one attempt and lets the target's own error leave."""
    if options:
        breaker(key, **options)
    return failover(chain=[key], attempts=1, reraise=True, when_all_benched="raise")


def _failover(key: str, provider: Callable[[], Any], **options: Any) -> Any:
    @chain_of(key, **options)
    def ask(target: Target) -> Any:
        return provider()

    return ask()


def _policy_call(key: str, provider: Callable[[], Any], **options: Any) -> Any:
    def ask(target: Target) -> Any:
        return provider()

    return chain_of(key, **options).call(ask)


def _loop(key: str, provider: Callable[[], Any], **options: Any) -> Any:
    for attempt in chain_of(key, **options):
        with attempt:
            return provider()
    raise AssertionError("the loop ended without a result and without an error")


async def _async_failover(key: str, provider: Callable[[], Awaitable[Any]], **options: Any) -> Any:
    @chain_of(key, **options)
    async def ask(target: Target) -> Any:
        return await provider()

    return await ask()


async def _async_policy_call(
    key: str, provider: Callable[[], Awaitable[Any]], **options: Any
) -> Any:
    async def ask(target: Target) -> Any:
        return await provider()

    return await chain_of(key, **options).call(ask)


async def _async_loop(key: str, provider: Callable[[], Awaitable[Any]], **options: Any) -> Any:
    async for attempt in chain_of(key, **options):
        async with attempt:
            return await provider()
    raise AssertionError("the loop ended without a result and without an error")


def _on_both_loops(name: str, call: Callable[..., Any]) -> list[Shape]:
    return [Shape(f"{name}-{backend}", call, backend) for backend in ("asyncio", "trio")]


WITH = Shape("with", _with)
DECORATOR = Shape("decorator", _decorated)
GENERATOR = Shape("generator", _generator)
FAILOVER = Shape("failover", _failover)
LOOP = Shape("loop", _loop)

BREAKER_SHAPES = [
    WITH,
    DECORATOR,
    GENERATOR,
    *_on_both_loops("async-with", _async_with),
    *_on_both_loops("async-decorator", _async_decorated),
    *_on_both_loops("async-generator", _async_generator),
]
CHAIN_SHAPES = [
    FAILOVER,
    LOOP,
    Shape("policy-call", _policy_call),
    *_on_both_loops("async-failover", _async_failover),
    *_on_both_loops("async-loop", _async_loop),
    *_on_both_loops("async-policy-call", _async_policy_call),
]
SHAPES = BREAKER_SHAPES + CHAIN_SHAPES
SYNC_SHAPES = [shape for shape in SHAPES if shape.backend is None]
ASYNC_SHAPES = [shape for shape in SHAPES if shape.backend is not None]


def over(shapes: list[Shape]) -> pytest.MarkDecorator:
    """Parametrise a test over shapes, as its argument ``shape``."""
    return pytest.mark.parametrize("shape", shapes, ids=lambda shape: shape.name)


on_both_loops = pytest.mark.parametrize("backend", ["asyncio", "trio"])


# --- bringing a circuit into a state ----------------------------------------------------------


def succeed(key: str = KEY, times: int = 1) -> None:
    """Let calls of a key succeed, in a thread of their own."""
    for _ in range(times):
        assert "served" == elsewhere(WITH.outcome, key, "answer")


def fail(key: str = KEY, times: int = 1, error: Callable[[], BaseException] = down) -> None:
    """Let calls of a key fail, in a thread of their own."""
    for _ in range(times):
        assert "failed" == elsewhere(WITH.outcome, key, error())


def failing(key: str, times: int, error: Any = down) -> None:
    """Let calls of a key fail, or be refused, in this thread."""
    for _ in range(times):
        with contextlib.suppress(Exception), breaker(key):
            raise error()


def is_refused(key: str = KEY) -> bool:
    """Whether a call of a key is refused; if it is let through it ends without a verdict."""
    return "refused" == elsewhere(WITH.outcome, key, KeyboardInterrupt())


def trip(key: str = KEY, error: Callable[[], BaseException] = down, times: int = 5) -> None:
    """Open a closed circuit with consecutive failures."""
    fail(key, times, error)
    assert is_refused(key)


def state(key: str = KEY) -> str:
    """The state of a circuit."""
    return breaker(key).state


def half_open(clock: Any, key: str = KEY, **kwargs: Any) -> None:
    """Open a closed circuit and let its first cooldown pass."""
    trip(key, **kwargs)
    clock.advance(34)
    assert "half_open" == state(key)


def kind_of(value: object) -> str:
    """The word of an `ErrorKind`, for comparing."""
    return ErrorKind(value).value


def totals(key: str = KEY) -> tuple[int, int]:
    """Calls and errors in the window of a key."""
    found = health([key])[key]
    return found.total, found.errors


@contextlib.contextmanager
def seen(*types: type) -> Iterator[list[Any]]:
    """The events of some types that happen inside, in order."""
    events: list[Any] = []
    unsubscribe = observe(events.append, *types)
    try:
        yield events
    finally:
        unsubscribe()
