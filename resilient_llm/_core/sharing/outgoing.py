"""What this process has to publish, the newest of each key and layer, and the step that is sent.

Owns both. A step without an answer may have been done, so it is sent again, with its number,
before any other. What the store has refused for certain counts as never sent.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from resilient_llm._core.sharing.known import Ending, Entry, Slot
from resilient_llm._core.sharing.records import bench_body, end_body
from resilient_llm._values.sharing import LONGEST_BODY, MANUAL, MOST_IDS, Bench, End

if TYPE_CHECKING:
    from collections.abc import Iterable

    from resilient_llm._core.sharing.records import SharedBench

MOST_WAITING: Final = 10_000
"""Keys and layers whose changes wait; what comes beyond them is dropped."""
AT_ONCE: Final = 500
"""Changes of one step."""


class EndOut:
    """An end that is published."""

    def __init__(self, slot: Slot, ending: Ending, at: float) -> None:
        self.slot = slot
        self.ending = ending
        self.at = at


class BenchOut:
    """A bench that is published."""

    def __init__(self, slot: Slot, entry: Entry) -> None:
        self.slot = slot
        self.entry = entry
        self.needless: EndOut | None = None
        """An end for which this bench stands, as it replaces what that would end; it is published
        if this bench is not."""


class Copy(NamedTuple):
    """A bench, or the end of a slot, that is written back after a loss."""

    slot: Slot
    entry: Entry | None


Item: TypeAlias = "EndOut | BenchOut | Copy"


class Sending(NamedTuple):
    """A step that is sent, or was and had no answer.

    Attributes:
        number: Of the step.
        order: The highest order that was known: a new change gets a higher one.
        items: What it publishes, without what is over since.
        is_repeated: Whether it was sent before, and had no answer.
    """

    number: int
    order: int
    items: tuple[Item, ...]
    is_repeated: bool = False


class _Waiting:
    """What waits for one key and layer; of a manual change only the newest."""

    __slots__ = ("bench", "end")

    def __init__(self) -> None:
        self.end: EndOut | None = None
        self.bench: BenchOut | None = None

    @property
    def known_end(self) -> EndOut | None:
        """The end that waits, or the one for which the bench stands."""
        return self.end or (None if self.bench is None else self.bench.needless)

    def put_bench(self, bench: BenchOut) -> None:
        """Put a bench in place of the one that waits; by hand, it stands for what waits to end."""
        end = self.known_end
        self.bench, self.end = bench, end
        if end is not None:
            self.put_end(end)

    def put_end(self, end: EndOut) -> None:
        """Put an end in place of the one that waits."""
        if self.bench is not None and self.bench.slot.layer == MANUAL:
            self.bench.needless, self.end = end, None
        else:
            self.end = end

    def drop_bench(self) -> None:
        """Forget the bench; what it stood for is needed again."""
        self.end, self.bench = self.known_end, None


class Outgoing:
    """The changes of this process that the store does not have."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], _Waiting] = {}
        self._copies: dict[tuple[str, str, str], Copy] = {}
        """``{(key, layer, id): what is written back}``; the id of an end is empty."""
        self.sending: Sending | None = None
        self.dropped = 0

    def __len__(self) -> int:
        sent = 0 if self.sending is None else len(self.sending.items)
        return len(self._waiting) + len(self._copies) + sent

    @property
    def has_work(self) -> bool:
        """Whether something waits for a step."""
        return bool(self._waiting or self._copies)

    @property
    def has_copies(self) -> bool:
        """Whether something is not yet written back after a loss."""
        sending = self.sending.items if self.sending is not None else ()
        return bool(self._copies) or any(isinstance(each, Copy) for each in sending)

    # What changes.

    def bench(self, slot: Slot, entry: Entry) -> None:
        """Have a bench published."""
        waiting = self._place(slot)
        if waiting is not None:
            waiting.put_bench(BenchOut(slot, entry))

    def end(self, slot: Slot, ending: Ending | None, at: float) -> None:
        """Have an end published, if there is one, and no bench that waits for it."""
        place = slot.key, slot.layer
        waiting = self._waiting.get(place)
        if waiting is not None:
            waiting.drop_bench()
            if waiting.end is None:
                del self._waiting[place]
        if ending is None:
            return
        waiting = self._place(slot)
        if waiting is not None:
            waiting.end = EndOut(slot, _joined(waiting.end, ending), at)

    def copy(self, slot: Slot, entry: Entry | None) -> None:
        """Have a bench, or the end of a slot, written back."""
        bench_id = "" if entry is None else entry.bench.id
        self._copies[slot.key, slot.layer, bench_id] = Copy(slot, entry)

    def forget_copies(self) -> None:
        """Write nothing back: everything is read once more."""
        self._copies.clear()

    def _place(self, slot: Slot) -> _Waiting | None:
        """Return the place of a key and layer, or None if there is none left."""
        place = slot.key, slot.layer
        waiting = self._waiting.get(place)
        if waiting is not None:
            return waiting
        if len(self._waiting) >= MOST_WAITING:
            self.dropped += 1
            rival = None
            if slot.layer == MANUAL:  # an operator's word counts more than a measurement
                rival = next((each for each in self._waiting if each[1] != MANUAL), None)
            if rival is None:
                return None
            del self._waiting[rival]
        waiting = self._waiting[place] = _Waiting()
        return waiting

    def overdue(self, now: float) -> list[tuple[Slot, Entry]]:
        """Return manual benches that are over before anybody else has them."""
        waiting = [each.bench for each in self._waiting.values() if each.bench is not None]
        sending = () if self.sending is None else self.sending.items
        benches = [each for each in (*waiting, *sending) if isinstance(each, BenchOut)]
        return [
            (each.slot, each.entry)
            for each in benches
            if each.slot.layer == MANUAL and each.entry.until <= now and not each.entry.is_over
        ]

    # The step.

    def next_step(self, number: int, order: int, now: float) -> Sending | None:
        """Take what waits, at most `AT_ONCE` of it, as the step of this number."""
        items: list[Item] = []
        while not items and (self._copies or self._waiting):
            items = self._lasting(self._taken(), now)
        self.sending = Sending(number, order, tuple(items)) if items else None
        return self.sending

    def _taken(self) -> list[Item]:
        items: list[Item] = [self._copies.pop(name) for name in list(self._copies)[:AT_ONCE]]
        for place in list(self._waiting)[: AT_ONCE - len(items)]:
            waiting = self._waiting.pop(place)
            # An end before the bench that began after it.
            items += [each for each in (waiting.end, waiting.bench) if each is not None]
        return items

    def changes(self, now: float) -> tuple[Bench | End, ...]:
        """Return what the present step publishes, as of now; what is over by now is left out."""
        sending = self.sending
        if sending is None:
            return ()
        items = tuple(self._lasting(sending.items, now))
        self.sending = sending._replace(items=items)
        for each in items:
            if isinstance(each, BenchOut):
                each.entry.is_sent = True
        written = (_written(each, now) for each in items)
        return tuple(each for each in written if each is not None)

    def _lasting(self, items: Iterable[Item], now: float) -> list[Item]:
        """Return what is not over; what a bench that is over stood for waits for the next step."""
        found: list[Item] = []
        for each in items:
            if _written(each, now) is not None:
                found.append(each)
            elif isinstance(each, BenchOut):
                self.not_stored(each)
        return found

    def not_stored(self, bench: BenchOut) -> None:
        """Have the end published for which a bench stood: that is over, or the store refuses it."""
        if bench.needless is not None:
            self._end_again(bench.needless)
            bench.needless = None

    def _end_again(self, end: EndOut) -> None:
        """Let an end wait again, behind what has come meanwhile."""
        place = self._place(end.slot)
        if place is not None:
            later = place.known_end
            ending = end.ending if later is None else _joined(end, later.ending)
            place.put_end(EndOut(end.slot, ending, end.at if later is None else later.at))

    def answered(self) -> Sending | None:
        """Return the present step, which was done; there is none now."""
        sending, self.sending = self.sending, None
        return sending

    def unanswered(self, *, is_refused: bool) -> None:
        """Note that the present step had no answer, or was refused for certain."""
        if self.sending is None:
            return
        if is_refused and not self.sending.is_repeated:
            self._take_back(self.sending.items)
            self.sending = None
        else:
            self.sending = self.sending._replace(is_repeated=True)

    def _take_back(self, items: tuple[Item, ...]) -> None:
        """Let items wait again, behind what has come meanwhile for their keys."""
        for each in items:
            waiting = self._waiting.get((each.slot.key, each.slot.layer))
            newer = waiting is not None and (each.slot.layer == MANUAL or waiting.bench is not None)
            if isinstance(each, Copy):
                self.copy(each.slot, each.entry)
            elif isinstance(each, BenchOut):
                each.entry.is_sent = each.entry.order > 0
                if not each.entry.is_over and not newer:
                    self.bench(each.slot, each.entry)
                self.not_stored(each)
            else:
                self._end_again(each)

    def drop_all(self) -> None:
        """Forget everything, as a child process does: its parent publishes it."""
        self._waiting.clear()
        self._copies.clear()
        self.sending = None


