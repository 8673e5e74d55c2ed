"""The order in which an attempt passes its limits, and what a call does that one of them refuses."""

from __future__ import annotations

import logging
import os
import pickle
from contextlib import ExitStack
from typing import Any

import anyio
import pytest

from resilient_llm import (
    BreakerOpenError,
    CallRejectedError,
    ChainExhaustedError,
    ConfigurationError,
    Limit,
    RetryStopped,
    Settings,
    StreamPolicy,
    Target,
    TargetSkipped,
    bench_model,
    breaker,
    configure,
    failover,
    health,
    observe,
    reset,
    settings,
    unbench_model,
)
from resilient_llm._runtime.runtime import runtime
from resilient_llm.testing import Weather, isolated, simulate
from tests.support.ways import GROQ, OPENAI, elsewhere, on_both_loops, rate_limited

OTHER = "groq/mixtral"


def state(key: str = "groq", at: int = 0) -> Any:
    """Return the present state of a limit that applies to a key."""
    limits = runtime.limits.of(key, key.partition("/")[0])
    assert limits is not None
    return limits.all[at]


def left(key: str = "groq", at: int = 0) -> float:
    """Return the requests that the bucket of a key holds."""
    return round(state(key, at).requests.level(runtime.clock()), 3)


def in_flight(key: str = "groq") -> tuple[int, int]:
    places = state(key).places
    return places.running, places.waiting


def key_of(target: Target) -> str:
    """Answer with the target that was called."""
    return target.key


def skips() -> list[str]:
    """Return a list that gets the reason of each skipped target."""
    reasons: list[str] = []
    observe(lambda event: reasons.append(event.reason), TargetSkipped)
    return reasons


# What a refusal gives back.


def test_the_breaker_comes_first(clock: Any) -> None:
    """A benched target takes neither a place nor a request."""
    configure(limits={"groq": Limit(requests=60, max_concurrent=1)})
    bench_model(GROQ)

    @failover([GROQ, OPENAI])
    def ask(target: Target) -> str:
        return target.key

    assert OPENAI == ask()
    assert (60.0, (0, 0)) == (left(), in_flight())


def test_a_full_target_takes_no_request(clock: Any) -> None:
    configure(limits={"groq": Limit(requests=60, max_concurrent=1)})
    ask = failover([GROQ, OPENAI]).call

    with breaker(OTHER):
        assert OPENAI == ask(key_of)

    assert (59.0, (0, 0)) == (left(), in_flight())


def test_a_refused_request_gives_the_place_back(clock: Any) -> None:
    configure(limits={"groq": Limit(requests=60, burst=1, max_concurrent=1)})
    ask = failover([GROQ, OPENAI]).call

    assert [GROQ, OPENAI] == [ask(key_of) for _ in range(2)]
    assert (0.0, (0, 0)) == (left(), in_flight())


def test_refused_tokens_give_the_request_back(clock: Any) -> None:
    configure(limits={"groq": Limit(requests=60, tokens=100)})

    @failover([GROQ, OPENAI], tokens=1_000)
    def ask(target: Target) -> str:
        return target.key

    assert OPENAI == ask()
    assert 60.0 == left()


def test_a_refused_probe_gives_its_lease_back(clock: Any) -> None:
    """A limit refuses the probe of a half-open target; the next call may probe it."""
    configure(limits={"groq": Limit(max_concurrent=1)}, breakers={"*": {"failures": 1}})
    guard = breaker(GROQ)
    with pytest.raises(ConnectionError), guard:
        raise ConnectionError
    clock.advance(60.0)

    with breaker("groq"), pytest.raises(CallRejectedError, match="concurrency"):
        guard.__enter__()
    with guard:
        pass

    assert "closed" == guard.state


def test_every_limit_that_applies_must_pass(clock: Any) -> None:
    """That of the provider, of the target and of its tags; a refusal of the last takes nothing."""
    target = Target(GROQ, tags=["eu"])
    limits = {"groq": Limit(requests=60), GROQ: Limit(requests=60), "tag:eu": Limit(requests=1)}
    configure(limits=limits)
    ask = failover([target, OPENAI]).call

    assert [GROQ, OPENAI] == [ask(key_of) for _ in range(2)]
    assert [59.0, 59.0] == [left(GROQ), left(GROQ, 1)]


def test_a_tag_shares_one_bucket(clock: Any) -> None:
    configure(limits={"tag:eu": Limit(requests=60, burst=1)})
    ask = failover([Target(GROQ, tags=["eu"]), Target(OPENAI, tags=["eu"]), "own/llama"]).call

    assert [GROQ, "own/llama"] == [ask(key_of) for _ in range(2)]


