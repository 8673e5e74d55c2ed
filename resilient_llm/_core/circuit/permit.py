"""What an admitted attempt holds and reports to: a target's admission and its provider's.

A permit is reported once: succeeded, failed or abandoned. An error is charged to one of the two
circuits, by its scope, and once per key each time it is raised, however many guards of one call
it passes on its way out.

Theory of operation. Whether an error was charged already depends on the guards that it passed
inside this one. A guard that registered itself in a context when it is entered would know them,
but that costs a healthy call more than the rest of its guard. So a guard that an error passes
leaves a note on the error: a *passage* of its circuit. A guard further out finds the passage of
the one inside it, replaces it by its own, and does not charge again. A passage is of a guard
inside this one if

- it was noted in the same context, since this guard was entered; or
- it charged in another context, and its guard was entered and left while this one was entered:
  a task or a thread that was started here.

One error object may be raised to many callers at once, by a future that they all await. Mostly
their guards are left in the order in which they were entered, so none is inside another, and
each charges. Where they are left in another order (trio's tasks, threads), a passage cannot be
told from that of a started task. So a charge stands for the guards of one other context only:
at least half of such calls are charged in any order. The price is that an error which passes
guards of three contexts, each started by the one before, is charged twice.

The notes are in the error itself. Most exceptions cannot be referred to weakly, a strong
reference elsewhere would keep the error's frames and request, and an id is soon another
object's. Neither pickles nor deep copies contain notes.
"""

from __future__ import annotations

import itertools
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from resilient_llm._core.circuit.answers import charged_answer
from resilient_llm._core.circuit.nesting import OWN_KEY, PROVIDER, Nesting
from resilient_llm._core.circuit.state import Block, BorrowedLease, Lease
from resilient_llm._core.circuit.window import Generation
from resilient_llm._values.built_in import attributes_of, cause_of
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import SupportsIndex

    from resilient_llm._core.circuit.circuit import Circuit
    from resilient_llm._core.circuit.outbox import CallTag
    from resilient_llm._core.circuit.state import Admission
    from resilient_llm._core.limits.heard import HeardAttempt
    from resilient_llm._core.limits.held import Held


HUNG = Verdict(ErrorKind.TRANSIENT, "hung")
"""What an attempt means that was cancelled after as long as a hanging call."""

_PASSAGES = "_resilient_llm_passages"
_MOST_INSIDE = 64
"""Causes and members of groups that are looked at."""
_MOST_PASSAGES = 64
"""Passages noted on one error: one that is raised again and again must not collect more."""
_MOST_NOTED = 8
"""Passages of which a context knows that they were noted in it."""

open_permits: ContextVar[tuple[Permit, ...]] = ContextVar("resilient_llm_open_permits", default=())
"""The permits of guards around this code, as far as guards inside must know them. A guard inside
another on the same key borrows the outer guard's lease; it would be rejected because of that lease
otherwise. And what it counts is not counted again outside (see `nesting`).

A guard may be left in another task than it was entered in, whose context is another. So whoever
reads or writes the variable drops permits that were reported meanwhile."""


_noted_here: ContextVar[tuple[int, ...]] = ContextVar("resilient_llm_noted_here", default=())
"""The numbers of the last passages that were noted in this context. A context that is copied from
this one knows them, too, but they are older than every guard that is entered there."""


def push_permit(permit: Permit) -> None:
    """Let guards inside this code know the permit, if it matters to them."""
    if permit.matters_inside:
        open_permits.set((*_unreported(), permit))


def pop_permit(permit: Permit) -> None:
    """End what `push_permit` began, in whatever order and context guards are left."""
    if permit.matters_inside:
        open_permits.set(tuple(each for each in _unreported() if each is not permit))


def heard_attempt() -> HeardAttempt | None:
    """Return the innermost attempt around this code to which answers belong, or None."""
    for permit in reversed(open_permits.get()):
        if not permit.is_reported and permit.held is not None and permit.held.heard is not None:
            return permit.held.heard
    return None


def held_leases() -> tuple[Lease, ...]:
    """Return the leases that guards around this code hold."""
    if not open_permits.get():
        return ()
    return tuple(lease for permit in _unreported() for lease in permit.leases)


