"""The threads of exporters: when they start and end, what a flush and a fork do."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest

from resilient_llm._runtime import background as module
from resilient_llm._runtime.background import Background, remaining
from resilient_llm.testing import fake_clock, isolated
from tests.support.interrupts import interrupted_at
from tests.support.schedules import WHERE_CPYTHON_SWITCHES

PATIENCE = 40.0
"""Seconds that a test waits for what comes at once."""
ROOT = Path(__file__).parents[2]


class Work:
    """Work that notes in which thread it was done."""

    def __init__(self) -> None:
        self.threads: list[str] = []
        self.done = threading.Semaphore(0)
        self.inside = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, until: float) -> bool:
        self.threads.append(threading.current_thread().name)
        self.inside.set()
        assert self.go_on.wait(PATIENCE)
        self.done.release()
        return True

    def wait(self) -> None:
        assert self.done.acquire(timeout=PATIENCE)


def _ended(name: str) -> bool:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if not any(thread.name == f"resilient_llm-{name}" for thread in threading.enumerate()):
            return True
        time.sleep(0.001)
    return False


def test_the_thread_starts_when_it_is_woken_and_is_a_daemon() -> None:
    """Making a background starts nothing; the first wake does."""
    work = Work()
    background = Background("probe", work)
    assert _ended("probe")

    background.wake()

    work.wait()
    assert ["resilient_llm-probe"] == work.threads
    thread = next(each for each in threading.enumerate() if each.name == "resilient_llm-probe")
    assert thread.daemon
    background.end()
    assert _ended("probe")


def test_every_wake_is_followed_by_work() -> None:
    """A wake that comes while the thread works is not lost."""
    work = Work()
    background = Background("probe", work)
    work.go_on.clear()
    background.wake()
    assert work.inside.wait(PATIENCE)

    background.wake()
    work.go_on.set()

    work.wait()
    work.wait()


def test_what_comes_in_quick_succession_is_done_at_once() -> None:
    """With `gather` the thread waits a little after it was woken, unless somebody waits for it."""
    work = Work()
    background = Background("probe", work, gather=PATIENCE * 10)
    for _ in range(100):
        background.wake()
    assert [] == work.threads

    background.hurry()

    work.wait()
    assert 1 == len(work.threads)


def test_it_works_periodically() -> None:
    """Without a wake, after `start`."""
    work = Work()
    Background("probe", work, period=0.001).start()

    for _ in range(3):
        work.wait()


def test_it_works_when_something_is_due() -> None:
    """The work says itself when it wants to be done again."""
    work = Work()
    pauses = iter([1e9, 0.001, 0.001])
    background = Background("probe", work, due=lambda: next(pauses, 1e9))
    background.wake()

    for _ in range(3):
        work.wait()


def test_a_flush_works_in_the_caller() -> None:
    """Also without a thread, and while the clock stands still."""
    with fake_clock():
        work = Work()
        background = Background("probe", work)

        assert background.flush()

        assert [threading.current_thread().name] == work.threads


def test_a_flush_waits_for_the_thread_but_not_for_ever() -> None:
    """The thread is in the midst of it: the flush waits, works itself, and returns in time."""
    work = Work()
    background = Background("probe", work)
    work.go_on.clear()
    background.wake()
    assert work.inside.wait(PATIENCE)

    assert not background.flush(0.01)
    assert not background.flush(0.0)

    work.go_on.set()
    assert background.flush(PATIENCE)
    assert threading.current_thread().name == work.threads[-1]


def test_a_flush_tells_the_work_until_when() -> None:
    """The work gets the moment at which it has to return; the thread may take its time."""
    given: list[float] = []
    background = Background("probe", lambda until: bool(given.append(remaining(until)) or True))

    background.flush(3.0)

    assert 0.0 < given[0] <= 3.0


def test_a_flush_in_the_midst_of_the_work_returns_at_once() -> None:
    """A signal handler, or the work itself, may flush: that would wait for its own thread."""
    results: list[bool] = []

    def work(until: float) -> bool:
        results.append(background.flush(PATIENCE * 10))
        return True

    background = Background("probe", work)

    assert background.flush()
    assert [False] == results


def test_an_error_ends_neither_the_thread_nor_the_caller(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged once, by its class alone, and the thread goes on."""
    monkeypatch.setattr(module, "_AFTER_FAILURE", 0.001)
    calls = threading.Semaphore(0)

    def work(until: float) -> bool:
        calls.release()
        raise ValueError("a secret")

    background = Background("probe", work)
    assert not background.flush()
    for _ in range(3):
        background.wake()
        assert calls.acquire(timeout=PATIENCE)

    assert not background.flush()
    assert ["probe: failed with ValueError"] == [record.message for record in caplog.records]


class Odd(BaseException):
    """Is not an Exception, as `gevent.Timeout` is not."""


