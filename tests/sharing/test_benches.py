"""Benches that processes share: what is published, and what a bench of another process does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from resilient_llm import (
    BreakerOpenError,
    Target,
    TargetBenched,
    TargetUnbenched,
    bench_model,
    breaker,
    configure,
    failover,
    health,
    is_benched,
    list_benched,
    reset,
    store_status,
    unbench_model,
)
from resilient_llm._core.circuit.permit import Permit, admit
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.verdict import Verdict
from resilient_llm.testing import MemoryStore, capture_events
from tests.support.sharing import DOWN, Peer, cooled_down, eventually, never, peer
from tests.support.ways import GROQ, OPENAI, down

DEAD = Verdict(ErrorKind.AUTH_DEAD, "invalid_key")
MEMORY = Verdict(ErrorKind.MEMORY_PRESSURE, "out_of_memory")
LIMITED = Verdict(ErrorKind.RATE_LIMITED, "rate_limit", 40.0)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def other(store: MemoryStore) -> Iterator[Peer]:
    """Another process; this one shares the store as well."""
    configure(state=store, state_name="here")
    assert store_status(wait=5).connected
    with peer(store, "other:1") as made:
        yield made


def fails(key: str, verdict: Verdict = DOWN, times: int = 5) -> None:
    """Let calls on a key fail here."""
    for _ in range(times):
        permit = admit(runtime.registry.circuit(key), runtime.clock())
        assert isinstance(permit, Permit)
        permit.failed(None, runtime.clock(), verdict)


def state_of(key: str) -> str:
    return breaker(key).state


# --- by hand ------------------------------------------------------------------------------------


def test_a_manual_bench_holds_in_every_process(other: Peer) -> None:
    """With its reason, its operator, its end, and the name of the process."""
    other.bench("groq", 3600, reason="incident", by="ada")

    found = eventually(list_benched)
    assert [("groq", True, "incident", "ada", "other:1")] == [
        (each.model, each.manual, each.reason, each.by, each.source) for each in found
    ]
    assert 3590 < found[0].remaining <= 3600
    assert is_benched(GROQ)


def test_an_unbench_holds_in_every_process(other: Peer) -> None:
    """Wherever it is made."""
    other.bench("groq")
    eventually(lambda: is_benched("groq"))

    assert unbench_model("groq", by="bob")

    eventually(lambda: other.state_of("groq") == "closed")


def test_observers_learn_of_what_others_do(other: Peer) -> None:
    """At once, from the thread, with the name of the process."""
    with capture_events() as events:
        other.bench("groq", reason="incident", by="ada")
        eventually(lambda: is_benched("groq"))
        other.unbench("groq", by="bob")
        eventually(lambda: not is_benched("groq"))
        eventually(lambda: any(type(each) is TargetUnbenched for each in events))

    benched = next(each for each in events if type(each) is TargetBenched)
    unbenched = next(each for each in events if type(each) is TargetUnbenched)
    assert ("groq", "manual", "ada", "other:1", None) == (
        benched.target, benched.trigger, benched.by, benched.source, benched.until,
    )  # fmt: skip
    assert ("groq", "manual", "bob", "other:1") == (
        unbenched.target, unbenched.reason, unbenched.by, unbenched.source,
    )  # fmt: skip


def test_what_happens_here_is_local(other: Peer) -> None:
    """The source of an own bench is this process."""
    with capture_events() as events:
        bench_model("groq", reason="own")
        eventually(lambda: other.state_of("groq") == "open")
        unbench_model("groq")

    assert ["local", "local"] == [
        each.source for each in events if isinstance(each, TargetBenched | TargetUnbenched)
    ]


def test_a_manual_bench_replaces_another(other: Peer) -> None:
    """As `bench_model` does, also by a shorter one."""
    bench_model("groq", 3600, reason="long")
    eventually(lambda: other.state_of("groq") == "open")

    other.bench("groq", 60, reason="short")

    found = eventually(lambda: [each for each in list_benched() if each.reason == "short"])
    assert found[0].remaining <= 60


def test_what_was_benched_before_the_store_is_shared(store: MemoryStore) -> None:
    """A process that is given a store later publishes what it has benched."""
    bench_model("groq", 3600, reason="before")
    configure(state=store)

    with peer(store) as other:
        eventually(lambda: other.state_of("groq") == "open")


def test_a_process_that_comes_later_knows_all(other: Peer, store: MemoryStore) -> None:
    """Its first read has what the others have benched."""
    bench_model("groq", reason="incident")
    eventually(lambda: other.state_of("groq") == "open")

    with peer(store, "late:1") as late:
        assert "open" == late.state_of("groq")
        assert 3 == eventually(lambda: late.sharing.status_now().peers == 3 and 3)


# --- by a trigger -------------------------------------------------------------------------------


def test_what_one_process_finds_out_holds_in_all(other: Peer) -> None:
    """A closed circuit opens, without a failure of its own."""
    with capture_events() as events:
        other.fails(GROQ)
        eventually(lambda: state_of(GROQ) == "open")
        event = eventually(lambda: next((e for e in events if type(e) is TargetBenched), None))

    assert (ErrorKind.TRANSIENT, "server_error", "failures 5/5", "other:1") == (
        event.kind, event.reason, event.trigger, event.source,
    )  # fmt: skip
    found = health()[GROQ]
    assert ("down", 0, 0) == (found.status, found.errors, found.consecutive_failures)
    with pytest.raises(BreakerOpenError), breaker(GROQ):
        pytest.fail("it entered")


def test_memory_pressure_is_shared(other: Peer) -> None:
    """One error is enough, and the bench is as long as there."""
    other.fails(GROQ, MEMORY, times=1)

    found = eventually(list_benched)
    assert ErrorKind.MEMORY_PRESSURE is found[0].kind
    assert 100 < found[0].remaining <= 120


def test_a_pause_is_a_rate_limit_of_this_process(other: Peer) -> None:
    """For the wait that the provider has named; the circuit stays closed."""
    other.fails(GROQ, LIMITED, times=1)

    found = eventually(list_benched)
    assert (ErrorKind.RATE_LIMITED, "other:1") == (found[0].kind, found[0].source)
    assert 35 < found[0].remaining <= 40
    circuit = runtime.registry.circuit(GROQ)
    assert circuit._state.core_is_closed
    assert circuit._state.pause is not None
    assert circuit._state.pause.named


def test_dead_keys_are_not_shared(other: Peer) -> None:
    """Keys differ while they are rotated."""
    other.fails(GROQ, DEAD, times=1)
    other.bench("openai")
    eventually(lambda: is_benched("openai"))

    assert "closed" == state_of(GROQ)


def test_trap_21_the_longest_wins(other: Peer) -> None:
    """An open circuit takes the later end, and keeps its own if that is later."""
    configure(breakers={GROQ: {"cooldown": 200.0}})
    fails(GROQ)
    eventually(lambda: other.state_of(GROQ) == "open")

    found = other.circuit(GROQ).bench_now(runtime.clock())
    assert found is not None
    assert found.until - runtime.clock() > 150
    other.unbench(GROQ)
    eventually(lambda: state_of(GROQ) == "closed")
    other.fails(GROQ)  # for 30 s
    eventually(lambda: state_of(GROQ) == "open")
    assert 25 < list_benched()[0].remaining < 40


def test_automatic_benches_are_cut(store: MemoryStore) -> None:
    """To an hour, or to the longest cooldown of this process."""
    configure(state=store, breakers={OPENAI: {"max_cooldown": 7200.0}})
    assert store_status(wait=5).connected
    long = {"cooldown": 90_000.0, "max_cooldown": 90_000.0}
    with peer(store, breakers={"*": long}) as other:
        other.fails(GROQ)
        other.fails(OPENAI)
        eventually(lambda: len(list_benched()) == 2)

    remaining = {each.model: each.remaining or 0.0 for each in list_benched()}
    assert 3500 < remaining[GROQ] <= 3600
    assert 7100 < remaining[OPENAI] <= 7200


def test_a_recovery_closes_in_every_process(other: Peer) -> None:
    """As a local one does: by a last resort here, and there by what it has found."""
    fails(GROQ)
    eventually(lambda: other.state_of(GROQ) == "open")

    @failover([GROQ], when_all_benched="soonest")
    def ask(target: Target) -> str:
        return "answer"

    assert "answer" == ask()
    assert "closed" == state_of(GROQ)
    eventually(lambda: other.state_of(GROQ) == "closed")


def test_trap_04_a_probe_that_runs_becomes_a_late_report(other: Peer) -> None:
    """It neither closes nor opens what another process has benched meanwhile."""
    fails(GROQ)
    eventually(lambda: other.state_of(GROQ) == "open")
    cooled_down(runtime.registry.circuit(GROQ))
    probe = admit(runtime.registry.circuit(GROQ), runtime.clock())
    assert isinstance(probe, Permit)
    assert probe.leases

    other.circuit(GROQ).unbench(runtime.clock())
    eventually(lambda: state_of(GROQ) == "closed")
    other.fails(GROQ)
    eventually(lambda: state_of(GROQ) == "open")
    probe.succeeded(runtime.clock(), 0.1)

    assert "open" == state_of(GROQ)


@pytest.mark.parametrize("mode", ["metrics_only", "disabled", "forced_open"])
def test_other_modes_take_nothing(store: MemoryStore, mode: Any) -> None:
    """Only ``metrics_only`` tells of it, as not enforced. By hand is by hand."""
    configure(state=store, breakers={"groq": {"mode": mode}})
    assert store_status(wait=5).connected
    with peer(store) as other, capture_events() as events:
        other.fails("groq")
        other.bench("openai")
        eventually(lambda: is_benched("openai"))
        told = [
            each.enforced
            for each in events
            if type(each) is TargetBenched and each.target == "groq"
        ]
        assert ("open" if mode == "forced_open" else "closed") == state_of("groq")
        assert ([False] if mode == "metrics_only" else []) == told
        other.bench("groq", reason="by hand")
        eventually(lambda: is_benched("groq"))


def test_metrics_only_publishes_nothing(store: MemoryStore) -> None:
    """A circuit that rejects nobody keeps nobody from calling elsewhere."""
    configure(state=store, breakers={GROQ: {"mode": "metrics_only"}})
    with peer(store) as other:
        fails(GROQ)
        bench_model(OPENAI)
        eventually(lambda: other.state_of(OPENAI) == "open")

        assert "closed" == other.state_of(GROQ)


def test_reset_acts_in_this_process_only(other: Peer) -> None:
    """And copies of what it has ended are not applied again."""
    other.fails(GROQ)
    eventually(lambda: state_of(GROQ) == "open")

    reset()

    assert "closed" == state_of(GROQ)
    never(lambda: state_of(GROQ) != "closed" or other.state_of(GROQ) != "open")


def test_one_bad_host_does_not_bench_the_fleet(other: Peer) -> None:
    """Once another process has recovered what this one published, further benches bind it alone."""
    fails(GROQ)
    eventually(lambda: other.state_of(GROQ) == "open")
    circuit = other.circuit(GROQ)
    now = runtime.clock()
    permit = admit(circuit, now, last_resort=True)
    assert isinstance(permit, Permit)
    permit.succeeded(now, 0.1)
    eventually(lambda: state_of(GROQ) == "closed")

    fails(GROQ)

    assert "open" == state_of(GROQ)
    never(lambda: other.state_of(GROQ) != "closed")


# --- what calls see -----------------------------------------------------------------------------


def test_calls_go_on_while_others_bench(other: Peer) -> None:
    """A bench of another process skips the target for the next call."""

    @failover([GROQ, OPENAI])
    def ask(target: Target) -> str:
        return str(target.key)

    assert GROQ == ask()
    other.fails(GROQ)
    eventually(lambda: ask() == OPENAI)


def test_a_failover_here_spares_the_others_theirs(other: Peer) -> None:
    """What a call finds out holds there."""

    @failover([GROQ, OPENAI], attempts=1)
    def ask(target: Target) -> str:
        if target.key == GROQ:
            raise down()
        return "answer"

    for _ in range(5):
        assert "answer" == ask()
    eventually(lambda: other.state_of(GROQ) == "open")
