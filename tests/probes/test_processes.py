"""Health probes where a process forks and where it exits."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import anyio
import pytest

from resilient_llm.probes import HealthProbe
from tests.support.ways import GROQ

ROOT = Path(__file__).parents[2]
PATIENCE = 40.0

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
many_threads = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")


def in_child(check: object) -> int:
    """Run a function in a forked child; return its exit status, 0 if what it returns is true."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if check() else 2  # type: ignore[operator]
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def comes(condition: object) -> bool:
    until = time.monotonic() + PATIENCE
    while not condition():  # type: ignore[operator]
        if time.monotonic() > until:
            return False
        time.sleep(0.001)
    return True


@forks
@many_threads
def test_a_thread_starts_again_in_a_forked_child() -> None:
    """Each worker of a server that was loaded before it forked has circuits to probe."""
    probed: list[int] = []
    one = HealthProbe({"groq": lambda: probed.append(os.getpid())}, interval=0.01)
    one.start_thread()
    assert comes(lambda: probed)

    status = in_child(lambda: one.running and comes(lambda: os.getpid() in probed))
    one.stop_thread()

    assert 0 == status
    assert {os.getpid()} == set(probed)


@forks
@many_threads
def test_a_child_of_one_that_was_stopped_has_no_thread() -> None:
    """And may start one, in either way."""
    probed: list[int] = []
    one = HealthProbe({"groq": lambda: probed.append(1)})
    one.start_thread()
    assert comes(lambda: probed)
    one.stop_thread()
    probed.clear()

    def check() -> bool:
        assert not one.running
        assert not [each for each in threading.enumerate() if "probe" in each.name]
        one.start_thread()
        assert comes(lambda: probed)
        one.stop_thread()
        anyio.run(one.start)
        return True

    assert 0 == in_child(check)


@forks
@many_threads
def test_a_loop_in_a_task_is_started_anew_in_a_forked_child() -> None:
    """The child has no event loop that runs it, nor the parent's runs."""
    hangs, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        hangs.set()
        go_on.wait(PATIENCE)

    one = HealthProbe({GROQ: hang}, timeout=2.0)
    statuses: list[int] = []

    def check() -> bool:
        assert not one.running
        assert not one._runs.running
        go_on.set()
        thread = threading.Thread(target=lambda: statuses.append(bool(anyio.run(tick))))
        thread.start()
        thread.join()
        return statuses == [1]

    async def tick() -> bool | None:
        return (await one.tick())[GROQ].ok

    async def main() -> int:
        async with one:
            while not hangs.is_set():  # noqa: ASYNC110  # set by a thread
                await anyio.sleep(0.001)
            return in_child(check)

    status = anyio.run(main)
    go_on.set()

    assert 0 == status


@forks
def test_a_child_does_not_wait_for_a_lock_of_a_thread_of_the_parent() -> None:
    """Forked again and again while probes begin and end."""
    # In a process of its own, where no other test has left something to do at a fork.
    script = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # this process has threads

from resilient_llm import breaker, configure
from resilient_llm.probes import HealthProbe
from tests.probes.test_processes import in_child
from tests.support.ways import ProviderError

configure(logging=False)
for number in range(5):
    breaker(f"p{number}").record(ProviderError(503), 0.0)
one = HealthProbe(
    {f"p{number}": (lambda: False) for number in range(20)}, interval=0.001, jitter=1.0
)
one.start_thread()
print(sum(in_child(lambda: one.running) for _ in range(20)))
one.stop_thread()
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert ("0\n", "") == (done.stdout, done.stderr)


PROGRAMS = {
    "thread": """
        one = HealthProbe({"groq": good, "openai": agood, "mistral": hang}, interval=0.001)
        one.start_thread()
        assert begun.wait(10)
    """,
    "thread with requests": """
        one = HealthProbe({"groq": http_probe("http://localhost:1")}, interval=0.001)
        one.start_thread()
        time.sleep(0.2)
    """,
    "asyncio": """
        async def main():
            one = HealthProbe({"groq": good, "openai": agood, "mistral": hang, "x": ahang})
            await one.start()
            while not begun.is_set():
                await asyncio.sleep(0.001)
        asyncio.run(main())
    """,
    "trio": """
        async def main():
            one = HealthProbe({"groq": good, "openai": agood, "mistral": hang, "x": ahang})
            await one.start()
            while not begun.is_set():
                await trio.sleep(0.001)
        trio.run(main)
    """,
    "loop that is left": """
        loop = asyncio.new_event_loop()
        one = HealthProbe({"groq": good, "openai": agood, "mistral": hang, "x": ahang})
        loop.run_until_complete(one.start())
        loop.run_until_complete(asyncio.sleep(0.1))
    """,
    "exit within": """
        async def main():
            async with HealthProbe({"groq": good, "mistral": hang, "x": ahang}):
                await asyncio.sleep(0.1)
                raise SystemExit(0)
        asyncio.run(main())
    """,
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_ends_without_a_word_while_probes_run(program: str) -> None:
    """Whatever runs when the interpreter exits, it prints nothing and holds nothing up."""
    head = """
        import asyncio, threading, time
        import anyio, trio
        from resilient_llm.probes import HealthProbe, http_probe

        begun = threading.Event()

        def good():
            pass

        async def agood():
            pass

        def hang():
            begun.set()
            threading.Event().wait()

        async def ahang():
            await anyio.sleep_forever()
    """
    code = textwrap.dedent(head) + textwrap.dedent(PROGRAMS[program])

    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
