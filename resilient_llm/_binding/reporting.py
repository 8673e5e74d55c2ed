"""Reports the answers of first attempts: to the circuit, to the trace, and to observers.

What the answer of the wrapper's healthy path needs besides being counted, and what the binding
learns from answers: their class, and from time to time the level of the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm._binding.binding import Binding
from resilient_llm._binding.first_attempt import FirstAttempt
from resilient_llm._binding.ordering import ChainOrder, Draw
from resilient_llm._core.call.hooks import answered_at_once
from resilient_llm._core.circuit import window
from resilient_llm._core.circuit.outbox import CallTag
from resilient_llm._core.circuit.permit import permit_of_inlined
from resilient_llm._core.in_flight import FunctionInFlight
from resilient_llm._drive.results import is_decided_by_class
from resilient_llm._runtime import call_ids
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.kinds import AttemptRecord
from resilient_llm._values.target import Target

if TYPE_CHECKING:
    from resilient_llm._binding.ordering import Drawn
    from resilient_llm._core.call.call import Candidate
    from resilient_llm._core.circuit.window import Generation
    from resilient_llm._core.in_flight import Counts, CountsOfTarget

LOOK_AGAIN: Final = 1.0
"""Seconds after which a function that is not watched looks at the level of the log again.

That changes without notice. A function that is watched looks more often, since it would save more.
"""


class Reporting(Binding):
    """Binds one function, and reports the answers of first attempts."""

    def _report(
        self,
        generation: Generation,
        entered_at: float,
        ended_at: float,
        target: Target,
        first: FirstAttempt | None,
        counts: CountsOfTarget | None = None,
    ) -> None:
        """Report an answer to its circuit, the trace around the call and its observers."""
        took = ended_at - entered_at
        call_id, outcome = "", None
        if first is not None:
            call_id, outcome = first.call_id, first.outcome
            if first.deps is not None and first.deps.counts is not None:
                counts = first.deps.counts.target(target.key)
            if first.hook is not None:
                answered_at_once(first.hook, target.key, took)
        if counts is not None:
            counts.answer(took)
        # An attempt of an earlier state of the process belongs to the figures of that.
        deps = self.deps if first is None else first.deps
        if deps is not None and deps.figures is not None:
            deps.figures.answered(target.key, ended_at, took)
        try:
            if ended_at < generation.check_after and took < generation.slow_above:
                generation.n += 1
            else:
                if not generation.answered(ended_at, took, took):
                    call_id = call_id or new_id()
                    options = self.options if first is None else first.options
                    permit = permit_of_inlined(
                        self._candidate(target).circuit, generation, entered_at
                    )
                    tag = CallTag(call_id, options.observers)
                    tag.began_at = entered_at
                    permit.succeeded(ended_at, took, cooldown=options.cooldown, tag=tag)
                self._look_around(ended_at, target)
        finally:  # an observer of what the count causes may interrupt the call
            if outcome is not None:
                outcome.served_by = target.key
                outcome.records.append(AttemptRecord(target.key, 1, seconds=took))
            if self.is_watched:
                if self.candidates is None:
                    self._bind()
                runtime.dispatcher.emit_success(
                    self.by_key[target.key].circuit.outbox,
                    entered_at,
                    ended_at,
                    took,
                    call_id or new_id(),
                    self.options.observers,
                )

    def _wrappers_attempt(
        self,
        generation: Generation,
        entered_at: float,
        called: Target | Candidate | Drawn,
        number: int | None = None,
        counts: CountsOfTarget | None = None,
    ) -> FirstAttempt:
        """Return what is known of a first attempt that the wrapper made, and where it counts."""
        was_bound, candidates = self.candidates is not None, self.bound()
        assert self.deps is not None
        options, deps = self.in_force.began_with(entered_at, self.deps, was_bound=was_bound)
        deps = deps.counted_by(None if counts is None else counts.function)
        # Not from `by_key`, which another thread may have replaced since.
        candidate, order = candidates[0], self.order
        chosen: tuple[Candidate, ...] | Draw = candidates
        if not isinstance(called, Target) and type(order) is ChainOrder:
            chosen = Draw(order, called, entered_at)
            candidate = chosen.candidate
        else:
            target = called if isinstance(called, Target) else called.target
            if candidate.target is not target:
                candidate = next(each for each in candidates if each.target.key == target.key)
            if target is not called:  # the strategy was replaced meanwhile
                chosen = (candidate, *(each for each in candidates if each is not candidate))
        first = FirstAttempt(chosen, candidate, {}, options, deps)
        first.lacks = self.effect.lacks
        first.generation, first.entered_at = generation, entered_at
        if number is not None:
            first.call_id = call_ids.id_of(number)
        return first

    def _look_around(self, now: float, target: Target) -> None:
        """Look now and then at the level of the log, and for events that wait."""
        if now >= self.look_at:
            self._look_at_log(now)
        if not self.is_watched:
            outbox = self._candidate(target).circuit.outbox
            if outbox.is_behind:
                runtime.dispatcher.deliver(outbox)

    def _candidate(self, target: Target) -> Candidate:
        if self.candidates is None:
            self._bind()
        return self.by_key[target.key]

    def _is_plain(self, answer: object) -> None:
        """Remember the class of a plain answer, if all its objects are."""
        if not is_decided_by_class(answer):
            return
        plain_type = type(answer)
        if window.LOCK_FREE:
            self._see_plain(plain_type)
            return
        with runtime.lock:
            self._see_plain(plain_type)

    def _counts_now(self) -> Counts | None:
        return None if self.deps is None else self.deps.counts

    def _look_at_log(self, now: float) -> None:
        """Notice that the level of the log was changed."""
        self._look_again_at(now + (window.REST if self.is_watched else LOOK_AGAIN))
        if isinstance(self._counts_now(), FunctionInFlight) and not runtime.in_flight.is_used:
            runtime.unbind_all()  # nobody chooses by what is in flight any more
            return
        epoch, wanted = runtime.epoch, self._wanted_events()
        if wanted[:2] == (self.is_watched, self.hears_failures):
            return
        with runtime.lock:
            if self.candidates is not None and epoch == runtime.epoch:
                self._publish(self.candidates, *wanted)


def new_id() -> str:
    return runtime.rng.getrandbits(64).to_bytes(8).hex()  # a format costs twice the time