def _unreported() -> tuple[Permit, ...]:
    """Return the open permits; forget those that were reported, in whatever context."""
    permits = open_permits.get()
    still_open = tuple(permit for permit in permits if not permit.is_reported)
    if len(still_open) < len(permits):
        open_permits.set(still_open)
    return still_open


class Permit:
    """The permit for one attempt. Not thread-safe by itself; its circuits are."""

    __slots__ = (
        "admission",
        "circuit",
        "entered_at",
        "held",
        "is_reported",
        "nesting",
        "provider_admission",
    )

    def __init__(
        self,
        circuit: Circuit,
        admission: Admission | None,
        provider_admission: Admission | None,
        entered_at: float,
    ) -> None:
        self.circuit = circuit
        self.admission = admission
        self.provider_admission = provider_admission
        self.entered_at = entered_at
        self.is_reported = False
        self.nesting: Nesting | None = None
        self.held: Held | None = None
        """What the attempt holds of limits and budgets."""

    @property
    def matters_inside(self) -> bool:
        """Whether guards inside the attempt must know of it."""
        return (
            self.nesting is not None
            or bool(self.leases)
            or (self.held is not None and self.held.matters_inside)
        )

    @property
    def leases(self) -> tuple[Lease, ...]:
        """The leases among the admissions; none for a healthy key."""
        own, outer = self.admission, self.provider_admission
        if type(own) is Generation and type(outer) is Generation:
            return ()  # of almost every call
        if not isinstance(own, Lease):
            return (outer,) if isinstance(outer, Lease) else ()
        return (own, outer) if isinstance(outer, Lease) else (own,)

    def charged(self, verdict: Verdict) -> tuple[Circuit, Admission | None]:
        """Return the circuit that a failure of this verdict is charged to, with its admission."""
        provider = self.circuit.provider
        if provider is None or verdict.scope != "provider":
            return self.circuit, self.admission
        return provider, self.provider_admission

    def give_back_newer(self) -> None:
        """Give back what was admitted by a state that began later than the attempt.

        For an attempt that is reported without having asked: it was admitted by earlier states
        of these circuits, so it neither settles nor counts in the present ones.
        """
        own, outer, provider = self.admission, self.provider_admission, self.circuit.provider
        # By ``>``: on a fake clock moments of the same time have an order, too.
        if own is not None and _began_at(self.circuit, own) > self.entered_at:
            self.circuit.abandon(own)
            self.admission = None
        if (
            provider is not None
            and outer is not None
            and _began_at(provider, outer) > self.entered_at
        ):
            provider.abandon(outer)
            self.provider_admission = None

    def answered(self) -> tuple[int, int]:
        """Return figures of the key and of its provider that grow with every success."""
        provider = self.circuit.provider
        return self.circuit.answered(), 0 if provider is None else provider.answered()

    def succeeded(
        self,
        now: float,
        seconds: float,
        response_time: float | None = None,
        *,
        cooldown: float | None = None,
        tag: CallTag | None = None,
    ) -> None:
        """Count a success and settle the leases of both circuits, except borrowed ones.

        Args:
            now: Monotonic seconds.
            seconds: How long the attempt took.
            response_time: What is compared with ``slow_call``, if that is not ``seconds``: for a
                stream the seconds to its first content.
            cooldown: Cooldown of the policy in seconds, if slow successes open a circuit.
            tag: Names the call in the event of that.
        """
        self.is_reported = True
        if self.held is not None:
            self.held.over()
        response_time = seconds if response_time is None else response_time
        provider = self.circuit.provider
        admission, outer = self.admission, self.provider_admission
        counted = admission is not None
        nesting = self.nesting
        if nesting is not None:
            nesting.end()
        if type(admission) is not Generation:
            is_settled = not isinstance(admission, Lease)
        elif nesting is not None and nesting.counted_inside & OWN_KEY:
            is_settled, counted = True, False
        else:
            is_settled = admission.answered(now, seconds, response_time)
        try:
            if not is_settled:
                assert admission is not None
                counted = self.circuit.success(
                    admission, now, seconds, response_time=response_time, cooldown=cooldown, tag=tag
                )
        finally:  # an observer may interrupt the call, but not between its two circuits
            if provider is None or outer is None:
                pass
            elif type(outer) is Generation:
                if counted:
                    provider.child_answered(outer, now, response_time, cooldown=cooldown, tag=tag)
                    if nesting is not None and nesting.counted_inside & PROVIDER:
                        provider.take_back_success(outer, now)
            elif isinstance(outer, Lease):
                provider.success(outer, now, seconds, response_time=response_time, is_targets=True)
            if nesting is not None and counted and type(admission) is Generation:
                nesting.counted()

    def failed(
        self,
        error: BaseException | None,
        now: float,
        verdict: Verdict,
        *,
        cooldown: float | None = None,
        tag: CallTag | None = None,
    ) -> None:
        """Charge a failure to one circuit and give the other's lease back."""
        self.is_reported = True
        if self.held is not None:
            self.held.over()
        if self.nesting is not None:
            self.nesting.end()
        circuit, entered_at = self.circuit, self.entered_at
        charged, admission = self.charged(verdict)
        other = self.provider_admission if charged is circuit else self.admission
        if isinstance(other, Lease):
            other_circuit = circuit.provider if charged is circuit else circuit
            if other_circuit is not None:
                other_circuit.abandon(other)
        counts = charged.is_charged(verdict)
        if isinstance(admission, BorrowedLease):
            if not counts:
                return
            admission = admission.lease  # the probe has failed, whichever guard saw it first
        if admission is None:
            return
        if error is not None and counts and _note_passage(error, charged, entered_at, now):
            charged.abandon(admission)
            return
        charged.failure(admission, now, verdict, now - entered_at, cooldown=cooldown, tag=tag)

    def note(self, error: BaseException, now: float, verdict: Verdict) -> None:
        """Note on an error that it was charged here, if `failed` was not given it.

        For an error that leaves the call after all, so that no guard around it charges it again.
        """
        charged, admission = self.charged(verdict)
        if admission is not None and charged.is_charged(verdict):
            _note_passage(error, charged, self.entered_at, now)

    def cancelled(
        self,
        now: float,
        tag: CallTag | None = None,
        *,
        quiet_since: float | None = None,
        response_time: float | None = None,
    ) -> Verdict | None:
        """Give everything back, unless the attempt ran so long that it counts as hung.

        Args:
            now: Monotonic seconds.
            tag: Names the call in events.
            quiet_since: Since when a stream that had content sent nothing. Such an attempt has
                answered, unless it hung after that.
            response_time: Seconds to the first content of such a stream.

        Returns:
            The verdict that was counted, or None.
        """
        if not self.is_hung(now, quiet_since):
            if quiet_since is None:
                self.abandoned()
            else:
                self.succeeded(now, now - self.entered_at, response_time)
            return None
        self.failed(None, now, HUNG, tag=tag)
        return HUNG

    def is_hung(self, now: float, quiet_since: float | None = None) -> bool:
        """Return whether an attempt that is cancelled now has run so long that it hung.

        Args:
            now: Monotonic seconds.
            quiet_since: Since when a stream that had content sent nothing.
        """
        since = self.entered_at if quiet_since is None else quiet_since
        return now - since >= self.circuit.hung_after(now)

    def withdrawn(self) -> None:
        """Give everything back for an attempt that was not made."""
        if self.held is not None:
            self.held.is_made = False  # before all calls: an interrupted one is not booked, either
        try:
            if self.held is not None:
                self.held.give_back()
        finally:  # an interrupt leaves no lease taken
            self.abandoned()

    def abandoned(self) -> None:
        """Give everything back without a verdict, unless it was reported already."""
        if self.is_reported:
            return
        self.is_reported = True
        if self.held is not None:
            self.held.over()
        if self.nesting is not None:
            self.nesting.end()
        if isinstance(self.admission, Lease):
            self.circuit.abandon(self.admission)
        provider = self.circuit.provider
        if provider is not None and isinstance(self.provider_admission, Lease):
            provider.abandon(self.provider_admission)


