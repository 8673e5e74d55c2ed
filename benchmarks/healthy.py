"""Print what a healthy call costs, beside an empty wrapper measured in the same run.

    python benchmarks/healthy.py            the table
    python benchmarks/healthy.py --quick    a smoke test of the same

Every row is a ratio to its own baseline. Baseline and subject are timed in turn, in short
slices, and the median of the slices' ratios is shown with its quartiles, so that a machine
whose speed drifts does not favour either.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gc
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from resilient_llm import Target, bench_model, breaker, failover
from resilient_llm.testing import isolated

CHAIN = ["groq/llama-3.3-70b", "openai/gpt-5-mini"]
Timer = Callable[[int], float]


def sync_timer(call: Callable[[str], Any]) -> Timer:
    """Return what times so many synchronous calls, in seconds."""

    def run(times: int) -> float:
        repeats = range(times)
        began = time.perf_counter()
        for _ in repeats:
            call("hi")
        return time.perf_counter() - began

    return run


def async_timer(call: Callable[[str], Any]) -> Timer:
    """Return what times so many asynchronous calls within one loop, in seconds."""

    async def run(times: int) -> float:
        repeats = range(times)
        began = time.perf_counter()
        for _ in repeats:
            await call("hi")
        return time.perf_counter() - began

    return lambda times: asyncio.run(run(times))


def with_timer(enter: Callable[[], Any]) -> Timer:
    """Return what times so many entries into a fresh or reused context manager, in seconds."""

    def run(times: int) -> float:
        repeats = range(times)
        began = time.perf_counter()
        for _ in repeats:
            with enter():
                pass
        return time.perf_counter() - began

    return run


def empty(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return the closure that every decorator is at least."""

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return wrapper


def empty_async(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await fn(*args, **kwargs)

    return wrapper


class EmptyManager:
    """A reusable context manager that does nothing."""

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        return None


@empty
def plain(prompt: str) -> str:
    return prompt


@empty_async
async def plain_async(prompt: str) -> str:
    return prompt


def _empty_with() -> Timer:
    managers = {"groq": EmptyManager()}

    def run(times: int) -> float:
        repeats = range(times)
        began = time.perf_counter()
        for _ in repeats:
            with managers["groq"]:
                pass
        return time.perf_counter() - began

    return run


def _breaker_with() -> Timer:
    def run(times: int) -> float:
        repeats = range(times)
        began = time.perf_counter()
        for _ in repeats:
            with breaker("groq"):
                pass
        return time.perf_counter() - began

    return run


def rows() -> list[tuple[str, Timer, Timer, float]]:
    """Return ``(what, baseline, subject, ratio to hold)``."""

    @failover(chain=CHAIN)
    def ask(target: Target, prompt: str) -> str:
        return prompt

    @failover(chain=CHAIN)
    def ask_by_name(prompt: str, *, model: str | None = None) -> str:
        return prompt

    @failover(chain=CHAIN, timeout=30)
    def ask_in_time(target: Target, prompt: str) -> str:
        return prompt

    @failover(chain=CHAIN)
    async def ask_async(target: Target, prompt: str) -> str:
        return prompt

    @failover(chain=["mistral/large", "openai/gpt-5-mini"])
    def ask_second(target: Target, prompt: str) -> str:
        return prompt

    bench_model("mistral/large")
    return [
        ("failover, sync, target first", sync_timer(plain), sync_timer(ask), 2.0),
        ("failover, sync, injected by name", sync_timer(plain), sync_timer(ask_by_name), 2.0),
        ("failover, sync, with timeout", sync_timer(plain), sync_timer(ask_in_time), 2.5),
        ("failover, async", async_timer(plain_async), async_timer(ask_async), 2.0),
        ("with breaker(...)", _empty_with(), _breaker_with(), 2.5),
        ("skip a benched target (to a healthy call)", sync_timer(ask), sync_timer(ask_second), 1.5),
    ]


def ratio(baseline: Timer, subject: Timer, *, slices: int, times: int) -> tuple[float, float, float, float]:
    """Return ``(median, lower quartile, upper quartile, baseline nanoseconds)`` of the slices."""
    ratios: list[float] = []
    base: list[float] = []
    baseline(times), subject(times)
    gc.collect()
    for _ in range(slices):
        before = baseline(times)
        took = subject(times)
        after = baseline(times)
        ratios.append(2 * took / (before + after))
        base.append(before / times * 1e9)
    low, middle, high = statistics.quantiles(ratios, n=4)
    return middle, low, high, statistics.median(base)


class CountingLock:
    """A lock that counts how often any of its kind is taken."""

    taken = 0
    real = threading.RLock

    def __init__(self) -> None:
        self._lock = CountingLock.real()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        CountingLock.taken += 1
        return self._lock.acquire(blocking, timeout)

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()


def locks_on_healthy_calls(times: int) -> int:
    """Return how often a lock of the library is taken during so many healthy calls."""
    before = threading.Lock, threading.RLock
    threading.Lock = threading.RLock = CountingLock  # type: ignore[misc, assignment]
    try:
        with isolated():

            @failover(chain=CHAIN)
            def ask(target: Target, prompt: str) -> str:
                return prompt

            for _ in range(10):
                ask("hi")
            CountingLock.taken = 0
            for _ in range(times):
                ask("hi")
            return CountingLock.taken
    finally:
        threading.Lock, threading.RLock = before


def import_cost(statement: str, runs: int) -> float:
    """Return the processor milliseconds that a statement costs beyond bare Python, by median."""
    script = f"import time; b = time.process_time(); {statement}; print(time.process_time() - b)"
    # As installed: with compiled files, which the first run makes.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    costs = [
        float(
            subprocess.run(
                [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
            ).stdout
        )
        for _ in range(runs + 1)
    ][1:]
    return statistics.median(costs) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke test: figures mean little")
    quick = parser.parse_args().quick
    slices, times, runs = (5, 2_000, 1) if quick else (41, 20_000, 11)
    print(f"CPython {platform.python_version()} on {platform.machine()}, {platform.system()}")
    print(f"{'work':45} {'ratio':>6} {'quartiles':>15} {'at most':>8} {'baseline':>10}")
    with isolated():
        for what, baseline, subject, limit in rows():
            middle, low, high, nanoseconds = ratio(baseline, subject, slices=slices, times=times)
            print(f"{what:45} {middle:6.2f} {low:7.2f}-{high:<7.2f} {limit:8.1f} {nanoseconds:7.0f} ns")
        print(f"{'locks taken in 10,000 healthy calls':45} {locks_on_healthy_calls(10_000):6d}")
    for statement in ("import resilient_llm", "from resilient_llm import failover, breaker, list_benched"):
        print(f"{statement:60} {import_cost(statement, runs):6.1f} ms of processor time")


if __name__ == "__main__":
    main()
