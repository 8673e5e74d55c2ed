"""Delivers events: owns the default observer and the order of delivery.

Who else listens to the events of the process is written in ``listening.py``.

Theory of operation. An event begins as a `Fact` in the `Outbox` of its key, appended when it
happens, under the key's lock if there is one. Everything after that is done outside every
circuit's lock, by the thread that brought the fact or by one that comes later. Nothing runs in
the background.

*Routing*   The facts in ``outbox.pending`` are moved, in order, to the `Inbox` of each observer
            that listens to them. The only foreign code that runs meanwhile is the logger's answer
            whether it writes this level. One thread at a time routes the facts of a key. A thread
            that finds another one routing leaves its facts to that one, which looks again after
            it has released the key.
*Handing*   Each observer is handed the facts of its inbox, in order. One thread at a time hands
            to one observer facts of one key. A thread that finds an observer busy leaves the facts
            in the inbox and goes on with the next observer: the thread that is inside the observer
            takes them when the observer returns. So an observer that blocks holds up the one
            thread that it blocks, and neither a caller nor another observer.

Both locks are only ever tried. Hence no thread waits here, and neither a signal handler nor a
finaliser nor an observer that uses the library can cause a deadlock, wherever it interrupts: its
facts stay in a queue, and the code that was interrupted takes them when it goes on. A signal
handler that raises ends that code. Then both locks are free again, since each of them names its
owner (see ``outbox.HOLDER``), and what waits is taken by the next thread that emits.

*Bounds*    An inbox holds at most `MOST_WAITING` facts; then the oldest are dropped. When the
            observer has caught up, one warning says how many. A call hands over its own facts and
            at most `MOST_OF_OTHERS` of other calls, and none of those after it has spent
            `LONGEST_FOR_OTHERS` seconds on them; what it has used is noted in its tag. Facts are
            handed over in order, so a call's own facts wait too when more than that is before
            them. What is left waits for the next thread that emits for this key. A call that has
            nothing to emit also delivers if a thread left something: see ``outbox.is_behind``.
            Facts of no call (a bench by hand, a guard, a change of health) belong to the thread
            that made them. They count among those of others, but are not left because of the time.
*Turns*     A quick observer seems busy, too, when the interpreter switches threads inside it: with
            16 threads that do nothing but emit, it goes on 15 switches and thousands of facts
            later. So a thread that finds a queue half full, and another thread at work on it, lets
            others run once before it goes on. It does not wait for the observer: if that is blocked
            for another reason, at most `MOST_TURNS` deliveries do so until it returns.
*One*       Most events have one observer, of the process or of the policy, and nothing waits. Then
            `emit` builds the event and hands it over at once, without a `Fact`. It looks at the
            queues in the order in which a fact passes them (pending, routing, inbox, busy): an
            earlier fact that is found in none of them has been handed over already.
*Idle*      The empty inbox of a policy's observer refers to no function: the policy may be gone.
            A key keeps a few, so that the next event of such an observer is handed over at once.
            Another one is removed by a thread that takes its lock and never releases it: a thread
            that looked the inbox up before does not use it after that, since the observer may have
            another inbox by then.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Final, Protocol, get_args

from resilient_llm._core.circuit.outbox import (
    HOLDER,
    MOST_WAITING,
    REMOVED,
    CallTag,
    Fact,
    Inbox,
    Outbox,
    Subscription,
)
from resilient_llm._core.circuit.state import FOREVER
from resilient_llm._runtime.listening import Listeners
from resilient_llm._values import event_names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from resilient_llm._core.call.hooks import Hook
    from resilient_llm._core.counts import Ledger
    from resilient_llm._values import events as ev

MOST_IDLE: Final = 4
"""How many idle inboxes of the observers of policies a key keeps; they refer to no observer."""
NOBODY: Final = Subscription(lambda _: None)
"""The observer of an idle inbox of a policy's observer; the next of that identity uses it."""

MOST_OF_OTHERS: Final = 32
"""Events of other calls that one call delivers."""
LONGEST_FOR_OTHERS: Final = 0.020
"""Seconds after which a call delivers none of them."""

CROWDED: Final = MOST_WAITING // 2
"""Facts in a queue from which on a thread lets others run before it leaves one more there."""
MOST_TURNS: Final = 128
"""How often that is done for one observer before it returns."""


class LogLine(Protocol):
    """Writes a log line that is not an event."""

    def __call__(self, text: str, /, *, warning: bool = False) -> None: ...


