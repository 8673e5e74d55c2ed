"""Which rule of a route a call takes, and why it takes none of those before.

A rule matches if all of its conditions hold. What a condition asks for is found out when it is
asked, once per call. What cannot be read is None here, and no condition holds of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from resilient_llm._core.call_needs import words_of
from resilient_llm._core.contents import TOOLS, VISION
from resilient_llm._core.fences import code_share
from resilient_llm._core.user_text import is_readable, user_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient_llm._values.plan import Route, Rule

_LOOKED_AT: Final = 20_000
"""Characters of the text in which ``regex`` searches."""
_UNASKED: Final = object()
"""Stands for a text that was not asked for."""


class Call(Protocol):
    """What the conditions of a route ask of a call, beside its conversation."""

    @property
    def model(self) -> str | None:
        """What the call names its model, or None."""
        ...

    def conversation(self, messages: str | None) -> Conversation:
        """Return the conversation in this argument, or in the first that may have one."""
        ...

    def tokens(self, estimate: Callable[..., Any] | None) -> int | None:
        """Return what a function, or the built-in one, estimates; None if it fails."""
        ...

    def is_true(self, where: tuple[Callable[..., Any], tuple[str, ...]]) -> bool | None:
        """Return what a function says of the call; None if it fails."""
        ...


class Conversation:
    """The conversation of a call, and what conditions ask of it, each found out once."""

    # Defaults of the class, since most calls ask for few of them.
    _text: Any = _UNASKED
    _encoded: bytes | None = None
    _share = -1.0
    _words: set[str] | None = None
    _is_readable: bool | None = None

    def __init__(self, value: object, arguments: dict[str, Any]) -> None:
        """Take the messages, None if there are none, and all arguments by name."""
        self._value = value
        self._arguments = arguments

    @property
    def text(self) -> str | None:
        """The text of the last user message, or None."""
        if self._text is _UNASKED:
            self._text = user_text(self._value)
        return self._text

    @property
    def encoded(self) -> bytes | None:
        """The beginning of that text in UTF-8; half characters are no valid UTF-8 there."""
        if self._encoded is None and (text := self.text) is not None:
            self._encoded = text[:_LOOKED_AT].encode("utf-8", "surrogatepass")
        return self._encoded

    @property
    def share(self) -> float | None:
        """The share of that text in fenced code blocks."""
        if self._share < 0:
            text = self.text
            if text is None:
                return None
            self._share = code_share(text)
        return self._share

    def has(self, word: str) -> bool:
        """Return whether the call is known to need something."""
        words = self._words
        if words is None:
            words, is_whole = words_of(self._value, self._arguments)
            self._words = words
            if not is_whole:
                self._is_readable = False
        return word in words

    def lacks(self, word: str) -> bool:
        """Return whether the call is known not to need something."""
        return not self.has(word) and self.is_readable

    @property
    def is_readable(self) -> bool:
        """Whether all of it can be read."""
        if self._is_readable is None:
            self._is_readable = is_readable(self._value)
        return self._is_readable


def first_rule(route: Route, call: Call) -> int | None:
    """Return the index of the first rule that matches a call, or None."""
    conversation = call.conversation(route.messages)
    for index, rule in enumerate(route.rules):
        for name, operand in rule.tests:
            if not _HOLDS[name](call, conversation, route, operand):
                break
        else:
            return index
    return None


def reasons_before(route: Route, call: Call, end: int | None) -> list[str]:
    """Return why a call takes none of the rules before an index, or none at all; one for each."""
    conversation = call.conversation(route.messages)
    found: list[str] = []
    for rule in route.rules[:end]:
        name = _first_failing(rule, call, conversation, route)
        reason = _REASONS[name](call, conversation, route, rule.conditions[name])
        if name in rule.written:
            reason = f"{name}={rule.written[name]}: {reason.rpartition(': ')[2]}"
        found.append(reason)
    return found


def _first_failing(rule: Rule, call: Call, conversation: Conversation, route: Route) -> str:
    return next(
        (
            name
            for name, operand in rule.tests
            if not _HOLDS[name](call, conversation, route, operand)
        ),
        rule.tests[-1][0],
    )


# Whether each condition holds.


def _model(call: Call, _: Conversation, __: Route, match: Callable[[str], object]) -> bool:
    model = call.model
    return model is not None and match(model) is not None


def _min_tokens(call: Call, conversation: Conversation, route: Route, least: int) -> bool:
    tokens = call.tokens(route.tokens)
    if not tokens and route.tokens is None and not conversation.is_readable:
        return False  # nothing is known of it, not even that it is empty
    return tokens is not None and tokens >= least


def _has_image(_: Call, conversation: Conversation, __: Route, wanted: bool) -> bool:
    return conversation.has(VISION) if wanted else conversation.lacks(VISION)


def _has_tools(_: Call, conversation: Conversation, __: Route, wanted: bool) -> bool:
    return conversation.has(TOOLS) if wanted else conversation.lacks(TOOLS)


def _min_code_share(_: Call, conversation: Conversation, __: Route, least: float) -> bool:
    share = conversation.share
    return share is not None and share >= least


def _contains(_: Call, conversation: Conversation, __: Route, wanted: str) -> bool:
    text = conversation.text
    return text is not None and wanted in text


def _regex(
    _: Call, conversation: Conversation, __: Route, search: Callable[[bytes], object]
) -> bool:
    encoded = conversation.encoded
    return encoded is not None and search(encoded) is not None


def _where(
    call: Call, _: Conversation, __: Route, where: tuple[Callable[..., Any], tuple[str, ...]]
) -> bool:
    return call.is_true(where) is True


_HOLDS: Final[dict[str, Callable[[Any, Conversation, Route, Any], bool]]] = {
    "model": _model,
    "min_tokens": _min_tokens,
    "has_image": _has_image,
    "has_tools": _has_tools,
    "min_code_share": _min_code_share,
    "contains": _contains,
    "regex": _regex,
    "where": _where,
}
"""``{condition: whether it holds, by call, conversation, route and what tests it}``"""


# Why each condition does not hold. No text of the call is in them.

_NO_TEXT: Final = "no text of a user was found"


def _not_the_model(call: Call, _: Conversation, __: Route, glob: str) -> str:
    named = "no model" if call.model is None else "another model"
    return f"model={glob!r}: the call names {named}"


def _too_few_tokens(call: Call, _: Conversation, route: Route, least: int) -> str:
    tokens = call.tokens(route.tokens)
    found = "there is no estimate" if tokens is None else f"the estimate is {tokens}"
    return f"min_tokens={least}: {found}"


def _without(what: str) -> Callable[[Call, Conversation, Route, bool], str]:
    word, name, were = {
        "has_image": (VISION, "image", "was"),
        "has_tools": (TOOLS, "tools", "were"),
    }[what]

    def reason(_: Call, conversation: Conversation, __: Route, wanted: bool) -> str:
        if wanted:
            found = f"no {name} {were} found"
        elif conversation.has(word):
            found = f"{'an ' if word == VISION else ''}{name} {were} found"
        else:
            found = "the conversation cannot be read"
        return f"{what}={wanted}: {found}"

    return reason


def _too_little_code(_: Call, conversation: Conversation, __: Route, least: float) -> str:
    share = conversation.share
    found = _NO_TEXT if share is None else f"the share is {share:.3g}"
    return f"min_code_share={least:g}: {found}"


def _not_in_text(what: str, found: str) -> Callable[[Call, Conversation, Route, str], str]:
    def reason(_: Call, conversation: Conversation, __: Route, ___: str) -> str:
        return f"{what}: {_NO_TEXT if conversation.text is None else found}"

    return reason


def _not_true(call: Call, _: Conversation, __: Route, where: Callable[..., Any]) -> str:
    failed = call.is_true((where, ())) is None
    return f"where: the function {'failed' if failed else 'gave nothing true'}"


_REASONS: Final[dict[str, Callable[[Any, Conversation, Route, Any], str]]] = {
    "model": _not_the_model,
    "min_tokens": _too_few_tokens,
    "has_image": _without("has_image"),
    "has_tools": _without("has_tools"),
    "min_code_share": _too_little_code,
    "contains": _not_in_text("contains", "the text does not contain it"),
    "regex": _not_in_text("regex", "the text does not have it"),
    "where": _not_true,
}
"""``{condition: why it does not hold, by call, conversation, route and its value}``"""
