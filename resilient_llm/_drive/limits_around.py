"""Finds the end of the limits around a synchronous wait: of the calls that this code is part of.

An asynchronous wait is cancelled by the limit of a call around it. Nothing cancels a thread, so a
wait inside a synchronous call has to know when the calls around it are over. They do not say so in
advance: most calls wait for nothing, and that would cost each of them more than the rest of its
wrapper. What makes a call is on the stack while its targets run, and it has what is needed: when
the call began, and its limits. So who waits looks there.

A call is not found by code that runs in another thread, or in the block of a loop.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from resilient_llm._core.call.call import Call
from resilient_llm._core.call.outcomes import is_ours
from resilient_llm._core.call.steps import Try
from resilient_llm._runtime.running_call import WRAPPER_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


def ends_around() -> float | None:
    """Return when the first limit of the calls around this one ends; None if there is none.

    Moments are in monotonic seconds. The frames of the call itself come first on the stack. Code
    of a user follows, and only then those of calls around it.
    """
    frame: FrameType | None = sys._getframe(1)
    is_around = is_handed_over = False
    soonest: float | None = None
    while frame is not None:
        is_wrapper = frame.f_code.co_filename.startswith(WRAPPER_FILE)
        if not (is_wrapper or is_ours(frame)):
            is_around, is_handed_over = True, False
        elif is_around and not (is_wrapper and is_handed_over):
            ends = list(
                _of_wrapper(frame)
                if is_wrapper
                else _of_driver(frame.f_locals, by_flow=is_handed_over)
            )
            # A wrapper that has left its call to a `Caller` began a little earlier than that.
            is_handed_over = is_handed_over or bool(ends)
            soonest = min((each for each in (soonest, *ends) if each is not None), default=None)
        frame = frame.f_back
    return soonest


def _of_wrapper(frame: FrameType) -> Iterator[float]:
    """Return when the limits end of a call that its wrapper makes without a `Call`."""
    found = {name.rpartition("_")[2]: value for name, value in frame.f_locals.items()}
    entered, to = found.get("entered"), found.get("to") or found.get("target")
    entry: Any = next(
        (value for name, value in frame.f_globals.items() if name.endswith("_r_entry")), None
    )
    caller = getattr(entry, "__self__", None)
    if caller is None or not isinstance(entered, float):
        return
    key = getattr(getattr(to, "target", to), "key", None)
    for seconds in (caller.options.timeout, caller.limits.get(key)):
        if seconds is not None:
            yield entered + seconds


def _of_driver(found: Any, *, by_flow: bool) -> Iterator[float]:
    """Return when the limits end of which a function of ours tells by its locals.

    Args:
        found: The locals.
        by_flow: Whether a function that it has called makes the attempts.
    """
    call = found.get("call") or getattr(found.get("self"), "_call", None)
    if isinstance(call, Call) and call.deadline is not None:
        yield call.deadline
    step = found.get("step")
    # Not that of an earlier attempt: callers of the driver keep the step that they began with.
    if isinstance(step, Try) and step.limit is not None and not step.permit.is_reported:
        yield step.permit.entered_at + step.limit
    first = found.get("first")
    if first is not None and hasattr(first, "entered_at"):
        # Once there is a call flow, the attempt that was made before it is over.
        for seconds in (first.options.timeout, None if by_flow else first.limit):
            if seconds is not None:
                yield first.entered_at + seconds
