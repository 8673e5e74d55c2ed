"""Where state of released libraries went wrong: traps 44 to 46, in every shape they apply to."""

import gc
import threading
import weakref

import anyio
import pytest

from resilient_llm import (
    ChainExhaustedError,
    Target,
    bench_model,
    breaker,
    failover,
    health,
    is_benched,
    list_benched,
    testing,
)
from tests.support.guards import PATIENCE, eager_threads, elsewhere, fail, in_threads, totals, trip
from tests.support.ways import (
    GROQ,
    OPENAI,
    SHAPES,
    ProviderError,
    Shape,
    down,
    on_both_loops,
    over,
    run_async,
)

# --- 44: no shared cursor ---------------------------------------------------------------------


def targets_called(policy, during=None) -> list[str]:
    """The targets one call goes through when the first fails."""
    called = []

    @policy
    def ask(target: Target) -> str:
        called.append(target.key)
        if target.key == GROQ:
            raise down()
        if during:
            during()
        return "answer"

    ask()
    return called


def test_trap_44_one_calls_failure_does_not_move_another_call(clock):
    """A call that starts while another is on its fallback begins at the first target."""
    policy = failover(chain=[GROQ, OPENAI], attempts=1)
    others = []

    first = targets_called(policy, during=lambda: others.append(elsewhere(targets_called, policy)))

    assert [GROQ, OPENAI] == first
    assert [[GROQ, OPENAI]] == others


def test_trap_44_two_loops_over_one_policy_do_not_share_a_cursor(clock):
    """Loops over one policy that interleave go each through the whole chain."""
    policy = failover(chain=[GROQ, OPENAI], attempts=1)
    called: dict[str, list[str]] = {"one": [], "two": []}
    loops = {name: iter(policy) for name in called}

    for _ in range(2):
        for name, loop in loops.items():
            with next(loop) as target:
                called[name].append(target.key)
                if target.key == GROQ:
                    raise down()

    assert {"one": [GROQ, OPENAI], "two": [GROQ, OPENAI]} == called


@on_both_loops
def test_trap_44_concurrent_calls_of_one_function_do_not_share_a_cursor(clock, backend: str):
    """Calls that are all on the first target when one fails each go on from there."""
    breaker(GROQ, mode="metrics_only")
    called: dict[int, list[str]] = {}

    async def main() -> None:
        everyone = anyio.Event()

        @failover(chain=[GROQ, OPENAI], attempts=1)
        async def ask(target: Target, number: int) -> None:
            called.setdefault(number, []).append(target.key)
            if target.key == GROQ:
                if len(called) == 20:
                    everyone.set()
                await everyone.wait()
                if number % 2:
                    raise down()

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(ask, number)

    run_async(main, backend=backend)

    assert {number: [GROQ, OPENAI] if number % 2 else [GROQ] for number in range(20)} == called


def test_trap_44_concurrent_calls_under_threads_do_not_share_a_cursor(clock):
    """Threads that are all on the first target when one fails each go on from there."""
    breaker(GROQ, mode="metrics_only")
    together = threading.Barrier(8)
    called: dict[int, list[str]] = {number: [] for number in range(8)}

    @failover(chain=[GROQ, OPENAI], attempts=1)
    def ask(target: Target, number: int) -> None:
        called[number].append(target.key)
        if target.key == GROQ:
            together.wait(PATIENCE)
            if number % 2:
                raise down()

    with eager_threads():
        in_threads(8, ask)

    assert {number: [GROQ, OPENAI] if number % 2 else [GROQ] for number in range(8)} == called


def test_trap_44_the_next_call_begins_at_the_first_target(clock):
    """A call that was served by a fallback does not make that the first choice."""
    policy = failover(chain=[GROQ, OPENAI], attempts=1)

    assert [[GROQ, OPENAI]] * 3 == [targets_called(policy) for _ in range(3)]


# --- 45: counters under threads ---------------------------------------------------------------


