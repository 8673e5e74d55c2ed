"""What providers report of their limits in headers: what is read, and what calls do about it."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

import pytest

from resilient_llm import (
    CallRejectedError,
    ChainExhaustedError,
    ErrorKind,
    Limit,
    RateLimitState,
    StreamPolicy,
    Target,
    TargetBenched,
    TargetSkipped,
    TargetUnbenched,
    bench_model,
    breaker,
    can_call,
    configure,
    failover,
    is_benched,
    list_benched,
    rate_limits,
    reset,
    unbench_model,
)
from resilient_llm._binding.binding import Unbound
from resilient_llm._runtime import hearing
from resilient_llm.testing import FakeClock, capture_events, fake_clock, isolated

A, B = "openai/a", "groq/b"


def figures(
    remaining: float, *, limit: float = 60, reset: str = "60s", counts: str = "requests"
) -> dict[str, str]:
    return {
        f"x-ratelimit-remaining-{counts}": str(remaining),
        f"x-ratelimit-limit-{counts}": str(limit),
        f"x-ratelimit-reset-{counts}": reset,
    }


class Response:
    def __init__(self, status: int, headers: dict[str, str]) -> None:
        self.status_code = status
        self.headers = headers


class Answer:
    """As an SDK gives one that has its response."""

    def __init__(self, headers: dict[str, str], name: str = "response") -> None:
        setattr(self, name, Response(200, headers))


class StatusError(Exception):
    """As an SDK raises one."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        super().__init__("no")
        self.status_code = status
        self.response = Response(status, headers)


def asking(*chain: str, says: dict[str, list[Any]], **options: Any) -> Any:
    """Return a function that gives or raises for each target what stands there, then its key."""

    @failover(chain=chain, **options)
    def ask(target: Target, prompt: str = "") -> Any:
        outcomes = says.get(target.key, [])
        outcome = outcomes.pop(0) if outcomes else target.key
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return ask


# What is read.


@pytest.mark.parametrize("status", [503, 400, 429, 401])
def test_the_headers_of_an_error_are_read(status: int, clock: FakeClock) -> None:
    """Whatever the error means, by the short way to the next target and by the call flow."""
    ways: list[dict[str, Any]] = [{}, {"observers": [lambda _: None]}]
    for options in ways:
        with isolated():
            configure(logging=False)
            says = {A: ["good", StatusError(status, figures(7))]}
            ask = asking(A, B, says=says, attempts=1, **options)
            assert "good" == ask()  # the wrapper makes the next one by itself

            assert B == ask()

            assert 7 == rate_limits()[A].requests_remaining


@pytest.mark.parametrize("name", ["response", "http_response"])
def test_the_headers_of_an_answer_are_read(name: str, clock: FakeClock) -> None:
    """Each answer is read once the first one of its class has had headers of a rate limit."""
    ask = asking(A, says={A: [Answer(figures(n), name) for n in (30, 20, 10)]})

    left = []
    for _ in range(3):
        ask()
        left.append(rate_limits()[A].requests_remaining)

    assert [30, 20, 10] == left


def test_each_answer_is_read_again_after_a_reset(clock: FakeClock) -> None:
    """Nothing of earlier answers is known then, and their class is looked at again."""
    ask = asking(A, says={A: [Answer(figures(n)) for n in (30, 20)]})
    ask()
    reset()
    assert {} == rate_limits()

    ask()

    assert 20 == rate_limits()[A].requests_remaining


def test_the_headers_of_an_asynchronous_answer_are_read(clock: FakeClock) -> None:
    """On asyncio as in plain functions."""
    answers = [Answer(figures(n)) for n in (30, 20)]

    @failover(chain=[A])
    async def ask(target: Target) -> Any:
        return answers.pop(0)

    async def main() -> None:
        for left in (30, 20):
            await ask()
            assert left == rate_limits()[A].requests_remaining

    asyncio.run(main())


def test_the_headers_of_a_stream_are_read_before_its_items(clock: FakeClock) -> None:
    """A stream of an SDK has its response."""
    seen: list[int | None] = []

    class Stream:
        def __init__(self) -> None:
            self.response = Response(200, figures(5))

        def __iter__(self) -> Any:
            seen.append(rate_limits()[A].requests_remaining)
            yield "x"

    @failover(chain=[A], stream=StreamPolicy())
    def ask(target: Target) -> Any:
        return Stream()

    assert ["x"] == list(ask())
    assert [5] == seen


