"""`Background`: work that a daemon thread does, such as writing a journal or sending a webhook.

Owns the threads, and what they do when the process forks and when it exits. What is to be done, and
the queue for it, belong to who makes a `Background`.

Theory of operation. `wake` asks the thread to work, and starts it if there is none. It is called by
observers, so it runs on the path of every call that is observed, and also in signal handlers and
finalisers. It takes no lock: `queue.SimpleQueue` may be entered again by the thread that is inside
it, and the lock around the start of a thread is only ever tried. `threading.Thread.start` does take
one, which the code that was interrupted may hold. So a bare thread starts the one that works, and
the caller waits for neither. Nothing else than `wake` is needed to get everything done: a wake that
comes while the thread works stays in the queue.

*Working*   One thread at a time works: the thread itself, or one that calls `flush`. The lock of
            that names its owner (see ``HOLDER`` in _core/circuit/outbox.py) and is only tried, so a
            signal handler that raises leaves it free, and one that calls `flush` in the midst of
            the work returns at once. If the thread finds it taken, who has it wakes the thread
            afterwards.
*Starting*  If no thread can be started (there may be too many, and at exit none can be), one
            warning says so. A wake after `_AFTER_FAILURE` tries again; `flush` and the exit do the
            work without a thread.
*Ending*    `end` lets the thread end. A `Background` ends with the state of the process that it was
            made in, so one that is made inside ``isolated()`` ends with that block. At the exit of
            the process all of them have `AT_EXIT` seconds together.
*Forking*   The child has no thread. It forgets what the parent wanted to do, and starts its own
            thread when it is woken, or at once if it works periodically.
"""

from __future__ import annotations

import _thread
import atexit
import math
import os
import queue
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._core.circuit.outbox import HOLDER
from resilient_llm._runtime.clock import SystemClock
from resilient_llm._runtime.runtime import runtime

if TYPE_CHECKING:
    from collections.abc import Callable

AT_EXIT: Final = 1.0
"""Seconds that the exit of the process waits for all work together."""
_AFTER_FAILURE: Final = 1.0
"""Seconds before the next try after an error of the work, or of the start of the thread."""
_LOOK_AGAIN: Final = 0.005
"""Seconds between two looks whether another thread has finished."""

_now: Final = SystemClock.monotonic
"""Real seconds, also under ``fake_clock()`` and where an application freezes the time."""


