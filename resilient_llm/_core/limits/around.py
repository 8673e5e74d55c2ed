"""Which places the attempts around this code hold.

A call that waits in a queue for a place that its own outer call holds would wait without end. So an
attempt under a limit with a queue is known to the code inside it, also in the tasks and threads
that it starts with a copy of its context: by its permit, or where a wrapper takes its place without
one, by a mark in `holding`.

A task that outlives the attempt that started it is taken for a part of it as long as that runs.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from resilient_llm._core.circuit.permit import open_permits

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient_llm._core.limits.places import Places

_Marks = tuple[list["Places"], ...]

_holding: ContextVar[_Marks] = ContextVar("resilient_llm_holding", default=())


class Holding:
    """The marks of attempts around this code whose wrappers have taken their places.

    Each has the `Places`, or nothing once its attempt is over. A wrapper reads it, and may be sent
    to another process by value, as cloudpickle does; a context variable may not.
    """

    __slots__ = ("get", "set")

    get: Callable[[], _Marks]
    set: Callable[[_Marks], object]

    def __init__(self) -> None:
        self.get = _holding.get
        self.set = _holding.set

    def __reduce__(self) -> str:
        return "holding"


holding: Final = Holding()
"""The only one."""


def holds_all(places: Places) -> bool:
    """Return whether attempts around this code hold all places of a limit."""
    held = sum(mark[:1] == [places] for mark in holding.get())
    for permit in open_permits.get():
        if permit.held is not None:
            held += sum(each.holds_one_of(places) for each in permit.held.places)
    return held >= places.limit
