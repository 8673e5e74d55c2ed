"""A thousand reloads while threads and tasks call: no call sees half a file, and nothing is left.

Version ``k`` of the file names ``k`` in the parameters of its targets, in their number of attempts
and in its chains, so a call that had parts of two versions would show it.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from resilient_llm import (
    Attempt,
    ConfigReloaded,
    Target,
    bench_model,
    chains,
    config,
    configure,
    failover,
    is_benched,
    observe,
)
from tests.support.files import eventually, write

RELOADS, THREADS, TASKS = 1_000, 8, 200
KEYS = 7
"""Providers that the versions use in turn: each key that a process has met keeps its counts."""
BENCHED = "benched/x"


def version(number: int) -> str:
    first = f"p{number % KEYS}/a"
    return f"""
[settings]
attempts = {1 + number % 3}
[targets."{first}"]
params = {{ version = {number} }}
[targets."shared/x"]
params = {{ version = {number} }}
[chains]
load = ["{BENCHED}", "@inner"]
inner = ["{first}", "shared/x"]
[profiles.alone]
chains = {{ inner = ["shared/x"] }}
[routes.routed]
otherwise = "{BENCHED}, {first}, shared/x"
[[routes.routed.rules]]
chain = "shared/x"
contains = "alone"
"""


Seen = list[tuple[str, int]]
"""Of the attempts of one call: their target, and the version in its parameters."""


def check(seen: Seen, *, first: bool = True) -> None:
    """Assert that a call has met one version, whole: each attempt of the first target, then one."""
    (number,) = {version for _, version in seen}
    expected = [(f"p{number % KEYS}/a", number)] * (1 + number % 3) if first else []
    assert [*expected, ("shared/x", number)] == seen


def note(seen: Seen, target: Target) -> None:
    seen.append((target.key, target.params["version"]))


@failover(chain="@load")
def ask(target: Target, seen: Seen) -> str:
    note(seen, target)
    if target.key != "shared/x":
        raise ConnectionError
    return target.key


@failover(chain="@routed")
def ask_routed(target: Target, seen: Seen, prompt: str) -> str:
    note(seen, target)
    if target.key != "shared/x":
        raise ConnectionError
    return target.key


@failover(chain="@load")
def pinned(seen: Seen, *, target: Any = None) -> str:
    note(seen, target)
    if len(seen) <= seen[0][1] % 3:
        raise ConnectionError
    return target.key


@failover(chain="@load")
def stream(target: Target, seen: Seen) -> Iterator[int]:
    note(seen, target)
    if target.key != "shared/x":
        raise ConnectionError
    for _ in range(3):
        yield target.params["version"]


@failover(chain="@load")
async def ask_async(target: Target, seen: Seen) -> str:
    note(seen, target)
    await asyncio.sleep(0)
    if target.key != "shared/x":
        raise ConnectionError
    return target.key


@failover(chain="@load")
async def astream(target: Target, seen: Seen) -> AsyncIterator[int]:
    note(seen, target)
    if target.key != "shared/x":
        raise ConnectionError
    for _ in range(3):
        await asyncio.sleep(0)
        yield target.params["version"]


@failover(chain="@load", hedge=0.001, attempts=1)
async def hedged(target: Target, attempt: Attempt, seen: Seen) -> str:
    note(seen, target)
    await asyncio.sleep(0 if target.key == "shared/x" else 0.02)
    return target.key


def begin() -> None:
    """Bench a target, and nothing else, however often the others fail."""
    breakers = {"*": {"mode": "metrics_only"}, BENCHED: {"mode": "enforce"}}
    configure(backoff=lambda _: 0.0, retry_budget=None, breakers=breakers)
    bench_model(BENCHED)


class Load:
    """Threads and tasks that call until they are stopped, and rest while they are told to."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.errors: list[BaseException] = []
        self.is_over = False
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.resting = 0
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.call) for _ in range(THREADS)]
        self.threads.append(threading.Thread(target=lambda: asyncio.run(self.call_async())))
        for thread in self.threads:
            thread.start()

    def rest(self) -> None:
        """Have all of them rest between two calls."""
        self.goes_on.clear()
        eventually(lambda: self.resting == len(self.threads) or self.errors)

    def end(self) -> None:
        self.is_over = True
        self.goes_on.set()
        for thread in self.threads:
            thread.join(60.0)
        assert not any(thread.is_alive() for thread in self.threads)

    def _wait(self) -> None:
        with self.lock:
            self.resting += 1
        self.goes_on.wait()
        with self.lock:
            self.resting -= 1

    def call(self) -> None:
        kinds = [self._plain, self._routed, self._pinned, self._stream, self._under_profile]
        number = 0
        try:
            while not self.is_over:
                if not self.goes_on.is_set():
                    self._wait()
                number += 1
                kinds[number % len(kinds)]([])
                time.sleep(0.001)
        except BaseException as error:
            self.errors.append(error)

    def _plain(self, seen: Seen) -> None:
        assert "shared/x" == ask(seen)
        check(seen)
        self.calls["plain"] += 1

    def _routed(self, seen: Seen) -> None:
        is_alone = self.calls["routed"] % 2 == 0
        ask_routed(seen, "alone" if is_alone else "other")
        check(seen, first=not is_alone)
        self.calls["routed"] += 1

    def _pinned(self, seen: Seen) -> None:
        assert "shared/x" == pinned(seen, target="shared/x")
        (number,) = {version for _, version in seen}
        assert [("shared/x", number)] * (1 + number % 3) == seen
        self.calls["pinned"] += 1

    def _stream(self, seen: Seen) -> None:
        items: list[int] = []
        for item in stream(seen):
            items.append(item)
            time.sleep(0.002)  # for a reload
        check(seen)
        assert [seen[0][1]] * 3 == items
        self.calls["stream"] += 1

    def _under_profile(self, seen: Seen) -> None:
        with chains.profile("alone"):
            ask(seen)
        check(seen, first=False)
        self.calls["profile"] += 1

    async def call_async(self) -> None:
        while not self.is_over:
            if not self.goes_on.is_set():
                self._wait()
            done = await asyncio.gather(
                *(self._call_one(number) for number in range(TASKS)), return_exceptions=True
            )
            self.errors += [each for each in done if each is not None]
            await asyncio.sleep(0.01)

    async def _call_one(self, number: int) -> None:
        seen: Seen = []
        if number % 3 == 0:
            coroutine = ask_async(seen)  # it starts later
            await asyncio.sleep(0.001)
            assert "shared/x" == await coroutine
            check(seen)
            self.calls["async"] += 1
        elif number % 3 == 1:
            items = [item async for item in astream(seen)]
            check(seen)
            assert [seen[0][1]] * 3 == items
            self.calls["astream"] += 1
        else:
            await hedged(seen)
            assert 1 == len({version for _, version in seen})
            assert {f"p{seen[0][1] % KEYS}/a", "shared/x"} >= {key for key, _ in seen}
            self.calls["hedged"] += 1


