"""Runs what may hang for a bounded time."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def within(seconds: float, work: Callable[[], T]) -> T:
    """Return what the function returns, or raise what it raises, within the time.

    A timeout of a socket bounds neither the lookup of a name nor a server that sends a byte from
    time to time, so the function runs in a thread, which is left behind when the time is over.

    Raises:
        TimeoutError: If it takes longer.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001  # raised again below
            errors.append(error)

    thread = threading.Thread(target=run, name="resilient-llm-command", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors.pop()
    if not results:
        raise TimeoutError
    return results[0]
