"""The parts of the soak, one by one, and what it found: each in its smallest form."""

from __future__ import annotations

import contextlib
import contextvars
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import pytest

from resilient_llm import (
    AttemptFailed,
    BreakerOpenError,
    ObserverFailed,
    Target,
    breaker,
    classify,
    configure,
    failover,
    health,
    is_benched,
    list_benched,
    observe,
    reset,
)
from resilient_llm._runtime.runtime import runtime
from resilient_llm.testing import FakeClock, isolated
from tests.concurrency import soak

# --- Its parts -------------------------------------------------------------------------------


@pytest.fixture
def small() -> soak.Soak:
    """A soak that has not begun, with its observer of the whole run and its settings."""
    made = soak.Soak(0.0, 1, lambda _: None)
    configure(breakers=soak.BREAKERS, logging=False)
    observe(made.overseer, *soak.OVERSEEN)
    return made


def _calls(small: soak.Soak, deeds: list[str]) -> None:
    """Make one call for each deed that its first target does; the second answers."""

    @failover(chain=soak.STEADY, attempts=1, when_all_benched="raise")
    def ask(target: Target, ticket: soak.Ticket) -> tuple[int, str]:
        small.ledger.add("sent", ticket.part, target.key)
        ticket.sent.append(target.key)
        deed = deeds[ticket.number] if len(ticket.sent) == 1 else soak.ANSWER
        return small.providers.leave(ticket, target.key, deed)

    for _ in deeds:
        small.call(ask, small.ticket("part"))


EVERY_DEED = [
    soak.ANSWER,
    "server_error",
    "refused",
    "bad_request",
    "bug",
    soak.DROP,
    soak.ANSWER,
    "read_timeout",
    soak.EMPTY,
]


def _accounts(small: soak.Soak) -> list[str]:
    """Return what is wrong with the accounts, but for the log, which is not looked at here."""
    small.ledger.violations.clear()
    soak.check_accounts(small)
    return [
        sentence for sentence in small.ledger.violations if not sentence.startswith("log lines")
    ]


def test_accounts_of_every_deed_agree(small: soak.Soak) -> None:
    """Callers, providers, observers and health() give the same figures, whatever providers do."""
    _calls(small, EVERY_DEED)

    assert [] == _accounts(small)


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (("sent", "part", "steady/a"), "part: attempts that ended"),
        (("did", "part", "steady/a", soak.ANSWER), "health() of steady/a: total"),
        (("did", "part", "steady/a", "server_error"), "health() of steady/a: errors"),
        (("did", "part", "steady/a", "refused"), "health() of steady: errors"),
        (
            ("event", "AttemptFailed", "steady/a", "transient"),
            "steady/a: AttemptFailed of kind transient",
        ),
        (("event", "CallFailed", "steady/a"), "CallFailed"),
        (("event", "FailedOver", "steady/a"), "FailedOver"),
        (("calls", "part", "answered"), "part: calls answered"),
    ],
)
def test_one_count_that_is_lost_is_found(
    small: soak.Soak, count: tuple[str, ...], said: str
) -> None:
    """Whichever account misses a single count, a sentence names it."""
    _calls(small, EVERY_DEED)
    assert small.ledger.counts[count] > 0

    small.ledger.counts[count] -= 1

    assert any(sentence.startswith(f"{said}:") for sentence in _accounts(small))


def test_an_answer_of_another_call_is_found(small: soak.Soak) -> None:
    """An answer is held against the call that it is for and the target that gave it."""
    ticket = small.ticket("part")
    ticket.sent.append("steady/a")

    small.answered(ticket, (ticket.number + 1, "steady/a"))

    assert [
        "part: a call was given another call's answer, or another target's."
    ] == small.ledger.violations


