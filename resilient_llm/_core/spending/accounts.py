"""The accounts of budgets: what each has spent and reserved in its present period.

The state of `local_ledger`, which alone changes it, under its lock.
"""

from __future__ import annotations

import heapq
import math
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from resilient_llm._core.spending.periods import period_at
from resilient_llm._values.amounts import DECIMALS, usd
from resilient_llm._values.money import ALL, EACH_KEY, TAG, SpendReport

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import tzinfo
    from decimal import Decimal

    from resilient_llm._core.spending.periods import Period
    from resilient_llm._values.money import Budget, Unit
    from resilient_llm._values.money import Period as PeriodName
    from resilient_llm._values.target import Target


class Calendar:
    """The period in force of all budgets with one ``per`` and zone."""

    __slots__ = ("end", "per", "period", "zone")

    def __init__(self, per: PeriodName, zone: tzinfo, moment: float) -> None:
        self.per: PeriodName = per
        self.zone = zone
        self.period = period_at(per, zone, moment)
        self.end = self.period.end


class Account:
    """What one budget, or one key of it, has in the period in which the account was opened."""

    __slots__ = (
        "calls",
        "estimated",
        "has_exceeded",
        "has_warned",
        "key",
        "notice_at",
        "open",
        "reserved",
        "slot",
        "spent",
        "unit",
    )

    def __init__(self, slot: Slot, key: str | None) -> None:
        self.slot = slot
        self.key = key
        self.unit = slot.unit
        self.reserved = 0
        self.open = 0
        """Attempts in flight; some reserve nothing."""
        self.clear()

    def clear(self) -> None:
        """Forget what was booked; reservations stay."""
        self.spent = 0
        self.calls = 0
        self.estimated = 0
        self.has_warned = False
        self.has_exceeded = False
        self.set_notice()

    def set_notice(self) -> None:
        """Set the spending from which there is something to tell."""
        slot = self.slot
        self.notice_at: float = (
            slot.warn_at
            if not self.has_warned
            else max(slot.cap, 1)
            if not self.has_exceeded
            else math.inf
        )


class Slot:
    """One budget and the accounts of its present period."""

    __slots__ = ("accounts", "budget", "calendar", "cap", "own", "start", "unit", "warn_at")

    def __init__(self, budget: Budget, calendar: Calendar) -> None:
        self.unit: Unit = budget.unit
        self.calendar = calendar
        self._set(budget)
        self.open()

    def _set(self, budget: Budget) -> None:
        self.budget = budget
        cap = budget.cap
        self.cap = cap if isinstance(cap, int) else int(Fraction(cap) * 10**DECIMALS)
        # 0.8 is four fifths, and not the float next to them. Nothing spent is nothing to tell.
        self.warn_at = max(math.ceil(Fraction(repr(budget.warn_at)) * self.cap), 1)

    def change(self, budget: Budget) -> None:
        """Take another cap and the like. What was told is told again if it comes true again."""
        before = self.cap, self.warn_at
        self._set(budget)
        if (self.cap, self.warn_at) == before:
            return
        for account in list(self.accounts.values()):
            account.has_warned = account.has_warned and account.spent >= self.warn_at
            account.has_exceeded = account.has_exceeded and account.spent >= self.cap
            account.set_notice()

    def open(self) -> None:
        """Begin the period of the calendar, with nothing spent."""
        self.accounts: dict[str | None, Account] = {}
        self.own: Account | None = None
        """The account of a budget that does not count by key."""
        if self.budget.of != EACH_KEY:
            self.own = self.accounts[None] = Account(self, None)
        self.start = self.calendar.period.start

    def renew(self) -> None:
        """Replace the accounts by such that have the same spending and no reservations."""
        accounts: dict[str | None, Account] = {}
        for key, old in self.accounts.items():
            if key is not None and not (
                old.spent or old.calls or old.estimated or old.has_exceeded
            ):
                continue
            new = accounts[key] = Account(self, key)
            new.spent, new.calls, new.estimated = old.spent, old.calls, old.estimated
            new.has_warned, new.has_exceeded = old.has_warned, old.has_exceeded
            new.set_notice()
        self.accounts = accounts
        self.own = accounts.get(None)

    def account(self, key: str | None) -> Account:
        """Return the account of a key, which is opened with the first attempt."""
        return (
            self.own or self.accounts.get(key) or self.accounts.setdefault(key, Account(self, key))
        )

    def amount(self, units: int) -> Decimal | int:
        """Return an amount as users know it: USD as a `Decimal`, or tokens or calls."""
        return usd(units) if self.unit == "usd" else units

    def is_kept_by(self, budget: Budget) -> bool:
        """Return whether a budget of the same name keeps what was spent."""
        mine = self.budget
        return (
            self.unit == budget.unit
            and mine.of == budget.of
            and mine.per == budget.per
            and mine.zone == budget.zone
        )


