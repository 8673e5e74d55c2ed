"""What the process knows of the benches of a key and layer, its own and those of others.

Owns the records of one key and layer. What a record changes here is told as effects, which the
registry applies; nothing else of the registry is known. Moments are monotonic seconds.

Entries stay when their time is over, until they are ended or forgotten: a circuit is half-open
then, and a recovery elsewhere still closes it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

from resilient_llm._core.sharing.records import SharedBench, SharedEnd
from resilient_llm._core.sharing.steps import ApplyBench, ApplyEnd
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.sharing import ENDED_FOR, MANUAL, MOST_IDS, SAME_KEY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from resilient_llm._core.sharing.steps import Effect, KeyRules, LocalBench, LocalEnd
    from resilient_llm._values.sharing import Layer

LONGEST_AUTOMATIC: Final = 3600.0
"""Seconds to which an automatic bench of another process is cut, or a larger ``max_cooldown``."""
NOTICEABLE: Final = 1.0
"""Seconds by which a bench must grow before observers are told again."""


class Entry:
    """One bench."""

    __slots__ = (
        "began_at",
        "bench",
        "floor",
        "is_bound",
        "is_dead",
        "is_lost",
        "is_over",
        "is_own",
        "is_sent",
        "is_shared",
        "local_until",
        "order",
        "seen",
        "until",
    )

    def __init__(self, bench: SharedBench, began_at: float, until: float) -> None:
        self.bench = bench
        self.began_at = began_at
        self.until = until
        """When it ends everywhere; infinity if it has to be ended."""
        self.local_until = until
        """When it ends in this process, if that cuts it."""
        self.order = bench.order
        """0 until the store has given it one."""
        self.is_own = False
        """Whether this process published it, or will."""
        self.is_sent = True
        """Whether the store may have it."""
        self.is_shared = True
        """False if it binds this process only."""
        self.is_dead = False
        """Whether credentials do not work, which others cannot know or end."""
        self.is_bound = True
        """Whether the registry has it."""
        self.is_over = False
        """Whether it was ended, so that nobody sends it any more."""
        self.is_lost = False
        """Whether the store refused it; what refused it is found by the next look."""
        self.floor = 0
        """The highest order known when it began: a bench without an order is newer than that."""
        self.seen = 0
        """Of a manual one: the order of the newest manual change that was known."""

    def lasts(self, now: float) -> bool:
        """Return whether it still blocks in this process."""
        return self.is_bound and self.local_until > now


class Ending(NamedTuple):
    """What an end of this process names for the others."""

    through: int
    ids: tuple[str, ...]
    record: SharedEnd


class Slot:
    """All benches of one key and layer, oldest first, and what is remembered of ended ones."""

    def __init__(self, key: str, layer: Layer) -> None:
        self.key = key
        self.layer: Layer = layer
        self.entries: dict[str, Entry] = {}
        self.end: SharedEnd | None = None
        """The end of the highest order that the store has."""
        self.through = 0
        """The highest order that an end has named."""
        self.named: tuple[str, ...] = ()
        """Ids that ends have named."""
        self.ended: dict[str, float] = {}
        """``{id: when it ended}``"""
        self.ended_at = -math.inf
        """When something ended last."""
        self.own_order = 0
        """The highest order of a change of this process."""
        self.foreign_order = 0
        """The highest order of a change of another one."""

    # Questions.

    @property
    def is_shared(self) -> bool:
        """Whether another process may know one of its benches; may be asked from any thread."""
        return any(each.is_shared and each.is_sent for each in list(self.entries.values()))

    def is_forgotten(self, now: float) -> bool:
        """Return whether nothing of it matters any more; drop what does not."""
        for bench_id, at in list(self.ended.items()):
            if at < now - ENDED_FOR:
                del self.ended[bench_id]
        for bench_id, entry in list(self.entries.items()):
            if max(entry.until, entry.local_until) < now - ENDED_FOR:
                del self.entries[bench_id]
        return not self.entries and self.ended_at < now - ENDED_FOR

    def newest_seen(self, seen: int | None) -> int:
        """Return the highest order that a local change has seen; see `LocalBench.seen`."""
        foreign = self.foreign_order if seen is None else min(self.foreign_order, seen)
        return max(self.own_order, foreign)

    def _shown(self, now: float) -> Entry | None:
        """Return the entry that the registry shows: the newest by hand, or the one ending last."""
        lasting = [each for each in self.entries.values() if each.lasts(now)]
        if self.layer == MANUAL:  # the newest comes last, and waits for its order
            lasting.reverse()
            return max(lasting, key=lambda each: each.order or math.inf, default=None)
        return max(lasting, key=lambda each: each.local_until, default=None)

    def _until(self, now: float) -> float:
        shown = self._shown(now)
        return -math.inf if shown is None else shown.local_until

    # Changes of this process.

    def bench_here(
        self, told: LocalBench, bench_id: str, order: int, source: str, *, is_alone: bool
    ) -> Entry:
        """Add a bench of this process.

        Args:
            told: What the registry did.
            bench_id: A new id.
            order: The highest order that is known.
            source: Name of this process.
            is_alone: Whether automatic benches of the key bind this process only.
        """
        until = math.inf if told.ends_in is None else told.at + told.ends_in
        bench = SharedBench(
            key=told.key,
            layer=told.layer,
            id=bench_id,
            order=0,
            ends_in=told.ends_in,
            length=told.ends_in,
            age=0.0,
            kind=told.kind,
            reason=told.reason,
            by=told.by,
            source=source,
            trigger=told.trigger,
            failures=told.failures,
            named=told.named,
        )
        entry = Entry(bench, told.at, until)
        entry.is_own, entry.is_sent = True, False
        entry.is_dead = told.kind is ErrorKind.AUTH_DEAD
        entry.is_shared = not entry.is_dead and not (told.layer != MANUAL and is_alone)
        entry.floor, entry.seen = order, self.newest_seen(told.seen)
        for each in list(self.entries.values()):
            if each.is_sent or each.is_shared != entry.is_shared:
                continue
            if self.layer != MANUAL and each.is_shared and each.until > entry.until:
                entry.until = entry.local_until = each.until
            if self.layer == MANUAL or each.until <= entry.until:
                self._remove(each)  # the newest stands for all that were never sent
        self.entries[bench_id] = entry
        self._crowd()
        return entry

    def end_here(self, told: LocalEnd, source: str) -> tuple[Ending | None, list[Effect]]:
        """End what the process had seen.

        Returns:
            What others have to learn, if anything, and what the registry does: an older bench
            ends as well that was handed over after the registry had ended the others, and one by
            hand that it had not seen is in force again.
        """
        ended = [
            each
            for each in self.entries.values()
            if each.is_own or told.seen is None or each.order <= told.seen
        ]
        for each in ended:
            self._remove(each, told.at)
        named = [each for each in ended if each.is_sent and each.is_shared]
        if not named:
            return None, self._unseen(told.at)
        before = self._until(told.at)
        self.ended_at = told.at
        through = max(each.order for each in named)
        ids = tuple(each.bench.id for each in named if not each.order)
        self.through = max(self.through, through)
        self._name(ids)
        record = SharedEnd(self.key, self.layer, 0, through, ids, 0.0, told.reason, told.by, source)
        older = [each for each in self.entries.values() if 0 < each.order <= through]
        for each in older:
            self._remove(each, told.at)
        effects = self._unseen(told.at) or self._after_end(older, record, before, told.at)
        return Ending(through, ids, record), effects

    def _unseen(self, now: float) -> list[Effect]:
        """Return what benches the key by hand again, if an unbench here had not seen that bench.

        The registry has not taken it while the unbench waited: see `foreign.apply_bench`.
        """
        shown = self._shown(now) if self.layer == MANUAL else None
        return [] if shown is None else [self._showing(shown, now)]

    def reset_here(self) -> None:
        """Forget the benches in this process; others keep them, and copies bind nobody here."""
        for each in list(self.entries.values()):
            if each.is_sent and each.is_shared:
                each.is_bound = False
            else:
                self._remove(each)

    # Answers of the store.

    def got_order(self, entry: Entry, order: int) -> None:
        """Note the order that the store has given to a bench of this process."""
        entry.order, entry.is_sent = order, True
        self.own_order = max(self.own_order, order)
        if order <= self.through:
            entry.is_lost = True
        if self.layer == MANUAL:
            for each in list(self.entries.values()):
                if each is not entry and 0 < each.order < order:
                    self._remove(each)
            self.was_seen(order)

    def was_seen(self, order: int) -> None:
        """Note that what waits here came after an own change of this order."""
        for each in self.entries.values():
            if each.is_own and not each.order:
                each.seen = max(each.seen, order)

    def got_end(self, record: SharedEnd) -> None:
        """Note an end of this process that the store has."""
        self.own_order = max(self.own_order, record.order)
        if self.end is None or record.order > self.end.order:
            self.end = record
        if self.layer == MANUAL:
            self.was_seen(record.order)

    def give_up(self, entry: Entry, now: float) -> list[Effect]:
        """End a bench that the store has refused or has lost without a word."""
        before = self._until(now)
        self._remove(entry, now)
        self.ended_at = now
        end = self.end or SharedEnd(self.key, self.layer, 0, 0, (), 0.0, "expired")
        return self._after_end([entry], end, before, now)

    # Records of others.

    def apply_bench(
        self, bench: SharedBench, now: float, rules: KeyRules, floor: int
    ) -> list[Effect]:
        """Take in a bench that was found in the store."""
        own = self.entries.get(bench.id)
        if own is not None:
            if own.is_own and not own.order:
                self.got_order(own, bench.order)
            elif not own.order:  # published by the parent of this process
                own.order = bench.order
                self.foreign_order = max(self.foreign_order, bench.order)
            return []
        self.foreign_order = max(self.foreign_order, bench.order)
        if bench.id in self.ended or bench.order <= self.through:
            return []
        until = math.inf if bench.ends_in is None else now + bench.ends_in
        entry = Entry(bench, now - bench.age, until)
        entry.floor = floor
        if self.layer == MANUAL:
            return self._apply_manual(entry, now)
        entry.local_until = min(until, now + max(LONGEST_AUTOMATIC, rules.max_cooldown))
        entry.is_bound = is_enforced = rules.mode == "enforce"
        before = self._until(now)
        for each in list(self.entries.values()):
            if 0 < each.order < entry.order and each.until <= entry.until and not each.is_own:
                self._remove(each)
        self.entries[bench.id] = entry
        self._crowd()
        if not is_enforced and rules.mode != "metrics_only":
            return []
        # A bench that ends earlier than the known one opens a circuit that is half-open since
        # a health probe was well; so it is handed over, and the later end counts there.
        is_news = entry.local_until - before >= NOTICEABLE
        left = entry.local_until - now
        return [ApplyBench(bench, left, enforced=is_enforced, is_news=is_news)]

    def _apply_manual(self, entry: Entry, now: float) -> list[Effect]:
        before = self._until(now)
        unseeing = self._unseeing(entry.order)
        for each in unseeing:
            self._remove(each, now)
        if all(each.order < entry.order for each in self.entries.values()):
            for each in list(self.entries.values()):
                if each.order:
                    self._remove(each, now)
            self.entries[entry.bench.id] = entry
        if self._shown(now) is entry:
            return [self._showing(entry, now)]
        bench = entry.bench
        end = SharedEnd(
            self.key, self.layer, bench.order, 0, (), 0.0, "manual", bench.by, bench.source
        )
        return self._after_end(unseeing, end, before, now)

    def apply_end(self, end: SharedEnd, now: float) -> tuple[list[Effect], bool]:
        """Take in an end that was found in the store.

        Returns:
            What to do, and whether it ended a bench that this process had published.
        """
        self.foreign_order = max(self.foreign_order, end.order)
        before = self._until(now)
        ended = [
            each
            for each in self.entries.values()
            if 0 < each.order <= end.through
            or each.bench.id in end.ids
            or (not each.is_shared and not each.is_dead and each.floor < end.through)
        ]
        if self.layer == MANUAL:
            ended += [each for each in self._unseeing(end.order) if each not in ended]
        for each in ended:
            self._remove(each, now)
        self.through = max(self.through, end.through)
        self.ended_at = max(self.ended_at, now - end.age)
        self._name(end.ids)
        for each in end.ids:
            self.ended.setdefault(each, now - end.age)
        if self.end is None or end.order > self.end.order:
            self.end = end
        effects = self._after_end(ended, end, before, now)
        return effects, any(each.is_own and each.is_sent and each.is_shared for each in ended)

    def _unseeing(self, order: int) -> list[Entry]:
        """Return manual benches without an order that had not seen a change."""
        return [each for each in self.entries.values() if not each.order and each.seen < order]

    def _after_end(
        self, ended: list[Entry], end: SharedEnd, before: float, now: float
    ) -> list[Effect]:
        """Return what the registry does after entries were ended."""
        if not any(each.is_bound for each in ended):
            return []
        shown = self._shown(now)
        if self.layer == MANUAL and shown is not None:
            return [self._showing(shown, now)]
        left = None
        if shown is not None:
            if shown.local_until >= before:
                return []
            left = shown.local_until - now
        elif self.layer == "automatic" and any(each.is_bound for each in self.entries.values()):
            left = 0.0
        return [ApplyEnd(self.key, self.layer, end.order, end.reason, end.by, end.source, left)]

    @staticmethod
    def _showing(entry: Entry, now: float) -> Effect:
        """Return what makes the registry show a manual bench."""
        left = None if entry.until == math.inf else entry.until - now
        return ApplyBench(entry.bench._replace(order=entry.order), left)

    # Memory.

    def _remove(self, entry: Entry, now: float | None = None) -> None:
        """Drop an entry; with a moment, as ended."""
        entry.is_over = True
        self.entries.pop(entry.bench.id, None)
        if now is not None and entry.is_sent:
            self.ended[entry.bench.id] = now
            while len(self.ended) > 2 * MOST_IDS:
                del self.ended[next(iter(self.ended))]

    def _name(self, ids: Iterable[str]) -> None:
        new = tuple(ids)
        old = tuple(each for each in self.named if each not in new)
        self.named = (*old, *new)[-MOST_IDS:]

    def _crowd(self) -> None:
        """Drop what a store would not keep either, those that end first."""
        while len(self.entries) > 2 * SAME_KEY:
            self._remove(min(self.entries.values(), key=lambda each: each.local_until))
