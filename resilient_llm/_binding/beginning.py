"""Begins calls: names them, chooses their targets, and admits a first attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from resilient_llm._binding import hooked
from resilient_llm._binding.first_attempt import FirstAttempt
from resilient_llm._binding.ordering import ChainOrder, Draw, KeyedDraw, may_skip
from resilient_llm._binding.reporting import Reporting, new_id
from resilient_llm._core.call.call import Call, share_of
from resilient_llm._core.call.capabilities import NO_LACKS
from resilient_llm._core.call.ending import emit_call_failed
from resilient_llm._core.call.judging import broke
from resilient_llm._core.call.trying import delay_of
from resilient_llm._runtime import call_ids
from resilient_llm._runtime.runtime import runtime
from resilient_llm._runtime.spending import present_key
from resilient_llm._runtime.tracing import named_call_id, note_call, open_trace
from resilient_llm._values import event_names
from resilient_llm._values.errors import NoCapableTargetError
from resilient_llm._values.kinds import ErrorKind
from resilient_llm.strategies import NOT_DRAWN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resilient_llm._binding.ordering import KeyedOrder, UsersOrder
    from resilient_llm._binding.tool_loops import ToolLoops
    from resilient_llm._core.call.call import Candidate
    from resilient_llm._core.call.capabilities import Demand, Lack
    from resilient_llm._runtime.tracing import Trace


class Beginning(Reporting):
    """Binds one function, and begins its calls."""

    def begin(  # noqa: C901  # what a call begins with, in order
        self, args: tuple[Any, ...] | None, kwargs: dict[str, Any], drawn: Any = NOT_DRAWN
    ) -> FirstAttempt:
        """Choose the targets of a call; admit its first attempt if the call flow is not needed.

        Args:
            args: Its positional arguments; None in the loop form, which has no arguments.
            kwargs: Its keyword arguments.
            drawn: What the wrapper has drawn for it, if anything.

        Raises:
            NoCapableTargetError: If none of the targets can take the call.
            ToolLoopError: If its conversation repeats one tool call, and the policy refuses that.
            TypeError: If it names the parameter that its function takes the target with.
        """
        candidates = self.candidates
        if candidates is None:
            candidates = self._bind()
        if kwargs and self.injection.taken in kwargs:
            self.injection.refuse_taken()
        options, order, call_id, entered = self.options, self.order, "", None
        effect, demand, lacks = self.effect, None, NO_LACKS
        demands = effect.demands
        if call_ids.switch.is_on:
            call_id = named_call_id(open_trace()) or new_id()
            entered = call_ids.enter(call_id)
        try:
            if kwargs and self.injection.names:
                kwargs, pinned = self.pins.without(kwargs)
                if pinned is not None:
                    candidates, order = (self.by_key[pinned.key],), None
            if demands is not None:
                demand, lacks = demands.of_call(candidates, args or (), kwargs)
            chosen, candidate = candidates, candidates[0]
            if order is not None:
                if order.names_call and not call_id:
                    call_id = named_call_id(open_trace()) or new_id()
                if lacks and isinstance(order, ChainOrder):
                    chosen, candidate = self._ordered_capable(order, candidates, lacks)
                else:
                    chosen, candidate = self._ordered(order, args, kwargs, drawn, call_id)
        except BaseException as error:
            self._not_begun(candidates, error, call_id)
            if entered is not None:
                call_ids.leave(entered)
            raise
        first = FirstAttempt(chosen, candidate, kwargs, options, self.deps)
        first.call_id, first.entered = call_id, entered
        trace = open_trace()
        if trace is not None or self.takes_attempt:
            self._note(first, trace)
        if runtime.dispatcher.hooks:
            self._begin_hook(first)
        if effect.tool_loops is not None:
            self._look_for_loop(effect.tool_loops, first, args or ())
        first.entered_at = runtime.clock()
        if demand is not None:
            first.tokens = demand.tokens
        if lacks:
            assert demand is not None
            capable, chosen = self._capable(first, demand, lacks), first.candidates
            if capable is None:
                return first
            candidate = capable
        generation = candidate.circuit.slot if candidate.limits is None else None
        if self.estimates is not None:  # what its attempts use is booked, or counts for limits
            first.spend_key = present_key.get()
            generation = None
        if generation is not None and (
            # Most calls by far, and pinned ones; asked here since a method costs more than that.
            not (order is not None or self.needs_limits or self.is_stream or effect.is_hedged)
            or self._needs_no_flow(first, chosen, candidates)
        ):
            first.generation = generation
        return first

    def _note(self, first: FirstAttempt, trace: Trace | None) -> None:
        """Name a call that a trace notes or that an attempt tells of; note it in its trace."""
        first.call_id = first.call_id or named_call_id(trace) or new_id()
        if trace is not None:
            first.outcome = note_call(trace, first.call_id)

    def _needs_no_flow(
        self,
        first: FirstAttempt,
        chosen: tuple[Candidate, ...] | Draw,
        candidates: tuple[Candidate, ...],
    ) -> bool:
        """Return whether the first attempt of a call may be made before there is a call flow.

        Args:
            first: The first attempt.
            chosen: The targets of the call in order, or what was drawn for it.
            candidates: All targets, by priority.
        """
        if self.is_stream or (isinstance(chosen, Draw) and not self._leads(first, candidates)):
            return False
        return (not self.needs_limits or self._limit(first, candidates, chosen)) and (
            not self.effect.is_hedged or self._hedge(first, candidates, chosen)
        )

    def _hedge(
        self,
        first: FirstAttempt,
        candidates: tuple[Candidate, ...],
        chosen: tuple[Candidate, ...] | Draw,
    ) -> bool:
        """Set when a first attempt is slow; return False if its race needs the call flow.

        Args:
            first: The first attempt.
            candidates: All targets, by priority.
            chosen: Those of the call in order, or what was drawn for it.
        """
        if len(candidates if isinstance(chosen, Draw) else chosen) > 1:
            assert first.deps is not None
            key = first.candidate.target.key
            first.hedge_after = delay_of(
                first.options.hedge, first.deps.figures, key, first.entered_at
            )
        if first.hedge_after is None:
            return True
        from resilient_llm._runtime.time_limit import is_trio  # loads asyncio

        return not is_trio()

    def _begin_hook(self, first: FirstAttempt) -> None:
        try:
            hooked.begin(first, self.injection.called, self.policy.chain)
        except BaseException:  # the call has not begun
            if first.entered is not None:
                call_ids.leave(first.entered)
            raise

    def _look_for_loop(
        self, tool_loops: ToolLoops, first: FirstAttempt, args: tuple[Any, ...]
    ) -> None:
        """Emit that the conversation of a call repeats one tool call; end the call if it has to.

        Raises:
            ToolLoopError: If the policy refuses such calls.
        """
        call = found = None
        goes_on = False
        try:
            found = tool_loops.of_call(args, first.kwargs)
            if found is None:
                goes_on = True
                return
            first.call_id = first.call_id or new_id()  # what is emitted later has the same
            first.entered_at = now = runtime.clock()
            call, candidate = self.new_call((), first), first.candidate
            call.emit(candidate, event_names.ToolLoopDetected, now, **found.details())
            goes_on = found.action != "raise"
            if not goes_on:
                emit_call_failed(call, candidate, now, ErrorKind.REJECTED)
        finally:  # the user, or an observer, may interrupt that
            if not goes_on:
                if call is not None:
                    call.clear()
                if first.entered is not None:
                    call_ids.leave(first.entered)
        if not goes_on:
            raise found.error([each.target.key for each in first.candidates])

    def _capable(
        self, first: FirstAttempt, demand: Demand, lacks: Mapping[str, Lack]
    ) -> Candidate | None:
        """Return the first target that can take a call; None if the call flow tells of the others.

        Raises:
            NoCapableTargetError: If there is none.
        """
        first.lacks = lacks
        for candidate in first.candidates:
            if candidate.target.key not in lacks:
                break
        else:
            self._refuse(first, demand)
        if candidate is not first.candidates[0]:
            if first.outcome is not None or first.hook is not None or self._tells_skips():
                return None
            first.candidate = candidate
        return candidate

    def _tells_skips(self) -> bool:
        """Return whether somebody wants to know of skipped targets."""
        is_counted = self.deps is not None and self.deps.counts is not None
        return is_counted or self._is_listened_to(event_names.TargetSkipped)

    def _refuse(self, first: FirstAttempt, demand: Demand) -> NoReturn:
        """End a call that none of its targets can take."""
        call = self.new_call((), first)
        now = first.entered_at
        try:
            for candidate in first.candidates:
                call.pass_over(candidate, first.lacks[candidate.target.key].reason, now)
            emit_call_failed(call, first.candidates[-1], now, ErrorKind.REJECTED)
        finally:
            call.clear()
            if first.entered is not None:
                call_ids.leave(first.entered)
        lacks = {each.target.key: first.lacks[each.target.key] for each in first.candidates}
        raise NoCapableTargetError(
            sorted(demand.words),
            demand.tokens,
            {key: lack.words for key, lack in lacks.items()},
            {key: lack.tokens for key, lack in lacks.items() if lack.tokens is not None},
        )

    def _ordered(
        self,
        order: ChainOrder | KeyedOrder | UsersOrder,
        args: tuple[Any, ...] | None,
        kwargs: dict[str, Any],
        drawn: Any,
        call_id: str,
    ) -> tuple[tuple[Candidate, ...] | Draw, Candidate]:
        """Return the targets of a call in order, or what is drawn for it; and its first target."""
        if isinstance(order, ChainOrder):
            now = runtime.clock()
            draw = Draw(order, order.draw(now) if drawn is NOT_DRAWN else drawn, now)
            return draw, draw.candidate
        # Without the function, where that is passed as the first argument.
        own = args[1:] if args and self.injection.is_passed else args
        chosen = order.of(own, kwargs, call_id)
        return chosen, chosen.candidate if isinstance(chosen, KeyedDraw) else chosen[0]

    def _ordered_capable(
        self, order: ChainOrder, candidates: tuple[Candidate, ...], lacks: Mapping[str, Lack]
    ) -> tuple[tuple[Candidate, ...], Candidate]:
        """Return the targets of a call, those that it skips first, and the first that it calls."""
        capable = tuple(each for each in candidates if each.target.key not in lacks)
        if not capable:
            return candidates, candidates[0]
        now, among = runtime.clock(), order.among(capable)
        draw = Draw(among, among.draw(now), now)
        others = [each for each in candidates if each.target.key in lacks]
        return (*others, *draw.whole()), draw.candidate

    def _leads(self, first: FirstAttempt, candidates: tuple[Candidate, ...]) -> bool:
        """Return whether no target that the call has to skip stands before the one that was drawn.

        The rest of the order is drawn only if there may be one.
        """
        return not may_skip(candidates) or first.candidates[0] is first.candidate

    def _limit(
        self,
        first: FirstAttempt,
        candidates: tuple[Candidate, ...],
        chosen: tuple[Candidate, ...] | Draw,
    ) -> bool:
        """Set the limit of a first attempt; return False if that depends on more than is known.

        Args:
            first: The first attempt.
            candidates: All targets, by priority.
            chosen: Those of the call in order, or what was drawn for it.
        """
        timeout = first.options.timeout
        limit = first.limit = self.limits[first.candidate.target.key]
        first.limits = limit, False
        if timeout is not None:
            # The limit depends on whether another target is live.
            if isinstance(chosen, Draw):  # then any other may be the next one
                following = [each for each in candidates if each is not first.candidate]
            else:
                following = first.following()
            now = first.entered_at
            if following and not any(_is_surely_live(each, now) for each in following):
                return False
            first.limits = share_of(timeout, limit, is_last=not following)
            first.limit = first.limits[0]
        return True

    def new_call(self, args: tuple[Any, ...], first: FirstAttempt) -> Call:
        """Return the call that was begun, with its targets in order, named, timed and traced."""
        options = first.options
        assert first.deps is not None
        call = Call(
            options,
            first.candidates,
            first.deps,
            first.call_id or new_id,
            None if options.timeout is None else first.entered_at + options.timeout,
            knows_limit=self.injection.is_async or self.injection.attempt is not None,
            outcome=first.outcome,
            rebind=self.injection.rebound,
        )
        call.args, call.kwargs = args, first.kwargs
        call.tag.began_at = first.entered_at
        if first.lacks:
            call.lacks = first.lacks
        demands = first.demands or self.estimates
        if demands is not None:
            call.spend_key = first.spend_key
            call.estimate_of = demands.of_attempts(args, first.kwargs, first.tokens)
        if self.is_stream:
            call.is_stream = True
        if first.hook is not None:
            call.hook = first.hook
        return call

    def _not_begun(
        self, candidates: tuple[Candidate, ...], error: BaseException, call_id: str
    ) -> None:
        """Emit that a call failed whose targets could not be chosen."""
        first = FirstAttempt(candidates, candidates[0], {}, self.options, self.deps)
        first.call_id = call_id or named_call_id(open_trace()) or new_id()
        first.entered_at = runtime.clock()
        hooked.begin(first, self.injection.called, self.policy.chain)
        call = self.new_call((), first)
        broke(call, candidates[0], None, error)
        call.clear()


def _is_surely_live(candidate: Candidate, now: float) -> bool:
    """Return whether nothing blocks a candidate, as far as that is known without a lock.

    A circuit that no call has used yet has no slot, and is at rest.
    """
    circuit = candidate.circuit
    return circuit.slot is not None or (
        candidate.limits is None and now >= circuit.shut_until and circuit.is_at_rest
    )