def test_a_provider_does_not_cover_its_accounts(clock: Any) -> None:
    configure(limits={"groq": Limit(requests=60, burst=1)})
    ask = failover(["groq@eu/llama"]).call

    assert ["groq@eu/llama"] * 3 == [ask(key_of) for _ in range(3)]
    assert [] == clock.sleeps


def test_the_star_gives_each_provider_key_a_limit_of_its_own(clock: Any) -> None:
    configure(limits={"*": Limit(requests=60, burst=1), "own": Limit(requests=60, burst=2)})
    ask = failover([GROQ, "groq@eu/llama", "own/llama"]).call

    reached = [ask(key_of) for _ in range(4)]

    assert [GROQ, "groq@eu/llama", "own/llama", "own/llama"] == reached


# What a refused target is.


def test_a_refusal_harms_no_health(clock: Any) -> None:
    configure(limits={"groq": Limit(requests=60, burst=1)})
    reasons = skips()
    ask = failover([GROQ, OPENAI]).call
    for _ in range(20):
        ask(key_of)

    assert ["request_limit"] * 19 == reasons
    assert ("healthy", 0) == (health()[GROQ].status, health()[GROQ].errors)


@pytest.mark.parametrize("strategy", ["round_robin", "random", "weighted", "least_busy"])
@pytest.mark.parametrize("key", ["groq", "tag:slow"])
def test_strategies_share_among_the_others(clock: Any, strategy: str, key: str) -> None:
    """A full target gets nothing, and its neighbour no double share."""
    configure(limits={key: Limit(requests=1, per="day")})
    chain = [Target(GROQ, tags=["slow"]), OPENAI, "own/llama"]
    ask = failover(chain, strategy=strategy).call
    runtime.rng.seed(1)
    while GROQ != ask(key_of):
        pass

    reached = [ask(key_of) for _ in range(400)]

    assert 0 == reached.count(GROQ)
    assert 150 < reached.count(OPENAI) < 250


def test_a_limited_target_gets_no_share_of_the_deadline(clock: Any) -> None:
    """The only live target has all the time that is left."""
    configure(limits={"openai": Limit(requests=1, per="day")})
    with breaker("openai"):
        pass

    async def main() -> float | None:
        async for attempt in failover([GROQ, OPENAI], timeout=20.0):
            async with attempt:
                return attempt.remaining
        raise AssertionError

    assert 20.0 == anyio.run(main)


def test_a_rate_limit_is_waited_for_if_the_other_target_is_limited(clock: Any) -> None:
    """A limited target is not live, so the first is retried after its pause."""
    configure(limits={"openai": Limit(requests=1, per="day")})
    with breaker("openai"):
        pass
    errors = [rate_limited("2")]

    @failover([GROQ, OPENAI], attempts=2)
    def ask(target: Target) -> str:
        if errors:
            raise errors.pop()
        return target.key

    assert GROQ == ask()
    assert [2.0] == clock.sleeps


def test_a_limited_target_is_not_demoted(clock: Any) -> None:
    """``on_down="demote"`` calls benched targets after the live ones, and no limited one."""
    configure(limits={"openai": Limit(requests=1, per="day")}, breakers={"*": {"failures": 1}})
    with breaker("openai"):
        pass
    reached: list[str] = []

    @failover([OPENAI, GROQ], on_down="demote", attempts=1)
    def ask(target: Target) -> str:
        reached.append(target.key)
        raise ConnectionError

    with pytest.raises(ChainExhaustedError):
        ask()

    assert [GROQ] == reached


# Whether a call waits.


def test_nothing_is_waited_for_if_the_policy_raises(clock: Any) -> None:
    configure(limits={"groq": Limit(requests=60, burst=1)})
    ask = failover([GROQ], when_all_benched="raise").call
    ask(key_of)

    with pytest.raises(ChainExhaustedError) as raised:
        ask(key_of)

    assert ([], 1.0) == (clock.sleeps, raised.value.retry_after)


def test_nothing_is_waited_for_beyond_the_deadline(clock: Any) -> None:
    configure(limits={"groq": Limit(requests=60, burst=1)})
    ask = failover([GROQ], timeout=0.9).call
    ask(key_of)

    with pytest.raises(ChainExhaustedError, match="request_limit"):
        ask(key_of)

    assert [] == clock.sleeps


