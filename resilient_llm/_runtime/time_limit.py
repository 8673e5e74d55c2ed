"""Limits on asynchronous waits, which end them by a cancellation.

Foreign code may keep a task group or a cancel scope open while it gives an item, or after it was
entered: an agent's run, a session of MCP. A cancel scope of ours around such a wait would have to
be left before the one inside it, which neither trio nor anyio allow. So on asyncio the task is
cancelled by a timer, as by ``asyncio.timeout``, which has no place among the scopes. trio has no
such thing: there `innermost_scope` tells that foreign code has opened a scope and not closed it,
and the limit is refused.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import TracebackType

_AGAIN: Final = 5.0
"""Seconds after which a task that took a cancellation and goes on is cancelled again."""


class CancelScope(Protocol):
    """The part of a cancel scope that the asynchronous driver uses."""

    @property
    def cancel_called(self) -> bool: ...


class Cancellable(CancelScope, Protocol):
    """A scope that somebody else cancels."""

    def cancel(self) -> None: ...


def cancel_after(seconds: float) -> AbstractContextManager[CancelScope]:
    """Return a context manager that cancels what runs inside it after so many seconds."""
    if is_trio():
        import trio

        return trio.move_on_after(max(seconds, 0.0))
    return TaskScope(seconds)


def cancellable() -> AbstractContextManager[Cancellable]:
    """Return a context manager that cancels what runs inside it when it is told to."""
    if is_trio():
        import trio

        return trio.CancelScope()
    return TaskScope()


def is_trio() -> bool:
    """Return whether trio runs the present task."""
    trio: Any = sys.modules.get("trio")
    return trio is not None and trio.lowlevel.in_trio_run()


def innermost_scope(*, of_anyio: bool = False) -> object:
    """Return what stands for the innermost open scope of a task of trio; None on asyncio.

    Args:
        of_anyio: Whether to return that of anyio on asyncio, if it has one.
    """
    trio: Any = sys.modules.get("trio")
    if trio is None or not trio.lowlevel.in_trio_run():
        return _scope_of_anyio() if of_anyio else None
    # There is no public name for it. Without this one, trio itself says what is wrong.
    return getattr(trio.lowlevel.current_task(), "_cancel_status", None)


def _scope_of_anyio() -> object:
    """Return the innermost open scope of anyio in a task of asyncio; None if that is not known."""
    backend: Any = sys.modules.get("anyio._backends._asyncio")
    # There is no public name for it. Without this one, anyio itself says what is wrong.
    states = getattr(backend, "_task_states", None)
    task = asyncio.current_task()
    if states is None or task is None:
        return None
    return getattr(states.get(task), "cancel_scope", None)


class TaskScope:
    """Cancels the asyncio task that enters it, and takes its own cancellations back.

    Args:
        seconds: After how long; None if somebody else calls `cancel`, in a callback of the loop.
    """

    __slots__ = ("_calls", "_count", "_seconds", "_task", "_timer")

    def __init__(self, seconds: float | None = None) -> None:
        self._seconds = seconds
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.Handle | None = None
        self._count = 0
        self._calls = 0

    @property
    def counted_before(self) -> int:
        """How often the task was cancelled before it entered this."""
        return self._count

    @property
    def cancel_called(self) -> bool:
        """Whether the task was cancelled."""
        return self._calls > 0

    def __enter__(self) -> TaskScope:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a limit of time needs a task: run this code in one")
        self._task = task
        # A task factory may make tasks that do not count.
        self._count = task.cancelling() if hasattr(task, "cancelling") else 0
        if self._seconds is not None:
            loop = asyncio.get_running_loop()
            self._timer = (
                loop.call_later(self._seconds, self.cancel)
                if self._seconds > 0
                else loop.call_soon(self.cancel)
            )
        return self

    def cancel(self) -> None:
        """Cancel the task, and again if it goes on in spite of that."""
        task = self._task
        if task is None:
            return
        self._calls += 1
        self._timer = asyncio.get_running_loop().call_later(_AGAIN, self.cancel)
        task.cancel()

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        task, self._task = self._task, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._calls or task is None:
            return False
        left = 0
        if hasattr(task, "uncancel"):
            for _ in range(self._calls):
                left = task.uncancel()
        is_own = left <= self._count
        return is_own and error_type is not None and issubclass(error_type, asyncio.CancelledError)
