"""The outbox of one key: what happened to the key and has not reached every observer.

Owns two stages of queues. The circuit, and whoever else emits for the key, appends to ``pending``.
The dispatcher moves each fact from there to the `Inbox` of every observer that listens to it, and
hands it over from there. How it does that is written in ``_runtime/dispatcher.py``.

Appending takes no lock, so it is allowed under the circuit's lock, in a signal handler and in a
finaliser.

The queues are lists. ``append(fact)`` and ``pop(0)`` are atomic, as those of a deque are. An empty
list takes a tenth of a deque's memory, and nearly every queue is empty. Taking from the front moves
the rest, which for `MOST_WAITING` facts takes less time than building one event.
"""

from __future__ import annotations

import math
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from resilient_llm._values.event_names import EventName

MOST_WAITING: Final = 1_000
"""Facts of one key that wait for one observer; then the oldest are dropped."""

HOLDER: Final = "holder"
"""The only key of a lock.

A lock of an outbox is only ever tried, and is a dict: empty, or ``{HOLDER: who holds it}``. A
thread that tries it brings an object ``me`` of its own. ``lock.setdefault(HOLDER, me) is me`` takes
the lock and notes the owner in one step. A `threading.Lock` answers whether it was taken, and a
signal handler that raises between this answer and its assignment leaves a lock without a
known owner: CPython runs handlers after a call. The lock here tells its owner at any time, so a
``finally`` around the attempt can release it. There must be no call before the release in that
``finally``, since a handler could raise there, too.
"""
REMOVED: Final = "removed"
"""Holds the lock of a removed inbox, for good."""


class CallTag:
    """Which call an event belongs to, and the call's observers besides the process-wide ones."""

    # No slots: what most calls leave alone is a default of the class.
    cause: tuple[Outbox, Fact] | None = None
    """The failed attempt that is being charged, and the outbox it belongs to."""
    others = 0
    """Events of other calls that this call has delivered."""
    others_seconds = 0.0
    """Seconds that this call has spent on them."""

    began_at = math.inf
    """When the call began, monotonic; for those who listen to later calls only."""

    def __init__(self, call_id: str | Callable[[], str], observers: tuple[Any, ...] = ()) -> None:
        """Take the name of the call, or what gives it one when it is first asked for."""
        self._call_id = call_id
        self.observers = observers

    @property
    def call_id(self) -> str:
        """Name of the call."""
        name = self._call_id
        if not isinstance(name, str):
            name = self._call_id = name()
        return name

    def append_cause(self) -> Outbox | None:
        """Append the failed attempt that the call charges to its outbox, and return that.

        The circuit that is charged does this under its lock when it counts the failure. So the
        attempt comes before the bench that it causes, also where that is the provider's, and an
        observer that asks for the state sees the one after it.
        """
        if self.cause is None:
            return None
        (outbox, fact), self.cause = self.cause, None
        outbox.add(fact)
        return outbox


class Fact:
    """Something that happened to a key: what an event is built from, once an observer takes it."""

    __slots__ = (
        "event",
        "fields",
        "happened_at",
        "kind",
        "line",
        "not_for",
        "tag",
        "thread",
    )

    def __init__(
        self,
        kind: EventName,
        happened_at: float,
        tag: CallTag | None = None,
        fields: Mapping[str, Any] | None = None,
        *,
        line: str = "",
        not_for: object = None,
        event: Any = None,
    ) -> None:
        self.kind: EventName = kind
        self.happened_at = happened_at
        self.tag = tag
        if tag is not None:
            tag.call_id  # noqa: B018  # named by the call's own thread: others may build the event
        self.fields: Mapping[str, Any] = {} if fields is None else fields
        self.thread = threading.get_ident() if tag is None else 0
        """The thread in which it happened, if no call is known."""
        self.line = line
        """A warning for the log, if this is not an event."""
        self.not_for = not_for
        """The callback whose failure this is; None for every other fact."""
        self.event = event
        """The event, once it is built; ``fields`` are not needed then."""


