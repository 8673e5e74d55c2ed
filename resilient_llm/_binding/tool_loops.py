"""Asks the guard of ``tool_loop=`` about the calls of one function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm._binding.call_arguments import CallArguments, may_take, parameters_of
from resilient_llm._core.held import by_name, conversation_among
from resilient_llm._core.tool_calls import last_row
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.tool_loop import tool_loop_of
from resilient_llm.guards import ToolLoopGuard

if TYPE_CHECKING:
    from resilient_llm._binding.injection import Injection
    from resilient_llm._values.policy import Options
    from resilient_llm._values.tool_loop import ToolLoop
    from resilient_llm.guards import FoundLoop


class ToolLoops:
    """Finds the calls of one function whose conversation repeats one tool call."""

    __slots__ = ("_argument", "_arguments", "_guard")

    def __init__(self, loop: ToolLoop, injection: Injection) -> None:
        self._argument = loop.argument
        self._arguments = CallArguments(injection)
        self._guard = ToolLoopGuard(loop, last_row)

    def of_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> FoundLoop | None:
        """Return the loop in which the conversation of a call ends, or None; never raises.

        Args:
            args: As the caller passed them.
            kwargs: The same, without those that pin the call to a target.
        """
        arguments, argument = self._arguments, self._argument
        args = arguments.own(args)
        passed = arguments.passed(argument, args, by_name(kwargs))
        if passed:
            return self._guard.look(passed[0])
        if argument in arguments.defaults:
            return self._guard.look(arguments.defaults[argument])
        return self._guard.look(conversation_among(arguments.nameless(args)))


def has_conversation(value: str | ToolLoop, injection: Injection) -> bool:
    """Return whether calls of a function may have what a value of ``tool_loop`` reads."""
    loop = tool_loop_of(value)
    return loop is None or (
        not injection.is_loop and may_take(parameters_of(injection), loop.argument)
    )


def check_tool_loop(options: Options, injection: Injection) -> None:
    """Refuse a function whose calls have no conversation that the guard could read.

    Args:
        options: Of the policy, which names the guard if they have one.
        injection: How the function takes its target.

    Raises:
        ConfigurationError: If the policy names the guard, and it would find nothing.
    """
    loop = tool_loop_of(options.tool_loop)
    if loop is None or has_conversation(loop, injection):
        return
    if injection.is_loop:
        raise ConfigurationError(
            "tool_loop reads an argument of the call, and a loop has none: decorate a function, "
            "or write tool_loop='off'"
        )
    raise ConfigurationError(
        f"tool_loop reads the argument {loop.argument!r}, which {injection.called} does not take: "
        "name the one that is the conversation, as in tool_loop=ToolLoop(argument='contents')"
    )
