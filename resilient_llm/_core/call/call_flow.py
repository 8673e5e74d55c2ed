"""The order of the steps of one call, written once for every driver.

A call enters, its targets are put in order, each attempt is guarded by a breaker, a failure
is classified, and then the call retries, benches the target or moves on. Every step is an
event. The flow is a pure generator: it yields what it needs done (`Try`, `Wait`, `Deliver`)
and at last how the call ends (`Done`, `Reraise`, `Raise`). The driver answers each step with
a `Reply`. The flow reads no clock and does no I/O.

This module has the order of targets and attempts. What an outcome means is in `judging`,
whether the same target is tried again in `retrying`, what attempts side by side mean for each
other in `racing`, how a call ends in `ending`, and what a stream adds in `stream_flow`. None of
them imports this module.

Errors are cleared from locals before a step that may raise, so that no prompt stays alive in
a frame that an error refers to.
"""

from __future__ import annotations

import functools
from collections.abc import Generator
from typing import TYPE_CHECKING

from resilient_llm._core.call.asking import ask, may_have_to_ask
from resilient_llm._core.call.ending import (
    dropped,
    emit_call_failed,
    gave_up,
    is_over,
    out_of_time,
    succeeded,
    waited,
)
from resilient_llm._core.call.judging import broke, rejection_of, settled, verdict_of
from resilient_llm._core.call.limiting import after_limits
from resilient_llm._core.call.racing import drop_asked, hedge_beside, race
from resilient_llm._core.call.retrying import permit_after, retry_in
from resilient_llm._core.call.spending import is_shared
from resilient_llm._core.call.steps import GO_ON, Race, Reply, Step, Try, Wait
from resilient_llm._core.call.stream_flow import deliver
from resilient_llm._core.call.trying import attempt_on, hedge_after, limited
from resilient_llm._core.circuit.permit import Permit, block_of
from resilient_llm._core.circuit.state import Block
from resilient_llm._values import event_names
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.kinds import ErrorKind

if TYPE_CHECKING:
    from resilient_llm._core.call.call import Call, Candidate
    from resilient_llm._core.call.steps import FlowPart
    from resilient_llm._values.verdict import Verdict

CallFlow = Generator[Step, Reply, None]

_LOOK_AGAIN = 1.0
"""Seconds after which a waiting call checks whether a bench has ended early."""
_SHORTEST = 0.01
"""Seconds of the shortest of these waits, so that a race for a lease is never a busy loop."""


def call_flow(call: Call, now: float, running: Try | None = None) -> CallFlow:
    """Run one call from its start, or from a first attempt that the healthy path has begun.

    Args:
        call: The call; its candidates are in the order in which they are tried.
        now: Monotonic seconds.
        running: What `running_attempt` returned for such an attempt; it is the first step.
    """
    try:
        if running is not None:
            over, now = yield from _attempts(call, running)
            if over:
                return
        over, now = yield from _each_target(call, now)
        if over:
            return
        if call.limited:
            over, now = yield from after_limits(call, now, _each_target)
            if over:
                return
        if call.attempts == 0:
            over, now = yield from _all_benched(call, now)
        else:
            over, now = yield from _demoted(call, now)
        if over:
            return
        # A wait may take longer than it was to take.
        yield out_of_time(call, now) if is_over(call, now) else gave_up(call, now)
    finally:
        if not call.ends_later:
            call.count_end()


def running_attempt(
    call: Call, candidate: Candidate, permit: Permit, limits: tuple[float | None, bool] | None
) -> Try:
    """Return the first attempt of a call, which the healthy path has begun.

    Args:
        call: The call.
        candidate: The target that is called.
        permit: What admitted the attempt.
        limits: The limit of the attempt, and whether that is the end of the whole deadline, if
            the attempt was begun with one.
    """
    _skip_to(call, candidate, permit.entered_at)
    if limits is None:
        running = limited(call, candidate, permit, call.limit_of(candidate), number=1)
    else:
        running = Try(candidate, 1, permit, limits[0], call.tag, ends_deadline=limits[1])
        running.hedge_after = hedge_after(call, candidate, permit.entered_at)
    running.has_begun = True
    return running


