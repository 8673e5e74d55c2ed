"""The demo of several processes: one store, one outage that one of them finds, one bench for all.

Each worker is a fresh Python process, so that this runs where there is no fork. This process is
the operator, starts the providers, decides who calls when, and shares the store as well.
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
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from resilient_llm import bench_model, configure, store_status, unbench_model
from resilient_llm.demo import news, worker
from resilient_llm.demo.news import Line
from resilient_llm.demo.servers import Condition, Server

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST, SECOND = worker.CHAIN
OPERATOR: Final = "operator"
PATIENCE: Final = 20.0
"""Seconds in which something has to come that needs a tenth of it; longer is a failure."""
_PROVIDERS: Final = {FIRST.partition("/")[0]: (0.25, 0.35), SECOND.partition("/")[0]: (0.01, 0.03)}
"""``{provider: shortest and longest time of an answer}``; the first is slow enough for others to
call while it is probed."""
_DOWN: Final = FIRST.partition("/")[0]
_ROUNDS: Final = 2
_MARGIN: Final = 0.05


class MissingError(Exception):
    """Something did not come in time, or a worker has ended."""


@dataclass(frozen=True, slots=True)
class FleetSummary:
    """How the demo of several processes went.

    Attributes:
        workers: Processes that made calls.
        seconds: How long it took.
        interrupted: Whether it was ended early.
        missing: What did not come in time; empty if all came.
        calls_made: Calls that ended, with an answer or without.
        calls_served: Calls that got one.
        found_by: The worker that met the outage; empty before.
        failures: ``{worker: attempts of it that failed}``.
        benched_within: ``{worker: seconds from the bench of the one that met the outage until this
            one skipped the target as well}``.
        probes: Requests that the provider got after the outage until it was trusted again.
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
        """0 if no call was lost, and one worker met the outage, and one probe ended it; else 1."""
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
    """A worker, and what it has told that nobody has asked for yet."""

    def __init__(self, name: str, store: str, ports: str) -> None:
        self.name = name
        self.told: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.kept: list[dict[str, Any]] = []
        """What was read from there before its turn, oldest first."""
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
            self.told.put(json.loads(line))
        self.told.put({"what": "ended"})

    def ask(self) -> None:
        """Have it make one call."""
        assert self._running.stdin is not None
        try:
            self._running.stdin.write("ask\n")
            self._running.stdin.flush()
        except OSError:
            raise MissingError(f"{self.name} has ended") from None

    def close(self) -> None:
        """End it: by the end of its input, else at once."""
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
        seed: Of the latencies.
        show: Is given each line.
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
        """Run to the end, or until something does not come; leave nothing running."""
        try:
            with ExitStack() as stack:
                directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="demo-"))
                path = (Path(directory).resolve() / "state.db").as_posix().lstrip("/")
                store = f"sqlite:///{path}"
                # Before the directory goes, since the store is a file in it.
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
            self._took = time.monotonic() - self._began

    # What happens, in its order.

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
        self._say("sharing", store_status().url or "", f"one store, {self._number} workers")
        self._round()
        self._say("serving", FIRST, "answers all of them")

    def _outage(self) -> None:
        """One worker calls first, and the others when its bench has come to them."""
        self._servers[_DOWN].turn(Condition.REFUSED)
        self._say("weather", _DOWN, "goes down: connections are refused")
        finder, *others = self._workers
        finder.ask()
        benched = self._next(finder, "benched")
        self._counts.found_by = finder.name
        until = datetime.fromisoformat(benched["until"])
        when = news.until(until, _at(benched))
        self._say("benched", benched["key"], f"{finder.name}: {when} {benched['text']}", benched)
        self._answer(finder)
        for each in others:
            told = self._next(each, "benched")
            self._counts.benched_within[each.name] = _seconds(benched, told)
            self._follows(each, told, benched)
        for _ in range(_ROUNDS):
            self._round()
        failed = sum(self._counts.failures[each.name] for each in others)
        self._say(
            "serving", SECOND, f"answers all of them; attempts of others that failed: {failed}"
        )
        time.sleep(max(0.0, (until - datetime.now(UTC)).total_seconds()) + _MARGIN)

    def _recovery(self) -> None:
        """All workers call at once when the bench is over, and one of them may probe."""
        server = self._servers[_DOWN]
        server.turn(Condition.FAIR)
        self._say("weather", _DOWN, "is well again, and the bench is over: all call at once")
        server.requests.clear()
        probing = [name for name, served_by in self._round().items() if served_by == FIRST]
        self._counts.probes = len(server.requests)
        self._say("probed", _DOWN, f"{' '.join(probing) or 'nobody'}; the others asked {SECOND}")
        for each in self._workers:
            told = self._next(each, "back")
            whose = "" if told["source"] == "local" else f", by {told['source']}"
            self._say("back", told["key"], f"{each.name}: {told['text']}{whose}", told)
        if set(self._round().values()) != {FIRST}:
            raise MissingError(f"{FIRST} was not trusted again by all")
        self._say("serving", FIRST, "answers all of them")

    def _operator(self) -> None:
        """Somebody benches it once, in one process, and ends that."""
        began = datetime.now(UTC).isoformat()
        bench_model(_DOWN, 3600.0, reason="maintenance", by=OPERATOR)
        self._say("benched", _DOWN, f"{OPERATOR}: once, by hand, maintenance")
        for each in self._workers:
            told = self._next(each, "benched")
            self._counts.operator_within[each.name] = _seconds({"at": began}, told)
            self._follows(each, told, {"at": began})
        self._round()
        unbench_model(_DOWN, by=OPERATOR)
        self._say("back", _DOWN, f"{OPERATOR}: once, by hand")
        for each in self._workers:
            self._next(each, "back")
        self._round()
        self._say("serving", FIRST, "answers all of them")

    # Its parts.

    def _follows(self, each: Process, told: dict[str, Any], first: dict[str, Any]) -> None:
        later = f"{_seconds(first, told):.2f} s later"
        self._say("benched", told["key"], f"{each.name}: by {told['source']}, {later}", told)

    def _round(self) -> dict[str, str | None]:
        """Have all workers call at once; return ``{worker: the target that answered it}``."""
        for each in self._workers:
            each.ask()
        return {each.name: self._answer(each) for each in self._workers}

    def _answer(self, each: Process) -> str | None:
        served_by = self._next(each, "answered")["served_by"]
        self._counts.made += 1
        if served_by is None:
            self._say("LOST", FIRST, f"{each.name}: a call")
        else:
            self._counts.served_by[served_by] += 1
        return served_by

    def _next(self, each: Process, what: str) -> dict[str, Any]:
        """Return the next of its kind that a worker tells; failures on the way are counted.

        What else comes before it is kept: an answer and the end of a bench come in any order.
        """
        for kept in each.kept:
            if kept["what"] == what:
                each.kept.remove(kept)
                return kept
        until = time.monotonic() + PATIENCE
        while True:
            try:
                told = each.told.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                raise MissingError(f"{each.name}: {what} has not come") from None
            if told["what"] == what:
                return told
            if told["what"] == "ended":
                raise MissingError(f"{each.name} has ended")
            if told["what"] == "failed":
                self._counts.failures[each.name] += 1
                self._say("failed", told["key"], f"{each.name}: {told['text']}", told)
            else:
                each.kept.append(told)

    def _say(self, word: str, key: str, text: str, told: dict[str, Any] | None = None) -> None:
        self._show(Line(_at(told) if told else datetime.now(UTC), word, key, text))


def _at(told: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(told["at"])


def _seconds(first: dict[str, Any], later: dict[str, Any]) -> float:
    """Return how much later something was; 0 if the wall clock was set back meanwhile."""
    return round(max(0.0, (_at(later) - _at(first)).total_seconds()), 3)
