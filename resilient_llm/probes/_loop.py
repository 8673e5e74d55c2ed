"""The loop of a `HealthProbe`, from its start to its end: tick, wait, tick.

It runs in a task of the event loop in which it was started, or in an event loop in a thread of its
own. It belongs to the state of the process in which it was started: it rests while another one,
of an ``isolated()`` inside that, is in force, and ends with its own.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from resilient_llm._drive.tasks import spawn
from resilient_llm._runtime.background import warn
from resilient_llm._runtime.runtime import runtime
from resilient_llm._runtime.time_limit import is_trio
from resilient_llm._values.built_in import class_name
from resilient_llm.probes._job import drop_silently, is_cancellation, is_interrupt
from resilient_llm.probes._tick import Tick
from resilient_llm.probes._waiting import Waiter

if TYPE_CHECKING:
    from resilient_llm.probes._job import Job
    from resilient_llm.probes._tick import Options, Runs


def _load() -> None:
    """Import what a loop in a thread needs.

    A child that was forked while that thread imports it would have half of it for ever.
    """
    import anyio

    _ = anyio.Event  # imported when it is asked for
    import_module("anyio.lowlevel")
    with suppress(ImportError):  # its own name, which may change
        import_module("anyio._backends._asyncio")


class Loop:
    """One loop. All but `run` may be called from any thread."""

    def __init__(self, options: Options, runs: Runs, *, in_thread: bool) -> None:
        # Others see it before it begins, and must know by then which of the two it is.
        self.thread: threading.Thread | None = None
        if in_thread:
            self.thread = threading.Thread(
                target=self._run_in_thread, name="resilient_llm-probes", daemon=True
            )
        self._starter = threading.get_ident()
        self._was_begun = threading.Event()
        """Set once its thread was started, or will not be."""
        self._options = options
        self._runs = runs
        self._registry = runtime.registry
        self._waiter = Waiter()
        self._tasks: set[Job] = set()
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self._is_over = False
        self._has_ended = False
        self._waiting: list[Waiter] = []
        """Those who wait for its end."""
        self._attached = runtime.attached
        self._attached[self] = None
        self._has_warned = False

    @property
    def is_running(self) -> bool:
        """Whether it is neither stopped nor lost with its event loop."""
        return not (self._is_over or self._is_gone())

    def _is_gone(self) -> bool:
        event_loop = self._event_loop
        return self._has_ended or (event_loop is not None and event_loop.is_closed())

    def begin(self) -> None:
        """Begin in a task of the event loop that runs here; it outlasts the code that begins it."""
        try:
            self._event_loop = None if is_trio() else asyncio.get_running_loop()
            contextvars.Context().run(spawn, self.run)
        except BaseException:
            self._end()
            raise

    def begin_in_thread(self) -> None:
        """Begin in its thread."""
        assert self.thread is not None
        try:
            _load()
            self.thread.start()
        except BaseException:
            self._end()
            raise
        finally:
            self._was_begun.set()

    def join(self, seconds: float) -> None:
        """Wait until its thread has ended, at most for so many real seconds."""
        thread, me = self.thread, threading.current_thread()
        if thread is None or thread is me:
            return
        if not self._was_begun.is_set() and self._starter == me.ident:
            return  # in a signal handler, in the midst of its start
        clock = runtime.system_clock
        until = clock.monotonic() + seconds
        if self._was_begun.wait(seconds) and thread.ident is not None:
            thread.join(max(0.0, until - clock.monotonic()))

    def _run_in_thread(self) -> None:
        try:
            asyncio.run(self.run())
        except BaseException as error:  # noqa: BLE001  # there is no caller
            self._warn(error)
        finally:
            self._end()

    def end(self) -> None:
        """Stop it: nothing is probed any more, and it ends soon."""
        self._is_over = True
        self._attached.pop(self, None)
        self._waiter.wake()

    async def wait_for_end(self, seconds: float) -> None:
        """Wait until it has ended, at most for so many real seconds."""
        waiter = Waiter()
        self._waiting.append(waiter)
        try:
            clock = runtime.system_clock
            until = clock.monotonic() + seconds
            await waiter.until(self._is_gone, until, seconds, clock)
        finally:
            self._waiting.remove(waiter)

    async def run(self) -> None:
        """Tick until it is stopped; the body of the task."""
        drop_silently()
        try:
            while True:
                if self._is_over:
                    break
                await self._step()
            clock = runtime.system_clock
            seconds = self._options.timeout
            until = clock.monotonic() + seconds
            # What was cancelled ends before this does, unless it does not want to.
            await self._waiter.until(lambda: not self._tasks, until, seconds, clock)
        finally:
            self._end()

    async def _step(self) -> None:
        """Tick, and wait for the next tick."""
        import anyio.lowlevel

        options = self._options
        began_at = runtime.clock()
        pause = options.interval * (1.0 + options.jitter * runtime.rng.uniform(-1.0, 1.0))
        try:
            if runtime.registry is self._registry:
                tick = Tick(options, self._runs, self._registry, self._waiter, self._tasks)
                await tick.run(lambda: self._is_over)
        except BaseException as error:
            if is_cancellation(error) or is_interrupt(error):
                raise
            self._warn(error)  # one failure must not end the loop
        await anyio.lowlevel.checkpoint()
        # By the beginning of the tick, so that slow probes do not make the interval longer.
        await self._waiter.until(lambda: self._is_over, began_at + pause, pause)

    def _end(self) -> None:
        self._is_over = self._has_ended = True
        self._attached.pop(self, None)
        for each in self._waiting[:]:
            each.wake()

    def _warn(self, error: BaseException) -> None:
        if not self._has_warned:
            self._has_warned = True
            warn(f"health probes: failed with {class_name(type(error))}")

    def forget(self) -> None:
        """End it in a forked child, where nothing runs it."""
        self._is_over = True
        self._attached.pop(self, None)

    def __reduce__(self) -> Any:
        raise TypeError("a loop of health probes cannot be pickled")
