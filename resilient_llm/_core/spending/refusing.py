"""Why budgets refuse an attempt, and how what it has added is taken back.

All of it runs under the lock of `LocalLedger`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm._core.spending.amounts_reserved import estimate_in, is_free
from resilient_llm._core.spending.ledger import UNPRICED, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from resilient_llm._core.spending.accounts import Account, Slot
    from resilient_llm._core.spending.ledger import Reservation


def refusal_locked(slots: tuple[Slot, ...], reservation: Reservation, now: float) -> Refusal | None:
    """Return why budgets refuse an attempt, if they do; of which nothing is reserved.

    A function of its own, since the filter of a comprehension is a place at which an interrupt
    would skip the `finally` and the release of the lock.
    """
    key = reservation.spend_key
    amounts = [
        (slot, estimate_in(slot, reservation))
        for slot in slots
        if slot.own is not None or key is not None
    ]
    if any(amount is None for _, amount in amounts):
        return unpriced_locked(slots, reservation)
    refusing = [
        (account, amount or 0)
        for slot, amount in amounts
        if (account := slot.account(key)).spent + account.reserved + (amount or 0) > slot.cap
        and not is_free(slot, reservation)
    ]
    return refusal_of(refusing, now) if refusing else None


def unpriced_locked(slots: tuple[Slot, ...], reservation: Reservation) -> Refusal:
    """Return the refusal of a target without a price, by the budget that resets last."""
    key = reservation.spend_key
    give_back_locked(reservation)
    refusing = [
        slot for slot in slots if slot.unit == "usd" and (slot.own is not None or key is not None)
    ]
    slot = max(refusing, key=lambda each: each.calendar.period.end)
    refusal = _refused_by(slot.account(key), UNPRICED, None)
    forget_unused_locked(slots, key)
    return refusal


def forget_unused_locked(slots: Iterable[Slot], key: str | None) -> None:
    """Close the accounts of a key that were opened for an attempt that was refused."""
    if key is None:
        return
    for slot in list(slots):
        forget_unused(slot.accounts, key)


def forget_unused(accounts: dict[str | None, Account], key: str) -> None:
    """Close the account of a key that has nothing, and of which nothing was told.

    One run without a call, so that no wrapper reserves in it meanwhile.
    """
    if key in accounts:
        account = accounts[key]
        if not (
            account.open
            or account.spent
            or account.calls
            or account.estimated
            or account.has_exceeded
        ):
            del accounts[key]


def give_back_locked(reservation: Reservation) -> None:
    """Take back what was added for an attempt, which then is not admitted."""
    taken = reservation._taken
    while reservation._count:
        index = reservation._count - 1
        account, amount = taken[index]
        # No call and no jump in these, either.
        account.reserved -= amount
        account.open -= 1
        reservation._count = index
    reservation._taken = []
    reservation._queue = None


def refusal_of(refusing: list[tuple[Account, int]], now: float) -> Refusal:
    """Return the refusal of the account that resets last; of equals, of the one for longest."""

    def never_fits(account: Account, amount: int) -> bool:
        return amount > account.slot.cap

    def is_spent(account: Account, amount: int) -> bool:
        return account.spent + amount > account.slot.cap

    account, amount = max(
        refusing,
        key=lambda each: (each[0].slot.calendar.period.end, never_fits(*each), is_spent(*each)),
    )
    waits = is_spent(account, amount) and not never_fits(account, amount)
    return _refused_by(account, f"budget {account.slot.budget.name}", now if waits else None)


def _refused_by(account: Account, reason: str, now: float | None) -> Refusal:
    """Return a refusal; ``now`` is None if no moment is known at which to come back."""
    slot = account.slot
    period = slot.calendar.period
    return Refusal(
        reason=reason,
        budget=slot.budget.name,
        key=account.key,
        cap=slot.budget.cap,
        spent=slot.amount(account.spent),
        reserved=slot.amount(account.reserved),
        resets_at=period.ends_at,
        retry_after=None if now is None else max(period.end - now, 0.0),
    )
