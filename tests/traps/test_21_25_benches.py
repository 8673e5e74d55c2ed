"""Where benches of released libraries went wrong: traps 21 to 25, in every shape they apply to."""

import asyncio
import contextlib
from collections.abc import Callable

import anyio
import pytest

from resilient_llm import (
    AttemptFailed,
    BreakerOpenError,
    ChainExhaustedError,
    DeadlineExceededError,
    ErrorKind,
    Target,
    bench_model,
    breaker,
    failover,
    health,
    is_benched,
    list_benched,
    reset,
    unbench_model,
)
from tests.support.guards import Held, elsewhere, fail, is_refused, seen, state, totals, trip
from tests.support.ways import GROQ, SHAPES, ProviderError, Shape, down, over, run_async

A, B, C = "first/a", "second/b", "third/c"


def limited(seconds: float | None = None) -> ProviderError:
    """A rate limit of one target, with a hint."""
    return ProviderError(429, retry_after=seconds, message="Rate limit reached for this model")


def remaining(key: str = GROQ) -> float:
    """Seconds left on the bench of a key."""
    (bench,) = [bench for bench in list_benched() if bench.model == key]
    return bench.remaining


# --- the same call in three colours -----------------------------------------------------------

COLOURS = ["sync", "loop", "asyncio", "trio", "async-loop-asyncio", "async-loop-trio"]
ASYNC_COLOURS = COLOURS[2:]
in_every_colour = pytest.mark.parametrize("colour", COLOURS)
in_every_async_colour = pytest.mark.parametrize("colour", ASYNC_COLOURS)


def call_chain(colour: str, chain: object, provider, hang=None, **options: object) -> object:
    """Make one call of a chain, in sync or async code, decorated or in a loop.

    `provider(target)` is asked for each attempt; where it returns `hang`, async code waits for ever.
    """
    policy = failover(chain=chain, **options)

    def ask(target: Target) -> object:
        return provider(target)

    async def aask(target: Target) -> object:
        result = provider(target)
        if hang is not None and result is hang:
            await anyio.sleep_forever()
        return result

    async def acall() -> object:
        return await policy(aask)()

    async def aloop() -> object:
        async for attempt in policy:
            async with attempt as target:
                return await aask(target)
        raise AssertionError("the loop ended without a result and without an error")

    if colour == "sync":
        return policy(ask)()
    if colour == "loop":
        for attempt in policy:
            with attempt as target:
                return ask(target)
        raise AssertionError("the loop ended without a result and without an error")
    return run_async(aloop if "loop" in colour else acall, backend=colour.rpartition("-")[2])


# --- 21: extended, never shortened ------------------------------------------------------------


@over(SHAPES)
@pytest.mark.parametrize("hints", [(1, 60, 5, 2), (60, 1, 2, 5), (5, 2, 1, 60)], ids=str)
def test_trap_21_the_longest_of_concurrent_rate_limits_counts(
    clock, shape: Shape, hints: tuple[int, ...]
):
    """Four concurrent rate limits of 1, 60, 5 and 2 s bench for 60 s, in whatever order they arrive."""
    others = [Held(GROQ, shape) for _ in hints[1:]]

    def provider() -> None:
        for held, hint in zip(others, hints[1:], strict=True):
            held.finish(limited(hint))
        raise limited(hints[0])

    with pytest.raises(ProviderError):
        shape.run(GROQ, provider)

    (bench,) = list_benched()
    assert 60 - 0.001 <= bench.remaining <= 66 + 0.001
    assert ErrorKind("rate_limited") == bench.kind
    clock.advance(59)
    assert is_refused()


@over(SHAPES)
def test_trap_21_a_shorter_rate_limit_does_not_shorten_as_time_passes(clock, shape: Shape):
    """A hint of 5 s which arrives 50 s into a bench of 60 s leaves it, one of 30 s extends it."""
    late = [Held(GROQ, shape), Held(GROQ, shape)]
    fail(error=lambda: limited(60))
    clock.advance(50)
    before = remaining()

    late[0].finish(limited(5))
    after_short = remaining()
    late[1].finish(limited(30))

    assert before == pytest.approx(after_short)
    assert 30 - 0.001 <= remaining() <= 33 + 0.001


# --- 22: manual benches stand -----------------------------------------------------------------


