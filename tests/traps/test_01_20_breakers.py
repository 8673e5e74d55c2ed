"""Where breakers of released libraries went wrong: traps 1 to 20, in every shape they apply to."""

import asyncio
import contextlib
import functools
import gc
import os
import pickle
import subprocess
import sys
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from resilient_llm import (
    BreakerOpenError,
    ChainExhaustedError,
    ConfigurationError,
    Target,
    TargetBenched,
    bench_model,
    breaker,
    failover,
    health,
    is_benched,
    list_benched,
    observe,
    testing,
    unbench_model,
)
from tests.support.guards import (
    PATIENCE,
    Held,
    eager_threads,
    elsewhere,
    fail,
    half_open,
    in_threads,
    is_refused,
    state,
    succeed,
    totals,
    trip,
)
from tests.support.ways import (
    ASYNC_SHAPES,
    BREAKER_SHAPES,
    CHAIN_SHAPES,
    GROQ,
    OPENAI,
    SHAPES,
    SYNC_SHAPES,
    WITH,
    ProviderError,
    Shape,
    down,
    is_refusal,
    on_both_loops,
    over,
    run_async,
    unreachable,
)

# --- 1: one probe -----------------------------------------------------------------------------


@over(SYNC_SHAPES)
@pytest.mark.parametrize("opened_by", [down, unreachable], ids=["target", "provider"])
def test_trap_01_one_probe_when_a_cooldown_ends_under_threads(clock, shape: Shape, opened_by):
    """Of 20 threads that arrive the moment a cooldown ends one is let through."""
    trip(error=opened_by)
    clock.advance(34)
    admitted, refused = [], []
    all_others_refused = threading.Event()

    def provider() -> str:
        admitted.append(threading.get_ident())
        all_others_refused.wait(PATIENCE)
        return "answer"

    def call(index: int) -> str:
        try:
            return shape.run(GROQ, provider)
        except Exception as error:
            refused.append(is_refusal(error))
            if len(refused) == 19:
                all_others_refused.set()
            return "refused"

    with eager_threads():
        results = in_threads(20, call)

    assert ["answer"] + ["refused"] * 19 == sorted(results)
    assert [True] * 19 == refused
    assert 1 == len(admitted)
    assert ["closed", "closed"] == [state(GROQ), state("groq")]


@over(ASYNC_SHAPES)
@pytest.mark.parametrize("opened_by", [down, unreachable], ids=["target", "provider"])
def test_trap_01_one_probe_when_a_cooldown_ends_under_tasks(clock, shape: Shape, opened_by):
    """Of 50 tasks that arrive the moment a cooldown ends one is let through."""
    trip(error=opened_by)
    clock.advance(34)
    admitted, results = [], []

    async def main() -> None:
        all_others_refused = anyio.Event()

        async def provider() -> str:
            admitted.append(1)
            with anyio.move_on_after(PATIENCE):
                await all_others_refused.wait()
            return "answer"

        async def call() -> None:
            try:
                results.append(await shape.call(GROQ, provider))
            except Exception as error:
                results.append("refused" if is_refusal(error) else "failed")
                if results.count("refused") == 49:
                    all_others_refused.set()

        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(call)

    run_async(main, backend=shape.backend)

    assert 1 == len(admitted)
    assert ["answer"] + ["refused"] * 49 == sorted(results)
    assert ["closed", "closed"] == [state(GROQ), state("groq")]


# --- 2, 3, 4: late reports --------------------------------------------------------------------


@over(SHAPES)
def test_trap_02_a_success_admitted_before_the_trip_leaves_an_open_circuit_open(
    clock, shape: Shape
):
    """A late success of the closed state does not close what opened meanwhile."""
    ends = []

    def provider() -> str:
        trip()
        ends.append(list_benched()[0].remaining)
        return "late"

    shape.run(GROQ, provider)

    assert "open" == state()
    assert is_refused()
    assert ends == pytest.approx([list_benched()[0].remaining])


@over(SHAPES)
def test_trap_02_a_success_admitted_before_the_trip_is_ignored_while_a_probe_runs(
    clock, shape: Shape
):
    """A late success of the closed state neither closes a half-open circuit nor frees its lease."""
    probes = []

    def provider() -> str:
        half_open(clock)
        probes.append(Held())
        return "late"

    shape.run(GROQ, provider)
    after_late_success = state()
    lease_is_taken = is_refused()
    probes[0].finish(down())

    assert ("half_open", True, "open") == (after_late_success, lease_is_taken, state())


