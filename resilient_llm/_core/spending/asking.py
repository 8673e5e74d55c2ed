"""What one attempt asks of the store, holds there and books, and the words for it.

`Asked` is the question that its caller waits for. `Sharing` is what a shared ledger asks of the
thread of the store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from resilient_llm._core.limits.held import STORE_UNAVAILABLE
from resilient_llm._core.sharing.question import Question
from resilient_llm._core.sharing.steps import AskAmounts, BookAmounts, HoldAmounts
from resilient_llm._core.spending.periods import period_at
from resilient_llm._values.sharing import Charge, Entry, Reserve, Settle

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient_llm._core.limits.shared import SharedTake
    from resilient_llm._core.sharing.steps import AmountsChange, ShowAmounts
    from resilient_llm._core.spending.accounts import Account, Calendar
    from resilient_llm._core.spending.booking import Booking
    from resilient_llm._core.spending.periods import Period
    from resilient_llm._values.money import Budget
    from resilient_llm._values.sharing import Take


SEPARATOR: Final = "\n"
"""Between the parts of the name of an account; no name, key, unit and zone has it."""


class StoreView(NamedTuple):
    """How the store is doing, as far as callers must know.

    Attributes:
        is_down: Whether it is known that it gives no answer.
        moment: What its clock shows now; None before its first answer.
        peers: Processes that use it, at least 1.
    """

    is_down: bool
    moment: float | None
    peers: int


class Sharing(Protocol):
    """What the ledger asks of the thread of the store; nothing of it waits."""

    @property
    def on_store_down(self) -> str: ...
    @property
    def timeout(self) -> float: ...
    @property
    def clock(self) -> Callable[[], float]: ...
    def view(self) -> StoreView: ...
    def tell(self, change: AmountsChange | ShowAmounts, /) -> None: ...


class Unavailable(NamedTuple):
    """The store gave no answer, and this process may spend nothing without it.

    Attributes:
        reason: Of the refusal.
        retry_after: Nobody knows.
    """

    reason: str = STORE_UNAVAILABLE
    retry_after: float | None = None


class TooSoon(NamedTuple):
    """Shared limits refuse an attempt.

    Attributes:
        retry_after: Seconds until they have what it asks for; None if they never do.
    """

    retry_after: float | None


class Part(NamedTuple):
    """What an attempt asks for in one account."""

    account: Account
    name: str
    amount: int
    cap: int | None
    fallback: int

    def charge_at(self, moment: float) -> Charge:
        period = _period(self.account.slot.calendar, moment)
        return Charge(self.name, period.start, period.end, self.amount, self.cap, self.fallback)


class Asked(Question):
    """What one attempt has asked of the store, and holds since it was answered."""

    __slots__ = (
        "_new_id",
        "_sharing",
        "booked",
        "charges",
        "id",
        "is_held",
        "is_local",
        "is_made",
        "is_over",
        "parts",
        "settle",
        "shown",
        "takes",
    )

    def __init__(
        self,
        sharing: Sharing,
        new_id: Callable[[], str],
        parts: tuple[Part, ...],
        takes: tuple[SharedTake, ...],
    ) -> None:
        super().__init__()
        self._sharing = sharing
        self._new_id = new_id
        self.id = new_id()
        self.parts = parts
        self.takes = takes
        self.charges: tuple[Charge, ...] = ()
        """What is reserved, in the periods in which it is."""
        self.is_held = False
        """Whether the attempt is admitted, and not settled."""
        self.is_made = True
        """Whether the attempt counts as made; False if nothing was asked of its target."""
        self.settle: Settle | None = None
        """What it books, once that is decided."""
        self.is_local = False
        """Whether it was admitted here, and no balance of the store has it."""
        self.shown = 0
        """In how many accounts it is shown as reserved, on top of the balances."""
        self.booked = 0
        """In how many accounts it is shown as booked."""
        self.is_over = False
        """Whether all of that is done."""

    @property
    def seconds(self) -> float:
        """How long its caller waits."""
        return self._sharing.timeout

    def reserve_at(self, moment: float) -> Reserve:
        """Return what is asked for at a moment of the store's clock."""
        charges = tuple(each.charge_at(moment) for each in self.parts)
        return Reserve(self.id, charges, tuple(each.take for each in self.takes))

    def ask(self) -> None:
        """Ask the store."""
        until = self._sharing.clock() + self.seconds
        self._sharing.tell(AskAmounts(self.id, self, self.reserve_at, until))

    def corrected(self, booking: Booking) -> tuple[Take, ...]:
        """Return what shared limits are corrected by at its end."""
        found: list[Take] = []
        for each in self.takes:
            take = each.take
            if not self.is_made:
                found.append(take._replace(amount=-take.amount))
            elif each.is_tokens and not booking.as_reserved:
                found.append(take._replace(amount=booking.usage.tokens - take.amount))
        return tuple(each for each in found if each.amount)

    def give_back(self) -> None:
        """Give everything back, whatever the store says or has said. Never waits."""
        is_taken = self.answer is not None and self.answer.outcome == "admitted"
        takes = [each.take for each in self.takes] if is_taken else []
        returned = tuple(each._replace(amount=-each.amount) for each in takes)
        self._sharing.tell(BookAmounts(Settle(self.id, (), returned)))

    def keep(self) -> None:
        """Leave what was taken, and hold nothing any more: an entry of a guard does not settle."""
        self._sharing.tell(BookAmounts(Settle(self.id)))

    def hold(self, charges: tuple[Charge, ...]) -> None:
        """Admit the attempt here, under another id than that for which the store was asked."""
        self.id, self.charges, self.takes = self._new_id(), charges, ()
        self.is_local = True
        self._sharing.tell(HoldAmounts(Reserve(self.id, charges, is_renewal=True)))
        self.is_held = True  # last: after an interrupt before it, it is released and not booked


def account_name(budget: Budget) -> str:
    """Return the name of the account of a budget, which all processes give it; without a key.

    Of a budget with the usual name that is what it caps. A name alone does not make two budgets of
    different units or periods one.
    """
    usual = f"{budget.of} {budget.per} {budget.unit}"
    name = "" if budget.name == usual else budget.name
    return SEPARATOR.join((name, budget.of, budget.unit, budget.per, budget.zone))


def _period(calendar: Calendar, moment: float) -> Period:
    period = calendar.period
    if period.start <= moment < period.end:
        return period
    return period_at(calendar.per, calendar.zone, moment)


def entry_of(part: Part, charge: Charge, booking: Booking, cost: int | None) -> Entry:
    """Return what an attempt books in one account; keep in sync with `LocalLedger`."""
    unit = part.account.unit
    if unit == "calls":
        amount = booking.calls
    elif booking.as_reserved:
        amount = charge.amount
    elif unit == "usd":
        amount = cost or 0
    else:
        amount = booking.usage.input + booking.usage.output
    return Entry(
        charge.account, charge.start, charge.end, amount, booking.calls, int(booking.estimated)
    )
