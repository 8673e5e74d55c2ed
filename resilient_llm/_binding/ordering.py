"""Orders the targets of a chain for the calls of one binding: built-in strategies, and users' own.

A built-in strategy orders inside each group of equal `Target.priority`, groups follow each other.
Most calls need the first target only. So a call *draws* that, as the generated wrapper does by
itself, and asks for the whole order when the first has not answered, or is not simply live.
A user's function, and a key, need the arguments of the call: then there is an order at once.
"""

from __future__ import annotations

import functools
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._core.call.spending import SMALLEST
from resilient_llm._core.circuit.circuit import changes
from resilient_llm._core.circuit.permit import block_of
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.sticky import Sticky
from resilient_llm._values.strategy_call import StrategyCall, takes_call
from resilient_llm.strategies import (
    BUILT_IN,
    NO_CANDIDATE,
    NOT_DRAWN,
    OrderInputs,
    StickyOrder,
    hash_of_key,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from resilient_llm._binding.adapting import Adapting
    from resilient_llm._core.call.call import Candidate
    from resilient_llm._core.circuit.circuit import Circuit
    from resilient_llm._core.in_flight import CountsOfTarget
    from resilient_llm._values.policy import Options
    from resilient_llm._values.settings import Settings
    from resilient_llm._values.target import Target
    from resilient_llm.strategies import Order

_MOST_AMONG: Final = 64
"""Sets of targets for which an order of their own is kept."""
_MOST_GIVEN: Final = 10
"""How often a strategy may name each target, on average. It should name each once, or not."""


class Drawn:
    """What was drawn for a call, if that is more than a candidate. The wrapper reads it as one."""

    __slots__ = ("candidate", "circuit", "counts", "keep", "number", "order", "target")

    def __init__(
        self, candidate: Any, number: int | None, order: tuple[Candidate, ...] | None = None
    ) -> None:
        self.candidate = candidate
        self.target: Target = candidate.target
        self.circuit: Circuit = candidate.circuit
        is_candidate = candidate is not NO_CANDIDATE
        self.keep: Callable[[float, float], None] | None = candidate.keep if is_candidate else None
        self.counts: CountsOfTarget | None = candidate.counts if is_candidate else None
        self.number = number
        """How many calls used the strategy before; None if it does not matter."""
        self.order = order
        """The whole order, if it was needed to find the first."""


class Draw:
    """The first target of one call, and the whole order of its targets once it is asked for."""

    __slots__ = ("_at", "_drawn", "_order", "candidate")

    _order: Any

    def __init__(self, order: ChainOrder, drawn: Any, at: float) -> None:
        self._order = order
        self._drawn = drawn
        self._at = at
        self.candidate: Candidate = order.candidate_of(drawn)
        """The first live target; the first of the chain if none is live."""

    def whole(self) -> tuple[Candidate, ...]:
        """Return all targets of the call in order. To be asked once, since it may draw them."""
        return self._order.whole(self._drawn, self._at)


class ChainOrder:
    """The order of a chain under a built-in strategy, for the calls of one binding.

    Attributes:
        draw: Returns the first live target of a new order, with the time as its argument;
            `NO_CANDIDATE` if none is live. What it returns is given back to `whole`.
        draw_at_once: The same for a wrapper; `NOT_DRAWN` if more has to be done before.
    """

    names_call = False
    __slots__ = (
        "_adaptive",
        "_adjustment",
        "_among",
        "_by_key",
        "_candidates",
        "_groups",
        "_inputs",
        "_unadjusted",
        "draw",
        "draw_at_once",
    )

    def __init__(
        self,
        groups: Sequence[Order],
        candidates: tuple[Candidate, ...],
        inputs: OrderInputs,
        adjustment: Adapting | None = None,
    ) -> None:
        self._groups = tuple(groups)
        self._candidates = candidates
        self._by_key = {each.target.key: each for each in candidates}
        self._inputs = inputs
        self._adjustment = adjustment
        self._among: dict[tuple[Candidate, ...], ChainOrder] = {}
        """``{some of the targets: their own order}``"""
        self._unadjusted: Callable[[float], Any] = self._first_of_groups
        if len(self._groups) == 1:
            self._unadjusted = self._groups[0].first
        elif self._groups[0].rotates:
            self._unadjusted = self._numbered
        self.draw = self.draw_at_once = self._unadjusted
        if adjustment is not None:
            self._adaptive = adjustment.order
            self.draw, self.draw_at_once = self._adjusted, self._adjusted_at_once

    def draw_if_all_live(self, now: float) -> Any:
        """Return the same, or `NOT_DRAWN` if there may be a target that a call has to skip.

        For calls whose skipped targets somebody wants to know of.
        """
        return NOT_DRAWN if may_skip(self._candidates) else self.draw_at_once(now)

    def _first_of_groups(self, now: float) -> Any:
        for group in self._groups:
            candidate = group.first(now)
            if candidate is not NO_CANDIDATE:
                return candidate
        return NO_CANDIDATE

    def _numbered(self, now: float) -> Any:
        # One number for all groups of the call, and one step whichever group is asked.
        number = self._inputs.step()
        for group in self._groups:
            candidate = group.first(now, number)
            if candidate is not NO_CANDIDATE:
                return Drawn(candidate, number)
        return Drawn(NO_CANDIDATE, number)

    def _adjusted_at_once(self, now: float) -> Any:
        order = self._adaptive
        if now >= order.due:
            # What the computation tells observers must not count as part of an attempt.
            return NOT_DRAWN
        return self._adjusted(now) if order.penalties else self._unadjusted(now)

    def _adjusted(self, now: float) -> Any:
        assert self._adjustment is not None
        adjust = self._adjustment(now)
        drawn = self._unadjusted(now)
        if adjust is None or drawn.target is None:
            return drawn
        # Whoever has no penalty stays before all that follow it.
        if drawn.target.key not in self._adaptive.penalties:
            return drawn
        number = drawn.number if type(drawn) is Drawn else None
        first = self.candidate_of(drawn)
        order = self._order(first, now, number, adjust)
        is_live = self._inputs.is_live
        return Drawn(next((each for each in order if is_live(each, now)), first), number, order)

    def among(self, candidates: tuple[Candidate, ...]) -> ChainOrder:
        """Return the order of some of the targets, of those that can take a call.

        A rotation over all of them would give those behind the others a larger share.
        """
        found = self._among.get(candidates)
        if found is None:
            if len(self._among) >= _MOST_AMONG:
                self._among.clear()
            cls = type(self._groups[0])
            groups: Any = [cls(group, self._inputs) for group in groups_of(candidates)]
            found = type(self)(groups, candidates, self._inputs, self._adjustment)
            self._among[candidates] = found
        return found

    def candidate_of(self, drawn: Any) -> Candidate:
        """Return what was drawn as a candidate of this order; the chain's first if there is none.

        It may have been drawn before the state was exchanged.
        """
        if drawn.target is None:
            return self._candidates[0]
        return self._by_key[drawn.target.key]

    def whole(self, drawn: Any, now: float) -> tuple[Candidate, ...]:
        """Return all targets of a call in order.

        Args:
            drawn: What was drawn for the call.
            now: When it was drawn.
        """
        first: Any = NO_CANDIDATE if drawn.target is None else self.candidate_of(drawn)
        number = None
        if type(drawn) is Drawn:
            number = drawn.number
            if drawn.order is not None:
                return tuple([self._by_key[each.target.key] for each in drawn.order])
        if self._adjustment is None:
            return self._order(first, now, number, None)
        order = self._order(first, now, number, self._adjustment.present)
        return order if first is NO_CANDIDATE else self._led_by(first, order, now)

    def _led_by(
        self, first: Candidate, order: tuple[Candidate, ...], now: float
    ) -> tuple[Candidate, ...]:
        """Return an order in which no live target stands before the one that was drawn.

        One does if the penalties have changed since.
        """
        place, is_live = order.index(first), self._inputs.is_live
        before = [each for each in order[:place] if is_live(each, now)]
        if not before:
            return order
        blocked = [each for each in order[:place] if each not in before]
        return (*blocked, first, *before, *order[place + 1 :])

    def _order(
        self,
        first: Any,
        now: float,
        number: int | None,
        adjust: Callable[[Sequence[Candidate]], Sequence[Candidate]] | None,
    ) -> tuple[Candidate, ...]:
        """Return all targets in order, each group adjusted."""
        order: list[Any] = []
        for group in self._groups:
            is_own = len(self._groups) == 1 or first in group.candidates
            part: Any = group.whole(first if is_own else NO_CANDIDATE, now, number)
            order += part if adjust is None else adjust(part)
        return tuple(order)


class PriorityOrder(ChainOrder):
    """The order of a chain by priority and penalty: the same for all calls between two moves."""

    __slots__ = ("_placed",)

    def __init__(
        self,
        groups: Sequence[Order],
        candidates: tuple[Candidate, ...],
        inputs: OrderInputs,
        adjustment: Adapting,
    ) -> None:
        super().__init__(groups, candidates, inputs, adjustment)
        self._placed: tuple[int, tuple[Candidate, ...]] = -1, candidates
        """``(moves until then, the targets in the order of then)``"""

    def _adjusted(self, now: float) -> Any:
        assert self._adjustment is not None
        order = self._adaptive
        if now >= order.due:
            self._adjustment.look(now)
        moves, candidates = self._placed
        if moves != order.moves:
            candidates = self._place()
        for each in candidates:
            if self._inputs.is_live(each, now):
                return each
        return NO_CANDIDATE

    def _adjusted_at_once(self, now: float) -> Any:
        order = self._adaptive
        if now < order.due:
            moves, candidates = self._placed
            if moves == order.moves:
                first = candidates[0]
                return first if first.circuit.slot is not None else self._adjusted(now)
        return NOT_DRAWN

    def _place(self) -> tuple[Candidate, ...]:
        assert self._adjustment is not None
        moves = self._adaptive.moves  # before the penalties, which may change meanwhile
        candidates = self._order(NO_CANDIDATE, 0.0, None, self._adjustment.present)
        self._placed = moves, candidates
        return candidates


def nothing_drawn(now: float) -> Any:
    """Stand in an unbound wrapper for `ChainOrder.draw`."""
    return NOT_DRAWN


class Drawing(functools.partial[Any]):
    """`ChainOrder.draw` as a wrapper holds it.

    A wrapper that is sent to another process by value, as cloudpickle does, arrives there unbound;
    a bound method would take its order with it. A partial is called as quickly as one.
    """

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return _nothing_drawn, ()


def _nothing_drawn() -> Any:
    return nothing_drawn


class KeyedDraw(Draw):
    """The same for a call with a key."""

    __slots__ = ("_key_hash",)

    def __init__(self, order: KeyedOrder, key_hash: int | None, first: Any) -> None:
        self._order = order
        self._key_hash = key_hash
        self.candidate = first

    def whole(self) -> tuple[Candidate, ...]:
        return self._order.whole(self._key_hash)


class KeyedOrder:
    """The order of a chain for calls with a key: the strategy ``sticky``."""

    names_call = False
    """Whether it needs to know the name of a call."""

    def __init__(
        self,
        strategy: Sticky,
        candidates: tuple[Candidate, ...],
        clock: Callable[[], float],
        adjustment: Adapting | None = None,
    ) -> None:
        self._key = strategy.key
        self._groups = [StickyOrder(group) for group in groups_of(candidates)]
        self._clock = clock
        self._adjustment = adjustment

    def of(
        self, args: tuple[Any, ...] | None, kwargs: dict[str, Any], call_id: str
    ) -> tuple[Candidate, ...] | KeyedDraw:
        """Return the targets of a call in order, or the first; ``args`` is None in the loop form.

        Raises:
            TypeError: If the key is of a type that has no hash here.
        """
        key_hash = None if args is None else hash_of_key(self._key(*args, **kwargs))
        adjust = None if self._adjustment is None else self._adjustment(self._clock())
        if adjust is None:
            return KeyedDraw(self, key_hash, self._groups[0].first(key_hash))
        order: list[Any] = []
        for group in self._groups:
            own: Any = group.whole(key_hash)
            order += adjust(own)
        return tuple(order)

    def whole(self, key_hash: int | None) -> tuple[Candidate, ...]:
        """Return all targets of a call with this key in order."""
        order: list[Any] = []
        for group in self._groups:
            order += group.whole(key_hash)
        return tuple(order)


class UsersOrder:
    """The order that a function of the user gives."""

    def __init__(self, strategy: Callable[..., Any], candidates: tuple[Candidate, ...]) -> None:
        self._strategy = strategy
        self.names_call = takes_call(strategy)
        """Whether it needs to know the name of a call, and its arguments."""
        self._targets = tuple([each.target for each in candidates])
        self._by_key = {each.target.key: each for each in candidates}

    def of(
        self,
        args: tuple[Any, ...] | None,
        kwargs: dict[str, Any],
        call_id: str,
    ) -> tuple[Candidate, ...]:
        """Return the targets of a call in order; ``args`` is None in the loop form.

        Raises:
            ConfigurationError: If the function gives no target, something else than some of those
                it was given, or no end of them.
        """
        if self.names_call:
            call = StrategyCall(args or (), kwargs, call_id)
            given: Any = self._strategy(self._targets, call)
        else:
            given = self._strategy(self._targets)
        _check_iterable(given)
        chosen: dict[str, Candidate] = {}
        most = _MOST_GIVEN * len(self._targets)
        for number, target in enumerate(given):
            if number >= most:
                raise ConfigurationError(
                    f"strategy gave more than {most} targets for {len(self._targets)}, "
                    "or no end of them: return each of those it was given at most once"
                )
            key = getattr(target, "key", "")
            candidate = self._by_key.get(key) if isinstance(key, str) else None
            if candidate is None:
                chosen.clear()
                break
            chosen[key] = candidate
        if not chosen:
            raise ConfigurationError(
                "strategy gave no target, or one that is not in the chain: "
                "return some of those it was given"
            )
        return tuple(chosen.values())


def _check_iterable(given: Any) -> None:
    kind: Any = given.__class__
    if hasattr(kind, "__iter__") or hasattr(kind, "__getitem__"):
        return
    if hasattr(given, "close"):
        given.close()  # a coroutine, which nobody awaits
    raise ConfigurationError(
        f"strategy gave a {kind.__name__}: return some of the targets it was given"
    )


def groups_of(candidates: Sequence[Candidate]) -> list[tuple[Candidate, ...]]:
    """Return the candidates, which are ordered by priority, in groups of one priority."""
    return [tuple(group) for _, group in groupby(candidates, lambda each: each.target.priority)]


def is_live(candidate: Any, now: float) -> bool:
    """Return whether an attempt on a candidate may enter now; takes no lock if it is closed.

    Whether limits of tokens have room depends on the call, which an order does not know: one that
    has none for the smallest is not live.
    """
    circuit, limits = candidate.circuit, candidate.limits
    if circuit.slot is None and not (
        now >= circuit.shut_until and (circuit.is_at_rest or block_of(circuit, now) is None)
    ):
        return False
    return limits is None or limits.block(now, SMALLEST) is None


def _live_within(
    has_room: Callable[[Target, float], bool],
) -> Callable[[Any, float], bool]:
    """Return the same question for targets that budgets may refuse as well."""

    def is_live_within(candidate: Any, now: float) -> bool:
        return is_live(candidate, now) and has_room(candidate.target, now)

    return is_live_within


def may_skip(candidates: Sequence[Candidate]) -> bool:
    """Return whether a call may have to skip one of these targets; takes no lock."""
    for candidate in candidates:
        circuit = candidate.circuit
        if candidate.limits is not None or (circuit.slot is None and not circuit.is_at_rest):
            return True
    return False


def _is_degraded(candidate: Any, now: float) -> bool:
    return candidate.circuit.status(now) == "degraded"


def order_for(
    options: Options,
    candidates: tuple[Candidate, ...],
    *,
    settings: Settings,
    rng: Random,
    clock: Callable[[], float],
    step_of: Callable[[str], Callable[[], int]],
    figures: Any = None,
    in_flight: Callable[[str], Any] | None = None,
    adjustment: Adapting | None = None,
    has_room: Callable[[Target, float], bool] | None = None,
) -> ChainOrder | KeyedOrder | UsersOrder | None:
    """Return how calls with these options order their targets; None if as they are.

    Args:
        options: The options in force.
        candidates: The targets by priority.
        settings: For prices.
        rng: Source of randomness.
        clock: Monotonic seconds.
        step_of: Returns the step of a strategy, by its name: what counts its calls.
        figures: Samples of the policy's attempts, if it keeps some.
        in_flight: Returns what is in flight on a key, if the strategy needs that.
        adjustment: What moves targets after the strategy, or None.
        has_room: Says whether budgets have room for the smallest attempt, if there are any.
    """
    strategy: Any = options.strategy
    if isinstance(strategy, Sticky):
        return KeyedOrder(strategy, candidates, clock, adjustment)
    if callable(strategy):
        return UsersOrder(strategy, candidates)
    if strategy == "priority" and adjustment is None:
        return None
    inputs = OrderInputs(
        rng=rng,
        is_live=is_live if has_room is None else _live_within(has_room),
        is_degraded=_is_degraded,
        changes=changes,
        price_of=settings.price_of,
        step=step_of(strategy),
        figures=figures,
        in_flight=in_flight,
        has_limits=has_room is not None or any(each.limits is not None for each in candidates),
    )
    groups = [BUILT_IN[strategy](group, inputs) for group in groups_of(candidates)]
    if strategy == "priority" and adjustment is not None:
        return PriorityOrder(groups, candidates, inputs, adjustment)
    return ChainOrder(groups, candidates, inputs, adjustment)