def admit(
    circuit: Circuit, now: float, lease_seconds: float = 0.0, *, last_resort: bool = False
) -> Permit | Block:
    """Return a permit for one attempt on a key and its provider, or why there is none.

    Of the breakers alone: `admit_within` asks the limits as well.
    """
    generation, provider = circuit.limited_slot, circuit.provider
    if generation is not None and not open_permits.get():
        # Both are closed: what the healthy path reads is enough.
        provider_generation = None if provider is None else provider.limited_slot
        if provider is None or provider_generation is not None:
            circuit.touched_at = now
            return Permit(circuit, generation, provider_generation, now)
    admission = _ask(circuit, now, lease_seconds, last_resort=last_resort)
    if isinstance(admission, Block):
        return _shown(admission, provider, now)
    if provider is None:
        return _looked_at(Permit(circuit, admission, None, now))
    try:
        provider_admission = _ask(provider, now, lease_seconds, last_resort=last_resort)
    except BaseException:
        if isinstance(admission, Lease):
            circuit.abandon(admission)
        raise
    if isinstance(provider_admission, Block):
        if isinstance(admission, Lease):
            circuit.abandon(admission)
        return provider_admission
    return _looked_at(Permit(circuit, admission, provider_admission, now))


def block_of(circuit: Circuit, now: float) -> Block | None:
    """Return why a key could not be called now, without taking anything."""
    if circuit.limited_slot is not None:
        return None
    own, provider = circuit.block(now), circuit.provider
    if own is not None:
        return _shown(own, provider, now)
    return None if provider is None else provider.block(now)