class Subscription:
    """One observer: its function and the names of the events it listens to."""

    __slots__ = ("callback", "dropped", "inboxes", "is_over", "names", "since")

    def __init__(
        self,
        callback: Callable[[Any], object],
        names: frozenset[str] | None = None,
        since: float = -math.inf,
    ) -> None:
        self.callback = callback
        self.since = since
        """Calls that began before this moment are not its business."""
        self.dropped = 0
        """Facts that were dropped because it was busy."""
        self.names = names
        """None for every event."""
        self.inboxes: dict[int, weakref.ref[Inbox]] = {}
        """``{id of an inbox: the inbox}``: where events wait for it, while the inbox exists."""
        self.is_over = False

    def end(self) -> None:
        """Note that the observer listens no more, and forget what waits for it."""
        self.is_over = True
        for reference in list(self.inboxes.values()):
            inbox = reference()
            if inbox is not None:
                inbox.queue.clear()


class Inbox:
    """The facts of one key that wait for one observer."""

    __slots__ = (
        "__weakref__",
        "busy",
        "has_dropped",
        "is_lasting",
        "observer",
        "queue",
        "turns",
    )

    def __init__(self, observer: Subscription, *, is_lasting: bool = True) -> None:
        self.queue: list[Fact] = []
        self.busy: dict[str, object] = {}
        """The lock of the thread that hands over from this inbox: see `HOLDER`."""
        self.has_dropped = False
        self.turns = 0
        """How often threads have let others run because the observer is busy."""
        self.serve(observer, is_lasting=is_lasting)

    @property
    def is_removed(self) -> bool:
        """Whether its observer may have another inbox by now."""
        return self.busy.get(HOLDER) is REMOVED

    def serve(self, observer: Subscription, *, is_lasting: bool) -> None:
        """Keep the facts of this observer from now on. Called while there are none.

        Args:
            observer: Who gets them.
            is_lasting: False for an observer of one policy, which may never come again.
        """
        self.observer = observer
        self.is_lasting = is_lasting
        number, inboxes = id(self), observer.inboxes
        inboxes[number] = weakref.ref(self, lambda _: inboxes.pop(number, None))


_NO_INBOXES: Final[dict[int, Inbox]] = {}
"""The inboxes of every key that has emitted nothing. Stays empty; saves memory."""


class Outbox:
    """The queues of one key."""

    __slots__ = ("dropped", "inboxes", "is_behind", "key", "pending", "routing")

    def __init__(self, key: str) -> None:
        self.key = key
        self.pending: list[Fact] = []
        self.routing: dict[str, object] = {}
        """The lock of the thread that moves facts to the inboxes: see `HOLDER`."""
        self.inboxes: dict[int, Inbox] = _NO_INBOXES
        """``{id of the observer: its inbox}``. Replaced under ``routing``, never changed, so that
        it can be read at any time."""
        self.dropped = 0
        """Facts dropped since the last warning about that."""
        self.is_behind = False
        """Whether a thread left facts in an inbox."""

    def __len__(self) -> int:
        return len(self.pending) + sum(len(inbox.queue) for inbox in self.inboxes.values())

    def add(self, fact: Fact) -> None:
        """Append a fact; atomic, allowed under any lock."""
        if len(self.pending) >= MOST_WAITING:
            self._drop(self.pending)
        self.pending.append(fact)

    def put(self, inbox: Inbox, fact: Fact) -> None:
        """Move a fact on to an inbox. Called under ``routing``."""
        if len(inbox.queue) >= MOST_WAITING:
            inbox.has_dropped = True
            inbox.observer.dropped += 1
            self._drop(inbox.queue)
        inbox.queue.append(fact)

    def _drop(self, queue: list[Fact]) -> None:
        try:
            queue.pop(0)
        except IndexError:  # another thread has emptied it
            return
        self.dropped += 1


class EventSink(Protocol):
    """Where the events of a key go. Nothing here is called under a circuit's lock."""

    def has_listeners(self, kind: EventName, tag: CallTag | None = None, /) -> bool: ...
    def emit(
        self,
        outbox: Outbox,
        kind: EventName,
        happened_at: float,
        tag: CallTag | None,
        /,
        **fields: Any,
    ) -> None: ...
    def deliver(self, outbox: Outbox, tag: CallTag | None = None, /) -> None: ...
