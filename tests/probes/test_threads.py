"""Synchronous probes run in daemon threads, of which there are few; and many probes at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest

from resilient_llm import configure, health
from resilient_llm.probes import HealthProbe, ProbeResult
from resilient_llm.testing import FakeClock

PATIENCE = 40.0
"""Real seconds after which a test gives up; nothing takes as long."""


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Run an asynchronous function."""

    def run(fn: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        return anyio.run(fn, *args, backend=request.param)

    return run


def threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "resilient_llm-probe"]


class Blocking:
    """A synchronous probe that blocks until it is released."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.begun = 0
        self.result: object = None

    def __call__(self) -> object:
        self.begun += 1
        self.go_on.wait(3 * PATIENCE)
        return self.result


@pytest.fixture
def blocking() -> Iterator[Blocking]:
    """Release it at the end, and let its threads end."""
    probe = Blocking()
    yield probe
    probe.go_on.set()
    for each in threads():
        each.join(PATIENCE)
    assert [] == threads()


async def after(clock: FakeClock, seconds: float, condition: Callable[[], object]) -> None:
    """Move the clock when something has happened."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, "it did not come"
        await anyio.sleep(0.001)
    clock.advance(seconds)


async def ticked(
    one: HealthProbe, clock: FakeClock, condition: Callable[[], object]
) -> dict[str, ProbeResult]:
    """Tick, and let the timeout end when something has happened."""
    results: dict[str, ProbeResult] = {}

    async def tick() -> None:
        results.update(await one.tick())

    async with anyio.create_task_group() as group:
        group.start_soon(tick)
        await anyio.wait_all_tasks_blocked()
        await after(clock, 3.0, condition)
    return results


def test_a_synchronous_probe_runs_in_a_daemon_thread(run: Callable[..., Any]) -> None:
    """Not in that of the event loop, and the thread ends with it."""
    seen: list[tuple[bool, bool]] = []

    def probe() -> None:
        thread = threading.current_thread()
        seen.append((thread.daemon, thread is threading.main_thread()))

    async def main() -> ProbeResult:
        return (await HealthProbe({"groq": probe}).tick())["groq"]

    assert True is run(main).ok
    assert [(True, False)] == seen
    for each in threads():
        each.join(PATIENCE)


def test_one_that_hangs_gives_a_timeout_again_and_has_one_thread(
    run: Callable[..., Any], clock: FakeClock, blocking: Blocking
) -> None:
    """Each tick sees that it hangs; when it ends it is probed anew, and its late result is lost."""

    async def main() -> None:
        one = HealthProbe({"groq": blocking})
        first = (await ticked(one, clock, lambda: blocking.begun))["groq"]
        clock.advance(30.0)
        again = (await one.tick())["groq"]
        assert ([False, False], ["timeout", "timeout"]) == (
            [first.ok, again.ok],
            [first.reason, again.reason],
        )
        assert (3.0, 33.0) == (pytest.approx(first.seconds), pytest.approx(again.seconds))
        assert (1, 1, 2) == (blocking.begun, len(threads()), health(["groq"])["groq"].errors)
        blocking.result = False
        blocking.go_on.set()
        await after(clock, 0.0, lambda: not one._runs.running)
        assert 2 == health(["groq"])["groq"].errors
        blocking.result = None
        assert (await one.tick())["groq"].ok

    run(main)


def test_a_timeout_that_is_seen_again_counts_in_the_state_that_there_is(
    run: Callable[..., Any], clock: FakeClock, blocking: Blocking
) -> None:
    """Five ticks of a hanging probe open a circuit, and the next ones hold it open."""

    async def main() -> None:
        one = HealthProbe({"groq": blocking})
        await ticked(one, clock, lambda: blocking.begun)
        for _ in range(4):
            clock.advance(30.0)
            await one.tick()
        assert "open" == health()["groq"].state
        for _ in range(3):
            clock.advance(29.0)
            await one.tick()
            assert "open" == health()["groq"].state

    run(main)


def test_at_most_64_threads_and_the_other_keys_are_skipped(
    run: Callable[..., Any], clock: FakeClock, blocking: Blocking
) -> None:
    """Nothing is known of a key that was not probed, and asynchronous probes need no thread."""

    async def fine() -> None:
        pass

    async def main() -> None:
        keys = [f"p{number}" for number in range(100)]
        one = HealthProbe({**dict.fromkeys(keys, blocking), "async": fine})
        for _ in range(3):
            found = await ticked(one, clock, lambda: blocking.begun >= 64)
            reasons = [found[key].reason for key in keys]
            assert (64, 36) == (reasons.count("timeout"), reasons.count("threads"))
            assert {(None, True)} == {
                (each.ok, each.skipped) for each in found.values() if each.reason == "threads"
            }
            assert found["async"].ok
            assert (64, 64) == (blocking.begun, len(threads()))
            assert all(each.daemon for each in threads())
            clock.advance(30.0)

    run(main)


