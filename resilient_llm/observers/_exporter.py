"""`Exporter`: what every ``install`` of an exporter returns, and what each of them is built on.

It subscribes functions to events, has a thread if it needs one, counts what is dropped, and ends
with the state of the process that it was installed in. This module alone knows the runtime; an
exporter knows this module, and what it exports to.
"""

from __future__ import annotations

import math
import os
import socket
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._runtime.background import (
    AT_EXIT,
    Background,
    deadline,
    is_exiting,
    remaining,
    warn,
)
from resilient_llm._runtime.expiry import Watching, watch_benches
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values import checks as check
from resilient_llm._version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from resilient_llm._core.call.hooks import Hook
    from resilient_llm._core.circuit.outbox import Subscription
    from resilient_llm._runtime.clock import Alarm
    from resilient_llm._runtime.counting import Reading
    from resilient_llm._values import events as ev

__all__ = [
    "AT_END",
    "VERSION",
    "Exporter",
    "alarm",
    "installed",
    "is_time_faked",
    "process_name",
    "reading",
    "remaining",
    "seconds_now",
    "warn",
]

VERSION: Final = __version__
"""Of this library, for what tells the version of its source."""
AT_END: Final = AT_EXIT
"""Seconds that an exporter may still work when it is uninstalled."""


class Exporter:
    """An installed exporter. Calling it uninstalls it; a second call does nothing.

    What waits is still exported then, for at most 1 s. An exporter that was installed inside
    ``isolated()`` is uninstalled at the end of that block.
    """

    def __init__(
        self,
        name: str,
        *,
        work: Callable[[float], bool] | None = None,
        due: Callable[[], float] = lambda: math.inf,
        period: float = math.inf,
        gather: float = 0.0,
        in_thread: bool = False,
        after_fork: Callable[[], object] = lambda: None,
        close: Callable[[], object] = lambda: None,
    ) -> None:
        """Attach an exporter to the present state of the process; `listen` subscribes it.

        Args:
            name: Of the exporter, as in its thread, in warnings and in labels.
            work: What its thread does, or None for an exporter without a thread. This and the next
                four as in `Background`.
            due: When it works without being woken.
            period: When it works at the latest.
            gather: How long it waits for more to do.
            in_thread: Whether it alone does it, if there can be a thread.
            after_fork: Called in a forked child, to empty queues.
            close: Called once when it is uninstalled, after the last work.
        """
        self.name = name
        self.background = None
        """Its thread, or None."""
        if work is not None:
            self.background = Background(
                name,
                work,
                due=due,
                period=period,
                gather=gather,
                in_thread=in_thread,
                after_fork=self._after_fork,
            )
        self._renew = after_fork
        self._close = close
        self._is_over = False
        self._dropped = 0
        self._listeners = runtime.dispatcher.listeners
        self._subscriptions: tuple[Subscription, ...] = ()
        self._watching: Watching | None = None
        self._leave_calls: Callable[[], None] | None = None
        self._has_warned = False
        self._attached = runtime.attached
        self._attached[self] = None

    @property
    def dropped(self) -> int:
        """How many events were dropped, in this process, since it was installed."""
        return self._dropped + sum(each.dropped for each in self._subscriptions)

    def drop(self, count: int = 1) -> None:
        """Count dropped events; for the exporter itself."""
        self._dropped += count

    def listen(self, callback: Callable[[Any], object], *types: type[ev.Event]) -> None:
        """Call a function with each event of these types, or of all types if none is named.

        Events of calls that have begun already are left out. The function runs on the threads of
        the calls: it should append to a queue and wake the thread.
        """
        now = runtime.clock()
        renew = self._after_fork if self.background is None else None
        subscription = self._listeners.subscribe(callback, types, renew, since=now)
        self._subscriptions = (*self._subscriptions, subscription)
        runtime.unbind_all()

    def watch_benches(self) -> None:
        """Have the ends of benches emitted within 2 s without traffic, while it is installed."""
        if self._watching is None:
            self._watching = watch_benches()

    def enter_calls(self, hook: Hook) -> None:
        """Enter and leave a hook around each call that starts from now on; for the exporter itself.

        Unlike a function that listens, it runs in the context of the call.
        """
        self._leave_calls = runtime.add_hook(hook)

    @property
    def entered(self) -> Sequence[Hook]:
        """The hooks that are entered around each call, of this exporter and of all others."""
        return runtime.dispatcher.hooks

    def moment(self, monotonic: float) -> datetime:
        """Return the aware UTC datetime of monotonic seconds."""
        return runtime.moment(monotonic)

    def steady_moment(self, monotonic: float) -> datetime:
        """Return the aware UTC datetime of the end of a bench, as it is shown everywhere."""
        return runtime.steady_moment(monotonic)

    def lose(self, text: str) -> None:
        """Count something that could not be exported; the first time, log why as a warning."""
        self.drop()
        if not self._has_warned:
            self._has_warned = self.warn(text)

    def warn(self, text: str) -> bool:
        """Log a warning; return whether anything is logged at all."""
        line = runtime.dispatcher.log_line
        if line is None:
            return False
        line(f"exporter {self.name}: {text}", warning=True)
        return True

    def wake(self) -> None:
        """Have the thread work soon; for the exporter itself."""
        if self.background is not None:
            self.background.wake()

    def flush(self, timeout: float = 1.0) -> bool:
        """Do at once, in the caller, what the thread of the exporter would do.

        Works under ``fake_clock()``, too.

        Args:
            timeout: Seconds after which it returns in any case.

        Returns:
            Whether everything that was due was exported in time.

        Raises:
            ConfigurationError: If ``timeout`` is not a number of seconds, 0 or more.
        """
        until = deadline(check.seconds("timeout", timeout, zero=True))
        if self._watching is not None and not self._is_over:
            self._watching.flush(remaining(until))
        return self.background is None or self.background.flush(remaining(until))

    def __call__(self) -> None:
        """Uninstall it, after what waits was exported, for at most 1 s."""
        if self._is_over:
            return
        self._is_over = True
        self._attached.pop(self, None)
        for each in self._subscriptions:
            self._listeners.unsubscribe(each)
        if self._subscriptions:
            runtime.unbind_all()
        if self._leave_calls is not None:
            self._leave_calls()
        try:
            self.flush(AT_END)
        finally:
            if self._watching is not None:
                self._watching()
            if self.background is not None:
                self.background.end()
            self._close()

    end = __call__

    @property
    def is_over(self) -> bool:
        """Whether it was uninstalled."""
        return self._is_over

    @property
    def is_ending(self) -> bool:
        """Whether it was uninstalled or the process exits, so that nothing can wait any more."""
        return self._is_over or is_exiting()

    def _after_fork(self) -> None:
        """Start in a forked child with empty queues and counts."""
        self._dropped = 0
        for each in self._subscriptions:
            each.dropped = 0
        self._renew()

    def __repr__(self) -> str:
        over = ", uninstalled" if self._is_over else ""
        return f"<Exporter {self.name}{over}, {self.dropped} dropped>"


def process_name() -> str:
    """Return what names this process: the ``state_name`` of `configure`, or ``host:pid``.

    Keep in sync with the name under which the process publishes to a store (``mirror.usual_name``).
    """
    return runtime.settings.state_name or f"{socket.gethostname()[:100]}:{os.getpid()}"


def seconds_now() -> float:
    """Return monotonic seconds, which ``fake_clock()`` moves."""
    return runtime.clock()


def is_time_faked() -> bool:
    """Return whether a test moves the time, so that waiting for it would be in vain."""
    return runtime.time is not runtime.system_clock


def alarm() -> Alarm:
    """Return a limit, in real seconds, on what a thread waits for at a socket."""
    return runtime.system_clock.alarm()


def installed() -> list[Exporter]:
    """Return the exporters of the present state of the process, in the order of their installs."""
    return [each for each in list(runtime.attached) if isinstance(each, Exporter)]


def reading(bounds: tuple[float, ...], most: int) -> Reading:
    """Begin to count the calls of the present state, for an exporter of metrics.

    Args:
        bounds: Upper bounds of the buckets of seconds, ascending, without infinity.
        most: Keys that are told apart.
    """
    from resilient_llm._runtime.counting import Reading  # loaded with the first such exporter

    return Reading(bounds, most)
