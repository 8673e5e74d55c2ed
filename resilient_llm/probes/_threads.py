"""The threads of synchronous probes: daemons, a limited number, started when they are needed.

A thread that hangs in a probe cannot be stopped and keeps its place. A thread that is done takes
the next probe of its tick, and ends when there is none.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections import deque

MOST: Final = 64
"""Threads of one `HealthProbe`. Not of the process: probes of one that hang would end another."""


class Job(Protocol):
    """What a thread does."""

    def run(self) -> None: ...


class Threads:
    """Counts the threads of one `HealthProbe`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def serve(self, jobs: deque[Any]) -> int:
        """Start a thread for each of these jobs, as far as there are places; return how many."""
        wanted = len(jobs)
        for started in range(wanted):
            with self._lock:
                if self._count >= MOST:
                    return started
                self._count += 1
            thread = threading.Thread(
                target=self._run, args=(jobs,), name="resilient_llm-probe", daemon=True
            )
            try:
                thread.start()
            except BaseException as error:
                if thread.ident is None:
                    self._ended()
                if not isinstance(error, RuntimeError):
                    raise
                return started  # there are too many, or the interpreter exits
        return wanted

    def _run(self, jobs: deque[Job]) -> None:
        try:
            while True:
                try:
                    job = jobs.popleft()
                except IndexError:
                    return
                job.run()
                del job  # a thread that waits for its end keeps nothing
        finally:
            self._ended()

    def _ended(self) -> None:
        with self._lock:
            self._count -= 1
