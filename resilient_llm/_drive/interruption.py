"""Ends the wait of an asyncio task that reads a stream, because another task closes the stream.

An asynchronous generator cannot be closed while it waits. The task that waits in it is found by
what each task awaits, and cancelled; the cancellation ends in the generator of the items, and is
taken back there. Nothing is recorded for that while a stream is read.
"""

from __future__ import annotations

import asyncio
import gc
import time
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_WITHIN: Final = 3.0
"""Seconds for which the reader may go on."""
_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.25
_DEEPEST: Final = 1_000
"""Coroutines that await each other."""


class Interruption:
    """The cancellation of the task that reads."""

    __slots__ = ("_count", "_task")

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task: asyncio.Task[Any] | None = task
        self._count = task.cancelling()
        task.cancel()

    async def end(self, close: Callable[[], Awaitable[bool]]) -> bool:
        """Wait until the stream can be closed; return whether it was."""
        pause = 0.0
        ends_at = time.perf_counter() + _WITHIN
        while not await close():
            if time.perf_counter() >= ends_at:
                return False
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE) or _FIRST_PAUSE
        return True

    def has_raised(self, error: BaseException) -> bool:
        """Return whether it ended the reader, and no other cancellation of the task did."""
        return self.take_back() and issubclass(type(error), (asyncio.CancelledError, Exception))

    def take_back(self) -> bool:
        """Let the task go on, once; return whether nobody else has cancelled it."""
        task, self._task = self._task, None
        return task is not None and task.uncancel() <= self._count


def interruption_of(generator: AsyncGeneratorType[Any, Any]) -> Interruption | None:
    """Cancel the task that waits in a generator; None if no other task of this loop does."""
    try:
        here = asyncio.current_task()
        tasks = asyncio.all_tasks()
    except RuntimeError:  # another event loop's
        return None
    for task in tasks:
        if task is not here and hasattr(task, "uncancel") and _waits_in(task, generator):
            return Interruption(task)
    return None


def _waits_in(task: asyncio.Task[Any], generator: object) -> bool:
    awaited: Any = task.get_coro()
    for _ in range(_DEEPEST):
        if awaited is None or awaited is generator:
            return awaited is generator
        awaited = _awaited_by(awaited)
    return False


def _awaited_by(waiting: Any) -> object:
    """Return what a suspended coroutine or generator waits for; None if it is something else."""
    if type(waiting) is CoroutineType:
        return waiting.cr_await
    if type(waiting) is AsyncGeneratorType:
        return waiting.ag_await
    if type(waiting) is GeneratorType:
        generator: Any = waiting  # pyright: ignore[reportUnknownVariableType]  # anybody's
        return generator.gi_yieldfrom
    # What ``anext`` gives, and ``__await__`` of a coroutine, name nothing that is inside them.
    for each in gc.get_referents(waiting):
        if type(each) in (CoroutineType, AsyncGeneratorType, GeneratorType):
            return each
    return None
