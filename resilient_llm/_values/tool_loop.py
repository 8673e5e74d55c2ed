"""`ToolLoop`: when the guard finds that a conversation repeats one tool call, and what it does."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, Final, Literal

from resilient_llm._values import checks as check
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.exported import exported

Action = Literal["off", "warn", "raise"]
ACTIONS: Final = ("off", "warn", "raise")


def _argument(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.isidentifier():
        shown = repr(value) if isinstance(value, str) else type(value).__name__
        raise ConfigurationError(
            f"{name}={shown} is not allowed: write the name of an argument, such as 'messages'"
        )
    return value


@exported
@dataclass(frozen=True, slots=True)
class ToolLoop:
    """Options of ``tool_loop=``, checked when built.

    Attributes:
        action: ``"warn"`` emits `ToolLoopDetected`, and the call goes on; ``"raise"`` emits it and
            raises `ToolLoopError`; ``"off"`` reads nothing.
        repeats: Equal tool calls in a row that are a loop, 2 or more.
        argument: Name of the argument of the decorated function that is the conversation. The
            caller may pass it by position.

    Raises:
        ConfigurationError: If a value is not allowed.
    """

    action: Action = "warn"
    _: KW_ONLY
    repeats: int = 3
    argument: str = "messages"

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "action", check.choice("action", self.action, ACTIONS))
        put(self, "repeats", check.whole("repeats", self.repeats, low=2))
        put(self, "argument", _argument("argument", self.argument))


def checked_tool_loop(name: str, value: Any) -> str | ToolLoop:
    """Return one of the words or a `ToolLoop`, as it was given."""
    if isinstance(value, ToolLoop):
        return value
    return check.choice(name, value, ACTIONS, also="ToolLoop(…)")


_BY_WORD: Final = {"warn": ToolLoop("warn"), "raise": ToolLoop("raise")}


def tool_loop_of(value: str | ToolLoop) -> ToolLoop | None:
    """Return what a value of ``tool_loop=`` stands for; None if nothing is to be read."""
    loop = _BY_WORD.get(value) if isinstance(value, str) else value
    return None if loop is None or loop.action == "off" else loop
