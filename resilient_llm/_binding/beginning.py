"""Begins calls: names them, chooses their targets, and admits a first attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm._binding import hooked
from resilient_llm._binding.choosing import ordered
from resilient_llm._binding.first_attempt import FirstAttempt
from resilient_llm._binding.reporting import Reporting, new_id
from resilient_llm._core.call.call import Call, share_of
from resilient_llm._core.call.judging import broke
from resilient_llm._runtime import call_ids
from resilient_llm._runtime.runtime import runtime
from resilient_llm._runtime.tracing import named_call_id, note_call, open_trace

if TYPE_CHECKING:
    from resilient_llm._core.call.call import Candidate


class Beginning(Reporting):
    """Binds one function, and begins its calls."""

    def begin(self, kwargs: dict[str, Any]) -> FirstAttempt:
        """Choose the targets of a call; admit its first attempt if the call flow is not needed."""
        candidates = self.candidates
        if candidates is None:
            candidates = self._bind()
        options, call_id, entered = self.options, "", None
        if call_ids.switch.is_on:
            call_id = named_call_id(open_trace()) or new_id()
            entered = call_ids.enter(call_id)
        try:
            if kwargs and self.injection.names:
                kwargs, pinned = self.pins.without(kwargs)
                if pinned is not None:
                    candidates = (self.by_key[pinned.key],)
            if options.strategy != "priority":
                candidates = ordered(options.strategy, candidates)
        except BaseException as error:
            self._not_begun(candidates, error, call_id)
            if entered is not None:
                call_ids.leave(entered)
            raise
        first = FirstAttempt(candidates, candidates[0], kwargs, options, self.deps)
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
        generation = candidates[0].circuit.slot
        if (
            generation is not None
            and not self.is_stream
            and (not self.needs_limits or self._limit(first))
        ):
            first.generation = generation
        return first

    def _begin_hook(self, first: FirstAttempt) -> None:
        try:
            hooked.begin(first, self.injection.called, self.policy.chain)
        except BaseException:  # the call has not begun
            if first.entered is not None:
                call_ids.leave(first.entered)
            raise

    def _limit(self, first: FirstAttempt) -> bool:
        """Set the limit of a first attempt; return False if that depends on more than is known."""
        candidates, timeout = first.candidates, first.options.timeout
        limit = first.limit = self.limits[first.candidate.target.key]
        first.limits = limit, False
        if timeout is not None:
            # The limit depends on whether another target is live.
            if len(candidates) > 1 and candidates[1].circuit.slot is None:
                return False
            first.limits = share_of(timeout, limit, is_last=len(candidates) == 1)
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