def test_what_is_read_in_a_loop_and_by_call(clock: FakeClock) -> None:
    """All forms of a policy read the same."""
    policy = failover(chain=[A])

    def give(target: Target) -> Any:
        return Answer(figures(9))

    policy.call(give)
    assert 9 == rate_limits()[A].requests_remaining

    for attempt in failover(chain=[B, A]):
        with attempt as target:
            if target.key == B:
                raise StatusError(503, figures(3))

    assert 3 == rate_limits()[B].requests_remaining


def test_figures_of_a_draft_of_the_ietf_are_the_providers(clock: FakeClock) -> None:
    """They pass over all targets of the provider, and of its account alone."""
    ask = asking("xai@eu/a", says={"xai@eu/a": [Answer({"RateLimit": '"d";r=0;t=9'})]})
    ask()

    assert {"xai@eu"} == rate_limits().keys()
    assert is_benched("xai@eu/other")
    assert not is_benched("xai/a")


def test_state_is_told_to_users(clock: FakeClock) -> None:
    """`rate_limits` gives what is left now, with aware moments."""
    headers = {**figures(10, reset="50s"), **figures(500, limit=1000, counts="tokens")}
    asking(A, says={A: [Answer(headers)]})()
    clock.advance(25)

    state = rate_limits()[A]

    assert isinstance(state, RateLimitState)
    assert (35, 708) == (state.requests_remaining, state.tokens_remaining)
    assert state.seen_at is not None
    assert state.resets_at is not None
    assert 60.0 == pytest.approx((state.resets_at - state.seen_at).total_seconds())
    assert state.seen_at.tzinfo is not None


# A figure of 0.


def test_a_figure_of_0_pauses_until_it_is_1(clock: FakeClock) -> None:
    """A bucket that fills in 60 s to 60 has one request after a second."""
    ask = asking(A, B, says={A: [Answer(figures(0))]})

    with capture_events(TargetBenched, TargetUnbenched, TargetSkipped) as told:
        ask()
        assert B == ask()
        (bench,) = list_benched()
        clock.advance(1.01)
        assert A == ask()

    assert (A, "headers", ErrorKind.RATE_LIMITED, False) == (
        bench.model,
        bench.reason,
        bench.kind,
        bench.manual,
    )
    benched, skipped, unbenched = told
    assert (ErrorKind.RATE_LIMITED, "headers", "rate_limited", pytest.approx(1.0)) == (
        benched.kind,
        benched.reason,
        benched.trigger,
        benched.retry_after,
    )
    assert "headers" == skipped.reason
    assert "expired" == unbenched.reason
    assert "closed" == breaker(A).state


def test_a_pause_lasts_an_hour_at_most(clock: FakeClock) -> None:
    """A typo in a header must not keep calls away for days."""
    asking(A, says={A: [Answer(figures(0, limit=1, reset="500h"))]})()

    (bench,) = list_benched()

    assert 3600.0 == pytest.approx(bench.remaining)


def test_a_newer_answer_with_room_ends_the_pause(clock: FakeClock) -> None:
    """Of an attempt that began before the answer with 0 was known, but after its attempt."""
    answers = {"one": figures(0), "two": figures(40)}
    inside, go_on = threading.Event(), threading.Event()

    @failover(chain=[A, B])
    def ask(target: Target, which: str) -> Any:
        if target.key == B:
            return B
        if which == "two":
            inside.set()
            assert go_on.wait(5)
        return Answer(answers[which])

    ask("one")
    clock.advance(2)
    answers["one"] = figures(0, reset="600s")
    with capture_events(TargetUnbenched) as told:
        first_begins = hearing.hearing.start(A)  # the attempt that will report 0
        late = threading.Thread(target=ask, args=("two",))
        late.start()
        assert inside.wait(5)
        hearing.hearing.hear(answers["one"], first_begins, None)
        assert is_benched(A)
        go_on.set()
        late.join()

        assert not is_benched(A)

    assert ["headers"] == [event.reason for event in told if event.target == A][-1:]
    assert "closed" == breaker(A).state


def test_an_answer_of_an_earlier_attempt_changes_nothing(clock: FakeClock) -> None:
    """It was counted before the one that reported 0, though it arrives later."""
    asking(A, says={A: [Answer(figures(50))]})()
    earlier, later = hearing.hearing.start(A), hearing.hearing.start(A)

    hearing.hearing.hear(figures(0, reset="600s"), later, None)
    hearing.hearing.hear(figures(30, reset="600s"), earlier, None)

    assert is_benched(A)
    assert 0 == rate_limits()[A].requests_remaining


