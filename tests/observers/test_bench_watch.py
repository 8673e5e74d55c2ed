"""While an exporter wants it, the end of a bench is emitted without any traffic, and once."""

import os
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from resilient_llm import TargetUnbenched, bench_model, breaker, list_benched, observe
from resilient_llm._runtime.expiry import BenchWatch, watch_benches
from resilient_llm._runtime.runtime import runtime
from resilient_llm.observers import Exporter
from resilient_llm.testing import FakeClock, capture_events, fake_clock, isolated
from tests.support.ways import ProviderError

PATIENCE = 40.0
"""Real seconds after which a test gives up; nothing takes as long."""


@pytest.fixture(autouse=True)
def own_state() -> Iterator[None]:
    with isolated():
        yield
    assert is_gone(threads())


def threads() -> list[threading.Thread]:
    return [
        each
        for each in threading.enumerate()
        if each.name == "resilient_llm-benches" and each.is_alive()
    ]


def started(count: int = 1) -> list[threading.Thread]:
    """Wait until so many threads run; a bare thread starts them."""
    until = time.monotonic() + PATIENCE
    while len(threads()) < count and time.monotonic() < until:
        time.sleep(0.001)
    assert count == len(threads())
    return threads()


def is_gone(of: list[threading.Thread]) -> bool:
    for each in of:
        each.join(PATIENCE)
    return not any(each.is_alive() for each in of)


def heard() -> tuple[threading.Event, list[TargetUnbenched], Callable[[], None]]:
    """Observe ends of benches."""
    came, events = threading.Event(), []

    def note(event: TargetUnbenched) -> None:
        events.append(event)
        came.set()

    return came, events, observe(note, TargetUnbenched)


def test_the_end_of_a_bench_is_emitted_without_traffic() -> None:
    """By a thread, for a bench by hand and for a rate limit."""
    watching = watch_benches()
    came, events, _ = heard()

    bench_model("groq", 0.02)
    assert came.wait(PATIENCE)
    came.clear()
    breaker("openai/gpt").record(ProviderError(429, retry_after=0.02), 0.1)
    assert came.wait(PATIENCE)

    assert [("groq", "expired"), ("openai/gpt", "expired")] == [
        (event.target, event.reason) for event in events
    ]
    assert ["", ""] == [event.by for event in events]
    watching()


def test_without_a_wish_nothing_is_emitted_and_there_is_no_thread() -> None:
    """What nobody needs costs nothing."""
    _, events, _ = heard()

    with fake_clock() as clock:
        bench_model("groq", 5)
        clock.advance(10)

    assert ([], []) == (threads(), events)


def test_flush_emits_it_at_once_by_the_fake_clock(clock: FakeClock) -> None:
    """`flush` does what the thread would do, at the time of the process."""
    watching = watch_benches()
    with capture_events(TargetUnbenched) as events:
        bench_model("groq", 5)
        bench_model("openai", None)
        assert watching.flush()
        before = list(events)
        clock.advance(5)
        assert watching.flush()
        assert watching.flush()

    assert [] == before
    assert ["groq"] == [event.target for event in events]


def test_a_short_bench_of_a_target_ends_inside_the_longer_one_of_its_provider(
    clock: FakeClock,
) -> None:
    """Each key has benches of its own."""
    watching = watch_benches()
    with capture_events(TargetUnbenched) as events:
        bench_model("groq", 100)
        bench_model("groq/llama", 5)
        clock.advance(6)
        watching.flush()

    assert ["groq/llama"] == [event.target for event in events]


def test_each_end_is_emitted_once_whoever_looks_first(eager: None) -> None:
    """Threads that look, and the watch, race for the same ends."""
    watching = watch_benches()
    with fake_clock() as clock, capture_events(TargetUnbenched) as events:
        for number in range(100):
            keys = [f"p{number}-{each}" for each in range(4)]
            for key in keys:
                bench_model(key, 1)
            clock.advance(2)
            barrier = threading.Barrier(4)

            def look(barrier: threading.Barrier = barrier) -> None:
                barrier.wait(PATIENCE)
                list_benched()
                watching.flush()

            lookers = [threading.Thread(target=look) for _ in range(4)]
            for each in lookers:
                each.start()
            for each in lookers:
                each.join(PATIENCE)

    assert 400 == len(events) == len({event.target for event in events})
    watching()


