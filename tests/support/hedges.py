"""Calls with a hedge, played step by step: the test says when an attempt answers or fails.

Time is the fake clock's, so an attempt is slow when the test moves it, and what a test does
between two waits happens at once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel

from resilient_llm import Target
from resilient_llm._runtime.runtime import runtime

_PATIENCE = 5.0
"""Seconds after which a test that hangs fails."""


class Stage:
    """The providers of a call.

    Attributes:
        asked: Keys of the targets that were called, in order.
        ended: Keys of those whose attempt has ended.
        cancelled: Keys of those whose attempt was cancelled.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.ended: list[str] = []
        self.cancelled: list[str] = []
        self._begun: dict[str, anyio.Event] = {}
        self._outcomes: dict[str, Any] = {}
        self._gates: dict[str, anyio.Event] = {}
        self.clean_up: dict[str, Callable[[], Awaitable[Any]]] = {}
        """``{key: what a cancelled attempt does before it ends}``"""

    async def provide(self, target: Target) -> Any:
        """Be an attempt: wait for what the test says."""
        key = target.key
        self.asked.append(key)
        self._event(self._begun, key).set()
        try:
            await self._event(self._gates, key).wait()
        except BaseException:
            self.cancelled.append(key)
            if key in self.clean_up:
                return await self.clean_up[key]()
            raise
        finally:
            self.ended.append(key)
            self._gates.pop(key, None)
            self._begun.pop(key, None)
        outcome = self._outcomes.pop(key)
        if not isinstance(outcome, BaseException):
            return outcome
        try:
            raise outcome
        finally:
            del outcome  # its traceback refers to this frame

    def says(self, key: str, outcome: Any) -> None:
        """Have an attempt return this, or raise it."""
        self._outcomes[key] = outcome
        self._event(self._gates, key).set()

    async def begins(self, key: str) -> None:
        """Wait until a target is called."""
        await self._event(self._begun, key).wait()

    def _event(self, events: dict[str, anyio.Event], key: str) -> anyio.Event:
        return events.setdefault(key, anyio.Event())


class Played:
    """A call that runs beside the test.

    Attributes:
        result: What it returned, or what it raised.
        is_over: Whether it has ended.
    """

    def __init__(self) -> None:
        self.result: Any = None
        self.is_over = False
        self.scope = anyio.CancelScope()
        self._ended = anyio.Event()

    async def run(self, call: Callable[[], Awaitable[Any]]) -> None:
        try:
            with self.scope:
                self.result = await call()
        except BaseException as error:  # the test looks at it
            self.result = error
        finally:
            self.is_over = True
            self._ended.set()

    async def ends(self) -> Any:
        """Wait for its end; return what it returned or raised."""
        await self._ended.wait()
        return self.result


@asynccontextmanager
async def played(call: Callable[[], Awaitable[Any]]) -> AsyncIterator[Played]:
    """Run a call beside the block."""
    with anyio.fail_after(_PATIENCE):
        async with anyio.create_task_group() as group:
            play = Played()
            group.start_soon(play.run, call)
            yield play
            await play.ends()


async def settle() -> None:
    """Let everything run that can run."""
    for _ in range(20):
        await anyio.lowlevel.checkpoint()


def slow(clock: Any, seconds: float = 2.0) -> None:
    """Let the newest attempt become slow."""
    clock.advance(seconds)


def in_flight(*keys: str) -> list[int]:
    """Return how often each key was begun less how often it has ended, by its counts."""
    ledger = runtime.dispatcher.ledger
    assert ledger is not None
    return [
        sum(
            counts.begun - sum(counts.answers) - counts.ended
            for function in ledger.functions.values()
            for counts in [function.target(key)]
        )
        for key in keys
    ]