class DefaultObserver(Protocol):
    """The observer that writes the log."""

    def __call__(self, event: ev.Event, /) -> object: ...
    def logs(self, kind: str) -> bool: ...
    def line(self, text: str, /, *, warning: bool = False) -> None: ...


class _Share:
    """How much of the work for other calls one delivery may still do."""

    __slots__ = ("count", "has_given_way", "interrupt", "seconds", "tag", "thread")

    def __init__(self, tag: CallTag | None) -> None:
        self.tag = tag
        self.thread = threading.get_ident()
        self.count = 0 if tag is None else tag.others
        self.seconds = 0.0 if tag is None else tag.others_seconds
        self.interrupt: BaseException | None = None
        """The first KeyboardInterrupt or SystemExit that an observer raised."""
        self.has_given_way = False

    def give_way(self) -> None:
        """Let other threads run, once in this delivery."""
        if not self.has_given_way:
            self.has_given_way = True
            let_others_run()

    def is_own(self, fact: Fact) -> bool:
        """Return whether the call that delivers made this fact."""
        return fact.tag is not None and fact.tag is self.tag

    def allows(self, fact: Fact) -> bool:
        """Return whether this fact may be handed over now."""
        if self.is_own(fact):
            return True
        if self.count >= MOST_OF_OTHERS or self.interrupt is not None:
            return False
        return self.seconds < LONGEST_FOR_OTHERS or self._is_of_thread(fact)

    def charge(self, fact: Fact, seconds: float) -> None:
        """Note that a fact of another call was handed over."""
        self.count += 1
        if not self._is_of_thread(fact):
            self.seconds += seconds
        if self.tag is not None:
            self.tag.others, self.tag.others_seconds = self.count, self.seconds

    def _is_of_thread(self, fact: Fact) -> bool:
        return fact.tag is None and fact.thread == self.thread


def let_others_run() -> None:
    """Offer the interpreter to other threads, and go on as soon as it is free."""
    time.sleep(0)


