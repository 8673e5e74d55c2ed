"""How a call goes on after its first attempt: what the call flow says, and how that is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm._binding.first_attempt import PendingCall
from resilient_llm._core.call.judging import broke
from resilient_llm._core.call.steps import Reraise, Try
from resilient_llm._drive.results import is_awaitable, kind_of

if TYPE_CHECKING:
    from resilient_llm._core.call.call import Call
    from resilient_llm._core.call.call_flow import CallFlow
    from resilient_llm._core.call.steps import Reply, Step


def goes_on(result: Any) -> bool:
    """Return whether a result is awaited, iterated or entered before it is an answer."""
    return is_awaitable(result) or kind_of(result) is not None


def judge_raised(call: Call, flow: CallFlow, step: Step, error: BaseException) -> None:
    """End a call whose ``reject`` raised, after an attempt that answered."""
    assert type(step) is Try
    call.attempts += 1
    broke(call, step.candidate, step, error)
    flow.close()
    call.clear()


def pending_call(call: Call, flow: CallFlow, reply: Reply) -> PendingCall | None:
    """Return how a call goes on after a reply; None if the error of the reply leaves it."""
    step = sent(call, flow, reply)
    if type(step) is Reraise:
        flow.close()
        call.clear()
        return None
    return PendingCall(call, flow, step)


def sent(call: Call, flow: CallFlow, reply: Reply) -> Step:
    """Send a reply to a call flow, inside the hook of the call; return what it asks for."""
    hook = call.hook
    if hook is None:
        return flow.send(reply)
    token = hook.enter()
    try:
        return flow.send(reply)
    except BaseException:
        hook.over()
        raise
    finally:
        hook.leave(token)
