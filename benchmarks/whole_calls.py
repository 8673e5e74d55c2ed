"""Print what whole calls cost through the real openai client, beside other libraries with a fallback.

    python benchmarks/whole_calls.py                    every environment, every case
    python benchmarks/whole_calls.py --quick            a smoke test of the same
    python benchmarks/whole_calls.py --only litellm     one environment; may be repeated
    python benchmarks/whole_calls.py --json FILE        every figure, for further use

The providers are a loopback server in a process of its own, so what is left of a call is
the client and what is around it. Real providers take a thousand times as long; these
ratios say how much work a library does per call, not how much slower an application gets.

Each contender has an environment of its own (`whole/*.txt`, made by venv and pip under
``--cache``), since their requirements exclude each other: they do not even share a major
version of the openai client. In each one resilient_llm and a fallback by hand are measured
too, and everything is a ratio to the bare client of the same environment in the same run.
Slices of calls are taken in turn; each one is compared with the bare client's slices just
before and just after it. Where a contender waits or changes with time, it is measured with
the bare client alone, so that no other's waits let its cooldown run out.

A run that did something else than its case says ends in an error: every answer's text and
the requests that each provider has seen are compared with what the case and the settings
demand, and an audited process is looked at for connections that go elsewhere.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _timing import machine, processor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent
WHOLE = Path(__file__).resolve().parent / "whole"
sys.path.insert(0, str(WHOLE))

from cases import CASES, HISTORY, MODES, Case, Mode, Places, answer_of  # noqa: E402  # after its folder is known

ENVIRONMENTS = {
    "litellm": "with_litellm",
    "langchain": "with_langchain",
    "pydantic-ai": "with_pydantic_ai",
}
"""``{environment: name of its script and its requirements in whole/}``."""

QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "LANGSMITH_TRACING": "false",
    "LANGCHAIN_TRACING_V2": "false",
    "OTEL_SDK_DISABLED": "true",
    "PYDANTIC_AI_NO_BANNER": "1",
    "DO_NOT_TRACK": "1",
    "NO_PROXY": "127.0.0.1",
}
"""Switches that keep the libraries from calling home; `check_connections` sees whether they do."""


@dataclass(frozen=True)
class Effort:
    """How much work a figure is worth."""

    rounds: int
    fewest_rounds: int
    slice_seconds: float
    lane_seconds: float
    """Where single calls take long, rounds are left out from here on, down to the fewest."""


FULL = Effort(rounds=17, fewest_rounds=7, slice_seconds=0.1, lane_seconds=15.0)
QUICK = Effort(rounds=2, fewest_rounds=2, slice_seconds=0.005, lane_seconds=0.1)


# Environments and processes.


def environment(name: str, cache: Path, *, upgrade: bool) -> Path:
    """Return the interpreter of an environment, which is made if it is not there as it should be."""
    requirements = WHOLE / f"{ENVIRONMENTS[name]}.txt"
    folder = cache / f"{name}-{platform.python_version()}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / "made-from"
    made_from = hashlib.sha256(
        requirements.read_bytes() + (ROOT / "pyproject.toml").read_bytes()
    ).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text() == made_from and not upgrade:
        return python
    print(f"making {folder}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--upgrade",
    ]
    subprocess.run([*install, "--requirement", requirements, "--editable", ROOT], check=True)
    stamp.write_text(made_from)
    return python


class Server:
    """The providers' process."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, WHOLE / "server.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.places = Places(**json.loads(self.process.stdout.readline()))
        self.connection = http.client.HTTPConnection("127.0.0.1", self.places.port)

    def counts(self) -> Counter[str]:
        """Return how many requests each provider has seen."""
        self.connection.request("GET", "/counts")
        return Counter(json.loads(self.connection.getresponse().read()))

    def close(self) -> None:
        self.connection.close()
        self.process.communicate(timeout=10)


