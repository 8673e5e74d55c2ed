"""What a call needs of a model: the words that its conversation and its other arguments give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from resilient_llm._core.contents import JSON_SCHEMA, THINKING, TOOLS, Contents, plain_characters
from resilient_llm._core.held import held, is_bare, is_filled, is_given, record_of, word_of

if TYPE_CHECKING:
    from collections.abc import Callable

_SCHEMAS: Final = (
    "response_schema",
    "responseSchema",
    "response_json_schema",
    "responseJsonSchema",
)
_THINKING: Final = ("thinking_config", "thinkingConfig")
_INSTRUCTION: Final = ("system_instruction", "systemInstruction")
_BUDGET: Final = ("thinking_budget", "thinkingBudget")
_WITHOUT: Final = frozenset({"disabled", "false", "none", "off"})
"""Words that switch thinking off."""


def words_of(conversation: object, arguments: dict[str, Any]) -> tuple[set[str], bool]:
    """Return what a call needs, and whether no part of the conversation was left out as too much.

    Never raises.

    Args:
        conversation: Its messages; None if there are none.
        arguments: ``{name: value}`` of all of its arguments.
    """
    contents = Contents()
    is_whole = True
    if plain_characters(conversation) < 0:  # not just texts
        contents.add_conversation(conversation)
        is_whole = contents.has_room
    if _OPTIONS.keys().isdisjoint(arguments):
        return contents.words, is_whole
    for name, value in arguments.items():
        read = _OPTIONS.get(name)
        if read is not None and value is not None:
            safely(read, contents, value)
    return contents.words, is_whole


def safely(read: Callable[..., Any], *given: Any) -> Any:
    """Return what a function reads; None if that cannot be read, as what changes meanwhile."""
    try:
        return read(*given)
    except Exception:  # noqa: BLE001  # as just said
        return None


# What a call may ask for beside its conversation.


def _read_tools(contents: Contents, value: object) -> None:
    if is_filled(value):
        contents.words.add(TOOLS)


def _read_format(contents: Contents, value: object) -> None:
    if _is_schema(value):
        contents.words.add(JSON_SCHEMA)


def _read_text(contents: Contents, value: object) -> None:
    _read_format(contents, held(value, "format"))


def _read_thinking(contents: Contents, value: object) -> None:
    if _thinks(value):
        contents.words.add(THINKING)


def _read_config(contents: Contents, value: object) -> None:
    """Read the config of google-genai."""
    _read_tools(contents, held(value, "tools"))
    if held(value, *_SCHEMAS) is not None:
        contents.words.add(JSON_SCHEMA)
    asked = held(value, *_THINKING)
    budget: object = held(asked, *_BUDGET)
    if not (is_bare(type(budget)) and budget == 0):
        _read_thinking(contents, asked)
    contents.add_conversation(held(value, *_INSTRUCTION))


def _is_schema(wanted: object) -> bool:
    """Return whether the format of an answer is a schema: a class, or what is called one."""
    if wanted is None or not is_given(wanted):
        return False
    return (
        issubclass(type(wanted), type)
        or word_of(held(wanted, "type")) == "json_schema"
        or held(wanted, "schema", "json_schema") is not None
    )


def _thinks(wanted: object) -> bool:
    """Return whether an option asks a model to think."""
    if wanted is None or wanted is False or not is_given(wanted):
        return False
    if issubclass(type(wanted), str):
        return word_of(wanted).lower() not in _WITHOUT
    said = {name: value for name, value in (record_of(wanted) or {}).items() if value is not None}
    if said.get("enabled") is False or (len(said) == 1 and said.get("include_thoughts") is False):
        return False
    words = [word_of(said[name]).lower() for name in ("type", "effort") if name in said]
    return wanted is True or (bool(said) and not any(word in _WITHOUT for word in words))


_OPTIONS: Final[dict[str, Callable[[Contents, Any], None]]] = {
    "tools": _read_tools,
    "functions": _read_tools,
    "response_format": _read_format,
    "text_format": _read_format,
    "output_format": _read_format,
    "text": _read_text,
    "output_config": _read_text,
    "thinking": _read_thinking,
    "reasoning": _read_thinking,
    "reasoning_effort": _read_thinking,
    "config": _read_config,
}
"""``{argument: function that reads it}``"""
