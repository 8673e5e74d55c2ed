"""What the library asks of a ledger, which says whether an attempt fits the budgets.

`Ledger` is all of it, so that a durable or a shared one can take the place of `local_ledger`. An
attempt brings a `Reservation`: it reserves before it is sent, and settles when it has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from decimal import Decimal
    from typing import Literal, TypeAlias

    from resilient_llm._core.limits.shared import SharedTake
    from resilient_llm._core.spending.accounts import Account
    from resilient_llm._core.spending.asking import Asked, TooSoon, Unavailable
    from resilient_llm._core.spending.booking import Booking
    from resilient_llm._core.spending.entries import Entries
    from resilient_llm._core.spending.estimates import Estimate
    from resilient_llm._core.spending.prices import Rates
    from resilient_llm._values.money import Budget, SpendReport, Unit
    from resilient_llm._values.target import Target

    Amount: TypeAlias = "Decimal | int"

UNPRICED: Final = "unpriced"
"""Reason of the refusal of a target without a price by a budget in USD."""


class Reservation:
    """What one attempt reserves, and later books. Made before it is sent; used once.

    Attributes:
        target: Where the attempt goes.
        estimate: Of its tokens.
        rates: What they cost, or None if nobody says.
        spend_key: The key of ``spend_key`` that the call began with, or None.
    """

    __slots__ = (
        "_asked",
        "_booking",
        "_count",
        "_is_counted",
        "_queue",
        "_taken",
        "estimate",
        "rates",
        "spend_key",
        "target",
    )

    def __init__(
        self,
        target: Target,
        estimate: Estimate,
        rates: Rates | None = None,
        spend_key: str | None = None,
    ) -> None:
        self.target = target
        self.estimate = estimate
        self.rates = rates
        self.spend_key = spend_key
        self._queue: list[Reservation] | None = None
        """Of the ledger that has admitted it; None before, and after a refusal."""
        self._taken: list[tuple[Account, int]] = []
        self._count = 0
        """How many of them are added to their accounts."""
        self._booking: Booking | None = None
        self._is_counted = False
        self._asked: Asked | None = None
        """What it has asked of a store, if processes share the budgets."""

    def __del__(self) -> None:
        # Of an interrupt in the middle of a step. An attempt that was sent is always settled.
        try:
            queue, asked = self._queue, self._asked
            is_left = self._count or (self._booking is not None and not self._is_counted)
            if asked is not None and self._booking is None:
                asked.give_back()
        except AttributeError:  # an interrupt came before it was made
            return
        if queue is not None and is_left:
            queue.append(self)

    @property
    def is_settled(self) -> bool:
        """Whether all of it is booked."""
        return self._is_counted and not self._count

    def booked(self, booking: Booking) -> int | None:
        """Return what the attempt costs, in 1e-12 USD; None if it has no price.

        If it books all that was reserved, that is the largest of its reservations in USD, or the
        cost of its estimate if there is none.
        """
        rates = self.rates
        if rates is None:
            return None
        if booking.as_reserved:
            in_usd = [amount for account, amount in self._taken if account.unit == "usd"]
            return max(
                in_usd, default=rates.cost_of(self.estimate.input, self.estimate.output or 0)
            )
        usage = booking.usage
        return rates.cost(usage) if booking.estimated or usage.input or usage.output else 0


class Refusal(NamedTuple):
    """Why the budgets of a target refuse an attempt: of those that do, the one that resets last.

    Attributes:
        reason: ``budget <name>``, or ``unpriced``.
        budget: Its name.
        key: The key of ``spend_key``; None if the budget does not count by key.
        cap: In USD as a `Decimal`, or in tokens or calls.
        spent: Booked in the present period, in the same unit.
        reserved: By attempts in flight, in the same unit.
        resets_at: When the next period begins, in UTC.
        retry_after: Seconds until then; None if only reservations are in the way, if the attempt
            is above the cap, or if the target has no price.
    """

    reason: str
    budget: str
    key: str | None
    cap: Amount
    spent: Amount
    reserved: Amount
    resets_at: datetime
    retry_after: float | None


def first_to_reset(refusals: Sequence[Refusal]) -> Refusal:
    """Return, of the refusals of several targets, the one to come back for.

    That is the one that resets first; one of a target without a price only if there is no other.
    """
    return min(refusals, key=lambda refusal: (refusal.reason == UNPRICED, refusal.resets_at))


class Notice(NamedTuple):
    """Something to tell observers, outside of the lock; once per period and key.

    Attributes:
        kind: ``"warning"`` at ``warn_at`` of the cap, ``"exceeded"`` when spending alone leaves a
            call no room.
        budget: Name of the budget.
        key: The key of ``spend_key``; None if the budget does not count by key.
        spent: Booked in the present period.
        cap: In the same unit.
        resets_at: When the next period begins, in UTC.
    """

    kind: Literal["warning", "exceeded"]
    budget: str
    key: str | None
    spent: Amount
    cap: Amount
    resets_at: datetime


class SpendRow(NamedTuple):
    """What a budget, or one key of it, has spent, for what shows it.

    Attributes:
        report: What it has spent.
        unit: ``"usd"``, ``"tokens"`` or ``"calls"``.
        keys: How many keys the budget has seen in the period; 1 if it does not count by key.
    """

    report: SpendReport
    unit: Unit
    keys: int


class Ledger(Protocol):
    """What the library asks of a ledger. Moments are seconds since 1970, of the wall clock.

    One that asks a store gives back what it asks, `Asked`: its caller waits for the answer, and
    then asks `answered` what it means.
    """

    @property
    def notices(self) -> list[Notice]:
        """What observers have not been told yet; see `take_notices`."""
        ...

    @property
    def is_shared(self) -> bool:
        """Whether a store decides, which all processes ask."""
        ...

    @property
    def entries(self) -> Entries | None:
        """Takes from shared limits for guards; None where nothing is shared."""
        ...

    @property
    def has_budgets(self) -> bool: ...
    def reserve(
        self, reservation: Reservation, now: float, takes: tuple[SharedTake, ...] = (), /
    ) -> Refusal | Unavailable | TooSoon | Asked | None: ...
    def answered(
        self, reservation: Reservation, now: float, /
    ) -> Refusal | Unavailable | TooSoon | None: ...
    def refusal_of(
        self, reservation: Reservation, now: float, /
    ) -> Refusal | Unavailable | None: ...
    def settle(self, reservation: Reservation, booking: Booking, /) -> int | None: ...
    def settle_later(self, reservation: Reservation, booking: Booking, /) -> None: ...
    def take_notices(self) -> list[Notice]: ...
    def replace(self, budgets: Sequence[Budget], now: float, /) -> None: ...
    def reports(self, now: float, /) -> list[SpendReport]: ...
    def ratios(self, now: float, /) -> dict[str, float]: ...
    def fullest(self, now: float, most: int, /, key: str | None = None) -> list[SpendRow]: ...
    def totals(self) -> dict[str, Decimal]: ...
    def reset(self, name: str | None = None, /) -> None: ...
    def after_fork(self) -> None: ...
