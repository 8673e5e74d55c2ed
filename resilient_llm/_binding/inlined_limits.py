"""What a wrapper reads to take by itself what limits and budgets ask of its first target.

`InlinedLimits` is made when a function is bound; `limited_code` is the code that reads it. It says
what an attempt is estimated to use and what its answer has used, as far as that is plain, and it
makes `Held` of what a wrapper has taken where the call flow goes on with the attempt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from resilient_llm._binding.limited_code import BY_KEY, MOST_BUDGETS, Limited
from resilient_llm._core.base64_text import SHORTEST, is_base64
from resilient_llm._core.call.spending import AttemptsInside, Spend, inlined_around
from resilient_llm._core.circuit.permit import open_permits
from resilient_llm._core.contents import CHARACTERS_PER_TOKEN
from resilient_llm._core.limits.held import Held
from resilient_llm._core.spending.estimates import Estimate
from resilient_llm._core.spending.ledger import Reservation
from resilient_llm._core.spending.local_ledger import LocalLedger
from resilient_llm._runtime.spending import present_key
from resilient_llm._values.money import EACH_KEY
from resilient_llm._values.usage import MOST_TOKENS

if TYPE_CHECKING:
    from resilient_llm._binding.demands import Demands
    from resilient_llm._core.call.call import Candidate
    from resilient_llm._core.call.spending import Spending
    from resilient_llm._core.spending.accounts import Account, Slot
    from resilient_llm._core.spending.prices import Rates

_UNKNOWN: Final = -1
_NOT_PLAIN: Final = (-1, 0, 0, 0)


class _Contexts:
    """What a wrapper asks about the code around it; pickled by its name, as wrappers refer to it.

    Attributes:
        around: Returns the attempt of a wrapper around this code that spends, or None.
        put: Sets it.
        permits: Returns the attempts of call flows around this code that guards must know.
        key: Returns the key of ``spend_key``, or None.
    """

    # Attributes, and not methods: a call of what is written in C takes a third of the time.
    __slots__ = ("around", "key", "permits", "put")

    def __init__(self) -> None:
        self.around = inlined_around.get
        self.put = inlined_around.set
        self.permits = open_permits.get
        self.key = present_key.get

    def __reduce__(self) -> str:
        return "contexts"


contexts: Final = _Contexts()


class InlinedBudget:
    """A budget that covers the target.

    Attributes:
        slot: The budget.
        cap: What it holds, in its unit; infinity if it must not refuse the target.
        unbounded: Tokens that are reserved for an answer whose length nothing limits.
        fixed: What is reserved besides the input, in its unit, if calls do not limit the answer.
    """

    __slots__ = ("cap", "fixed", "slot", "unbounded")

    def __init__(self, slot: Slot, cap: float, unbounded: int) -> None:
        self.slot = slot
        self.cap = cap
        self.unbounded = unbounded
        self.fixed = 0


class InlinedLimits:
    """What attempts of one wrapper take of the limits and budgets of its first target."""

    # No slots and no properties: the wrapper reads it where nothing may be called.

    def __init__(
        self,
        candidate: Candidate,
        spending: Spending | None,
        demands: Demands | None,
        rates: Rates | None,
        budgets: tuple[InlinedBudget, ...] | None,
    ) -> None:
        limits = candidate.limits
        state = None if limits is None else limits.all[0]
        self.candidate = candidate
        self.circuit = candidate.circuit
        self.target = candidate.target
        self.places = None if state is None else state.places
        self.requests = None if state is None else state.requests
        self.tokens = None if state is None else state.tokens
        self.spending = spending
        self.demands = demands
        self.rates = rates
        self.budgets = budgets or ()
        self.output = _UNKNOWN if self.target.max_output is None else self.target.max_output
        """Tokens of the answer, if calls do not say how many."""
        self.least_output = max(self.output, 0)
        """The same for limits of tokens, which take nothing for what is not known."""
        ledger = None if spending is None else spending.ledger
        self.ledger = ledger
        self.queue = None
        """Where settlements of what it reserves wait for the lock."""
        self.total = None
        """What was booked for the target."""
        if isinstance(ledger, LocalLedger):
            self.queue, self.total = ledger._queue, ledger.total_of(candidate.target.key)
        if demands is not None:
            self._estimate_on = demands.estimate_on
        if spending is not None:
            self.wall = spending.wall
            self.counts_of = spending.counts_of
            self._usage_of = spending.usage_of
        for number, budget in enumerate(self.budgets):
            setattr(self, f"budget{number}", budget)
            unbounded = self.output if self.output >= 0 else budget.unbounded
            budget.fixed = unbounded
            if rates is not None and budget.slot.unit == "usd":
                budget.fixed = unbounded * rates.output + rates.per_call
        units = None
        if budgets is not None:
            units = tuple(
                (BY_KEY if each.slot.budget.of == EACH_KEY else "") + each.slot.unit
                for each in budgets
            )
        is_priced = rates is not None and (not rates.is_free or "usd" in "".join(units or ()))
        self.kind = Limited(
            places=self.places is not None,
            queued=self.places is not None and self.places.max_queued > 0,
            requests=self.requests is not None,
            tokens=self.tokens is not None,
            budgets=units,
            estimates=self.tokens is not None
            or is_priced
            or any(not each.endswith("calls") for each in units or ()),
            sized=demands is not None and demands.is_sized and not candidate.target.params,
            priced=is_priced,
        )
        """Which code reads it."""
        if self.output < 0 and self._needs_bound():
            self.kind = self.kind._replace(sized=False)  # each call says it, or is misconfigured

    def _needs_bound(self) -> bool:
        """Return whether a budget has to know how long an answer may be."""
        return self.kind.estimates and any(
            each.slot.unit != "calls" and each.unbounded == _UNKNOWN for each in self.budgets
        )

    def estimated(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, int]:
        """Return the estimate of an attempt's tokens: input, and output or -1 if it is unlimited.

        The input is -1 if a budget says that the call is misconfigured.
        """
        sent, output = self._estimate_on(self.target, args, kwargs)
        if output is None:
            return (_UNKNOWN if self._needs_bound() else sent), _UNKNOWN
        return sent, output

    def estimate_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, int]:
        """Return the same, whatever budgets say."""
        assert self.demands is not None
        sent, output = self.demands.estimate_on(self.target, args, kwargs)
        return sent, _UNKNOWN if output is None else output

    def used(self, answer: object, sent: int) -> tuple[int, int, int, int]:
        """Return what an answer used.

        Args:
            answer: An answer that is neither a stream nor awaited.
            sent: The estimate of its input.

        Returns:
            Its tokens of input, -1 if the call flow has to find out, and of output; what they cost
            in 1e-12 USD, 0 if they have no price; and whether that is an estimate.
        """
        rates = self.rates
        if type(answer) is str:
            usage, characters = None, len(answer)
            if (characters >= SHORTEST or answer[:1] == "d") and is_base64(answer):
                characters = 0
        else:
            usage, characters = self._usage_of(answer)
        if usage is not None:
            cost = 0
            if rates is not None and (usage.input or usage.output):
                cost = rates.cost(usage)
            return usage.input, usage.output, cost, 0
        if not characters or sent > MOST_TOKENS or characters > MOST_TOKENS:
            return _NOT_PLAIN  # without a text, all that was reserved is booked
        came = -(-characters // CHARACTERS_PER_TOKEN)
        if rates is None:
            return sent, came, 0, 1
        return sent, came, sent * rates.input + came * rates.output + rates.per_call, 1

    def hold(
        self,
        estimate: tuple[int, int] | None,
        period: int,
        tokens_period: int,
        charged: int,
        taken: tuple[tuple[Account, int], ...],
        inside: AttemptsInside | None,
    ) -> Held:
        """Return what holds the same as an attempt of the wrapper, once the wrapper says so.

        Args:
            estimate: What `estimated` returned; None if it does not matter.
            period: Of the bucket of requests in which one was taken.
            tokens_period: The same of tokens.
            charged: Tokens that were taken.
            taken: What is reserved in each budget.
            inside: Stands for the attempt where it has others inside.
        """
        held = Held()
        if self.places is not None:
            held.places.append(self.places.place())
        if self.requests is not None:
            charge = self.requests.charge(1)
            charge._period = period
            held.charges.append(charge)
        if self.tokens is not None:
            charge = self.tokens.charge(charged)
            charge._period = tokens_period
            held.tokens.append(charge)
        if self.spending is not None and estimate is not None:
            sent, output = estimate
            tokens = Estimate(sent, None if output < 0 else output)
            reservation = None
            if self.ledger is not None:
                reservation = Reservation(self.target, tokens, self.rates, present_key.get())
                reservation._queue = self.queue
                reservation._taken = list(taken)
            held.spend = Spend(self.spending, tokens, reservation, (), inside)
        return held


def inlined_limits(
    candidate: Candidate, spending: Spending | None, demands: Demands | None, *, has_budgets: bool
) -> InlinedLimits | None:
    """Return what a wrapper reads to take by itself what a target asks; None if it cannot.

    Args:
        candidate: The first target of a policy.
        spending: Where its attempts are booked, if they are.
        demands: Estimates the tokens of each call, if somebody asks for that.
        has_budgets: Whether budgets are configured.
    """
    limits = candidate.limits
    if limits is not None and (
        len(limits.all) != 1 or limits.heard is not None or limits.is_shared
    ):
        return None
    if demands is None:
        return None if limits is None else InlinedLimits(candidate, None, None, None, None)
    ledger = None if spending is None else spending.ledger
    if spending is None or not demands.is_read or spending.has_own_reader:
        return None
    if ledger is None:
        if limits is None or not limits.has_tokens:
            return None  # only attempts on another target settle anything
        return InlinedLimits(candidate, spending, demands, None, None)
    if not has_budgets or not isinstance(ledger, LocalLedger):
        return None
    is_lasting, rates = spending.rates_of.lasting(candidate.target)
    if not is_lasting or (rates is not None and rates.tiers):
        return None
    slots = ledger.covering(candidate.target)
    if len(slots) > MOST_BUDGETS or (rates is None and any(each.unit == "usd" for each in slots)):
        return None
    return InlinedLimits(
        candidate, spending, demands, rates, tuple(_inlined(each, rates) for each in slots)
    )


def _inlined(slot: Slot, rates: Rates | None) -> InlinedBudget:
    """Return a budget as the wrapper asks it. Keep in sync with `amounts_reserved`."""
    is_usd = slot.unit == "usd" and rates is not None
    unbounded = slot.budget.on_unbounded
    if is_usd and rates is not None and rates.is_output_free:
        unbounded = 0
    cap = float("inf") if is_usd and rates is not None and rates.is_free else slot.cap
    return InlinedBudget(slot, cap, _UNKNOWN if unbounded is None else unbounded)