def _skip_to(call: Call, candidate: Candidate, entered_at: float) -> None:
    """Skip the candidates before the one that the healthy path called."""
    while call.untried[0] is not candidate:
        passed = call.untried.pop(0)
        misfit = call.misfit(passed)
        if misfit is not None:
            call.pass_over(passed, misfit, entered_at)
            continue
        # It was blocked then, or the healthy path would have called it.
        block = block_of(passed.circuit, entered_at)
        call.skip(passed, block or Block(passed.target.key, "benched", None), entered_at)
    call.untried.pop(0)


def _each_target(call: Call, now: float, *, last_resort: bool = False) -> FlowPart:
    """Try the untried candidates in order until the call is over."""
    call.makes_last_resorts = last_resort
    while call.untried:
        step = _next_target(call, now, last_resort=last_resort)
        if isinstance(step, _Asking):
            step, now = yield from _asked(call, step, now)
        if step is None:
            continue
        if type(step) is not Try:
            yield step
            return True, now
        over, now = yield from _attempts(call, step, retries=not last_resort)
        if over:
            return True, now
    return False, now


class _Asking:
    """An admitted attempt of which the store has to be asked."""

    __slots__ = ("candidate", "limit", "permit")

    def __init__(self, candidate: Candidate, permit: Permit, limit: float | None) -> None:
        self.candidate = candidate
        self.permit = permit
        self.limit = limit


def _asked(
    call: Call, asking: _Asking, now: float
) -> Generator[Step, Reply, tuple[Step | None, float]]:
    """Return the attempt, how the call ends, or None to skip the target; and what time it is."""
    candidate = asking.candidate
    permit, now = yield from ask(call, candidate, asking.permit, now)
    if permit is not None:
        return _first_on(call, candidate, permit, asking.limit, now), now
    return (out_of_time(call, now) if is_over(call, now) else None), now


def _next_target(call: Call, now: float, *, last_resort: bool) -> Step | _Asking | None:
    """Return the first attempt on the next candidate, or how the call ends; None to skip it."""
    candidate = call.untried.pop(0)
    misfit = call.misfit(candidate)
    if misfit is not None:
        call.pass_over(candidate, misfit, now)
        return None
    if call.attempts == call.options.max_attempts:
        call.pass_over(candidate, "max_attempts", now)
        return None
    if is_over(call, now):
        return out_of_time(call, now)
    limit = call.limit_of(candidate)
    try:
        permit = call.enter(candidate, limit, now, last_resort=last_resort)
    except ConfigurationError:  # of a budget
        emit_call_failed(call, candidate, now, ErrorKind.CALLER_BUG)
        raise
    if permit is None:
        return None
    if may_have_to_ask(permit):
        return _Asking(candidate, permit, limit)
    return _first_on(call, candidate, permit, limit, now)


def _first_on(
    call: Call, candidate: Candidate, permit: Permit, limit: float | None, now: float
) -> Try:
    """Return the first attempt on a candidate."""
    if call.last_failed is not None and call.is_heard(call.last_failed[0], event_names.FailedOver):
        _emit_failed_over(call, *call.last_failed, candidate, now)
    return attempt_on(call, candidate, permit, limit, number=1)


def _emit_failed_over(
    call: Call, previous: Candidate, verdict: Verdict, candidate: Candidate, now: float
) -> None:
    call.emit(
        previous,
        event_names.FailedOver,
        now,
        from_target=previous.target.key,
        to_target=candidate.target.key,
        kind=verdict.kind,
        reason=verdict.reason,
    )


def _attempts(
    call: Call, trial: Try, *, retries: bool = True
) -> FlowPart:  # in the order in which it happens
    """Make attempts on one target until it answers or the call moves on.

    Args:
        call: The call.
        trial: The first attempt.
        retries: Whether the target may be tried again.
    """
    answered: tuple[int, int] | None = None
    reply: Reply | tuple[bool, float] | None = None
    try:
        while True:
            reply = yield trial
            if reply.is_due:
                reply = yield from _beside_others(call, trial, reply)
                if not isinstance(reply, Reply):
                    return reply
            drop_asked(call)
            call.attempts += 1
            now = reply.now
            if reply.error is None:
                verdict = rejection_of(call, trial, reply)
            else:
                verdict = verdict_of(call, trial, reply)
            if verdict is None:
                if reply.stream is None:
                    yield succeeded(call, trial, now, reply.value)
                    return True, now
                delivery, reply = deliver(call, trial, reply, reply.stream), None
                return (yield from delivery)
            step = settled(call, trial, reply, verdict)
            if step is not None:
                reply = None
                call.settled(trial.candidate, now)
                yield step
                return True, now
            if answered is None and verdict.retryable and call.options.attempts > 1:
                answered = trial.permit.answered()
            delay = retry_in(call, trial, reply, verdict, answered) if retries else None
            reply = None
            call.settled(trial.candidate, now)
            if delay is None:
                return False, now
            candidate = trial.candidate
            limit = call.limit_of(candidate)
            again = yield from permit_after(call, candidate, limit, delay, now)
            if not isinstance(again, Permit):
                return False, again
            trial = attempt_on(call, candidate, again, limit, number=trial.number + 1)
    except Exception as error:
        broke(call, trial.candidate, trial, error)
        raise
    finally:
        reply = None
        try:
            drop_asked(call)
        finally:
            dropped(call, trial)


