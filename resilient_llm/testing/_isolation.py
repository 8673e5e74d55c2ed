"""Fresh state of the process inside a block, and its events: `isolated`, `capture_events`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, overload

from resilient_llm._api.observing import observe
from resilient_llm._runtime.classify import classify
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.events import Event

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

E = TypeVar("E", bound="Event")


@contextmanager
def isolated() -> Generator[None, None, None]:
    """Use a fresh state inside the block: no benches, counts, observers or settings.

    Process-wide, also for functions decorated at import; the real state is back afterwards.
    Rules that were registered with ``@classify.rule`` stay active inside; those registered
    inside are removed at the end.
    """
    before, rules = runtime.exchange(), classify.rules

    def restore() -> None:
        runtime.exchange(before)
        classify.replace_rules(rules)

    with left_in_order("isolated()", restore):
        yield


_restores: list[Callable[[], None]] = []
"""What ends each ``isolated()`` and ``fake_clock()`` that is entered, the outermost first."""


@contextmanager
def left_in_order(what: str, restore: Callable[[], None]) -> Generator[None, None, None]:
    """Restore at the end what was before; all of it if another block was entered and not left."""
    _restores.append(restore)
    try:
        yield
    finally:
        if _restores and _restores[-1] is restore:
            _restores.pop()
            restore()
        elif any(each is restore for each in _restores):
            while _restores:
                _restores.pop()()
            raise RuntimeError(
                f"{what} was left before a block that was entered later: leave the inner one "
                "first; the state from before all of them is back"
            )


@overload
def capture_events() -> AbstractContextManager[list[Event]]: ...
@overload
def capture_events(*types: type[E]) -> AbstractContextManager[list[E]]: ...
@contextmanager
def capture_events(*types: type[Any]) -> Generator[list[Any], None, None]:
    """Collect the events of these types, of all if none is named, in order, into a list.

    Where many threads emit at once, some events wait until the next one that has the same target;
    what waits when the block ends is in the list then.
    """
    captured: list[Any] = []
    stop = observe(captured.append, *types)
    try:
        yield captured
    finally:
        try:
            _deliver_what_waits()
        finally:
            stop()


def _deliver_what_waits() -> None:
    """Deliver what waits: a call hands over a limited number of the events of other calls."""
    dispatcher = runtime.dispatcher
    of_keys = (circuit.outbox for circuit in runtime.registry.circuits())
    for outbox in (dispatcher.of_process, *of_keys):
        left = len(outbox)
        while left:
            dispatcher.deliver(outbox)
            before, left = left, len(outbox)
            if left >= before:  # another thread is inside an observer
                break