class Dispatcher:
    """The process-wide observers of one state of the process."""

    def __init__(
        self,
        moment: Callable[[float], datetime],
        clock: Callable[[], float] = lambda: 0.0,
        steady_moment: Callable[[float], datetime] | None = None,
    ) -> None:
        self._moment = moment
        self._steady_moment = moment if steady_moment is None else steady_moment
        self._clock = clock
        self.listeners = Listeners()
        self.hooks: tuple[Hook, ...] = ()
        """What is entered and left around each call; exchanged as a whole, with all functions
        unbound: see ``_core/call/hooks.py``."""
        self._by_kind = self.listeners.by_kind
        self._failed_before: dict[int, weakref.ref[Any]] = {}
        """``{id of an observer that has failed: the observer}``, while the observer exists."""
        self.log: Callable[[ev.Event], object] | None = None
        """The default observer; None when it is switched off."""
        self.logs: Callable[[str], bool] = lambda _: False
        """Whether the default observer would log this type of event now."""
        self.log_line: LogLine | None = None
        """Writes a line that is not an event to the log of the default observer, or None."""
        self._log_subscription: Subscription | None = None
        self.ledger: Ledger | None = None
        """Where calls that begin now are counted; None while no exporter of metrics wants that."""
        self.of_process = Outbox("")
        """What happened to the process and to no key; its events have an empty target."""
        self.told_once: set[tuple[str, ...]] = set()
        """What the log had a line of that it has once: of what, and its names."""

    # Who listens.

    def use_log(self, observer: DefaultObserver | None) -> None:
        """Exchange the default observer; None switches it off."""
        if observer is None:
            subscription, logs, line = None, self.logs, None
        else:
            subscription, logs, line = Subscription(observer), observer.logs, observer.line
        # No call among the assignments: a signal handler that configures the library would find,
        # and leave, parts of two observers.
        before = self._log_subscription
        self._log_subscription = subscription
        self.logs, self.log_line, self.log = logs, line, observer
        if before is not None:
            before.end()

    def has_listeners(self, kind: event_names.EventName, tag: CallTag | None = None, /) -> bool:
        """Return whether an observer listens to this type of event."""
        if self._by_kind.get(kind) or (tag is not None and tag.observers):
            return True
        return self.log is not None and self.logs(kind)

    # Events.

    def emit(
        self,
        outbox: Outbox,
        kind: event_names.EventName,
        happened_at: float,
        tag: CallTag | None,
        /,
        **fields: Any,
    ) -> None:
        """Emit an event of a key, if an observer listens to its type. Called without a lock."""
        listeners: tuple[Subscription, ...] = self._by_kind.get(kind, ())
        observers: tuple[Any, ...] = () if tag is None else tag.observers
        event: ev.Event | None = None
        if tag is not None and self.listeners.since > tag.began_at:
            listeners = self.listeners.of_call(kind, tag.began_at)
        if self.log is None or not self.logs(kind):
            if not listeners and not observers:
                if outbox.is_behind:
                    self.deliver(outbox, tag)
                return
            if len(listeners) + len(observers) == 1:
                only = listeners[0] if listeners else observers[0]
                event = self._event(outbox.key, kind, happened_at, tag, fields)
                if self._hand_at_once(outbox, only, event, happened_at, tag):
                    return
        outbox.add(Fact(kind, happened_at, tag, fields, event=event))
        self.deliver(outbox, tag)

    def emit_success(
        self,
        outbox: Outbox,
        began_at: float,
        happened_at: float,
        seconds: float,
        call_id: str,
        observers: tuple[Any, ...],
        /,
    ) -> None:
        """Emit the success of a first attempt, as `emit` does: the event of every healthy call.

        The tag of the call is only made where something waits. A call whose event is handed over
        at once emits nothing after it, so what it did for others is not asked for.
        """
        kind = event_names.AttemptSucceeded
        listeners: tuple[Subscription, ...] = self._by_kind.get(kind, ())
        if (
            len(listeners) + len(observers) != 1
            or self.listeners.since > began_at
            or (self.log is not None and self.logs(kind))
        ):
            tag = CallTag(call_id, observers)
            tag.began_at = began_at
            self.emit(outbox, kind, happened_at, tag, number=1, seconds=seconds)
            return
        only = listeners[0] if listeners else observers[0]
        make = _classes.get(kind) or _class_of(kind)
        event = make(self._moment(happened_at), call_id, outbox.key, 1, seconds)
        if not self._hand_at_once(outbox, only, event, happened_at, None):
            tag = CallTag(call_id, observers)
            tag.began_at = began_at
            outbox.add(Fact(kind, happened_at, tag, event=event))
            self.deliver(outbox, tag)

    def _hand_at_once(
        self,
        outbox: Outbox,
        only: Any,
        event: ev.Event,
        happened_at: float,
        tag: CallTag | None,
    ) -> bool:
        """Hand an event to its only observer, if nothing is before it; return whether it was."""
        if outbox.pending or outbox.routing:
            return False
        inbox = outbox.inboxes.get(id(only))
        if inbox is None or inbox.queue:
            return False
        callback: Callable[[Any], object] = only.callback if type(only) is Subscription else only
        busy = inbox.busy
        try:
            if busy.setdefault(HOLDER, event) is not event:
                return False
            callback(event)
        except (KeyboardInterrupt, SystemExit):
            outbox.is_behind = True  # facts may have come meanwhile
            raise
        except BaseException as error:  # noqa: BLE001  # an observer must never break a call
            if self.fails_first(callback):
                if tag is None and event.call_id:
                    tag = CallTag(event.call_id)
                _add_failed(outbox, callback, error, happened_at, tag)
        finally:
            try:
                if busy[HOLDER] is event:
                    del busy[HOLDER]
            except KeyError:  # another thread held it meanwhile
                pass
        if inbox.queue or outbox.pending or outbox.is_behind:
            self.deliver(outbox, tag)
        return True

    def deliver(self, outbox: Outbox, tag: CallTag | None = None, /) -> None:
        """Deliver what waits in an outbox, as far as the share of the call goes.

        Raises:
            KeyboardInterrupt, SystemExit: If an observer raised it, after the others were called.
        """
        share = _Share(tag)
        outbox.is_behind = False
        try:
            self._route(outbox, share)
            while True:
                for inbox in outbox.inboxes.values():
                    if not inbox.queue:
                        continue
                    self._hand_over(outbox, inbox, share)
                if not self._route(outbox, share):
                    break
        except BaseException:
            outbox.is_behind = True  # a signal handler raised: the rest waits
            raise
        if share.interrupt is not None:
            try:
                raise share.interrupt
            finally:
                del share  # its traceback refers to this frame

    def settings_changed(self, key: str, options: Mapping[str, Any]) -> None:
        """Log that a guard changed the setting of its circuit."""
        if self.log_line is not None:
            named = ", ".join(f"{name}={value!r}" for name, value in options.items())
            self.log_line(f"breaker {key}: {named}")

    def after_fork(self) -> None:
        self.of_process = Outbox("")  # a thread of the parent may hold its locks
        self.listeners.after_fork()

    # Routing.

    def _route(self, outbox: Outbox, share: _Share) -> bool:
        """Move pending facts to the inboxes; return whether this thread moved any."""
        pending, routing = outbox.pending, outbox.routing
        has_routed = False
        # Checked again after the release, so that a fact appended meanwhile is routed too.
        while pending or _unused(outbox) or _holds_idle(outbox):
            try:
                if routing.setdefault(HOLDER, share) is not share:
                    if len(pending) >= CROWDED:
                        share.give_way()
                    break
                _let_go_of_idle(outbox)
                _remove_unused(outbox)
                for _ in range(len(pending)):
                    self._route_one(outbox, pending.pop(0))
                    has_routed = True
            except IndexError:  # `pending` was full, and another thread dropped the last fact
                continue
            finally:
                try:
                    if routing[HOLDER] is share:
                        del routing[HOLDER]
                except KeyError:  # another thread held it meanwhile
                    pass
        return has_routed

    def _route_one(self, outbox: Outbox, fact: Fact) -> None:
        log = self._log_subscription
        if (
            log is not None
            and log.callback is not fact.not_for
            and (fact.line or self.logs(fact.kind))
        ):
            self._put(outbox, id(log), log, fact)
        if fact.line:
            return
        began_at = math.inf if fact.tag is None else fact.tag.began_at
        for each in self.listeners.of_call(fact.kind, began_at):
            if each.callback is not fact.not_for:
                self._put(outbox, id(each), each, fact)
        if fact.tag is not None and fact.not_for is None:
            for callback in fact.tag.observers:
                self._put(outbox, id(callback), callback, fact)

    def _put(
        self,
        outbox: Outbox,
        number: int,
        observer: Subscription | Callable[[Any], object],
        fact: Fact,
    ) -> None:
        inbox = outbox.inboxes.get(number)
        if inbox is not None and inbox.is_removed:  # an interrupt came before it was taken out
            inbox = None
        if inbox is None or inbox.observer is NOBODY:
            is_lasting = isinstance(observer, Subscription)
            if not isinstance(observer, Subscription):
                observer = Subscription(observer)
            if inbox is None:
                inbox = Inbox(observer, is_lasting=is_lasting)
                outbox.inboxes = {**outbox.inboxes, number: inbox}
            else:
                # Also for an observer that has the number of one which is gone: a thread may have
                # looked it up for this observer, to hand over an event at once.
                inbox.serve(observer, is_lasting=is_lasting)
        outbox.put(inbox, fact)

    # Handing over.

    def _hand_over(self, outbox: Outbox, inbox: Inbox, share: _Share) -> None:
        """Hand the facts of an inbox to its observer, unless another thread is doing so."""
        queue, busy = inbox.queue, inbox.busy
        # Checked again after the release, so that a fact routed meanwhile is handed over too.
        while queue:
            try:
                if busy.setdefault(HOLDER, share) is not share:
                    outbox.is_behind = True
                    if len(queue) >= CROWDED and inbox.turns < MOST_TURNS:
                        inbox.turns += 1
                        share.give_way()
                    return
                while True:
                    if not queue:
                        break
                    fact = queue[0]
                    if not share.allows(fact):
                        outbox.is_behind = True
                        return
                    queue.pop(0)
                    inbox.turns = 0
                    self._hand(outbox, inbox.observer, fact, share)
                if inbox.has_dropped:
                    self._has_caught_up(outbox, inbox)
            except IndexError:  # the observer was unsubscribed
                continue
            finally:
                try:
                    if busy[HOLDER] is share:
                        del busy[HOLDER]
                except KeyError:  # another thread held it meanwhile
                    pass

    def _hand(self, outbox: Outbox, subscription: Subscription, fact: Fact, share: _Share) -> None:
        if share.is_own(fact):
            self._call(outbox, subscription, fact, share)
            return
        began_at = self._clock()
        self._call(outbox, subscription, fact, share)
        share.charge(fact, self._clock() - began_at)

    def _call(self, outbox: Outbox, subscription: Subscription, fact: Fact, share: _Share) -> None:
        try:
            if fact.line:
                if self.log_line is not None:
                    self.log_line(fact.line, warning=True)
                return
            event = fact.event
            if event is None:
                event = fact.event = self._event(
                    outbox.key, fact.kind, fact.happened_at, fact.tag, fact.fields
                )
            subscription.callback(event)
        except (KeyboardInterrupt, SystemExit) as interrupt:
            share.interrupt = share.interrupt or interrupt
        except BaseException as error:  # noqa: BLE001  # an observer must never break a call
            if self.fails_first(subscription.callback) and fact.not_for is None:
                _add_failed(outbox, subscription.callback, error, fact.happened_at, fact.tag)

    def _event(
        self,
        key: str,
        kind: event_names.EventName,
        happened_at: float,
        tag: CallTag | None,
        fields: Mapping[str, Any],
    ) -> ev.Event:
        make = _classes.get(kind) or _class_of(kind)
        if kind == event_names.TargetBenched:
            until: float = fields["until"]
            fields = {**fields, "until": None if until == FOREVER else self._steady_moment(until)}
        return make(
            at=self._moment(happened_at),
            call_id="" if tag is None else tag.call_id,
            target=key,
            **fields,
        )

    def _has_caught_up(self, outbox: Outbox, inbox: Inbox) -> None:
        """Warn of the events that an observer lost while it was busy."""
        inbox.has_dropped = False
        dropped, outbox.dropped = outbox.dropped, 0
        if dropped:
            outbox.add(
                Fact(
                    event_names.ObserverFailed,
                    0.0,
                    line=f"{outbox.key or 'process'}: {dropped} events were dropped: they came "
                    "faster than they could be handed to an observer or a log handler",
                )
            )

    def fails_first(self, callback: Callable[[Any], object]) -> bool:
        """Return whether a user's function fails for the first time, and remember that."""
        number, failed_before = id(callback), self._failed_before
        if number in failed_before:
            return False
        try:
            failed_before[number] = weakref.ref(callback, lambda _: failed_before.pop(number, None))
        except TypeError:  # without weak references every failure is reported
            pass
        return True