def test_the_weather_repeats_with_its_seed() -> None:
    """The same seed gives the same conditions and deeds, another seed others."""

    def drawn(seed: int) -> list[str]:
        weather = soak.Weather(seed, "storm1", ("failing", "half_dead"))
        return [f"{weather.condition(n / 10)} {weather.deed(n / 10)}" for n in range(300)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_without_failures_everything_is_answered() -> None:
    """Once its failures are switched off, a provider fails no call, whatever its plan says."""
    weather = soak.Weather(1, "storm1", ("failing",))
    weather.is_settled = True

    assert {soak.ANSWER} == {weather.deed(n / 10) for n in range(300)}


@pytest.mark.parametrize("deed", [deed for deed in soak.KINDS if deed not in soak.NOT_RAISED])
def test_every_deed_is_seen_as_what_it_is(deed: str) -> None:
    """The errors of the soak are classified and charged as its accounts assume."""
    kind, scope = soak.KINDS[deed]

    verdict = classify(soak.make_error(deed))  # type: ignore[arg-type]

    assert kind == verdict.kind
    assert scope in ("", verdict.scope)


@pytest.mark.parametrize(
    ("samples", "too_much"),
    [
        ([1000.0] * 60, False),
        ([1000.0 + n for n in range(60)], True),  # one more each second
        ([1000.0 - n for n in range(60)], False),
        ([1000.0 + 5 * (n % 2) for n in range(60)], False),  # to and fro
        ([1000.0] * 45 + [9000.0] + [1000.0] * 14, False),  # once
        ([1000.0] * 30 + [1000.0 + n for n in range(30)], True),  # from the middle on
    ],
)
def test_growth_is_distinguished_from_noise(samples: list[float], too_much: bool) -> None:
    """Medians of the last two quarters decide, so that a slope is seen and a spike is not."""
    *_, found = soak.grown(samples, soak.Allowance(0.0, 10.0))

    assert too_much == found


def test_a_place_that_is_not_given_back_is_found(small: soak.Soak, clock: FakeClock) -> None:
    """A probe that never ends keeps its circuit half-open, which the end of the soak reports."""
    for _ in range(3):
        with contextlib.suppress(ConnectionResetError), breaker("storm3/d"):
            raise ConnectionResetError
    clock.advance(1.0)
    guard = breaker("storm3/d")  # what it holds would be free if it were dropped
    contextvars.Context().run(guard.__enter__)

    soak.check_recovery(small, patience=0.0)

    assert "storm3/d" == guard.name
    assert any(
        sentence.startswith("storm3/d is still half_open") for sentence in small.ledger.violations
    )


def test_a_circuit_that_recovers_is_fine(small: soak.Soak, clock: FakeClock) -> None:
    """A circuit that was open and whose cooldown is over closes once nothing fails."""
    for _ in range(3):
        with contextlib.suppress(ConnectionResetError), breaker("storm3/d"):
            raise ConnectionResetError
    clock.advance(1.0)

    soak.check_recovery(small, patience=0.0)

    assert [] == small.ledger.violations


def test_what_is_left_is_found(small: soak.Soak) -> None:
    """A thread, file descriptors and a child that are still there at the end are named."""
    threads, descriptors = threading.active_count(), soak.count_descriptors()
    children = soak.children()
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="left-over")
    thread.start()
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    with Path(os.devnull).open() as _:
        soak.check_nothing_left(small, threads, descriptors, children)
    child.communicate()
    done.set()
    thread.join()

    assert [
        "threads are left: left-over.",
        "2 file descriptors are left open.",
        "a child process is left.",
    ] == small.ledger.violations


def test_what_nobody_would_see_is_collected(small: soak.Soak) -> None:
    """A warning and the death of a part are violations, each in one sentence."""
    with soak.Complaints(small.ledger).collected():
        warnings.warn("something was left open", ResourceWarning, stacklevel=1)
        thread = threading.Thread(target=lambda: 1 / 0, name="thread-1")
        thread.start()
        thread.join()

    warned, died = small.ledger.violations
    assert "a ResourceWarning was given: something was left open" == warned
    assert died.startswith("the part 'thread-1' died of ZeroDivisionError")


# --- What it found ---------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_child_does_not_wait_for_a_lock_that_the_parent_held() -> None:
    """A decorated function works in a child that was forked while a thread counted for the retry budget."""

    @failover(chain="groq/a", attempts=1)
    def ask(target: Target) -> None:
        raise ConnectionResetError

    with contextlib.suppress(ExceptionGroup):
        ask()
    runtime.budgets._lock.acquire()  # as any thread holds it for a moment when an attempt has failed
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, 1.0)  # ends a child that is stuck
            with contextlib.suppress(ExceptionGroup):
                ask()
            code = 0
        finally:
            os._exit(code)
    runtime.budgets._lock.release()
    _, status = os.waitpid(pid, 0)

    assert 0 == os.waitstatus_to_exitcode(status)