@over(SHAPES)
@pytest.mark.parametrize("until", [None, 600], ids=["without an end", "600 s"])
@pytest.mark.parametrize(
    "ending",
    ["answer", down, lambda: limited(5), lambda: limited(None)],
    ids=["success", "failure", "hint", "no hint"],
)
def test_trap_22_a_manual_bench_stands_whatever_a_call_reports(clock, shape: Shape, until, ending):
    """A success on a manually benched model, or a failure with a shorter cooldown, changes nothing."""

    def provider() -> object:
        bench_model(GROQ, until, reason="by hand")
        if callable(ending):
            raise ending()
        return ending

    with contextlib.suppress(ProviderError):
        shape.run(GROQ, provider)
    clock.advance(500)

    (bench,) = list_benched()
    assert (GROQ, True, "by hand") == (bench.model, bench.manual, bench.reason)
    assert is_refused()
    clock.advance(200)
    assert (until is None) == is_refused()


@over(SHAPES)
def test_trap_22_a_manual_bench_stands_though_the_circuit_recovers(clock, shape: Shape):
    """A probe that was under way closes the circuit, and the operator's bench stays."""
    trip()
    clock.advance(34)

    def provider() -> str:
        bench_model(GROQ)
        return "answer"

    shape.run(GROQ, provider)

    assert is_refused()
    assert is_benched(GROQ)
    unbench_model(GROQ)
    assert not is_refused()
    assert "closed" == state()


@over(SHAPES)
def test_trap_22_reset_leaves_a_manual_bench(clock, shape: Shape):
    """Forgetting what is automatic does not unbench."""
    bench_model(GROQ)

    reset()

    assert "refused" == shape.outcome(GROQ, "answer")


# --- 23: deadlines ----------------------------------------------------------------------------


@in_every_colour
def test_trap_23_a_deadline_that_ends_during_attempt_1_benches_nobody_and_calls_nobody(
    clock, colour: str
):
    """When the caller's time is up no further target is called and none is benched."""
    called = []

    def provider(target: Target) -> None:
        called.append(target.key)
        clock.advance(31)
        raise TimeoutError("timed out")

    with pytest.raises((DeadlineExceededError, TimeoutError)):
        call_chain(colour, [A, B], provider, timeout=30)

    assert [A] == called
    assert [] == list_benched()
    assert (0, 0) == totals(B)


@in_every_async_colour
def test_trap_23_the_end_of_the_whole_deadline_blames_nobody(clock, colour: str):
    """A call of one target that is cut off by its caller's deadline says nothing about that target."""
    hang = object()

    def provider(target: Target) -> object:
        clock.advance(31)
        return hang

    for _ in range(6):
        with pytest.raises(DeadlineExceededError):
            call_chain(colour, [A], provider, hang, timeout=30, attempts=1)

    assert [] == list_benched()
    assert "closed" == state(A)
    assert 0 == health([A])[A].consecutive_failures


@in_every_async_colour
def test_trap_23_a_caller_who_cancels_during_attempt_1_benches_nobody_and_calls_nobody(
    clock, colour: str
):
    """Somebody's own time limit around the call is no failure of the target, and no failover."""
    called = []
    policy = failover(chain=[A, B])

    async def hang_in(target: Target, scope: anyio.CancelScope) -> None:
        called.append(target.key)
        scope.cancel()
        await anyio.sleep_forever()

    async def main() -> bool:
        with anyio.CancelScope() as scope:
            if "loop" in colour:
                async for attempt in policy:
                    async with attempt as target:
                        await hang_in(target, scope)
            else:

                @policy
                async def ask(target: Target) -> None:
                    await hang_in(target, scope)

                await ask()
        return scope.cancelled_caught

    assert run_async(main, backend=colour.rpartition("-")[2])
    assert [A] == called
    assert [] == list_benched()
    assert 0 == totals(A)[1]


def test_trap_23_wait_for_around_a_call_benches_nobody_and_calls_nobody(clock):
    """asyncio's own time limit passes through."""
    called = []

    @failover(chain=[A, B])
    async def ask(target: Target) -> None:
        called.append(target.key)
        await anyio.sleep_forever()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ask(), 0.01)

    asyncio.run(main())

    assert [A] == called
    assert [] == list_benched()
    assert 0 == totals(A)[1]