def _add_failed(
    outbox: Outbox,
    callback: Callable[[Any], object],
    error: BaseException,
    happened_at: float,
    tag: CallTag | None,
) -> None:
    """Append that an observer failed with an event that happened then."""
    fields = {"type_name": type(error).__name__}
    outbox.add(Fact(event_names.ObserverFailed, happened_at, tag, fields, not_for=callback))


def _is_idle(inbox: Inbox) -> bool:
    """Return whether an inbox of a policy's observer is empty and unused."""
    return not (inbox.is_lasting or inbox.queue or (inbox.busy and not inbox.is_removed))


def _let_go_of_idle(outbox: Outbox) -> None:
    """Have idle inboxes refer to no observer. Called with ``routing`` held."""
    for each in outbox.inboxes.values():
        if _is_idle(each):
            each.observer = NOBODY


def _holds_idle(outbox: Outbox) -> bool:
    """Return whether an idle inbox still refers to the observer of a policy."""
    return any(each.observer is not NOBODY and _is_idle(each) for each in outbox.inboxes.values())


def _unused(outbox: Outbox) -> list[int]:
    """Return the inboxes of ended observers, and the idle ones but the last few."""
    unused: list[int] = []
    idle: list[int] = []
    for number, inbox in outbox.inboxes.items():
        if inbox.observer.is_over:
            unused.append(number)
        elif _is_idle(inbox):
            idle.append(number)
    return unused + idle[:-MOST_IDLE]


def _remove_unused(outbox: Outbox) -> None:
    """Remove the inboxes that are unused. Called with ``routing`` held."""
    removed = [number for number in _unused(outbox) if _mark_removed(outbox.inboxes[number])]
    if removed:
        outbox.inboxes = {
            number: inbox for number, inbox in outbox.inboxes.items() if number not in removed
        }


def _mark_removed(inbox: Inbox) -> bool:
    """Mark an unused inbox as removed; return False if a thread has begun to use it."""
    if inbox.observer.is_over:  # it never gets another inbox
        return True
    return inbox.busy.setdefault(HOLDER, REMOVED) is REMOVED


_classes: dict[str, Callable[..., Any]] = {}
"""``{name of an event: its class}``, filled when one is first built."""


def _class_of(kind: event_names.EventName) -> Callable[..., Any]:
    from resilient_llm._values import events

    for name in get_args(event_names.EventName):
        _classes[name] = getattr(events, name)
    _classes[event_names.AttemptSucceeded] = events.attempt_succeeded  # of every healthy call
    return _classes[kind]