def _joined(old: EndOut | None, new: Ending) -> Ending:
    if old is None:
        return new
    ids = tuple(dict.fromkeys((*old.ending.ids, *new.ids)))[-MOST_IDS:]
    return Ending(max(old.ending.through, new.through), ids, new.record)


def _written(item: Item, now: float) -> Bench | End | None:
    """Return what the store is told, or None if that is over."""
    if isinstance(item, EndOut):
        slot, ending = item.slot, item.ending
        body = end_body(ending.record)
        age = max(now - item.at, 0.0)
        return End(slot.key, slot.layer, ending.through, ending.ids, body, age)
    entry = item.entry
    if entry is None:
        return _end_copy(item.slot, now)
    left = None if entry.until == math.inf else entry.until - now
    if entry.is_over or (left is not None and left <= 0):
        return None
    is_copy = isinstance(item, Copy)
    return Bench(
        entry.bench.key,
        entry.bench.layer,
        entry.bench.id,
        left,
        _body(entry.bench),
        age=max(now - entry.began_at, 0.0),
        order=entry.order if is_copy else 0,
        seen=entry.seen if entry.bench.layer == MANUAL and not is_copy else None,
    )


def _end_copy(slot: Slot, now: float) -> End | None:
    end = slot.end
    if end is None:
        return None
    age = max(now - slot.ended_at, 0.0)
    return End(slot.key, slot.layer, slot.through, slot.named, end_body(end), age, end.order)


def _body(bench: SharedBench) -> bytes:
    body = bench_body(bench)
    if len(body) > LONGEST_BODY:  # of control characters, which JSON writes as six
        body = bench_body(bench._replace(trigger="", reason=bench.reason[:100]))
    return body