class Worker:
    """An environment's process; see `whole/worker.py` for what it is asked."""

    def __init__(self, name: str, python: Path, places: Places, log: Path, *options: str) -> None:
        self.log = log
        # Nothing of the caller's: no keys, no proxies, no settings of the libraries.
        kept = {
            key: os.environ[key]
            for key in ("PATH", "HOME", "LANG", "SYSTEMROOT", "TMPDIR")
            if key in os.environ
        }
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [
                    python,
                    WHOLE / f"{ENVIRONMENTS[name]}.py",
                    str(places.port),
                    str(places.refused_port),
                    *options,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=kept | QUIET,
            )

    def ask(self, do: str, **details: Any) -> dict[str, Any]:
        """Return the reply to a request."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do} | details) + "\n")
        self.process.stdin.flush()
        if not (line := self.process.stdout.readline()):
            raise RuntimeError(f"{shlex.join(map(str, self.process.args))} ended; see {self.log}")
        return json.loads(line)

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate(timeout=30)


@contextlib.contextmanager
def closing_late(process: Worker | Server) -> Iterator[Any]:
    """Close a process at the end, by force if need be."""
    try:
        yield process
        process.close()
    finally:
        if process.process.poll() is None:
            process.process.kill()
            process.process.wait()


# Measuring.


@dataclass
class Slice:
    """Calls made one after the other, and what the providers saw of them."""

    seconds: list[float]
    cpu: float | None
    answers: Counter[str]
    seen: Counter[str]

    @property
    def median(self) -> float:
        """Return the seconds of a call."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Figure:
    """One contender's cost in one case."""

    environment: str
    case: str
    mode: Mode
    subject: str
    calls: int
    slices: int
    ratio: float
    ratio_low: float
    ratio_high: float
    """To the bare client: the slices' median and quartiles."""
    milliseconds: float
    milliseconds_mean: float
    milliseconds_most: float
    bare_milliseconds: float
    """Of one call: median, mean and the slowest; the bare client's median."""
    cpu_milliseconds: float | None
    bare_cpu_milliseconds: float | None
    """Of the worker's process, threads and what is left to the background included; None if making it anew is in it."""
    dead_requests: float | None
    """To the dead provider, per call; None where there is none that could see them."""