@pytest.mark.parametrize("colour", ["asyncio", "trio"])
def test_trap_23_a_target_that_hangs_leaves_time_for_the_fallback(clock, colour: str):
    """With 30 s and a live fallback a hanging target is cut off at three quarters, and blamed."""
    hang = object()
    called = []

    def provider(target: Target) -> object:
        called.append(target.key)
        if target.key == A:
            clock.advance(23)
            return hang
        return "answer"

    with seen(AttemptFailed) as failures:
        result = call_chain(colour, [A, B], provider, hang, timeout=30, attempts=1)

    assert "answer" == result
    assert [A, B] == called
    assert (1, 1) == totals(A)
    assert (1, 0) == totals(B)
    assert [ErrorKind("transient")] == [event.kind for event in failures]


@pytest.mark.parametrize("colour", ["asyncio", "trio"])
def test_trap_23_a_target_that_hangs_again_and_again_is_benched(clock, colour: str):
    """Being cut off for the fallback is the target's own timeout, and five of them open it."""
    hang = object()

    def provider(target: Target) -> object:
        if target.key == A:
            clock.advance(23)
            return hang
        return "answer"

    results = [call_chain(colour, [A, B], provider, hang, timeout=30, attempts=1) for _ in range(5)]

    assert ["answer"] * 5 == results
    assert [A] == [bench.model for bench in list_benched()]


# --- 24: everything is benched ----------------------------------------------------------------


def bench_all(clock) -> None:
    """Open three targets so that they recover in the order B, A, C."""
    for key in (B, A, C):
        trip(key)
        clock.advance(6)
    assert sorted([A, B, C]) == sorted(bench.model for bench in list_benched())


@in_every_colour
def test_trap_24_every_benched_target_is_tried_once_soonest_first(clock, colour: str):
    """Each is tried at most once, whatever `attempts` says, and the error says when to come back."""
    bench_all(clock)
    called = []

    def provider(target: Target) -> None:
        called.append(target.key)
        raise down()

    soonest = min(bench.remaining for bench in list_benched())
    with pytest.raises(ChainExhaustedError) as caught:
        call_chain(colour, [A, B, C], provider, attempts=3)

    assert [B, A, C] == called
    assert soonest == pytest.approx(caught.value.retry_after, abs=0.01)


@in_every_colour
def test_trap_24_a_benched_target_that_answers_serves_the_call(clock, colour: str):
    """The last resort stops at the first answer."""
    bench_all(clock)
    called = []

    def provider(target: Target) -> str:
        called.append(target.key)
        if target.key == B:
            raise down()
        return target.key

    result = call_chain(colour, [A, B, C], provider)

    assert A == result
    assert [B, A] == called


@in_every_colour
def test_trap_24_a_failure_of_the_last_resort_does_not_lengthen_a_bench(clock, colour: str):
    """Benches end when they were going to end."""
    bench_all(clock)
    before = [bench.until for bench in list_benched()]

    def provider(target: Target) -> None:
        raise down()

    for _ in range(3):
        with pytest.raises(ChainExhaustedError):
            call_chain(colour, [A, B, C], provider)

    assert before == [bench.until for bench in list_benched()]


@in_every_colour
def test_trap_24_a_manual_bench_is_respected(clock, colour: str):
    """What an operator benched is not even a last resort."""
    bench_all(clock)
    bench_model(B)
    called = []

    def provider(target: Target) -> None:
        called.append(target.key)
        raise down()

    with pytest.raises(ChainExhaustedError):
        call_chain(colour, [A, B, C], provider)

    assert [A, C] == called


@in_every_colour
def test_trap_24_a_dead_key_and_a_named_wait_are_respected(clock, colour: str):
    """Neither a dead key nor a provider which named a wait is asked as a last resort."""
    fail(A, error=lambda: ProviderError(401))
    fail(B, error=lambda: limited(50))
    trip(C)
    called = []

    def provider(target: Target) -> None:
        called.append(target.key)
        raise down()

    with pytest.raises(ChainExhaustedError):
        call_chain(colour, [A, B, C], provider)

    assert [C] == called


@in_every_colour
def test_trap_24_one_last_resort_at_a_time(clock, colour: str):
    """While one call tries a benched target, another call does not."""
    trip(A)
    called, others = [], []

    def other(target: Target) -> str:
        called.append("other")
        return "other"

    def provider(target: Target) -> str:
        called.append("first")
        try:
            others.append(elsewhere(call_chain, "sync", [A], other))
        except (ChainExhaustedError, BreakerOpenError) as error:
            others.append(error)
        return "answer"

    result = call_chain(colour, [A], provider)

    assert "answer" == result
    assert ["first"] == called
    assert isinstance(others[0], (ChainExhaustedError, BreakerOpenError))
    assert others[0].retry_after > 0


