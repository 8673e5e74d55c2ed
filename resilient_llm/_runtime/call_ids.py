"""Which call this code belongs to: the variable behind `call_id`, and whether calls carry it.

Owns both. Calls carry their names only once somebody has asked for the function, so a process that
never does pays nothing. From then on a call that the wrapper makes by itself carries a number, and
its name is computed from that by whoever asks, or when an event needs it: to make a name takes
longer than everything else that the wrapper does.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._runtime.runtime import runtime

if TYPE_CHECKING:
    from collections.abc import Callable

Entered = Token["int | str | None"]
"""What `leave` takes back."""

_current: ContextVar[int | str | None] = ContextVar("resilient_llm_call", default=None)
"""The innermost call around this code: its name, or the number that stands for it; or None."""


class Switch:
    """Whether calls carry their names."""

    __slots__ = ("is_on",)

    def __init__(self) -> None:
        self.is_on = False


switch: Final = Switch()


def switch_on() -> None:
    """Have the calls that start from now on carry their names."""
    if not switch.is_on:
        switch.is_on = True
        runtime.unbind_all()  # the wrappers are given other code when they are bound


def switch_off() -> None:
    """Undo `switch_on`; for tests."""
    switch.is_on = False
    runtime.unbind_all()


def call_id() -> str | None:
    """Return the name of the innermost call around this code, or None outside of calls.

    It is the ``call_id`` of the events and of the `Trace` of that call. Known in the function, in
    ``reject`` and strategies, in the body of a stream, in the block of a loop, and in the tasks
    and threads that are started there with the context. Between the items of a stream its consumer
    is outside of the call.

        extra_headers={"X-Request-ID": call_id()}
    """
    current = _current.get()
    if isinstance(current, int):
        return current.to_bytes(8).hex()
    return _unnamed() if current is None else current


def _unnamed() -> str | None:
    """Return the name of a call around this code that does not carry it; else None."""
    from resilient_llm._runtime import running_call

    switch_on()
    return running_call.find(call_numbers.next, id_of)


def taken(entered_at: float) -> int | None:
    """Return the number of the wrapper's call, if it was asked for before the wrapper had one."""
    found: Any = sys.modules.get("resilient_llm._runtime.running_call")
    return found.taken(entered_at) if found is not None and found.numbers else None


def id_of(number: int) -> str:
    """Return the name of the call with this number."""
    return number.to_bytes(8).hex()


def enter(name: str) -> Entered:
    """Begin code that belongs to a call."""
    return _current.set(name)


def leave(entered: Entered) -> None:
    """End code that belongs to a call, also in another context than the one it began in."""
    try:
        _current.reset(entered)
    except ValueError:  # that context is left already, or goes on elsewhere
        pass


def _numbers() -> Callable[[], int]:
    """Return what counts up from a random number, so that no two processes have one in common."""
    return itertools.count(random.Random().getrandbits(62)).__next__


class CallNumbers:
    """What a wrapper does with numbers of calls; pickled by its name, as wrappers refer to it.

    Attributes:
        next: Returns the number of a new call.
        set: Begins a call of a number; returns what ends it.
        reset: Ends a call, in the context in which it began.
        leave: Ends a call, in whatever context.
    """

    # Attributes, and not methods: a call of what is written in C takes a third of the time.
    __slots__ = ("leave", "next", "reset", "set")

    def __init__(self) -> None:
        self.next = _numbers()
        self.set = _current.set
        self.reset = _current.reset
        self.leave = leave

    def __reduce__(self) -> str:
        return "call_numbers"


call_numbers: Final = CallNumbers()


def _after_fork() -> None:
    call_numbers.next = _numbers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
