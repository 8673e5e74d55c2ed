"""`breaker(name)` while providers report their limits: its blocks are attempts of its key."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import httpx
import pytest

from resilient_llm import (
    BreakerOpenError,
    CallRejectedError,
    Target,
    breaker,
    can_call,
    configure,
    failover,
    rate_limits,
    reset,
)
from resilient_llm._runtime import hearing
from resilient_llm._runtime.runtime import runtime
from resilient_llm.limits import listen
from resilient_llm.testing import FakeClock, http_error

FIGURES = {"x-ratelimit-limit": "9", "x-ratelimit-reset": "60.0"}


def answering(*left: float) -> httpx.MockTransport:
    """Return what answers each request with one of these figures."""
    figures = iter(left)

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={**FIGURES, "x-ratelimit-remaining": f"{next(figures)}"})

    return httpx.MockTransport(answer)


@pytest.mark.parametrize("key", ["together", "together/m"])
def test_answers_inside_a_block_are_its_keys(key: str, clock: FakeClock) -> None:
    """And the next block asks what they have reported."""
    with listen(httpx.Client(transport=answering(2, 0.5))) as client:
        for _ in range(2):
            with breaker(key):
                client.get("http://provider/")

        assert {key} == rate_limits().keys()
        with pytest.raises(BreakerOpenError) as raised, breaker(key):
            pytest.fail("it was entered")

    assert ("headers", pytest.approx(60.0, abs=1)) == (
        raised.value.reason,
        raised.value.retry_after,
    )


def test_blocks_that_run_count(clock: FakeClock) -> None:
    """One request is left, and a block that runs needs it until it is over."""
    with listen(httpx.Client(transport=answering(1))) as client:
        with breaker("together"):
            client.get("http://provider/")
        with breaker("together"), pytest.raises(CallRejectedError) as raised:
            contextvars.Context().run(breaker("together").__enter__)  # as another task
        assert can_call(["together/m"])

    assert "request_limit" == raised.value.reason


def test_figures_of_tokens_do_not_cover_it(clock: FakeClock) -> None:
    """A block has no estimate."""
    hearing.heard(
        {"x-tokenlimit-remaining": "1", "x-ratelimit-remaining": "5", **FIGURES}, "together"
    )

    with breaker("together"):
        pass


def test_an_asynchronous_block(clock: FakeClock) -> None:
    async def main() -> None:
        client = listen(httpx.AsyncClient(transport=answering(7)))
        async with client, breaker("together"):
            await client.get("http://provider/")

    asyncio.run(main())

    assert 7 == rate_limits()["together"].requests_remaining


def test_a_block_inside_an_attempt_on_the_same_provider(clock: FakeClock) -> None:
    """The request is that of the attempt, whose target is the narrower key."""
    with listen(httpx.Client(transport=answering(1, 1))) as client:

        @failover(["together/m"])
        def ask(target: Target) -> Any:
            with breaker("together"):
                return client.get("http://provider/")

        ask()
        ask()

    assert {"together/m"} == rate_limits().keys()


@pytest.mark.parametrize("is_decorator", [True, False])
def test_the_headers_of_an_error_are_read(is_decorator: bool, clock: FakeClock) -> None:
    """Nobody needs to listen for that; `listen=False` turns it off."""

    def fail() -> None:
        raise http_error(500, headers={**FIGURES, "x-ratelimit-remaining": "4"})

    for is_on in (False, True):
        configure(listen=is_on)
        with pytest.raises(Exception, match="500"):
            if is_decorator:
                breaker("together")(fail)()
            else:
                with breaker("together"):
                    fail()
        assert is_on is ("together" in rate_limits())


def test_a_key_of_which_nothing_is_known_is_entered_by_the_short_way(clock: FakeClock) -> None:
    """Only what somebody listens to, or what was reported, has a block ask."""
    guard = breaker("own")
    hearing.heard({"x-ratelimit-remaining": "4", **FIGURES}, "together")
    breaker("together")

    known = [runtime.circuits[key].is_limited for key in ("own", "together")]
    reset()
    after = [runtime.circuits[key].is_limited for key in ("own", "together")]

    assert ([False, True], [False, False]) == (known, after)
    assert "own" == guard.name
