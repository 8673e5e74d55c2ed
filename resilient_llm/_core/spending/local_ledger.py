"""The ledger of this process: what was spent and reserved in the present period of each budget.

Owns the accounts of all budgets, the calendars that they share, and the totals by target. Knows no
clock and no prices: moments and rates are passed in.

Theory of operation. An attempt brings a `Reservation`. `reserve` adds its estimate to the account
of every budget that covers it, and then looks whether one of them is above its cap; if so, all is
taken back and the attempt is refused. That is one step under the lock. `settle` replaces what was
reserved by what was booked, in the same accounts: an attempt belongs to the period in which it
began, and a period that is over has accounts that only open reservations still refer to.

Exact under threads are `reserve`, `settle`, `reports`, `totals`, `reset` and `replace`: each
holds the one lock of the ledger, which is a leaf. Two things come between their steps all the
same. A signal handler may run on the thread that holds the lock, which is reentrant; it may raise.
So an amount and the note that it was taken are stored by statements without a call or a jump
between them, where CPython runs no handler (see circuit/window.py). What a handler leaves half done
is finished by the next holder, since the reservation then dies unsettled. And because estimates
are added before they are compared, a reservation made by a handler in the middle of another one
can refuse that one, but both together cannot pass a cap.

A finaliser waits for no lock: `settle_later` queues its settlement for the next holder.

A healthy call reserves and settles in its wrapper, without the lock (`_binding/limited_code`). The
wrapper looks and adds in one run of statements without a call or a jump backwards, and each change
of an account here is such a run as well. As long as estimates are added before they are compared,
as here, or compared and added in one run, as there, no two of them pass a cap together. What the
wrapper keeps exact without the lock are caps and sums; of several budgets that one attempt is
booked in, a report may show the attempt in some only, for a moment.

Time goes only forward. Each account belongs to the period of its calendar, which advances when a
moment at or after its end is passed in, and never goes back: while a wall clock that was set back
repeats an hour, that hour counts in the period that was in force. Budgets that are added meanwhile
begin no earlier than the latest period that any budget has reached. The price: a clock that was
a year ahead leaves monthly budgets in that month until it comes, or until they get a new name.

Memory is that of the keys that were admitted in the present period, or of which observers were told
that a cap of 0 refuses them; each period starts empty.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Final

from resilient_llm._core.spending.accounts import (
    Account,
    Calendar,
    Slot,
    Snapshot,
    Total,
    covers,
    figures_of,
    fullest_of,
    ratio_of,
)
from resilient_llm._core.spending.amounts_reserved import estimate_in, is_free, unusual_estimate
from resilient_llm._core.spending.booking import NOTHING
from resilient_llm._core.spending.ledger import Notice, Refusal, SpendRow
from resilient_llm._core.spending.periods import period_at
from resilient_llm._core.spending.refusing import (
    forget_unused,
    forget_unused_locked,
    give_back_locked,
    refusal_locked,
    refusal_of,
    unpriced_locked,
)
from resilient_llm._values import checks as check
from resilient_llm._values.amounts import usd
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.keys import shown
from resilient_llm._values.money import UTC_NAME, zone_named

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal
    from typing import Literal

    from resilient_llm._core.limits.shared import SharedTake
    from resilient_llm._core.spending.booking import Booking
    from resilient_llm._core.spending.ledger import Reservation
    from resilient_llm._values.money import Budget, SpendReport
    from resilient_llm._values.sharing import Balance
    from resilient_llm._values.target import Target

_MOST_TARGETS: Final = 10_000
"""Targets that have totals of their own, and of which it is remembered which budgets cover them."""
_OTHERS: Final = "*"
"""Has the totals of all further targets."""


class LocalLedger:
    """The ledger of this process, in memory. May be used from any thread."""

    __slots__ = (
        "_calendars",
        "_ends_at",
        "_latest",
        "_lock",
        "_queue",
        "_scopes",
        "_slots",
        "_totals",
        "notices",
    )

    def __init__(self, budgets: Sequence[Budget] = (), now: float = 0.0) -> None:
        self._lock = threading.RLock()
        self._queue: list[Reservation] = []
        """Settlements that wait for the next holder of the lock."""
        self._slots: dict[str, Slot] = {}
        self._calendars: dict[tuple[str, str], Calendar] = {}
        self._latest = -math.inf
        """Start of the latest period that any budget has reached."""
        self._ends_at = math.inf
        """When the first of the periods in force ends."""
        self._scopes: dict[tuple[str, frozenset[str]], tuple[Slot, ...]] = {}
        """``{(key, tags) of a target: the budgets that cover it}``; replaced with the budgets."""
        self._totals: dict[str, Total] = {}
        self.notices: list[Notice] = []
        if budgets:
            self.replace(budgets, now)

    @property
    def is_shared(self) -> bool:
        """Nobody else decides."""
        return False

    # Attempts.

    def reserve(
        self, reservation: Reservation, now: float, takes: tuple[SharedTake, ...] = (), /
    ) -> Refusal | None:
        """Reserve what an attempt may use in all budgets that cover it, or in none.

        Args:
            reservation: A new one.
            now: When the attempt begins.
            takes: None: limits are shared through a store, and this ledger has none.

        Returns:
            None if it is admitted; else why it is not.

        Raises:
            ConfigurationError: If nothing limits its answer and a budget does not say how much to
                reserve for it.
        """
        while True:
            if now >= self._ends_at:
                self._advance(now)
            with self._lock:
                if self._queue:
                    self._settle_queued_locked()
                if now >= self._ends_at:  # the budgets have just been replaced
                    continue
                try:
                    return self._reserve_locked(reservation, now)
                except BaseException:  # of a handler of signals, or about the reservation
                    give_back_locked(reservation)
                    forget_unused_locked(self._slots.values(), reservation.spend_key)
                    raise

    def answered(self, reservation: Reservation, now: float, /) -> None:
        """Nothing is asked of anybody."""

    def refusal_of(self, reservation: Reservation, now: float, /) -> Refusal | None:
        """Return what `reserve` would return now; reserves and notes nothing."""
        if now >= self._ends_at:
            self._advance(now)
        target, key = reservation.target, reservation.spend_key
        with self._lock:
            if self._queue:
                self._settle_queued_locked()
            slots = self._scopes.get((target.key, target.tags)) or self._covering_locked(target)
            try:
                return refusal_locked(slots, reservation, now)
            finally:
                forget_unused_locked(slots, key)

    def _reserve_locked(self, reservation: Reservation, now: float) -> Refusal | None:
        target, key, rates = reservation.target, reservation.spend_key, reservation.rates
        tokens, output, _ = reservation.estimate
        slots = self._scopes.get((target.key, target.tags))
        if slots is None:
            slots = self._covering_locked(target)
        reservation._queue = self._queue
        if not slots:
            return None
        taken = reservation._taken
        in_usd = -1
        for slot in slots:
            account = slot.own
            if account is None:
                if key is None:
                    continue
                account = slot.account(key)
            unit = slot.unit
            if unit == "calls":
                amount = 1
            elif output is None or (rates is None and unit == "usd"):
                amount = unusual_estimate(slot, reservation)
                if amount is None:
                    return unpriced_locked(slots, reservation)
            elif unit == "usd" and rates is not None:
                if in_usd < 0:
                    in_usd = rates.cost_of(tokens, output)
                amount = in_usd
            else:
                amount = tokens + output
            taken.append((account, amount))
            # No call and no jump in these: see the theory of operation.
            account.reserved += amount
            account.open += 1
            reservation._count += 1
            if account.spent + account.reserved > slot.cap and not is_free(slot, reservation):
                return self._refused_locked(slots, reservation, now)
        return None

    def _refused_locked(
        self, slots: tuple[Slot, ...], reservation: Reservation, now: float
    ) -> Refusal | None:
        """Take everything back, and return why; admit the attempt if there is room by now."""
        key = reservation.spend_key
        give_back_locked(reservation)
        refusing: list[tuple[Account, int]] = []
        for slot in slots:
            if key is None and slot.own is None:
                continue
            account = slot.account(key)
            amount = estimate_in(slot, reservation)
            if amount is None:
                return unpriced_locked(slots, reservation)
            if account.spent + account.reserved + amount > slot.cap and not is_free(
                slot, reservation
            ):
                refusing.append((account, amount))
                # Of a call above the cap only the estimate is to blame, unless all is spent, as a
                # cap of 0 is from the first.
                if amount <= slot.cap < account.spent + amount or account.spent >= slot.cap:
                    self._note_locked(account, leaves_no_room=True)
        if not refusing:  # a signal handler has settled something meanwhile
            return self._reserve_locked(reservation, now)
        refusal = refusal_of(refusing, now)
        forget_unused_locked(slots, key)
        return refusal

    def settle(self, reservation: Reservation, booking: Booking, /) -> int | None:
        """Book what an attempt used, and release what it had reserved. A second time is ignored.

        Returns:
            What it costs, in 1e-12 USD; None if it has no price.
        """
        cost = reservation.booked(booking)
        with self._lock:
            if self._queue:
                self._settle_queued_locked()
            first = reservation._booking
            if first is None:
                reservation._booking = booking
            elif first is not booking:  # a finaliser was first
                booking, cost = first, reservation.booked(first)
            self._settle_locked(reservation, booking, cost)
        return cost

    def settle_later(self, reservation: Reservation, booking: Booking, /) -> None:
        """Leave a settlement to the next holder of the lock; for finalisers, waits for nothing."""
        queue = reservation._queue
        if queue is not None and not reservation.is_settled:
            if reservation._booking is None:
                reservation._booking = booking
            queue.append(reservation)  # also if an interrupt came in the middle of `settle`

    def _settle_queued_locked(self) -> None:
        for reservation in list(self._queue):
            booking = reservation._booking
            if booking is None:
                booking = reservation._booking = NOTHING
            self._settle_locked(reservation, booking, reservation.booked(booking))
            try:
                self._queue.remove(reservation)
            except ValueError:  # a signal handler was here
                pass

    def _settle_locked(self, reservation: Reservation, booking: Booking, cost: int | None) -> None:
        if reservation._queue is not self._queue:  # refused, or of the parent
            return
        usage, calls, estimated = booking.usage, booking.calls, int(booking.estimated)
        tokens = usage.input + usage.output
        taken = reservation._taken
        while reservation._count:
            index = reservation._count - 1
            account, amount = taken[index]
            if account.unit == "calls":
                booked = calls
            elif booking.as_reserved:
                booked = amount
            elif account.unit == "usd":
                booked = cost or 0
            else:
                booked = tokens
            # No call and no jump in these, either.
            account.reserved -= amount
            account.open -= 1
            account.spent += booked
            account.calls += calls
            account.estimated += estimated
            reservation._count = index
            if account.spent >= account.notice_at:
                self._note_locked(account)
        if not reservation._is_counted:
            key = reservation.target.key
            total = self._totals.get(key) or self._open_total(key)
            total.usd += cost or 0
            total.is_used = True
            reservation._is_counted = True

    def total_of(self, key: str) -> Total:
        """Return what is booked for a target, for a wrapper; it is the same until a fork."""
        return self._totals.get(key) or self._open_total(key)

    def _open_total(self, key: str) -> Total:
        if len(self._totals) >= _MOST_TARGETS:
            key = _OTHERS
        return self._totals.setdefault(key, Total())

    def _note_locked(self, account: Account, *, leaves_no_room: bool = False) -> None:
        """Note what observers should be told of an account of the present period."""
        slot = account.slot
        if slot.accounts.get(account.key) is not account:
            return
        if account.spent >= slot.warn_at and not account.has_warned:
            account.has_warned = True
            self._tell(account, "warning")
        is_exceeded = leaves_no_room or account.spent >= max(slot.cap, 1)
        if is_exceeded and not account.has_exceeded:
            account.has_exceeded = True
            self._tell(account, "exceeded")
        account.set_notice()

    def _tell(self, account: Account, kind: Literal["warning", "exceeded"]) -> None:
        slot = account.slot
        self.notices.append(
            Notice(
                kind,
                slot.budget.name,
                account.key,
                slot.amount(account.spent),
                slot.budget.cap,
                slot.calendar.period.ends_at,
            )
        )

    def take_notices(self) -> list[Notice]:
        """Return what observers have not been told yet, in order, and forget it."""
        taken: list[Notice] = []
        while self.notices:
            try:
                taken.append(self.notices.pop(0))
            except IndexError:  # another thread took it
                break
        return taken

    # Periods and budgets.

    def _advance(self, now: float) -> None:
        """Begin the periods that a moment is in, as far as they are later than those in force."""
        late = [each for each in list(self._calendars.values()) if now >= each.end]
        found = [(each, period_at(each.per, each.zone, now)) for each in late]
        with self._lock:
            if self._queue:
                self._settle_queued_locked()
            for calendar, period in found:
                if period.end <= calendar.end:
                    continue
                calendar.period = period
                self._latest = max(self._latest, period.start)
                for slot in list(self._slots.values()):
                    if slot.calendar is not calendar or slot.start >= period.start:
                        continue
                    slot.open()
                # Last, so that what an interrupt leaves half done is done again.
                calendar.end = period.end
            self._ends_at = min((each.end for each in self._calendars.values()), default=math.inf)

    def covering(self, target: Target) -> tuple[Slot, ...]:
        """Return the budgets that cover a target, for a wrapper: see `_binding/limited_code`."""
        with self._lock:
            return self._covering_locked(target)

    entries = None
    """Nothing is shared."""

    # For a shared ledger, which decides elsewhere and shows its accounts here.

    def to_local(self) -> LocalLedger:
        """Return the ledger of this process alone: this one."""
        return self

    @property
    def lock(self) -> threading.RLock:
        """The lock of the ledger."""
        return self._lock

    @property
    def slots(self) -> tuple[Slot, ...]:
        """All budgets."""
        return tuple(self._slots.values())

    def slots_of(self, target: Target) -> tuple[Slot, ...]:
        """Return the budgets that cover a target. With the lock held."""
        return self._scopes.get((target.key, target.tags)) or self._covering_locked(target)

    def advance(self, now: float) -> bool:
        """Begin the periods that a moment is in; return whether any has begun."""
        ends_at = self._ends_at
        if now >= ends_at:
            self._advance(now)
        return self._ends_at != ends_at

    def show(self, slot: Slot, key: str | None, balance: Balance) -> None:
        """Set what an account has in the present period. With the lock held."""
        account = slot.account(key)
        account.spent, account.reserved = balance.spent, balance.reserved
        account.calls, account.estimated = balance.calls, balance.estimated
        account.open = int(balance.reserved > 0)
        if key is not None:
            forget_unused(slot.accounts, key)

    def note(self, slot: Slot, key: str | None, *, is_spent: bool = False) -> None:
        """Note what observers should be told of an account. With the lock held.

        Args:
            slot: Its budget.
            key: The key of a budget that counts by key.
            is_spent: Whether spending may have passed a limit; else it leaves a call no room.
        """
        account = slot.account(key)
        if not is_spent or account.spent >= account.notice_at:
            self._note_locked(account, leaves_no_room=not is_spent)

    def take_totals_of(self, other: LocalLedger) -> None:
        """Go on with the totals of another ledger, whose attempts in flight count in them too."""
        self._totals = other._totals

    def _covering_locked(self, target: Target) -> tuple[Slot, ...]:
        """Return the budgets that cover a target, and remember them."""
        slots = tuple(slot for slot in list(self._slots.values()) if covers(slot.budget, target))
        if len(self._scopes) >= _MOST_TARGETS:
            self._scopes = {}
        self._scopes[target.key, target.tags] = slots
        return slots

    def replace(self, budgets: Sequence[Budget], now: float, /) -> None:
        """Replace the list of budgets; what kept its name, scope, period and unit keeps the rest.

        Args:
            budgets: The new list, with names that differ.
            now: When it begins.
        """
        zones = [zone_named(budget.zone) for budget in budgets]  # which may read files
        with self._lock:
            if self._queue:
                self._settle_queued_locked()
            moment = max(now, self._latest)
            slots: dict[str, Slot] = {}
            calendars: dict[tuple[str, str], Calendar] = {}
            for budget, zone in zip(budgets, zones, strict=True):
                slot = self._slots.get(budget.name)
                place = budget.per, UTC_NAME if budget.per == "hour" else budget.zone
                calendar = calendars.get(place) or self._calendars.get(place)
                if calendar is None:
                    calendar = Calendar(budget.per, zone, moment)
                    self._latest = max(self._latest, calendar.period.start)
                calendars[place] = calendar
                if slot is None or not slot.is_kept_by(budget):
                    slot = Slot(budget, calendar)
                else:
                    slot.change(budget)
                slots[budget.name] = slot
            self._slots, self._calendars, self._scopes = slots, calendars, {}
            self._ends_at = min((each.end for each in calendars.values()), default=math.inf)

    def reset(self, name: str | None = None, /) -> None:
        """Forget what was spent; reservations stay, and are booked when their attempts end.

        Args:
            name: Of a budget; None for all of them and the totals.

        Raises:
            ConfigurationError: If there is no budget of that name.
        """
        with self._lock:
            if self._queue:
                self._settle_queued_locked()
            if name is not None and name not in self._slots:
                near = check.near_names(name, self._slots) or sorted(self._slots)
                raise ConfigurationError(
                    f"there is no budget {shown(name)}: "
                    f"{'there are none' if not near else 'there is ' + ', '.join(map(repr, near))}"
                )
            for slot in [self._slots[name]] if name is not None else list(self._slots.values()):
                for key, account in list(slot.accounts.items()):
                    account.clear()
                    if key is None:
                        continue
                    forget_unused(slot.accounts, key)
            for total in list(self._totals.values()) if name is None else ():
                total.usd = 0
                total.is_used = False

    # Reading.

    def reports(self, now: float, /) -> list[SpendReport]:
        """Return what was spent in the present periods, sorted by budget and key.

        It is of one moment. Calls wait only while the figures are copied.
        """
        if now >= self._ends_at:
            self._advance(now)
        with self._lock:
            if self._queue:
                self._settle_queued_locked()
            taken = [
                part
                for slot in list(self._slots.values())
                for part in figures_of(slot.budget, slot.calendar.period, slot.accounts.values())
            ]
        rows = sorted(map(Snapshot._make, taken), key=lambda each: (each[0].name, each[2] or ""))
        return [each.report() for each in rows]

    @property
    def has_budgets(self) -> bool:
        """Whether any budget is configured."""
        return bool(self._slots)

    def ratios(self, now: float, /) -> dict[str, float]:
        """Return ``{budget: share of its cap that is spent}``, of its keys the highest.

        For what asks often: calls wait only while the accounts are listed, however many there are.
        """
        return {slot.budget.name: ratio_of(slot, found) for slot, found in self._listed(now)}

    def fullest(self, now: float, most: int, /, key: str | None = None) -> list[SpendRow]:
        """Return of each budget the keys that have used or reserved most, in the same way.

        Args:
            now: The present moment.
            most: Keys of each budget.
            key: The only key of budgets that count by key; None for all of them.
        """
        listed = self._listed(now)
        chosen = [
            (account, len(found))
            for _, found in sorted(listed, key=lambda each: each[0].budget.name)
            for account in fullest_of(found, most, key)
        ]
        with self._lock:
            taken = [
                (figures_of(each.slot.budget, each.slot.calendar.period, (each,)), keys)
                for each, keys in chosen
            ]
        rows = [(Snapshot._make(part), keys) for (part,), keys in taken]
        return [SpendRow(each.report(), each.budget.unit, keys) for each, keys in rows]

    def _listed(self, now: float) -> list[tuple[Slot, list[Account]]]:
        """Return every budget with its accounts of the present period."""
        if now >= self._ends_at:
            self._advance(now)
        with self._lock:
            if self._queue:
                self._settle_queued_locked()
            return [(slot, list(slot.accounts.values())) for slot in list(self._slots.values())]

    def totals(self) -> dict[str, Decimal]:
        """Return ``{target: USD}``, all that was booked, in any period and without budgets, too."""
        with self._lock:
            if self._queue:
                self._settle_queued_locked()
            found = [(key, total.usd, total.is_used) for key, total in self._totals.items()]
        return {key: usd(amount) for key, amount, is_used in sorted(found) if is_used or amount}

    def after_fork(self) -> None:
        """Become the ledger of a child: it keeps what was spent, but no reservations.

        A thread of the parent may hold the lock, so it is replaced. What the parent's attempts
        settle changes nothing here.
        """
        self._lock = threading.RLock()
        self._queue = []
        self.notices = []
        # Copies, since wrappers of the parent's attempts have the accounts themselves.
        for slot in list(self._slots.values()):
            slot.renew()
        self._totals = {key: total.copy() for key, total in self._totals.items()}