class Measuring:
    """The cases of one environment."""

    def __init__(
        self, name: str, worker: Worker, server: Server, effort: Effort, cases: Sequence[Case]
    ) -> None:
        self.name, self.worker, self.server, self.effort, self.cases = (
            name,
            worker,
            server,
            effort,
            cases,
        )
        self.described = worker.ask("describe")
        self.subjects: dict[str, dict[str, Any]] = self.described["subjects"]

    def figures(self) -> Iterator[Figure]:
        """Measure and check every case in every mode."""
        for case in self.cases:
            for mode in MODES:
                # A fallback by hand has no defaults to show, beyond what it does once.
                names = [name for name in self.subjects if name != BY_HAND or not case.waits]
                for lane in [[name] for name in names] if case.waits else [names]:
                    yield from self.lane(lane, case, mode)

    def lane(self, names: Sequence[str], case: Case, mode: Mode) -> Iterator[Figure]:
        """Measure subjects in turn with the bare client."""
        effort = self.effort
        calls, needed = {}, 0.0
        for name in names:
            self.open(name, case, mode)
            began = time.perf_counter()
            warm = self.run(1)
            self.check(name, case, [warm], time.perf_counter() - began)
            if warm.median < effort.slice_seconds:
                warm = self.run(5)
            calls[name] = max(1, round(effort.slice_seconds / min(warm.seconds)))
            needed += max(effort.slice_seconds, min(warm.seconds))
        bare_calls = max(1, round(effort.slice_seconds / min(self.bare(mode, 5).seconds)))
        rounds = max(effort.fewest_rounds, min(effort.rounds, int(effort.lane_seconds / needed)))
        slices: dict[str, list[Slice]] = {name: [] for name in names}
        bare: dict[str, list[tuple[Slice, Slice]]] = {name: [] for name in names}
        began = time.perf_counter()
        before = self.bare(mode, bare_calls)
        for _ in range(rounds):
            for name in names:
                self.open(name, case, mode)
                slices[name].append(self.run(calls[name]))
                after = self.bare(mode, bare_calls)
                bare[name].append((before, after))
                before = after
        took = time.perf_counter() - began
        self.worker.ask("close")
        for name in names:
            self.check(name, case, slices[name], took)
            yield self.figure(name, case, mode, slices[name], bare[name])

    def open(self, name: str, case: Case, mode: Mode) -> None:
        history = HISTORY if case.has_history else 0
        before = self.server.counts()
        self.worker.ask("open", subject=name, case=case.name, mode=mode, history=history)
        dead = (self.server.counts() - before)["dead"]
        if (
            case.policy == "equal"
            and self.subjects[name]["cooldown"]["equal"] is not None
            and dead >= HISTORY
        ):
            raise AssertionError(
                f"{self.name}: {name}, {case.title}: no cooldown after one failure"
            )

    def run(self, calls: int) -> Slice:
        return self._slice("run", calls=calls)

    def bare(self, mode: Mode, calls: int) -> Slice:
        result = self._slice("bare", mode=mode, calls=calls)
        expect("the bare client", "answers", {answer_of("second"): calls}, result.answers)
        expect("the bare client", "requests", {"second": calls}, result.seen)
        return result

    def _slice(self, do: str, **details: Any) -> Slice:
        before = self.server.counts()
        reply = self.worker.ask(do, **details)
        seen = self.server.counts() - before
        return Slice(reply["seconds"], reply["cpu"], Counter(reply["answers"]), seen)

    def check(self, name: str, case: Case, slices: Sequence[Slice], took: float) -> None:
        """Raise unless the calls did what their case says."""
        what = f"{self.name}: {name}, {case.title}"
        calls = sum(len(each.seconds) for each in slices)
        answers = sum((each.answers for each in slices), Counter[str]())
        seen = sum((each.seen for each in slices), Counter[str]())
        dead = seen.pop("dead", 0)
        server = "healthy" if case.first == "healthy" else "second"
        expected = {server: calls} | ({"alive": 2 * calls} if case.is_first_call else {})
        expect(what, "answers", {answer_of(server): calls}, answers)
        expect(what, "requests", expected, seen)
        if case.first != "dead":
            expect(what, "requests to the dead provider", 0, dead)
            return
        attempts = self.subjects[name]["attempts"][case.policy]
        cooldown = self.subjects[name]["cooldown"][case.policy]
        if case.has_history and cooldown is not None:
            # Each end of a cooldown may cost a call or two all their attempts.
            most = 2 * attempts * (1 + int(took / cooldown))
            if dead > most:
                raise AssertionError(
                    f"{what}: at most {most} requests to the dead provider expected, {dead} seen"
                )
        else:
            expect(what, "requests to the dead provider", attempts * calls, dead)

    def figure(
        self,
        name: str,
        case: Case,
        mode: Mode,
        slices: Sequence[Slice],
        bare: Sequence[tuple[Slice, Slice]],
    ) -> Figure:
        """Return what slices and the bare client's around them amount to."""
        ratios = [
            2 * each.median / (before.median + after.median)
            for each, (before, after) in zip(slices, bare, strict=True)
        ]
        low, ratio, high = statistics.quantiles(ratios, n=4, method="inclusive")
        seconds = [one for each in slices for one in each.seconds]
        cpu = [each.cpu for each in slices if each.cpu is not None]
        dead = sum(each.seen["dead"] for each in slices)
        return Figure(
            environment=self.name,
            case=case.name,
            mode=mode,
            subject=name,
            calls=len(seconds),
            slices=len(slices),
            ratio=ratio,
            ratio_low=low,
            ratio_high=high,
            milliseconds=1000 * statistics.median(seconds),
            milliseconds_mean=1000 * statistics.mean(seconds),
            milliseconds_most=1000 * max(seconds),
            bare_milliseconds=1000 * statistics.median(before.median for before, _ in bare),
            cpu_milliseconds=1000 * statistics.median(cpu) if cpu else None,
            bare_cpu_milliseconds=1000 * statistics.median(before.cpu or 0.0 for before, _ in bare)
            if cpu
            else None,
            dead_requests=dead / len(seconds) if case.first == "dead" else None,
        )


