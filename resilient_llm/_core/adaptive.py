"""Moves a target of a policy that has become slow or faulty behind others of its group, and back.

Owns the penalties of one policy and of its copies with the same chain and the same `Adaptive`
options. What they are is computed from the policy's figures, at most once in `PAUSE` seconds, by
the call that starts then. A call between two computations only compares two numbers.

The moment of the next computation is set before it begins, so other threads go on with the present
penalties meanwhile. Those are a dict that is replaced as a whole, so nobody sees half of a change.
The lock is for two threads that find a computation due at the same time.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from resilient_llm._core.figures import PolicyFigures, TargetFigures
    from resilient_llm._values.adaptive import Adaptive
    from resilient_llm._values.target import Target


class HasTarget(Protocol):
    """A candidate."""

    @property
    def target(self) -> Target: ...


T = TypeVar("T")
C = TypeVar("C", bound=HasTarget)

PAUSE: Final = 1.0
"""Least seconds between two computations."""
SLOW: Final = 1
"""Penalty of a target that is slower than the others."""
FAULTY: Final = 2
"""Penalty of a target that fails too often."""
LEAST_FAILURES: Final = 2
"""Failures below which a target is not faulty: one proves nothing."""
_PARTS: Final = 60
"""Parts of the window in which attempts are counted; bounds the memory of a target."""
_NEVER: Final = -math.inf


class Seen(NamedTuple):
    """What was seen of one target in the window.

    Attributes:
        median: Median of its samples in seconds, or None if there are too few.
        attempts: Attempts that answered or failed.
        failures: Those of them that harm health, and rate limits.
    """

    median: float | None
    attempts: int
    failures: int


class Move(NamedTuple):
    """A target that has moved.

    Attributes:
        key: Its key.
        order: Keys of all targets, by priority and penalty.
    """

    key: str
    order: tuple[str, ...]


# Decisions.


def wanted_penalties(options: Adaptive, group: Sequence[Seen]) -> list[int]:
    """Return the penalty that each target of one priority group deserves by what was seen."""
    medians = sorted(each.median for each in group if each.median is not None)
    return [
        FAULTY
        if _is_faulty(options, each)
        else SLOW
        if _is_slow(options, each.median, medians)
        else 0
        for each in group
    ]


def _is_faulty(options: Adaptive, seen: Seen) -> bool:
    return (
        seen.failures >= LEAST_FAILURES
        and seen.attempts >= options.min_calls
        and seen.failures / seen.attempts >= options.error_share
    )


def _is_slow(options: Adaptive, own: float | None, medians: list[float]) -> bool:
    """Return whether a median is that of a slow target; ``medians`` of its group are ascending."""
    if own is None or len(medians) < 2:
        return False
    others = _median_without(medians, own)
    # Where all answer within one tick of the clock, none is slow.
    return own > others and own >= options.slow_factor * others


def _median_without(ascending: list[float], one: float) -> float:
    """Return the median of ascending numbers, of which at least two, without one of them."""
    # By places instead of a copy, since a group may have thousands of targets.
    left = len(ascending) - 1
    low, high = (left - 1) // 2, left // 2
    # Which of several equal numbers is left out makes no difference.
    if ascending[low] >= one:
        low += 1
    if ascending[high] >= one:
        high += 1
    return (ascending[low] + ascending[high]) / 2


def next_penalty(present: int, wanted: int) -> int:
    """Return the penalty after one move: it rises in one step and falls one step at a time."""
    return wanted if wanted > present else max(wanted, present - 1)


def placed(
    items: Sequence[T], penalty_of: Callable[[T], int], group_of: Callable[[T], Hashable]
) -> list[T]:
    """Return items in an order where each stands behind others as its penalty says.

    An item with penalty p stands behind the next p items of its group that have a smaller one,
    the last item first: slow A and B before C give C, A, B.

    Args:
        items: The items in their order.
        penalty_of: Gives the penalty of an item, 0 or more.
        group_of: Gives the group of an item. Each group keeps the places that it has.

    Keep in sync with docs/how-to/adaptive-order.md.
    """
    if not any(penalty_of(item) for item in items):
        return list(items)
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        groups.setdefault(group_of(item), []).append(item)
    following = {name: iter(_placed_in_group(group, penalty_of)) for name, group in groups.items()}
    return [next(following[group_of(item)]) for item in items]


def _placed_in_group(group: Sequence[T], penalty_of: Callable[[T], int]) -> list[T]:
    order = list(group)
    for start in range(len(order) - 1, -1, -1):
        penalty = penalty_of(order[start])
        place, left = start, penalty
        if not penalty:
            continue
        for index in range(start + 1, len(order)):
            if not left:
                break
            if penalty_of(order[index]) < penalty:
                place, left = index, left - 1
        if place != start:
            order.insert(place, order.pop(start))
    return order


# State.


class _Window:
    """Counts the attempts of one target in a window, from figures that only grow."""

    __slots__ = ("_answers", "_failures", "_parts", "_refusals")

    def __init__(self, figures: TargetFigures) -> None:
        self._answers, self._failures, self._refusals = _counts(figures)
        self._parts: list[tuple[float, float, int, int]] = []
        """``(when it began, when its newest attempt ended, attempts, failures)``, oldest first."""

    def counts(self, figures: TargetFigures, now: float, span: float) -> tuple[int, int]:
        """Return ``(attempts, failures)`` of the last `span` seconds."""
        answers, failures, refusals = _counts(figures)
        # Fewer answers than before: the figures have begun again, under another clock.
        grown = answers - self._answers if answers >= self._answers else answers
        harmed = failures - self._failures
        attempts = grown + harmed + refusals - self._refusals
        self._answers, self._failures, self._refusals = answers, failures, refusals
        parts = self._parts
        if attempts:
            # All that came since the last look is dated by the newest of it. While calls come,
            # somebody looks every second; after a rest that dates it by the end of the calls.
            ended_at = min(now, max(figures.newest_at, figures.failed_at))
            if parts and ended_at - parts[-1][0] < span / _PARTS:
                began, _, before, harmed_before = parts.pop()
                parts.append((began, ended_at, before + attempts, harmed_before + harmed))
            else:
                parts.append((ended_at, ended_at, attempts, harmed))
        while parts and parts[0][1] <= now - span:
            del parts[0]
        return sum(part[2] for part in parts), sum(part[3] for part in parts)


def _counts(figures: TargetFigures) -> tuple[int, int, int]:
    return figures.count, figures.failures, figures.refusals


MOST_ORDERS: Final = 8
"""Different `Adaptive` options of copies of one policy whose penalties are kept."""


def order_of(
    options: Adaptive, in_priority: Sequence[Target], figures: PolicyFigures
) -> AdaptiveOrder:
    """Return the order of a policy and of its copies with equal options, as its figures keep it.

    Called under a lock.
    """
    orders: dict[Adaptive, AdaptiveOrder] = figures.orders
    found = orders.get(options)
    if found is None:
        while len(orders) >= MOST_ORDERS:
            del orders[next(iter(orders))]
        found = orders[options] = AdaptiveOrder(options, in_priority, figures)
    return found


class AdaptiveOrder:
    """The penalties of the targets of one policy. May be used from any thread.

    Attributes:
        penalties: ``{key: penalty}`` of the targets that have one. Never changed, only replaced.
        moves: Grows whenever that is replaced.
        due: When the next computation is due, monotonic seconds.
    """

    __slots__ = (
        "_figures",
        "_groups",
        "_lock",
        "_looked_at",
        "_moved_at",
        "_options",
        "_targets",
        "_windows",
        "due",
        "moves",
        "penalties",
    )

    def __init__(
        self, options: Adaptive, in_priority: Sequence[Target], figures: PolicyFigures
    ) -> None:
        self._options = options
        self._figures = figures
        self._targets = tuple(in_priority)
        self._groups: dict[int, list[str]] = {}
        for target in in_priority:
            self._groups.setdefault(target.priority, []).append(target.key)
        self._windows = {key: _Window(each) for key, each in figures.of.items()}
        self._moved_at: dict[str, float] = {}
        self._looked_at = _NEVER
        self._lock = threading.RLock()  # a signal handler may make calls, too
        self.penalties: Mapping[str, int] = {}
        self.moves = 0
        self.due = _NEVER

    def begin(self, now: float) -> None:
        """Note what time it is when a function is bound: the clock may be another one since."""
        if now < self._looked_at:
            with self._lock:
                self._moved_at.clear()
                self._looked_at = self.due = _NEVER

    def computed(self, now: float) -> Sequence[Move]:
        """Compute the penalties if that is due; return the targets that have moved.

        Args:
            now: Monotonic seconds.
        """
        if now < self.due:
            return ()
        with self._lock:
            if now < self.due:
                return ()
            self._looked_at, self.due = now + 0.0, now + PAUSE
            return self._computed(now + 0.0)

    def _computed(self, now: float) -> Sequence[Move]:
        penalties = dict(self.penalties)
        changed: list[tuple[str, int]] = []
        for keys in self._groups.values():
            seen = [self._seen(key, now) for key in keys]
            for key, wanted in zip(keys, wanted_penalties(self._options, seen), strict=True):
                present = penalties.get(key, 0)
                if (
                    wanted != present
                    and now - self._moved_at.get(key, _NEVER) >= self._options.calm
                ):
                    changed.append((key, next_penalty(present, wanted)))
        if not changed:
            return ()
        moves: list[Move] = []
        order = self.order()
        for key, penalty in changed:
            self._moved_at[key] = now
            penalties = {**penalties, key: penalty}
            if not penalty:
                del penalties[key]
            after = self.order(penalties)
            if after != order:
                moves.append(Move(key, after))
            order = after
        self.penalties = penalties
        self.moves += 1
        return moves

    def _seen(self, key: str, now: float) -> Seen:
        options, figures = self._options, self._figures.of[key]
        attempts, failures = self._windows[key].counts(figures, now, options.window)
        return Seen(figures.median(now, options.window, options.min_samples), attempts, failures)

    def order(self, penalties: Mapping[str, int] | None = None) -> tuple[str, ...]:
        """Return the keys by priority and penalty; the present ones if none are given."""
        given = self.penalties if penalties is None else penalties
        return tuple(target.key for target in self._placed(self._targets, given, lambda t: t))

    def placed(self, items: Sequence[T], target_of: Callable[[T], Target]) -> Sequence[T]:
        """Return what a strategy has ordered, with the present penalties.

        Args:
            items: Targets, or what has them, in the order of the strategy.
            target_of: Gives the target of an item.
        """
        penalties = self.penalties
        return self._placed(items, penalties, target_of) if penalties else items

    def placed_group(self, group: Sequence[C]) -> Sequence[C]:
        """Return candidates of one priority group, which a strategy has ordered, likewise."""
        penalties = self.penalties
        return _placed_in_group(group, lambda each: penalties.get(each.target.key, 0))

    @staticmethod
    def _placed(
        items: Sequence[T], penalties: Mapping[str, int], target_of: Callable[[T], Any]
    ) -> list[T]:
        return placed(
            items,
            lambda item: penalties.get(target_of(item).key, 0),
            lambda item: target_of(item).priority,
        )