def takes_last_resort(circuit: Circuit, now: float) -> bool:
    """Return whether a key could be called in spite of automatic benches, without taking anything.

    So could a key that nothing blocks.
    """
    provider = circuit.provider
    return circuit.takes_last_resort(now) and (provider is None or provider.takes_last_resort(now))


def charged_circuit(circuit: Circuit, verdict: Verdict) -> Circuit:
    """Return which circuit an error is charged to: this one, or its provider's."""
    provider = circuit.provider
    return circuit if provider is None or verdict.scope != "provider" else provider


def permit_of_inlined(circuit: Circuit, admission: Admission, entered_at: float) -> Permit:
    """Return the permit of a call that was admitted by the healthy path.

    The healthy path reads the target's slot alone, so the provider's part is found
    afterwards: its present generation, if that had begun when the call entered, and if this
    circuit is the one that admitted the call, since the state of the process may have changed.
    """
    provider = circuit.provider
    if provider is None or (
        isinstance(admission, Generation) and admission.owner != circuit.serial
    ):
        return Permit(circuit, admission, None, entered_at)
    generation = provider.limited_slot or provider.generation
    return Permit(
        circuit, admission, generation if generation.started_at <= entered_at else None, entered_at
    )


def _shown(own: Block, provider: Circuit | None, now: float) -> Block:
    """Return the block to show for a blocked key and its provider.

    An operator's block comes first, else the one that ends last.
    """
    outer = None if provider is None or own.manual else provider.block(now)
    if outer is None:
        return own
    later = own.until is not None and outer.until is not None and outer.until > own.until
    return outer if outer.manual or later else own


def _looked_at(permit: Permit) -> Permit:
    """Return a new permit that knows the guards around it, if its circuits look for any."""
    circuit, provider = permit.circuit, permit.circuit.provider
    around: list[tuple[Nesting, int]] = []
    for other in _unreported():
        nesting, other_circuit = other.nesting, other.circuit
        if nesting is None:
            continue
        if other_circuit is circuit or other_circuit.provider is circuit:
            circuit.is_nested = True
        elif other_circuit is provider:
            other_circuit.is_nested = True
        else:
            continue
        around.append((nesting, PROVIDER if other_circuit.provider is circuit else OWN_KEY))
    permit.nesting = circuit.nesting(around)
    return permit


def _ask(
    circuit: Circuit, now: float, lease_seconds: float, *, last_resort: bool
) -> Admission | Block:
    held = held_leases()
    if held:
        shared = circuit.share(held)
        if shared is not None:
            return BorrowedLease(shared)
    return (
        circuit.admit_last_resort(now, lease_seconds)
        if last_resort
        else circuit.admit(now, lease_seconds)
    )


