"""A coroutine that is cancelled at each of its steps in turn.

A step is what lies between two moments at which a coroutine lets others run. `cancelled_at` runs
one and cancels it as it is about to let others run for the n-th time: under asyncio it cancels
the task, under trio a scope around the coroutine. `through_all_steps` goes through all n there are.
"""

from __future__ import annotations

import asyncio
import functools
import gc
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import anyio.lowlevel
import trio

from resilient_llm import configure, testing
from resilient_llm._core.circuit.permit import held_leases
from resilient_llm._runtime.runtime import runtime
from resilient_llm.testing import FakeClock
from tests.support.ways import run_async


class _Stepped:
    """Awaits a coroutine and calls a function before it lets others run for the n-th time."""

    def __init__(
        self, coroutine: Coroutine[Any, Any, Any], n: int, at_n: Callable[[], object]
    ) -> None:
        self._coroutine = coroutine
        self._n = n
        self._at_n = at_n
        self.steps = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        waits = self._coroutine.__await__()
        give: Callable[[], Any] = functools.partial(waits.send, None)
        while True:
            try:
                wanted = give()
            except StopIteration as done:
                return done.value
            if self.steps == self._n:
                self._at_n()
            self.steps += 1
            try:
                sent = yield wanted
            except BaseException as error:
                give = functools.partial(waits.throw, error)
            else:
                give = functools.partial(waits.send, sent)


async def cancelled_at(
    n: int,
    call: Callable[[], Coroutine[Any, Any, Any]],
    backend: str,
    *,
    at_once: bool = False,
    ends_with: tuple[type[Exception], ...] = (),
) -> bool:
    """Run a coroutine and cancel it at its n-th step; return whether it came that far.

    Args:
        n: The step, from 0.
        call: Makes the coroutine.
        backend: The loop it runs on.
        at_once: Whether it has to end there as cancelled, since its clean-up lets nobody run.
        ends_with: Errors with which it may end.
    """
    if backend == "trio":
        with trio.CancelScope() as scope:
            stepped = _Stepped(call(), n, scope.cancel)
            try:
                await stepped
            except ends_with:
                pass
        came = stepped.steps > n
        assert not at_once or scope.cancelled_caught is came, "it went on although it was cancelled"
        return came
    task: asyncio.Task[bool] | None = None

    async def run() -> bool:
        assert task is not None
        stepped = _Stepped(call(), n, task.cancel)
        cancelled = False
        try:
            await stepped
        except asyncio.CancelledError:
            cancelled = True
        except ends_with:
            pass
        came = stepped.steps > n
        assert not at_once or cancelled is came, "it went on although it was cancelled"
        assert not at_once or stepped.steps <= n + 1, "its clean-up let others run"
        return came

    task = asyncio.ensure_future(run())
    return await task


def through_all_steps(
    backend: str,
    prepare: Callable[[FakeClock], Any],
    call: Callable[[Any], Coroutine[Any, Any, Any]],
    check: Callable[[Any], None],
    *,
    at_once: bool = False,
    ends_with: tuple[type[Exception], ...] = (),
    collects: bool = False,
) -> int:
    """Cancel a call at each of its steps in turn, each time in a fresh state; return how many there are.

    Args:
        backend: The loop it runs on.
        prepare: Makes what the call is given.
        call: Makes the coroutine.
        check: Looks at what the call left behind.
        at_once: As for `cancelled_at`.
        ends_with: As for `cancelled_at`.
        collects: Whether garbage is collected before anything is checked.
    """

    async def once(n: int, clock: FakeClock) -> bool:
        state = prepare(clock)
        came = await cancelled_at(
            n, lambda: call(state), backend, at_once=at_once, ends_with=ends_with
        )
        if collects:
            gc.collect()
            await anyio.lowlevel.checkpoint()
        try:
            assert () == held_leases(), "a lease is held"
            assert [] == _other_tasks(backend), "something runs"
            check(state)
        except AssertionError as error:
            error.add_note(f"cancelled at step {n}")
            raise
        return came

    n = 0
    while True:
        with testing.isolated(), testing.fake_clock() as clock:
            configure(logging=False)
            came = run_async(functools.partial(once, n, clock), backend=backend)
        if not came:
            return n
        n += 1


def _other_tasks(backend: str) -> list[Any]:
    if backend == "asyncio":
        return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    return [
        each
        for nursery in trio.lowlevel.current_task().child_nurseries
        for each in nursery.child_tasks
    ]


def no_lease_is_taken(*keys: str) -> None:
    """Check that the circuits of some keys have given out no lease of a probe or of a last resort."""
    for key in keys:
        circuit = runtime.registry.find(key)
        if circuit is None:
            continue
        circuit.state(runtime.clock())  # takes in what was given back without waiting
        state = circuit._state
        assert state.half is None or [] == state.half.leases
        assert all(
            layer is None or layer.last_resort is None for layer in (state.opened, state.pause)
        )
