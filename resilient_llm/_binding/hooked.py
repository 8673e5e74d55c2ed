"""The first attempt of a call that has a hook: what is done after it, inside the hook of the call.

Without a hook `Caller` does all this by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm._core.call.judging import fault_of
from resilient_llm._core.call.steps import NO_ANSWER

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient_llm._binding.first_attempt import FirstAttempt
    from resilient_llm._core.call.call import Call
    from resilient_llm._core.call.call_flow import CallFlow
    from resilient_llm._core.call.hooks import CallHook
    from resilient_llm._core.call.steps import Reply, Step
    from resilient_llm._values.verdict import Verdict


def judged(
    hook: CallHook,
    first: FirstAttempt,
    ended_at: float,
    result: Any,
    reject: Callable[[Any], object] | None,
    report: Callable[..., None],
) -> Verdict | None:
    """Report a plain answer, and end the call; return why it is rejected instead, if it is.

    Args:
        hook: The hook of the call.
        first: The attempt that gave the answer.
        ended_at: When it did, monotonic seconds.
        result: The answer, or ``NO_ANSWER`` if it is not known.
        reject: The function of the policy, if it has one.
        report: Reports it to its circuit and to observers.
    """
    is_known = result is not NO_ANSWER
    if is_known and first.inside is not None:
        first.inside.answered(result)
    entered = hook.enter()
    try:
        if reject is not None and is_known and (said := reject(result)):
            verdict = fault_of(said)
            if verdict is not None:
                return verdict
        report(first.generation, first.entered_at, ended_at, first.candidate.target, first)
    except BaseException:
        hook.over()
        raise
    finally:
        hook.leave(entered)
    hook.over()
    return None


def sent(call: Call, flow: CallFlow, reply: Reply) -> Step:
    """Send a reply to a call flow, inside the hook of the call; return what it asks for."""
    hook = call.hook
    if hook is None:
        return flow.send(reply)
    entered = hook.enter()
    try:
        return flow.send(reply)
    except BaseException:
        hook.over()
        raise
    finally:
        hook.leave(entered)
