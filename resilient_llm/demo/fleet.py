"""The demo of several processes: one store, an outage that one of them meets, one bench for all.

Each worker is a fresh Python process, so that the demo runs where there is no fork. This process
is the operator: it starts the providers, tells each worker when to call, and shares the store.
"""

from __future__ import annotations

import json
import queue
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from resilient_llm import bench_model, configure, store_status, unbench_model
from resilient_llm.demo import log_lines, worker
from resilient_llm.demo.log_lines import Line
from resilient_llm.demo.servers import Condition, Server

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST, SECOND = worker.CHAIN
OPERATOR: Final = "operator"
PATIENCE: Final = 20.0
"""Seconds until a missing report is a failure; a tenth of them is enough."""
_PROVIDERS: Final = {FIRST.partition("/")[0]: (0.25, 0.35), SECOND.partition("/")[0]: (0.01, 0.03)}
"""``{provider: shortest and longest time of an answer}``; the first is slow enough for others to
call while it is probed."""
_DOWN: Final = FIRST.partition("/")[0]
_ROUNDS: Final = 2
_MARGIN: Final = 0.05


class MissingError(Exception):
    """A report did not arrive in time, or a worker has ended."""


@dataclass(frozen=True, slots=True)
class FleetSummary:
    """How the demo of several processes went.

    Attributes:
        workers: Processes that made calls.
        seconds: How long it took.
        interrupted: Whether it was ended early.
        missing: What did not arrive in time; empty if everything did.
        calls_made: Calls that ended, with an answer or an error.
        calls_served: Calls that were answered.
        found_by: The worker that met the outage; empty before.
        failures: ``{worker: its failed attempts}``.
        benched_within: ``{worker: seconds from the bench of the worker that met the outage until
            this worker skipped the target as well}``.
        probes: Requests that the provider received after the outage until all used it again.
        operator_benched_within: ``{worker: seconds from the operator's bench until it held}``.
        served_by: ``{target: calls it answered}``.
    """

    workers: int
    seconds: float
    interrupted: bool
    missing: str
    calls_made: int
    calls_served: int
    found_by: str
    failures: dict[str, int]
    benched_within: dict[str, float]
    probes: int
    operator_benched_within: dict[str, float]
    served_by: dict[str, int]

    @property
    def exit_status(self) -> int:
        """0 if no call failed, one worker met the outage, and one probe ended the bench; else 1."""
        is_good = (
            self.calls_served == self.calls_made
            and set(self.failures) <= {self.found_by}
            and self.probes <= 1
            and not self.missing
        )
        return 0 if is_good else 1

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