def _began_at(circuit: Circuit, admission: Admission) -> float:
    """Return when the state began that gave an admission."""
    lent = admission.lease if isinstance(admission, BorrowedLease) else admission
    return circuit.admits_since(lent)


class _Passage(NamedTuple):
    """A guard of a circuit that an error has passed."""

    number: int
    serial: int
    entered_at: float
    left_at: float
    stands: bool
    """Whether it may stand for the guards of one other context."""


class _Passages(list[_Passage]):
    """The passages of one error, which mean nothing in another process."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[type[list[object]], tuple[()]]:
        return list, ()


_new_passage: Callable[[type[_Passage], tuple[int, int, float, float, bool]], _Passage]
_new_passage = cast("Any", tuple).__new__
"""Makes a passage without the function of its class, which takes longer than all else here."""
_numbers = itertools.count()


def is_new(error: BaseException) -> bool:
    """Return whether an error has passed no guard yet, nor anything inside it."""
    return not (
        _PASSAGES in attributes_of(error)
        or cause_of(error) is not None
        or charged_answer(error) is not None
        or issubclass(type(error), BaseExceptionGroup)
    )


def _note_passage(
    error: BaseException, circuit: Circuit, entered_at: float, left_at: float
) -> bool:
    """Note that an error passes a guard; return whether it has passed one inside this one.

    Args:
        error: What leaves the guard.
        circuit: What the error is charged to.
        entered_at: When the guard was entered, in monotonic seconds.
        left_at: Now.
    """
    attributes = attributes_of(error)
    inner, stands = None, True
    if not is_new(error):
        inner, stands = _take_inner(error, circuit, entered_at)
        if _passages_of(error) is None:
            attributes.pop(_PASSAGES, None)  # the empty list of a pickle
    number = next(_numbers)
    passage = _new_passage(_Passage, (number, circuit.serial, entered_at, left_at, stands))
    first = _Passages((passage,))
    passages: _Passages = attributes.setdefault(_PASSAGES, first)
    if passages is not first:
        passages.append(passage)
        del passages[:-_MOST_PASSAGES]
    _noted_here.set((*_noted_here.get()[1 - _MOST_NOTED :], number))
    return inner is not None


def _take_inner(
    error: BaseException, circuit: Circuit, entered_at: float
) -> tuple[_Passage | None, bool]:
    """Take the passage of a guard inside one from the error, a cause or a member of a group.

    Returns:
        The passage, if there is one; and whether the one that takes its place may stand for the
        guards of another context.
    """
    waiting = [error]
    for _ in range(_MOST_INSIDE):
        if not waiting:
            break
        seen = waiting.pop(0)
        passages = _passages_of(seen)
        if passages is not None:
            here = _noted_here.get()
            for passage in _inside(passages, circuit, entered_at, here):
                try:
                    passages.remove(passage)
                except ValueError:
                    continue  # a guard in another thread took its place
                if passage.number in here:
                    return passage, passage.stands
                # The guards of its own context may be still to be left.
                passages.append(passage._replace(stands=False))
                return passage, False
        beneath = cause_of(seen), charged_answer(seen)
        waiting += [each for each in beneath if each is not None]
        if issubclass(type(seen), BaseExceptionGroup):
            waiting += cast("BaseExceptionGroup[BaseException]", seen).exceptions
    return None, True


def _inside(
    passages: _Passages, circuit: Circuit, entered_at: float, here: tuple[int, ...]
) -> list[_Passage]:
    """Return the passages of guards inside one that was entered then, this context's first."""
    inside = [
        each
        for each in passages[:]
        if each.serial == circuit.serial
        and each.left_at > entered_at
        and (each.number in here or (each.stands and each.entered_at > entered_at))
    ]
    return sorted(inside, key=lambda each: each.number not in here)


def _passages_of(error: BaseException) -> _Passages | None:
    found = attributes_of(error).get(_PASSAGES)
    return found if isinstance(found, _Passages) else None
