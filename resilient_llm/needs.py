"""What a call needs of a model, read from its arguments: for ``needs=`` and ``tokens=``.

    @failover(
        chain=[Target("groq/llama", supports=("tools",)), "openai/gpt-5-mini"],
        needs=needs.from_messages(),
        tokens=needs.estimate_tokens(),
    )
    def ask(target: Target, messages: list[dict]) -> str: ...

Both look at what the arguments hold, and run none of their code. They never raise and keep nothing
of a call. Conversations are read as openai (chat and responses), anthropic and google-genai take
them, as dicts or as objects of the SDKs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from resilient_llm._core.contents import JSON_SCHEMA, THINKING, TOOLS, Contents, estimate
from resilient_llm._core.held import (
    conversation_among,
    held,
    is_bare,
    is_filled,
    is_given,
    record_of,
    word_of,
)
from resilient_llm._values.by_name import ByName
from resilient_llm._values.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["estimate_tokens", "from_messages"]

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


def from_messages(argument: str = "messages") -> FromMessages:
    """Return what ``needs=`` takes to find out what each call needs.

    It finds ``tools``, ``vision`` (pictures and films), ``audio``, ``documents``, ``json_schema``
    and ``thinking`` in the conversation and in the arguments ``tools``, ``functions``,
    ``response_format``, ``text``, ``thinking``, ``reasoning`` and the ``config`` of google-genai.
    A conversation in which a tool was called needs ``tools`` as well.

    Examples:
        >>> words = from_messages()
        >>> picture = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}
        >>> sorted(words(messages=[{"role": "user", "content": [picture]}], tools=[]))
        ['vision']

    Args:
        argument: Name of the argument of the decorated function that is the conversation. The
            caller may pass it by position.

    Raises:
        ConfigurationError: If that is not a name.
    """
    return FromMessages(argument)


def estimate_tokens() -> EstimateTokens:
    """Return what ``tokens=`` takes to estimate the input of each call.

    The estimate is the characters of all contents divided by 4, rounded up, plus 800 for each
    image, audio and document. Contents are texts, arguments and results of tools, and schemas;
    roles, types and ids are none, and bytes and base64 are no text: a `data:` URL and a text of
    at least 1,000 characters that is nothing but base64 count as an attachment, 800.

    Texts count whole, whatever their size. Of the JSON of a call 200,000 values are read; a call
    with more of them is estimated from a sample. Of an argument that holds more than a million
    messages, parts and fields, the last ones are read, and the rest of a list counts alike. What is
    nested in more than 32 others is left out.

    Examples:
        >>> estimate_tokens()("Why is the sky blue?")
        5
    """
    return EstimateTokens()


class FromMessages(ByName[frozenset[str]]):
    """Finds out what a call needs; made by `from_messages`."""

    __slots__ = ("argument",)

    def __init__(self, argument: str) -> None:
        given: Any = argument
        if not isinstance(given, str) or not given.isidentifier():
            shown = repr(given) if isinstance(given, str) else type(given).__name__
            raise ConfigurationError(
                f"from_messages({shown}): expected the name of an argument, such as 'messages'"
            )
        self.argument = argument

    def of_arguments(self, arguments: Mapping[str, Any], others: tuple[Any, ...]) -> frozenset[str]:
        """Return the words for a call; never raises."""
        contents, named = Contents(), record_of(arguments) or {}
        contents.add_conversation(_safely(_conversation, self.argument, named, others))
        for name, value in named.items():
            read = _OPTIONS.get(name)
            if read is not None and value is not None:
                _safely(read, contents, value)
        return frozenset(contents.words)

    def __repr__(self) -> str:
        return f"from_messages({self.argument!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return from_messages, (self.argument,)


class EstimateTokens(ByName[int]):
    """Estimates the input of a call in tokens; made by `estimate_tokens`."""

    __slots__ = ()

    def of_arguments(self, arguments: Mapping[str, Any], others: tuple[Any, ...]) -> int:
        """Return the estimate for a call; never raises."""
        return estimate(arguments, others)

    def __repr__(self) -> str:
        return "estimate_tokens()"

    def __reduce__(self) -> tuple[Any, ...]:
        return estimate_tokens, ()


def _safely(read: Callable[..., Any], *given: Any) -> Any:
    """Return what a function reads; None if that cannot be read, as what changes meanwhile."""
    try:
        return read(*given)
    except Exception:  # noqa: BLE001  # as just said
        return None


def _conversation(argument: str, arguments: Mapping[str, Any], others: tuple[Any, ...]) -> Any:
    """Return the conversation of a call, else its first argument without a name that may be one."""
    if argument in arguments:
        return arguments[argument]
    return conversation_among(others)


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
