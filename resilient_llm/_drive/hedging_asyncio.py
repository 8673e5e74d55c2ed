"""Attempts side by side on asyncio: callbacks of the loop, a task for each hedge."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._core.call.steps import Reply
from resilient_llm._drive.cancellation import cancellations
from resilient_llm._drive.hedging import BaseRace
from resilient_llm._drive.racers import Made, Racer
from resilient_llm._drive.results import is_awaitable, kind_of
from resilient_llm._runtime.runtime import runtime
from resilient_llm._runtime.time_limit import TaskScope

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from resilient_llm._core.call.call import Call
    from resilient_llm._core.call.call_flow import CallFlow
    from resilient_llm._core.call.steps import Try

_AGAIN: Final = 5.0
"""Seconds after which a hedge that took a cancellation and goes on is cancelled again."""
_PENDING: Final = float("-inf")
"""The deadline that anyio names where a cancellation has begun."""


class AsyncioRace(BaseRace):
    """A race on asyncio. `with race:` is the first attempt of a call without a call flow."""

    def __init__(self, start: Callable[[], tuple[Call, CallFlow, Try]], hedge_after: float) -> None:
        super().__init__(start, hedge_after)
        self._scope = TaskScope()
        self._waiter: asyncio.Future[None] | None = None

    def __enter__(self) -> AsyncioRace:
        self._scope.__enter__()
        self.first.scope, self.first.stop = self._scope, self._scope.cancel
        self._arm(self.first, self._hedge_after)
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if not self.has_begun:
            self._disarm()
        return self._scope.__exit__(error_type, error, traceback)

    def gave(self, value: Any) -> None:
        """Take what the first attempt has returned, if it was not stopped."""
        if self.first.is_stopped or (kind_of(value) is None and not is_awaitable(value)):
            self.made = Made(Reply(runtime.clock(), value))
        else:
            self.made = Made(None, value)

    def raised(self, error: BaseException, *, timed_out: bool, cancelled: bool) -> None:
        """Take what the first attempt has raised."""
        now = runtime.clock()
        self.made = Made(Reply(now, error=error, timed_out=timed_out, cancelled=cancelled))

    def _call_after(self, seconds: float, callback: Callable[[], object]) -> Any:
        return runtime.time.call_after(seconds, callback)

    def _call_soon(self, callback: Callable[[], object]) -> None:
        asyncio.get_running_loop().call_soon(self._inside, callback)

    def _start_task(self, racer: Racer) -> None:
        loop, context = asyncio.get_running_loop(), self._callers.copy()
        work = _run_and_serve(self, racer)
        try:
            if loop.get_task_factory() is None:
                racer.context = context
                task: asyncio.Task[None] = loop.create_task(work, context=context)
            else:  # one of the application may take no context, so the task copies this one
                task = context.run(loop.create_task, work)
        except BaseException:
            work.close()
            raise
        racer.task, racer.stop = task, task.cancel
        racer.ended = lambda _: self._task_ended(racer)
        task.add_done_callback(racer.ended)

    async def run_hedge(self, racer: Racer) -> None:
        """Make the attempt of a hedge, in its task."""
        await self._run(racer)

    def _task_ended(self, racer: Racer) -> None:
        racer.task = None
        if racer.is_running:  # it was cancelled before it began
            self._ended(racer, Made(Reply(runtime.clock())))
        racer.is_over = True
        self._wake()

    def _stop(self) -> None:
        super()._stop()
        if any(each.is_running for each in self._hedges):
            self._timer = asyncio.get_running_loop().call_later(_AGAIN, self._stop)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait_for_verdict(self, racer: Racer) -> None:
        if racer.has_won is None:
            racer.woken = asyncio.get_running_loop().create_future()
            await racer.woken

    def _host(self, racer: Racer) -> None:
        started, task = racer.started, racer.task
        assert started is not None
        if started.opened.is_hosted and started.opened.io.is_async:
            from resilient_llm._drive import hosting  # loads anyio

            racer.host = hosting.host(started.opened)
            if task is not None and racer.ended is not None:
                task.remove_done_callback(racer.ended)
                self._task_ended(racer)

    def _decided(self, racer: Racer) -> None:
        if racer.woken is not None and not racer.woken.done():
            racer.woken.set_result(None)

    def _is_cancellation(self, error: BaseException | None) -> bool:
        return issubclass(type(error), asyncio.CancelledError)

    async def _check_cancelled(self) -> None:
        anyio: Any = sys.modules.get("anyio")
        if anyio is not None and anyio.current_effective_deadline() == _PENDING:
            await asyncio.sleep(0)  # anyio cancels again whatever waits, with its own error
        scope: Any = self.first.scope
        if cancellations() > scope.counted_before:
            raise asyncio.CancelledError

    def _shielded(self) -> AbstractContextManager[Any]:
        anyio: Any = sys.modules.get("anyio")
        if anyio is None or anyio.current_effective_deadline() != _PENDING:
            return nullcontext()
        return anyio.CancelScope(shield=True)


async def _run_and_serve(race: AsyncioRace, racer: Racer) -> None:
    """Run a hedge, and then serve the reader of its stream if it has won."""
    await race.run_hedge(racer)
    host, racer.host, racer.ended = racer.host, None, None
    del race, racer  # they hold the call
    if host is not None:
        await host.serve()
