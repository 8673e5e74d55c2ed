"""Amounts of this process in the store: what attempts ask for, hold and book.

Owns the reservations that are asked for, those that are open, and the settlements that the store
has not answered yet. It knows no budgets: what an attempt asks for is made by whoever asks, for
the moment of the store's clock.

*asked*     A caller waits until a moment that it names. What had no answer by then may have been
            admitted all the same, so it is settled with nothing, which releases it. The store
            refuses a reservation that arrives after its release: its step has an older number.
*open*      Renewed every `RENEW_EVERY` seconds, so that it lasts `LASTS` seconds after this process
            has died, and reserved again at once after a loss. What was admitted here while the
            store gave no answer is open as well, and comes to the store as a renewal.
*settled*   Once: whoever is interrupted may tell it again. A step that settles is sent again, with
            its number, before any other, until it is answered. What the store may know is settled
            by its id. What it cannot know is added up by account: so an outage of hours takes the
            memory of the accounts that were used.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

from resilient_llm._core.sharing.steps import (
    AmountsAnswered,
    AmountsSeen,
    AskAmounts,
    HoldAmounts,
    ReserveAmounts,
    SettleAmounts,
)
from resilient_llm._values.sharing import Entry, Reserve, Settle, Take

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from resilient_llm._core.sharing.session import Session
    from resilient_llm._core.sharing.steps import AmountsChange
    from resilient_llm._values.sharing import Balance, Reserved

LASTS: Final = 30.0
"""Seconds by the store's clock for which a reservation lasts without a renewal."""
RENEW_EVERY: Final = 10.0
AT_ONCE: Final = 100
"""Reservations or settlements of one step: all callers wait for the longest step."""
MOST_BOOKED: Final = 100_000
"""Accounts and periods in which is added up what the store cannot know; further ones are lost."""
_MOST_PERIODS: Final = 3
"""Times that a store may name another period for one reservation."""


class _Asked:
    """A caller that waits."""

    __slots__ = ("id", "periods", "reserve_at", "ticket", "until")

    def __init__(self, told: AskAmounts) -> None:
        self.id = told.id
        self.ticket = told.ticket
        self.until = told.until
        self.reserve_at = told.reserve_at
        self.periods = 0
        """How often the store has named another period."""


class _Open:
    """A reservation of an attempt in flight."""

    __slots__ = ("is_known", "renew_at", "reserve")

    def __init__(self, reserve: Reserve, renew_at: float, *, is_known: bool) -> None:
        self.reserve = reserve._replace(takes=(), is_renewal=True)
        self.renew_at = renew_at
        self.is_known = is_known
        """Whether the store may have it."""