def expect(what: str, of: str, expected: object, actual: object) -> None:
    """Raise unless two things are equal."""
    if expected != actual:
        raise AssertionError(f"{what}: {of} expected: {expected}, actual: {actual}")


def check_connections(worker: Worker, places: Places, cases: Sequence[Case]) -> None:
    """Raise unless an audited process connects to the providers only, and to the refused port once per call."""
    refused = f"127.0.0.1:{places.refused_port}"
    allowed = {refused, f"127.0.0.1:{places.port}", "lookup of 127.0.0.1"}
    for name in worker.ask("describe")["subjects"]:
        for case in cases:
            if case.waits:
                continue
            for mode in MODES:
                worker.ask("open", subject=name, case=case.name, mode=mode, history=0)
                before = worker.ask("connects").get(refused, 0)
                worker.ask("run", calls=3)
                after = worker.ask("connects").get(refused, 0)
                expect(
                    f"{name}, {case.title}",
                    "connections refused",
                    3 if case.first == "refused" else 0,
                    after - before,
                )
        worker.ask("close")
    expect(
        "the audited process", "connections elsewhere", set(), set(worker.ask("connects")) - allowed
    )


def measure(
    name: str, python: Path, server: Server, cases: Sequence[Case], effort: Effort
) -> tuple[dict[str, Any], list[Figure]]:
    """Return the description of an environment and its figures."""
    log = python.parent.parent / "worker.log"
    with closing_late(Worker(name, python, server.places, log, "--audit")) as audited:
        check_connections(audited, server.places, cases)
    with closing_late(Worker(name, python, server.places, log)) as worker:
        measuring = Measuring(name, worker, server, effort, cases)
        figures: list[Figure] = []
        for figure in measuring.figures():
            print(
                f"{name}: {figure.case}, {figure.mode}, {figure.subject}: {figure.ratio:.2f}",
                file=sys.stderr,
            )
            figures.append(figure)
        return measuring.described, figures