@over(SHAPES)
def test_trap_03_a_failure_admitted_before_the_trip_leaves_the_bench_as_it_is(clock, shape: Shape):
    """A late failure of the closed state neither extends nor escalates a bench."""
    ends = []

    def provider() -> None:
        trip()
        clock.advance(10)
        ends.append(list_benched()[0].remaining)
        raise down()

    with pytest.raises(ProviderError):
        shape.run(GROQ, provider)

    assert ends == pytest.approx([list_benched()[0].remaining])
    clock.advance(ends[0] + 0.001)
    fail()
    assert 60 - 0.001 <= list_benched()[0].remaining <= 66 + 0.001


@over(SHAPES)
def test_trap_03_a_failure_admitted_before_the_trip_does_not_open_a_half_open_circuit(
    clock, shape: Shape
):
    """A late failure of the closed state is not the probe's."""

    def provider() -> None:
        half_open(clock)
        raise down()

    with pytest.raises(ProviderError):
        shape.run(GROQ, provider)

    assert "half_open" == state()


@over(SHAPES)
@pytest.mark.parametrize("ending", ["late", down], ids=["success", "failure"])
def test_trap_04_a_probe_of_an_earlier_half_open_period_is_ignored(clock, shape: Shape, ending):
    """A probe that outlived its period neither settles a later one nor frees a lease of it."""
    breaker(GROQ, probe_lease=5)
    half_open(clock)
    probes = []

    def provider() -> object:
        clock.advance(6)
        fail()
        clock.advance(67)
        assert "half_open" == state()
        probes.append(Held())
        if callable(ending):
            raise ending()
        return ending

    try:
        shape.run(GROQ, provider)
    except ProviderError:
        pass
    after_late_report = state()
    lease_is_taken = is_refused()
    probes[0].finish("answer")

    assert ("half_open", True, "closed") == (after_late_report, lease_is_taken, state())


# --- 5, 6, 7: probes that hang, callers who cancel --------------------------------------------


@over(SHAPES)
def test_trap_05_a_probe_that_hangs_for_ever_does_not_block_for_ever(clock, shape: Shape):
    """The lease of the only probe is given out again when it is over."""
    half_open(clock)
    hanging = Held(GROQ, shape)

    while_leased = is_refused()
    clock.advance(34)
    outcome = elsewhere(shape.outcome, GROQ, "answer")
    hanging.finish("late")

    assert (True, "served", "closed") == (while_leased, outcome, state())


@over(SHAPES)
def test_trap_05_a_hanging_probe_of_a_provider_does_not_block_its_targets_for_ever(
    clock, shape: Shape
):
    """A lease of a half-open provider is given out again as well."""
    trip("groq/broken", unreachable)
    clock.advance(34)
    hanging = Held(GROQ, shape)

    while_leased = is_refused("groq/other")
    clock.advance(34)
    outcome = elsewhere(shape.outcome, "groq/other", "answer")
    hanging.finish("late")

    assert (True, "served", "closed") == (while_leased, outcome, state("groq"))


@over(SHAPES)
@pytest.mark.parametrize("opened_by", [down, unreachable], ids=["target", "provider"])
def test_trap_06_a_cancelled_probe_gives_its_place_back_without_a_verdict(
    clock, shape: Shape, opened_by
):
    """A cancelled probe neither closes nor reopens."""
    trip(error=opened_by)
    clock.advance(34)
    key = GROQ if opened_by is down else "groq"

    outcome = shape.outcome(GROQ, asyncio.CancelledError())
    after_cancel = state(key)
    next_outcome = shape.outcome(GROQ, "answer")

    assert ("failed", "half_open", "served", "closed") == (
        outcome,
        after_cancel,
        next_outcome,
        state(key),
    )


@over(ASYNC_SHAPES)
def test_trap_06_a_probe_cancelled_by_its_loop_gives_its_place_back_without_a_verdict(
    clock, shape: Shape
):
    """A real cancellation of the task is nothing to the circuit."""
    half_open(clock)

    async def main() -> None:
        with anyio.CancelScope() as scope:

            async def provider() -> None:
                scope.cancel()
                await anyio.sleep_forever()

            await shape.call(GROQ, provider)

    run_async(main, backend=shape.backend)

    assert "half_open" == state()
    assert not is_refused()


