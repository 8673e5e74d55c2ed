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

from typing import TYPE_CHECKING, Any

from resilient_llm._core.call_needs import safely, words_of
from resilient_llm._core.contents import estimate
from resilient_llm._core.held import conversation_among, record_of
from resilient_llm._values.by_name import ByName
from resilient_llm._values.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["estimate_tokens", "from_messages"]


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
    roles, types and ids are none, and bytes and base64 are not text: a `data:` URL and a text of
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
        named = record_of(arguments) or {}
        conversation = safely(_conversation, self.argument, named, others)
        return frozenset(words_of(conversation, named)[0])

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


def _conversation(argument: str, arguments: Mapping[str, Any], others: tuple[Any, ...]) -> Any:
    """Return the conversation of a call, else its first argument without a name that may be one."""
    if argument in arguments:
        return arguments[argument]
    return conversation_among(others)
