"""Whether the arguments of tool calls are equal: as JSON, whatever the order of keys.

Arguments are a text that should be JSON, as openai has them, or what is sent as JSON, as anthropic
and google-genai have them. Both are turned into a *form* of built-in objects, which Python compares
without running foreign code. What makes no form is *unreadable*.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

from resilient_llm._core.held import items_of, pairs_of, record_of, text_of

if TYPE_CHECKING:
    import json

LONGEST_JSON: Final = 64 * 1024
"""Bytes of the longest text that is read as JSON, in UTF-8."""
MOST_JSON: Final = 4 * 1024 * 1024
"""Characters of such texts that are read for one conversation."""
DEEPEST: Final = 64
"""Lists and objects within each other; what is nested deeper is unreadable."""

# No form contains tuples otherwise. To Python, True is 1, and NaN is not even equal to itself.
_TRUE: Final = ("true",)
_FALSE: Final = ("false",)
_NAN: Final = ("nan",)


class UnreadableError(Exception):
    """Something cannot be read without running its code, or is too much to read."""


class Budget:
    """How much may still be read of one conversation.

    Attributes:
        values: Messages, parts, calls, and values in their arguments.
        json: Characters of texts that are read as JSON.
    """

    __slots__ = ("json", "values")

    def __init__(self, values: int) -> None:
        self.values = values
        self.json = MOST_JSON

    def spend(self, values: int) -> None:
        """Take so many values.

        Raises:
            UnreadableError: If there are not as many left.
        """
        self.values -= values
        if self.values < 0:
            raise UnreadableError


class Arguments:
    """The arguments of one tool call, with which those of others are compared."""

    __slots__ = ("_budget", "_form", "_given", "_text")

    def __init__(self, given: object, budget: Budget) -> None:
        """Take a text, or what is sent as JSON.

        Raises:
            UnreadableError: If it is neither.
        """
        self._given = given
        self._budget = budget
        self._text = _text(given)
        self._form = None if self._text is not None else _form(given, budget, 0)
        """Of a text not before it is needed."""

    def equal(self, other: object) -> bool:
        """Return whether others are equal: as texts, or both as JSON.

        Raises:
            Exception: If one of the two cannot be read as JSON, and they are no equal texts.
        """
        if other is self._given:
            return True
        text = _text(other)
        if text is None:
            form = _form(other, self._budget, 0)
        elif text == self._text:
            return True
        else:
            form = _form_of_json(text, self._budget)
        if self._form is None:
            assert self._text is not None
            self._form = _form_of_json(self._text, self._budget)
        return bool(form == self._form)


def _text(value: object) -> str | None:
    return text_of(value) if issubclass(type(value), str) else None


def _form_of_json(text: str, budget: Budget) -> Any:
    budget.json -= len(text)
    if budget.json < 0 or _is_long(text):
        raise UnreadableError
    return _form(_decoder().decode(text), budget, 0)


def _is_long(text: str) -> bool:
    if len(text) > LONGEST_JSON:
        return True
    return not text.isascii() and len(text.encode("utf-8", "surrogatepass")) > LONGEST_JSON


@functools.cache
def _decoder() -> json.JSONDecoder:
    import json  # most conversations never need it

    return json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse, parse_float=_finite)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):  # parsers differ in which of the values counts
        raise UnreadableError
    return found


def _refuse(_: str) -> NoReturn:
    """Refuse NaN and the like, which Python reads although they are not JSON."""
    raise UnreadableError


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):  # or all numbers that are too large would be equal
        raise UnreadableError
    return number


def _form(value: Any, budget: Budget, depth: int) -> Any:
    """Return the form of what is sent as JSON."""
    cls: Any = type(value)  # pyright: ignore[reportUnknownVariableType]  # of anything
    if cls is str or value is None:
        return value
    if cls is bool:
        return _TRUE if value else _FALSE
    if issubclass(cls, int):
        return int.__pos__(value)
    if issubclass(cls, float):
        return _NAN if math.isnan(number := float.__pos__(value)) else number
    if issubclass(cls, str):
        return text_of(value)
    if depth >= DEEPEST:
        raise UnreadableError
    return _form_of_inner(value, cls, budget, depth + 1)


def _form_of_inner(value: object, cls: type, budget: Budget, depth: int) -> Any:
    if issubclass(cls, (list, tuple)):
        found = items_of(value, budget.values + 1)
        assert found is not None
        budget.spend(len(found[0]) + 1)
        return [_form(each, budget, depth) for each in found[0]]
    pairs = pairs_of(value, budget.values + 1)
    if pairs is None:
        record = record_of(value)
        if record is None:
            raise UnreadableError
        pairs = cast("list[tuple[Any, Any]]", list(record.items()))
    budget.spend(len(pairs) + 1)
    form: dict[str, Any] = {}
    for key, each in pairs:
        if not issubclass(type(key), str):
            raise UnreadableError
        form[text_of(key)] = _form(each, budget, depth)
    if len(form) != len(pairs):
        raise UnreadableError
    return form
