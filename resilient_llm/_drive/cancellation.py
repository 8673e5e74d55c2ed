"""Tells whether a cancellation from outside ended an attempt whose client raised something else.

A client may answer a cancellation with an error of its own, as in ``except CancelledError: raise
ConnectionError``. Such an attempt is judged as cancelled: to call another target, or to wait for
a retry, would hold up the code that has cancelled, and its answer would come too late.

Looks only at tasks of loops that run already, and only where an attempt has raised an error: a
healthy call pays nothing. Owns the counts of cancellations that it has seen.
"""

from __future__ import annotations

import math
import sys
import weakref
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.built_in import cause_of, context_of, members_of, traceback_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_PENDING: Final = float("-inf")
"""The deadline that trio and anyio name where a cancellation has begun."""

_Seen = tuple[int, float, int]

_seen_counts: weakref.WeakKeyDictionary[Any, _Seen] = weakref.WeakKeyDictionary()
"""``{asyncio task: (how often it was cancelled when one of its attempts last ended in an error
or a cancellation, when that was, how often before)}``"""


def cancellations() -> int:
    """Return how often the asyncio task that runs here was cancelled; 0 without one."""
    task = _asyncio_task()
    return 0 if task is None else task.cancelling()


def was_cut_off(error: BaseException) -> bool:
    """Return whether a limit around the call that raised this error has ended its wait.

    In synchronous code such a limit shuts down the connection that the thread is waiting for. What
    the client raises then is as little the fault of its target as a cancellation would be.
    """
    return issubclass(type(error), Exception) and is_cut_off()


def is_cut_off() -> bool:
    """Return whether the wait of this thread was ended: by a limit, or by closing its stream."""
    return runtime.time.is_cut_off() or is_closed_elsewhere()


def is_closed_elsewhere() -> bool:
    """Return whether another thread closes a stream that this one reads just now."""
    watchdog: Any = sys.modules.get("resilient_llm._runtime.watchdog")
    return watchdog is not None and watchdog.is_closing()


def refuse_cut_off() -> None:
    """Refuse what came to its end because the wait of this thread was ended.

    A connection that was shut down may look like one that has ended in order.

    Raises:
        ConnectionAbortedError: If it was ended.
    """
    if is_cut_off():
        raise ConnectionAbortedError("the read was ended by a limit, or by closing the stream")


def refuse_closed() -> None:
    """Make no further attempt for a stream that another thread closes.

    Raises:
        ConnectionAbortedError: If it is closed.
    """
    if is_closed_elsewhere():
        raise ConnectionAbortedError("the stream was closed")


def was_cancelled(
    error: BaseException,
    before: int | None = None,
    *,
    own: int = 0,
    since: float = math.inf,
) -> bool:
    """Return whether the attempt that raised this error was cancelled from outside.

    Call it outside the attempt's own cancel scope, so that only what comes from outside counts.

    On trio, and in a cancel scope of anyio, a cancellation stays in force until its scope is
    left, so the answer is exact. asyncio only counts: a task may have been cancelled earlier, and
    have gone on without ``uncancel()``. Where the count at the beginning of the attempt is not
    known, the chain of the error decides. A cancellation that went through the code of the
    attempt is in it, and so is one that code around the attempt is handling now. Without any
    trace of one, the count of the last attempt of the task that ended in an error or in a
    cancellation is taken for that at the beginning. So one failover is lost where a task has
    swallowed a cancellation outside its calls, and the error of its first call, without a limit
    of time, is the first thing that this module sees of it.

    Args:
        error: What the attempt raised. A cancellation itself is noted, and is not asked about.
        before: What `cancellations` gave before the attempt, or None.
        own: Cancellations of the attempt's own limit that are still counted.
        since: When the attempt began; what was noted later says nothing of its beginning.
    """
    if not issubclass(type(error), Exception):
        _note_cancellation(error)
        return False
    if runtime.time.is_cut_off():
        return True
    trio: Any = sys.modules.get("trio")
    if trio is not None:
        try:
            return trio.current_effective_deadline() == _PENDING
        except RuntimeError:
            pass
    task = _asyncio_task()
    if task is None:
        return False
    count: int = task.cancelling() - own
    if count <= 0:
        if _seen_counts:
            _seen_counts.pop(task, None)
        return False
    seen = _note(task, count, since)
    anyio: Any = sys.modules.get("anyio")
    if anyio is not None and anyio.current_effective_deadline() == _PENDING:
        return True
    if before is not None:
        return count > before
    went_through = _went_through(error)
    return count > seen if went_through is None else went_through


def _note_cancellation(error: BaseException) -> None:
    """Note a cancellation that leaves an attempt: its task may swallow it, and call again."""
    asyncio: Any = sys.modules.get("asyncio")
    if asyncio is not None and issubclass(type(error), asyncio.CancelledError):
        task = _asyncio_task()
        if task is not None and task.cancelling():
            _note(task, task.cancelling(), math.inf)


def _note(task: Any, count: int, since: float) -> int:
    """Note how often a task was cancelled by now; return how often when an attempt began."""
    last, noted_at, earlier = _seen_counts.get(task, (0, 0.0, 0))
    if count != last:
        _seen_counts[task] = count, runtime.clock(), last
    return last if noted_at <= since else earlier


def comes_of_a_cancellation(error: BaseException) -> bool:
    """Return whether an error was raised while a cancellation was handled.

    A limit may end in the moment in which the provider's own refusal arrives: that counts.
    """
    import anyio

    cancelled = anyio.get_cancelled_exc_class()
    return any(issubclass(type(each), cancelled) for each, _ in _chain(error))


def _went_through(error: BaseException) -> bool | None:
    """Return whether a cancellation went through the code of an attempt that raised an error.

    Returns:
        False if the chain of the error has only one that code around the attempt is handling;
        None if it has none.
    """
    from asyncio import CancelledError

    found = [inside for each, inside in _chain(error) if issubclass(type(each), CancelledError)]
    return any(found) if found else None


def _chain(error: BaseException) -> Iterator[tuple[BaseException, bool]]:
    """Yield the errors that one was raised from or during, and whether each belongs to it.

    One that belongs to it was caught in a frame that a later one has passed. Another was caught
    further out, by code that is handling it while all this happens.
    """
    frames: set[FrameType] = set()
    waiting: list[tuple[BaseException | None, bool, bool]] = [(error, True, True)]
    seen: set[int] = set()
    while waiting:
        each, belongs, is_known = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        step = traceback_of(each)
        if belongs and not is_known:
            belongs = step is None or step.tb_frame in frames
        while belongs and step is not None:
            frames.add(step.tb_frame)
            step = step.tb_next
        yield each, belongs
        waiting += ((inner, belongs, False) for inner in (context_of(each), cause_of(each)))
        if issubclass(type(each), BaseExceptionGroup):
            # They were raised in tasks with frames of their own.
            waiting += ((member, belongs, True) for member in members_of(each))


def _asyncio_task() -> Any:
    """Return the asyncio task that runs here, or None."""
    asyncio: Any = sys.modules.get("asyncio")
    if asyncio is None:
        return None
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return None
    # A task factory may make others, which lack the one or the other.
    return task if hasattr(task, "cancelling") and type(task).__weakrefoffset__ else None
