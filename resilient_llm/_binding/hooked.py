"""The hook of a call, as far as its first attempt needs no call flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm._binding.reporting import new_id
from resilient_llm._core.call.hooks import begun
from resilient_llm._runtime.runtime import runtime

if TYPE_CHECKING:
    from resilient_llm._binding.first_attempt import FirstAttempt
    from resilient_llm._core.call.hooks import CallHook
    from resilient_llm._values.target import Target


def begin(first: FirstAttempt, function: str, chain: tuple[Target, ...]) -> None:
    """Begin what is entered and left around a call, if a hook is installed.

    Args:
        first: What is known of the call.
        function: What metrics call its function.
        chain: The targets of its policy, in declared order.
    """
    hooks = runtime.dispatcher.hooks
    if hooks:
        first.call_id = first.call_id or new_id()
        first.hook = begun(hooks, first.call_id, function, chain)


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
