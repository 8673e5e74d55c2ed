"""Measuring, for every script in this folder: what is timed, against what, how often.

Owns how a ratio is made, how locks, memory and imports are counted, and what the machine
is called. It knows neither this library nor any other.

Every figure of speed is a ratio to a baseline of the same run. Baseline and subjects are
timed in turn, in short slices of equal length, and each slice of a subject is compared
with the baseline's slices just before and just after it. The median of these ratios is
shown with its quartiles, so that a machine whose speed drifts favours nobody. What is
taken is processor time. The loop around the calls is in both, since every caller has one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

Function = Callable[..., Any]
Timer = Callable[[int], float]
"""Does something so many times and returns the seconds that it took."""


# Other programs that take the processor away do not count, where the system can tell.
# Threads and waits are timed by the wall.
_clock = (
    time.process_time
    if time.get_clock_info("process_time").resolution < 1e-5
    else time.perf_counter
)


# What is timed.


def sync_timer(call: Function) -> Timer:
    """Return what times synchronous calls."""

    def run(times: int) -> float:
        repeats = range(times)
        began = _clock()
        for _ in repeats:
            call("hi")
        return _clock() - began

    return run


def async_timer(call: Function, *, at_once: int | None = None) -> Timer:
    """Return what times asynchronous calls, one after the other within one loop of asyncio.

    Args:
        call: What is awaited.
        at_once: Calls after which the loop is let run, untimed. A call that answers at once
            never lets it, so what it leaves for the loop to clear away would pile up, as the
            timers of deadlines do.
    """

    async def run(times: int) -> float:
        took = 0.0
        while times > 0:
            repeats = range(times if at_once is None else min(times, at_once))
            began = _clock()
            for _ in repeats:
                await call("hi")
            took += _clock() - began
            times -= len(repeats)
            await asyncio.sleep(0)
        return took

    return lambda times: asyncio.run(run(times))


def turns_timer(calls: Sequence[Function]) -> Timer:
    """Return what times synchronous calls of many functions in turn."""

    def run(times: int) -> float:
        rounds, rest = divmod(times, len(calls))
        began = _clock()
        for _ in range(rounds):
            for call in calls:
                call("hi")
        for call in calls[:rest]:
            call("hi")
        return _clock() - began

    return run


def statement_timer(statement: str, names: Mapping[str, Any], *, is_async: bool = False) -> Timer:
    r"""Return what times a statement, written out so that no call of ours is measured with it.

    Args:
        statement: One or more lines, as in ``"with breakers['groq']:\n    pass"``.
        names: ``{name: value}`` of what it uses, which are globals as in users' modules.
        is_async: Whether it awaits.
    """
    body = statement.replace("\n", "\n        ")
    source = (
        f"{'async ' if is_async else ''}def run(times):\n"
        f"    repeats = range(times)\n"
        f"    began = clock()\n"
        f"    for _ in repeats:\n"
        f"        {body}\n"
        f"    return clock() - began\n"
    )
    namespace: dict[str, Any] = {"clock": _clock, **names}
    exec(compile(source, "<statement>", "exec"), namespace)  # noqa: S102  # as timeit does
    run = namespace["run"]
    return (lambda times: asyncio.run(run(times))) if is_async else run


def fresh_timer(make: Callable[[], Function], calls_before: int) -> Timer:
    """Return what times calls of a function that is new in every slice, after a few calls."""

    def run(times: int) -> float:
        call = make()
        for _ in range(calls_before):
            call("hi")
        return sync_timer(call)(times)

    return run


def stream_timer(call: Function) -> Timer:
    """Return what times the items of a synchronous stream after its first.

    The call is told how many items to give. Its end is timed with them, once in so many.
    """

    def run(times: int) -> float:
        stream = iter(call(times + 1))
        next(stream)
        began = _clock()
        for _ in stream:
            pass
        return _clock() - began

    return run


def async_stream_timer(call: Function, *, at_once: int | None = None) -> Timer:
    """Return what times the items of an asynchronous stream after its first, within a loop of asyncio.

    Args:
        call: Is told how many items to give.
        at_once: Items after which the loop is let run, untimed: see `async_timer`.
    """

    async def run(times: int) -> float:
        stream = call(times + 1)
        items = aiter(await stream if hasattr(stream, "__await__") else stream)
        await anext(items)
        if at_once is not None:
            return await run_in_turns(items, at_once)
        began = _clock()
        async for _ in items:
            pass
        return _clock() - began

    async def run_in_turns(items: AsyncIterator[Any], at_once: int) -> float:
        took, left = 0.0, 0
        while not left:
            left = at_once
            began = _clock()
            async for _ in items:
                left -= 1
                if not left:
                    break
            took += _clock() - began
            await asyncio.sleep(0)
        return took

    return lambda times: asyncio.run(run(times))


def whole_stream_timer(call: Function, items: int) -> Timer:
    """Return what times synchronous streams of so many items, from the call to the end."""

    def run(times: int) -> float:
        repeats = range(times)
        began = _clock()
        for _ in repeats:
            for _ in call(items):
                pass
        return _clock() - began

    return run


def whole_async_stream_timer(call: Function, items: int) -> Timer:
    """Return the same for asynchronous streams."""

    async def run(times: int) -> float:
        repeats = range(times)
        began = _clock()
        for _ in repeats:
            async for _ in call(items):
                pass
        return _clock() - began

    return lambda times: asyncio.run(run(times))


def threads_timer(call: Function, threads: int) -> Timer:
    """Return what times synchronous calls that are shared out among threads."""

    def run(times: int) -> float:
        repeats = range(max(1, times // threads))
        ready, go = threading.Barrier(threads + 1), threading.Event()

        def work() -> None:
            ready.wait()
            go.wait()
            for _ in repeats:
                call("hi")

        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        ready.wait()
        began = time.perf_counter()
        go.set()
        for worker in workers:
            worker.join()
        return (time.perf_counter() - began) * times / (len(repeats) * threads)

    return run


# What it is compared with.


def empty(fn: Function) -> Function:
    """Return the closure that every decorator is at least."""

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return wrapper


def empty_async(fn: Function) -> Function:
    """Return the coroutine function that every decorator of one is at least."""

    @functools.wraps(fn)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await fn(*args, **kwargs)

    return wrapper


def with_own_code(fn: Function) -> Function:
    """Return a function whose code is its own.

    The interpreter specialises code by what it has met, for all functions that share it; what is
    compared with each other must not share any.
    """
    assert isinstance(fn, FunctionType)
    copy = FunctionType(
        fn.__code__.replace(), fn.__globals__, fn.__name__, fn.__defaults__, fn.__closure__
    )
    copy.__kwdefaults__ = fn.__kwdefaults__
    return functools.update_wrapper(copy, fn)


def empty_stream(fn: Function) -> Function:
    """Return the generator function that every guard of a stream is at least."""

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for item in fn(*args, **kwargs):  # noqa: UP028  # what is compared looks at each item
            yield item

    return with_own_code(wrapper)


def empty_async_stream(fn: Function) -> Function:
    """Return the asynchronous generator function that every guard of one is at least."""

    @functools.wraps(fn)
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async for item in fn(*args, **kwargs):
            yield item

    return with_own_code(wrapper)


class EmptyManager:
    """A reusable context manager that does nothing."""

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        return None

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *error: object) -> None:
        return None


# What a call does: nothing. Ours is told the model, others leave it.


def answer(prompt: str, *, model: str | None = None) -> str:
    """Answer at once."""
    return prompt


async def answer_async(prompt: str, *, model: str | None = None) -> str:
    """Answer at once, in asynchronous code."""
    return prompt


def words(number: int, *, model: str | None = None) -> Iterator[str]:
    """Stream so many items."""
    for _ in range(number):
        yield "word"


async def words_async(number: int, *, model: str | None = None) -> AsyncIterator[str]:
    """Stream so many items, in asynchronous code."""
    for _ in range(number):
        yield "word"


# How it is compared.


@dataclass(frozen=True)
class Effort:
    """How much work a figure is worth."""

    slices: int
    slice_seconds: float
    most: int
    """Calls or keys where a large number of them is the point."""
    imports: int
    is_quick: bool = False


FULL = Effort(slices=41, slice_seconds=0.004, most=1_000_000, imports=15)
QUICK = Effort(slices=2, slice_seconds=0.000_2, most=300, imports=0, is_quick=True)


@dataclass(frozen=True)
class Ratio:
    """A subject's cost in multiples of its baseline's."""

    median: float
    low: float
    high: float
    """Quartiles."""
    baseline: float
    seconds: float
    """Of one call: the baseline's and the subject's own, medians."""


def compare(
    baseline: Timer, subjects: Mapping[str, Timer], effort: Effort, *, most_times: int = 10_000_000
) -> dict[str, Ratio]:
    """Time a baseline and its subjects in turn.

    Args:
        baseline: What the subjects are compared with.
        subjects: ``{name: timer}``.
        effort: How many slices, and how long.
        most_times: Calls in a slice, at most.

    Returns:
        ``{subject: its ratio}``, in the order of ``subjects``.
    """
    base_times = _times(baseline, effort.slice_seconds, most_times)
    times = {
        name: _times(timer, effort.slice_seconds, most_times) for name, timer in subjects.items()
    }
    ratios: dict[str, list[float]] = {name: [] for name in subjects}
    costs: dict[str, list[float]] = {name: [] for name in subjects}
    base_costs: list[float] = []
    # What is there by now is not looked through again by every collection that a slice starts.
    gc.collect()
    gc.freeze()
    try:
        for _ in range(effort.slices):
            before = baseline(base_times) / base_times
            for name, timer in subjects.items():
                cost = timer(times[name]) / times[name]
                after = baseline(base_times) / base_times
                ratios[name].append(2 * cost / (before + after))
                costs[name].append(cost)
                base_costs.append(before)
                before = after
    finally:
        gc.unfreeze()
    base = statistics.median(base_costs) if base_costs else 0.0
    return {name: _ratio(ratios[name], base, statistics.median(costs[name])) for name in subjects}


def _times(timer: Timer, seconds: float, most: int) -> int:
    """Return how many calls fill a slice; makes enough calls to warm the code."""
    times = 1
    # The first calls bind, import and fill caches, and would be taken for slow ones. So a
    # number is believed only when that many calls have been seen to fill a slice twice.
    while (took := min(timer(times), timer(times))) < seconds * 0.7 and times < most:
        times = min(most, max(times + 1, min(times * 8, round(times * seconds / max(took, 1e-9)))))
    return times


def _ratio(ratios: Sequence[float], baseline: float, seconds: float) -> Ratio:
    low, median, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    return Ratio(median, low, high, baseline, seconds)


# What else is counted.


class CountingLock:
    """A lock that counts how often any of its kind is taken."""

    taken = 0

    def __init__(self, real: Any) -> None:
        self._real = real

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        CountingLock.taken += 1
        return self._real.acquire(blocking, timeout)

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *error: object) -> None:
        self._real.release()

    def __getattr__(self, name: str) -> Any:
        # What `threading.Condition` wants to know of a lock differs by its kind.
        return getattr(self._real, name)


@contextlib.contextmanager
def counted_locks() -> Iterator[None]:
    """Make every lock that is created inside one that counts."""
    before = threading.Lock, threading.RLock
    lock, rlock = before
    threading.Lock = lambda: CountingLock(lock())  # type: ignore[misc, assignment]
    threading.RLock = lambda: CountingLock(rlock())  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        threading.Lock, threading.RLock = before


def locks_taken(call: Function, times: int) -> int:
    """Return how often locks made in `counted_locks` are taken by so many calls."""
    for _ in range(10):
        call("hi")
    CountingLock.taken = 0
    for _ in range(times):
        call("hi")
    return CountingLock.taken


@dataclass(frozen=True)
class Memory:
    """What a call does to the heap."""

    kept: float
    """Blocks that are still allocated after a call, on average over many.

    By ``sys.getallocatedblocks``, which sees what is still there and not what came and
    went: a record per call or a leak shows here, a frame or an argument tuple does not.
    """
    peak: int
    """Bytes that one call needs while it runs.

    By ``tracemalloc``, which sees what comes and goes, but nothing of what CPython takes
    from its free lists and its stack of frames.
    """


def memory_of(call: Function, times: int) -> Memory:
    """Return what a synchronous call allocates and keeps."""
    repeats = range(times)
    for _ in range(2):  # the first time, the integers of the loop's own are made
        for _ in repeats:
            call("hi")
        gc.collect()
    before = sys.getallocatedblocks()
    for _ in repeats:
        call("hi")
    gc.collect()
    kept = (sys.getallocatedblocks() - before) / times
    return Memory(kept, peak_of(call))


def peak_of(call: Function) -> int:
    """Return the bytes that a call has allocated at most while it runs, by median of a few."""
    peaks: list[int] = []
    tracemalloc.start()
    try:
        for _ in range(25):
            began = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            call("hi")
            peaks.append(tracemalloc.get_traced_memory()[1] - began)
    finally:
        tracemalloc.stop()
    return int(statistics.median(peaks))


def bytes_held(make: Callable[[], Any]) -> int:
    """Return the bytes that are still allocated after something was made, while it is held."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        held = make()
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
        del held
    finally:
        tracemalloc.stop()
    return after - before


