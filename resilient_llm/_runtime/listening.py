"""Who listens: owns the process-wide observers of one state of the process.

No lock is held here. A signal handler or a finaliser may begin or end a subscription anywhere, also
in the midst of another one, and a lock would either let it in or wait for it without end. So what
is true is one dict, whose entries come and go in one step each. What the emitting threads read is
made from it, and made again when the dict is another one afterwards: a thread that stores a stale
table looks at the dict after that, and sees what has changed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, get_args

from resilient_llm._core.circuit.outbox import Subscription
from resilient_llm._values import event_names
from resilient_llm._values.reloading import replaces

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient_llm._values import events as ev

_OF_TARGETS: Final = frozenset(
    (event_names.TargetBenched, event_names.TargetUnbenched, event_names.HealthChanged)
)
"""Events that tell the state of a target, whichever call has changed it."""

_ALL: Final = "Event"
"""Name of the class of all events."""


class Listeners:
    """The process-wide observers, in the order in which they were subscribed."""

    def __init__(self) -> None:
        self._present: dict[Subscription, Callable[[], object] | None] = {}
        """``{subscription: what is called in a forked child}``."""
        self.by_kind: dict[str, tuple[Subscription, ...]] = {}
        """``{name of an event: who listens to it}``. One object, whose entries are replaced."""
        self.since = -math.inf
        """Calls that began before this moment are not the business of every observer."""

    @property
    def all(self) -> list[Subscription]:
        """All subscriptions."""
        # A list, since no garbage is collected while one is filled from a dict. A tuple of 3.11
        # would let a finaliser change the dict meanwhile.
        return list(self._present)

    def of_call(self, kind: str, began_at: float) -> tuple[Subscription, ...]:
        """Return who listens to an event of a call that began then."""
        listeners = self.by_kind.get(kind, ())
        if kind in _OF_TARGETS or not self.since > began_at:
            return listeners
        return tuple(each for each in listeners if not each.since > began_at)

    def is_named(self, kind: str) -> bool:
        """Return whether somebody listens to this type of event who did not ask for all types."""
        return any(
            each.names is not None and kind in each.names and _ALL not in each.names
            for each in self.by_kind.get(kind, ())
        )

    def subscribe(
        self,
        callback: Callable[[Any], object],
        types: tuple[type[ev.Event], ...],
        after_fork: Callable[[], object] | None = None,
        since: float = -math.inf,
    ) -> Subscription:
        """Add an observer of these types, or of all types; return what `unsubscribe` removes.

        A function of a module that was loaded again replaces the one that it was before.

        Args:
            callback: The observer.
            types: Classes of events.
            after_fork: Called in a forked child while the observer listens.
            since: What happens to calls that began before this moment is not for it; what they
                do to targets is.
        """
        names = frozenset[str]().union(*map(_names, types)) if types else None
        subscription = Subscription(callback, names, since)
        replaced = [each for each in self.all if replaces(callback, each.callback)]
        self._present[subscription] = after_fork
        for each in replaced:
            self._present.pop(each, None)
        self._publish()
        for each in replaced:
            each.end()
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Remove an observer; what waits for it is dropped. A second time does nothing."""
        self._present.pop(subscription, None)
        self._publish()
        subscription.end()

    def _publish(self) -> None:
        """Let the emitting threads see who listens now."""
        while True:
            present = self.all
            self.since = max((each.since for each in present), default=-math.inf)
            self.by_kind.update(
                {
                    kind: tuple(
                        each for each in present if each.names is None or kind in each.names
                    )
                    for kind in get_args(event_names.EventName)
                }
            )
            if present == self.all:
                return

    def after_fork(self) -> None:
        """Tell the observers that hold locks that this is a forked child."""
        for renew in list(self._present.values()):
            if renew is not None:
                renew()


def _names(kind: type[ev.Event]) -> set[str]:
    names = {kind.__name__}
    for sub in kind.__subclasses__():
        names |= _names(sub)
    return names