@over(ASYNC_SHAPES)
def test_trap_07_six_callers_who_cancel_do_not_trip(clock, shape: Shape):
    """Cancellations of calls that were no slower than others are nothing."""

    async def cancelled_call() -> None:
        with anyio.CancelScope() as scope:

            async def provider() -> None:
                clock.advance(1)
                scope.cancel()
                await anyio.sleep_forever()

            await shape.call(GROQ, provider)

    for _ in range(12):
        run_async(cancelled_call, backend=shape.backend)

    assert "closed" == state()
    assert 0 == totals()[1]


@over(ASYNC_SHAPES)
def test_trap_07_ten_callers_who_give_up_on_a_hanging_provider_trip(clock, shape: Shape):
    """A provider that hangs behind somebody's own time limit is found out."""

    async def impatient_call() -> None:
        with anyio.CancelScope() as scope:

            async def provider() -> None:
                clock.advance(11)
                scope.cancel()
                await anyio.sleep_forever()

            await shape.call(GROQ, provider)

    for _ in range(9):
        run_async(impatient_call, backend=shape.backend)
    before = state()
    run_async(impatient_call, backend=shape.backend)

    assert ("closed", "open") == (before, state())


# --- 8: observers -----------------------------------------------------------------------------


@over(SHAPES)
def test_trap_08_an_observer_that_raises_leaves_the_call_unaffected(clock, shape: Shape):
    """Whatever an observer raises, results and errors are those of the provider."""

    def broken(event: object) -> None:
        raise ValueError("a broken observer")

    observe(broken)

    outcomes = [shape.outcome(GROQ, outcome) for outcome in ["answer", *(down() for _ in range(6))]]
    clock.advance(34)
    outcomes.append(shape.outcome(GROQ, "answer"))

    assert ["served", *["failed"] * 5, "refused", "served"] == outcomes
    assert "closed" == state()


@over(SHAPES)
def test_trap_08_an_observer_may_call_the_registry(clock, shape: Shape):
    """An observer that asks and changes the registry, from its own or another thread, does not deadlock."""
    answers = []

    def use_the_registry() -> None:
        answers.append((health(), list_benched(), is_benched(GROQ), breaker(GROQ).state))
        bench_model("bystander/model", 60)
        unbench_model("bystander/model")
        breaker("bystander/other").record(None, 0.1)

    def observer(event: TargetBenched) -> None:
        if "bystander" not in str(event.target):
            use_the_registry()
            elsewhere(use_the_registry)

    observe(observer, TargetBenched)
    for _ in range(5):
        shape.outcome(GROQ, down())

    assert 2 == len(answers)
    assert [True, True] == [is_there for _, _, is_there, _ in answers]


@over(SHAPES)
def test_trap_08_an_observer_may_make_a_guarded_call(clock, shape: Shape):
    """An observer that calls through the very circuit of its event does not deadlock."""
    outcomes = []
    observe(lambda event: outcomes.append(elsewhere(WITH.outcome, GROQ, "x")), TargetBenched)

    for _ in range(5):
        shape.outcome(GROQ, down())

    assert ["refused"] == outcomes


# --- 9: streams -------------------------------------------------------------------------------


def test_trap_09_a_stream_that_fails_in_the_middle_is_a_failure(clock):
    """Five generators that fail after their first item trip."""

    @breaker(GROQ)
    def stream() -> Iterator[int]:
        yield 1
        raise down()

    for _ in range(5):
        with pytest.raises(ProviderError):
            list(stream())

    assert "open" == state()
    with pytest.raises(BreakerOpenError):
        list(stream())


def test_trap_09_a_stream_that_is_not_read_to_its_end_is_no_failure(clock):
    """Consumers who stop early do not trip, and the generator is closed."""
    closed = []

    @breaker(GROQ)
    def stream() -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    for _ in range(6):
        for _item in stream():
            break
        gc.collect()

    assert [True] * 6 == closed
    assert "closed" == state()
    assert 0 == totals()[1]


@on_both_loops
def test_trap_09_an_async_stream_that_fails_in_the_middle_is_a_failure(clock, backend: str):
    """Five async generators that fail after their first item trip."""

    @breaker(GROQ)
    async def stream():
        yield 1
        raise down()

    async def read() -> None:
        async for _item in stream():
            pass

    for _ in range(5):
        with pytest.raises(ProviderError):
            run_async(read, backend=backend)

    assert "open" == state()
    with pytest.raises(BreakerOpenError):
        run_async(read, backend=backend)


