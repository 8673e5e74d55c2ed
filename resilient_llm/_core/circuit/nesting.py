"""Guards of one key that are inside each other, so that a success counts once per key.

Theory of operation. A guard that registered itself in the context when it is entered would be
known to the guards inside it. That costs as much as an empty function, which a healthy call
cannot spend. But whether guards are nested is a property of the program: it is found out by
looking at some calls. While a circuit looks, its ``slot`` is None, so that every call asks for a
`Permit`, and the permits are put into the calls' contexts. That ends when the first few of these
calls have ended, unless a permit has found another around it: then the circuits of both go on
that way for good, and each success is counted by the innermost guard alone.

A circuit looks when it is new, so a program that nests guards from the start counts exactly from
its first call on. A provider looks again once in a window, together with its targets, since a
program may come to nest guards later. What is nested between two looks is counted twice until
the next one.
"""

from __future__ import annotations

from typing import Final

_CALLS: Final = 16
"""Calls whose end a look waits for, if they begin before it is over."""
OWN_KEY: Final = 1
PROVIDER: Final = 2


class Look:
    """One look at the calls of a circuit. Needs no lock: each change is one statement."""

    __slots__ = ("_left", "_running", "ends_at")

    def __init__(self, ends_at: float) -> None:
        self.ends_at = ends_at
        """When the look ends in any case, in monotonic seconds: a permit may get lost."""
        self._left = _CALLS
        self._running = 0

    def begin_one(self) -> bool:
        """Return whether the look waits for the end of one more call."""
        if self._left <= 0:
            return False
        self._running += 1  # first, so that the look is not over in between
        self._left -= 1
        return True

    def end_one(self) -> None:
        """Note the end of a call that the look waits for; finalisers call it, too."""
        self._running -= 1

    def is_over(self, now: float) -> bool:
        """Return whether the calls that it waits for have ended, and there was one."""
        return (self._running <= 0 and self._left < _CALLS) or now >= self.ends_at


class Nesting:
    """What a permit knows of guards around it and inside it."""

    __slots__ = ("_around", "_looks", "counted_inside")

    def __init__(self, around: list[tuple[Nesting, int]], looks: list[Look]) -> None:
        self._around = around
        self._looks = looks
        self.counted_inside = 0
        """Whether guards inside counted a success for the own key, and for its provider."""

    def end(self) -> None:
        """Note that the guard was left."""
        looks = self._looks
        while looks:
            looks.pop().end_one()

    def counted(self) -> None:
        """Tell the guards around that this one has counted a success."""
        for nesting, what in self._around:
            nesting.counted_inside |= what
