"""Tasks and coroutines, without importing an event loop.

Which task runs now, how to start one or to wake its loop from another thread, and how to run a
coroutine that needs no loop.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeVar

from resilient_llm._values.built_in import cause_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_Result = TypeVar("_Result")


def run_to_end(coroutine: Coroutine[Any, Any, _Result]) -> _Result:
    """Run a coroutine that never suspends, in synchronous code; return what it returns.

    What it raises leaves unchanged. That includes a ``StopIteration`` of the user's own code,
    which Python replaces by a ``RuntimeError`` where it leaves a coroutine.
    """
    stopped: BaseException | None = None
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    except RuntimeError as error:
        stopped = cause_of(error)
        if stopped is None or not _is_of_python(error):
            raise
    finally:
        coroutine.close()  # an interrupt may have come before it ran
    if stopped is None:
        raise RuntimeError("a coroutine of synchronous code was suspended")
    try:
        raise stopped
    finally:
        del stopped  # its traceback refers to this frame


def _is_of_python(error: RuntimeError) -> bool:
    """Return whether Python put this error in the place of a ``StopIteration`` of a coroutine here.

    The user's code may raise one that looks the same, but it is raised in a frame of its own.
    """
    if type(error) is not RuntimeError or error.args != ("coroutine raised StopIteration",):
        return False
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    return step is not None and step.tb_frame.f_globals.get("__name__", "").startswith(__package__)


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
"""Started tasks: an event loop itself keeps only weak references to them."""


def spawn(work: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Start a task in the loop that runs here; without a loop the work is not done."""
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
    """Return a function, callable from any thread, that runs another soon in the present loop.

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
