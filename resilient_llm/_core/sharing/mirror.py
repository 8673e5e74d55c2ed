"""Keeps the registry of one process and a store in step: what is done next, and what it changes.

Pure: it has no thread, no clock and no randomness, does no I/O and raises nothing. Whoever drives
it repeats four things: it tells what has happened in the process, asks for the next step, does that
step with the store, and tells the answer. After each of them it takes the effects and applies them.

Owns what the process knows of shared benches, and how the store is doing. ``known`` decides what a
record changes, ``outgoing`` what is published, ``places`` which probes are claimed and ``money``
what attempts reserve and settle.

All methods are called on one thread. `Mirror.is_shared` and `Mirror.status` may be called from
others, and `Mirror.peers`, `Mirror.is_whole` and `Money.moment` be read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from resilient_llm._core.sharing.answers import is_sound
from resilient_llm._core.sharing.balances import Balances
from resilient_llm._core.sharing.known import Slot
from resilient_llm._core.sharing.money import Money
from resilient_llm._core.sharing.outage import Outage
from resilient_llm._core.sharing.outgoing import BenchOut, Copy, Outgoing
from resilient_llm._core.sharing.places import Places
from resilient_llm._core.sharing.records import SharedBench, read
from resilient_llm._core.sharing.session import Session
from resilient_llm._core.sharing.steps import (
    RECOVERIES,
    AmountsSeen,
    ApplyBench,
    ApplyEnd,
    ClaimPlaces,
    Effect,
    Emit,
    LocalBench,
    LocalChange,
    LocalEnd,
    LocalReset,
    Look,
    MirrorStatus,
    Publish,
    ReserveAmounts,
    Rest,
    SettleAmounts,
    ShowAmounts,
)
from resilient_llm._values.sharing import ENDED_FOR, LAYERS, MANUAL, MOST_ORDER, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from resilient_llm._core.sharing.known import Entry
    from resilient_llm._core.sharing.outgoing import Sending
    from resilient_llm._core.sharing.records import SharedEnd, SharedRecord
    from resilient_llm._core.sharing.steps import KeyRules, Step
    from resilient_llm._values.sharing import Balance, Changes, Layer, Published

LOOK_EVERY: Final = 5.0
"""Seconds between two looks when the store gives no hint."""
LOOK_GAP: Final = 0.05
"""Seconds between two looks at least, whatever hints the store gives."""
DEAF_FOR: Final = 5.0
"""Seconds for which nobody waits for hints of a store that has failed to give them."""
DEAF_LOOK_EVERY: Final = 1.0
PAGE: Final = 1000
"""Records of one look."""
ALONE_FOR: Final = 600.0
"""Seconds for which benches of a key bind this process only, after another has recovered it."""
CONNECTED_WITHIN: Final = 10.0
TRUSTED_FOR: Final = ENDED_FOR / 2
"""Seconds without a look after which everything is read: ends may have been forgotten since."""
FORGET_EVERY: Final = 60.0
MOST_KNOWN: Final = 100_000
"""Keys and layers that are remembered; records of further ones are refused."""
MOST_LOSSES: Final = 3
"""Losses in a row after which a store that loses every step is taken for one that fails."""
_REFUSALS: Final = ("auth", "read_only", "full", "newer_schema", "network_filesystem")
"""Reasons after which it is certain that nothing was done."""


class Mirror:
    """The shared state of one process."""

    def __init__(
        self,
        *,
        url: str,
        session: str,
        source: str,
        new_id: Callable[[], str],
        rules: Callable[[str], KeyRules],
        now: float,
    ) -> None:
        """Begin without a connection.

        Args:
            url: Of the store, without a password.
            session: Random text, see `Session`.
            source: What other processes see as the publisher.
            new_id: Returns a random text of 1 to 64 characters.
            rules: Returns what the settings say about a key.
            now: Monotonic seconds, as everywhere here.
        """
        self.source = source
        self.order = 0
        """The highest order of others of which the effects were applied; see `LocalBench.seen`."""
        self._read_order = 0
        """The highest order that was read."""
        self._new_id = new_id
        self._rules = rules
        self._slots: dict[tuple[str, Layer], Slot] = {}
        self._outgoing, self._balances = Outgoing(), Balances()
        self._rejected = 0
        self._alone: dict[str, float] = {}
        """``{key: until when its automatic benches bind this process only}``"""
        self._url = url
        self._begin(Session(session), now)

    def _begin(self, session: Session, now: float) -> None:
        """Begin a session, whose store has not answered yet."""
        self._session = session
        self._places = Places()
        self.money = Money(self._new_id)
        self._turn = 0
        """Which kind of step that changes something came last; the next one comes first."""
        self._outage = Outage(self._url)
        self._effects: list[Effect] = []
        self._step: Step | None = None
        self._look_at = self._deaf_until = now
        self._looked_at = -LOOK_GAP
        self._answered_at: float | None = None
        self._synced_at: float | None = None
        self.peers = 1
        """Processes that the store has heard of lately, this one included."""
        self._found: dict[tuple[str, str, str], int] | None = None
        """What a look at everything has found so far, ``{(key, layer, id): order}``."""
        self._is_lost = False
        """Whether what the store has lost is not yet written back."""
        self._is_complete, self._losses = False, 0
        self._looks_first = False  # before a claim: others may know what its probe would find
        self._refused: list[tuple[Slot, Entry]] = []
        """Benches that the store has refused, until the look that finds out why."""
        self._forget_at = now + FORGET_EVERY
        self._is_leaving = False

    # What happens in the process.

    def tell(self, told: LocalChange) -> None:
        """Take in a change of the registry; changes are told in the order in which they came."""
        if isinstance(told, LocalBench):
            self._bench(told)
        elif isinstance(told, LocalEnd):
            layers: tuple[Layer, ...] = LAYERS if told.layer is None else (told.layer,)
            for layer in layers:
                slot = self._slots.get((told.key, layer))
                if slot is not None:
                    ending, effects = slot.end_here(told, self.source)
                    self._outgoing.end(slot, ending, told.at)
                    self._effects += effects
            if "automatic" in layers:
                self._places.release(told.key)
        elif isinstance(told, LocalReset):
            for (key, layer), slot in self._slots.items():
                if layer != MANUAL and told.key in (None, key):
                    slot.reset_here()
                    self._places.release(key)
        elif isinstance(told, ShowAmounts):
            self._effects.append(AmountsSeen(self._balances.all))
        else:
            self.money.tell(told)

    def _bench(self, told: LocalBench) -> None:
        if told.layer == "automatic":
            self._places.release(told.key)
        if told.layer != MANUAL and self._rules(told.key).mode != "enforce":
            return
        slot = self._slot(told.key, told.layer)
        entry = slot.bench_here(
            told,
            self._new_id(),
            self._session.order,
            self.source,
            is_alone=self.is_alone(told.key, told.at),
        )
        if entry.is_shared:
            self._outgoing.bench(slot, entry)

    def is_alone(self, key: str, now: float) -> bool:
        """Return whether automatic benches of a key bind this process only, and are not shared."""
        return now < self._alone.get(key, now)

    def is_shared(self, key: str) -> bool:
        """Return whether a bench by errors of a key is shared, so that its probe is claimed."""
        slot = self._slots.get((key, "automatic"))
        return slot is not None and slot.is_shared

    def ask_place(self, key: str, lease: float, ticket: object, until: float) -> None:
        """Claim the place to probe a key, or renew it; `PlaceAnswered` comes by ``until``."""
        self._places.ask(key, lease, ticket, until)
        self._looks_first = True

    def place_over(self, key: str) -> None:
        """Give the place to probe a key back, since the probe has ended in nothing."""
        self._places.release(key)

    def after_fork(self, session: str, now: float) -> None:
        """Go on as a child process: what waits is its parent's, and so are places and ids."""
        self._outgoing.drop_all()
        self._outgoing.dropped = 0
        self._alone.clear()
        for slot in self._slots.values():
            for entry in slot.entries.values():
                # Its parent publishes it, under the same id.
                entry.is_own, entry.is_sent = False, True
        self._begin(self._session.child(session), now)

    def leave(self) -> None:
        """Publish what waits and give places back; nothing else is done from now on."""
        self._is_leaving = True
        self._places.release_all()

    @property
    def has_work(self) -> bool:
        """Whether something is to be sent before the process ends."""
        settles = self.is_whole and self.money.has_settlements
        return len(self._outgoing) > 0 or self._places.has_work() or settles

    # What others see.

    def status(self, now: float) -> MirrorStatus:
        """Return how the store is doing."""
        answered_at = self._answered_at
        return MirrorStatus(
            url=self._url,
            connected=answered_at is not None and now - answered_at <= CONNECTED_WITHIN,
            last_sync_at=self._synced_at,
            pending=len(self._outgoing) + len(self.money),
            peers=self.peers,
            rejected=self._rejected,
            dropped=self._outgoing.dropped + self.money.dropped,
            last_error=self._outage.last_error,
        )

    @property
    def is_down(self) -> bool:
        """Whether it is known that the store cannot be used."""
        return self._outage.is_on

    @property
    def balances(self) -> tuple[Balance, ...]:
        """The accounts in the store that were read, also of earlier periods."""
        return self._balances.all

    @property
    def is_whole(self) -> bool:
        """Whether the store has what this process knows; nothing is reserved before."""
        return self._is_complete and not self._is_lost

    def take_effects(self) -> list[Effect]:
        """Return what the registry and the observers are to be told, once.

        When all of it was applied, ``applied`` is called.
        """
        effects, self._effects = self._effects, []
        for each in effects:
            # A circuit that opens or closes ends its probe.
            if isinstance(each, ApplyEnd) and each.layer == "automatic":
                self._places.release(each.key)
            elif isinstance(each, ApplyBench) and each.bench.layer == "automatic":
                self._places.release(each.bench.key)
        return effects + self._places.take_answers()

    def applied(self) -> None:
        """Note that all effects that were taken are applied, or left for something newer."""
        self.order = self._read_order

    # The next step.

    def next_step(self, now: float) -> Step:
        """Return what to do now; it is answered before the next one is asked for."""
        waits_until = None if self._outage.is_on else now
        self._effects += self._places.refuse_waiting(waits_until)
        self._effects += self.money.refuse_waiting(waits_until)
        if now >= self._forget_at:
            self._forget(now)
        if self._is_complete and not self._outgoing.has_copies and not self._balances.to_write_back:
            self._is_lost = False
        self._step = self._next(now)
        return self._step

    def _next(self, now: float) -> Step:
        outage, session = self._outage, self._session
        if outage.reading is not None and now < outage.read_again_at:
            return self._rest(now)
        if outage.reading is not None or session.epoch is None or now >= self._look_at:
            return self._look(now)
        if outage.writing is not None and now < outage.write_again_at:
            return self._rest(now)
        kinds = (self._reserve, self._claim, self._settle, self._publish)
        for number in range(self._turn + 1, self._turn + 1 + len(kinds)):
            step = kinds[number % len(kinds)](now)
            if step is not None:
                self._turn = number % len(kinds)  # none keeps the others from the store
                return step
        return self._rest(now)

    @property
    def _begins(self) -> bool:
        """Whether a step may begin that is not sent again: nothing waits for that."""
        return (
            self._outage.writing is None
            and self._outgoing.sending is None
            and not self.money.is_sending
        )

    def _reserve(self, now: float) -> ReserveAmounts | None:
        if self._begins and self.is_whole:
            return self.money.next_reserve(self._session, now)
        return None

    def _claim(self, now: float) -> Look | ClaimPlaces | None:
        if not self._begins or not self._places.has_work():
            return None
        if self._looks_first:
            return self._look(now)
        session, claims = self._session, self._places.next_claims(now)
        return ClaimPlaces(session.stamp(session.next_number()), claims) if claims else None

    def _settle(self, _: float) -> SettleAmounts | None:
        if self.is_whole and (self.money.is_sending or self._begins):
            return self.money.next_settle(self._session)
        return None

    def _look(self, now: float) -> Look:
        synced_at = self._synced_at
        if synced_at is not None and now - synced_at > TRUSTED_FOR and self._found is None:
            return Look(self._session.stamp(), 0, PAGE)
        return Look(self._session.stamp(), self._session.revision, PAGE)

    def _publish(self, now: float) -> Publish | None:
        outgoing, session = self._outgoing, self._session
        for slot, entry in outgoing.overdue(now):  # it stands for what it has replaced
            end = LocalEnd(slot.key, slot.layer, now, "manual", entry.bench.by, entry.seen)
            ending, effects = slot.end_here(end, self.source)
            outgoing.end(slot, ending, now)
            self._effects += effects
        if self.money.is_sending:
            return None
        if outgoing.sending is None and outgoing.has_work:
            outgoing.next_step(session.next_number(), session.order, now)
        changes, balances = outgoing.changes(now), self._balances.to_write_back
        if outgoing.sending is None and not balances and self._outage.writing is None:
            return None
        number = session.next_number() if outgoing.sending is None else outgoing.sending.number
        return Publish(session.stamp(number), changes, balances)

    def _rest(self, now: float) -> Rest:
        outage = self._outage
        moments = [outage.read_again_at if outage.reading is not None else self._look_at]
        if outage.writing is not None:
            moments.append(outage.write_again_at)
        can_renew = self._begins and self.is_whole
        ends = (self._places.deadline(), self.money.deadline(can_renew=can_renew))
        moments += [each for each in ends if each is not None]
        is_deaf = outage.reading is not None or now < self._deaf_until
        return Rest(max(min(moments) - now, 0.0), None if is_deaf else self._session.revision)

    # Answers.

    def answered(self, answer: Any, now: float) -> None:
        """Take in what the store has answered to the present step; of a rest, whether to look."""
        if self._step is not None and not is_sound(self._step, answer):
            self.failed(StoreError("error", type(answer).__name__), now)
            return
        step, self._step = self._step, None
        if isinstance(step, Rest):
            if answer:
                self._look_soon(now)
        elif isinstance(step, Look):
            self._looked(answer, now)
        elif isinstance(step, Publish):
            self._wrote(step.stamp.number, now)
            self._balances.wrote(step.balances)
            self._published(answer, now)
        elif isinstance(step, ClaimPlaces):
            self._wrote(step.stamp.number, now)
            self._effects += self._places.answered(answer, now)
        elif isinstance(step, ReserveAmounts):
            self._wrote(step.stamp.number, now)
            self._saw(self.money.reserved(step, answer, now))
        elif step is not None:
            self._wrote(step.stamp.number, now)
            self._saw(self.money.settled(step, answer))

    def failed(self, error: StoreError, now: float) -> None:
        """Take in that the store could not do the present step."""
        step, self._step = self._step, None
        if isinstance(step, Rest):
            self._deaf_until = now + DEAF_FOR
            self._look_at = min(self._look_at, now + DEAF_LOOK_EVERY)
        elif isinstance(step, Look):
            self._effects += self._outage.failed_to_read(error, now)
        elif step is not None:
            self._effects += self._outage.failed_to_write(error, now)
            is_refused = error.reason in _REFUSALS
            if isinstance(step, Publish):
                self._outgoing.unanswered(is_refused=is_refused)
            elif isinstance(step, ClaimPlaces):
                self._effects += self._places.unanswered()
            elif isinstance(step, ReserveAmounts):
                self._effects += self.money.unreserved(is_refused=is_refused)

    def lost(self, now: float) -> None:
        """Take in that the store has lost data, so that it did nothing."""
        self._losses += 1
        if self._losses > MOST_LOSSES or isinstance(self._step, Look):
            self.failed(StoreError("error", "DataLostError"), now)
            return
        if isinstance(self._step, ClaimPlaces):
            self._places.ask_again()
        elif isinstance(self._step, ReserveAmounts):
            self.money.reserve_again()
        elif isinstance(self._step, SettleAmounts):
            self.money.settle_again()
        elif isinstance(self._step, Publish):
            self._outgoing.unanswered(is_refused=False)
        self._step = None
        self._look_at = now

    def _wrote(self, number: int, now: float) -> None:
        self._session.has_answer(number)
        self._answered_at, self._losses = now, 0
        self._effects += self._outage.wrote(now)

    def _look_soon(self, now: float) -> None:
        self._look_at = min(self._look_at, max(now, self._looked_at + LOOK_GAP))

    # What a publication has become.

    def _published(self, answer: tuple[Published, ...], now: float) -> None:
        sending = self._outgoing.answered()
        if sending is None:
            return
        for item, (outcome, order) in zip(sending.items, answer, strict=True):
            self._session.saw(order)
            if isinstance(item, Copy):
                if outcome == "ended" and item.entry is not None:
                    self._refuse(item.slot, item.entry, now)
            elif isinstance(item, BenchOut):
                self._bench_published(sending, item, outcome, order, now)
            else:
                item.slot.got_end(item.ending.record._replace(order=order))

    def _bench_published(
        self, sending: Sending, item: BenchOut, outcome: str, order: int, now: float
    ) -> None:
        slot, entry = item.slot, item.entry
        # A step that is sent again hears of a bench by hand without an order: it is not there.
        if outcome in ("ended", "superseded") or (not order and slot.layer == MANUAL):
            self._outgoing.not_stored(item)
            self._refuse(slot, entry, now)
            return
        # It is there, or was: of an answer that was lost the order is at least this.
        slot.got_order(entry, order or sending.order + 1)
        if entry.is_lost:
            self._refuse(slot, entry, now)

    def _refuse(self, slot: Slot, entry: Entry, now: float) -> None:
        entry.is_lost = True
        self._refused.append((slot, entry))
        self._look_at = now

    # What a look has found.

    def _looked(self, changes: Changes, now: float) -> None:
        self._answered_at = self._looked_at = now
        self._looks_first = False
        self._effects += self._outage.read(now)
        if changes.is_lost:
            if not self._is_lost:
                self._effects.append(Emit("StoreLost", {"url": self._url}))
            self._is_lost, self._is_complete = True, False
            self._outgoing.forget_copies()
            self.money.after_loss()
        self._session.follow(changes)
        self.peers = max(changes.peers, 1)
        self.money.moment = changes.now, now
        if changes.is_all:
            self._found = {}
        for raw in changes.records:
            record = read(raw)
            # The store's position is not below any order that it has given.
            if record is None or record.order > min(changes.revision, MOST_ORDER):
                self._rejected += 1
            else:
                self._take_in(record, now)
        if changes.balances:
            self._saw([AmountsSeen(changes.balances)])
        self._balances.forget(changes.now - ENDED_FOR)
        if changes.has_more:
            self._look_at = now
            return
        self._look_at = now + (DEAF_LOOK_EVERY if now < self._deaf_until else LOOK_EVERY)
        self._finish(now)

    def _saw(self, effects: Iterable[Effect]) -> None:
        """Remember accounts, to write them back after a loss, and tell those that are believed."""
        believed, rejected = self._balances.believed(effects, is_whole=self.is_whole)
        self._rejected += rejected
        self._effects += believed

    def _take_in(self, record: SharedRecord, now: float) -> None:
        self._session.saw(record.order)
        self._read_order = max(self._read_order, record.order)
        is_bench = isinstance(record, SharedBench)
        if self._found is not None:
            self._found[record.key, record.layer, record.id if is_bench else ""] = (
                record.order if is_bench else record.through
            )
        if (record.key, record.layer) not in self._slots and len(self._slots) >= MOST_KNOWN:
            self._rejected += 1
            return
        slot = self._slot(record.key, record.layer)
        if is_bench:
            self._take_in_bench(slot, record, now)
        else:
            self._take_in_end(slot, record, now)

    def _take_in_bench(self, slot: Slot, bench: SharedBench, now: float) -> None:
        was_known = bench.id in slot.entries
        floor = self._session.order
        self._effects += slot.apply_bench(bench, now, self._rules(bench.key), floor)
        entry = slot.entries.get(bench.id)
        if entry is None:
            return
        if not was_known:
            self._alone.pop(bench.key, None)
        elif entry.is_lost:
            self._refused.append((slot, entry))

    def _take_in_end(self, slot: Slot, end: SharedEnd, now: float) -> None:
        effects, ended_own = slot.apply_end(end, now)
        self._effects += effects
        if ended_own and slot.layer != MANUAL and end.reason in RECOVERIES:
            # One bad host must not bench the fleet.
            self._alone[slot.key] = now + ALONE_FOR

    def _finish(self, now: float) -> None:
        """Do what can be decided when everything new was read."""
        refused, self._refused = self._refused, []
        for slot, entry in refused:
            if not entry.is_over:
                self._effects += slot.give_up(entry, now)
        found, self._found = self._found, None
        if found is not None:
            synced_at = self._synced_at
            is_stale = synced_at is not None and now - synced_at > ENDED_FOR
            for slot in list(self._slots.values()):
                if self._is_lost and not is_stale:
                    self._write_back(slot, found, now)
                else:
                    self._end_missing(slot, found, now)
            if self._is_lost:
                self._balances.write_back()
        self._synced_at = now
        self._is_complete = True

    def _write_back(self, slot: Slot, found: dict[tuple[str, str, str], int], now: float) -> None:
        """Write back what of a slot the store does not have."""
        for entry in slot.entries.values():
            if (slot.key, slot.layer, entry.bench.id) in found or entry.until <= now:
                continue
            if entry.order:
                self._outgoing.copy(slot, entry)
            elif entry.is_sent and entry.is_shared and entry.is_own:
                self._outgoing.bench(slot, entry)
        if slot.end is not None and found.get((slot.key, slot.layer, ""), -1) < slot.through:
            self._outgoing.copy(slot, None)

    def _end_missing(self, slot: Slot, found: dict[tuple[str, str, str], int], now: float) -> None:
        """End what the store does not have any more, though it has lost nothing."""
        for entry in list(slot.entries.values()):
            is_found = (slot.key, slot.layer, entry.bench.id) in found
            if entry.order and not is_found and entry.until > now and not entry.is_over:
                self._effects += slot.give_up(entry, now)

    def _slot(self, key: str, layer: Layer) -> Slot:
        slot = self._slots.get((key, layer))
        if slot is None:
            slot = self._slots[key, layer] = Slot(key, layer)
        return slot

    def _forget(self, now: float) -> None:
        """Drop what nobody needs any more."""
        self._forget_at = now + FORGET_EVERY
        self._slots = {
            place: slot for place, slot in self._slots.items() if not slot.is_forgotten(now)
        }
        self._alone = {key: until for key, until in self._alone.items() if until > now}
