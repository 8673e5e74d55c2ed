"""The next target of a call after a first attempt that failed, without a call flow.

Most failures are classified, charged and left behind: no observer listens, there is nothing to wait
for, and the next target is healthy. That needs no `Call`. If the next target does not simply
answer, the call flow goes on from there, with its attempt running and the failure on record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm._core.call.call_flow import call_flow
from resilient_llm._core.call.judging import is_harmful
from resilient_llm._core.call.steps import Try
from resilient_llm._core.circuit.permit import Permit, admit, is_new, permit_of_inlined
from resilient_llm._values.kinds import ErrorKind

if TYPE_CHECKING:
    from resilient_llm._binding.first_attempt import FirstAttempt
    from resilient_llm._core.call.call import Call
    from resilient_llm._core.call.call_flow import CallFlow
    from resilient_llm._core.call.steps import Step
    from resilient_llm._core.circuit.outbox import CallTag
    from resilient_llm._core.circuit.window import Generation
    from resilient_llm._values.policy import Options
    from resilient_llm._values.verdict import Verdict

_ENDS_CALL = frozenset({ErrorKind.CANCELLED, ErrorKind.CALLER_BUG, ErrorKind.UNKNOWN})
"""Kinds that may end the call, or of which an event is emitted in any case."""
_MAY_END_CALL = frozenset({"content_policy", "context_length_exceeded"})
"""Reasons of a request's own fault for which a policy has options of their own."""


class SecondAttempt:
    """A call whose first attempt failed and was charged, and that moves on to its second target.

    Attributes:
        first: What is known of the call and its first attempt.
        candidate: The second target.
        permit: What admits the attempt on it; None if the call flow has to look for a target.
        tag: Names the call in events.
    """

    __slots__ = ("_charged", "_error", "_now", "_verdict", "candidate", "first", "permit", "tag")

    def __init__(
        self, first: FirstAttempt, error: BaseException, now: float, verdict: Verdict, tag: CallTag
    ) -> None:
        self.first = first
        self.candidate = first.candidates[1]
        self.permit: Permit | None = None
        self.tag = tag
        self._charged: Permit | None = None
        """The permit of the first attempt, if its error does not say yet that it was charged."""
        self._error: BaseException | None = error
        self._now = now
        self._verdict = verdict

    def charge_first(self, generation: Generation) -> None:
        """Charge the failure of the first attempt; admit the attempt on the second target.

        As `judging.charge` does, for a failure that no observer listens to.

        Args:
            generation: What admitted the first attempt.
        """
        first, error, now = self.first, self._error, self._now
        deps, target = first.deps, first.candidate.target
        assert deps is not None
        assert error is not None
        charged = permit_of_inlined(first.candidate.circuit, generation, first.entered_at)
        noted: BaseException | None = error
        if is_new(error):  # no caller sees it if the second target answers
            self._charged, noted = charged, None
        charged.failed(noted, now, self._verdict, cooldown=first.options.cooldown, tag=self.tag)
        if deps.figures is not None:
            deps.figures.failed(target.key, now, harms=is_harmful(self._verdict))
        deps.budgets.first_attempt_failed(target.provider_key, now)
        deps.notice(target.provider_key, error)
        if deps.hear is not None:
            deps.hear(error, target.key, first.entered_at, None)
        if self.candidate.circuit.slot is None or self.candidate.limits is not None:
            return
        permit = admit(self.candidate.circuit, now)
        if isinstance(permit, Permit):
            if permit.matters_inside:
                permit.abandoned()
            else:
                self.permit = permit

    def answered(self, ended_at: float) -> float:
        """Count the answer of the second target; return the seconds that it took."""
        self._error = None
        permit = self.permit
        assert permit is not None
        took = ended_at - permit.entered_at
        permit.succeeded(ended_at, took, cooldown=self.first.options.cooldown, tag=self.tag)
        deps = self.first.deps
        if deps is not None and deps.figures is not None:
            deps.figures.answered(self.candidate.target.key, ended_at, took)
        return took

    def flow(self, call: Call) -> tuple[CallFlow, Step]:
        """Return the call flow that goes on from here, and what it asks for.

        Args:
            call: The call that was begun with the first attempt.
        """
        error, now, verdict = self._error, self._now, self._verdict
        assert isinstance(error, Exception)
        if self._charged is not None:
            self._charged.note(error, now, verdict)
        self._error = self._charged = None
        call.tag = self.tag
        call.attempts = 1
        failed = call.untried.pop(0)
        call.record(failed, 1, now - self.first.entered_at, error, verdict)
        call.last_failed = (failed, verdict)
        running = None
        if self.permit is not None:
            call.untried.pop(0)
            limit = call.limit_of(self.candidate)
            running = Try(self.candidate, 1, self.permit, limit, self.tag, ends_deadline=False)
            running.has_begun = True
        flow = call_flow(call, now, running)
        return flow, next(flow)


def needs_no_flow(options: Options, verdict: Verdict) -> bool:
    """Return whether a policy moves on after such a failure, without more ado.

    Args:
        options: The options of the policy; those that `OptionsEffect.is_simple` excludes are not
            looked at.
        verdict: What the error of a first attempt means.
    """
    kind = verdict.kind
    if kind in _ENDS_CALL:
        return False
    if kind is ErrorKind.REQUEST_SPECIFIC:
        return options.on_request_error == "next" and verdict.reason not in _MAY_END_CALL
    if kind is ErrorKind.RATE_LIMITED:
        return options.attempts == 1
    return not verdict.retry_after and (options.attempts == 1 or not verdict.retryable)
