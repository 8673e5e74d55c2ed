"""Which attempts give a policy samples and failures: each once, in every way to write a call."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from resilient_llm import Target, configure, failover, reset
from resilient_llm._core.circuit import window
from resilient_llm._runtime.runtime import runtime
from resilient_llm.testing import FakeClock, capture_events, isolated
from tests.support.stream_forms import FORMS, Form, read
from tests.support.stream_sources import END, ROLE, SILENT, Quiet, Supply, said, says
from tests.support.ways import (
    DRIVERS,
    GROQ,
    MISTRAL,
    OPENAI,
    Driver,
    StrangeError,
    down,
    over,
    rate_limited,
    refused_content,
    run_async,
)

if TYPE_CHECKING:
    from collections.abc import Callable

CHAIN = [GROQ, OPENAI, MISTRAL]
KEEPS_FIGURES: list[dict[str, Any]] = [{"adaptive": True}, {"strategy": "least_latency"}]
over_options = pytest.mark.parametrize("options", KEEPS_FIGURES, ids=["adaptive", "least_latency"])


def counted(policy: Any) -> dict[str, tuple[int, int, int]]:
    """Return ``{key: (samples, failures, refusals)}`` of a policy, of the targets with any."""
    figures = runtime.figures_of(policy._policy).of
    found = {key: (each.count, each.failures, each.refusals) for key, each in figures.items()}
    return {key: each for key, each in found.items() if any(each)}


def seconds_of(policy: Any, key: str) -> list[float]:
    return [seconds for _, seconds in runtime.figures_of(policy._policy).of[key]._samples()]


@over(DRIVERS)
@over_options
def test_an_answer_is_one_sample(driver: Driver, options: dict[str, Any], clock: FakeClock) -> None:
    """Each answer is one sample of its seconds, also in calls after the first."""
    policy = failover([GROQ], **options)

    def provider(target: Target) -> str:
        clock.advance(2.0)
        return "yes"

    for _ in range(3):
        driver.run(policy, provider)

    assert {GROQ: (3, 0, 0)} == counted(policy)
    assert [2.0] * 3 == seconds_of(policy, GROQ)


@over(DRIVERS)
@over_options
@pytest.mark.parametrize(
    ("error", "expected"),
    [(down, (0, 1, 0)), (rate_limited, (0, 1, 0)), (StrangeError, (0, 0, 1))],
    ids=["transient", "rate limit", "unknown"],
)
def test_a_failure_is_one_failure(
    driver: Driver,
    options: dict[str, Any],
    error: Callable[[], Exception],
    expected: tuple[int, int, int],
    clock: FakeClock,
) -> None:
    """A failed attempt is counted once, and the answer of the next target is its sample."""
    policy = failover([GROQ, OPENAI], attempts=1, **options)

    def provider(target: Target) -> str:
        clock.advance(1.0)
        if target.key == GROQ:
            raise error()
        return "yes"

    driver.run(policy, provider)

    assert {GROQ: expected, OPENAI: (1, 0, 0)} == counted(policy)


@over(DRIVERS)
def test_a_bad_request_is_no_failure(driver: Driver) -> None:
    """An error of this request's own is an attempt that says nothing about health."""
    policy = failover([GROQ, OPENAI], on_content_policy="next", adaptive=True)

    def provider(target: Target) -> str:
        if target.key == GROQ:
            raise refused_content()
        return "yes"

    driver.run(policy, provider)

    assert {GROQ: (0, 0, 1), OPENAI: (1, 0, 0)} == counted(policy)


@over(DRIVERS)
def test_each_retry_is_an_attempt(driver: Driver, clock: FakeClock) -> None:
    """Attempts on one target count one by one."""
    outcomes = [down(), down(), "yes"]
    policy = failover([GROQ], attempts=3, adaptive=True)

    def provider(target: Target) -> Any:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    driver.run(policy, provider)

    assert {GROQ: (1, 2, 0)} == counted(policy)


@over(DRIVERS)
def test_a_refused_answer_is_no_sample(driver: Driver) -> None:
    """An answer that ``reject`` refuses is an attempt; it harms no health, so it is no failure."""
    policy = failover([GROQ, OPENAI], reject=lambda answer: answer == "no", adaptive=True)

    driver.run(policy, lambda target: "no" if target.key == GROQ else "yes")

    assert {GROQ: (0, 0, 1), OPENAI: (1, 0, 0)} == counted(policy)


@over(DRIVERS)
def test_a_bug_of_the_caller_is_no_attempt(driver: Driver) -> None:
    """What says that your own code is wrong counts nowhere."""
    policy = failover([GROQ, OPENAI], adaptive=True)

    def provider(target: Target) -> str:
        raise TypeError

    with pytest.raises(TypeError):
        driver.run(policy, provider)

    assert {} == counted(policy)


@over(FORMS)
@over_options
def test_a_stream_is_a_sample_to_its_first_content(
    form: Form, options: dict[str, Any], clock: FakeClock
) -> None:
    """A stream that ends well is one sample: the seconds to its first content."""
    steps = [ROLE, Quiet(clock, 2.0), said("It"), Quiet(clock, 6.0), said(" is"), END]
    policy = failover([GROQ], **options)
    ask = form.make(policy, Supply({GROQ: [steps, steps]}))

    read(form, ask)
    read(form, ask)

    assert {GROQ: (2, 0, 0)} == counted(policy)
    assert [2.0, 2.0] == seconds_of(policy, GROQ)


