"""Guard the cost of a healthy call by counting instructions, which no busy machine changes.

    python benchmarks/instructions.py             compare with what is recorded
    python benchmarks/instructions.py --record    record what this Python needs

Each piece of work runs under ``valgrind --tool=callgrind`` twice, with few and with many
calls; the difference is what the further calls took. What is compared is the ratio to the
empty wrapper, and, with the build of Python that was recorded, the instructions of a call.
The exit code is 1 when a figure is above its record by more than the allowance. Without
valgrind, or without a record for this Python, nothing is compared and it says so.

The clock of the library is replaced by one that hardly moves, so that the rare calls which
do more (one in a millisecond is timed) do not fall into some runs and not into others;
``unhurried`` is what such a call takes, by a clock that moves 10 ms at each reading.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RECORD = Path(__file__).with_suffix(".json")
ALLOWANCE = 0.03
"""Share by which a figure may be above its record."""
ALLOWANCE_OF_OTHER_BUILDS = 0.10
"""The same for ratios where Python was compiled otherwise than when it was recorded."""
FEW, MANY = 500, 2_500
WARM = 300
"""Calls after which the interpreter has specialised its code and everything is bound."""

Work = Callable[[int], None]


# What runs under valgrind. It imports no more than it needs.


def _sync(call: Callable[[str], Any]) -> Work:
    def work(times: int) -> None:
        for _ in range(times):
            call("hi")

    return work


def _async(call: Callable[[str], Any]) -> Work:
    async def work(times: int) -> None:
        for _ in range(times):
            await call("hi")

    # One loop for all, since a new one would count as well.
    loop = asyncio.new_event_loop()
    return lambda times: loop.run_until_complete(work(times))


def _empty() -> Work:
    from _timing import answer, empty

    return _sync(empty(answer))


def _empty_async() -> Work:
    from _timing import answer_async, empty_async

    return _async(empty_async(answer_async))


def _empty_with() -> Work:
    from _timing import EmptyManager

    managers = {"groq": EmptyManager()}

    def work(times: int) -> None:
        for _ in range(times):
            with managers["groq"]:
                pass

    return work


def _first() -> Work:
    import healthy

    return _sync(healthy.first())


def _by_name() -> Work:
    import healthy

    return _sync(healthy.by_name())


def _first_async() -> Work:
    import healthy

    return _async(healthy.first_async())


def _guard() -> Work:
    from resilient_llm import breaker

    def work(times: int) -> None:
        for _ in range(times):
            with breaker("groq"):
                pass

    return work


def _configured(what: str) -> Work:
    from configurations import CONFIGURATIONS

    setup = CONFIGURATIONS[what][0]()
    _never_left.append(setup)  # the process ends with it; a setup that is dropped is taken down
    return _sync(setup.__enter__())


def _exported() -> Work:
    import healthy
    from metrics import exported

    _never_left.append(entered := exported())
    entered.__enter__()
    return _sync(healthy.first())


_never_left: list[Any] = []


WORK: dict[str, tuple[Callable[[], Work], str | None]] = {
    "empty": (_empty, None),
    "empty async": (_empty_async, None),
    "empty with": (_empty_with, None),
    "failover, target first": (_first, "empty"),
    "failover, target by name": (_by_name, "empty"),
    "failover, unhurried": (_first, "empty"),
    "failover, async": (_first_async, "empty async"),
    "with breaker(name)": (_guard, "empty with"),
    "failover, one observer": (lambda: _configured("one observer of all events"), "empty"),
    "failover, reject=": (lambda: _configured("reject="), "empty"),
    "failover, slow_call=": (lambda: _configured("slow_call="), "empty"),
    "failover, one error": (lambda: _configured("one error below min_calls"), "empty"),
    "failover, Target(params=)": (lambda: _configured("Target(params=)"), "empty"),
    "failover, Prometheus": (_exported, "empty"),
    "failover, pinned": (lambda: _configured("pinned call"), "empty"),
}
"""``{name: (what makes the work, name of what it is compared with)}``."""


def run(name: str, times: int) -> None:
    """Do a piece of work so many times; what valgrind counts."""
    from healthy import moving_clock

    make, _ = WORK[name]
    gc.disable()
    with moving_clock(0.01 if "unhurried" in name else 1e-12):
        work = make()
        work(WARM)
        work(times)


# What counts.


@dataclass(frozen=True)
class Figure:
    """What one piece of work takes."""

    instructions: float
    """Of one call."""
    ratio: float | None
    """To the baseline; None for a baseline."""


def measure() -> dict[str, Figure]:
    """Return ``{name: figure}`` of every piece of work."""
    runs = [(name, times) for name in WORK for times in (FEW, MANY)]
    while True:
        sources = _sources()
        for name in WORK:
            _started(name, 1, [])  # compiles what it imports, which would be counted otherwise
        # Other work on the machine changes no count, and so neither do they each other's.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            counts = dict(zip(runs, pool.map(lambda each: _count(*each), runs), strict=True))
        if sources == _sources():
            break
        print(
            "A file was changed meanwhile, and compiling it was counted: once more.",
            file=sys.stderr,
        )
    per_call = {name: (counts[name, MANY] - counts[name, FEW]) / (MANY - FEW) for name in WORK}
    figures: dict[str, Figure] = {}
    for name, (_, baseline) in WORK.items():
        ratio = None if baseline is None else round(per_call[name] / per_call[baseline], 4)
        figures[name] = Figure(round(per_call[name], 1), ratio)
    return figures


def _sources() -> dict[Path, int]:
    """Return when each file that may be imported was last changed."""
    folders = (ROOT / "resilient_llm", ROOT / "benchmarks")
    return {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*.py")}


def _count(name: str, times: int) -> int:
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={os.devnull}"]
    said = _started(name, times, command).stderr
    found = re.search(r"Collected\s*:\s*(\d+)", said)
    if found is None:
        raise SystemExit(f"valgrind told no number of instructions:\n{said}")
    return int(found[1])


def _started(name: str, times: int, command: list[str]) -> subprocess.CompletedProcess[str]:
    # Nothing of the surroundings that may differ from run to run: no site, no random hashes,
    # no other variables; valgrind itself gives every run the same addresses.
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": os.pathsep.join(
            [str(ROOT / "benchmarks"), str(ROOT), *filter(None, sys.path)]
        ),
    }
    ran = subprocess.run(
        [*command, sys.executable, "-S", __file__, "--run", name, "--times", str(times)],
        capture_output=True,
        text=True,
        env=environment,
    )
    if ran.returncode:
        raise SystemExit(f"{name} failed under {command[:1] or 'Python'}:\n{ran.stderr}")
    return ran


# What is recorded.


def version() -> str:
    """Return the minor version of this Python, as records are kept by it."""
    return ".".join(platform.python_version_tuple()[:2])


def build() -> str:
    """Return what else decides how many instructions a call takes."""
    return f"{platform.python_implementation()} {platform.python_version()}, {platform.python_compiler()}, {platform.machine()}"


def recorded() -> dict[str, Any]:
    """Return ``{minor version: {"build": …, "figures": {name: …}}}``."""
    return json.loads(RECORD.read_text()) if RECORD.exists() else {}


def record(figures: dict[str, Figure]) -> None:
    """Write down what this Python needs, beside the records of others."""
    entry = {"build": build(), "figures": {name: vars(figure) for name, figure in figures.items()}}
    records = dict(sorted({**recorded(), version(): entry}.items()))
    RECORD.write_text(json.dumps(records, indent=2) + "\n")


def excesses(figures: dict[str, Figure], entry: dict[str, Any]) -> list[str]:
    """Return a sentence per figure that is above its record by more than the allowance."""
    same_build = entry["build"] == build()
    allowance = ALLOWANCE if same_build else ALLOWANCE_OF_OTHER_BUILDS
    found: list[str] = []
    for name, figure in figures.items():
        before = entry["figures"].get(name)
        if before is None or figure.ratio is None:
            continue
        baseline = WORK[name][1]
        if figure.ratio > before["ratio"] * (1 + allowance):
            found.append(
                f"{name} takes {figure.ratio:.3f} times the instructions of {baseline!r}; "
                f"{before['ratio']:.3f} is recorded, and {allowance:.0%} above it is allowed."
            )
        elif same_build and figure.instructions > before["instructions"] * (1 + allowance):
            found.append(
                f"{name} takes {figure.instructions:,.0f} instructions a call; "
                f"{before['instructions']:,.0f} are recorded, and {allowance:.0%} above it is allowed."
            )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--record", action="store_true", help="record the figures instead of comparing them"
    )
    parser.add_argument("--run", choices=WORK, help=argparse.SUPPRESS)
    parser.add_argument("--times", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run is not None:
        run(options.run, options.times)
        return 0
    if shutil.which("valgrind") is None:
        print("Skipped: valgrind is not installed, so no instructions can be counted.")
        return 0
    entry = recorded().get(version())
    if entry is None and not options.record:
        print(f"Skipped: nothing is recorded for Python {version()}; --record does so.")
        return 0
    figures = measure()
    print(build())
    print(f"{'work':30} {'instructions':>12} {'ratio':>7} {'recorded':>9}")
    for name, figure in figures.items():
        before = entry["figures"].get(name, {}).get("ratio") if entry else None
        ratio, was = (f"{each:.3f}" if each is not None else "" for each in (figure.ratio, before))
        print(f"{name:30} {figure.instructions:12,.0f} {ratio:>7} {was:>9}")
    if options.record:
        record(figures)
        print(f"Recorded in {RECORD.name}.")
        return 0
    found = excesses(figures, entry)
    print("\n".join(found) or "No figure is above what is allowed.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
