"""Which task runs, and how to wake a loop from elsewhere; without importing a loop."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


def current_task() -> object:
    """Return the asyncio or trio task that runs here, or None in synchronous code."""
    trio: Any = sys.modules.get("trio")
    if trio is not None:
        try:
            return trio.lowlevel.current_task()
        except RuntimeError:
            pass
    asyncio: Any = sys.modules.get("asyncio")
    if asyncio is not None:
        try:
            return asyncio.current_task()
        except RuntimeError:
            pass
    return None


_closing: set[Any] = set()
"""Tasks that nobody waits for, which a loop refers to only weakly."""


def spawn(work: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Let a task of the loop that runs here do something soon; without a loop it is not done."""
    if sys.is_finalizing():
        return
    trio: Any = sys.modules.get("trio")
    if trio is not None:
        try:
            trio.lowlevel.spawn_system_task(work)
        except RuntimeError:
            pass
        else:
            return
    import asyncio

    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return
    task = loop.create_task(work())
    _closing.add(task)
    task.add_done_callback(_closing.discard)


def waker() -> Callable[[Callable[[], object]], object]:
    """Return what runs a function soon in the loop that runs here, callable from any thread.

    Raises:
        RuntimeError: If no asyncio or trio loop runs here.
    """
    trio: Any = sys.modules.get("trio")
    if trio is not None:
        try:
            return trio.lowlevel.current_trio_token().run_sync_soon
        except RuntimeError:
            pass
    import asyncio

    return asyncio.get_running_loop().call_soon_threadsafe