def test_an_error_of_an_attempt_that_began_earlier_changes_nothing(clock: FakeClock) -> None:
    """Neither if both began before anything was known of the key, and so have no numbers."""
    inside, go_on = threading.Event(), threading.Event()

    @failover(chain=[A, B])
    def ask(target: Target, which: str) -> Any:
        if target.key == B:
            return B
        if which == "slow":
            inside.set()
            assert go_on.wait(5)
            raise StatusError(503, figures(40))
        raise StatusError(503, figures(0, reset="600s"))

    slow = threading.Thread(target=ask, args=("slow",))
    slow.start()
    assert inside.wait(5)
    clock.advance(1)
    ask("quick")
    go_on.set()
    slow.join()

    assert 0 == rate_limits()[A].requests_remaining
    assert is_benched(A)


def test_a_wait_that_an_error_named_stands(clock: FakeClock) -> None:
    """An answer with room takes back what a figure asked for, and nothing else."""
    ask = asking(A, B, says={A: [StatusError(429, {"retry-after": "20"})]})
    ask()
    hearing.heard(figures(0, limit=1, reset="600s"), A)
    (bench,) = list_benched()
    assert (600.0, "headers") == (bench.remaining, bench.reason)
    clock.advance(5)

    hearing.heard(figures(1, limit=1, reset="600s"), A)

    (bench,) = list_benched()
    assert (A, 15.0) == (bench.model, pytest.approx(bench.remaining))
    assert "headers" != bench.reason


def test_a_shorter_wait_that_an_error_names_during_a_pause_stands(clock: FakeClock) -> None:
    """In the other order, too."""
    hearing.heard(figures(0, limit=1, reset="600s"), A)
    circuit = breaker(A)
    circuit.record(StatusError(429, {"retry-after": "20"}), 0.0)
    hearing.heard(figures(1, limit=1, reset="600s"), A)

    assert [pytest.approx(20.0)] == [each.remaining for each in list_benched()]


def test_an_operator_overrules_a_pause(clock: FakeClock) -> None:
    """`unbench_model` forgets the figure, too; a manual bench stays whatever headers say."""
    ask = asking(A, B, says={A: [Answer(figures(0, reset="600s"))]})
    ask()
    assert unbench_model(A)

    assert A == ask()

    bench_model(A)
    hearing.heard(figures(0), A)
    hearing.heard(figures(50), A)
    assert B == ask()


def test_a_pause_is_no_last_resort(clock: FakeClock) -> None:
    """The provider itself has named the wait, so nothing is sent before it is over."""
    ask = asking(A, says={A: [Answer(figures(0, reset="600s"))]})
    ask()

    with pytest.raises(ChainExhaustedError) as raised:
        ask()

    assert 10.0 == pytest.approx(raised.value.retry_after)


# A figure that does not cover a call.


def test_a_large_call_is_passed_over_and_small_ones_are_not(clock: FakeClock) -> None:
    """The target is not benched, and the refusal says when the call fits."""
    headers = figures(500, limit=1000, reset="50s", counts="tokens")

    @failover(chain=[A, B], tokens=lambda size: size)
    def ask(target: Target, size: int) -> Any:
        return Answer(headers) if target.key == A else B

    ask(1)
    with capture_events(TargetSkipped, TargetBenched) as told:
        assert B == ask(700)
        assert B != ask(300)

    (skipped,) = told
    assert (A, "token_limit") == (skipped.target, skipped.reason)
    alone = ask.using(chain=[A], when_all_benched="raise")
    with pytest.raises(ChainExhaustedError) as raised:
        alone(700)
    assert 20.0 == pytest.approx(raised.value.retry_after, rel=0.01)
    (rejected,) = raised.value.exceptions
    assert isinstance(rejected, CallRejectedError)


def test_a_call_waits_for_a_figure_that_will_cover_it(clock: FakeClock) -> None:
    """If no other target is live, and the wait fits."""
    answers = [Answer(figures(500, limit=1000, reset="50s", counts="tokens")), "late"]

    @failover(chain=[A], tokens=lambda size: size)
    def ask(target: Target, size: int) -> Any:
        return answers.pop(0)

    ask(1)

    assert "late" == ask(700)
    assert 20.0 == pytest.approx(sum(clock.sleeps), rel=0.05)


