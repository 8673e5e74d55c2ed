"""Finds the call that runs on this thread if it began before calls carried their names.

The first use of `call_id` may be inside a call, as where a function imports it. Whatever makes that
call is on the stack then. Most of it knows the name of the call already. The wrapper's own frame
does not: it is given a number here, and what it calls afterwards takes it.

Owns these numbers. There is one for a call that asked while calls without names were running, and
for no later one.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

WRAPPER_FILE: Final = "<failover wrapper of "
"""How the file name of generated code begins. Keep in sync with _binding/wrapper_code.py."""
_OURS: Final = ("resilient_llm._binding.", "resilient_llm._drive.")
_MOST: Final = 1_000
"""Numbers that are kept; most calls need theirs no more, and do not say so."""

numbers: Final[dict[tuple[int, float], int]] = {}
"""``{(id of a wrapper's frame, when its attempt began): number of its call}``."""


def taken(entered_at: float) -> int | None:
    """Return the number that the calling wrapper's call was given here, or None."""
    return numbers.pop((id(sys._getframe(3)), entered_at), None)  # of: call_ids, the caller


def find(next_number: Callable[[], int], name_of: Callable[[int], str]) -> str | None:
    """Return the name of the innermost call on this stack, or None.

    Args:
        next_number: Returns the number of a new call.
        name_of: Returns the name that a number stands for.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith(WRAPPER_FILE):
            return name_of(_number_of(frame, next_number))
        module = frame.f_globals.get("__name__")
        if isinstance(module, str) and module.startswith(_OURS):
            name = _name_in(frame.f_locals, next_number, name_of)
            if name is not None:
                return name
        frame = frame.f_back
    return None


def _number_of(frame: FrameType, next_number: Callable[[], int]) -> int:
    """Return the number of the call that a wrapper makes; it is given one if it has none."""
    found = {name.rpartition("_")[2]: value for name, value in frame.f_locals.items()}
    if isinstance(found.get("number"), int):
        return found["number"]
    if len(numbers) >= _MOST:
        numbers.clear()
    return numbers.setdefault((id(frame), found.get("entered", 0.0)), next_number())


def _name_in(
    found: Any, next_number: Callable[[], int], name_of: Callable[[int], str]
) -> str | None:
    """Return the name of the call that a function of ours is making, by its locals."""
    for each in (
        found.get("call"),
        found.get("pending"),
        getattr(found.get("self"), "_call", None),
    ):
        tag = getattr(each, "tag", None)
        if tag is not None:
            return tag.call_id
    first = found.get("first")
    if first is None or not hasattr(first, "entered_at"):
        return None
    first.call_id = first.call_id or name_of(next_number())
    return first.call_id