@on_both_loops
def test_trap_09_an_async_stream_that_is_not_read_to_its_end_is_no_failure(clock, backend: str):
    """Async consumers who stop early and close do not trip."""
    closed = []

    @breaker(GROQ)
    async def stream():
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    async def read_one() -> None:
        items = stream()
        async for _item in items:
            break
        await items.aclose()

    for _ in range(6):
        run_async(read_one, backend=backend)

    assert [True] * 6 == closed
    assert "closed" == state()
    assert 0 == totals()[1]


# --- 10: no lock across the call --------------------------------------------------------------


@over(SYNC_SHAPES)
def test_trap_10_calls_through_one_breaker_run_at_the_same_time(clock, shape: Shape):
    """Eight threads are all inside at once: no lock is held across the call."""
    together = threading.Barrier(8)

    def provider() -> str:
        together.wait(PATIENCE)
        return "answer"

    results = in_threads(8, lambda index: shape.run(GROQ, provider))

    assert ["answer"] * 8 == results


@over(ASYNC_SHAPES)
def test_trap_10_tasks_through_one_breaker_run_at_the_same_time(clock, shape: Shape):
    """Eight tasks are all inside at once."""
    results = []

    async def main() -> None:
        everyone = anyio.Event()
        inside = []

        async def provider() -> str:
            inside.append(1)
            if len(inside) == 8:
                everyone.set()
            await everyone.wait()
            return "answer"

        async def call() -> None:
            results.append(await shape.call(GROQ, provider))

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                for _ in range(8):
                    tasks.start_soon(call)

    run_async(main, backend=shape.backend)

    assert ["answer"] * 8 == results


# --- 11: entering -----------------------------------------------------------------------------


@over(SHAPES)
def test_trap_11_the_body_never_runs_on_an_open_circuit(clock, shape: Shape):
    """An open circuit raises before anything is sent."""
    trip()
    ran = []

    with pytest.raises((BreakerOpenError, ChainExhaustedError)) as caught:
        shape.run(GROQ, lambda: ran.append(True))

    assert is_refusal(caught.value)
    assert [] == ran


@on_both_loops
@pytest.mark.parametrize("ending", [None, down], ids=["success", "failure"])
def test_trap_11_a_guard_entered_in_one_task_is_left_in_another(clock, backend: str, ending):
    """The probe of a half-open circuit may be entered here and left there."""
    half_open(clock)
    guard = breaker(GROQ)

    async def leave() -> None:
        error = ending() if ending else None
        await guard.__aexit__(type(error) if error else None, error, None)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(guard.__aenter__)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(leave)

    run_async(main, backend=backend)

    assert ("open" if ending else "closed") == state()


# --- 12, 13: errors keep nothing --------------------------------------------------------------


@over(SHAPES)
def test_trap_12_three_hundred_refusals_are_all_new_and_equally_deep(clock, shape: Shape):
    """Tracebacks do not grow from refusal to refusal, and no error object is used twice."""
    trip()
    depths, kept = [], []

    for _ in range(300):
        try:
            shape.run(GROQ, lambda: None)
        except Exception as error:
            members = [error, *getattr(error, "exceptions", ())]
            depths.append([len(traceback.extract_tb(member.__traceback__)) for member in members])
            kept.append(members)

    assert all(is_refusal(members[0]) for members in kept)
    assert [depths[1]] * 299 == depths[1:]
    assert 300 * len(kept[0]) == len({id(member) for members in kept for member in members})


@over(SHAPES)
def test_trap_12_a_refusal_can_be_pickled(clock, shape: Shape):
    """A refusal goes to another process as it is."""
    trip()

    with pytest.raises((BreakerOpenError, ChainExhaustedError)) as caught:
        shape.run(GROQ, lambda: None)
    copy = pickle.loads(pickle.dumps(caught.value))

    assert type(caught.value) is type(copy)
    assert str(caught.value) == str(copy)
    assert caught.value.retry_after == copy.retry_after
    assert is_refusal(copy)


class Prompt:
    """Something large which a failing frame holds."""

    def __init__(self) -> None:
        self.text = bytearray(1_000_000)


