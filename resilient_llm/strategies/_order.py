"""What every built-in strategy is made of: what it is told, and what it returns.

A strategy puts the targets of one priority group in order for one call. Most calls need the first
one only, so an order is asked for that, and for the whole only if the first did not answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from resilient_llm._values.target import Target


DRAWS: Final = 8
"""How often a target is drawn in vain before the live ones are looked for, to draw one of them."""


class CircuitView(Protocol):
    """What a strategy may read of a target's circuit without a lock."""

    @property
    def slot(self) -> Any:
        """Not None while calls may enter at once; else the target may still be half-open."""

    @property
    def shut_until(self) -> float:
        """Monotonic seconds before which no call may enter, while ``slot`` is None."""
        ...

    @property
    def is_at_rest(self) -> bool:
        """Whether it is closed, though ``slot`` may be None for a moment; takes no lock."""
        ...

    @property
    def known_status(self) -> str:
        """``"healthy"``, ``"degraded"`` or ``"down"``, as of the last report."""
        ...


class Candidate(Protocol):
    """A target of the chain, with its circuit."""

    @property
    def target(self) -> Target: ...
    @property
    def circuit(self) -> CircuitView: ...


class ChangesView(Protocol):
    """Tells whether any circuit of the process has begun or ended to admit calls."""

    @property
    def latest(self) -> object:
        """Another object after each change; the end of a bench is none until it is noticed."""
        ...


class Adjustment(Protocol):
    """Moves targets after the strategy has ordered them, as ``adaptive=`` does.

    Asked once at the start of each call. Built-in strategies only: the order of a user's function
    is final.
    """

    def __call__(
        self, now: float, /
    ) -> Callable[[Sequence[Candidate]], Sequence[Candidate]] | None:
        """Return what puts the ordered candidates of one group into their adjusted order.

        None if no target is to be moved now; that answer is on the path of every healthy call.
        """


class OrderInputs:
    """What a strategy may need of the process; the same for all calls of one binding.

    Attributes:
        rng: Source of randomness.
        is_live: Whether an attempt on a candidate may enter now. Exact, and takes a lock for one
            whose circuit has no slot; see `is_blocked` for what can be found without.
        changes: What is compared by who keeps which candidates are live.
        is_degraded: Whether the status of a candidate whose ``known_status`` is degraded still is.
        price_of: USD per million tokens, input and output, of a target; None if unknown.
        step: Returns how many calls of the policy used the strategy before, and counts one more.
            A strategy with ``rotates`` is given that number; no failure may call this.
        figures: Samples of the policy's attempts, if the strategy is among those that need them.
        has_limits: Whether a limit may refuse a candidate, which comes and goes unannounced. A
            candidate with limits has no slot.
        in_flight: Returns what has as ``running`` how many attempts are running on a key; None
            unless the strategy is one that needs it.
    """

    __slots__ = (
        "changes",
        "figures",
        "has_limits",
        "in_flight",
        "is_degraded",
        "is_live",
        "price_of",
        "rng",
        "step",
    )

    def __init__(
        self,
        *,
        rng: Random,
        is_live: Callable[[Candidate, float], bool],
        is_degraded: Callable[[Candidate, float], bool],
        price_of: Callable[[Target], tuple[float, float] | None],
        step: Callable[[], int],
        changes: ChangesView,
        figures: Any = None,
        in_flight: Callable[[str], Any] | None = None,
        has_limits: bool = False,
    ) -> None:
        self.rng = rng
        self.is_live = is_live
        self.is_degraded = is_degraded
        self.price_of = price_of
        self.step = step
        self.changes = changes
        self.figures = figures
        self.in_flight = in_flight
        self.has_limits = has_limits


class NoCandidate:
    """Stands for the first target of an order where there is none: it admits no call."""

    __slots__ = ("_name",)

    slot = None
    shut_until = float("-inf")
    is_at_rest = False
    known_status = "down"
    target: Any = None

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def circuit(self) -> NoCandidate:
        return self

    def __reduce__(self) -> str:
        return self._name


NO_CANDIDATE: Final[Any] = NoCandidate("NO_CANDIDATE")
"""None of the targets is live."""
NOT_DRAWN: Final[Any] = NoCandidate("NOT_DRAWN")
"""Nothing was drawn yet."""


class Order:
    """The order of one priority group, made once for each binding of a function.

    All methods may be called from any thread, and none may take a lock itself: a healthy call
    takes none.
    """

    __slots__ = ("candidates", "inputs")

    rotates = False
    """Whether `first` and `whole` use ``number``."""

    def __init__(self, candidates: Sequence[Candidate], inputs: OrderInputs) -> None:
        self.candidates = tuple(candidates)
        """The targets of the group, as declared."""
        self.inputs = inputs

    def first(self, now: float, number: int | None = None) -> Candidate:
        """Return the first live candidate of a new order, or `NO_CANDIDATE` if none is live.

        The only step of a healthy call. It need not ask `OrderInputs.is_live` about a candidate
        that has a slot, and must not return one that `is_blocked`.

        Args:
            now: Monotonic seconds.
            number: How many calls of the policy used the strategy before; None to take it from
                `OrderInputs.step`, which a strategy with ``rotates`` must then do exactly once
                if it returns a candidate.
        """
        raise NotImplementedError

    def whole(self, first: Candidate, now: float, number: int | None) -> Sequence[Candidate]:
        """Return all candidates of the group, as a call tries them.

        Args:
            first: What `first` returned for this call, or `NO_CANDIDATE`: no candidate that is
                live now may stand before it. Blocked ones may; the call skips them.
            now: When `first` was asked.
            number: What `first` was given, or None if it was given none.
        """
        raise NotImplementedError


def is_blocked(candidate: Candidate, now: float) -> bool:
    """Return whether a candidate is surely not live; takes no lock.

    If it is not, and has no slot, its circuit may be half-open.
    """
    circuit = candidate.circuit
    return circuit.slot is None and now < circuit.shut_until