def test_a_guard_survives_two_threads_that_contend_for_it_first() -> None:
    """A guard may be entered by many threads at once, also when two find it taken at the same moment."""
    with breaker("groq"):
        pass  # the first call of a key is looked at
    guard = breaker("groq")
    entered, leave = threading.Event(), threading.Event()

    def third() -> None:
        with guard:
            entered.set()
            leave.wait()

    def second() -> None:
        sys.settrace(trace)
        try:
            guard.__enter__()
        finally:
            sys.settrace(None)

    def trace(frame: FrameType, event: str, argument: object) -> None:
        # The second thread is about to make the list of entries when the third comes.
        if frame.f_code.co_qualname == "_ExtraEntries.__init__" and not entered.is_set():
            contender.start()
            # It gets in now, or it has to wait until the second is through: either is fine.
            entered.wait(0.1)

    contender = threading.Thread(target=third, daemon=True)
    with guard:
        other = threading.Thread(target=second, daemon=True)
        other.start()
        other.join()
        entered.wait()
        leave.set()
        contender.join()
    guard.__exit__(None, None, None)

    assert 4 == health()["groq"].total


def test_benches_are_listed_while_keys_go_and_are_looked_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Listing goes on when a key is let go meanwhile and another thread asks for one."""
    monkeypatch.setattr("resilient_llm._runtime.registry.MOST_KEYS", 50)
    with isolated():
        held = [breaker(f"tenant-{number}") for number in range(60)][
            :12
        ]  # these are let go when the others come
        looker = threading.Thread(target=is_benched, args=("tenant-55",), daemon=True)
        rounds = 0

        def trace(frame: FrameType, event: str, argument: object) -> Any:
            nonlocal rounds
            if (
                Path(frame.f_code.co_filename).name != "weak_circuits.py"
                or frame.f_code.co_name != "values"
            ):
                return trace
            rounds += event == "line"
            # In the middle of the list; what other threads may do is done here.
            if rounds == 2 and looker.ident is None:
                held.clear()
                looker.start()
                looker.join(0.1)  # it gets its answer now, or when the list is done: either is fine
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            listed = list_benched()
        finally:
            sys.settrace(before)
        assert looker.ident is not None
        looker.join()

    assert [] == listed


def test_an_error_whose_attributes_cannot_be_read_is_only_an_error() -> None:
    """An error of httpx that knows no request moves the call on, like any other."""
    configure(logging=True)

    @failover(chain="groq/a, openai/b", attempts=1)
    def ask(target: Target) -> str:
        if target.provider == "groq":
            raise httpx.ReadTimeout("its .request raises RuntimeError")
        return target.key

    assert "openai/b" == ask()


def test_every_observer_that_raises_is_reported() -> None:
    """An observer that raises is reported once, also when one that raised before it has gone."""
    received: list[ObserverFailed] = []
    observe(received.append, ObserverFailed)
    configure(logging=False)

    @failover(chain="groq/a", attempts=1)
    def ask(target: Target) -> None:
        raise ConnectionResetError

    for _ in range(20):
        stop = observe(lambda event: 1 / 0, AttemptFailed)
        with contextlib.suppress(ExceptionGroup):
            ask()
        stop()
        reset()

    assert 20 == len(received)


@pytest.mark.parametrize("failures", [0, 1, 5], ids=["never failed", "failed once", "was benched"])
def test_keys_that_nobody_uses_any_more_are_dropped(
    monkeypatch: pytest.MonkeyPatch, clock: FakeClock, failures: int
) -> None:
    """Above the limit a key that was left alone for an hour goes, also if its last call failed."""
    monkeypatch.setattr("resilient_llm._runtime.registry.MOST_KEYS", 50)
    with isolated():
        for number in range(200):
            for _ in range(failures):
                with (
                    contextlib.suppress(ConnectionResetError, BreakerOpenError),
                    breaker(f"tenant-{number}"),
                ):
                    raise ConnectionResetError
            clock.advance(1.0)
        clock.advance(3600.0)
        for number in range(200, 300):
            with breaker(f"tenant-{number}"):
                pass
        assert len(health()) <= 60
