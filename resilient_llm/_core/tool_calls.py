"""The tool calls in which a conversation ends: how often one was made in a row.

Reads conversations as openai (chat and responses), anthropic and google-genai take them, as dicts
or as objects of the SDKs, from their end. The shapes were read from the types of openai 3.57,
anthropic 2.14 and google-genai 3.6 (November 2026). Results of tools, texts and thoughts stand
between tool calls and end no row. What may be a tool call and cannot be read ends it: a loop is
never found by guessing.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from resilient_llm._core.equal_arguments import Arguments, Budget, UnreadableError
from resilient_llm._core.held import (
    first,
    is_bare,
    is_filled,
    is_given,
    items_of,
    record_of,
    text_of,
    word_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST: Final = 1_000_000
"""Messages, parts, calls and values of arguments that are read of one conversation."""
DEEPEST: Final = 8
"""Lists of messages and parts within each other."""

_LISTS: Final = (list, tuple, deque)
_MESSAGE: Final = ("content", "parts", "role", "text", "tool_calls", "function_call")
"""Names of which an object that is a message, or a part of one, holds one at least."""
_CALL: Final = ("function", "custom", "name")
"""The same for a tool call."""
_RESULTS: Final = ("_output", "tool_result")
"""How the types of results end."""
_CALLS: Final = ("_call", "tool_use")
"""How the types of tool calls end, those included of which only the name of the type is known."""
_OTHERS: Final = frozenset({"compaction", "item_reference", "program"})
"""Types of what stands for tool calls, or makes some, and does not show them."""
_UNREAD: Final = ("tool_call", "toolCall", "executable_code", "executableCode")
"""Parts of google-genai that call what the provider runs itself."""
_OF_PART: Final = ("function_call", "functionCall")
"""Where a part of google-genai, and a message of the older chat format, holds its tool call."""
_WITH_PARTS: Final = ("content", "parts")
_ARGUMENTS: Final = ("arguments", "args", "input")
_MEANT: Final = frozenset({"type", "tool_calls", *_UNREAD, *_OF_PART, *_WITH_PARTS})
"""All fields of messages and parts that are looked at."""
_PARTIAL: Final = ("partial_args", "partialArgs")
"""Arguments of which the rest is in other parts."""


class Row(NamedTuple):
    """Equal tool calls in a row."""

    tool: str
    repeats: int


def last_row(conversation: object) -> Row | None:
    """Return the equal tool calls in which a conversation ends; None if none can be read.

    Runs no code of what it reads, and never raises. An iterator is not read.

    Args:
        conversation: A list of messages, or a message.
    """
    tool, repeats, latest = "", 0, None
    budget = Budget(MOST)
    try:
        for name, arguments in _calls_in(conversation, budget):
            if latest is None:
                latest = Arguments(arguments, budget)
                tool = name
            elif name != tool or not latest.equal(arguments):
                break
            repeats += 1
    except Exception:  # noqa: BLE001, S110  # unreadable, too deep, or changed meanwhile
        pass
    return Row(tool, repeats) if repeats else None


def _calls_in(conversation: object, budget: Budget) -> Iterator[tuple[str, object]]:
    """Give the tool calls of a conversation, the latest first: ``(name, arguments)``.

    Raises:
        UnreadableError: If what comes next may be a tool call, and cannot be read.
    """
    unread: list[list[Any]] = [[conversation]]
    while unread:
        if not unread[-1]:
            unread.pop()
            continue
        budget.spend(1)
        value = unread[-1].pop()
        cls: Any = type(value)  # pyright: ignore[reportUnknownVariableType]  # of anything
        if cls is dict:
            if _is_plain(value):
                continue
        elif issubclass(cls, _LISTS):
            if len(unread) > DEEPEST:
                raise UnreadableError
            unread.append(_items(value, budget))
            continue
        elif issubclass(cls, str):
            continue
        record = record_of(value, _MESSAGE)
        if record is None:
            raise UnreadableError
        calls, inner = _found_in(record, budget)
        while calls:
            budget.spend(1)
            yield _call(calls.pop())
        if inner is not None:
            unread.append([inner])


def _is_plain(record: dict[Any, Any]) -> bool:
    """Return whether a message or a part is a text and nothing else, as nearly all are."""
    for name, value in record.items():
        if type(name) is not str:
            return False
        if name in _MEANT and not (
            type(value) is str and (name == "content" or (name == "type" and value == "text"))
        ):
            return False
    return True


def _items(value: Any, budget: Budget) -> list[Any]:
    found = items_of(value, budget.values + 1)
    assert found is not None
    return found[0]


def _found_in(record: dict[str, Any], budget: Budget) -> tuple[list[Any], object]:
    """Return the tool calls that a message, a part or an item holds, and what may hold more.

    Raises:
        UnreadableError: If it may hold one that is not shown.
    """
    kind = record.get("type")
    word = "" if kind is None else word_of(kind)
    if word.endswith(_RESULTS):
        return [], None
    if word.endswith(_CALLS):
        return [record], None
    if word in _OTHERS or first(record, *_UNREAD) is not None:
        raise UnreadableError
    calls = record.get("tool_calls")
    if calls is not None and is_filled(calls):
        # Frameworks repeat these in the content, in the provider's own format.
        if not issubclass(type(calls), _LISTS):
            raise UnreadableError
        return _items(calls, budget), None
    called = first(record, *_OF_PART)
    if called is not None:
        return [_Part(called)], None
    inner: object = first(record, *_WITH_PARTS)
    return [], None if is_bare(type(inner)) else inner


class _Part:
    """The tool call of a part, which may lack a field for its arguments if it has none."""

    __slots__ = ("call",)

    def __init__(self, call: object) -> None:
        self.call = call


def _call(value: object) -> tuple[str, object]:
    """Return the name of a tool call and its arguments, which are an empty object if it has none.

    Raises:
        UnreadableError: If it is not in a known format.
    """
    is_part = type(value) is _Part
    record = record_of(value.call if is_part else value, _CALL)
    if record is not None:
        inner = record.get("function")
        if inner is None:
            inner = record.get("custom")
        if inner is not None:
            record = record_of(inner, _CALL)
    if record is None or any(record.get(each) is not None for each in _PARTIAL):
        raise UnreadableError
    name = record.get("name")
    for field in _ARGUMENTS:
        if field in record:
            arguments = record[field]
            break
    else:
        if not is_part:
            raise UnreadableError
        arguments = None
    if not issubclass(type(name), str):
        raise UnreadableError
    return text_of(name), {} if arguments is None or not is_given(arguments) else arguments