def test_the_soonest_limit_is_waited_for(clock: Any) -> None:
    configure(limits={"groq": Limit(requests=6, burst=1), "openai": Limit(requests=60, burst=1)})
    ask = failover([GROQ, OPENAI]).call

    assert [GROQ, OPENAI, OPENAI] == [ask(key_of) for _ in range(3)]
    assert [1.0] == [round(each, 6) for each in clock.sleeps]


def test_a_bench_that_ends_first_is_waited_for(clock: Any) -> None:
    configure(limits={"groq": Limit(requests=6, burst=1)})
    ask = failover([GROQ, OPENAI]).call
    ask(key_of)
    bench_model(OPENAI, 3.0)

    assert OPENAI == ask(key_of)
    assert 3.0 == sum(clock.sleeps)


def test_the_failed_target_is_not_waited_for_again(clock: Any) -> None:
    """After a failure on one target the call waits for the limit of the other."""
    configure(limits={"openai": Limit(requests=60, burst=1)})
    with breaker("openai"):
        pass

    @failover([GROQ, OPENAI])
    def ask(target: Target) -> str:
        if target.key == GROQ:
            raise ConnectionError
        return target.key

    assert OPENAI == ask()
    assert 1.0 == pytest.approx(sum(clock.sleeps))


def test_most_attempts_hold_for_a_wait(clock: Any) -> None:
    configure(limits={"openai": Limit(requests=60, burst=1)})
    with breaker("openai"):
        pass

    @failover([GROQ, OPENAI], max_attempts=1)
    def ask(target: Target) -> str:
        raise ConnectionError

    with pytest.raises(ChainExhaustedError):
        ask()

    assert [] == clock.sleeps


def test_a_refused_retry_stops(clock: Any) -> None:
    configure(limits={"groq": Limit(requests=6, burst=1)})
    stopped: list[str] = []
    observe(lambda event: stopped.append(event.reason), RetryStopped)

    @failover([GROQ], attempts=3)
    def ask(target: Target) -> str:
        raise ConnectionError

    with pytest.raises(ChainExhaustedError) as raised:
        ask()

    assert ["limit"] == stopped
    assert isinstance(raised.value.exceptions[0], ConnectionError)


@on_both_loops
def test_the_breaker_is_asked_again_after_the_queue(backend: str) -> None:
    configure(limits={"groq": Limit(max_concurrent=1, max_queued=1)})
    reached: list[str] = []

    @failover([GROQ])
    async def ask(target: Target) -> None:
        reached.append(target.key)

    async def rejected() -> None:
        with pytest.raises(ChainExhaustedError) as raised:
            await ask()
        assert isinstance(raised.value.exceptions[0], BreakerOpenError)

    with ExitStack() as breaker_left:

        async def whole() -> None:
            breaker_left.enter_context(elsewhere(breaker(OTHER)))
            async with anyio.create_task_group() as group:
                group.start_soon(rejected)
                while in_flight() != (1, 1):
                    await anyio.lowlevel.checkpoint()
                bench_model(GROQ)
                breaker_left.close()

        anyio.run(whole, backend=backend)

    assert [] == reached
    assert (0, 0) == in_flight()
    unbench_model(GROQ)


@on_both_loops
def test_a_hedge_waits_in_no_queue(backend: str) -> None:
    configure(limits={"openai": Limit(max_concurrent=1, max_queued=5)})
    reached: list[str] = []

    @failover([GROQ, OPENAI], hedge=0.001)
    async def ask(target: Target) -> str:
        reached.append(target.key)
        await anyio.sleep(0.02)
        return target.key

    async def main() -> str:
        with breaker("openai/other"):
            answer = await ask()
            assert (1, 0) == in_flight("openai")
        return answer

    assert GROQ == anyio.run(main, backend=backend)
    assert [GROQ] == reached


@on_both_loops
def test_a_hedge_that_is_not_paid_for_takes_nothing(backend: str) -> None:
    """The retry budget is spent; request, tokens and place of the hedge come back."""
    configure(limits={"openai": Limit(requests=60, tokens=100, max_concurrent=1)}, retry_budget=0.0)
    for _ in range(20):  # the budget's minimum
        runtime.budgets.take("groq", runtime.clock(), 0.0, 0)

    @failover([GROQ, OPENAI], hedge=0.001, tokens=50)
    async def ask(target: Target) -> str:
        await anyio.sleep(0.02)
        return target.key

    assert GROQ == anyio.run(ask, backend=backend)
    assert (60.0, (0, 0)) == (left("openai"), in_flight("openai"))
    assert 100.0 == state("openai").tokens.level(runtime.clock())