# Printing.


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], texts: int) -> str:
    """Return a table in GitHub's markdown, whose first columns are texts and whose others are numbers."""
    lines = [heads, ["---"] * texts + ["---:"] * (len(heads) - texts), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def times(value: float) -> str:
    """Return a ratio with no more digits than it is worth."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def processor_time(figure: Figure) -> str:
    if figure.cpu_milliseconds is None or not figure.bare_cpu_milliseconds:
        return ""
    return f"{milliseconds(figure.cpu_milliseconds)} ({times(figure.cpu_milliseconds / figure.bare_cpu_milliseconds)})"


OURS = "resilient_llm"
BY_HAND = "try/except by hand"


def summary(figures: Sequence[Figure], cases: Sequence[Case]) -> str:
    """Return the ratios of all contenders, each beside ours in the same environment."""
    contenders = {
        figure.subject: figure.environment
        for figure in figures
        if figure.subject not in (OURS, BY_HAND)
    }
    ratios = {
        (each.environment, each.subject, each.case, each.mode): each.ratio for each in figures
    }
    rows: list[list[str]] = []
    for case in cases:
        for mode in MODES:
            pairs = [
                (ratios[where, name, case.name, mode], ratios[where, OURS, case.name, mode])
                for name, where in contenders.items()
            ]
            rows.append(
                [f"{case.title}; {mode}", *(f"{times(one)} ({times(ours)})" for one, ours in pairs)]
            )
    return table(
        ["ratio to the bare client (resilient_llm in the same environment)", *contenders], rows, 1
    )


DETAILS = """environment, contender, mode, ratio to the bare client (quartiles), ms: median, mean, slowest,
bare client ms, processor ms (ratio), requests to the dead provider per call, calls"""


def details(figures: Sequence[Figure], case: Case) -> str:
    """Return every figure of one case."""
    rows = [
        [
            figure.environment,
            figure.subject,
            figure.mode,
            f"**{times(figure.ratio)}** ({times(figure.ratio_low)} to {times(figure.ratio_high)})",
            milliseconds(figure.milliseconds),
            milliseconds(figure.milliseconds_mean),
            milliseconds(figure.milliseconds_most),
            milliseconds(figure.bare_milliseconds),
            processor_time(figure),
            "" if figure.dead_requests is None else f"{figure.dead_requests:.3g}",
            str(figure.calls),
        ]
        for figure in figures
        if figure.case == case.name
    ]
    return table([" ".join(head.split()) for head in DETAILS.split(",")], rows, 3)


def report(
    described: Mapping[str, Mapping[str, Any]], figures: Sequence[Figure], cases: Sequence[Case]
) -> str:
    """Return everything in markdown."""
    blocks = [summary(figures, cases)]
    for case in cases:
        blocks += [
            f"### {case.title[0].upper()}{case.title[1:]}",
            *filter(None, [case.note]),
            details(figures, case),
        ]
    settings = {
        name: [subject["settings"][policy] for policy in ("default", "once", "equal")]
        for environment in described.values()
        for name, subject in environment["subjects"].items()
    }
    heads = [
        "contender",
        "defaults",
        "one attempt, nothing remembered",
        "one attempt, cooldown after one failure",
    ]
    versions = [
        [
            name,
            ", ".join(
                f"{package} {version}" for package, version in environment["versions"].items()
            ),
        ]
        for name, environment in described.items()
    ]
    blocks += [
        "### Settings",
        table(heads, [[name, *each] for name, each in settings.items()], len(heads)),
        "The clients of the SDK do not retry (`max_retries=0`). What is not named has its default.",
        "### Versions",
        table(["environment", "packages"], versions, 2),
    ]
    return "\n\n".join(blocks)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="a smoke test: a few calls of everything"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument(
        "--only",
        action="append",
        choices=ENVIRONMENTS,
        metavar="NAME",
        help=", ".join(ENVIRONMENTS),
    )
    parser.add_argument(
        "--case", action="append", choices=[case.name for case in CASES], help="may be repeated"
    )
    parser.add_argument(
        "--cache", type=Path, default=ROOT / "build" / "bench", help="where environments are kept"
    )
    parser.add_argument(
        "--upgrade", action="store_true", help="make the environments anew, of the latest releases"
    )
    return parser.parse_args()


def main() -> None:
    options = arguments()
    effort = QUICK if options.quick else FULL
    cases = [case for case in CASES if not options.case or case.name in options.case]
    names = options.only or list(ENVIRONMENTS)
    pythons = {name: environment(name, options.cache, upgrade=options.upgrade) for name in names}
    described: dict[str, dict[str, Any]] = {}
    figures: list[Figure] = []
    began = datetime.now(UTC)
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    with closing_late(Server()) as server:
        for name, python in pythons.items():
            described[name], measured = measure(name, python, server, cases, effort)
            figures += measured
    where = {
        "machine": machine(),
        "processor": processor(),
        "load before": load,
        "Python": platform.python_version(),
        "date": began.strftime("%Y-%m-%d"),
        "command": shlex.join(["python", "benchmarks/whole_calls.py", *sys.argv[1:]]),
    }
    print("; ".join(f"{key}: {value}" for key, value in where.items()), end="\n\n")
    print(report(described, figures, cases))
    if options.json:
        everything = where | {
            "environments": described,
            "figures": [asdict(figure) for figure in figures],
        }
        options.json.write_text(json.dumps(everything, indent=2) + "\n")


if __name__ == "__main__":
    main()
