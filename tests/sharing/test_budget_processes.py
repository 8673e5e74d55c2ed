"""Budgets between real processes: over SQLite and over a real Valkey, also when they are killed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resilient_llm import Budget, Target, configure, spend, store_status
from resilient_llm._core.sharing import money
from resilient_llm._core.spending.asking import Asked
from resilient_llm._core.spending.booking import NOTHING
from resilient_llm._core.spending.estimates import Estimate
from resilient_llm._core.spending.ledger import Reservation
from resilient_llm._runtime.runtime import runtime
from tests.support.sharing import eventually
from tests.support.valkey import Server

CAP = 60
_CHILD = """
import os, sys, threading
from resilient_llm import Budget, BudgetExceededError, Target, configure, failover, store_status
from resilient_llm._core.sharing import money
from resilient_llm._runtime.runtime import runtime

url, cap, mode = sys.argv[1], int(sys.argv[2]), sys.argv[3]
money.LASTS, money.RENEW_EVERY = 1.0, 0.2
configure(
    state=url, state_timeout=20.0, logging=False, state_options={"poll": 0.1},
    budgets=[Budget(tokens=cap, per="month", name="shared")],
)
assert store_status(wait=20).connected
sent = []

@failover([Target("groq/llama", max_output=3)], tokens=2)
def ask(target: Target) -> dict:
    if mode == "hangs":
        os.write(1, b"sent\\n")
        sys.stdin.read()
    sent.append(1)
    return {"type": "message", "content": [], "usage": {"input_tokens": 2, "output_tokens": 3}}

def work():
    while True:
        try:
            ask()
        except BudgetExceededError as error:
            if error.spent == cap:
                return

threads = [threading.Thread(target=work) for _ in range(4)]
[each.start() for each in threads]
[each.join() for each in threads]
print(len(sent), flush=True)
"""


@pytest.fixture(params=["sqlite", "valkey"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a real store."""
    if request.param == "sqlite":
        yield f"sqlite://{tmp_path}/state.db"
        return
    server = Server()
    try:
        yield server.url
    finally:
        server.close()


def _child(url: str, mode: str = "works") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD, url, str(CAP), mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _spent(url: str) -> Any:
    configure(
        state=url,
        state_timeout=20.0,
        state_options={"poll": 0.1},
        budgets=[Budget(tokens=CAP, per="month", name="shared")],
    )
    assert store_status(wait=20).connected
    return [(row.spent, row.reserved, row.calls, row.estimated) for row in spend()]


def test_processes_spend_exactly_the_cap(url: str) -> None:
    """Four processes of four threads send what the cap admits, and all of it is booked."""
    children = [_child(url) for _ in range(3)]

    sent = sum(json.loads(each.communicate(timeout=120)[0]) for each in children)

    assert CAP // 5 == sent
    eventually(lambda: _spent(url) == [(CAP, 0, CAP // 5, 0)])


def test_a_killed_process_is_booked_by_its_input(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reservations end by the clock of the store: a crash loop does not spend unseen."""
    monkeypatch.setattr(money, "LASTS", 1.0)
    monkeypatch.setattr(money, "RENEW_EVERY", 0.2)
    child = _child(url, "hangs")
    assert child.stdout is not None
    for _ in range(4):
        assert "sent\n" == child.stdout.readline()
    eventually(lambda: _spent(url) == [(0, 20, 0, 0)])

    child.kill()
    child.communicate()
    eventually(lambda: _asked_and_spent(url) == [(8, 0, 4, 4)])


def _asked_and_spent(url: str) -> Any:
    """Ask for something, so that the store looks for what is overdue."""
    reservation = Reservation(Target("groq/llama"), Estimate(1, 1))
    asked = runtime.ledger.reserve(reservation, time.time())
    assert isinstance(asked, Asked)
    eventually(lambda: asked.answer is not None)
    runtime.ledger.answered(reservation, time.time())
    runtime.ledger.settle(reservation, NOTHING)
    eventually(lambda: not store_status().pending)
    return _spent(url)
