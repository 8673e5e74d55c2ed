"""The ledger of a process that shares its budgets: the store admits, and this keeps the books.

Owns what the store has told of the accounts, what this process has booked since, and what its
attempts hold. Knows no thread and no store: both are behind `Sharing`.

Theory of operation. An attempt brings a `Reservation`. `reserve` works out what it asks for in each
budget and tells that to the thread of the store; its caller waits for the answer, and then
`answered` says what it means. The store alone compares with caps, in one step, so no two processes
pass a cap together. Without an answer the process spends its own share, or nothing.

*Shown*     Reports, shares and notices come from a `LocalLedger` that decides nothing. It shows the
            balance that the store told last, and on top of that what is not in it yet: bookings
            that have no answer, and attempts that were admitted here. When they are answered, the
            balance has them, and they are taken off in the same step.
*Share*     While the store gives no answer: (cap - spent - reserved) / peers, as told last. What
            was admitted or booked here since counts against it until a balance has it. In a period
            of which nothing was told that is cap / peers.
*Time*      The period is that of the store's clock, as far as it was told. The store names the
            period in which it has reserved; that is the one in which is booked.

The lock is that of the `LocalLedger`, and a leaf. Nothing waits for it in a finaliser:
`settle_later` tells the thread at once, and leaves what is shown to the next holder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm._core.sharing.steps import BookAmounts, HoldAmounts, ShowAmounts
from resilient_llm._core.spending.accounts import Account
from resilient_llm._core.spending.amounts_reserved import estimate_in, is_free
from resilient_llm._core.spending.asking import (
    SEPARATOR,
    Asked,
    Part,
    TooSoon,
    Unavailable,
    account_name,
    entry_of,
)
from resilient_llm._core.spending.booking import NOTHING
from resilient_llm._core.spending.entries import Entries
from resilient_llm._core.spending.local_ledger import LocalLedger
from resilient_llm._core.spending.refusing import unpriced_locked
from resilient_llm._core.spending.shared_refusals import fallback_of, refusal_by
from resilient_llm._values.money import EACH_KEY
from resilient_llm._values.sharing import Balance, Entry, Reserve, Settle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from decimal import Decimal

    from resilient_llm._core.limits.shared import SharedTake
    from resilient_llm._core.sharing.steps import AmountsAnswered, AmountsSeen
    from resilient_llm._core.spending.accounts import Slot
    from resilient_llm._core.spending.asking import Sharing
    from resilient_llm._core.spending.booking import Booking
    from resilient_llm._core.spending.ledger import Notice, Refusal, Reservation, SpendRow
    from resilient_llm._values.money import Budget, SpendReport
    from resilient_llm._values.sharing import Charge, Reserved

    Place = tuple[str, int]


class _Own:
    """What of one account and period is not in the balance of the store yet."""

    __slots__ = ("calls", "estimated", "local", "reserved", "spent")

    def __init__(self) -> None:
        self.spent = 0
        self.calls = 0
        self.estimated = 0
        self.reserved = 0
        """Below 0 for what is settled, and in the balance still reserved."""
        self.local = 0
        """What counts against the share of this process."""

    @property
    def is_nothing(self) -> bool:
        return not (self.spent or self.calls or self.estimated or self.reserved or self.local)


class SharedLedger:
    """A ledger over a store. May be used from any thread."""

    def __init__(
        self, sharing: Sharing, new_id: Callable[[], str], totals_of: LocalLedger | None = None
    ) -> None:
        """Begin with no budgets.

        Args:
            sharing: The thread of the store.
            new_id: Returns a random text of 1 to 64 characters.
            totals_of: The ledger before, whose totals by target go on.
        """
        self.shown = LocalLedger()
        """What is shown."""
        if totals_of is not None:
            self.shown.take_totals_of(totals_of)
        self._sharing = sharing
        self._new_id = new_id
        self._names: dict[str, Slot] = {}
        """``{name of an account, without its key: its budget}``"""
        self._answered: dict[Place, Balance] = {}
        """What the store told last of accounts in periods that are not over."""
        self._own: dict[Place, _Own] = {}
        self._local: dict[str, Asked] = {}
        """Attempts in flight that were admitted here, by id."""
        self._settled: dict[str, Asked] = {}
        """Attempts that the store knows, and whose settlements have no answer."""
        self.entries = Entries(sharing, new_id, lambda: self.shown.lock)
        """Of guards, which no budget covers."""
        self._queue: list[Reservation] = []
        """What finalisers have settled, for the next holder of the lock."""

    @property
    def is_shared(self) -> bool:
        return True

    def to_local(self) -> LocalLedger:
        """Return the ledger of this process once it shares nothing: with what all have spent.

        What is reserved stays behind. It is of other processes, or of attempts that this ledger
        still settles; nobody would release it there.
        """
        with self.shown.lock:
            for each in self._answered.values():
                found = self._slot_of(each.account)
                if found is None or each.start != found[0].start:
                    continue
                self.shown.show(*found, self._balance_of(each)._replace(reserved=0))
            self._names = {}  # what the store tells from now on is shown no more
        return self.shown

    # Attempts.

    def reserve(
        self, reservation: Reservation, now: float, takes: tuple[SharedTake, ...] = (), /
    ) -> Refusal | Unavailable | TooSoon | Asked | None:
        """Ask for what an attempt may use in all budgets that cover it.

        Args:
            reservation: A new one.
            now: When it begins, by the wall clock of this process.
            takes: What it takes from shared limits.

        Returns:
            What is asked of the store: its caller waits until that has an answer, at most so many
            `Asked.seconds`, and then calls `answered`. None if it is admitted; else why it is not.

        Raises:
            ConfigurationError: If nothing limits its answer and a budget does not say how much to
                reserve for it.
        """
        self._advance(now)
        with self.shown.lock:
            self._settle_queued_locked()
            slots = self.shown.slots_of(reservation.target)
            parts = self._parts_locked(slots, reservation)
            if parts is None:
                return unpriced_locked(slots, reservation)
        reservation._taken = [(each.account, each.amount) for each in parts]
        if not parts and not takes:
            return None
        asked = Asked(self._sharing, self._new_id, parts, takes)
        reservation._asked = asked
        if not takes and all(each.cap is None for each in parts):
            return self._admitted_here(asked, now, shares=False)  # no budget may refuse it
        if self._sharing.view().is_down:
            return self._admitted_here(asked, now)
        asked.ask()
        return asked

    def answered(
        self, reservation: Reservation, now: float, /
    ) -> Refusal | Unavailable | TooSoon | None:
        """Return what the answer of the store means, or that there is none; as `reserve`."""
        asked = reservation._asked
        if asked is None:
            return None
        answer: AmountsAnswered | None = asked.answer
        if answer is None or answer.reserved is None:
            asked.give_back()
            return self._admitted_here(asked, now)
        reserved = answer.reserved
        if answer.outcome == "admitted":
            asked.charges = tuple(
                each.charge_at(balance.start)._replace(start=balance.start, end=balance.end)
                for each, balance in zip(asked.parts, reserved.balances, strict=True)
            )
            asked.is_held = True
            return None
        return self._refusal(asked, reserved)

    def _parts_locked(
        self, slots: tuple[Slot, ...], reservation: Reservation
    ) -> tuple[Part, ...] | None:
        """Return what an attempt asks for; None if a budget in USD has no price for it."""
        key, parts = reservation.spend_key, list[Part]()
        for slot in slots:
            if slot.own is None and key is None:
                continue
            amount = estimate_in(slot, reservation)
            if amount is None:
                return None
            name = account_name(slot.budget)
            own_key = key if slot.own is None else None
            parts.append(
                Part(
                    # Not that which is shown: an attempt that is refused leaves no account.
                    Account(slot, own_key),
                    name if own_key is None else f"{name}{SEPARATOR}{own_key}",
                    amount,
                    None if is_free(slot, reservation) else slot.cap,
                    fallback_of(slot, reservation),
                )
            )
        return tuple(parts)

    def _admitted_here(
        self, asked: Asked, now: float, *, shares: bool = True
    ) -> Unavailable | TooSoon | None:
        """Admit an attempt without the store, if the share of this process has room for it.

        Args:
            asked: What it asks for.
            now: When it begins.
            shares: Whether anything may refuse it.
        """
        view = self._sharing.view()
        moment = now if view.moment is None else view.moment
        is_blind = view.moment is None and any(each.cap is not None for each in asked.parts)
        if shares and (is_blind or self._sharing.on_store_down != "local"):
            return Unavailable()
        with self.shown.lock:
            self._settle_queued_locked()
            charges = tuple(each.charge_at(moment) for each in asked.parts)
            if shares and any(self._is_above_share(each, view.peers) for each in charges):
                return Unavailable()
            too_soon = self.entries.take_locked(asked, view.peers)
            if too_soon is not None:
                return too_soon
            asked.hold(charges)
            for each in charges:
                own = self._own_of(each.account, each.start)
                # No call and no jump in these.
                own.reserved += each.amount
                own.local += each.amount
                asked.shown += 1
            self._local[asked.id] = asked
            self._show_all(charges)
        return None

    def _is_above_share(self, charge: Charge, peers: int) -> bool:
        if charge.cap is None:
            return False
        told = self._answered.get((charge.account, charge.start))
        room = charge.cap - (0 if told is None else told.spent + told.reserved)
        own = self._own.get((charge.account, charge.start))
        return (0 if own is None else own.local) + charge.amount > room // peers

    def _refusal(self, asked: Asked, reserved: Reserved) -> Refusal | Unavailable | TooSoon:
        """Return why the store refused an attempt: limits first, as in the order of guards."""
        if reserved.retry_after != 0.0:
            return TooSoon(reserved.retry_after)
        refusing = [
            (part, balance)
            for part, balance in zip(asked.parts, reserved.balances, strict=True)
            if part.cap is not None and balance.spent + balance.reserved + part.amount > part.cap
        ]
        if not refusing:  # the store says so all the same
            return Unavailable()
        with self.shown.lock:
            for part, balance in refusing:
                cap = part.account.slot.cap
                if balance.spent < cap and not part.amount <= cap < balance.spent + part.amount:
                    continue
                self.shown.note(part.account.slot, part.account.key)
        return refusal_by(refusing, reserved.now)

    def refusal_of(self, reservation: Reservation, now: float, /) -> Refusal | Unavailable | None:
        """Return what `reserve` would come to now, as far as is known; asks nothing."""
        self._advance(now)
        view = self._sharing.view()
        with self.shown.lock:
            self._settle_queued_locked()
            slots = self.shown.slots_of(reservation.target)
            parts = self._parts_locked(slots, reservation)
            if parts is None:
                return unpriced_locked(slots, reservation)
            moment = now if view.moment is None else view.moment
            charges = [each.charge_at(moment) for each in parts]
            if view.is_down and any(each.cap is not None for each in parts):
                if view.moment is None or self._sharing.on_store_down != "local":
                    return Unavailable()
                if any(self._is_above_share(each, view.peers) for each in charges):
                    return Unavailable()
                return None
            found = [self._balance_of(each) for each in charges]
        refusing = [
            (part, balance)
            for part, balance in zip(parts, found, strict=True)
            if part.cap is not None and balance.spent + balance.reserved + part.amount > part.cap
        ]
        return refusal_by(refusing, moment) if refusing else None

    # Settlements.

    def settle(self, reservation: Reservation, booking: Booking, /) -> int | None:
        """Book what an attempt used, and release what it had reserved. A second time is ignored.

        Returns:
            What it costs, in 1e-12 USD; None if it has no price.
        """
        settle = self._decided(reservation, booking)
        with self.shown.lock:
            self._settle_queued_locked()
        self._tell(reservation, settle)
        return reservation.booked(reservation._booking or booking)

    def settle_later(self, reservation: Reservation, booking: Booking, /) -> None:
        """Tell the same to the store, and leave the rest to the next holder; waits for nothing."""
        self._tell(reservation, self._decided(reservation, booking))

    def _decided(self, reservation: Reservation, booking: Booking) -> Settle | None:
        """Decide once what an attempt books, and have that shown."""
        asked = reservation._asked
        if asked is not None and asked.settle is not None:
            return asked.settle
        if reservation._booking is None:
            reservation._booking = booking
        booking = reservation._booking
        settle = None
        if asked is not None and asked.is_held:
            # What is decided here, `saw` does not change any more.
            cost = reservation.booked(booking)
            entries = tuple(
                entry_of(part, charge, booking, cost)
                for part, charge in zip(asked.parts, asked.charges, strict=True)
            )
            settle = asked.settle = Settle(asked.id, entries, asked.corrected(booking))
        # Before it is told: the store may have answered by the time that this is back.
        self._queue.append(reservation)
        return settle

    def _tell(self, reservation: Reservation, settle: Settle | None) -> None:
        """Tell the thread what an attempt books; it ignores what it was told before."""
        if settle is not None:
            self._sharing.tell(BookAmounts(settle))
        elif reservation._asked is not None:
            reservation._asked.give_back()

    def _settle_locked(self, reservation: Reservation) -> None:
        """Show what an attempt books; what an interrupt leaves half done, the next holder ends."""
        asked, booking = reservation._asked, reservation._booking or NOTHING
        if not reservation._is_counted:
            cost = reservation.booked(booking) or 0
            total = self.shown.total_of(reservation.target.key)
            # No call and no jump in these: see the theory of operation of `local_ledger`.
            total.usd += cost
            total.is_used = True
            reservation._is_counted = True
        if asked is None or asked.is_over:
            return
        settle = asked.settle
        while asked.shown:  # what was put on top of the balances while it ran
            charge = asked.charges[asked.shown - 1]
            own = self._own_of(charge.account, charge.start)
            own.reserved -= charge.amount
            own.local -= charge.amount
            asked.shown -= 1
        while settle is not None and asked.booked < len(settle.entries):
            charge, entry = asked.charges[asked.booked], settle.entries[asked.booked]
            own = self._own_of(charge.account, charge.start)
            released, local = (0, entry.amount) if asked.is_local else (charge.amount, 0)
            own.reserved -= released
            own.local += local
            own.spent += entry.amount
            own.calls += entry.calls
            own.estimated += entry.estimated
            asked.booked += 1
        if settle is not None and not asked.is_local:
            self._settled[asked.id] = asked
        self._local.pop(asked.id, None)
        self._show_all(asked.charges)
        if settle is not None:
            for part, charge in zip(asked.parts, asked.charges, strict=True):
                slot = part.account.slot
                if slot.start == charge.start:
                    self.shown.note(slot, part.account.key, is_spent=True)
        asked.is_over = True

    def _settle_queued_locked(self) -> None:
        for each in list(self._queue):
            self._settle_locked(each)
            try:
                self._queue.remove(each)
            except ValueError:  # a signal handler was here
                pass

    # What the store tells, on its thread.

    def saw(self, seen: AmountsSeen) -> None:
        """Take in what the store has told of accounts."""
        with self.shown.lock:
            self._settle_queued_locked()
            changed: list[Charge | Entry | Balance] = []
            for settle in seen.settled:
                changed += self._confirm(settle)
            for name in seen.renewed:
                asked = self._local.pop(name, None)
                if asked is None or asked.settle is not None:
                    continue
                asked.is_local, asked.shown = False, 0
                for each in asked.charges:
                    own = self._own_of(each.account, each.start)
                    own.reserved -= each.amount
                    own.local -= each.amount
                changed += asked.charges
            for balance in seen.balances:
                if self._slot_of(balance.account) is None:
                    continue
                self._answered[balance.account, balance.start] = balance
                changed.append(balance)
            self._show_all(changed)

    def _confirm(self, settle: Settle) -> Sequence[Charge | Entry]:
        """Take off what a settlement has put on top of balances, which have it now."""
        asked = self._settled.pop(settle.id, None)
        for entry in settle.entries:
            own = self._own_of(entry.account, entry.start)
            own.spent -= entry.amount
            own.calls -= entry.calls
            own.estimated -= entry.estimated
            if asked is None:
                own.local -= entry.amount
        if asked is None:
            return settle.entries
        for charge in asked.charges:
            self._own_of(charge.account, charge.start).reserved += charge.amount
        return asked.charges

    def _own_of(self, account: str, start: int) -> _Own:
        own = self._own.get((account, start))
        if own is None:
            own = self._own[account, start] = _Own()
        return own

    def _slot_of(self, account: str) -> tuple[Slot, str | None] | None:
        """Return the budget of an account, and its key; None for one that is not configured."""
        slot = self._names.get(account)
        if slot is not None:
            return slot, None
        name, _, key = account.rpartition(SEPARATOR)
        slot = self._names.get(name)
        return None if slot is None or slot.budget.of != EACH_KEY else (slot, key)

    def _balance_of(self, each: Charge | Entry | Balance) -> Balance:
        """Return what an account has: what was told, and what is not in it yet."""
        place = each.account, each.start
        told = self._answered.get(place) or Balance(each.account, each.start, each.end)
        own = self._own.get(place)
        if own is None:
            return told
        return told._replace(
            spent=max(told.spent + own.spent, 0),
            reserved=max(told.reserved + own.reserved, 0),
            calls=max(told.calls + own.calls, 0),
            estimated=max(told.estimated + own.estimated, 0),
        )

    def _show_all(self, changed: Iterable[Charge | Entry | Balance]) -> None:
        for each in changed:
            place = each.account, each.start
            found = self._slot_of(each.account)
            if found is not None:
                if each.start > found[0].start:
                    self.shown.advance(each.start)
                if each.start == found[0].start:
                    self.shown.show(*found, self._balance_of(each))
            own = self._own.get(place)
            if own is not None and own.is_nothing:
                del self._own[place]

    # Periods and budgets.

    def _advance(self, now: float) -> None:
        """Show the periods that the clock of the store is in."""
        moment = self._sharing.view().moment
        if self.shown.advance(now if moment is None else moment):
            with self.shown.lock:
                for place, each in list(self._answered.items()):
                    found = self._slot_of(each.account)
                    if found is not None and each.start >= found[0].start:
                        continue
                    del self._answered[place]

    def replace(self, budgets: Sequence[Budget], now: float, /) -> None:
        """Replace the list of budgets; what the store has of them is shown as soon as it is told.

        Args:
            budgets: The new list, with names that differ.
            now: When it begins.
        """
        moment = self._sharing.view().moment
        with self.shown.lock:
            self.shown.replace(budgets, now if moment is None else moment)
            self._names = {account_name(each.budget): each for each in self.shown.slots}
        self._sharing.tell(ShowAmounts())

    def reset(self, name: str | None = None, /) -> None:
        """Forget what was spent, here and in the store; see `LocalLedger.reset`."""
        with self.shown.lock:
            self._settle_queued_locked()
            self.shown.reset(name)
            entries = self._taken_back(name)
            for each in entries:
                own = self._own_of(each.account, each.start)
                own.spent += each.amount
                own.calls += each.calls
                own.estimated += each.estimated
                own.local += each.amount
            self._show_all(entries)
        booked_by = self._new_id()  # as an attempt that was admitted here, and holds nothing
        self._sharing.tell(HoldAmounts(Reserve(booked_by, ())))
        self._sharing.tell(BookAmounts(Settle(booked_by, tuple(entries))))

    def _taken_back(self, name: str | None) -> list[Entry]:
        """Return entries after which the accounts of a budget, or of all, have spent nothing."""
        slots = [each for each in self.shown.slots if name in (None, each.budget.name)]
        places = {*self._answered, *self._own}
        entries: list[Entry] = []
        for account, start in sorted(places):
            found = self._slot_of(account)
            if found is None or found[0] not in slots or start != found[0].start:
                continue
            end = found[0].calendar.period.end
            has = self._balance_of(Balance(account, start, end))
            if has.spent or has.calls or has.estimated:
                entries.append(Entry(account, start, end, -has.spent, -has.calls, -has.estimated))
        return entries

    def after_fork(self) -> None:
        """Become the ledger of a child: it keeps what was told, and drops what its parent holds."""
        self.shown.after_fork()
        self._queue = []
        self._own, self._local, self._settled = {}, {}, {}
        self._show_all(list(self._answered.values()))

    # Reading.

    @property
    def notices(self) -> list[Notice]:
        """What observers have not been told yet."""
        return self.shown.notices

    @property
    def has_budgets(self) -> bool:
        """Whether any budget is configured."""
        return self.shown.has_budgets

    def take_notices(self) -> list[Notice]:
        """Return what observers have not been told yet, in order, and forget it."""
        return self.shown.take_notices()

    def reports(self, now: float, /) -> list[SpendReport]:
        """Return what all processes have spent in the present periods, as far as is known."""
        return self.shown.reports(self._moment(now))

    def ratios(self, now: float, /) -> dict[str, float]:
        """Return ``{budget: share of its cap that is spent}``; see `LocalLedger.ratios`."""
        return self.shown.ratios(self._moment(now))

    def fullest(self, now: float, most: int, /, key: str | None = None) -> list[SpendRow]:
        """Return the keys that have spent most; see `LocalLedger.fullest`."""
        return self.shown.fullest(self._moment(now), most, key)

    def totals(self) -> dict[str, Decimal]:
        """Return ``{target: USD}`` of what this process has booked."""
        with self.shown.lock:
            self._settle_queued_locked()
        return self.shown.totals()

    def _moment(self, now: float) -> float:
        self._advance(now)
        with self.shown.lock:
            self._settle_queued_locked()
        moment = self._sharing.view().moment
        return now if moment is None else moment
