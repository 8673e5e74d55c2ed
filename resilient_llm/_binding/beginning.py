"""Begins calls: names them, chooses their targets, and admits a first attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm._binding import hooked
from resilient_llm._binding.first_attempt import FirstAttempt
from resilient_llm._binding.ordering import ChainOrder, Draw, KeyedDraw, may_skip
from resilient_llm._binding.reporting import Reporting, new_id
from resilient_llm._core.call.call import Call, share_of
from resilient_llm._core.call.judging import broke
from resilient_llm._runtime import call_ids
from resilient_llm._runtime.runtime import runtime
from resilient_llm._runtime.tracing import named_call_id, note_call, open_trace
from resilient_llm.strategies import NOT_DRAWN

if TYPE_CHECKING:
    from resilient_llm._binding.ordering import KeyedOrder, UsersOrder
    from resilient_llm._core.call.call import Candidate


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
        """
        candidates = self.candidates
        if candidates is None:
            candidates = self._bind()
        options, order, call_id, entered = self.options, self.order, "", None
        if call_ids.switch.is_on:
            call_id = named_call_id(open_trace()) or new_id()
            entered = call_ids.enter(call_id)
        try:
            if kwargs and self.injection.names:
                kwargs, pinned = self.pins.without(kwargs)
                if pinned is not None:
                    candidates, order = (self.by_key[pinned.key],), None
            chosen, candidate = candidates, candidates[0]
            if order is not None:
                if order.names_call and not call_id:
                    call_id = named_call_id(open_trace()) or new_id()
                chosen, candidate = self._ordered(order, args, kwargs, drawn, call_id)
        except BaseException as error:
            self._not_begun(candidates, error, call_id)
            if entered is not None:
                call_ids.leave(entered)
            raise
        first = FirstAttempt(chosen, candidate, kwargs, options, self.deps)
        first.call_id, first.entered = call_id, entered
        trace = open_trace()
        if trace is not None:
            first.call_id = call_id or named_call_id(trace) or new_id()
            first.outcome = note_call(trace, first.call_id)
        elif self.takes_attempt:
            first.call_id = call_id or new_id()
        if runtime.dispatcher.hooks:
            self._begin_hook(first)
        first.entered_at = runtime.clock()
        generation = candidate.circuit.slot
        if generation is not None and (
            # Most calls by far, and pinned ones; asked here since a method costs more than that.
            not (order is not None or self.needs_limits or self.is_stream)
            or self._needs_no_flow(first, chosen, candidates)
        ):
            first.generation = generation
        return first

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
        return not self.needs_limits or self._limit(first, candidates, chosen)

    def _begin_hook(self, first: FirstAttempt) -> None:
        try:
            hooked.begin(first, self.injection.called, self.policy.chain)
        except BaseException:  # the call has not begun
            if first.entered is not None:
                call_ids.leave(first.entered)
            raise

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
                is_last = not following
            else:
                following, is_last = chosen[1:2], len(chosen) == 1
            if not is_last and all(each.circuit.slot is None for each in following):
                return False
            first.limits = share_of(timeout, limit, is_last=is_last)
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
