"""`limits={"*": …}`: the states of accounts that are idle are dropped above a bound."""

from __future__ import annotations

from typing import Any

import pytest

from resilient_llm import CallRejectedError, Limit, Target, breaker, configure, failover
from resilient_llm._runtime import limiting
from resilient_llm._runtime.runtime import runtime

MOST = 20


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiting, "MOST_KEYS", MOST)
    monkeypatch.setattr(runtime.limits, "_next_sweep", MOST)


def use_accounts(count: int) -> None:
    for number in range(count):
        with breaker(f"groq@tenant-{number}"):
            pass


def kept() -> set[str]:
    return set(runtime.limits._states)


def test_idle_accounts_are_dropped(clock: Any) -> None:
    """One account per tenant does not grow memory without limit."""
    configure(limits={"*": Limit(max_concurrent=5, tokens=1000)})

    use_accounts(5 * MOST)

    assert MOST + MOST // 10 + 1 >= len(kept())


def test_what_is_in_use_stays(clock: Any) -> None:
    """An attempt in flight, a bucket that is not full, and what a function refers to."""
    configure(limits={"*": Limit(max_concurrent=1, requests=2, per="hour")})

    @failover(["openai@bound/m"])
    def ask(target: Target) -> str:
        return target.key

    ask()
    with breaker("groq@taken"):
        pass
    with breaker("groq@running"):
        clock.advance(3600)
        use_accounts(5 * MOST)
        with pytest.raises(CallRejectedError, match="concurrency"):
            breaker("groq@running").__enter__()

    assert {"openai@bound", "groq@running"} <= kept()
    assert "groq@tenant-0" in kept()  # its request comes back within the hour


def test_a_dropped_account_begins_as_a_new_one(clock: Any) -> None:
    """Its places and its bucket are those of an account that nobody has used."""
    configure(limits={"*": Limit(max_concurrent=1, requests=1, per="second")})
    with breaker("groq@first"):
        pass
    clock.advance(1)
    for number in range(5 * MOST):
        with breaker(f"groq@tenant-{number}"):
            pass
        clock.advance(1)
    assert "groq@first" not in kept()

    with breaker("groq@first"), pytest.raises(CallRejectedError, match="concurrency"):
        breaker("groq@first").__enter__()