class Total:
    """What was booked for one target, in 1e-12 USD."""

    __slots__ = ("is_used", "usd")

    def __init__(self) -> None:
        self.usd = 0
        self.is_used = False
        """Whether something was booked; a wrapper that books only adds to the sum."""

    def copy(self) -> Total:
        """Return the same for a forked child."""
        copied = Total()
        copied.usd, copied.is_used = self.usd, self.is_used
        return copied


def covers(budget: Budget, target: Target) -> bool:
    """Return whether a target counts in a budget.

    A provider is covered with all of its accounts, so that no account evades its cap. One that
    counts by key covers every target, for calls that have a key.
    """
    of = budget.of
    if of in (ALL, EACH_KEY):
        return True
    if of.startswith(TAG):
        return of in {TAG + tag.strip() for tag in target.tags}  # as limits read them
    return of in (target.key, target.provider_key, target.provider)


def ratio_of(slot: Slot, accounts: Iterable[Account]) -> float:
    """Return which share of its cap a budget has spent, of its keys the highest.

    A cap of 0 is always spent.
    """
    if not slot.cap:
        return 1.0
    return max((account.spent for account in accounts), default=0) / slot.cap


def fullest_of(accounts: Iterable[Account], most: int, key: str | None) -> list[Account]:
    """Return the accounts of one budget that have used or reserved most, the fullest first.

    Args:
        accounts: All that it has.
        most: How many.
        key: The only key; None for all. A budget that does not count by key has no other account.
    """
    wanted = [each for each in accounts if key is None or each.key in (None, key)]
    # The key as well, so that the order stays the same from one look to the next.
    return heapq.nsmallest(
        most, wanted, key=lambda each: (-each.spent - each.reserved, each.key or "")
    )


class Snapshot(NamedTuple):
    """What an account has at one moment; it is taken under the lock, and shown outside it."""

    budget: Budget
    period: Period
    key: str | None
    spent: int
    reserved: int
    calls: int
    estimated: int

    def report(self) -> SpendReport:
        """Return it as users are shown it."""
        is_money = self.budget.unit == "usd"
        return SpendReport(
            budget=self.budget.name,
            of=self.budget.of,
            key=self.key,
            period_start=self.period.starts_at,
            resets_at=self.period.ends_at,
            spent=usd(self.spent) if is_money else self.spent,
            reserved=usd(self.reserved) if is_money else self.reserved,
            cap=self.budget.cap,
            calls=self.calls,
            estimated=self.estimated,
        )


Figures = tuple["Budget", "Period", "str | None", int, int, int, int]
"""The fields of a `Snapshot`, which is made of them outside the lock."""


def figures_of(budget: Budget, period: Period, accounts: Iterable[Account]) -> list[Figures]:
    """Return what the accounts of a budget have now. Short, since all calls wait for it.

    Of each in one run, so that an attempt that a wrapper books is in all of them or in none.
    """
    return [
        (budget, period, each.key, each.spent, each.reserved, each.calls, each.estimated)
        for each in list(accounts)
    ]