@over(SHAPES)
def test_trap_45_nothing_is_lost_under_threads(clock, shape: Shape):
    """Calls, errors and the sums of the provider are exact however threads are interleaved."""
    calls = 60
    for key in ("groq", GROQ, "groq/other"):
        breaker(key, failures=100_000, min_calls=100_000)

    def work(index: int) -> None:
        key = GROQ if index % 4 else "groq/other"
        for number in range(calls):
            shape.outcome(key, down() if number % 3 == 0 else "answer")

    with eager_threads():
        results = in_threads(8, work)

    assert [None] * 8 == results
    assert (6 * calls, 6 * calls // 3) == totals(GROQ)
    assert (2 * calls, 2 * calls // 3) == totals("groq/other")
    assert (8 * calls, 8 * calls // 3) == totals("groq")


def test_trap_45_nothing_is_lost_under_threads_that_do_little_else(clock):
    """Reports that come as fast as they can, from one guard and many, are all counted."""
    guard = breaker(GROQ, failures=100_000, min_calls=100_000)
    breaker("groq", failures=100_000, min_calls=100_000)

    def work(index: int) -> None:
        for number in range(1500):
            (guard if index % 2 else breaker(GROQ)).record(down() if number % 2 else None, 0.1)

    with eager_threads():
        in_threads(8, work)

    assert (12_000, 6_000) == totals(GROQ)


@over(SHAPES)
def test_trap_45_consecutive_failures_are_counted_exactly_under_threads(clock, shape: Shape):
    """400 failures in a row are 400, and the 401st opens."""
    breaker(GROQ, failures=401, min_calls=100_000)

    with eager_threads():
        in_threads(8, lambda index: [shape.outcome(GROQ, down()) for _ in range(50)])
    before = (breaker(GROQ).state, health()[GROQ].consecutive_failures)
    fail()

    assert ("closed", 400) == before
    assert "open" == breaker(GROQ).state


def test_trap_45_one_bench_is_emitted_once_however_many_threads_fail(clock):
    """Many failures at the same moment open a circuit once."""
    received = []
    together = threading.Barrier(16)
    with testing.capture_events() as captured:

        def work(index: int) -> None:
            with breaker(GROQ):
                together.wait(PATIENCE)
                raise down()

        with eager_threads():
            results = in_threads(16, work)
    received = [event for event in captured if type(event).__name__ == "TargetBenched"]

    assert [ProviderError] * 16 == [type(result) for result in results]
    assert 1 == len(received)
    assert 1 == len(list_benched())


# --- 46: nothing grows for ever ---------------------------------------------------------------


def test_trap_46_policies_made_per_request_are_freed(clock):
    """A router per request leaves neither itself nor its function nor its observer behind."""

    class Observer:
        def __call__(self, event: object) -> None:
            pass

    refs = []

    def request() -> None:
        observer = Observer()
        policy = failover(chain=[GROQ, OPENAI], attempts=1, observers=[observer])

        @policy
        def ask(target: Target) -> str:
            if target.key == GROQ:
                raise down()
            return "answer"

        ask()
        refs.extend([weakref.ref(observer), weakref.ref(ask.__wrapped__)])

    for _ in range(20):
        request()
    gc.collect()

    assert [None] * 40 == [ref() for ref in refs]


def test_trap_46_guards_made_per_request_are_freed(clock):
    """A breaker per request leaves neither itself nor its function behind."""
    refs = []

    def request() -> None:
        guard = breaker(GROQ, failures=7)

        @breaker(GROQ)
        def ask() -> str:
            with guard:
                return "answer"

        ask()
        refs.append(weakref.ref(ask.__wrapped__))

    for _ in range(20):
        request()
    gc.collect()

    assert [None] * 20 == [ref() for ref in refs]


def test_trap_46_unsubscribed_observers_are_freed(clock):
    """Ending an observation lets go of its callback."""
    from resilient_llm import observe

    class Observer:
        def __call__(self, event: object) -> None:
            pass

    observer = Observer()
    ref = weakref.ref(observer)
    unsubscribe = observe(observer)
    unsubscribe()
    del observer, unsubscribe
    gc.collect()

    assert ref() is None


@pytest.mark.slow
@pytest.mark.parametrize("how", ["breaker", "failover", "account"])
def test_trap_46_idle_healthy_keys_are_dropped(clock, how: str):
    """A key per tenant does not make the registry grow for ever, and what matters stays."""

    @failover(chain=["chain/named"], when_all_benched="raise")
    def named(target: Target) -> str:
        return "answer"

    named()
    bench_model("keep/manual")
    breaker("keep/automatic", cooldown=100_000, max_cooldown=100_000)
    trip("keep/automatic")

    def call(number: int) -> None:
        if how == "breaker":
            with breaker(f"tenant-{number}/llama"):
                pass
        elif how == "failover":
            failover(chain=[f"tenant-{number}/llama"]).call(answer)
        else:
            failover(chain=[Target("groq/llama", account=f"tenant-{number}")]).call(answer)

    for number in range(12_000):
        call(number)
        if number % 3_000 == 2_999:
            gc.collect()
            clock.advance(3_600)
    for number in range(12_000, 12_200):
        call(number)

    assert len(health()) <= 11_000
    assert "chain/named" in health()
    assert is_benched("keep/manual")
    assert is_benched("keep/automatic")
    assert "answer" == named()


def answer(target: Target) -> str:
    """A provider that answers."""
    return "answer"


@pytest.mark.slow
def test_trap_46_a_dropped_key_starts_anew(clock):
    """A key that was dropped is a new one when it is seen again, and works."""
    for number in range(10_500):
        breaker(f"tenant-{number}/llama").record(None, 0.1)
        if number == 5_000:
            clock.advance(3_600)

    fail("tenant-0/llama", times=4)
    trip_state = breaker("tenant-0/llama").state
    fail("tenant-0/llama")

    assert ("closed", "open") == (trip_state, breaker("tenant-0/llama").state)


@pytest.mark.slow
def test_trap_46_a_guard_kept_in_a_variable_outlives_the_bound(clock):
    """A guard whose key was idle for long still reports to the circuit that others see."""
    guard = breaker("kept/guard", failures=2)
    with guard:
        pass

    for number in range(10_500):
        breaker(f"tenant-{number}/llama").record(None, 0.1)
        if number == 10_000:
            clock.advance(3_600)
    for _ in range(2):
        with pytest.raises(ProviderError), guard:
            raise down()

    assert "open" == guard.state == breaker("kept/guard").state


@pytest.mark.slow
def test_trap_46_a_chain_kept_in_a_variable_outlives_the_bound(clock):
    """A decorated function whose target was idle for long still reports to the circuit that others see."""

    @failover(chain=["kept/chain"], attempts=1, when_all_benched="raise")
    def ask(target: Target, error: BaseException | None = None) -> str:
        if error:
            raise error
        return "answer"

    ask()
    for number in range(10_500):
        breaker(f"tenant-{number}/llama").record(None, 0.1)
        if number == 10_000:
            clock.advance(3_600)
    for _ in range(5):
        with pytest.raises(ChainExhaustedError):
            ask(down())

    assert "open" == breaker("kept/chain").state
    assert is_benched("kept/chain")