@in_every_colour
def test_trap_24_the_place_of_a_hanging_last_resort_is_leased(clock, colour: str):
    """A last resort that never ends does not keep all others away for ever."""
    breaker(A, cooldown=1000, max_cooldown=1000, probe_lease=5)
    trip(A)
    results = []

    def provider(target: Target) -> str:
        with pytest.raises((ChainExhaustedError, BreakerOpenError)):
            elsewhere(call_chain, "sync", [A], lambda target: "too early")
        clock.advance(6)
        results.append(elsewhere(call_chain, "sync", [A], lambda target: "answer"))
        return "late"

    call_chain(colour, [A], provider)

    assert ["answer"] == results


@in_every_colour
def test_trap_24_raise_asks_nobody_and_says_when_to_come_back(clock, colour: str):
    """With when_all_benched="raise" the error has one member per target, in order, and the soonest end."""
    bench_all(clock)

    def provider(target: Target) -> None:
        pytest.fail("the function ran")

    with pytest.raises(ChainExhaustedError) as caught:
        call_chain(colour, [A, B, C], provider, when_all_benched="raise")

    members = caught.value.exceptions
    assert [BreakerOpenError] * 3 == [type(member) for member in members]
    assert [A, B, C] == [str(getattr(member.target, "key", member.target)) for member in members]
    assert remaining(B) == pytest.approx(caught.value.retry_after, abs=0.01)


@in_every_colour
def test_trap_24_wait_waits_for_the_soonest(clock, colour: str):
    """With when_all_benched="wait" the call waits for the first target to recover and asks that."""
    bench_all(clock)
    soonest = remaining(B)
    called = []

    def provider(target: Target) -> str:
        called.append(target.key)
        return target.key

    result = call_chain(colour, [A, B, C], provider, when_all_benched="wait")

    assert B == result
    assert [B] == called
    assert soonest <= sum(clock.sleeps) <= soonest + 1.5
    assert max(clock.sleeps) <= 1.001


@in_every_colour
def test_trap_24_wait_does_not_wait_longer_than_fits(clock, colour: str):
    """A wait that does not fit the deadline is not begun."""
    bench_all(clock)

    def provider(target: Target) -> None:
        pytest.fail("the function ran")

    with pytest.raises((ChainExhaustedError, DeadlineExceededError)):
        call_chain(colour, [A, B, C], provider, when_all_benched="wait", timeout=3)

    assert sum(clock.sleeps) <= 3.001


# --- 25: a bench during retries ---------------------------------------------------------------


@in_every_colour
@pytest.mark.parametrize(
    "happens",
    [lambda: bench_model(A), lambda: bench_model("first"), lambda: trip(A)],
    ids=["target", "provider", "opened by others"],
)
def test_trap_25_a_bench_that_arrives_during_an_attempt_ends_its_retries(
    clock, colour: str, happens: Callable[[], object]
):
    """A call that is retrying a target moves on when that is benched, by hand or by other calls."""
    called = []

    def provider(target: Target) -> str:
        called.append(target.key)
        if target.key == A:
            happens()
            raise down()
        return "answer"

    result = call_chain(colour, [A, B], provider, attempts=4, backoff=lambda n: 0.0)

    assert "answer" == result
    assert [A, B] == called


@in_every_colour
def test_trap_25_a_bench_that_arrives_during_a_wait_ends_its_retries(clock, colour: str):
    """A call that waits to retry a target moves on when that is benched meanwhile."""
    called = []

    def backoff(number: int) -> float:
        if called:
            bench_model(A)
        return 1.0

    def provider(target: Target) -> str:
        called.append(target.key)
        if target.key == A:
            raise down()
        return "answer"

    result = call_chain(colour, [A, B], provider, attempts=4, backoff=backoff)

    assert "answer" == result
    assert [A, B] == called


@in_every_colour
def test_trap_25_the_next_target_is_benched_while_the_first_is_tried(clock, colour: str):
    """A target that was live when the call began is skipped if it is benched when its turn comes."""
    called = []

    def provider(target: Target) -> str:
        called.append(target.key)
        if target.key == A:
            bench_model(B)
            raise down()
        return "answer"

    result = call_chain(colour, [A, B, C], provider, attempts=1)

    assert "answer" == result
    assert [A, C] == called