class Money:
    """The reservations and settlements of this process."""

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id
        self._asked: dict[str, _Asked] = {}
        self._open: dict[str, _Open] = {}
        """In the order in which they are to be renewed."""
        self._missing: dict[str, None] = {}
        """Open ones that the store does not have, before which nothing else is reserved."""
        self._settles: dict[str, Settle] = {}
        """What waits, by the id of its reservation, in order."""
        self._booked: dict[tuple[str, int], Entry] = {}
        self._taken: dict[str, Take] = {}
        """What was booked, and taken from buckets, by attempts that the store does not know."""
        self._asking: list[_Asked] = []
        """Those for which the present step reserves."""
        self._sending: tuple[int, tuple[Settle, ...]] | None = None
        """The step that settles and has no answer: its number, and what it settles."""
        self.moment: tuple[float, float] | None = None
        """When the store answered last, by its clock, and in monotonic seconds."""
        self.dropped = 0
        """Bookings beyond `MOST_BOOKED`."""

    # What happens in the process.

    def tell(self, told: AmountsChange) -> None:
        """Take in what an attempt asks for, holds without the store, or settles."""
        if isinstance(told, AskAmounts):
            self._asked[told.id] = _Asked(told)
        elif isinstance(told, HoldAmounts):
            self._open[told.reserve.id] = _Open(told.reserve, 0.0, is_known=False)
            self._missing[told.reserve.id] = None
        else:
            self._settle(told.settle)

    def _settle(self, settle: Settle) -> None:
        """Take in a settlement; one that was told before, or is of a parent process, is ignored."""
        name = settle.id
        if self._asked.pop(name, None) is not None:
            return  # the store never heard of it
        held = self._open.pop(name, None)
        self._missing.pop(name, None)
        if held is None:
            if any(each.id == name for each in self._asking):
                self._settles[name] = settle
        elif held.is_known:
            self._settles[name] = settle
        else:
            for entry in settle.entries:
                self._book(entry)
            for take in settle.takes:
                old = self._taken.get(take.bucket)
                amount = take.amount + (0 if old is None else old.amount)
                self._taken[take.bucket] = take._replace(amount=amount)

    def _book(self, entry: Entry) -> None:
        place = entry.account, entry.start
        old = self._booked.get(place)
        if old is not None:
            entry = entry._replace(
                amount=old.amount + entry.amount,
                calls=old.calls + entry.calls,
                estimated=old.estimated + entry.estimated,
            )
        elif len(self._booked) >= MOST_BOOKED:
            self.dropped += 1
            return
        self._booked[place] = entry

    def after_loss(self) -> None:
        """Reserve all that is open again, before anything else.

        A settlement without an answer may have been lost, so it is settled with a new step.
        """
        self._missing = dict.fromkeys((*self._missing, *self._open))
        self.settle_again()

    # Questions.

    @property
    def is_sending(self) -> bool:
        """Whether a settlement has no answer, and is sent again before anything else."""
        return self._sending is not None

    @property
    def has_settlements(self) -> bool:
        """Whether something is to be settled before the process ends."""
        return bool(self._settles or self._booked or self._taken or self._sending)

    def __len__(self) -> int:
        sent = 0 if self._sending is None else len(self._sending[1])
        return len(self._settles) + len(self._booked) + sent

    def deadline(self, *, can_renew: bool) -> float | None:
        """Return when a caller waits no longer, or a reservation has to be renewed."""
        moments = [each.until for each in self._asked.values()]
        if can_renew:
            moments += [each.renew_at for each in itertools.islice(self._open.values(), 1)]
        return min(moments, default=None)

    # The steps.

    def next_reserve(self, session: Session, now: float) -> ReserveAmounts | None:
        """Take what the next step reserves and renews; None if there is nothing.

        Args:
            session: Gives the step its number.
            now: Monotonic seconds.
        """
        if self.moment is None:
            return None
        moment = self.moment[0] + now - self.moment[1]
        renewing = list(itertools.islice(self._missing, AT_ONCE))
        reserves = [self._open[each].reserve for each in renewing]
        asking: list[_Asked] = []
        for each in list(itertools.islice(self._asked.values(), AT_ONCE - len(reserves))):
            del self._asked[each.id]
            asking.append(each)
            reserves.append(each.reserve_at(moment))
        for name, each in self._open.items():
            if len(reserves) >= AT_ONCE or each.renew_at > now:
                break
            if name not in self._missing:
                renewing.append(name)
                reserves.append(each.reserve)
        if not reserves:
            return None
        self._asking = asking
        for name in renewing:
            self._open[name].is_known = True
        return ReserveAmounts(session.stamp(session.next_number()), tuple(reserves), LASTS)

    def next_settle(self, session: Session) -> SettleAmounts | None:
        """Return the step that settles: the one without an answer, or else what waits."""
        if self._sending is None:
            settles = [self._settles.pop(name) for name in list(self._settles)[:AT_ONCE]]
            if not settles and (self._booked or self._taken):
                settles.append(self._added_up())
            if not settles:
                return None
            self._sending = session.next_number(), tuple(settles)
        number, sent = self._sending
        return SettleAmounts(session.stamp(number), sent)

    def _added_up(self) -> Settle:
        """Take what attempts have booked that the store does not know."""
        places = list(self._booked)[:AT_ONCE]
        buckets = list(self._taken)[:AT_ONCE]
        return Settle(
            self._new_id(),
            tuple(self._booked.pop(place) for place in places),
            tuple(self._taken.pop(bucket) for bucket in buckets),
        )

    # Answers.

    def reserved(
        self, step: ReserveAmounts, answer: Sequence[Reserved], now: float
    ) -> list[AmountsAnswered | AmountsSeen]:
        """Take in what the store has answered to a step that reserves."""
        asking = {each.id: each for each in self._asking}
        self._asking = []
        effects: list[AmountsAnswered | AmountsSeen] = []
        renewed: list[str] = []
        balances: list[Balance] = []
        self.moment = answer[-1].now, now
        for reserve, each in zip(step.reserves, answer, strict=True):
            balances += each.balances
            asked = asking.get(reserve.id)
            if asked is not None:
                effects += self._answered(asked, reserve, each, now)
            elif reserve.id in self._open:
                self._missing.pop(reserve.id, None)
                held = self._open.pop(reserve.id)
                held.renew_at = now + RENEW_EVERY
                self._open[reserve.id] = held  # behind those that are due earlier
                renewed.append(reserve.id)
        # First, so that a caller that is woken finds what was answered.
        return [AmountsSeen(_latest(balances), renewed=tuple(renewed)), *effects]

    def _answered(
        self, asked: _Asked, reserve: Reserve, answer: Reserved, now: float
    ) -> list[AmountsAnswered]:
        if answer.outcome == "period" and asked.periods < _MOST_PERIODS:
            asked.periods += 1
            if asked.id not in self._settles:  # its caller has not gone
                self._asked[asked.id] = asked
            return []
        if answer.outcome == "period":
            return [AmountsAnswered(asked.ticket, "unavailable")]
        if answer.outcome == "admitted" and asked.id not in self._settles:
            charges = tuple(
                charge._replace(start=balance.start, end=balance.end)
                for charge, balance in zip(reserve.charges, answer.balances, strict=True)
            )
            self._open[asked.id] = _Open(
                reserve._replace(charges=charges), now + RENEW_EVERY, is_known=True
            )
        return [AmountsAnswered(asked.ticket, answer.outcome, answer)]

    def unreserved(self, *, is_refused: bool) -> list[AmountsAnswered]:
        """Take in that a step that reserves had no answer, or was refused for certain."""
        asking, self._asking = self._asking, []
        if not is_refused:
            for each in asking:
                self._settles.setdefault(each.id, Settle(each.id))
        return [AmountsAnswered(each.ticket, "unavailable") for each in asking]

    def reserve_again(self) -> None:
        """Ask again for what the present step has asked: the store did nothing."""
        asking, self._asking = self._asking, []
        again = {each.id: each for each in asking if each.id not in self._settles}
        self._asked = {**again, **self._asked}

    def settled(self, step: SettleAmounts, balances: Sequence[Balance]) -> list[AmountsSeen]:
        """Take in that a step that settles was done."""
        self._sending = None
        return [AmountsSeen(tuple(balances), settled=step.settles)]

    def settle_again(self) -> None:
        """Settle with a new step what the present one has settled: the store did nothing."""
        sending, self._sending = self._sending, None
        if sending is not None:
            again = {each.id: each for each in sending[1]}
            self._settles = {**again, **self._settles}

    def refuse_waiting(self, now: float | None = None) -> list[AmountsAnswered]:
        """Answer those whose time is over; all of them without a moment."""
        over = [each for each in self._asked.values() if now is None or each.until <= now]
        for each in over:
            del self._asked[each.id]
        return [AmountsAnswered(each.ticket, "unavailable") for each in over]


def _latest(balances: Iterable[Balance]) -> tuple[Balance, ...]:
    """Return the balances without those that a later attempt of the same step has changed."""
    return tuple({(each.account, each.start): each for each in balances}.values())