def _beside_others(
    call: Call, trial: Try, reply: Reply
) -> Generator[Step, Reply, Reply | tuple[bool, float]]:
    """Go on with a slow attempt; return what comes of it, or of its race with others."""
    while reply.is_due:
        hedge = hedge_beside(call, trial, call.attempts + 1, reply.now)
        if type(hedge) is Try:
            return (yield from race(call, trial, hedge))
        reply = yield from _slow(trial, GO_ON if hedge is None else hedge)
    return reply


def _slow(trial: Try, step: Race) -> Generator[Step, Reply, Reply]:
    """Go on with a slow attempt that has no other beside it; return what comes of it."""
    reply = yield step
    while reply.is_pending:  # until its manager is entered
        reply = yield trial
    return reply


def _all_benched(call: Call, now: float) -> FlowPart:
    """Every target is benched: try the soonest, wait, or give up, as the policy says."""
    if call.options.when_all_benched == "soonest":
        return (yield from _soonest(call, now))
    if call.options.when_all_benched == "wait":
        return (yield from _wait_for_bench(call, now))
    return False, now


def _soonest(call: Call, now: float) -> FlowPart:
    """Try benched targets in spite of their benches; the one whose bench ends first comes first."""

    def recovers_at(candidate: Candidate) -> float:
        until = call.blocks[candidate.target.key].until
        return float("inf") if until is None else until

    benched = [candidate for candidate in call.candidates if candidate.target.key in call.blocks]
    call.untried = sorted(benched, key=recovers_at)
    last_resorts = functools.partial(_each_target, last_resort=True)
    over, now = yield from last_resorts(call, now)
    if over or call.attempts or not any(each.target.key in call.limited for each in benched):
        return over, now
    return (yield from after_limits(call, now, last_resorts))


def _demoted(call: Call, now: float) -> FlowPart:
    """Try benched targets after the live ones have failed, if the policy says so.

    In the order of the strategy, and those only that the call has not called yet.
    """
    if call.options.on_down != "demote":
        return False, now
    call.untried = call.not_called()
    return (yield from _each_target(call, now, last_resort=True))


def _wait_for_bench(call: Call, now: float) -> FlowPart:
    """Wait until a bench ends, as long as that is soon enough, and try the chain again."""
    give_up_at = now + call.deps.settings.max_wait
    while call.attempts == 0:
        ends = [until for each in call.capable if (until := _ends_at(call, each, now)) is not None]
        soonest = min(ends, default=None)
        if (
            soonest is None
            or soonest > give_up_at
            or (call.deadline is not None and soonest >= call.deadline)
        ):
            break
        reply = yield Wait(min(_LOOK_AGAIN, max(_SHORTEST, soonest - now)))
        now = waited(call, reply)
        if is_over(call, now):
            break
        if soonest > now and not _any_is_live(call, now):
            continue
        call.untried = list(call.candidates)
        over, now = yield from _each_target(call, now)
        if over:
            return True, now
    if call.attempts:
        return (yield from _demoted(call, now))
    return False, now


def _any_is_live(call: Call, now: float) -> bool:
    """Return whether any target of the call could be called now."""
    return any(call.block(candidate, now) is None for candidate in call.capable)


def _ends_at(call: Call, candidate: Candidate, now: float) -> float | None:
    """Return when the target of a candidate is next live; None if that is unknown.

    None, too, for a target that budgets refuse: no call waits for them.
    """
    key = candidate.target.key
    if key in call.without_store or call.budget_block(candidate, now) is not None:
        return None
    if key in call.refusals and is_shared(call.deps.spending):
        return None  # what is known here is older than that answer
    block = block_of(candidate.circuit, now) or call.limit_block(candidate, now)
    return now if block is None else block.until