# Every way to call.


def test_pinned_calls_pass_limits(clock: Any) -> None:
    configure(limits={"groq": Limit(requests=60, burst=1)})

    @failover([OPENAI, GROQ])
    def ask(*, model: str | None = None) -> str | None:
        return model

    ask(model=GROQ)
    ask(model=GROQ)

    assert 1.0 == pytest.approx(sum(clock.sleeps))


def test_loops_pass_limits(clock: Any) -> None:
    configure(limits={"groq": Limit(requests=60, burst=1, max_concurrent=1)})
    moments: list[float] = []
    for _ in range(3):
        for attempt in failover([GROQ]):
            with attempt:
                moments.append(round(clock.monotonic(), 3))
                assert (1, 0) == in_flight()

    assert [0.0, 1.0, 2.0] == [each - moments[0] for each in moments]
    assert (0, 0) == in_flight()


@on_both_loops
def test_loops_stand_in_the_queue(backend: str) -> None:
    configure(limits={"groq": Limit(max_concurrent=1, max_queued=5)})
    order: list[int] = []

    async def loop(number: int) -> None:
        async for attempt in failover([GROQ]):
            async with attempt:
                order.append(number)
                await anyio.lowlevel.checkpoint()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(loop, number)
                await anyio.lowlevel.checkpoint()

    anyio.run(main, backend=backend)

    assert [0, 1, 2, 3, 4] == order
    assert (0, 0) == in_flight()


def test_a_stream_that_nobody_reads_gives_its_place_back() -> None:
    configure(limits={"groq": Limit(max_concurrent=1)})

    @failover([GROQ])
    def ask(target: Target) -> Any:
        return (each for each in ["a", "b"])

    stream = ask()
    held = in_flight()
    del stream

    assert [(1, 0), (0, 0)] == [held, in_flight()]


@on_both_loops
def test_an_asynchronous_stream_holds_its_place(backend: str) -> None:
    configure(limits={"groq": Limit(max_concurrent=1)})

    async def words() -> Any:
        yield "a"
        yield "b"

    @failover([GROQ], stream=StreamPolicy())
    async def ask(target: Target) -> Any:
        return words()

    @failover([GROQ])
    async def plain(target: Target) -> Any:
        return words()

    async def main() -> list[tuple[int, int]]:
        seen: list[tuple[int, int]] = []
        for each in (ask, plain):
            stream = await each()
            seen.append(in_flight())
            assert ["a", "b"] == [item async for item in stream]
            seen.append(in_flight())
            stream = await each()
            await stream.__anext__()
            seen.append(in_flight())
            await stream.aclose()
            seen.append(in_flight())
        return seen

    assert [(1, 0), (0, 0)] * 4 == anyio.run(main, backend=backend)


def test_a_plain_function_that_gives_an_awaitable_holds_its_place_until_it_is_awaited() -> None:
    configure(limits={"groq": Limit(max_concurrent=1)})

    async def answer() -> str:
        return f"{in_flight()}"

    @failover([GROQ])
    def ask(target: Target) -> Any:
        return answer()

    for _ in range(2):

        async def main() -> str:
            return await ask()

        assert "(1, 0)" == anyio.run(main)
        assert (0, 0) == in_flight()


def test_a_guarded_stream_holds_its_place() -> None:
    configure(limits={"groq": Limit(max_concurrent=1)})

    @breaker("groq")
    def words() -> Any:
        yield "a"
        yield "b"

    stream = words()
    next(stream)
    held = in_flight()
    stream.close()

    assert [(1, 0), (0, 0)] == [held, in_flight()]


def test_a_guard_takes_a_request(clock: Any) -> None:
    """`breaker(name)` takes one of the bucket, no tokens, and says when to come back."""
    configure(limits={"groq": Limit(requests=60, burst=1, tokens=1)})
    with breaker(GROQ):
        pass

    with pytest.raises(CallRejectedError) as raised:
        breaker("groq").__enter__()

    assert ("groq", "request_limit", 1.0) == (
        raised.value.target,
        raised.value.reason,
        raised.value.retry_after,
    )
    assert 1.0 == state().tokens.level(runtime.clock())


def test_what_is_reported_takes_nothing(clock: Any) -> None:
    configure(limits={"groq": Limit(requests=60, max_concurrent=1)})

    with breaker("groq"):
        breaker(GROQ).record(None, 0.1)
        breaker("groq").record(ConnectionError(), 0.1)

    assert 59.0 == left()


# What is configured.


