"""After a failed attempt: the same target again, after what wait, or on to the next one.

A wait that the provider named overrules the backoff. A retry needs attempts left, time until
the deadline, a breaker that lets it pass and a share of the retry budget, in this order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm._core.backoff import default_backoff
from resilient_llm._core.call.asking import ask, may_have_to_ask
from resilient_llm._core.call.ending import is_over, waited
from resilient_llm._core.call.steps import Wait
from resilient_llm._core.circuit.permit import block_of
from resilient_llm._core.circuit.window import Generation
from resilient_llm._core.retry_budget import SPAN
from resilient_llm._values import event_names
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.settings import LONGEST_TO_RETRY, RATE_LIMIT_PAUSE

if TYPE_CHECKING:
    from collections.abc import Generator

    from resilient_llm._core.call.call import Call, Candidate
    from resilient_llm._core.call.steps import Reply, Step, Try
    from resilient_llm._core.circuit.permit import Permit
    from resilient_llm._values.verdict import Verdict

_EARLY = 0.05
"""Seconds by which a timer may fire too early without the call giving its target up."""


def retry_in(
    call: Call, trial: Try, reply: Reply, verdict: Verdict, answered: tuple[int, int] | None
) -> float | None:
    """Return the seconds until the next attempt on this target, or None to move on.

    Args:
        call: The call.
        trial: The attempt that failed.
        reply: What came of it.
        verdict: What its error means.
        answered: What `Permit.answered` returned after the first failure that may be retried.
    """
    now = reply.now
    rate_limited = verdict.kind is ErrorKind.RATE_LIMITED
    hint = verdict.retry_after if verdict.retry_after else None
    if not verdict.retryable and not (
        rate_limited and hint and _is_only_long(verdict.reason, hint)
    ):
        return None
    if trial.number >= call.options.attempts or call.attempts == call.options.max_attempts:
        stopped_by = "attempts"
    elif (rate_limited or hint or verdict.reason == "timeout") and call.other_is_live(now):
        stopped_by = "hint" if hint and not rate_limited else ""
    else:
        delay, source = _delay(call, trial, reply, verdict, hint)
        asked = bool(rate_limited or hint)
        stopped_by = _too_long(call, delay, now, asked=asked)
        if not stopped_by and _is_shut(trial.candidate, now, delay if asked else None):
            return None  # a breaker that opened ends the retries
        if not stopped_by and is_paid_for(call, trial.candidate, now):
            call.emit(
                trial.candidate,
                event_names.RetryScheduled,
                now,
                number=trial.number + 1,
                delay=delay,
                source=source,
            )
            return delay
        stopped_by = stopped_by or "budget"
    if stopped_by and call.options.attempts > 1:
        call.emit(trial.candidate, event_names.RetryStopped, now, reason=stopped_by)
    if stopped_by == "attempts" and answered is not None:
        _used_up(call, trial, now, verdict, answered)
    if hint and not rate_limited and stopped_by in ("attempts", "hint"):
        _pause(call, trial, now, verdict)
    return None


def permit_after(
    call: Call, candidate: Candidate, limit: float | None, delay: float, now: float
) -> Generator[Step, Reply, Permit | float]:
    """Wait, then ask the breaker again; return the permit, or what time it is without one.

    There is no permit either if the deadline has passed meanwhile.
    """
    end = now + delay
    while True:
        reply = yield Wait(max(0.0, end - now))
        now = waited(call, reply)
        if is_over(call, now):
            return now
        block = call.block(candidate, now)
        if (
            block is None
            or block.until is None
            or block.until - now > _EARLY
            or block.until <= end - delay
            or (call.deadline is not None and block.until >= call.deadline)
        ):
            break
        end = block.until
    permit = call.enter(candidate, limit, now)
    if permit is not None and may_have_to_ask(permit):
        permit, now = yield from ask(call, candidate, permit, now)
    key = candidate.target.key
    if permit is None and any(
        key in each for each in (call.limited, call.refusals, call.without_store)
    ):
        call.emit(candidate, event_names.RetryStopped, now, reason="limit")
    return now if permit is None else permit


def _delay(
    call: Call, trial: Try, reply: Reply, verdict: Verdict, hint: float | None
) -> tuple[float, str]:
    """Return the wait before the next attempt in seconds, and what it comes from."""
    if hint is not None:
        return hint, "hint"
    if verdict.kind is ErrorKind.RATE_LIMITED and verdict.retry_after is None:
        return RATE_LIMIT_PAUSE, "hint"
    return _backoff(call, trial, reply), "backoff"


def _backoff(call: Call, trial: Try, reply: Reply) -> float:
    """Return the policy's wait; the default one if its function raises, as for a wrong result."""
    deps = call.deps
    try:
        return deps.backoff(trial.number, reply.error, deps.rng)
    except Exception as failure:  # noqa: BLE001  # an outage is no time for a user's mistake to leave
        call.report_failure(trial.candidate, deps.backoff, failure, reply.now)
    return default_backoff(trial.number, None, deps.rng)


def _is_only_long(reason: str, hint: float) -> bool:
    """Return whether its long wait is the only reason why a rate limit is not retryable.

    Then the policy's own limit of waits decides.
    """
    return hint > LONGEST_TO_RETRY and reason != "quota_window"


def _too_long(call: Call, delay: float, now: float, *, asked: bool) -> str:
    """Return why a wait does not fit, or nothing; ``asked`` if the provider named it."""
    left = call.remaining(now)
    if asked and (delay > call.deps.settings.max_wait or (left is not None and delay >= left)):
        return "hint"
    return "deadline" if left is not None and delay >= left else ""


def _is_shut(candidate: Candidate, now: float, asked: float | None) -> bool:
    """Return whether a target will still be benched after the wait.

    Args:
        candidate: The target.
        now: Monotonic seconds.
        asked: Seconds of a wait that the provider asked for; None for a backoff.
    """
    block = block_of(candidate.circuit, now)
    if block is None:
        return False
    return asked is None or block.until is None or block.until - now > asked + _EARLY


def is_paid_for(call: Call, candidate: Candidate, now: float) -> bool:
    """Charge one extra attempt to the budget of a provider; return False if that is spent."""
    provider = candidate.circuit.provider or candidate.circuit
    share = call.deps.settings.retry_budget
    return call.deps.budgets.take(
        candidate.target.provider_key, now, share, provider.first_attempts(now, SPAN)
    )


def _used_up(
    call: Call, trial: Try, now: float, verdict: Verdict, answered: tuple[int, int]
) -> None:
    """Report to the circuit that one call used up its attempts on it."""
    number = trial.number
    if not 2 <= number >= call.options.attempts or not verdict.harms_health:
        return
    charged, admission = trial.permit.charged(verdict)
    before = answered[0] if charged is trial.candidate.circuit else answered[1]
    if isinstance(admission, Generation):
        charged.exhausted(
            admission, now, verdict, number, before, cooldown=call.options.cooldown, tag=call.tag
        )


def _pause(call: Call, trial: Try, now: float, verdict: Verdict) -> None:
    """Bench a target for the wait that an error named though it was no rate limit."""
    charged, admission = trial.permit.charged(verdict)
    if isinstance(admission, Generation):
        charged.pause(admission, now, verdict, call.tag)
