"""Calls under the guard of a key: in other threads, held open, and what brings a circuit into a state."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from resilient_llm import ErrorKind, breaker, health, observe
from tests.support.ways import GROQ, WITH, Shape, down, is_refusal, play

PATIENCE = 40.0
"""Seconds of real time after which a thread which waits for another gives up."""


# --- threads ----------------------------------------------------------------------------------


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

    def __init__(self, key: str = GROQ, shape: Shape | None = None, **options: object) -> None:
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

    def _run(self, key: str, shape: Shape, options: dict[str, object]) -> None:
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


# --- bringing a circuit into a state ----------------------------------------------------------


def succeed(key: str = GROQ, times: int = 1) -> None:
    """Let calls of a key succeed, in a thread of their own."""
    for _ in range(times):
        assert "served" == elsewhere(WITH.outcome, key, "answer")


def fail(key: str = GROQ, times: int = 1, error: Callable[[], BaseException] = down) -> None:
    """Let calls of a key fail, in a thread of their own."""
    for _ in range(times):
        assert "failed" == elsewhere(WITH.outcome, key, error())


def failing(key: str, times: int, error: Any = down) -> None:
    """Let calls of a key fail, or be refused, in this thread."""
    for _ in range(times):
        with contextlib.suppress(Exception), breaker(key):
            raise error()


def is_refused(key: str = GROQ) -> bool:
    """Whether a call of a key is refused; if it is let through it ends without a verdict."""
    return "refused" == elsewhere(WITH.outcome, key, KeyboardInterrupt())


def trip(key: str = GROQ, error: Callable[[], BaseException] = down, times: int = 5) -> None:
    """Open a closed circuit with consecutive failures."""
    fail(key, times, error)
    assert is_refused(key)


def state(key: str = GROQ) -> str:
    """The state of a circuit."""
    return breaker(key).state


def half_open(clock: Any, key: str = GROQ, **kwargs: Any) -> None:
    """Open a closed circuit and let its first cooldown pass."""
    trip(key, **kwargs)
    clock.advance(34)
    assert "half_open" == state(key)


def kind_of(value: object) -> str:
    """The word of an `ErrorKind`, for comparing."""
    return ErrorKind(value).value


def totals(key: str = GROQ) -> tuple[int, int]:
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
