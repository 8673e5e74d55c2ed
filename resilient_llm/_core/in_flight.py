"""Counts the attempts that are running on each key, for the strategy ``least_busy``.

Owns one `InFlight` per key and the calls that count in it. Nothing of this exists while no policy
uses that strategy: calls that begin before the first one is bound are not counted, neither when
they begin nor when they end.

Theory of operation. An attempt adds one to ``running`` of its key when it begins, and takes one
from the same object when it ends: ``+= 1`` and ``-= 1`` on a slot, which no other thread comes
between (see circuit/window.py). Each attempt ends once, by the same reports by which exporters
count it (see counts.py): it is answered, or it emits that it failed or was cancelled, or nothing
was asked of it. A wrapper adds next to the statement that begins the attempt, without a call
between, so that no interrupt comes between the two. Where `window.LOCK_FREE` is False, both take
the lock of the key.

A function refers to the `InFlight` of its keys as long as it exists, and nothing else does, so keys
that come and go leave nothing behind.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._core.circuit import window
from resilient_llm._values import event_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from resilient_llm._core.counts import FunctionCounts, TargetCounts
    from resilient_llm._values.target import Target

_ENDS: Final = (
    event_names.AttemptSucceeded,
    event_names.AttemptFailed,
    event_names.AttemptCancelled,
)
"""Facts by which an attempt ends."""


class InFlight:
    """How many attempts are running on one key.

    Attributes:
        running: Their number.
    """

    __slots__ = ("__weakref__", "_lock", "running")

    def __init__(self) -> None:
        self.running = 0
        self._lock = threading.RLock()

    def begin(self) -> None:
        """Count that an attempt begins."""
        if window.LOCK_FREE:
            self.running += 1
            return
        with self._lock:
            self.running += 1

    def end(self) -> None:
        """Count that an attempt has ended."""
        if window.LOCK_FREE:
            self.running -= 1
            return
        with self._lock:
            self.running -= 1


class KeysInFlight:
    """What is in flight on each key, of one state of the process."""

    __slots__ = ("_keys", "_lock", "_users")

    def __init__(self) -> None:
        self._keys: weakref.WeakValueDictionary[str, InFlight] = weakref.WeakValueDictionary()
        self._users: dict[int, weakref.ref[Any]] = {}
        """``{id: who chooses by these counts}``, while it exists."""
        self._lock = threading.RLock()

    def of(self, key: str) -> InFlight:
        """Return the counts of a key. Called when a function is bound, so it may take a lock."""
        with self._lock:
            found = self._keys.get(key)
            if found is None:
                found = self._keys[key] = InFlight()
            return found

    def use(self, user: object) -> None:
        """Note that somebody chooses by these counts, as long as it exists."""
        number, users = id(user), self._users
        if number not in users:
            users[number] = weakref.ref(user, lambda gone: _let_go(users, number, gone))

    def leave(self, user: object) -> None:
        """Note that somebody does not choose by them any more."""
        self._users.pop(id(user), None)

    @property
    def is_used(self) -> bool:
        """Whether anybody chooses by these counts, so that calls must be counted."""
        return bool(self._users)


def _let_go(users: dict[int, weakref.ref[Any]], number: int, gone: weakref.ref[Any]) -> None:
    if users.get(number) is gone:
        del users[number]


class TargetInFlight:
    """Where the attempts of one function on one target are counted.

    Has what the code of a wrapper and of a call asks of `TargetCounts`.

    Attributes:
        function: That of the whole function.
        in_flight: The counts of the key.
        inner: Where an exporter of metrics counts the same, or None.
    """

    __slots__ = ("function", "in_flight", "inner")

    def __init__(
        self, function: FunctionInFlight, in_flight: InFlight, inner: TargetCounts | None
    ) -> None:
        self.function = function
        self.in_flight = in_flight
        self.inner = inner

    def __reduce__(self) -> tuple[Any, ...]:
        # Counts are of one process; the globals of a wrapper that is sent by value hold some.
        return _nothing, ()

    def begin(self) -> None:
        self.in_flight.begin()
        if self.inner is not None:
            self.inner.begin()

    def answer(self, seconds: float) -> None:
        self.in_flight.end()
        if self.inner is not None:
            self.inner.answer(seconds)

    def end(self) -> None:
        self.in_flight.end()
        if self.inner is not None:
            self.inner.end()


def _nothing() -> None:
    return None


class FunctionInFlight:
    """Counts what is in flight of the calls of one function, and passes on what exporters count.

    Has what the code of a call asks of `FunctionCounts`.
    """

    __slots__ = ("inner", "is_exported", "targets")

    def __init__(
        self, keys: KeysInFlight, chain: Sequence[Target], inner: FunctionCounts | None
    ) -> None:
        self.inner = inner
        self.is_exported = inner is not None
        """Whether an exporter of metrics counts as well."""
        self.targets = {
            target.key: TargetInFlight(
                self, keys.of(target.key), None if inner is None else inner.target(target.key)
            )
            for target in chain
        }

    def target(self, key: str) -> TargetInFlight:
        return self.targets[key]

    def of(self, key: str) -> InFlight:
        """Return what is in flight on one of the keys, over all functions."""
        return self.targets[key].in_flight

    def call_cancelled(self) -> None:
        if self.inner is not None:
            self.inner.call_cancelled()

    def call_failed(self) -> None:
        if self.inner is not None:
            self.inner.call_failed()

    def note(self, kind: event_names.EventName, key: str, details: Mapping[str, Any]) -> None:
        if kind in _ENDS:
            self.targets[key].in_flight.end()
        if self.inner is not None:
            self.inner.note(kind, key, details)

    def skipped(self, key: str, reason: str, *, manual: bool) -> None:
        if self.inner is not None:
            self.inner.skipped(key, reason, manual=manual)


if TYPE_CHECKING:
    Counts = FunctionCounts | FunctionInFlight
    """Where the calls of a function are counted."""
    CountsOfTarget = TargetCounts | TargetInFlight