class Process:
    """A worker, and the reports of it that were not read yet."""

    def __init__(self, name: str, store: str, ports: str) -> None:
        self.name = name
        self.reports: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.kept: list[dict[str, Any]] = []
        """Reports that were read before they were asked for, oldest first."""
        self._running = subprocess.Popen(
            [sys.executable, "-m", "resilient_llm.demo.worker", name, store, ports],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self._reader = threading.Thread(target=self._read, name=f"demo-{name}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._running.stdout is not None
        for line in self._running.stdout:
            self.reports.put(json.loads(line))
        self.reports.put({"what": "ended"})

    def ask(self) -> None:
        """Make the worker call once."""
        assert self._running.stdin is not None
        try:
            self._running.stdin.write("ask\n")
            self._running.stdin.flush()
        except OSError:
            raise MissingError(f"{self.name} has ended") from None

    def close(self) -> None:
        """End the worker: by the end of its input, else by a kill."""
        stdin, stdout = self._running.stdin, self._running.stdout
        assert stdin is not None
        assert stdout is not None
        with suppress(OSError):
            stdin.close()
        try:
            self._running.wait(5.0)
        except subprocess.TimeoutExpired:
            self._running.kill()
            self._running.wait()
        self._reader.join()
        stdout.close()


@dataclass(slots=True)
class _Counts:
    made: int = 0
    found_by: str = ""
    failures: Counter[str] = field(default_factory=lambda: Counter[str]())
    benched_within: dict[str, float] = field(default_factory=lambda: dict[str, float]())
    probes: int = 0
    operator_within: dict[str, float] = field(default_factory=lambda: dict[str, float]())
    served_by: Counter[str] = field(default_factory=lambda: Counter[str]())


class Fleet:
    """One run.

    Changes the process-wide settings of the library: run it in a process of its own, or within
    ``resilient_llm.testing.isolated()``.

    Args:
        workers: How many processes, 2 or more.
        seed: Seed of the latencies.
        show: Receives each line.
    """

    def __init__(self, workers: int, seed: int, show: Callable[[Line], object]) -> None:
        self.has_ended = False
        self._number = workers
        self._show = show
        self._servers = {
            provider: Server("openai", latency=latency, rng=random.Random(seed))
            for provider, latency in _PROVIDERS.items()
        }
        self._workers: list[Process] = []
        self._counts = _Counts()
        self._missing = ""
        self._failed: Line | None = None
        """Failed attempts that are not shown yet, since there may be more of them."""
        self._began = time.monotonic()
        self._took = 0.0

    def summary(self) -> FleetSummary:
        """Return how it went, or how far it got."""
        counts = self._counts
        return FleetSummary(
            workers=self._number,
            seconds=round(self._took, 2),
            interrupted=not self.has_ended and not self._missing,
            missing=self._missing,
            calls_made=counts.made,
            calls_served=sum(counts.served_by.values()),
            found_by=counts.found_by,
            failures=dict(counts.failures),
            benched_within=counts.benched_within,
            probes=counts.probes,
            operator_benched_within=counts.operator_within,
            served_by=dict(counts.served_by),
        )

    def run(self) -> None:
        """Run to the end, or until a report is missing; leave nothing running."""
        try:
            with ExitStack() as stack:
                directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="demo-"))
                path = (Path(directory).resolve() / "state.db").as_posix().lstrip("/")
                store = f"sqlite:///{path}"
                # Before the directory is removed, since the store is a file in it.
                stack.callback(configure, state=None)
                for server in self._servers.values():
                    stack.enter_context(server)
                self._start(stack, store)
                self._outage()
                self._recovery()
                self._operator()
            self.has_ended = True
        except MissingError as error:
            self._missing = str(error)
        finally:
            self._show_failed()
            self._took = time.monotonic() - self._began

    # The steps of the demo, in their order.

    def _start(self, stack: ExitStack, store: str) -> None:
        ports = json.dumps({name: server.port for name, server in self._servers.items()})
        configure(**worker.settings(store, OPERATOR))
        for number in range(1, self._number + 1):
            process = Process(f"worker-{number}", store, ports)
            self._workers.append(process)
            stack.callback(process.close)
        if not store_status(wait=worker.CONNECT_WITHIN).connected:
            raise MissingError("the store does not answer")
        for each in self._workers:
            if not self._next(each, "ready")["connected"]:
                raise MissingError(f"{each.name} has not read the store")
        self._log(
            "sharing",
            store_status().url or "",
            f"{self._number} workers share one store, an SQLite file.",
        )
        self._round()
        self._log("answers", FIRST, f"{FIRST} answers every call.")

    def _outage(self) -> None:
        """One worker calls first, and the others when they have received its bench."""
        self._servers[_DOWN].switch(Condition.REFUSED)
        self._log("fault", _DOWN, f"{_DOWN} is down: it refuses connections.")
        finder, *others = self._workers
        finder.ask()
        benched = self._next(finder, "benched")
        self._counts.found_by = finder.name
        until = datetime.fromisoformat(benched["until"])
        seconds = log_lines.seconds_until(until, _at(benched))
        text = f"{finder.name} skips {benched['key']} for {seconds} s: {benched['text']}"
        self._log("benched", benched["key"], text, benched)
        self._answer(finder)
        for each in others:
            report = self._next(each, "benched")
            self._counts.benched_within[each.name] = _seconds(benched, report)
            self._log_follower(each, report, benched)
        for _ in range(_ROUNDS):
            self._round()
        failed = sum(self._counts.failures[each.name] for each in others)
        text = f"{SECOND} answers; failures of the others: {failed}."
        self._log("answers", SECOND, text)
        time.sleep(max(0.0, (until - datetime.now(UTC)).total_seconds()) + _MARGIN)

    def _recovery(self) -> None:
        """All workers call at once when the bench is over, and one of them probes."""
        server = self._servers[_DOWN]
        server.switch(Condition.OK)
        self._log("fault", _DOWN, f"{_DOWN} works again. The bench is over: all workers call.")
        server.requests.clear()
        probing = [name for name, served_by in self._round().items() if served_by == FIRST]
        self._counts.probes = len(server.requests)
        probes = " ".join(probing) or "no worker"
        self._log("probed", _DOWN, f"{probes} probes {_DOWN}; the others call {SECOND}.")
        for each in self._workers:
            report = self._next(each, "restored")
            text = f"{each.name} uses {report['key']} again: {report['text']}{_source(report)}"
            self._log("restored", report["key"], text, report)
        if set(self._round().values()) != {FIRST}:
            raise MissingError(f"{FIRST} is not used again by all workers")
        self._log("answers", FIRST, f"{FIRST} answers every call.")

    def _operator(self) -> None:
        """The operator benches the provider once, in one process, and unbenches it."""
        began = datetime.now(UTC).isoformat()
        bench_model(_DOWN, 3600.0, reason="maintenance", by=OPERATOR)
        self._log("benched", _DOWN, f"The {OPERATOR} benches {_DOWN} once, by hand: maintenance.")
        for each in self._workers:
            report = self._next(each, "benched")
            self._counts.operator_within[each.name] = _seconds({"at": began}, report)
            self._log_follower(each, report, {"at": began})
        self._round()
        unbench_model(_DOWN, by=OPERATOR)
        self._log("restored", _DOWN, f"The {OPERATOR} unbenches {_DOWN} once, by hand.")
        for each in self._workers:
            self._next(each, "restored")
        self._round()
        self._log("answers", FIRST, f"{FIRST} answers every call.")

    # Helpers of the steps.

    def _log_follower(self, each: Process, report: dict[str, Any], first: dict[str, Any]) -> None:
        later = f"{_seconds(first, report):.2f} s later"
        text = f"{each.name} skips {report['key']} too, {later}{_source(report)}"
        self._log("benched", report["key"], text, report)

    def _round(self) -> dict[str, str | None]:
        """Make all workers call at once; return ``{worker: the target that answered it}``."""
        for each in self._workers:
            each.ask()
        return {each.name: self._answer(each) for each in self._workers}

    def _answer(self, each: Process) -> str | None:
        served_by = self._next(each, "answered")["served_by"]
        self._counts.made += 1
        if served_by is None:
            self._log("LOST", FIRST, f"A call of {each.name} failed on every target.")
        else:
            self._counts.served_by[served_by] += 1
        return served_by

    def _next(self, each: Process, what: str) -> dict[str, Any]:
        """Return the next report of this kind; failed attempts before it are counted.

        Other reports are kept: an answer and the end of a bench arrive in any order.
        """
        for kept in each.kept:
            if kept["what"] == what:
                each.kept.remove(kept)
                return kept
        until = time.monotonic() + PATIENCE
        while True:
            try:
                report = each.reports.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                raise MissingError(f"{each.name}: no report {what!r}") from None
            if report["what"] == what:
                return report
            if report["what"] == "ended":
                raise MissingError(f"{each.name} has ended")
            if report["what"] == "failed":
                self._counts.failures[each.name] += 1
                self._fold_failed(each, report)
            else:
                each.kept.append(report)

    def _fold_failed(self, each: Process, report: dict[str, Any]) -> None:
        text = f"{each.name}: {report['key']} failed: {report['text']}"
        before = self._failed
        if before is not None and before.text == text:
            self._failed = replace(before, count=before.count + 1)
        else:
            self._show_failed()
            self._failed = Line(_at(report), "failed", report["key"], text)

    def _show_failed(self) -> None:
        if self._failed is not None:
            self._show(self._failed)
            self._failed = None

    def _log(self, word: str, key: str, text: str, report: dict[str, Any] | None = None) -> None:
        self._show_failed()
        self._show(Line(_at(report) if report else datetime.now(UTC), word, key, text))


def _source(report: dict[str, Any]) -> str:
    """Return which process a change of a bench comes from, unless it is the worker itself."""
    return "" if report["source"] == "local" else f" (from {report['source']})"


def _at(report: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(report["at"])


def _seconds(first: dict[str, Any], later: dict[str, Any]) -> float:
    """Return the seconds between two reports; 0 if the wall clock was set back meanwhile."""
    return round(max(0.0, (_at(later) - _at(first)).total_seconds()), 3)
