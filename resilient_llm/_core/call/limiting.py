"""After limits have refused every live target of a call: in which line it waits, and for how long.

A call waits for a limit only if no target is live and its policy does not raise at once. It stands
in one line at a time: that of the target whose turn comes first. A limit that names no moment, a
queue for places, counts as soonest, since its turn may come with any end of another attempt. A
target that becomes live meanwhile, as at the end of its bench, is called instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm._core.call.ending import is_over, waited
from resilient_llm._core.call.steps import Wait
from resilient_llm._core.circuit.state import FOREVER
from resilient_llm._core.limits.around import holds_all

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from resilient_llm._core.call.call import Call, Candidate
    from resilient_llm._core.call.steps import FlowPart, Reply, Step
    from resilient_llm._core.limits.held import LimitBlock, Ticket

_SHORTEST: Final = 0.01
"""Seconds of the shortest wait for another target than that of the line."""


def after_limits(call: Call, now: float, each_target: Callable[..., FlowPart]) -> FlowPart:
    """Wait for limits that refused targets of a call, and try these.

    Args:
        call: The call; no target of it is live.
        now: Monotonic seconds.
        each_target: Tries the untried candidates in order.
    """
    if call.options.when_all_benched == "raise":
        return False, now
    give_up_at = now + call.deps.settings.max_wait
    given_up: set[str] = set()
    while not is_over(call, now) and call.attempts != call.options.max_attempts:
        waits = [each for each in call.waits_at_limits() if each.target.key not in given_up]
        chosen = _soonest(call, waits, now, give_up_at)
        if chosen is None:
            break
        candidate, block, end = chosen
        key = candidate.target.key
        assert block.ticket is not None
        ticket = block.ticket()
        try:
            if not ticket.enqueue():
                given_up.add(key)
                continue
            now = yield from _turn(call, candidate, ticket, now, end)
            call.untried = _uncalled(call)
            if ticket.has_come:
                call.tickets[key] = ticket
                call.untried.remove(candidate)
                call.untried.insert(0, candidate)
            elif now >= end:
                given_up.add(key)
            over, now = yield from each_target(call, now)
            if over:
                return True, now
        finally:
            call.tickets.pop(key, None)
            if not ticket.is_used:
                ticket.give_back()
    return False, now


def _uncalled(call: Call) -> list[Candidate]:
    """Return the candidates on which this call has made no attempt, in its order."""
    keys = {each.target.key for each in (*call.waits_at_limits(), *call.not_called())}
    return [each for each in call.candidates if each.target.key in keys]


def _soonest(
    call: Call, waits: list[Candidate], now: float, give_up_at: float
) -> tuple[Candidate, LimitBlock, float] | None:
    """Return whom to wait for, why it refused, and until when to wait at most."""
    found: list[tuple[float, Candidate, LimitBlock, float]] = []
    deadline = FOREVER if call.deadline is None else call.deadline
    for candidate in waits:
        block = call.limited[candidate.target.key]
        if block.ticket is None:
            continue
        if block.places is not None and holds_all(block.places):  # they would never be freed
            continue
        if block.until is None:
            end = deadline if block.longest is None else min(deadline, now + block.longest)
            found.append((now, candidate, block, end))
        elif block.until <= give_up_at and block.until < deadline:
            found.append((block.until, candidate, block, min(deadline, give_up_at)))
    if not found:
        return None
    _, candidate, block, end = min(found, key=lambda each: each[0])
    return candidate, block, end


def _turn(
    call: Call, candidate: Candidate, ticket: Ticket, now: float, end: float
) -> Generator[Step, Reply, float]:
    """Wait until the turn of a ticket has come, another target is live, or it takes too long."""
    others = [each for each in _uncalled(call) if each is not candidate]
    while True:
        seconds = ticket.wait(now)
        if ticket.has_come or ticket.is_void or now >= end:
            return now
        blocks = (call.block(each, now) for each in others)
        ends = [each.until - now for each in blocks if each is not None and each.until is not None]
        reply = yield Wait(
            min(seconds, end - now, max(_SHORTEST, min(ends, default=FOREVER))), ticket
        )
        now = waited(call, reply)
        if is_over(call, now):
            return now
        if not ticket.has_come and any(call.block(each, now) is None for each in others):
            return now