def measured() -> tuple[int, int]:
    """Return how many blocks of memory are in use, and how many files are open."""
    for _ in range(3):
        gc.collect()
    has_files = sys.platform == "linux"
    return sys.getallocatedblocks(), len([*Path("/proc/self/fd").iterdir()]) if has_files else 0


@pytest.mark.timeout(300)
def test_a_thousand_reloads_under_load(tmp_path: Path) -> None:
    """Every call has one version, none is lost, and memory and open files stay as they are."""
    begin()
    path = write(tmp_path / "llm.toml", version(0))
    config.load(path)
    reloads: list[int] = []
    observe(lambda event: reloads.append(len(event.changed)), ConfigReloaded)
    load = Load()
    found: dict[int, tuple[int, int]] = {}
    try:
        for number in range(1, RELOADS + 1):
            write(path, version(number))
            config.reload()
            if number in (RELOADS // 2, RELOADS):
                load.rest()
                found[number] = measured()
                load.goes_on.set()
            assert not load.errors
    finally:
        load.end()

    assert [] == load.errors
    assert RELOADS == len(reloads)
    assert is_benched(BENCHED)
    assert {"plain", "routed", "pinned", "stream", "profile", "async", "astream", "hedged"} == {
        kind for kind, number in load.calls.items() if number > 50
    }
    blocks, files = zip(*(found[number] for number in (RELOADS // 2, RELOADS)), strict=True)
    assert files[0] == files[1]
    assert blocks[1] - blocks[0] < 3_000  # six for each reload


@pytest.mark.timeout(300)
def test_a_watched_file_is_never_seen_half(tmp_path: Path, caplog: Any) -> None:
    """Replaced two hundred times while it is watched, and then loaded as it is at the end."""
    begin()
    path = write(tmp_path / "llm.toml", version(0))
    config.load(path)
    with config.watch(interval=0.01):
        for number in range(1, 201):
            write(path, version(number) + "#" * 10_000)
            seen: Seen = []
            ask(seen)
            check(seen)
            time.sleep(0.002 if number % 10 else 0.05)

        def is_last() -> bool:
            seen: Seen = []
            ask(seen)
            check(seen)
            return ("shared/x", 200) in seen

        eventually(is_last)

    assert [] == [
        each for each in caplog.records if "Config" in each.getMessage() and each.levelno > 20
    ]


def _both(first: Callable[[], object], second: Callable[[], object]) -> None:
    """Run two loops in two threads, and raise what one of them raises."""
    errors: list[BaseException] = []

    def run(each: Callable[[], object]) -> None:
        try:
            each()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(each,)) for each in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    assert [] == errors


def test_changes_by_code_and_reloads_do_not_lose_each_other() -> None:
    """Whichever comes first, both are in force at the end."""
    source: dict[str, Any] = {"chains": {"load": "file/0"}}
    config.load(source)

    def reloads() -> None:
        for number in range(300):
            source["chains"] = {"load": f"file/{number}"}
            config.reload()

    def defines() -> None:
        for number in range(300):
            chains.define({"code": f"code/{number}"})
            configure(attempts=1 + number % 5)

    _both(reloads, defines)

    assert ["file/299", "code/299"] == [
        chains.resolve(f"@{name}")[0].key for name in ("load", "code")
    ]
    assert "settings.attempts" not in (config.current().shadowed if config.current() else ())
