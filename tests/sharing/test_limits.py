"""Limits that all processes share: one bucket in the store, taken from in the budgets' step."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resilient_llm import (
    Budget,
    BudgetExceededError,
    ChainExhaustedError,
    ConfigurationError,
    Limit,
    StoreUnavailableError,
    Target,
    TargetSkipped,
    can_call,
    configure,
    failover,
    spend,
    store_status,
)
from resilient_llm._runtime.runtime import runtime
from resilient_llm.stores import StoreError
from resilient_llm.testing import MemoryStore, capture_events
from tests.support.sharing import eventually
from tests.support.ways import GROQ, OPENAI

POLICY = failover([Target(GROQ, max_output=5)], when_all_benched="raise", tokens=5)
FALLBACK = failover([Target(GROQ, max_output=5), Target(OPENAI, max_output=5)])


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore()
    configure(state=made, state_timeout=5.0)
    assert store_status(wait=5).connected
    return made


def ask(target: Target) -> Any:
    return {"type": "message", "content": [], "usage": {"input_tokens": 2, "output_tokens": 3}}


def refusal(call: Callable[[], object]) -> tuple[str, float | None]:
    """Return why a call is refused, and when to come back."""
    with pytest.raises(ChainExhaustedError) as caught:
        call()
    (member,) = caught.value.exceptions
    return member.reason, member.retry_after  # type: ignore[attr-defined]  # a CallRejectedError


def settled() -> None:
    """Wait until the store has answered everything."""
    ledger: Any = runtime.ledger
    eventually(lambda: not (store_status().pending or ledger._settled))


def test_what_others_have_taken_is_gone(store: MemoryStore) -> None:
    """A process that starts finds the bucket as the others have left it."""
    configure(limits={"groq": Limit(requests=2, per="hour", shared=True)})
    POLICY.call(ask)
    POLICY.call(ask)
    configure(state=None, limits={"groq": None})
    configure(state=store, limits={"groq": Limit(requests=2, per="hour", shared=True)})
    assert store_status(wait=5).connected

    reason, retry_after = refusal(lambda: POLICY.call(ask))

    assert "request_limit" == reason
    assert retry_after == pytest.approx(1800, abs=10)


def test_tokens_are_settled_by_what_was_used(store: MemoryStore) -> None:
    """The estimate is taken, and what was not used comes back."""
    configure(limits={"groq": Limit(tokens=20, per="hour", shared=True)})
    for _ in range(3):
        POLICY.call(ask)  # 10 are taken, 5 are used
        settled()

    reason, retry_after = refusal(lambda: POLICY.call(ask))

    assert "token_limit" == reason
    assert retry_after == pytest.approx(900, abs=10)


def test_a_call_above_the_bucket_never_fits(store: MemoryStore) -> None:
    """So nobody is told to come back."""
    configure(limits={"groq": Limit(tokens=9, per="hour", shared=True)})

    assert ("request_too_large", None) == refusal(lambda: POLICY.call(ask))


def test_the_next_target_is_called(store: MemoryStore) -> None:
    """A refusal is one of a limit, and takes nothing from budgets."""
    configure(
        limits={"groq": Limit(requests=1, per="hour", shared=True)},
        budgets=[Budget(calls=9, of="groq", per="day")],
    )
    FALLBACK.call(ask)

    with capture_events(TargetSkipped) as told:
        FALLBACK.call(ask)
    settled()

    assert ["request_limit"] == [each.reason for each in told]
    assert (1, 0) == (spend()[0].spent, spend()[0].reserved)
    answer = can_call(FALLBACK)
    assert {GROQ: "request_limit"} == answer.reasons


def test_what_a_budget_refuses_takes_nothing(store: MemoryStore) -> None:
    """All in one step, or none of it."""
    configure(
        limits={"groq": Limit(requests=1, per="hour", shared=True)},
        budgets=[Budget(calls=0, per="day")],
    )
    with pytest.raises(BudgetExceededError):
        POLICY.call(ask)
    configure(budgets=[])

    POLICY.call(ask)


def test_a_call_waits_until_it_fits(store: MemoryStore) -> None:
    """As for a limit of this process, if its policy waits."""
    configure(limits={"groq": Limit(requests=20, per="second", burst=1, shared=True)})
    policy = failover([GROQ])
    policy.call(ask)

    began = time.monotonic()
    policy.call(ask)

    assert 0.01 < time.monotonic() - began < 2.0


def test_without_the_store_each_process_has_its_part(store: MemoryStore) -> None:
    """The amount divided by the processes; with ``refuse`` nothing."""
    configure(limits={"groq": Limit(requests=2, per="hour", shared=True)}, state_timeout=0.1)

    def fails(*_: Any, **__: Any) -> Any:
        raise StoreError("unreachable")

    for name in ("reserve", "settle", "publish"):
        setattr(store, name, fails)

    POLICY.call(ask)
    POLICY.call(ask)
    assert "request_limit" == refusal(lambda: POLICY.call(ask))[0]
    configure(on_store_down="refuse")
    with pytest.raises(StoreUnavailableError):
        POLICY.call(ask)


def test_places_stay_local(store: MemoryStore) -> None:
    """``max_concurrent`` counts the attempts of this process."""
    limit = Limit(requests=9, per="hour", max_concurrent=1, shared=True)
    configure(limits={"groq": limit})

    def inside(target: Target) -> Any:
        assert "concurrency" == refusal(lambda: POLICY.call(ask))[0]
        return ask(target)

    POLICY.call(inside)
    POLICY.call(ask)


@pytest.mark.parametrize("is_state_last", [False, True], ids=["limits last", "state last"])
def test_a_store_without_limits_is_refused(is_state_last: bool, tmp_path: Path) -> None:
    """Whichever of the two is configured last."""
    url = f"sqlite://{tmp_path}/state.db"
    limits = {"groq": Limit(requests=9, shared=True)}
    if is_state_last:
        configure(state=MemoryStore(), limits=limits)
        with pytest.raises(ConfigurationError, match="shared=True"):
            configure(state=url)
        with pytest.raises(ConfigurationError, match="there is none"):
            configure(state=None)
    else:
        configure(state=url)
        with pytest.raises(ConfigurationError, match="has no limits"):
            configure(limits=limits)


def test_without_a_store_shared_limits_are_refused() -> None:
    """They would be counted by each process for itself."""
    with pytest.raises(ConfigurationError, match="there is none"):
        configure(limits={"groq": Limit(requests=9, shared=True)})