def test_a_thread_that_is_done_takes_the_next_probe(run: Callable[..., Any]) -> None:
    """All of 500 quick probes are done in one tick."""
    most = 0

    def probe() -> None:
        nonlocal most
        most = max(most, len(threads()))

    async def main() -> set[bool | None]:
        keys = [f"p{number}" for number in range(500)]
        found = await HealthProbe(dict.fromkeys(keys, probe), timeout=PATIENCE).tick()
        return {each.ok for each in found.values()}

    assert {True} == run(main)
    assert most <= 64
    for each in threads():
        each.join(PATIENCE)


def test_a_probe_that_had_to_wait_for_its_thread_is_no_timeout(
    run: Callable[..., Any], clock: FakeClock
) -> None:
    """It had less time than it may take; if it still runs at the next tick it is overdue."""
    first, late = Blocking(), Blocking()

    async def main() -> None:
        keys = {f"p{number}": first for number in range(64)}
        one = HealthProbe({**keys, "late": late})
        results: list[ProbeResult] = []

        async def tick() -> None:
            results.append((await one.tick())["late"])

        async with anyio.create_task_group() as group:
            group.start_soon(tick)
            await anyio.wait_all_tasks_blocked()
            await after(clock, 2.9, lambda: first.begun == 64)
            first.go_on.set()
            await after(clock, 0.1, lambda: late.begun)
        clock.advance(30.0)
        await tick()
        assert [("threads", True), ("timeout", False)] == [
            (each.reason, each.skipped) for each in results
        ]
        assert 1 == late.begun

    run(main)
    late.go_on.set()
    for each in threads():
        each.join(PATIENCE)


def test_keys_are_skipped_if_no_thread_can_be_started(
    run: Callable[..., Any], clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the system has too many; the next tick tries again."""
    can_start = False
    start = threading.Thread.start

    def may_start(self: threading.Thread) -> None:
        if not can_start and self.name == "resilient_llm-probe":
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", may_start)

    async def main() -> None:
        nonlocal can_start
        one = HealthProbe({"groq": lambda: None})
        found = await ticked(one, clock, lambda: True)
        assert ("threads", True) == (found["groq"].reason, found["groq"].skipped)
        can_start = True
        assert (await one.tick())["groq"].ok

    run(main)
    for each in threads():
        each.join(PATIENCE)


def test_a_thousand_probes_of_which_many_hang_or_raise(
    run: Callable[..., Any], clock: FakeClock, blocking: Blocking
) -> None:
    """With 100 that block their threads, too, the loop keeps its interval and ends in time."""
    configure(logging=False)  # of hundreds of benches
    ticks: list[float] = []
    begun = running = 0

    async def hangs() -> None:
        nonlocal begun, running
        begun += 1
        running += 1
        try:
            await anyio.sleep_forever()
        finally:
            running -= 1

    async def raises() -> None:
        nonlocal begun
        begun += 1
        raise ConnectionResetError

    async def fine() -> None:
        nonlocal begun
        begun += 1

    async def beats() -> None:
        await fine()
        ticks.append(float(clock.monotonic()))

    keys = [f"p{number}" for number in range(1_000)]
    kinds = (fine, raises, hangs)
    probes: dict[str, Any] = {key: kinds[n % 3] for n, key in enumerate(keys)}
    probes["p0"] = beats
    probes |= {f"blocks{number}": blocking for number in range(100)}

    async def main() -> float:
        one = HealthProbe(probes, interval=30.0, timeout=3.0, jitter=0.0)
        await one.start()
        for number in range(1, 5):
            await after(clock, 3.0, lambda: begun == 1_000 * number and blocking.begun == 64)  # noqa: B023  # of this round
            await after(clock, 27.0, lambda: not running)
        await after(clock, 0.0, lambda: begun == 5_000)
        began = time.monotonic()
        await one.stop()
        return time.monotonic() - began

    began_at = float(clock.monotonic())
    took = run(main)

    assert [30.0 * number for number in range(5)] == [each - began_at for each in ticks]
    assert took < 3.0
    assert 0 == running
    assert (64, 64) == (blocking.begun, len(threads()))
    assert all(each.daemon for each in threads())
    found = health()
    assert [4] * 333 == [found[key].errors for key in keys[2::3]]
    assert [5] * 333 == [found[key].errors for key in keys[1::3]]
    assert [0] * 334 == [found[key].errors for key in keys[::3]]
    assert 64 * 5 == sum(found[f"blocks{number}"].errors for number in range(100))