@pytest.mark.parametrize("place", ["work", "due"])
def test_no_error_ends_the_thread_silently(
    place: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged by its class, also if it is not an Exception, and the thread goes on."""
    monkeypatch.setattr(module, "_AFTER_FAILURE", 0.001)
    threads: queue.SimpleQueue[int] = queue.SimpleQueue()

    def work(until: float) -> bool:
        threads.put(threading.get_ident())
        if place == "work":
            raise Odd("a secret")
        return True

    def due() -> float:
        if place == "due":
            raise Odd("a secret")
        return float("inf")

    background = Background("probe", work, due=due)
    seen = set()
    for _ in range(3):
        background.wake()
        seen.add(threads.get(timeout=PATIENCE))

    assert 1 == len(seen)
    assert background.has_thread
    assert ["probe: failed with Odd"] == [record.message for record in caplog.records]


def test_what_is_not_an_exception_goes_to_the_caller_of_a_flush() -> None:
    """The caller works itself, and such an error may be its own time limit."""

    def work(until: float) -> bool:
        raise Odd

    background = Background("probe", work)

    with pytest.raises(Odd):
        background.flush()
    with pytest.raises(Odd):
        background.flush()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_asks_the_thread_to_end_ends_it(error: type[BaseException]) -> None:
    """And the next wake starts another one."""
    done: queue.SimpleQueue[int] = queue.SimpleQueue()
    errors = [error()]

    def work(until: float) -> bool:
        done.put(1)
        if errors:
            raise errors.pop()
        return True

    background = Background("probe", work)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(threading, "excepthook", lambda args: None)
        background.wake()
        done.get(timeout=PATIENCE)
        assert _ended("probe")

    background.wake()

    done.get(timeout=PATIENCE)
    assert background.flush(PATIENCE)


def test_a_thread_that_cannot_start_is_no_error(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning; a later wake tries again, and a flush works without a thread."""

    def fail(*args: object) -> None:
        raise RuntimeError("can't start new thread")

    work = Work()
    background = Background("probe", work)
    with monkeypatch.context() as patched:
        patched.setattr(module._thread, "start_new_thread", fail)
        for _ in range(3):
            background.wake()
        assert ["probe: no thread can be started now: can't start new thread"] == [
            record.message for record in caplog.records
        ]
        assert background.flush()
    background._starts_at = 0.0

    background.wake()

    work.wait()
    work.wait()


def test_a_thread_that_cannot_be_made_by_another_is_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The limit of threads may be reached between the two of them."""
    failed = threading.Event()

    def fail(self: threading.Thread) -> None:
        failed.set()
        raise RuntimeError("can't start new thread")

    work = Work()
    background = Background("probe", work)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        background.wake()
        assert failed.wait(PATIENCE)
        until = time.monotonic() + PATIENCE
        while background.has_thread and time.monotonic() < until:
            time.sleep(0.001)
    background._starts_at = 0.0

    background.wake()

    work.wait()


def test_it_ends_with_its_isolated_state() -> None:
    """The thread is gone, and nothing wakes it any more."""
    work = Work()
    with isolated():
        background = Background("probe", work)
        background.wake()
        work.wait()

    assert background.is_over
    assert _ended("probe")
    background.wake()
    assert _ended("probe")
    reference = weakref.ref(background)
    del background
    until = time.monotonic() + PATIENCE  # what has started its thread may still be at it
    while reference() is not None and time.monotonic() < until:
        time.sleep(0.001)
    assert reference() is None


def test_an_inner_state_leaves_it_alone() -> None:
    """What was made outside of ``isolated()`` goes on after it."""
    work = Work()
    background = Background("probe", work)

    with isolated():
        pass

    assert not background.is_over
    background.wake()
    work.wait()


def test_a_wake_in_a_signal_handler_does_not_wait() -> None:
    """Handlers run anywhere, also inside `wake`, `flush` and the start of a thread."""
    work = Work()
    background = Background("probe", work)
    caught = 0

    def handler(number: int, frame: object) -> None:
        nonlocal caught
        caught += 1
        background.wake()
        background.flush(0.0)

    before = signal.signal(signal.SIGVTALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0002, 0.0002)
        until = time.monotonic() + PATIENCE
        while caught < 300 and time.monotonic() < until:
            other = Background("other", lambda until: True)
            other.wake()
            background.wake()
            background.flush(0.0)
            other.end()
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)

    assert caught >= 300
    assert background.flush(PATIENCE)


def test_a_wake_in_a_finaliser_does_not_wait_for_the_locks_of_threading() -> None:
    """It may run inside `Thread.start`, which holds a lock that is not reentrant."""
    work = Work()
    background = Background("probe", work)
    with threading._active_limbo_lock:  # type: ignore[attr-defined]
        waking = threading.Event()

        def wake() -> None:
            background.wake()
            waking.set()

        import _thread

        _thread.start_new_thread(wake, ())
        assert waking.wait(PATIENCE)

    work.wait()


@pytest.mark.parametrize("first", [True, False])
def test_an_interrupt_in_the_midst_leaves_it_usable(first: bool) -> None:
    """A signal handler that raises, wherever one can run: what is woken later is done by the thread."""

    class Stop(BaseException):
        pass

    def handler() -> None:
        raise Stop

    step, steps = 0, [0]
    while step <= steps[0]:
        step += 1
        done: queue.SimpleQueue[int] = queue.SimpleQueue()

        def work(until: float, done: queue.SimpleQueue[int] = done) -> bool:
            done.put(threading.get_ident())
            return True

        background = Background("probe", work)
        if not first:
            background.wake()
            done.get(timeout=PATIENCE)
        points = WHERE_CPYTHON_SWITCHES
        interrupts = interrupted_at(step, handler, module, points=points)
        with contextlib.suppress(Stop), interrupts as steps:
            background.wake()
            background.flush(0.0)

        assert background.flush(PATIENCE), step
        background.wake()
        while done.get(timeout=PATIENCE) == threading.get_ident():
            pass
        background.end()

    assert step > 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("period", [float("inf"), 0.001])
def test_a_forked_child_starts_its_own_thread(period: float) -> None:
    """Even if the parent's thread was in the midst of its work; the child forgets what waited."""
    work = Work()
    renewed: list[int] = []

    def renew() -> None:
        renewed.append(os.getpid())
        work.__init__()  # type: ignore[misc]

    background = Background("probe", work, period=period, after_fork=renew)
    work.go_on.clear()
    background.start() if period < 1 else background.wake()
    assert work.inside.wait(PATIENCE)

    child = os.fork()
    if child == 0:
        code = 1
        try:
            with contextlib.suppress(BaseException):
                if period > 1:
                    assert not background.has_thread
                    background.wake()
                work.wait()
                assert background.flush()
                assert [os.getpid()] == renewed
                assert "resilient_llm-probe" == work.threads[0]
                code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    work.go_on.set()

    assert 0 == os.waitstatus_to_exitcode(status)
    assert [] == renewed


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE * 2,
        check=False,
    )


