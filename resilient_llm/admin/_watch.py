"""`Watch`: the thread of an app. It brings events to the feed, takes samples, and notices expiry.

Owns the events that wait for the thread. It refers to the app's parts, and nothing of it to the
app: an app that nobody has any more ends its thread.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING, Final, get_args

from resilient_llm._runtime.background import Background
from resilient_llm._runtime.clock import SystemClock
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values import event_names, events
from resilient_llm.admin._feed import Feed
from resilient_llm.admin._samples import EVERY, Samples

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient_llm._core.circuit.outbox import Subscription
    from resilient_llm._runtime.listening import Listeners
    from resilient_llm._values.events import Event, StoreUnavailable

MOST_WAITING: Final = 10_000
_GATHER: Final = 0.02
"""Seconds for which events are gathered before the readers are woken."""
_LOOK_EVERY: Final = 1.0
"""Seconds between two looks at benches, at which one that is over emits its event."""

TYPES: Final[tuple[type[Event], ...]] = tuple(
    getattr(events, name)
    for name in get_args(event_names.EventName)
    if name not in (event_names.AttemptSucceeded, event_names.SpendRecorded)
)
"""Every type but those of a healthy call, which then costs nothing."""


class Watch:
    """Events, samples and expiry, for one state of the process."""

    def __init__(self) -> None:
        self.feed = Feed()
        self.samples = Samples()
        self.outage: StoreUnavailable | None = None
        """Since when and why the store cannot be used; None if it can be."""
        self._waiting: deque[Event] = deque(maxlen=MOST_WAITING)
        self._dispatcher = runtime.dispatcher
        self._next_sample = 0.0
        self._next_look = 0.0
        myself: weakref.ref[Watch] = weakref.ref(self)
        self._background = Background(
            "admin",
            lambda until: _work(myself, until),
            due=lambda: 0.0 if _has_work(myself) else _LOOK_EVERY,
            period=_LOOK_EVERY,
            gather=_GATHER,
            after_fork=lambda: _forget(myself),
        )
        listeners = runtime.dispatcher.listeners
        subscription = listeners.subscribe(_observer(myself), TYPES)
        runtime.unbind_all()
        end = weakref.finalize(self, _end, listeners, subscription, self._background)
        end.atexit = False
        self._background.start()

    def add(self, event: Event) -> None:
        """Take an event; called by observers, on any thread."""
        self._waiting.append(event)
        self._background.wake()

    def catch_up(self, timeout: float = 1.0) -> bool:
        """Do now what the thread would do; return whether that was possible in time."""
        return self._background.flush(timeout)

    def start(self) -> None:
        """Start the thread where there is none yet, as in a child that was forked."""
        if not self._background.has_thread:
            self._background.start()

    def has_work(self) -> bool:
        """Whether events wait."""
        return bool(self._waiting)

    def work(self) -> None:
        """Do what is due."""
        now = SystemClock.monotonic()
        if runtime.dispatcher is self._dispatcher and now >= self._next_look:
            self._next_look = now + _LOOK_EVERY / 2
            _emit_ends()
        has_new = False
        for _ in range(len(self._waiting)):  # and not what comes meanwhile: somebody may wait
            event = self._waiting.popleft()
            if isinstance(event, events.AttemptFailed):
                self.samples.failed(event.target)
            elif isinstance(event, events.StoreUnavailable):
                self.outage = event
            elif isinstance(event, events.StoreAvailable):
                self.outage = None
            self.feed.add(event)
            has_new = True
        if has_new:
            self.feed.ring()
        if runtime.dispatcher is self._dispatcher and now >= self._next_sample:
            self._next_sample = now + EVERY
            self.samples.take()

    def forget(self) -> None:
        """Start empty in a forked child."""
        self._waiting = deque(maxlen=MOST_WAITING)
        self.feed.forget()
        self.samples = Samples()
        self.outage = None
        self._next_sample = self._next_look = 0.0


def _observer(myself: weakref.ref[Watch]) -> Callable[[Event], None]:
    def observe(event: Event) -> None:
        watch = myself()
        if watch is not None:
            watch.add(event)

    return observe


def _emit_ends() -> None:
    """Have the end of each bench emitted that has run out, though nobody calls."""
    # Not by `watch_benches`: its end takes a lock, which a finaliser must not wait for.
    now = runtime.clock()
    for circuit in list(runtime.registry.kept.values()):
        if circuit.has_run_out(now):
            circuit.announce_end(now)


def _work(myself: weakref.ref[Watch], until: float) -> bool:
    watch = myself()
    if watch is not None:
        watch.work()
    return True


def _has_work(myself: weakref.ref[Watch]) -> bool:
    watch = myself()
    return watch is not None and watch.has_work()


def _forget(myself: weakref.ref[Watch]) -> None:
    watch = myself()
    if watch is not None:
        watch.forget()


def _end(listeners: Listeners, subscription: Subscription, background: Background) -> None:
    """End what an app has begun; called by a finaliser, so nothing here takes a lock."""
    listeners.unsubscribe(subscription)
    background.end()
