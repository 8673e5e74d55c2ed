"""What the readers of usages share: a count of tokens, read strictly, and a `Usage` made of counts.

A count is a whole number, which some SDKs have as a float. What is negative, a truth value, a text
or far too large counts as absent.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, Final, cast

from resilient_llm._values.usage import MOST_TOKENS, usage_of_checked
from resilient_llm.answers._reading import extras, inside

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from resilient_llm._values.usage import Usage

_NOTHING: Final[dict[str, Any]] = {}
_DEEPEST: Final = 2
"""Records in records that are put together."""


def count(record: Mapping[str, Any], *names: str) -> int | None:
    """Return the first of these counts that a record has, or None."""
    for name in names:
        value = _count(record.get(name))
        if value is not None:
            return value
    return None


def _count(value: Any) -> int | None:
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else None


def part(record: Mapping[str, Any], holder: str, *names: str) -> int:
    """Return a count out of a record inside a record, 0 if it is absent."""
    found = record.get(holder)
    return 0 if found is None else count(held(found), *names) or 0


def held(thing: object) -> dict[str, Any]:
    """Return all that a thing holds by name, with the fields that a model does not declare."""
    if thing is None:
        return _NOTHING
    kind = type(thing)
    more = _NOTHING if kind is dict else extras(thing)
    return {**more, **inside(thing)} if more else inside(thing)


def usage(
    sent: int | None,
    received: int | None,
    *,
    cached: int = 0,
    cache_write: int = 0,
    reasoning: int = 0,
) -> Usage | None:
    """Return a usage whose input has the cached tokens and whose output has the reasoning.

    Where a part is larger than the whole, the provider counts it besides, whatever it documents;
    then it is added, so that nothing is booked below the bill.

    Args:
        sent: Tokens of the request; None if nothing was told of them, which is no usage.
        received: Tokens of the answer; None if nothing was told, which is none.
        cached: Of the request, read from a cache.
        cache_write: Of the request, written to a cache.
        reasoning: Of the answer.
    """
    if sent is None:
        return None
    received = received or 0
    if cached + cache_write > sent:
        sent += cached + cache_write
    if reasoning > received:
        received += reasoning
    if sent > MOST_TOKENS or received > MOST_TOKENS:
        return None
    return usage_of_checked(sent, received, cached, cache_write, reasoning)


def take_larger(found: dict[str, Any], record: Mapping[str, Any]) -> None:
    """Put a later record of a stream into what was found before: of each count the larger one.

    Such counts are of the stream so far and never become less, but some servers write zeros in a
    later record, or leave counts out.
    """
    _combine(found, record, max, _DEEPEST)


def add_up(found: dict[str, Any], record: Mapping[str, Any]) -> None:
    """Put a record whose counts are of one part of a stream into what the others came to."""
    _combine(found, record, operator.add, _DEEPEST)


def _combine(
    found: dict[str, Any],
    record: Mapping[str, Any],
    combine: Callable[[int, int], int],
    depth: int,
) -> None:
    """Combine counts one by one; a list replaces an earlier one, and nonsense replaces nothing."""
    for name, value in record.items():
        if value is None or type(value) in (str, bool):
            continue
        known = found.get(name)
        if type(value) in (int, float):
            one, other = _count(known), _count(value)
            if one is not None and other is not None:
                found[name] = combine(one, other)
            elif known is None or other is not None:
                found[name] = value
        elif type(value) is list:
            if value or known is None:
                found[name] = cast("list[Any]", value)
        elif depth and (inner := held(value)):
            below = found[name] = dict(held(known))
            _combine(below, inner, combine, depth - 1)