@pytest.fixture
def eager() -> Iterator[None]:
    import sys

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_the_thread_ends_with_the_last_wish() -> None:
    """Two exporters have one thread; a second call of an ended wish does nothing."""
    one, two = watch_benches(), watch_benches()
    running = started()

    one()
    one()
    after_one = [each.is_alive() for each in running]
    two()

    assert (1, [True]) == (len(running), after_one)
    assert is_gone(running)
    assert not [each for each in runtime.attached if isinstance(each, BenchWatch)]


def test_it_starts_anew_after_the_last_wish() -> None:
    """A later exporter gets a new thread."""
    watch_benches()()
    again = watch_benches()
    came, _, _ = heard()

    bench_model("groq", 0.01)

    assert came.wait(PATIENCE)
    again()


def test_it_ends_with_the_state_that_it_belongs_to() -> None:
    """One that is asked for inside `isolated()` ends with it, and the outer one goes on."""
    outer = watch_benches()
    before = started()
    with isolated():
        watch_benches()
        inner = [each for each in started(2) if each not in before]

    assert is_gone(inner)
    assert all(each.is_alive() for each in before)
    outer()


def test_a_state_that_is_not_in_force_is_left_alone() -> None:
    """The clock of an inner state says nothing about the benches of the outer one."""
    watching = watch_benches()
    _, events, _ = heard()
    bench_model("groq", 60)

    with isolated(), fake_clock() as clock:
        clock.advance(1000)
        watching.flush()

    assert [] == events
    assert ["groq"] == [each.model for each in list_benched()]
    watching()


def test_an_observer_that_interrupts_does_not_end_the_thread() -> None:
    """A KeyboardInterrupt leaves `flush`, and stays without effect in the thread."""
    watching = watch_benches()
    came, _, _ = heard()

    def interrupts(event: TargetUnbenched) -> None:
        raise KeyboardInterrupt

    stop = observe(interrupts, TargetUnbenched)
    bench_model("groq", 0.01)
    assert came.wait(PATIENCE)
    came.clear()
    bench_model("openai", 0.01)
    assert came.wait(PATIENCE)
    stop()
    watching()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_has_its_own_thread() -> None:
    """The child emits ends by itself, and has no thread if nobody wishes for one any more."""
    watching = watch_benches()
    came, _, _ = heard()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            bench_model("groq", 0.01)
            status = 0 if came.wait(PATIENCE) else 2
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)

    assert 0 == os.waitstatus_to_exitcode(status)
    watching()


def test_an_exporter_has_it_flushed_with_itself(clock: FakeClock) -> None:
    """`flush` of an exporter exports the ends, too."""
    sent: list[str] = []
    waiting: list[str] = []

    def work(until: float) -> bool:
        sent.extend(waiting)
        waiting.clear()
        return True

    exporter = Exporter("test", work=work)
    exporter.listen(lambda event: waiting.append(event.target), TargetUnbenched)
    exporter.watch_benches()
    bench_model("groq", 5)
    clock.advance(6)
    running = started()

    assert exporter.flush()
    exporter()

    assert ["groq"] == sent
    assert is_gone(running)


def fails(key: str) -> None:
    with pytest.raises(ConnectionError), breaker(key):
        raise ConnectionError


@pytest.mark.parametrize("key", ["groq", "groq/llama"])
@pytest.mark.parametrize("is_looked_at", [False, True])
def test_a_bench_by_errors_ends_for_who_was_told_of_it(key: str, is_looked_at: bool) -> None:
    """Though a probe has still to confirm it: once, whoever looks first."""
    with fake_clock() as clock, isolated():
        breaker(key, failures=1, cooldown=30.0)
        watching = watch_benches()
        _, events, unsubscribe = heard()
        fails(key)
        assert watching.flush()
        assert [] == events
        clock.advance(34.0)
        if is_looked_at:
            assert "half_open" == breaker(key).state
        for _ in range(2):
            assert watching.flush()

        assert [("expired", key)] == [(each.reason, each.target) for each in events]
        fails(key)  # the probe
        assert watching.flush()
        clock.advance(400.0)
        assert watching.flush()
        assert ["expired"] * 2 == [each.reason for each in events]
        with breaker(key):
            pass
        assert watching.flush()
        assert ["expired", "expired", "recovered"] == [each.reason for each in events]
        unsubscribe()
        watching()


def test_without_a_watch_only_the_probe_tells_of_the_end() -> None:
    """Nobody was told of the bench who would have to be told of its end."""
    with fake_clock() as clock, isolated(), capture_events() as events:
        breaker("groq", failures=1, cooldown=30.0)
        fails("groq")
        clock.advance(34.0)
        with breaker("groq"):
            pass

    ends = [each.reason for each in events if isinstance(each, TargetUnbenched)]
    assert ["recovered"] == ends