def test_limits_merge_by_key_and_none_removes(clock: Any) -> None:
    configure(limits={"groq": Limit(requests=60), "openai": Limit(requests=5)})
    configure(limits={"groq": None, "own": Limit(max_concurrent=1)})

    assert {"openai": Limit(requests=5), "own": Limit(max_concurrent=1)} == dict(settings().limits)


def test_a_removed_limit_refuses_nothing(clock: Any) -> None:
    configure(limits={"groq": Limit(requests=1)})
    guard = breaker("groq")
    with guard:
        pass
    configure(limits={"groq": None})

    with guard:
        pass


def test_a_changed_limit_starts_full_and_counts_what_runs(clock: Any) -> None:
    configure(limits={"groq": Limit(requests=60, max_concurrent=5)})
    with breaker("groq"), breaker(GROQ):
        configure(limits={"groq": Limit(requests=30, max_concurrent=2)})
        assert (30.0, (2, 0)) == (left(), in_flight())
        with pytest.raises(CallRejectedError, match="concurrency"):
            breaker(GROQ).__enter__()


def test_attempts_of_the_wrapper_count_after_a_change() -> None:
    """Those that the generated wrapper has begun as well."""
    configure(limits={"groq": Limit(max_concurrent=5)})

    @failover([GROQ])
    def ask(target: Target, depth: int = 0) -> tuple[int, int]:
        if depth == 2:
            configure(limits={"groq": Limit(max_concurrent=7)})
            return in_flight()
        return ask(depth + 1)

    assert (3, 0) == ask()
    assert (0, 0) == in_flight()


def test_a_wrong_limit_changes_nothing() -> None:
    before = settings()

    with pytest.raises(ConfigurationError, match="limits"):
        configure(timeout=3.0, limits={"groq": Limit(requests=1), "openai": 5})  # type: ignore[dict-item]  # the mistake

    assert before is settings()


def test_reset_fills_the_buckets_and_counts_what_runs(clock: Any) -> None:
    configure(limits={"groq": Limit(requests=60, max_concurrent=5)})
    with breaker("groq"):
        reset()
        assert (60.0, (1, 0)) == (left(), in_flight())
    assert (0, 0) == in_flight()


def test_an_isolated_state_has_limits_of_its_own(clock: Any) -> None:
    configure(limits={"groq": Limit(max_concurrent=1)})
    ask = failover([GROQ]).call
    with breaker("groq"), isolated():
        assert GROQ == ask(key_of)
        assert {} == dict(settings().limits)

    assert 1 == state().limit.max_concurrent
    assert (0, 0) == in_flight()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_has_all_places(clock: Any) -> None:
    """Nothing of its parent is in flight there, and its buckets are full."""
    configure(limits={"groq": Limit(requests=60, max_concurrent=1)})
    ask = failover([GROQ]).call
    ask(key_of)
    with breaker("groq"):
        child = os.fork()
        if not child:
            try:
                ask(key_of)
                os._exit(0 if (left(), in_flight()) == (59.0, (0, 0)) else 1)
            finally:
                os._exit(2)
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_settings_are_pickled_with_their_limits() -> None:
    configure(limits={"groq": Limit(requests=60)})

    assert settings() == pickle.loads(pickle.dumps(settings()))


def test_settings_of_before_have_no_limits() -> None:
    """Those that an earlier release has pickled."""
    rebuild, (values,) = Settings().__reduce__()
    del values["limits"]

    assert Settings() == rebuild(values)


def test_a_key_of_no_chain_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    policies = [failover([GROQ]), failover([Target(OPENAI, tags=["europe"])])]
    with caplog.at_level(logging.WARNING, "resilient_llm"):
        configure(limits={"grok": Limit(requests=5), "tag:eurpoe": Limit(requests=5)})
        configure(limits={"groq": Limit(requests=5), "tag:europe": Limit(requests=5)})

    assert 1 == len(caplog.messages)
    assert "grok, tag:eurpoe" in caplog.messages[0]
    assert "groq or tag:europe" in caplog.messages[0].partition("did you mean")[2]
    assert 2 == len(policies)


def test_a_simulation_has_the_limits_in_a_state_of_its_own(clock: Any) -> None:
    """On its own clock: nothing is taken of the buckets of the process."""
    configure(limits={"groq": Limit(requests=60, burst=1)})

    report = simulate(
        failover([GROQ], when_all_benched="raise"), {GROQ: Weather()}, rate=4.0, seconds=60.0
    )

    assert 30 <= report.calls * report.served <= 61
    assert 1.0 == left()
