"""Attempts side by side on trio: all of a race is in one nursery."""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Any

import trio

from resilient_llm._drive.hedging import BaseRace
from resilient_llm._runtime.runtime import runtime

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient_llm._core.call.call import Call
    from resilient_llm._core.call.call_flow import CallFlow
    from resilient_llm._core.call.steps import Step, Try
    from resilient_llm._drive.racers import Racer


class TrioRace(BaseRace):
    """A race on trio: all of it is in one nursery."""

    def __init__(self, start: Callable[[], tuple[Call, CallFlow, Try]], hedge_after: float) -> None:
        super().__init__(start, hedge_after)
        self._nursery: Any = None
        self._event: Any = None

    def begin(self) -> None:
        super().begin()
        assert self.first.trial is not None
        self.first.trial.leaves_scopes = True

    async def run(self, pending: Any, *, enters: bool) -> tuple[Step, Any]:
        given: tuple[Step, Any] | None = None
        raised: BaseException | None = None
        try:
            async with trio.open_nursery() as self._nursery:
                try:
                    given = await super().run(pending, enters=enters)
                except BaseException as error:  # noqa: BLE001  # a nursery would put it in a group
                    raised = error
                finally:
                    self._disarm()
            if raised is not None:
                raise raised
            assert given is not None
            return given
        finally:
            self._nursery = given = raised = pending = None

    def _call_after(self, seconds: float, callback: Callable[[], object]) -> Any:
        scope, ends_at = trio.CancelScope(), runtime.clock() + seconds

        async def wait() -> None:
            with suppress(trio.Cancelled), scope:
                left = ends_at - runtime.clock()
                if left > 0:  # a fake clock may have been moved before this task began
                    with runtime.time.cancel_after(left):
                        await trio.sleep_forever()
                callback()

        self._nursery.start_soon(wait)
        return scope

    def _call_soon(self, callback: Callable[[], object]) -> None:
        async def call() -> None:
            self._inside(callback)

        self._nursery.start_soon(call)

    def _start_task(self, racer: Racer) -> None:
        scope = trio.CancelScope()
        racer.scope, racer.stop = scope, scope.cancel

        async def run() -> None:
            racer.context = trio.lowlevel.current_task().context
            await self._run(racer)

        self._callers.copy().run(self._nursery.start_soon, run)

    async def _wait(self) -> None:
        self._event = trio.Event()
        try:
            await self._event.wait()
        finally:
            self._event = None

    def _wake(self) -> None:
        if self._event is not None:
            self._event.set()

    async def _wait_for_verdict(self, racer: Racer) -> None:
        if racer.has_won is None:
            racer.woken = trio.Event()
            await racer.woken.wait()

    def _host(self, racer: Racer) -> None:
        pass  # a nursery ends where it began

    def _decided(self, racer: Racer) -> None:
        if racer.woken is not None:
            racer.woken.set()

    def _is_cancellation(self, error: BaseException | None) -> bool:
        return issubclass(type(error), trio.Cancelled)

    async def _check_cancelled(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()

    def _shielded(self) -> AbstractContextManager[Any]:
        return trio.CancelScope(shield=True)
