"""The next target of a call after a first attempt that failed, without a call flow.

Most failures are classified, charged and left behind: nobody listens, there is nothing to wait
for, and the next target is healthy. That needs no `Call`. If the next target does not simply
answer, the call flow goes on from there, with its attempt running and the failure on record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm._core.call.call_flow import call_flow
from resilient_llm._core.call.steps import Try
from resilient_llm._core.circuit.outbox import CallTag
from resilient_llm._core.circuit.permit import Permit, admit, permit_of_inlined
from resilient_llm._values.kinds import ErrorKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient_llm._binding.first_attempt import FirstAttempt
    from resilient_llm._core.call.call import Call, Candidate
    from resilient_llm._core.call.call_flow import CallFlow
    from resilient_llm._core.circuit.window import Generation
    from resilient_llm._values.policy import Options
    from resilient_llm._values.verdict import Verdict

_ENDS_CALL = frozenset({ErrorKind.CANCELLED, ErrorKind.CALLER_BUG, ErrorKind.UNKNOWN})
"""Kinds that may end the call, or of which an event is emitted in any case."""
_MAY_END_CALL = frozenset({"content_policy", "context_length_exceeded"})
"""Reasons of a request's own fault for which a policy has options of their own."""


class SecondAttempt:
    """A call whose first attempt failed, and that is at its second target.

    Attributes:
        first: What is known of the call and its first attempt.
        candidate: The target that is called next.
        permit: What admits that attempt.
        tag: Names the call in events.
    """

    __slots__ = ("_error", "_now", "_verdict", "candidate", "first", "permit", "tag")

    def __init__(
        self,
        first: FirstAttempt,
        error: BaseException,
        now: float,
        verdict: Verdict,
        permit: Permit,
        tag: CallTag,
    ) -> None:
        self.first = first
        self.candidate = first.candidates[1]
        self.permit = permit
        self.tag = tag
        self._error: BaseException | None = error
        self._now = now
        self._verdict = verdict

    def answered(self, ended_at: float) -> None:
        """Count the answer of the second target."""
        self._error = None
        self.permit.succeeded(
            ended_at,
            ended_at - self.permit.entered_at,
            cooldown=self.first.options.cooldown,
            tag=self.tag,
        )

    def flow(self, call: Call) -> tuple[CallFlow, Try]:
        """Return the call flow that goes on from here, and its running attempt.

        Args:
            call: The call that was begun with the first attempt.
        """
        _put_on_record(call, self.first, self._error, self._now, self._verdict, self.tag)
        self._error = None
        call.untried.pop(0)
        limit = call.limit_of(self.candidate)
        running = Try(self.candidate, 1, self.permit, limit, self.tag, ends_deadline=False)
        flow = call_flow(call, self._now, running)
        next(flow)
        return flow, running


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


def charge_first(
    first: FirstAttempt,
    generation: Generation,
    error: BaseException,
    now: float,
    verdict: Verdict,
    new_id: Callable[[], str],
) -> tuple[CallTag, Permit | None]:
    """Charge the failure of a first attempt; admit the attempt on the next target.

    As `judging.charge` does, for a failure that nobody listens to.

    Returns:
        What names the call in events, and the permit; None if the call flow has to look for the
        next target.
    """
    candidate, options, deps = first.candidate, first.options, first.deps
    assert deps is not None
    tag = CallTag(new_id, options.observers)
    permit = permit_of_inlined(candidate.circuit, generation, first.entered_at)
    permit.failed(error, now, verdict, cooldown=options.cooldown, tag=tag)
    key = candidate.target.provider_key
    deps.budgets.first_attempt_failed(key, now)
    deps.notice(key, error)
    following = first.candidates[1].circuit
    if following.slot is None:
        return tag, None
    admitted = admit(following, now)
    if not isinstance(admitted, Permit):
        return tag, None
    if admitted.leases:
        admitted.abandoned()
        return tag, None
    return tag, admitted


def flow_of_next(
    call: Call,
    first: FirstAttempt,
    error: BaseException,
    now: float,
    verdict: Verdict,
    tag: CallTag,
) -> CallFlow:
    """Return the call flow of a call whose first attempt failed and was charged."""
    _put_on_record(call, first, error, now, verdict, tag)
    return call_flow(call, now)


def _put_on_record(
    call: Call,
    first: FirstAttempt,
    error: BaseException | None,
    now: float,
    verdict: Verdict,
    tag: CallTag,
) -> None:
    """Let a call know of its first attempt what the call flow would have kept."""
    assert isinstance(error, Exception)
    candidate: Candidate = call.untried.pop(0)
    call.tag = tag
    call.attempts = 1
    call.record(candidate, 1, now - first.entered_at, error, verdict)
    call.last_failed = (candidate, verdict)