def test_the_exit_does_what_is_left() -> None:
    """What the thread has not done, since it gathers, is done when the process exits."""
    done = _run(
        "from resilient_llm._runtime.background import Background\n"
        "b = Background('probe', lambda until: bool(print('done') or True), gather=100)\n"
        "b.wake()"
    )

    assert ("done\n", "") == (done.stdout, done.stderr)


@pytest.mark.parametrize("others", [1, 3])
def test_the_exit_does_not_wait_for_what_hangs(others: int) -> None:
    """One second for all together; what does not hang is done meanwhile."""
    done = _run(
        "import threading, time\n"
        "from resilient_llm._runtime import background as m\n"
        "inside = threading.Semaphore(0)\n"
        "def hang(until):\n"
        "    inside.release()\n"
        "    time.sleep(100)\n"
        f"for n in range({others}):\n"
        "    m.Background('hangs', hang).wake()\n"
        "b = m.Background('probe', lambda until: bool(print('done\\n', end='') or True), gather=100)\n"
        "b.wake()\n"
        f"for n in range({others}): inside.acquire()\n"  # a flush would do what no thread does
        "import atexit\n"
        "m.atexit.unregister(m._at_exit)\n"
        "def measured():\n"
        "    began = time.monotonic()\n"
        "    m._at_exit(); m._at_exit()\n"
        "    print(f'{time.monotonic() - began < 1.9}\\n', end='')\n"  # in one piece
        "atexit.register(measured)\n"
    )

    assert {"True", "done"} == set(done.stdout.split())
    assert "" == done.stderr


def test_an_interrupt_at_the_exit_leaves_out_nobody() -> None:
    """Each is flushed; what one raised is raised after the last of them."""
    done = _run(
        "from resilient_llm._runtime.background import Background\n"
        "class Odd(BaseException): pass\n"
        "def fail(until): raise Odd\n"
        "def work(until): return bool(print('done') or True)\n"
        "fails = [Background('fails', fail, gather=100) for _ in range(2)]\n"
        "b = Background('probe', work, gather=100)\n"
        "last = Background('fails', fail, gather=100)\n"
        "for each in (*fails, b, last): each.is_woken = True\n"
        "from resilient_llm._runtime import background as m\n"
        "m._register_exit()\n"
    )

    assert "done\n" == done.stdout
    assert 1 == done.stderr.count("\nOdd"), done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_of_multiprocessing_does_what_is_left_at_its_exit() -> None:
    """Such a child forgets what its parent registered for the exit."""
    done = _run(
        "import multiprocessing, os\n"
        "from resilient_llm._runtime.background import Background\n"
        "waits = []\n"
        "def work(until):\n"
        "    while waits: print(waits.pop(), flush=True)\n"
        "    return True\n"
        "b = Background('probe', work, gather=100, after_fork=waits.clear)\n"
        "def put(text):\n"
        "    waits.append(text); b.wake()\n"
        "put('parent')\n"
        "process = multiprocessing.get_context('fork').Process(target=put, args=('child',))\n"
        "process.start(); process.join()\n"
    )

    assert ["child", "parent"] == done.stdout.split()
    assert "" == done.stderr