@over(SHAPES)
def test_trap_13_a_failing_frame_is_freed_when_the_call_is_over(clock, shape: Shape):
    """Nothing keeps a failed call's frame alive, and so its prompt."""
    prompts = []

    def provider() -> None:
        prompt = Prompt()
        prompts.append(weakref.ref(prompt))
        raise down()

    for _ in range(7):
        with contextlib.suppress(Exception):
            shape.run(GROQ, provider)
    gc.collect()

    assert 5 == len(prompts)
    assert [None] * 5 == [prompt() for prompt in prompts]


@over([shape for shape in SYNC_SHAPES if shape in BREAKER_SHAPES])
def test_trap_13_a_failing_frame_is_freed_without_the_garbage_collector(clock, shape: Shape):
    """A guard makes no cycle of an error and its frames."""
    prompts = []

    def provider() -> None:
        prompt = Prompt()
        prompts.append(weakref.ref(prompt))
        raise down()

    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            try:
                shape.run(GROQ, provider)
            except ProviderError:
                pass
        alive = [prompt() is not None for prompt in prompts]
    finally:
        gc.enable()

    assert [False] * 3 == alive


# --- 14: groups and causes --------------------------------------------------------------------


class WrapperError(Exception):
    """What a framework makes of a provider's error."""


def in_a_group() -> BaseException:
    """A failure in a group."""
    return ExceptionGroup("unhandled errors", [down()])


def in_nested_groups() -> BaseException:
    """A failure in a group in a group."""
    return ExceptionGroup("outer", [ExceptionGroup("inner", [down()])])


def as_a_cause() -> BaseException:
    """A failure behind a wrapper."""
    error = WrapperError("the framework failed")
    error.__cause__ = down()
    return error


def as_a_cause_in_a_group() -> BaseException:
    """A failure behind a wrapper in a group."""
    return ExceptionGroup("unhandled errors", [as_a_cause()])


@over(SHAPES)
@pytest.mark.parametrize(
    "wrapped", [in_a_group, in_nested_groups, as_a_cause, as_a_cause_in_a_group]
)
def test_trap_14_a_wrapped_error_has_the_same_verdict(clock, shape: Shape, wrapped):
    """A failure in a group or behind a cause opens like the failure itself."""
    outcomes = [shape.outcome(GROQ, wrapped()) for _ in range(6)]

    assert ["failed"] * 5 + ["refused"] == outcomes
    assert "open" == state()


@over(SHAPES)
def test_trap_14_a_wrapped_failure_of_a_provider_is_the_providers(clock, shape: Shape):
    """The scope of an error survives its wrapping."""
    for _ in range(5):
        shape.outcome(GROQ, ExceptionGroup("unhandled errors", [unreachable()]))

    assert ("closed", "open") == (state(GROQ), state("groq"))


@over(SHAPES)
def test_trap_14_the_most_severe_member_of_a_group_decides(clock, shape: Shape):
    """A bug of the caller beside a failure is a bug of the caller."""
    outcomes = [
        shape.outcome(GROQ, ExceptionGroup("unhandled errors", [down(), TypeError("a bug")]))
        for _ in range(12)
    ]

    assert ["failed"] * 12 == outcomes
    assert 0 == totals()[1]


# --- 15: everything callable ------------------------------------------------------------------


class CallableObject:
    """A provider that is an object."""

    def __call__(self) -> None:
        raise down()


class AsyncCallableObject:
    """A provider that is an object with a coroutine method."""

    async def __call__(self) -> None:
        raise down()


def failing(size: int = 0) -> None:
    """A provider that is down."""
    raise down()


async def afailing(size: int = 0) -> None:
    """An async provider that is down."""
    raise down()


@pytest.mark.parametrize(
    "function",
    [
        functools.partial(failing, 1),
        functools.partial(failing, size=1),
        CallableObject(),
        lambda: failing(),
    ],
    ids=["partial", "partial with a name", "object", "lambda"],
)
def test_trap_15_everything_callable_is_guarded(clock, function):
    """partial, callable objects and lambdas are guarded like functions."""
    guarded = breaker(GROQ)(function)

    for _ in range(5):
        with pytest.raises(ProviderError):
            guarded()

    assert "open" == state()
    with pytest.raises(BreakerOpenError):
        guarded()


@on_both_loops
@pytest.mark.parametrize(
    "function",
    [functools.partial(afailing, 1), AsyncCallableObject(), lambda: afailing()],
    ids=["partial", "object", "lambda"],
)
def test_trap_15_everything_that_returns_a_coroutine_is_guarded_while_it_runs(
    clock, backend: str, function
):
    """The awaitable is guarded, not only the call that makes it."""
    guarded = breaker(GROQ)(function)

    async def ask() -> None:
        await guarded()

    for _ in range(5):
        with pytest.raises(ProviderError):
            run_async(ask, backend=backend)

    assert "open" == state()
    with pytest.raises(BreakerOpenError):
        run_async(ask, backend=backend)


