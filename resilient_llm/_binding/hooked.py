"""The first attempt of a call that has a hook: what is done after it, inside the hook of the call.

Without a hook `Caller` does all this by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resilient_llm._binding.first_attempt import FirstAttempt
    from resilient_llm._core.call.call import Call
    from resilient_llm._core.call.call_flow import CallFlow
    from resilient_llm._core.call.hooks import CallHook
    from resilient_llm._core.call.steps import Reply, Step


def entered(first: FirstAttempt, answer: object) -> tuple[CallHook, Any]:
    """Enter the hook of a call for the judgement of a plain answer; return what `left` needs."""
    assert first.hook is not None
    if first.inside is not None:
        first.inside.answered(answer)
    return first.hook, first.hook.enter()


def left(entered: tuple[CallHook, Any]) -> None:
    """Leave the hook of a call that `entered` has entered."""
    hook, token = entered
    hook.leave(token)


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
