"""Has the ends of benches emitted while nobody calls: for what tells people of benches.

A bench that has run out is noticed by the next call, or by who asks for it, and only then is
`TargetUnbenched` emitted with the reason ``expired``. An exporter that has told somebody of the
bench would never take that back. While one is watching, a thread looks every second.

Owns the watch of each state of the process: who wants it, and the `Background` that does it. The
circuits decide under their locks whether a bench has ended, so it does not matter who looks first.
"""

from __future__ import annotations

import math
from typing import Final

from resilient_llm._runtime.background import Background
from resilient_llm._runtime.runtime import runtime

EVERY: Final = 1.0
"""Seconds between two looks."""


class BenchWatch(Background):
    """Looks for benches that have run out, in one state of the process, while somebody wants it."""

    def __init__(self) -> None:
        super().__init__("benches", self._look, period=EVERY)
        self.wanted_by: dict[object, None] = {}
        self._registry = runtime.registry

    def _look(self, until: float) -> bool:
        """Have every bench that has run out emitted; the work of the thread."""
        interrupt: BaseException | None = None
        if runtime.registry is not self._registry:
            return True  # inside an `isolated()`, which may have another clock
        now = runtime.clock()
        for circuit in list(self._registry.kept.values()):
            if not circuit.has_run_out(now):
                continue
            try:
                circuit.announce_end(now)
            except BaseException as error:  # noqa: BLE001  # an observer's KeyboardInterrupt
                interrupt = interrupt or error
        if interrupt is not None and until != math.inf:  # else it would end the thread
            try:
                raise interrupt
            finally:
                del interrupt  # its traceback refers to this frame
        return True


class Watching:
    """One wish to have the ends of benches emitted. Calling it ends the wish."""

    def __init__(self, watch: BenchWatch) -> None:
        self._watch = watch
        watch.wanted_by[self] = None

    def flush(self, timeout: float = 1.0) -> bool:
        """Emit at once what has ended; by the clock of the process, also ``fake_clock()``.

        Args:
            timeout: Real seconds that it may wait for the thread that is just doing that.

        Returns:
            Whether it was done in time.
        """
        return self._watch.flush(timeout)

    def __call__(self) -> None:
        """End the wish; with the last one the thread ends. A second time does nothing."""
        with runtime.lock:
            self._watch.wanted_by.pop(self, None)
            if not self._watch.wanted_by:
                self._watch.end()


def watch_benches() -> Watching:
    """Have the ends of benches emitted within 2 s, in the present state of the process.

    The watch ends with the last wish for it, or with the state that it belongs to. It costs a look
    at every key each second, and nothing on the path of a call.
    """
    with runtime.lock:
        watch = next((each for each in list(runtime.attached) if _is_running(each)), None)
        if watch is None:
            watch = BenchWatch()
        assert isinstance(watch, BenchWatch)
        watching = Watching(watch)
    watch.start()
    return watching


def _is_running(each: object) -> bool:
    return isinstance(each, BenchWatch) and not each.is_over
