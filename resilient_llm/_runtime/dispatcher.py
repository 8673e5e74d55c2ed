"""Delivers events: owns the process-wide observers and the order of delivery.

An event is queued on its key when it happens, under the key's lock if there is one, and
delivered outside every lock by the first thread that is free to do so. One thread at a time
delivers the events of a key, so they arrive in order. A thread that finds another one
delivering leaves its events to that thread and goes on.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any, Protocol

from resilient_llm._core.circuit.circuit import CallTag
from resilient_llm._core.circuit.state import FOREVER
from resilient_llm._values import event_names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from resilient_llm._core.circuit.circuit import Circuit
    from resilient_llm._values import events as ev


class LogLine(Protocol):
    """Writes a log line that is not an event."""

    def __call__(self, text: str, /, *, warning: bool = False) -> None: ...


class Dispatcher:
    """The process-wide observers of one state of the process."""

    def __init__(self, moment: Callable[[float], datetime]) -> None:
        self._moment = moment
        self._lock = threading.RLock()
        self._observers: tuple[tuple[Callable[[Any], object], tuple[type[ev.Event], ...]], ...] = ()
        self._wanted: frozenset[str] = frozenset()
        self._failed_before: dict[int, weakref.ref[Any]] = {}
        """``{id of an observer that has failed: the observer}``, while the observer exists."""
        self.log: Callable[[ev.Event], object] | None = None
        """The default observer; None when it is switched off."""
        self.logs: Callable[[event_names.EventName], bool] = lambda _: False
        """Whether the default observer would log this type of event now."""

        self._make_succeeded: Callable[[datetime, str, str, int, float], ev.Event] | None = None
        """Makes the event of a healthy call; None before the first one."""
        self.log_line: LogLine | None = None
        """Writes a line that is not an event to the log of the default observer, or None."""
        self.seen_retrying: set[str] = set()
        """Providers whose clients were seen to retry by themselves."""

    def has_listeners(self, kind: event_names.EventName, tag: CallTag | None = None, /) -> bool:
        """Return whether an observer listens to this type of event."""
        if kind in self._wanted or (tag is not None and tag.observers):
            return True
        return self.log is not None and self.logs(kind)

    def has_success_listeners(self) -> bool:
        """Return whether a process-wide observer listens to successful attempts."""
        return event_names.AttemptSucceeded in self._wanted

    def has_skip_listeners(self) -> bool:
        """Return whether an observer listens to skipped targets."""
        return self.has_listeners(event_names.TargetSkipped)

    def subscribe(
        self, callback: Callable[[Any], object], types: tuple[type[ev.Event], ...]
    ) -> Callable[[], None]:
        """Add an observer of these types, or of all types; return the function that removes it."""
        entry = (callback, types)
        with self._lock:
            self._change((*self._observers, entry))

        def unsubscribe() -> None:
            with self._lock:
                self._change(tuple(each for each in self._observers if each is not entry))

        return unsubscribe

    def _change(
        self, observers: tuple[tuple[Callable[[Any], object], tuple[type[ev.Event], ...]], ...]
    ) -> None:
        self._observers = observers
        from resilient_llm._values.events import Event

        wanted: set[str] = set()
        for _, types in observers:
            for kind in types or (Event,):
                wanted.update(_names(kind))
        self._wanted = frozenset(wanted)

    def deliver(self, circuit: Circuit, /) -> None:
        """Deliver the events that are queued on a key, unless another thread is doing so."""
        outbox, delivering = circuit.outbox, circuit.delivering
        # Checked again after the release, so that an event queued meanwhile is delivered too.
        while outbox:
            is_ours = False
            # Around the acquisition too: after an interrupt between the two, the lock would stay
            # held and no event of this key would ever be delivered.
            try:
                is_ours = delivering.acquire(blocking=False)
                if not is_ours:
                    return
                while outbox:
                    kind, happened_at, details = outbox.popleft()
                    self.dispatch(kind, circuit.key, happened_at, details)
            finally:
                if is_ours:
                    delivering.release()

    def answered(
        self,
        circuit: Circuit,
        now: float,
        seconds: float,
        call_id: str,
        observers: tuple[Callable[[Any], object], ...],
    ) -> None:
        """Deliver that a first attempt answered, as ``circuit.emit`` would; only quicker.

        It is the one event of a healthy call. If nothing waits in the outbox and no other thread
        delivers the key's events, it need not be queued to be in order.
        """
        is_ours = False
        try:
            is_ours = not circuit.outbox and circuit.delivering.acquire(blocking=False)
            if is_ours:
                make = self._make_succeeded or self._load_make_succeeded()
                event = make(self._moment(now), call_id, circuit.key, 1, seconds)
                if self.log is not None and self.logs(event_names.AttemptSucceeded):
                    self._hand(self.log, event)
                for callback, types in self._observers:
                    if not types or isinstance(event, types):
                        self._hand(callback, event)
                for callback in observers:
                    self._hand(callback, event)
        finally:
            if is_ours:
                circuit.delivering.release()
        if not is_ours:
            tag = CallTag(call_id, observers)
            circuit.emit(event_names.AttemptSucceeded, now, number=1, seconds=seconds, tag=tag)
        elif circuit.outbox:
            self.deliver(circuit)

    def _load_make_succeeded(self) -> Callable[[datetime, str, str, int, float], ev.Event]:
        from resilient_llm._values.events import attempt_succeeded  # loads all events

        self._make_succeeded = attempt_succeeded
        return attempt_succeeded

    def dispatch(
        self, kind: event_names.EventName, key: str, happened_at: float, details: dict[str, Any]
    ) -> None:
        """Build one event and pass it to the observers that listen to its type."""
        from resilient_llm._values import events as _events

        tag: CallTag | None = details.pop("tag", None)
        if "until" in details:
            until = details["until"]
            details["until"] = None if until is None or until == FOREVER else self._moment(until)
        make: Callable[..., ev.Event] = getattr(_events, kind)
        call_id = "" if tag is None else tag.call_id
        event = make(at=self._moment(happened_at), target=key, call_id=call_id, **details)
        if self.log is not None and self.logs(kind):
            self._hand(self.log, event)
        for callback, types in self._observers:
            if not types or isinstance(event, types):
                self._hand(callback, event)
        for callback in () if tag is None else tag.observers:
            self._hand(callback, event)

    def settings_changed(self, key: str, options: Mapping[str, Any]) -> None:
        """Log that a guard changed the setting of its circuit."""
        if self.log_line is not None:
            named = ", ".join(f"{name}={value!r}" for name, value in options.items())
            self.log_line(f"breaker {key}: {named}")

    def after_fork(self) -> None:
        self._lock = threading.RLock()

    def _hand(self, callback: Callable[[Any], object], event: ev.Event) -> None:
        try:
            callback(event)
        except Exception as error:  # noqa: BLE001  # an observer must never break a call
            self._observer_failed(callback, type(error).__name__, event)

    def _fails_first(self, callback: Callable[[Any], object]) -> bool:
        """Return whether this is the first failure of an observer, and remember the failure."""
        number, failed_before = id(callback), self._failed_before
        if number in failed_before:
            return False
        try:
            failed_before[number] = weakref.ref(callback, lambda _: failed_before.pop(number, None))
        except TypeError:  # without weak references every failure is reported
            pass
        return True

    def _observer_failed(
        self, callback: Callable[[Any], object], type_name: str, event: ev.Event
    ) -> None:
        from resilient_llm._values.events import ObserverFailed

        if not self._fails_first(callback) or isinstance(event, ObserverFailed):
            return
        failed = ObserverFailed(
            at=event.at, target=event.target, call_id=event.call_id, type_name=type_name
        )
        if self.log is not None and callback is not self.log:
            self._hand(self.log, failed)
        for other, types in self._observers:
            if other is not callback and (not types or isinstance(failed, types)):
                self._hand(other, failed)


def _names(kind: type[ev.Event]) -> set[str]:
    names = {kind.__name__}
    for sub in kind.__subclasses__():
        names |= _names(sub)
    return names