class Background:
    """Does some work in a daemon thread when it is woken, and periodically if that is wanted."""

    def __init__(
        self,
        name: str,
        work: Callable[[float], bool],
        *,
        due: Callable[[], float] = lambda: math.inf,
        period: float = math.inf,
        gather: float = 0.0,
        in_thread: bool = False,
        after_fork: Callable[[], object] = lambda: None,
    ) -> None:
        """Attach the work to the present state of the process; the thread starts later.

        Args:
            name: Of the thread, and in warnings.
            work: Does what is due and returns whether all of it was done. Takes the moment, by
                `remaining`, at which it has to return; infinite in the thread. Never runs twice
                at a time. What it raises is logged once, by its class. In the thread this
                includes what is not an Exception, unless it asks the thread to end.
            due: Returns the seconds after which the thread works without being woken; asked after
                each work. These are real seconds: under ``fake_clock()`` call `flush`.
            period: Seconds after which it works at the latest. If finite, the thread starts with
                `start`, also in a forked child; otherwise when it is first woken.
            gather: Seconds that the thread waits after it was woken, so that it works once for all
                that comes in quick succession.
            in_thread: Whether `flush` has the thread work, if there can be one, and waits for it:
                for work that cannot keep to its moment, such as resolving the name of a host.
            after_fork: Called in a forked child, to empty queues and replace locks.
        """
        self.name = name
        self._work = work
        self._due = due
        self._period = period
        self._gather = gather
        self._in_thread = in_thread
        self._renew = after_fork
        self._is_over = False
        self._has_warned = False
        self._new_thread()
        _all[id(self)] = weakref.ref(self, _forgotten(id(self)))
        self._attached = runtime.attached
        self._attached[self] = None

    def _new_thread(self) -> None:
        self.is_woken = False
        """Whether `wake` has nothing to do; asked where events come quickly."""
        self._is_hurried = False
        """Whether somebody waits for the thread, so that it must not gather."""
        self._has_raised = False
        self._flushes = self._flushed = 0
        """How many flushes wait for the thread, ever, and how many it has done."""
        self._flush_until = math.inf
        self._flush_result = False
        self._calls: queue.SimpleQueue[None] = queue.SimpleQueue()
        """Asks the thread to work; has an entry if ``is_woken``, and sometimes one more."""
        self._working: dict[str, object] = {}
        """The lock of the thread that works: see `HOLDER`."""
        self._worker = 0
        self._starts: dict[str, object] = {}
        """The lock of who starts the thread, kept while there is one: see `HOLDER`."""
        self._starts_at = -math.inf
        """When a thread may be started again after that has failed."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended: nothing wakes it any more."""
        return self._is_over

    def start(self) -> None:
        """Start the thread now, for periodic work."""
        if not self._is_over:
            self._start()

    def await_exit(self) -> None:
        """Have the exit of the process do what is left, also what begins only while it exits."""
        _register_exit()

    def wake(self) -> None:
        """Have the thread work soon. Allowed anywhere; returns at once and raises nothing."""
        try:
            if not self.is_woken:
                # No call between these two: another thread would see the first without the second.
                self.is_woken = True
                self._calls.put(None)
            if not self._starts:
                self._start()
        except BaseException:
            self.is_woken = False  # a signal handler raised: the next wake does all of it
            raise

    def flush(self, timeout: float = 1.0) -> bool:
        """Do what the thread would do now, and wait for that.

        The caller itself does it, unless the work wants to be done in the thread.

        Args:
            timeout: Real seconds after which it returns in any case.

        Returns:
            Whether everything that was due was done in time.
        """
        until = _now() + timeout
        if self._in_thread and self._worker != threading.get_ident() and not self._is_over:
            done = self._flush_in_thread(until)
            if done is not None:
                return done
        while True:
            if self._worker == threading.get_ident():
                return False  # a signal handler, or the work itself, in the midst of it
            done = self._try(until)
            if done is not None:
                return done
            left = remaining(until)
            if left <= 0.0:
                return False
            time.sleep(min(left, _LOOK_AGAIN))

    def _flush_in_thread(self, until: float) -> bool | None:
        """Have the thread work, and wait for it; return None if there is no thread."""
        if not self._starts and not self.is_woken:
            return None  # there is nothing to do
        self._flush_until = until
        self._flushes += 1
        mine = self._flushes
        self._is_hurried = True
        self._calls.put(None)
        if not self._starts:
            self._start()
        while self._flushed < mine:
            if not self._starts:
                return None
            left = remaining(until)
            if left <= 0.0:
                return False
            time.sleep(min(left, _LOOK_AGAIN))
        return self._flush_result

    def _work_in_thread(self) -> bool:
        """Work, for the flushes that wait if there are some; return False if another works."""
        flushes = self._flushes
        is_waited_for = flushes > self._flushed
        done = self._try(self._flush_until if is_waited_for else math.inf, in_thread=True)
        if done is None:
            return False
        if is_waited_for:
            self._flush_result, self._flushed = done, flushes
        return True

    def end(self) -> None:
        """Let the thread end after what it is doing. What is not done needs a `flush` before."""
        self._is_over = True
        self._attached.pop(self, None)
        self._calls.put(None)

    def after_fork(self) -> None:
        """Forget, in a child process, what the parent was doing."""
        had_thread = bool(self._starts)
        self._new_thread()
        self._has_warned = False
        self._renew()
        if had_thread and self._period < math.inf:
            self.start()

    @property
    def has_thread(self) -> bool:
        """Whether its thread runs, or is about to."""
        return bool(self._starts)

    @property
    def has_begun(self) -> bool:
        """Whether it was ever woken or started."""
        return bool(self._starts) or self.is_woken or self._starts_at > -math.inf

    def hurry(self) -> None:
        """Wake the thread if there is one, and let it not gather."""
        self._is_hurried = True
        if self._starts:
            self._calls.put(None)

    def _start(self) -> None:
        if self._is_over or _now() < self._starts_at or is_exiting():
            return
        starts, me, has_started = self._starts, object(), False
        try:
            if starts.setdefault(HOLDER, me) is me:
                _register_exit()
                _thread.start_new_thread(_launch, (self, self._calls, starts))
                has_started = True
        except RuntimeError as error:
            self._cannot_start(error)
        finally:
            try:
                if not has_started and starts[HOLDER] is me:
                    del starts[HOLDER]
            except KeyError:  # another thread has started it, and it has ended
                pass

    def _cannot_start(self, error: RuntimeError) -> None:
        self._starts_at = _now() + _AFTER_FAILURE
        self.is_woken = False
        self._warn(f"no thread can be started now: {error}")

    def _try(self, until: float, *, in_thread: bool = False) -> bool | None:
        """Work, unless another thread does; return whether all was done, or None.

        What is not an Exception goes to the caller of a flush. The thread has no caller.
        """
        working, me = self._working, object()
        try:
            if working.setdefault(HOLDER, me) is not me:
                return None
            self._worker = threading.get_ident()
            done = self._work(until)
        except BaseException as error:
            if not isinstance(error, Exception) and (not in_thread or _ends_thread(error)):
                raise
            self._has_raised = True  # one failure must not end the thread
            self._warn(f"failed with {type(error).__name__}")
            return False
        finally:
            try:
                if working[HOLDER] is me:
                    self._worker = 0
                    del working[HOLDER]
            except KeyError:  # another thread held it, and does not any more
                pass
        return done

    def _warn(self, text: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            warn(f"{self.name}: {text}")

    def _pause(self) -> float:
        """Return the seconds until the next work that nobody asks for."""
        has_raised, self._has_raised = self._has_raised, False
        try:
            due = self._due()
        except BaseException as error:
            if _ends_thread(error):
                raise
            has_raised = True
            due = 0.0
            self._warn(f"failed with {type(error).__name__}")
        return min(self._period, max(due, _AFTER_FAILURE if has_raised else 0.0))


def _ends_thread(error: BaseException) -> bool:
    """Return whether an error asks a thread to end, or a greenlet: gevent's ``kill`` waits."""
    greenlet: Any = sys.modules.get("greenlet")
    killed = () if greenlet is None else greenlet.GreenletExit
    return isinstance(error, (KeyboardInterrupt, SystemExit, killed))


def raise_if_asked(error: BaseException) -> None:
    """Raise what asks the thread that runs this to end: an interrupt, or the kill of a greenlet.

    In a thread of ours, an interrupt is what foreign code raises itself.
    """
    is_interrupt = isinstance(error, (KeyboardInterrupt, SystemExit))
    if is_interrupt and threading.current_thread() is threading.main_thread():
        raise error
    greenlet: Any = sys.modules.get("greenlet")
    if greenlet is not None and isinstance(error, greenlet.GreenletExit):
        raise error


def _launch(
    background: Background, calls: queue.SimpleQueue[None], starts: dict[str, object]
) -> None:
    """Start the thread that works, from a thread that is inside nothing."""
    thread = threading.Thread(
        target=_run,
        args=(background, calls, starts),
        name=f"resilient_llm-{background.name}",
        daemon=True,
    )
    try:
        thread.start()
    except RuntimeError as error:
        background._cannot_start(error)
        starts.clear()


def _run(background: Background, calls: queue.SimpleQueue[None], starts: dict[str, object]) -> None:
    """Work until it is over; the body of the thread."""
    try:
        pause = background._pause()
        while True:
            try:
                calls.get(timeout=None if pause == math.inf else min(pause, threading.TIMEOUT_MAX))
                if background._gather and not background._is_hurried and not background._is_over:
                    _gather(background, calls)
            except queue.Empty:
                pass
            if background._is_over:
                calls.put(None)  # an interrupt may have had two threads started
                return
            # Before the work: what is woken from here on needs another one.
            background._is_hurried = background.is_woken = False
            if not background._work_in_thread():
                # A flush works, and what came meanwhile may be too late for it.
                time.sleep(_LOOK_AGAIN)
                background.wake()
            pause = background._pause()
    finally:
        starts.clear()


def _gather(background: Background, calls: queue.SimpleQueue[None]) -> None:
    """Wait for more to do, unless somebody waits for it."""
    try:
        calls.get(timeout=background._gather)  # a second entry comes from `hurry` and `end` only
    except queue.Empty:
        pass


def remaining(until: float) -> float:
    """Return the real seconds until a moment that work was given, at least 0."""
    return math.inf if until == math.inf else max(0.0, until - _now())


def deadline(timeout: float) -> float:
    """Return the moment, as work takes it, after so many real seconds."""
    return _now() + timeout


def warn(text: str) -> None:
    """Log a warning, also with ``logging=False``: nobody else sees what a thread cannot do."""
    import logging  # here: it takes a while to load

    try:
        logging.getLogger("resilient_llm").warning("%s", text)
    except Exception:  # noqa: BLE001, S110  # a handler that fails is not the business of a thread
        pass


# All of the process: for forks and for the exit.

_all: Final[dict[int, weakref.ref[Background]]] = {}
"""``{id: its Background}``, while it exists."""


_ends_at: Final[dict[str, float]] = {}
"""When the exit goes on without what is not done; empty before."""
_exit_of: Final[dict[str, int]] = {}
"""The process whose exit calls `_at_exit`; empty before it was registered in this one."""


def _forgotten(number: int) -> Callable[[weakref.ref[Background]], None]:
    def forget(gone: weakref.ref[Background]) -> None:
        if _all.get(number) is gone:
            del _all[number]

    return forget


def _existing() -> list[Background]:
    return [each for each in (known() for known in list(_all.values())) if each is not None]


def _register_exit() -> None:
    """Have `_at_exit` called when this process exits, also if it is a child."""
    # Again in each process: multiprocessing forgets the functions that its parent registered, and
    # has its own list for children that it forks. But once in each: what is registered while the
    # process exits is not called, and it may be another function of the exit that starts a thread.
    if _exit_of.get("process") == os.getpid():
        return
    atexit.unregister(_at_exit)
    atexit.register(_at_exit)
    util: Any = sys.modules.get("multiprocessing.util")
    process: Any = sys.modules.get("multiprocessing.process")
    if util is not None and process is not None and process.parent_process() is not None:
        util.Finalize(None, _at_exit, exitpriority=0)
    _exit_of["process"] = os.getpid()  # last: after an interrupt before this line, it is done again


def _at_exit() -> None:
    """Do what is left, all together within `AT_EXIT`."""
    # Once for the process, whoever calls this how often.
    until = _ends_at.setdefault("exit", _now() + AT_EXIT)
    left = [each for each in _existing() if each.has_begun and not each.is_over]
    for each in left:
        each.hurry()
    # What has a thread is done by that meanwhile.
    interrupt: BaseException | None = None
    for each in sorted(left, key=lambda each: each.has_thread):
        try:
            each.flush(remaining(until))
        except BaseException as error:  # noqa: BLE001  # raised below; the others are flushed too
            interrupt = interrupt or error
    if interrupt is not None:
        try:
            raise interrupt
        finally:
            del interrupt  # its traceback refers to this frame


def is_exiting() -> bool:
    """Return whether the process exits, so that what waits is done now or never."""
    return bool(_ends_at)


def _after_fork() -> None:
    _ends_at.clear()
    _exit_of.clear()
    for each in _existing():
        if not each.is_over:
            each.after_fork()
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None and any(each.has_thread for each in _existing()):
        # A child of multiprocessing forgets next what was registered until now.
        util.register_after_fork(_at_exit, _register_exit_anew)


def _register_exit_anew(_: object) -> None:
    _exit_of.clear()
    _register_exit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