class Client:
    """A client whose methods take their target first."""

    def ask(self, target: Target, prompt: str) -> str:
        """Answer with the target's key."""
        return f"{target.key} {prompt}"

    def __call__(self, target: Target, prompt: str) -> str:
        return self.ask(target, prompt)


@pytest.mark.parametrize(
    "function",
    [
        functools.partial(Client.ask, Client()),
        Client(),
        Client().ask,
        lambda prompt, *, target=None: f"{target.key} {prompt}",
    ],
    ids=["partial", "object", "method", "lambda"],
)
def test_trap_15_everything_callable_fails_over(clock, function):
    """failover gives every kind of callable its target."""
    bench_model(GROQ)

    assert f"{OPENAI} x" == failover(chain=[GROQ, OPENAI])(function)("x")


@on_both_loops
def test_trap_15_a_lambda_that_returns_a_coroutine_fails_over(clock, backend: str):
    """A plain function that returns an awaitable is guarded until it has been awaited."""

    async def client(target: Target) -> str:
        if target.key == GROQ:
            raise down()
        return target.key

    ask = failover(chain=[GROQ, OPENAI], attempts=1)(lambda *, target=None: client(target))

    async def main() -> str:
        return await ask()

    assert OPENAI == run_async(main, backend=backend)
    assert (1, 1) == totals(GROQ)


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_trap_15_short_lived_closures_are_never_taken_for_each_other(clock, colour: str):
    """Thousands of closures, each decorated and dropped, are each guarded by their own circuit."""
    breaker("groq/odd", mode="metrics_only")
    results, expected = [], []

    async def arun(function) -> object:
        try:
            return await function()
        except ProviderError:
            return "failed"

    def run(function) -> object:
        try:
            return function()
        except ProviderError:
            return "failed"

    async def main() -> None:
        for number in range(3000):
            key = "groq/odd" if number % 2 else "groq/even"

            def closure(number: int = number) -> object:
                if number % 2:
                    raise down()
                return number

            async def aclosure(number: int = number) -> object:
                if number % 2:
                    raise down()
                return number

            expected.append("failed" if number % 2 else number)
            if colour == "sync":
                results.append(run(breaker(key)(closure)))
            else:
                results.append(await arun(breaker(key)(aclosure)))

    asyncio.run(main())

    assert expected == results
    assert ((1500, 1500), (1500, 0)) == (totals("groq/odd"), totals("groq/even"))


# --- 16, 17, 18: windows, clocks, jitter ------------------------------------------------------


@over(SHAPES)
def test_trap_16_a_window_is_empty_after_it_has_passed_idle(clock, shape: Shape):
    """A window of 2 s holds nothing after 3 s of silence."""
    options = {"window": 2.0, "min_calls": 3, "failures": 100}
    for _ in range(2):
        shape.outcome(GROQ, down(), **options)

    clock.advance(3)
    empty = totals()
    for _ in range(2):
        shape.outcome(GROQ, down())

    assert ((0, 0), "closed") == (empty, state())


@over(SHAPES)
def test_trap_16_old_errors_never_reopen_a_circuit_that_has_recovered(clock, shape: Shape):
    """After a recovery neither a success nor a first failure opens on the errors of before."""
    breaker(GROQ, failures=100)
    fail(times=10)
    clock.advance(34)

    outcomes = [
        shape.outcome(GROQ, outcome) for outcome in ["answer", "answer", down(), "answer", down()]
    ]

    assert ["served", "served", "failed", "served", "failed"] == outcomes
    assert "closed" == state()


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
@over(SHAPES)
def test_trap_17_a_jump_of_the_wall_clock_changes_nothing(monkeypatch, shape: Shape, jump: float):
    """Benches and windows live by the monotonic clock."""
    trip("open/model")
    fail(GROQ, times=2)
    before = list_benched()[0].remaining
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    monkeypatch.setattr(time, "time_ns", lambda: int((real() + jump) * 1e9))

    outcome = shape.outcome("open/model", "answer")
    counted = totals(GROQ)
    after = list_benched()[0].remaining

    assert ("refused", (2, 2)) == (outcome, counted)
    assert 0 <= before - after < 20