@over(FORMS)
def test_a_stream_whose_reader_leaves_is_a_sample(form: Form, clock: FakeClock) -> None:
    """After content the target has answered; before it, nothing is known of it."""
    steps = [ROLE, Quiet(clock, 2.0), said("It"), Quiet(clock, 6.0), said(" is"), END]
    policy = failover([GROQ], adaptive=True)
    ask = form.make(policy, Supply({GROQ: [steps, [SILENT] * 100]}))

    read(form, ask, take=2)
    assert {GROQ: (1, 0, 0)} == counted(policy)
    assert [2.0] == seconds_of(policy, GROQ)

    read(form, ask, take=2)
    assert {GROQ: (1, 0, 0)} == counted(policy)


@over(FORMS)
def test_a_broken_stream_is_a_failure(form: Form) -> None:
    """A stream that breaks after content is one failure and no sample."""
    policy = failover([GROQ], adaptive=True)
    ask = form.make(policy, Supply({GROQ: [[ROLE, said("It"), TimeoutError]]}))

    read(form, ask)

    assert {GROQ: (0, 1, 0)} == counted(policy)


def test_a_hanging_attempt_that_is_cancelled_is_a_failure(clock: FakeClock) -> None:
    """One that ran for as long as a hanging call counts; a short one is no attempt."""
    import anyio

    policy = failover([GROQ], adaptive=True)

    async def main(seconds: float) -> None:
        @policy
        async def ask(target: Target) -> str:
            clock.advance(seconds)
            scope.cancel()
            await anyio.sleep_forever()
            return "never"

        with anyio.CancelScope() as scope:
            await ask()

    run_async(main, 1.0)
    assert {} == counted(policy)

    run_async(main, 600.0)
    assert {GROQ: (0, 1, 0)} == counted(policy)


def test_copies_with_the_same_chain_share_figures() -> None:
    """A copy by ``.using()`` has the figures of its original, unless it changes the chain."""

    @failover([GROQ, OPENAI], adaptive=True)
    def ask(target: Target) -> str:
        return "yes"

    copy = ask.using(attempts=1)
    other = ask.using(chain=[GROQ, MISTRAL])
    ask()
    copy()
    copy()
    other()

    assert {GROQ: (3, 0, 0)} == counted(ask.policy) == counted(copy.policy)
    assert {GROQ: (1, 0, 0)} == counted(other.policy)


def test_a_copy_that_needs_means_has_those_of_the_samples_there_are(clock: FakeClock) -> None:
    """``least_latency`` of a copy knows what the original has measured, before and after."""
    seconds = {GROQ: 3.0, OPENAI: 1.0}

    @failover([GROQ, OPENAI], adaptive=True)
    def ask(target: Target) -> str:
        clock.advance(seconds[target.key])
        return target.key

    ask()
    copy = ask.using(strategy="least_latency")

    assert [OPENAI, OPENAI] == [copy(), copy()]  # first since it has no sample, then the quicker
    seconds[GROQ] = 0.5
    for _ in range(30):
        ask()
    assert GROQ == copy()


def test_figures_of_another_state_are_apart() -> None:
    """They are empty inside ``isolated()`` and after ``reset()``, and back after the block."""

    @failover([GROQ], adaptive=True)
    def ask(target: Target) -> str:
        return "yes"

    ask()
    with isolated():
        assert {} == counted(ask.policy)
        ask()
        ask()
        assert {GROQ: (2, 0, 0)} == counted(ask.policy)
    assert {GROQ: (1, 0, 0)} == counted(ask.policy)
    ask()
    assert {GROQ: (2, 0, 0)} == counted(ask.policy)

    reset()
    assert {} == counted(ask.policy)
    ask()
    assert {GROQ: (1, 0, 0)} == counted(ask.policy)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_starts_without_figures() -> None:
    """A child process has measured nothing."""

    @failover([GROQ], adaptive=True)
    def ask(target: Target) -> str:
        return "yes"

    ask()
    child = os.fork()
    if not child:
        is_empty = counted(ask.policy) == {}
        ask()
        os._exit(0 if is_empty and counted(ask.policy) == {GROQ: (1, 0, 0)} else 1)

    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert {GROQ: (1, 0, 0)} == counted(ask.policy)


def test_samples_are_kept_whoever_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Observers, exporters and an interpreter without a global lock change no figure."""

    @failover([GROQ], adaptive=True)
    def ask(target: Target) -> str:
        return "yes"

    ask()
    with capture_events():
        ask()
    configure(attempts=2)
    ask()
    monkeypatch.setattr(window, "LOCK_FREE", False)
    configure(attempts=1)
    ask()
    ask()

    assert {GROQ: (5, 0, 0)} == counted(ask.policy)


def test_a_policy_that_needs_no_figures_keeps_none() -> None:
    """A policy without such an option has no figures, and costs nothing for them."""

    @failover([GROQ])
    def ask(target: Target) -> str:
        return "yes"

    ask()

    assert ask.policy._policy.family not in runtime.figures


@over(FORMS)
def test_streams_of_a_failing_target(form: Form, clock: FakeClock) -> None:
    """A stream that fails before content is a failure, and the next target's is a sample."""
    policy = failover([GROQ, OPENAI], attempts=1, adaptive=True)
    ask = form.make(policy, Supply({GROQ: [[down]], OPENAI: [says("It")]}))

    read(form, ask)

    assert {GROQ: (0, 1, 0), OPENAI: (1, 0, 0)} == counted(policy)
