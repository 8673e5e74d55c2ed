"""A finaliser or a signal handler that runs while its thread is in the midst of the watchdog."""

from __future__ import annotations

import subprocess
import sys

import pytest

_SCRIPT = '''
import gc
import sys
import threading
from types import SimpleNamespace

from resilient_llm import StreamPolicy, Target, failover
from resilient_llm._runtime import watchdog


@failover(["groq/x"], stream=StreamPolicy(first_item_timeout=8.0, idle_timeout=60.0))
def ask(target: Target):
    yield from "abc"


def opened():
    stream = ask()
    next(stream), next(stream)
    return stream


def finaliser():
    cycle = abandoned.pop()
    cycle.me = cycle
    del cycle
    gc.collect()


def handler():
    assert ["a", "b", "c"] == list(ask())


def interrupts(frame, event, argument):
    """Run the code of the finaliser, or of the handler, at every line of the watchdog."""
    global runs
    if frame.f_code.co_filename != watchdog.__file__:
        return None
    if event == "line":
        sys.settrace(None)
        runs += 1
        {given}()
        sys.settrace(interrupts)
        frame.f_trace = interrupts
    return interrupts


gc.disable()
runs = 0
{before}
abandoned = [SimpleNamespace(stream=opened()) for _ in range(200)] if "{given}" == "finaliser" else []
sys.settrace(interrupts)
for _ in range(3):
    stream = opened()
    stream.close()
sys.settrace(None)
assert runs >= 10, runs
abandoned.clear()
gc.collect()
assert not watchdog._watchdog._alarms
names = [thread.name for thread in threading.enumerate()]
assert 1 == names.count("resilient_llm-watchdog"), names
print("done")
'''


@pytest.mark.parametrize(
    ("given", "started"), [("finaliser", True), ("handler", True), ("handler", False)]
)
def test_trap_54_code_that_runs_inside_the_watchdog(given: str, started: bool) -> None:
    """A stream with limits may be collected, or read, at any line of it: nobody waits."""
    script = _SCRIPT.replace("{given}", given)
    # Without a stream before, the thread is started while the other code runs.
    script = script.replace("{before}", "list(ask())" if started else "")

    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )

    assert ("done\n", "") == (child.stdout, child.stderr)