@over(SHAPES)
def test_trap_18_the_jitter_of_a_bench_is_drawn_once(clock, shape: Shape):
    """However often a caller is refused, the bench ends when it was going to end."""
    trip()
    (bench,) = list_benched()
    ends = set()

    for _ in range(200):
        assert "refused" == shape.outcome(GROQ, "answer")
        ends.add(list_benched()[0].until)
    clock.advance(bench.remaining - 0.001)
    before = shape.outcome(GROQ, "answer")
    clock.advance(0.002)
    after = shape.outcome(GROQ, "answer")

    assert {bench.until} == ends
    assert ["refused", "served"] == [before, after]


# --- 19: isolation and settings ---------------------------------------------------------------


@failover(chain=["import/time"], attempts=1, when_all_benched="raise")
def asked_at_import(target: Target, outcome: object) -> object:
    """A chain decorated when the module is imported."""
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


@breaker("import/time")
def guarded_at_import(outcome: object) -> object:
    """A function guarded when the module is imported."""
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


GUARD_AT_IMPORT = breaker("import/time")


def entered_at_import(outcome: object) -> object:
    """Enter a guard made when the module is imported."""
    with GUARD_AT_IMPORT:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


@pytest.mark.parametrize("ask", [asked_at_import, guarded_at_import, entered_at_import])
def test_trap_19_a_function_decorated_at_import_is_isolated_and_real_again_after(ask):
    """State, clock and settings follow into isolated() and back, twice."""
    ask("real")
    real = health()["import/time"].total

    for _ in range(2):
        with testing.isolated(), testing.fake_clock() as clock:
            breaker("import/time", cooldown=1000, max_cooldown=2000)
            for _ in range(5):
                with pytest.raises((ProviderError, ChainExhaustedError)):
                    ask(down())
            inside = state("import/time")
            clock.advance(999)
            still = state("import/time")
            clock.advance(102)
            after_cooldown = state("import/time")
        assert ("open", "open", "half_open") == (inside, still, after_cooldown)

    assert "closed" == state("import/time")
    assert "real" == ask("real")
    assert real + 1 == health()["import/time"].total


BAD_NUMBERS = [0, -1, float("nan"), float("inf"), True, "3"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("attempts", value) for value in [*BAD_NUMBERS, 1.5, None]),
        *(("max_attempts", value) for value in [*BAD_NUMBERS, 1.5]),
        *(("timeout", value) for value in BAD_NUMBERS),
        *(("cooldown", value) for value in BAD_NUMBERS),
        ("strategy", "no such strategy"),
        ("when_all_benched", "panic"),
        ("on_unknown", "ignore"),
        ("on_request_error", "ignore"),
        ("on_content_policy", "ignore"),
        ("reject", 3),
        ("classify", 3),
        ("backoff", "fast"),
        ("observers", [3]),
    ],
)
def test_trap_19_a_bad_option_of_a_chain_is_refused_where_it_is_written(option: str, value: object):
    """The error names the option."""
    with pytest.raises(ConfigurationError) as caught:
        failover(chain=[GROQ], **{option: value})

    assert isinstance(caught.value, ValueError)
    assert option in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("cooldown", float("inf")),
        ("cooldown", float("nan")),
        ("probes", 0),
        ("failures", True),
        ("cooldown", True),
    ],
)
def test_trap_19_a_bad_option_of_a_breaker_is_refused_where_it_is_written(
    option: str, value: object
):
    """The error names the option."""
    with pytest.raises(ConfigurationError, match=option):
        breaker(GROQ, **{option: value})


@pytest.mark.parametrize("option", ["attempts", "failures", "probes"])
def test_trap_19_using_refuses_what_the_decorator_refuses(option: str):
    """A copy with changes is checked like a new policy."""
    policy = failover(chain=[GROQ])

    with pytest.raises((ConfigurationError, TypeError)):
        policy.using(**{option: 0})


