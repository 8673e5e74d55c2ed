"""What we rely on in our three dependencies. Also run with the oldest releases of them that we allow."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio
import pytest
import tenacity
import trio
import wrapt

from resilient_llm import AttemptFailed, ErrorKind, Target, events, failover, observe
from resilient_llm.testing import ascripted, fake_clock, isolated, scripted

ROOT = Path(__file__).parents[2]
RUNNERS = {
    "asyncio": lambda main: asyncio.run(main()),
    "trio": trio.run,
    "anyio": anyio.run,
    "anyio on trio": lambda main: anyio.run(main, backend="trio"),
}
WAITS = {
    "fixed": tenacity.wait_fixed(1),
    "random": tenacity.wait_random(0, 2),
    "exponential": tenacity.wait_exponential(multiplier=1, max=10),
    "random exponential": tenacity.wait_random_exponential(max=3),
    "exponential with jitter": tenacity.wait_exponential_jitter(max=4),
    "sum": tenacity.wait_fixed(1) + tenacity.wait_random(0, 1),
    "chain": tenacity.wait_chain(tenacity.wait_fixed(2), tenacity.wait_fixed(3)),
}


@pytest.fixture(params=RUNNERS.values(), ids=RUNNERS)
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]:
    """Give a function that runs a coroutine function on one of the event loops."""
    return request.param


def test_the_oldest_tested_are_the_lower_bounds() -> None:
    """What pyproject.toml allows at least is what CI tests, and nothing is capped."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = [
        line
        for line in (ROOT / ".ci" / "oldest.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    ]

    allowed = {
        name: version
        for name, _, version in (each.partition(">=") for each in project["dependencies"])
    }
    tested = {
        name: version.removesuffix(".0")
        for name, _, version in (each.partition("==") for each in pins)
    }

    assert {"tenacity", "wrapt", "anyio"} == allowed.keys()
    assert allowed == tested


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_a_tenacity_wait_is_a_backoff(wait: Any) -> None:
    """Every wait of tenacity says how long to wait before the next attempt."""
    provider = scripted(ConnectionResetError(), ConnectionResetError(), "hello")

    @failover("groq/llama", backoff=wait)
    def ask(target: Target) -> str:
        return provider(target)

    with isolated(), fake_clock() as clock:
        answer = ask()
        sleeps = clock.sleeps

    assert "hello" == answer
    assert 2 == len(sleeps)
    assert all(0 <= seconds <= 10 for seconds in sleeps)


def test_an_attempt_is_cut_off(run: Callable[..., Any]) -> None:
    """An attempt's limit cancels it on every event loop, and the next target answers."""
    failures: list[AttemptFailed] = []

    @failover("groq/llama, openai/gpt", attempt_timeout=0.01)
    async def ask(target: Target) -> str:
        if target.provider == "groq":
            await anyio.sleep(60)
        return target.key

    with isolated():
        observe(failures.append, AttemptFailed)
        answer = run(ask)

    assert "openai/gpt" == answer
    assert [("timeout", ErrorKind.TRANSIENT)] == [(each.reason, each.kind) for each in failures]


def test_waits_are_the_loops_own(run: Callable[..., Any]) -> None:
    """A backoff is slept on every event loop."""
    provider = ascripted(ConnectionResetError(), "hello")

    @failover("groq/llama", backoff=lambda number: 0.001 * number)
    async def ask(target: Target) -> str:
        return await provider(target)

    with isolated():
        answer = run(ask)

    assert "hello" == answer


def test_events_arrive(run: Callable[..., Any]) -> None:
    """The stream of events works on every event loop."""

    @failover("groq/llama")
    async def ask(target: Target) -> str:
        return target.key

    async def main() -> str:
        async with events() as stream:
            await ask()
            async for event in stream:
                return type(event).__name__
        raise AssertionError

    with isolated():
        seen = run(main)

    assert "AttemptSucceeded" == seen


def test_wrapt_is_of_a_kind_that_we_know() -> None:
    """A transparent proxy looks like what it stands for."""
    proxy = wrapt.ObjectProxy([1, 2])

    assert isinstance(proxy, list)
    assert [1, 2] == proxy