def import_costs(statements: Mapping[str, str], runs: int) -> dict[str, tuple[float, float, float]]:
    """Measure what imports cost in processor time of a fresh interpreter, beyond a bare one.

    Args:
        statements: ``{name: statement}``.
        runs: Fresh interpreters per statement, taken in turn, after one that warms the files
            up. If 0, that one is what is measured.

    Returns:
        ``{name: (median, lower quartile, upper quartile)}`` in milliseconds.
    """
    costs: dict[str, list[float]] = {name: [] for name in statements}
    for run in range(runs + 1):
        for name, statement in statements.items():
            cost = _import_cost(statement)
            if run or not runs:
                costs[name].append(cost)
    result: dict[str, tuple[float, float, float]] = {}
    for name, each in costs.items():
        ratio = _ratio(each, 0.0, 0.0)
        result[name] = ratio.median, ratio.low, ratio.high
    return result


def _import_cost(statement: str) -> float:
    script = f"import time; b = time.process_time(); {statement}; print(time.process_time() - b)"
    # As installed: with compiled files, which the first run makes.
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    }
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT), environment.get("PYTHONPATH")])
    )
    ran = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=ROOT,
    )
    return float(ran.stdout.splitlines()[-1]) * 1000


ROOT = Path(__file__).resolve().parent.parent


def is_installed(module: str) -> bool:
    """Return whether a module can be imported, without importing it."""
    return importlib.util.find_spec(module) is not None


# Where it was measured.


def machine() -> str:
    """Return system, architecture and number of processors."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors"


def processor() -> str:
    """Return the processor's model, as far as the system tells."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