def test_running_attempts_count_against_the_figure(clock: FakeClock) -> None:
    """Those that started after the one which told it, until they have answered."""
    running, go_on = threading.Semaphore(0), threading.Event()
    window = {"x-ratelimit-remaining": "2", "x-ratelimit-limit": "9", "x-ratelimit-reset": "60"}
    first = [Answer(window)]

    @failover(chain=["together/a", B])
    def ask(target: Target) -> Any:
        if target.key == B:
            return B
        if first:
            return first.pop()
        running.release()
        assert go_on.wait(5)
        return "a"

    ask()
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(ask())) for _ in range(2)]
    for thread in threads:
        thread.start()
        assert running.acquire(timeout=5)
    assert not can_call("together/a")
    assert "request_limit" == can_call("together/a").reasons["together/a"]

    assert B == ask()
    go_on.set()
    for thread in threads:
        thread.join()

    assert ["a", "a"] == answers
    assert can_call("together/a")


def test_a_retry_is_passed_over_as_well(clock: FakeClock) -> None:
    """An error with a figure that does not cover the retry ends the attempts on that target."""
    says = {A: [StatusError(503, figures(0.5)), StatusError(503, figures(0.5))]}
    ask = asking(A, B, says=says, attempts=2, backoff=lambda _: 0.0)

    assert B == ask()

    assert 1 == len(says[A])


def test_configured_limits_hold_beside_reported_ones(clock: FakeClock) -> None:
    """Each of them may refuse, and a refusal by a figure gives back what was taken."""
    configure(limits={A: Limit(requests=3, per="hour")})
    window = {"x-ratelimit-remaining": "9", "x-ratelimit-limit": "9", "x-ratelimit-reset": "60"}
    ask = asking(A, B, says={A: [Answer(window)]})
    ask()
    hearing.heard({**window, "x-ratelimit-remaining": "0.5"}, A)
    unpaused = can_call([A])
    assert not unpaused
    clock.advance(61)

    assert [A, A, B] == [ask() for _ in range(3)]


# Off, forgotten, elsewhere.


def test_listen_false_turns_all_off(clock: FakeClock) -> None:
    """Nothing is read any more, and what figures have asked for ends."""
    ask = asking(A, B, says={A: [Answer(figures(0, reset="600s")), Answer(figures(0))]})
    ask()
    assert is_benched(A)

    configure(listen=False)

    assert not is_benched(A)
    ask()
    assert {} == rate_limits()
    assert not is_benched(A)


def test_reset_forgets_figures_and_pauses(clock: FakeClock) -> None:
    """As it forgets automatic benches."""
    asking(A, says={A: [Answer(figures(0))]})()

    reset()

    assert {} == rate_limits()
    assert [] == list_benched()


def test_isolated_has_figures_of_its_own(clock: FakeClock) -> None:
    """The real ones are there again after it."""
    ask = asking(A, B, says={A: [Answer(figures(0, reset="600s"))]})
    ask()

    with isolated():
        assert {} == rate_limits()
        assert A == ask()

    assert 0 == rate_limits()[A].requests_remaining
    assert B == ask()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_starts_without_figures() -> None:
    """The attempts that count against them run in the parent."""
    with fake_clock():
        asking(A, says={A: [Answer(figures(5))]})()

        child = os.fork()
        if not child:
            os._exit(0 if rate_limits() == {} else 1)

        assert 0 == os.waitpid(child, 0)[1]
        assert 5 == rate_limits()[A].requests_remaining


def test_nonsense_in_headers_harms_no_call(clock: FakeClock) -> None:
    """Whatever a foreign object has in its fields."""

    class Raising:
        @property
        def headers(self) -> Any:
            raise RuntimeError("closed")

    class Odd:
        def __init__(self, response: Any) -> None:
            self.response = response

    odd = [Odd(each) for each in (Raising(), 3, "x", Response(200, 5), Response(200, None))]  # type: ignore[arg-type]
    ask = asking(A, says={A: [*odd, Answer(figures(-1)), Answer(figures(float("nan")))]})

    for _ in range(7):
        ask()

    assert {} == rate_limits()


# What it costs.


def test_a_function_whose_answers_have_no_headers_is_left_alone(clock: FakeClock) -> None:
    """Its healthy calls are made by the wrapper, also while other targets report their limits."""
    plain, told = asking(B, says={}), asking(A, says={A: [Answer(figures(9))] * 3})
    for _ in range(2):
        plain()
        told()
    plain()
    told()

    def circuit(function: Any) -> Any:
        names = function.__globals__
        (name,) = [
            each for each in names if each.endswith("circuit") and names[each] is not Unbound
        ] or [""]
        return names.get(name)

    assert circuit(plain) is not None
    assert circuit(told) is None
