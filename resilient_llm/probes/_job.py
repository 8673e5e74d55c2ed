"""One run of one probe: in a task of its own, or in a thread if the probe is synchronous.

Owns what is known of the run, and which of the two came first: its end, or that of the tick. What
comes second is dropped. A run that goes on after its tick keeps its key until it ends, so a key
never has two.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import sys
import threading
from typing import TYPE_CHECKING, Any, Protocol

from resilient_llm._drive.tasks import spawn
from resilient_llm._runtime.probing import begin
from resilient_llm._runtime.time_limit import cancellable, is_trio
from resilient_llm._values.built_in import members_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from resilient_llm._runtime.probing import Begun
    from resilient_llm._runtime.registry import Registry
    from resilient_llm._runtime.time_limit import Cancellable

Probe = Any
"""A function without parameters, synchronous or asynchronous."""


class Tick(Protocol):
    """What a job knows of the tick that it belongs to."""

    registry: Registry

    def soon(self, callback: Callable[[], object], /) -> object: ...
    def returned(self, job: Job, value: object, /) -> None: ...
    def raised(self, job: Job, error: BaseException, /) -> None: ...
    def spawned(self, job: Job, /) -> None: ...
    def ended(self, job: Job, /) -> None: ...


class Job:
    """One run of the probe of one key."""

    def __init__(self, key: str, probe: Probe, tick: Tick) -> None:
        self.key = key
        self.begun: Begun | None = None
        """What it began with; None while it waits for a thread, or for its task to run."""
        self.is_hung = False
        """Whether a tick has ended before it, after as long as a probe may take."""
        self.is_task = False
        """Whether it runs in a task, which can be cancelled."""
        self.is_prompt = False
        """Whether it began with its tick, so that it had all of the time that a probe may take."""
        self._probe = probe
        self._tick = tick
        self._first = threading.Lock()
        """Taken once, and never waited for, by what comes first."""
        self._scope: Cancellable | None = None
        self._is_cancelled = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self) -> Begun:
        """Begin, now."""
        self.begun = begin(self.key, self._tick.registry)
        return self.begun

    @property
    def is_lost(self) -> bool:
        """Whether its event loop was closed before it ended."""
        return self._loop is not None and self._loop.is_closed()

    def settle(self) -> bool:
        """Return whether nothing has come of it yet; from now on nothing will."""
        return self._first.acquire(blocking=False)

    # In a task.

    def spawn(self) -> None:
        """Begin in a task of its own, in a context without anything of the code that ticks."""
        self._spawn(self._probe)

    def _spawn(self, probe: Callable[[], Awaitable[Any]]) -> None:
        self.is_task = True
        self._loop = None if is_trio() else asyncio.get_running_loop()
        self._tick.spawned(self)
        contextvars.Context().run(spawn, functools.partial(self.run_task, probe))

    def cancel(self) -> None:
        """Cancel the task, if it runs; called in its event loop."""
        self._is_cancelled = True
        if self._scope is not None:
            self._scope.cancel()

    async def run_task(self, probe: Callable[[], Awaitable[Any]]) -> None:
        """Run the probe; the body of the task."""
        drop_silently()
        try:
            with cancellable() as self._scope:
                if not self._is_cancelled:
                    if self.begun is None:  # else it began in a thread
                        self.begin()
                    await self._probed(probe)
        except BaseException as error:
            # Of a group that came of a cancellation, trio raises what is left. What leaves a
            # system task ends the program.
            if is_cancellation(error) or is_interrupt(error):
                raise
        finally:
            self._scope = None
            self._tick.ended(self)

    async def _probed(self, probe: Callable[[], Awaitable[Any]]) -> None:
        try:
            value = await probe()
        except BaseException as error:
            if is_cancellation(error) or is_interrupt(error):
                raise
            self._raised(error)
        else:
            self._returned(value)

    # In a thread.

    def run(self) -> None:
        """Run the probe; what the thread does. Raises nothing."""
        try:
            self.begin()
            # Its tick may be over by now. That looks whether this has begun after it has taken
            # the lock, so one of the two sees the other.
            if self._first.locked():
                self._tick.ended(self)
                return
            try:
                value = self._probe()
            except BaseException as error:  # noqa: BLE001  # there is no caller
                self._raised(error)
            else:
                if not _is_awaitable(value):
                    self._returned(value)
                elif self._is_handed_over(value):
                    return
        except BaseException:  # noqa: BLE001, S110  # of an observer, which wants to end the program
            pass
        self._tick.ended(self)

    def _is_handed_over(self, value: Any) -> bool:
        """Have what a plain function returned awaited in the loop; return False if nobody will."""

        async def probe() -> Any:
            return await value

        def start() -> None:
            if self._first.locked():
                _close(value)
                self._tick.ended(self)
            else:
                self._spawn(probe)

        try:
            self._tick.soon(start)
        except RuntimeError:  # the loop is closed
            _close(value)
            return False
        return True

    # What came of it.

    def _returned(self, value: Any) -> None:
        if self.settle():
            self._tick.returned(self, value)

    def _raised(self, error: BaseException) -> None:
        if self.settle():
            self._tick.raised(self, error)


def drop_silently() -> None:
    """Have asyncio say nothing of this task if its loop is closed before it has ended."""
    task: Any = None if is_trio() else asyncio.current_task()
    if hasattr(task, "_log_destroy_pending"):
        task._log_destroy_pending = False


def is_cancellation(error: BaseException) -> bool:
    """Return whether an error is the cancellation of this task, or a group with one."""
    if is_trio():
        return _has_cancelled(error)
    task = asyncio.current_task()
    return (
        isinstance(error, asyncio.CancelledError)
        # A probe may raise one of its own, by awaiting a future that was cancelled.
        and task is not None
        and (not hasattr(task, "cancelling") or task.cancelling() > 0)
    )


def _has_cancelled(error: BaseException) -> bool:
    trio: Any = sys.modules["trio"]
    if issubclass(type(error), BaseExceptionGroup):
        return any(_has_cancelled(each) for each in members_of(error))
    return isinstance(error, trio.Cancelled)


def is_interrupt(error: BaseException) -> bool:
    """Return whether somebody wants to end the program; trio raises that elsewhere by itself."""
    return (
        isinstance(error, KeyboardInterrupt)
        and not is_trio()
        and threading.current_thread() is threading.main_thread()
    )


def _is_awaitable(value: Any) -> bool:
    try:
        return inspect.isawaitable(value)
    except Exception:  # noqa: BLE001  # anybody's object may raise anything
        return False


def _close(value: Any) -> None:
    """Close a coroutine that nobody awaits, so that Python does not warn of it."""
    try:
        if inspect.iscoroutine(value):
            value.close()
    except BaseException:  # noqa: BLE001, S110  # of the user's code, which is dropped
        pass