def policy_of_many_attempts() -> object:
    """A chain of one target that makes two thousand attempts."""
    breaker(GROQ, failures=10_000, min_calls=10_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return failover(chain=[GROQ], attempts=2000)


def test_trap_19_attempt_number_two_thousand_does_not_overflow(clock):
    """The ceiling of the backoff is reached without an enormous power of two."""
    numbers = []

    @policy_of_many_attempts()
    def ask(target: Target) -> str:
        numbers.append(1)
        if len(numbers) < 2000:
            raise down()
        return "answer"

    assert "answer" == ask()
    assert 2000 == len(numbers)
    assert max(clock.sleeps) <= 10


@on_both_loops
def test_trap_19_attempt_number_two_thousand_does_not_overflow_in_async_code(clock, backend: str):
    """The ceiling of the backoff is reached without an enormous power of two."""
    numbers = []

    @policy_of_many_attempts()
    async def ask(target: Target) -> str:
        numbers.append(1)
        if len(numbers) < 2000:
            raise down()
        return "answer"

    assert "answer" == run_async(ask, backend=backend)
    assert 2000 == len(numbers)


def test_trap_19_two_thousand_failed_probes_do_not_overflow(clock):
    """The longest cooldown is reached without an enormous power of two."""
    trip()

    for _ in range(2000):
        clock.advance(331)
        with pytest.raises(ProviderError), breaker(GROQ):
            raise down()

    assert 300 - 0.001 <= list_benched()[0].remaining <= 330 + 0.001


# --- 20: loops and processes ------------------------------------------------------------------


@over(ASYNC_SHAPES)
def test_trap_20_one_guard_works_on_loop_after_loop(clock, shape: Shape):
    """Two runs of a loop, and the other loop, use one circuit."""
    other = next(
        each for each in ASYNC_SHAPES if each.call is shape.call and each.backend != shape.backend
    )

    outcomes = [
        each.outcome(GROQ, down()) for each in (shape, shape, other, shape, other, other, shape)
    ]

    assert ["failed"] * 5 + ["refused"] * 2 == outcomes


@over(ASYNC_SHAPES)
def test_trap_20_two_loops_in_two_threads_use_one_circuit(clock, shape: Shape):
    """Loops of two threads work on one circuit at the same time."""
    together = threading.Barrier(2)

    def provider() -> str:
        together.wait(PATIENCE)
        return "answer"

    results = in_threads(2, lambda index: shape.run(GROQ, provider))

    assert ["answer", "answer"] == results
    assert (2, 0) == totals()


@on_both_loops
def test_trap_20_one_decorated_function_works_on_loop_after_loop(clock, backend: str):
    """A function decorated once is called on many loops."""

    @failover(chain=[GROQ, OPENAI], attempts=2, backoff=lambda n: 0.1)
    @breaker("inner/model")
    async def ask(target: Target) -> str:
        await anyio.lowlevel.checkpoint()
        if target.key == GROQ:
            raise down()
        return target.key

    results = [run_async(ask, backend=backend) for _ in range(3)]
    results += in_threads(2, lambda index: run_async(ask, backend=backend))
    results.append(run_async(ask, backend="asyncio"))

    assert [OPENAI] * 6 == results


FORK = """
import asyncio, os, sys
from resilient_llm import Target, breaker, configure, failover, list_benched

configure(logging=False)

@failover(chain=["groq/llama", "openai/gpt"], attempts=1)
async def ask(target: Target) -> str:
    await asyncio.sleep(0)
    if target.provider == "groq":
        raise TimeoutError("timed out")
    return target.key

@breaker("mistral/large")
def guarded():
    return "answer"

for _ in range(3):
    asyncio.run(ask())
guarded()
child = os.fork()
for _ in range(2):
    assert asyncio.run(ask()) == "openai/gpt"
assert guarded() == "answer"
assert breaker("groq/llama").state == "open", breaker("groq/llama").state
assert [bench.model for bench in list_benched()] == ["groq/llama"]
if child:
    _, status = os.waitpid(child, 0)
    assert status == 0, status
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_trap_20_calls_go_on_on_both_sides_of_a_fork():
    """Parent and child go on from the same circuits, each on a loop of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert (0, "") == (done.returncode, done.stderr)


@over(CHAIN_SHAPES)
def test_trap_20_chains_of_all_shapes_share_one_circuit(clock, shape: Shape):
    """What opened in one shape is open in every other."""
    for _ in range(5):
        shape.outcome(GROQ, down())

    assert ["refused"] * len(SHAPES) == [elsewhere(each.outcome, GROQ, "answer") for each in SHAPES]


@over(SHAPES)
def test_trap_20_a_circuit_that_one_shape_opened_another_closes(clock, shape: Shape):
    """A probe may come from anywhere."""
    half_open(clock)

    shape.run(GROQ, lambda: "answer")
    succeed(times=2)

    assert "closed" == state()
