"""`Telling`: what the circuits of one registry let other processes know, and ask of them.

Without a store it keeps nothing. With one, a circuit appends what it has done to ``changes``, in
its own order and under its lock, which is one step and waits for nothing. The thread of the store
takes it from there; it is woken without the lock.

Owns the queue. What is in it is in the mirror's words; see ``_core/sharing/steps.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from resilient_llm._core.circuit.state import FOREVER

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    from resilient_llm._core.circuit.state import Bench
    from resilient_llm._core.sharing.steps import EndReason
    from resilient_llm._values.sharing import Layer


class PlaceWanted(NamedTuple):
    """A caller wants the place to probe a key, or to keep it.

    Attributes:
        key: Of the circuit.
        lease: Seconds that its probe may take.
        ticket: What the answer names.
        until: The moment until which the caller waits, by `Telling.clock`.
    """

    key: str
    lease: float
    ticket: object
    until: float


class ProbeOver(NamedTuple):
    """A probe that had asked for a place has ended in nothing."""

    key: str


class Teller(Protocol):
    """What is told of a circuit."""

    @property
    def key(self) -> str: ...
    @property
    def seen(self) -> int: ...
    @property
    def consecutive(self) -> int: ...


class Telling:
    """Where the circuits of one registry tell what happens to them."""

    __slots__ = ("changes", "clock", "is_down", "is_shared", "order", "timeout", "wake")

    def __init__(self) -> None:
        self.changes: deque[Any] | None = None
        """What the thread of the store has not taken yet; None without a store.

        Another thread may configure another store at any moment, so each change looks once.
        """
        self.order = 0
        """The highest order of changes of others that are applied; see `LocalBench.seen`."""
        self.clock: Callable[[], float] = _no_time
        """Monotonic seconds of the thread."""
        self.wake: Callable[[], object] = _nobody
        """Wakes the thread; allowed anywhere."""
        self.is_shared: Callable[[str], bool] = _never
        """Whether a bench by errors of a key is known to others, so that its probe is claimed."""
        self.is_down = True
        """Whether it is known that the store does not answer."""
        self.timeout = 0.0
        """Seconds that a caller waits for the store at most."""

    # What a circuit tells, under its lock.

    def bench(
        self,
        circuit: Teller,
        layer: Layer,
        bench: Bench,
        now: float,
        *,
        trigger: str = "",
        named: bool = False,
    ) -> None:
        """Tell that a circuit is benched, or for longer now."""
        changes = self.changes
        if changes is not None:
            from resilient_llm._core.sharing.steps import LocalBench  # the thread has loaded it

            ends_in = None if bench.until == FOREVER else bench.until - now
            seen = max(self.order, circuit.seen)
            changes.append(
                LocalBench(
                    circuit.key, layer, self.clock(), ends_in, bench.kind, bench.reason,
                    bench.by, trigger, circuit.consecutive, named, seen,
                )
            )  # fmt: skip

    def end(self, circuit: Teller, layer: Layer | None, reason: EndReason, by: str = "") -> None:
        """Tell that benches of a circuit were ended here; of all layers without one."""
        changes = self.changes
        if changes is not None:
            from resilient_llm._core.sharing.steps import LocalEnd

            seen = max(self.order, circuit.seen)
            changes.append(LocalEnd(circuit.key, layer, self.clock(), reason, by, seen))

    def reset(self, circuit: Teller) -> None:
        """Tell that this process alone has forgotten the automatic benches of a circuit."""
        changes = self.changes
        if changes is not None:
            from resilient_llm._core.sharing.steps import LocalReset

            changes.append(LocalReset(circuit.key, self.clock()))

    def awaits(self, circuit: Teller, *layers: Layer | None, ends: bool = False) -> bool:
        """Return whether the thread has yet to take a change that the circuit has told.

        Called by that thread under the circuit's lock. What it found out about a layer before it
        takes that change is older than the change, and must not undo it.

        Args:
            circuit: Which one.
            layers: Of benches, or with ``ends`` of benches and ends; None names all three.
            ends: Whether an end counts as well.
        """
        changes = self.changes
        if not changes:
            return False
        from resilient_llm._core.sharing.steps import LocalBench, LocalEnd

        kinds = (LocalBench, LocalEnd) if ends else LocalBench
        return any(
            isinstance(each, kinds) and each.key == circuit.key and each.layer in layers
            for each in list(changes)
        )

    # What callers tell, without a lock; a probe may end in a finaliser.

    def want(self, key: str, lease: float, ticket: object) -> None:
        """Ask for the place to probe a key."""
        changes = self.changes
        if changes is not None:
            changes.append(PlaceWanted(key, lease, ticket, self.clock() + self.timeout))
            self.wake()

    def probe_over(self, key: str) -> None:
        """Tell that a probe which had asked for a place has ended in nothing."""
        changes = self.changes
        if changes is not None:
            changes.append(ProbeOver(key))
            self.wake()


def _no_time() -> float:
    return 0.0


def _nobody() -> None:
    pass


def _never(_: str) -> bool:
    return False


NOBODY: Final = Telling()
"""That of circuits whose registry has no store."""
