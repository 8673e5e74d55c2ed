"""One tick: every key is probed once, all side by side, and each result is reported as it comes.

Owns the results of the tick. What runs and what was warned of outlasts a tick, in `Runs`.

*Begins*  A key is skipped if a call has just succeeded, or if a probe of it is running that is not
          overdue. One that is overdue, which no tick can end, gives another ``timeout``.
*Ends*    When there is a result for each key, after ``timeout`` seconds, or when its loop is
          stopped. What runs then in a task is cancelled, and what runs in a thread is left alone.
          A probe that had to wait for a thread, or for an event loop that was blocked, and had
          less time than that, is no timeout.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from resilient_llm._core.health_probe import BROKEN, TIMED_OUT, judge_error, judge_value
from resilient_llm._drive.tasks import waker
from resilient_llm._runtime.background import is_exiting
from resilient_llm._runtime.classify import classify
from resilient_llm._runtime.probing import LastProbe, begin, has_traffic, note_last
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.built_in import class_name
from resilient_llm.probes._http import StatusError
from resilient_llm.probes._job import Job
from resilient_llm.probes._result import LATE, RUNNING, THREADS, TRAFFIC, ProbeResult, skipped
from resilient_llm.probes._threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from resilient_llm._core.health_probe import Judgement
    from resilient_llm._runtime.probing import Begun
    from resilient_llm._runtime.registry import Registry
    from resilient_llm.probes._job import Probe
    from resilient_llm.probes._waiting import Waiter


_MOMENT: Final = 0.1
"""Real seconds that a tick waits for what it has cancelled."""


class Options(NamedTuple):
    """The options of a `HealthProbe`, checked."""

    probes: Mapping[str, Probe]
    asynchronous: frozenset[str]
    """Keys whose probe is an asynchronous function."""
    interval: float
    timeout: float
    jitter: float
    answers: bool

    @property
    def confirms(self) -> float:
        """Seconds until the next tick is over, at most."""
        return self.interval * (1.0 + self.jitter) + self.timeout


class Runs:
    """What runs, of one `HealthProbe`, over all its ticks; a forked child has new ones."""

    def __init__(self) -> None:
        self.running: dict[str, Job] = {}
        """``{key: the run that has not ended}``; changed by single operations, without a lock."""
        self.threads = Threads()
        self.warned: set[str] = set()
        """Keys of which a warning says that their probe is broken."""


class Tick:
    """One tick, in one event loop."""

    def __init__(
        self,
        options: Options,
        runs: Runs,
        registry: Registry,
        waiter: Waiter,
        tasks: set[Job],
    ) -> None:
        """Prepare a tick.

        Args:
            options: What is probed, and how.
            runs: What runs already.
            registry: The circuits that it is about.
            waiter: Waits for its end; woken also when one of the tasks has ended.
            tasks: Where its jobs are that have not ended and run in a task.
        """
        import anyio

        anyio.Event()  # loads what anyio needs in this event loop, not in the time of the probes

        self.registry = registry
        self.soon: Callable[[Callable[[], object]], object] = waker()
        self._options = options
        self._runs = runs
        self._waiter = waiter
        self._tasks = tasks
        self._jobs: list[Job] = []
        self._results: dict[str, ProbeResult] = {}

    async def run(self, is_stopped: Callable[[], bool]) -> dict[str, ProbeResult]:
        """Probe every key; return ``{key: result}``, of those that have one if it was stopped."""
        options = self._options
        until = runtime.clock() + options.timeout
        for_threads: deque[Job] = deque()
        is_complete = False
        try:
            for key, probe in options.probes.items():
                self._begin(key, probe, for_threads)
            prompt = list(for_threads)
            for job in prompt[: self._runs.threads.serve(for_threads)]:
                job.is_prompt = True
            await self._waiter.until(
                lambda: len(self._results) == len(options.probes) or is_stopped(),
                until,
                options.timeout,
            )
            is_complete = not is_stopped()
        finally:
            self._end(for_threads, is_complete=is_complete)
        if not self._tasks.isdisjoint(self._jobs):
            # A cancelled probe is given a moment, so that the next tick does not find it hanging.
            clock = runtime.system_clock
            await self._waiter.until(
                lambda: is_stopped() or self._tasks.isdisjoint(self._jobs),
                clock.monotonic() + _MOMENT,
                _MOMENT,
                clock,
            )
        return {key: self._results[key] for key in options.probes if key in self._results}

    def _begin(self, key: str, probe: Probe, for_threads: deque[Job]) -> None:
        running = self._runs.running
        if has_traffic(key, self.registry, self._options.interval):
            self._put(key, skipped(TRAFFIC))
            return
        job = Job(key, probe, self)
        earlier = running.setdefault(key, job)
        if earlier is not job and earlier.is_lost:
            running[key] = earlier = job
        if earlier is not job:
            self._go_on(key, earlier)
            return
        self._jobs.append(job)
        if key not in self._options.asynchronous:
            for_threads.append(job)
            return
        job.is_prompt = True
        job.spawn()

    def _go_on(self, key: str, earlier: Job) -> None:
        """Give the result of a key whose earlier probe has not ended."""
        begun, now = earlier.begun, runtime.clock()
        if begun is None or not (earlier.is_hung or now - begun.at >= self._options.timeout):
            self._put(key, skipped(RUNNING))
            return
        earlier.is_hung = True
        # It is seen now that it hangs, whatever was the state when it began to.
        self._conclude(begin(key, self.registry), TIMED_OUT, None, now - begun.at)

    def _end(self, for_threads: deque[Job], *, is_complete: bool) -> None:
        """End what runs; a tick that was not stopped has a result for each key."""
        for_threads.clear()
        interrupt: BaseException | None = None
        for job in self._jobs:
            if not job.settle():
                continue
            if job.begun is None and not job.is_task:
                self._leave(job)  # no thread has taken it
            if job.is_task:
                job.cancel()
            try:
                if is_complete:
                    self._too_late(job)
            except BaseException as error:  # noqa: BLE001  # of an observer; raised below
                interrupt = interrupt or error
        if interrupt is not None:
            try:
                raise interrupt
            finally:
                del interrupt  # its traceback refers to this frame

    def _too_late(self, job: Job) -> None:
        begun = job.begun
        if begun is None or not job.is_prompt:
            self._put(job.key, skipped(LATE if job.is_prompt else THREADS))
            return
        job.is_hung = True
        self._conclude(begun, TIMED_OUT, None, runtime.clock() - begun.at)

    # What comes of a job, in its task or thread.

    def returned(self, job: Job, value: object) -> None:
        """Report what a probe returned."""
        judgement = judge_value(value)
        if judgement is BROKEN:
            self._warn(job.key, f"it returned {class_name(type(value))}")
        self._came(job, judgement, None)

    def raised(self, job: Job, error: BaseException) -> None:
        """Report what a probe raised."""
        if isinstance(error, StatusError):
            judgement, cause = error.judgement(), str(error)
        else:
            judgement, cause = judge_error(classify(error)), f"it raised {class_name(type(error))}"
        if judgement is BROKEN:
            self._warn(job.key, cause)
        self._came(job, judgement, error)

    def spawned(self, job: Job) -> None:
        """Note that a job runs in a task."""
        self._tasks.add(job)

    def ended(self, job: Job) -> None:
        """Note that a job has ended: its key is free, whatever came of it."""
        self._leave(job)
        if job in self._tasks:
            self._tasks.discard(job)
            self._waiter.wake()

    def _came(self, job: Job, judgement: Judgement, error: BaseException | None) -> None:
        begun = job.begun
        assert begun is not None
        try:
            self._conclude(
                begun, judgement, error, runtime.clock() - begun.at, before=lambda: self._leave(job)
            )
        finally:
            error = None

    def _conclude(
        self,
        begun: Begun,
        judgement: Judgement,
        error: BaseException | None,
        seconds: float,
        *,
        before: Callable[[], object] = lambda: None,
    ) -> None:
        """Let the circuits react, then give the result; ``before`` is called in between."""
        verdict = judgement.verdict
        reason = "" if judgement.ok else "broken" if verdict is None else verdict.reason
        took = max(0.0, float(seconds))
        kind = None if verdict is None else verdict.kind
        try:
            begun.changes(
                judgement,
                error,
                answers=self._options.answers,
                confirms=self._options.confirms,
            )
        finally:
            error = None
            note_last(begun, LastProbe(judgement.ok, reason, took, runtime.clock()))
            before()
            self._put(begun.circuit.key, ProbeResult(judgement.ok, kind, reason, took))

    def _leave(self, job: Job) -> None:
        """Let the next tick probe its key."""
        if self._runs.running.get(job.key) is job:
            self._runs.running.pop(job.key, None)

    def _put(self, key: str, result: ProbeResult) -> None:
        self._results[key] = result
        if len(self._results) == len(self._options.probes):
            self._waiter.wake()

    def _warn(self, key: str, cause: str) -> None:
        line = runtime.dispatcher.log_line
        if key in self._runs.warned or line is None or _is_shutting_down():
            return
        self._runs.warned.add(key)
        line(f"the probe of {key} is broken and changes nothing: {cause}", warning=True)


def _is_shutting_down() -> bool:
    """Return whether the interpreter exits, so that even good probes may fail."""
    executor: Any = sys.modules.get("concurrent.futures.thread")
    return (
        is_exiting()
        or sys.is_finalizing()
        or not threading.main_thread().is_alive()
        # It takes no more work some time before all of the others are true.
        or getattr(executor, "_shutdown", False) is True
    )
