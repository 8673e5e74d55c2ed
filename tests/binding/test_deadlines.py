"""What a call with a deadline costs: whether its first attempt is made before there is a flow."""

from __future__ import annotations

from typing import Any, NoReturn

import pytest

from resilient_llm import Attempt, Target, bench_model, failover
from resilient_llm._binding import caller


def _no_flow(*_: Any) -> NoReturn:
    raise AssertionError("the call has a flow")


def test_a_first_attempt_needs_no_flow_while_no_other_target_was_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fallback that no call has used yet may be called, so the limit of the first is known."""

    @failover(chain=["groq/first", "openai/second"], timeout=30.0)
    def ask(target: Target, attempt: Attempt) -> float | None:
        return attempt.remaining

    before = ask()  # the first call of a target always has a flow
    monkeypatch.setattr(caller, "call_flow", _no_flow)

    assert [before, ask()] == [pytest.approx(22.5, abs=1.0)] * 2


def test_a_first_attempt_may_use_all_the_time_while_the_other_target_is_benched() -> None:
    """A fallback that is benched needs no share of the deadline."""

    @failover(chain=["groq/first", "openai/second"], timeout=30.0)
    def ask(target: Target, attempt: Attempt) -> float | None:
        return attempt.remaining

    ask()  # the first call of a target always has a flow
    bench_model("openai")

    assert ask() == pytest.approx(30.0, abs=1.0)
