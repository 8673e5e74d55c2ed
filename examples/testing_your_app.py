"""Tests of an application that uses @failover: no real waits, no network, no shared state.

pytest examples/testing_your_app.py, or: python examples/testing_your_app.py
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from resilient_llm import ChainExhaustedError, Target, failover, list_benched
from resilient_llm.testing import ascripted, fake_clock, isolated

Client = Callable[..., Awaitable[str]]


class Summarizer:
    """The application: summarizes texts with the first model that answers."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @failover(chain=["groq/llama-3.3-70b-versatile", "openai/gpt-5-mini"])
    async def summarize(self, target: Target, text: str) -> str:
        return await self._client(model=target.model, prompt=f"Summarize: {text}")


def test_a_hiccup_is_not_seen() -> None:
    """One lost connection is tried again on the same model."""
    app = Summarizer(ascripted(ConnectionResetError(), "short"))
    with isolated(), fake_clock() as clock:
        assert asyncio.run(app.summarize("long")) == "short"
        assert len(clock.sleeps) == 1
        assert list_benched() == []


def test_an_outage_goes_to_the_fallback() -> None:
    """Three lost connections bench the first model, and the second one answers."""
    app = Summarizer(ascripted(*[ConnectionResetError() for _ in range(3)], "short"))
    with isolated(), fake_clock() as clock:
        assert asyncio.run(app.summarize("long")) == "short"
        assert len(list_benched()) == 1
        clock.advance(60)
        assert list_benched() == []


def test_when_all_are_down_the_error_says_so() -> None:
    """Six lost connections are one error with a member per target."""
    app = Summarizer(ascripted(*[ConnectionResetError() for _ in range(6)]))
    members = 0
    with isolated(), fake_clock():
        try:
            asyncio.run(app.summarize("long"))
        except ChainExhaustedError as error:
            members = len(error.exceptions)
    assert members == 2


if __name__ == "__main__":
    for test in (
        test_a_hiccup_is_not_seen,
        test_an_outage_goes_to_the_fallback,
        test_when_all_are_down_the_error_says_so,
    ):
        test()
        print("ok:", test.__name__)
