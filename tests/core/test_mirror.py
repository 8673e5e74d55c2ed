"""Registry and store are kept in step: what one process learns binds all, and nothing else does."""

from __future__ import annotations

import math
from typing import Any

import pytest

from resilient_llm._core.sharing import mirror as mirrors
from resilient_llm._core.sharing import outgoing
from resilient_llm._core.sharing.known import Slot
from resilient_llm._core.sharing.records import SharedBench
from resilient_llm._core.sharing.steps import (
    ApplyBench,
    ApplyEnd,
    ClaimPlaces,
    KeyRules,
    LocalBench,
    LocalEnd,
    Look,
    Publish,
    Rest,
)
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.sharing import Balance, Bench, Changes, End, Layer, Stamp, StoreError
from resilient_llm.testing import MemoryStore
from tests.support.mirrors import Clock, Process, fleet, run, settle

KEY = "groq/llama"
LAYERS: tuple[Layer, ...] = ("manual", "automatic", "pause")


@pytest.fixture(autouse=True)
def looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a mirror look again though no time has passed."""
    monkeypatch.setattr(mirrors, "LOOK_GAP", 0.0)


def shared(name: str, order: int) -> SharedBench:
    """Return a manual bench without an end of another process."""
    return SharedBench(KEY, "manual", name, order, None, None, 0.0, None, "")


# What comes to others.


@pytest.mark.parametrize("layer", LAYERS)
def test_a_bench_comes_to_the_others(layer: Layer) -> None:
    """A bench binds every process with the time that is left by the clock of the store."""
    clock, _, (a, b) = fleet(2)

    a.bench(KEY, 300.0, layer, "incident")
    a.run()
    clock.now += 6.0
    run([a, b])

    assert {(KEY, layer): 294.0} == b.blocked() == a.blocked()
    (effect,) = b.effects
    assert (a.name, "incident", True) == (effect.bench.source, effect.bench.reason, effect.is_news)
    assert not a.effects


@pytest.mark.parametrize("layer", LAYERS)
def test_an_unbench_ends_it_everywhere(layer: Layer) -> None:
    """An operator may end a bench in any process, whoever made it."""
    clock, _, (a, b, c) = fleet(3)
    a.bench(KEY, 300.0, layer)
    settle(clock, [a, b, c])

    b.end(KEY)
    settle(clock, [a, b, c])

    assert [{}, {}, {}] == [each.blocked() for each in (a, b, c)]
    ends = [each for each in a.effects if isinstance(each, ApplyEnd)]
    assert [(layer, "manual", b.name, None)] == [
        (each.layer, each.reason, each.source, each.left) for each in ends
    ]


def test_a_manual_bench_replaces_a_manual_one() -> None:
    """Also by a shorter one, as `bench_model` does."""
    clock, _, (a, b) = fleet(2)
    a.bench(KEY, 3000.0, "manual", "first")
    settle(clock, [a, b])

    b.bench(KEY, 100.0, "manual", "second")
    clock.now += 6.0
    run([b, a])

    assert ("second", 94.0) == (a.benches[KEY, "manual"][0], a.blocked()[KEY, "manual"])


@pytest.mark.parametrize("layer", ["automatic", "pause"])
def test_the_longest_automatic_bench_counts(layer: Layer) -> None:
    """A shorter one of another process does not shorten it."""
    clock, _, (a, b) = fleet(2)
    a.bench(KEY, 300.0, layer)
    b.bench(KEY, 100.0, layer)

    settle(clock, [a, b], rounds=2)

    assert a.blocked() == b.blocked() == {(KEY, layer): 289.8}


def test_an_end_leaves_what_is_newer() -> None:
    """Of two benches that end at different times, the newer and shorter one stays."""
    clock, _, (a, b, c) = fleet(3)
    a.bench(KEY, 300.0)
    run([a, b])
    c.bench(KEY, 100.0)  # it has not seen the other one
    c.run()

    b.end(KEY, "automatic", "recovered")
    settle(clock, [b, c, a], rounds=2)

    assert [{(KEY, "automatic"): 89.8}] * 3 == [each.blocked() for each in (a, b, c)]


def test_an_end_ends_shorter_local_ones_too() -> None:
    """The newest bench that was seen is named, and with it everything older."""
    clock, _, (a, b, c) = fleet(3)
    c.bench(KEY, 100.0)
    a.run()
    c.run()
    a.bench(KEY, 300.0)
    a.run()
    b.run()

    b.end(KEY, "automatic", "recovered")
    settle(clock, [b, c, a], rounds=2)

    assert [{}] * 3 == [each.blocked() for each in (a, b, c)]


def test_a_recovery_closes_circuits_that_are_half_open() -> None:
    """The cooldown is over everywhere, and one process finds out that the key answers."""
    clock, _, (a, b, c) = fleet(3)
    a.bench(KEY, 10.0)
    settle(clock, [a, b, c])
    assert [{KEY}] * 3 == [each.half_open() for each in (a, b, c)]

    c.end(KEY, "automatic", "recovered")
    settle(clock, [c, a, b])

    assert [set[str]()] * 3 == [each.half_open() for each in (a, b, c)]


def test_an_end_leaves_a_circuit_half_open_for_a_newer_bench() -> None:
    """The longer bench is ended, and the newer one had ended before: a probe has to find out."""
    clock, _, (a, b, c) = fleet(3)
    a.bench(KEY, 300.0)
    run([a, b])
    c.bench(KEY, 5.0)
    run([c, a])
    clock.now += 5.1
    c.run()
    assert {(KEY, "automatic"): 294.9} == a.blocked()

    b.end(KEY, "automatic", "recovered")
    clock.now += 5.1
    run([b, a, c])

    assert [{KEY}, {KEY}] == [a.half_open(), c.half_open()]


def test_trap_17_what_is_applied_is_converted_once() -> None:
    """Reading everything again does not lengthen a bench, whatever the clock of the store does."""
    clock, store, (a, b) = fleet(2)
    a.bench(KEY, 300.0)
    run([a, b])
    before = b.benches[KEY, "automatic"]

    clock.now += mirrors.TRUSTED_FOR / 1000
    store._clock = lambda: clock() - 3600.0
    b.mirror._session.epoch = None
    b.mirror._look_at = clock.now
    b.run()

    assert before == b.benches[KEY, "automatic"]


@pytest.mark.parametrize(("longest", "expected"), [(60.0, 3600.0), (7200.0, 7200.0)])
def test_an_automatic_bench_of_others_is_cut(longest: float, expected: float) -> None:
    """One process cannot bench the others for days; an operator can."""
    clock, store, (a,) = fleet(1)
    b = Process(clock, store, "b:1", lambda key: KeyRules("enforce", longest))
    a.bench(KEY, 90_000.0)
    a.bench(KEY, 90_000.0, "manual")

    run([a, b])

    assert {(KEY, "automatic"): expected, (KEY, "manual"): 90_000.0} == b.blocked()


@pytest.mark.parametrize("mode", ["metrics_only", "disabled", "forced_open"])
def test_only_enforcing_circuits_take_automatic_benches(mode: str) -> None:
    """In ``metrics_only`` there is an event; manual benches hold in every mode."""
    clock, store, (a,) = fleet(1)
    b = Process(clock, store, "b:1", lambda key: KeyRules(mode))
    a.bench(KEY)
    a.bench(KEY, None, "manual")

    run([a, b])
    a.end(KEY)
    settle(clock, [a, b])

    assert {} == b.blocked()
    enforced = [
        (each.bench.layer, each.enforced) for each in b.effects if isinstance(each, ApplyBench)
    ]
    event = [("automatic", False)] if mode == "metrics_only" else []
    assert [*event, ("manual", True)] == enforced


@pytest.mark.parametrize("mode", ["metrics_only", "disabled"])
def test_a_circuit_that_does_not_enforce_publishes_nothing(mode: str) -> None:
    """But what an operator does with it."""
    clock, store, (a,) = fleet(1)
    b = Process(clock, store, "b:1", lambda key: KeyRules(mode))

    b.bench(KEY)
    b.bench(KEY, 10.0, "pause")
    b.bench(KEY, 300.0, "manual")
    run([b, a])

    assert {(KEY, "manual"): 300.0} == a.blocked()


def test_dead_keys_are_not_shared_and_not_ended_by_others() -> None:
    """Keys differ while they are rotated."""
    clock, _, (a, b) = fleet(2)
    b.bench(KEY, 100.0)
    run([b, a])
    a.end(KEY, "automatic", "recovered")
    a.bench(KEY, 900.0, kind=ErrorKind.AUTH_DEAD)
    run([a, b])
    assert {} == b.blocked()

    b.bench(KEY, 50.0)
    run([b, a])
    b.end(KEY)
    settle(clock, [b, a], rounds=1)

    assert ({(KEY, "automatic"): 894.9}, {}) == (a.blocked(), b.blocked())


def test_one_bad_host_does_not_bench_the_fleet() -> None:
    """When another process recovers what it published, its further benches bind itself only."""
    clock, _, (a, b) = fleet(2)
    a.bench(KEY, 300.0)
    run([a, b])
    b.end(KEY, "automatic", "recovered")
    settle(clock, [b, a])

    a.bench(KEY, 300.0, reason="again")
    a.bench(KEY, 60.0, "pause")
    settle(clock, [a, b], rounds=1)
    assert ({}, 2) == (b.blocked(), len(a.blocked()))
    a.bench(KEY, 300.0, "manual")
    settle(clock, [a, b], rounds=1)
    assert [(KEY, "manual")] == list(b.blocked())

    clock.now += mirrors.ALONE_FOR
    a.bench(KEY, 300.0)
    run([a, b])
    assert (KEY, "automatic") in b.blocked()


def test_it_is_believed_again_when_another_one_benches_the_key() -> None:
    """Then the key is ill after all."""
    clock, _, (a, b) = fleet(2)
    a.bench(KEY, 300.0)
    run([a, b])
    b.end(KEY, "automatic", "recovered")
    settle(clock, [b, a])
    b.bench(KEY, 10.0)
    settle(clock, [b, a])

    a.bench(KEY, 300.0)
    run([a, b])

    assert {(KEY, "automatic"): 300.0} == b.blocked()


def test_reset_acts_here_and_copies_are_not_applied_again() -> None:
    """Others keep the bench, and reading everything once more brings nothing back."""
    clock, store, (a, b) = fleet(2)
    a.bench(KEY, 300.0)
    a.bench(KEY, 300.0, "manual")
    run([a, b])

    b.reset()
    store.lose()
    settle(clock, [a, b], rounds=1)

    assert [(KEY, "manual")] == list(b.blocked())
    assert [(KEY, "automatic"), (KEY, "manual")] == list(a.blocked())


def test_a_change_that_waits_loses_to_a_manual_one_that_it_had_not_seen() -> None:
    """Two operators: the one whose process was cut off had not seen the other's change."""
    clock, _, (a, b) = fleet(2)
    a.road.fault = "unreachable"
    clock.now += 5.1
    a.run()
    a.bench(KEY, 900.0, "manual", "old")
    b.bench(KEY, 300.0, "manual", "new")
    b.run()

    a.road.fault = None
    settle(clock, [a, b], rounds=2)

    assert ["new", "new"] == [each.benches[KEY, "manual"][0] for each in (a, b)]


def test_an_unbench_that_was_not_seen_wins_over_a_bench_that_waited() -> None:
    """The same for an unbench: the bench ends also where it was made."""
    clock, _, (a, b) = fleet(2)
    a.bench(KEY, 900.0, "manual", "first")
    run([a, b])
    a.road.fault = "unreachable"
    clock.now += 5.1
    a.run()
    a.bench(KEY, 900.0, "manual", "second")
    b.end(KEY)
    b.run()

    a.road.fault = None
    settle(clock, [a, b], rounds=2)

    assert [{}, {}] == [each.blocked() for each in (a, b)]


def test_a_bench_after_an_own_unbench_is_not_superseded_by_it() -> None:
    """Own changes are always seen, also those whose answers are still to come."""
    clock, _, (a, b) = fleet(2)
    for number in range(3):
        a.bench(KEY, 900.0, "manual", f"reason {number}")
        a.step()
        a.end(KEY)
    a.bench(KEY, 900.0, "manual", "last")

    settle(clock, [a, b], rounds=1)

    assert ["last", "last"] == [each.benches[KEY, "manual"][0] for each in (a, b)]


@pytest.mark.parametrize(
    "way", ["refused", "found out", "refused, no answer", "found out late", "read only at first"]
)
def test_an_unbench_outlives_a_bench_after_it_that_loses(way: str) -> None:
    """That stands for the unbench only if the store takes it: others still have the first bench."""
    clock, _, (a, b) = fleet(2)
    a.bench(KEY, 900.0, "manual", "first")
    a.run()
    b.road.fault = "no answer"
    b.bench(KEY, 900.0, "manual", "of b")
    b.step()
    b.end(KEY)
    a.end(KEY)
    a.bench(KEY, 900.0, "manual", "second")
    if way == "found out late":  # it may have been sent
        a.road.fault = "timeout"
        a.step()
    if way == "read only at first":  # it was not
        a.road.fault = "read_only"
        a.step()
        a.road.fault = None
    b.road.fault = None
    clock.now += 1.1
    b.run()
    assert (
        0 == b.road.published[-1].through
    )  # an end that comes after the first bench, and leaves it

    if way.startswith("found out"):
        clock.now += 5.1
    if way == "refused, no answer":
        a.road.fault = "no answer"
    a.run()
    a.road.fault = None
    settle(clock, [a, b], rounds=2)

    assert [{}, {}] == [each.blocked() for each in (a, b)]


def test_an_unbench_shows_again_what_it_had_not_seen() -> None:
    """Also where it ends a bench of its own whose order is not known."""
    slot = Slot(KEY, "manual")
    slot.apply_bench(shared("of another", 5), 0.0, KeyRules(), 0)
    own = slot.bench_here(
        LocalBench(KEY, "manual", 0.0, None, seen=5), "own", 5, "a", is_alone=False
    )
    own.is_sent = True

    ending, effects = slot.end_here(LocalEnd(KEY, None, 1.0, "manual", seen=4), "a")

    assert ending is not None
    assert ("own",) == ending.ids
    assert ["of another"] == [each.bench.id for each in effects if isinstance(each, ApplyBench)]


def test_the_newest_own_bench_is_shown_when_another_ends() -> None:
    """Of two that have no order yet, since the answer to the first is still to come."""
    slot = Slot(KEY, "manual")
    slot.apply_bench(shared("of another", 5), 0.0, KeyRules(), 0)
    for name in ("first", "second"):
        told = LocalBench(KEY, "manual", 0.0, None, seen=5)
        slot.bench_here(told, name, 5, "a", is_alone=False).is_sent = name == "first"

    (effect,) = slot.give_up(slot.entries["of another"], 1.0)

    assert isinstance(effect, ApplyBench)
    assert "second" == effect.bench.id


def test_an_unbench_does_not_name_what_came_after_it() -> None:
    """The registry has unbenched before the bench of another process was handed to it."""
    clock, _, (a, b) = fleet(2)
    a.bench(KEY, 300.0, "manual", "first")
    settle(clock, [a, b])
    seen = b.mirror.order
    a.bench(KEY, 900.0, "manual", "second")
    a.run()
    clock.now += 5.1
    b.run()

    b.mirror.tell(LocalEnd(KEY, None, clock.now, "manual", seen=seen))
    settle(clock, [b, a], rounds=1)

    assert ["second", "second"] == [each.benches[KEY, "manual"][0] for each in (a, b)]


# Outages.


def test_a_bench_and_its_unbench_that_were_never_sent_cancel_each_other() -> None:
    """Nothing of both comes to the store."""
    clock, _, (a, b) = fleet(2)
    a.road.fault = "unreachable"
    clock.now += 5.1
    a.run()

    for layer in LAYERS:
        a.bench(KEY, 300.0, layer)
    assert 3 == a.mirror.status(clock.now).pending
    a.end(KEY)
    assert 0 == a.mirror.status(clock.now).pending
    a.road.fault = None
    settle(clock, [a, b])

    assert [] == a.road.published


@pytest.mark.parametrize("fault", [None, "no answer"])
def test_a_manual_bench_that_is_over_before_it_is_sent_ends_what_it_replaced(
    fault: str | None,
) -> None:
    """Also if the store may have it, since its answer was lost."""
    clock, _, (a, b) = fleet(2)
    a.bench(KEY, None, "manual", "endless")
    settle(clock, [a, b])

    a.road.fault = fault or "unreachable"
    a.bench(KEY, 3.0, "manual", "short")
    a.run()
    clock.now += 5.1
    a.benches.clear()
    a.run()
    a.road.fault = None
    settle(clock, [a, b])

    assert [{}, {}] == [each.blocked() for each in (a, b)]


def test_a_child_notices_what_the_store_has_lost_since_the_fork() -> None:
    """It has seen what its parent has, so it writes that back, and does not take it for ended."""
    clock, store, (a, b) = fleet(2)
    a.bench(KEY, None, "manual")
    a.run()

    a.mirror.after_fork("child", clock.now)
    store.lose()
    settle(clock, [a, b])

    assert [{(KEY, "manual"): math.inf}] * 2 == [each.blocked() for each in (a, b)]


@pytest.mark.parametrize("layer", LAYERS)
def test_an_unbench_outlives_a_bench_that_was_never_sent(layer: Layer) -> None:
    """Unbenched, benched and unbenched again before anything was sent: the first one counts."""
    clock, _, (a, b) = fleet(2)
    a.bench(KEY, 3000.0, layer)
    settle(clock, [a, b])

    a.end(KEY)
    a.bench(KEY, 2000.0, layer)
    a.end(KEY)
    settle(clock, [a, b])

    assert [{}, {}] == [each.blocked() for each in (a, b)]


def test_what_may_have_been_sent_is_ended_by_its_id() -> None:
    """The answer was lost, so the order is not known; the same step comes first again."""
    clock, _, (a, b) = fleet(2)
    a.road.fault = "no answer"
    a.bench(KEY, 300.0)
    a.run()
    b.run()
    a.end(KEY, "automatic", "recovered")

    a.road.fault = None
    settle(clock, [a, b])

    assert [{}, {}] == [each.blocked() for each in (a, b)]
    numbers = [each.stamp.number for each in a.road.steps if isinstance(each, Publish)]
    assert numbers[0] == numbers[1] < numbers[2]


def test_a_store_that_only_reads_is_unavailable_for_writing() -> None:
    """What others do still comes; own changes are sent when it can be written again."""
    clock, _, (a, b) = fleet(2)
    a.road.fault = "read_only"
    a.bench("openai", 300.0)
    a.run()
    b.bench(KEY, 300.0)
    settle(clock, [b, a])

    assert (KEY, "automatic") in a.blocked()
    status = a.mirror.status(clock.now)
    assert (True, 1, "OSError") == (status.connected, status.pending, status.last_error)
    a.end("openai")
    a.bench("mistral", 300.0)
    a.road.fault = None
    settle(clock, [a, b])
    assert [("mistral", "automatic")] == [each for each in b.blocked() if each[0] != KEY]
    assert ["StoreUnavailable", "StoreAvailable"] == a.events()


@pytest.mark.parametrize("fault", ["unreachable", "timeout", "auth", "read_only"])
def test_an_outage_is_told_once(fault: str) -> None:
    """One event when it begins and one when it is over, however often the store is tried."""
    clock, _, (a,) = fleet(1)
    a.road.fault = fault
    a.bench(KEY, 3000.0)
    a.run()
    before = len(a.road.steps)
    for _ in range(600):
        clock.now += 0.1
        a.run()
    (began,) = a.effects
    tried = len(a.road.steps) - before

    a.road.fault = None
    clock.now += 5.1
    a.run()

    fields = {"url": "memory:", "reason": fault, "type_name": "OSError"}
    assert ("StoreUnavailable", fields) == (began.name, began.fields)
    over = a.effects[-1]
    assert ("StoreAvailable", {"url", "seconds"}) == (over.name, set(over.fields))
    assert 65.1 == pytest.approx(over.fields["seconds"], abs=5.0)
    assert 12 < tried < 36  # at least every 5 s, and not without a pause
    assert 0 == a.mirror.status(clock.now).pending


def test_connected_means_an_answer_within_ten_seconds() -> None:
    """A store that never answered is not connected."""
    clock = Clock()
    a = Process(clock, MemoryStore(clock=clock))
    assert (False, None, 1) == (
        (status := a.mirror.status(0.0)).connected,
        status.last_sync_at,
        status.peers,
    )
    a.run()
    assert a.mirror.status(10.0).connected
    assert not a.mirror.status(10.1).connected


def test_what_waits_beyond_the_limit_is_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What an operator does takes the place of a measurement."""
    monkeypatch.setattr(outgoing, "MOST_WAITING", 3)
    clock, _, (a, b) = fleet(2)
    a.road.fault = "unreachable"
    clock.now += 5.1
    a.run()

    for number in range(5):
        a.bench(f"openai/{number}", 3000.0)
    a.bench(KEY, 3000.0, "manual")
    status = a.mirror.status(clock.now)
    a.road.fault = None
    settle(clock, [a, b])

    assert (3, 3) == (status.pending, status.dropped)
    assert {"openai/1", "openai/2", KEY} == {key for key, _ in b.blocked()}


def test_steps_are_small_however_much_waits() -> None:
    """Ten thousand changes are sent in steps of at most 500, and looks come in between."""
    clock, _, (a, b) = fleet(2)
    a.road.fault = "unreachable"
    clock.now += 5.1
    a.run()
    for number in range(1200):
        a.bench(f"openai/{number}", 3000.0)

    a.road.fault = None
    settle(clock, [a, b])

    sizes = [len(each.changes) for each in a.road.steps if isinstance(each, Publish)]
    assert [500, 500, 200] == sizes
    assert 1200 == len(b.blocked())


# Losses.


def test_a_store_that_lost_everything_is_filled_again() -> None:
    """Benches, ends and totals: what a living process saw is written back, and told once."""
    clock, store, (a, b) = fleet(2)
    total = Balance("budget", 0, None, 40, 5, 3, 1)
    a.mirror._balances.saw((total,))
    b.mirror._balances.saw((total._replace(spent=60, calls=2),))
    for layer in LAYERS:
        a.bench(KEY, 3000.0, layer)
    a.bench("openai", 3000.0)
    run([a, b])
    b.end("openai")
    settle(clock, [a, b])

    store.lose()
    assert a.mirror.is_whole
    settle(clock, [a, b], rounds=2)
    late = Process(clock, store, "late:1")
    late.run()

    assert a.blocked() == b.blocked() == late.blocked()
    assert 3 == len(late.blocked())
    assert [["StoreLost"], ["StoreLost"]] == [a.events(), b.events()]
    assert a.mirror.is_whole
    seen = store.changes(Stamp("x"), 0, timeout=1.0)
    assert [(60, 3, 1)] == [(each.spent, each.calls, each.estimated) for each in seen.balances]
    ended = [each for each in seen.records if each.through is not None]
    assert ["openai"] == [each.key for each in ended]


def test_a_process_that_was_away_revives_nothing() -> None:
    """It writes back a bench that was ended meanwhile, and the end is written back as well."""
    clock, store, (a, b, c) = fleet(3)
    a.bench(KEY, 3000.0, "manual")
    settle(clock, [a, b, c])
    c.road.fault = "unreachable"
    a.end(KEY)
    settle(clock, [a, b, c])
    store.lose()
    c.road.fault = None

    for order in ([c, a, b], [c, b, a]):
        settle(clock, order, rounds=1)

    assert [{}] * 3 == [each.blocked() for each in (a, b, c)]


def test_nothing_is_reserved_before_all_is_written_back() -> None:
    """`is_whole` is False from the loss to the last copy."""
    clock, store, (a,) = fleet(1)
    a.bench(KEY, 3000.0)
    a.run()
    store.lose()
    clock.now += 5.1
    assert isinstance(a.step(), Look)

    assert not a.mirror.is_whole
    a.run()
    assert a.mirror.is_whole


def test_a_step_that_finds_the_loss_is_sent_again_after_it() -> None:
    """The change is not lost with the data."""
    clock, store, (a, b) = fleet(2)
    store.lose()

    a.bench(KEY, 300.0)
    run([a, b])
    settle(clock, [a, b], rounds=1)

    assert {(KEY, "automatic"): 294.9} == b.blocked()


def test_after_a_long_time_without_the_store_everything_is_read() -> None:
    """Ends are remembered for a day only, so what is not there any more has ended."""
    clock, _, (a, b) = fleet(2)
    a.bench(KEY, None, "manual")
    run([a, b])
    b.road.fault = "unreachable"
    a.end(KEY)
    a.run()
    for _ in range(30):
        clock.now += 3600.0
        run([a, b])

    b.road.fault = None
    clock.now += 5.1
    b.run()

    assert {} == b.blocked()


# Probes.


def test_who_asks_for_a_place_looks_first_what_others_have_found_out() -> None:
    """A probe that was answered a moment ago says what this one would: nothing is claimed."""
    clock, _, (a, b) = fleet(2)
    a.bench(KEY, 1.0)
    run([a, b])
    settle(clock, [a, b])
    b.effects.clear()

    a.end(KEY, "automatic", "recovered")
    a.run()
    b.mirror.ask_place(KEY, 30.0, 1, clock.now + 0.25)
    b.run()

    assert {} == b.blocked()
    assert [] == [each for each in b.road.steps if isinstance(each, ClaimPlaces)]
    assert [(1, "unclaimed")] == b.places()


def test_one_process_at_a_time_probes() -> None:
    """The second is refused, until the first gives the place back or its lease ends."""
    clock, _, (a, b) = fleet(2)
    a.bench(KEY, 1.0)
    run([a, b])
    settle(clock, [a, b])
    assert [True, True] == [each.mirror.is_shared(KEY) for each in (a, b)]
    a.effects.clear()
    b.effects.clear()

    a.mirror.ask_place(KEY, 30.0, 1, clock.now + 0.25)
    b.mirror.ask_place(KEY, 30.0, 2, clock.now + 0.25)
    run([a, b])
    assert ([(1, "held")], [(2, "refused")]) == (a.places(), b.places())
    a.mirror.place_over(KEY)
    b.mirror.ask_place(KEY, 30.0, 3, clock.now + 0.25)
    run([a, b])
    assert [(3, "held")] == b.places()
    b.mirror.place_over(KEY)
    b.run()
    a.mirror.ask_place(KEY, 30.0, 4, clock.now + 0.25)
    a.run()
    assert [(4, "held")] == a.places()
    clock.now += 30.1
    b.mirror.ask_place(KEY, 30.0, 5, clock.now + 0.25)
    b.run()
    assert [(5, "held")] == b.places()


@pytest.mark.parametrize("fault", ["unreachable", "read_only"])
def test_without_an_answer_it_probes_unclaimed(fault: str) -> None:
    """Also at once, while the store is known to be down."""
    clock, _, (a,) = fleet(1)
    a.road.fault = fault

    a.mirror.ask_place(KEY, 30.0, 1, clock.now + 0.25)
    a.run()
    assert [(1, "unclaimed")] == a.places()
    steps = len(a.road.steps)
    a.mirror.ask_place(KEY, 30.0, 2, clock.now + 0.25)
    a.run()
    assert ([(2, "unclaimed")], steps) == (a.places(), len(a.road.steps))


def test_a_claim_whose_answer_was_lost_is_given_back() -> None:
    """The store has it, so others would wait for its lease."""
    clock, _, (a, b) = fleet(2)
    a.road.fault = "no answer"
    a.mirror.ask_place(KEY, 3000.0, 1, clock.now + 0.25)
    a.run()
    a.road.fault = None
    a.mirror.place_over(KEY)
    settle(clock, [a], rounds=1)

    b.mirror.ask_place(KEY, 30.0, 2, clock.now + 0.25)
    b.run()

    assert [(2, "held")] == b.places()


def test_a_caller_waits_no_longer_than_it_said() -> None:
    """Though the store has not been read yet."""
    clock = Clock()
    a = Process(clock, MemoryStore(clock=clock))
    a.mirror.ask_place(KEY, 30.0, 1, 0.25)
    step = a.mirror.next_step(0.0)
    assert isinstance(step, Look)

    clock.now = 0.3
    a.mirror.next_step(clock.now)
    a.apply()

    assert [(1, "unclaimed")] == a.places()


# Forks and ends.


def test_a_child_keeps_benches_and_drops_what_waits() -> None:
    """Its parent publishes that; the child is a session of its own."""
    clock, _, (a, b) = fleet(2)
    a.road.fault = "unreachable"
    clock.now += 5.1
    a.run()
    a.bench(KEY, 300.0, "manual", "from the parent")
    a.mirror.ask_place(KEY, 30.0, 1, clock.now + 9.0)
    before = a.blocked()

    a.mirror.after_fork("child:1", clock.now)
    a.road.fault = None
    settle(clock, [a, b], rounds=1)

    assert list(before) == list(a.blocked())
    assert ([], {}) == (a.road.published, b.blocked())
    looks = [each.stamp.session for each in a.road.steps if isinstance(each, Look)]
    assert "child:1" == looks[-1]
    assert not any(isinstance(each, ClaimPlaces) for each in a.road.steps)


def test_before_the_end_everything_is_sent() -> None:
    """What waits is published and places are given back; then there is no work."""
    clock, _, (a, b) = fleet(2)
    a.mirror.ask_place(KEY, 3000.0, 1, clock.now + 0.25)
    a.run()
    a.bench("openai", 300.0)

    a.mirror.leave()
    assert a.mirror.has_work
    a.run()

    assert not a.mirror.has_work
    b.mirror.ask_place(KEY, 30.0, 2, clock.now + 5.25)
    settle(clock, [b], rounds=1)
    assert [(2, "held")] == b.places()


# What is read is untrusted.


def _record(*, body: bytes = b"", key: str = KEY, layer: Any = "manual") -> Bench:
    return Bench(key, layer, "x", 60.0, body)


@pytest.mark.parametrize(
    "record",
    [
        _record(),
        _record(body=b'{"v":2}'),
        _record(body=b'{"v":1}', key="x" * 513),
        _record(body=b'{"v":1,"reason":"%s"}' % (b"r" * 201)),
        _record(body=b'{"v":1}', layer="other"),
        _record(body=b"\xff"),
    ],
)
def test_what_is_not_understood_is_counted(record: Bench) -> None:
    """It changes nothing, and the records beside it are applied."""
    clock, store, (a, b) = fleet(2)
    seen = store.changes(Stamp("evil"), 0, timeout=1.0)
    store.publish(Stamp("evil", 1, seen.epoch), [record], timeout=1.0)
    b.bench("openai", 300.0)
    run([b])

    settle(clock, [a], rounds=1)

    assert [("openai", "automatic")] == list(a.blocked())
    assert 1 == a.mirror.status(clock.now).rejected


def test_an_order_that_the_store_has_not_reached_is_not_believed() -> None:
    """It would bar all later changes of the fleet."""
    clock, store, (a,) = fleet(1)
    real = store.changes

    def changes(stamp: Stamp, since: int, *, limit: int = 1000, timeout: float) -> Changes:
        seen = real(stamp, since, limit=limit, timeout=timeout)
        far = tuple(each._replace(order=2**52) for each in seen.records)
        return seen._replace(records=far)

    b = Process(clock, store, "b:1")
    b.bench(KEY, 300.0)
    b.run()
    store.changes = changes
    settle(clock, [a], rounds=1)

    assert ({}, 1) == (a.blocked(), a.mirror.status(clock.now).rejected)


@pytest.mark.parametrize("answer", [None, 7, "text", (), (1, 2), [object()]])
def test_rubbish_is_an_outage(answer: Any) -> None:
    """Whatever a store answers raises nothing."""
    clock = Clock()
    a = Process(clock, MemoryStore(clock=clock))
    for step in range(2):
        a.mirror.next_step(clock.now)
        a.mirror.answered(answer, clock.now)
        a.apply()
        clock.now += 5.1 * step
        a.run()
        a.bench(KEY, 300.0, "manual")

    assert "StoreUnavailable" in a.events()


def test_a_store_that_loses_every_step_is_one_that_fails() -> None:
    """The mirror does not ask without a pause."""
    clock, _, (a,) = fleet(1)
    a.bench(KEY, 300.0)
    steps = 0
    while not isinstance(step := a.mirror.next_step(clock.now), Rest):
        steps += 1
        if isinstance(step, Look):
            a.mirror.answered(a.road.do(step), clock.now)
        else:
            a.mirror.lost(clock.now)
        assert steps < 20

    a.apply()
    assert ["StoreUnavailable"] == a.events()


def test_hints_cause_no_storm_of_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel message is only a hint, and whoever can write may send many."""
    monkeypatch.setattr(mirrors, "LOOK_GAP", 0.05)
    clock, _, (a,) = fleet(1)
    looks = 0
    for _ in range(1000):
        clock.now += 0.001
        step = a.mirror.next_step(clock.now)
        if isinstance(step, Rest):
            a.mirror.answered(True, clock.now)
        else:
            looks += 1
            a.mirror.answered(a.road.do(step), clock.now)

    assert 15 <= looks <= 21


def test_a_store_whose_hints_fail_is_looked_at_every_second() -> None:
    """The thread waits by itself meanwhile."""
    clock, _, (a,) = fleet(1)
    step = a.mirror.next_step(clock.now)
    assert isinstance(step, Rest)
    assert step.since is not None

    a.mirror.failed(StoreError("error"), clock.now)
    rest = a.mirror.next_step(clock.now)

    assert Rest(1.0, None) == rest


def test_trap_46_what_is_over_and_old_is_forgotten() -> None:
    """A day after their ends nothing is left of benches."""
    clock, _, (a, b) = fleet(2)
    for number in range(20):
        a.bench(f"openai/{number}", 60.0)
        a.bench(f"groq/{number}", 60.0, "manual")
        a.end(f"groq/{number}")
    settle(clock, [a, b])

    for _ in range(50):
        clock.now += 3600.0
        run([a, b])

    assert [{}, {}] == [each.mirror._slots for each in (a, b)]


def test_a_long_text_of_control_characters_fits_a_record() -> None:
    """JSON writes each of them as six characters."""
    clock, _, (a, b) = fleet(2)
    told = LocalBench(
        KEY, "manual", clock.now, 300.0, None, "\x00" * 200, "\x00" * 200, "\x00" * 200
    )
    a.mirror.source = "\x00" * 200

    a.mirror.tell(told)
    run([a, b])

    assert [(KEY, "manual")] == list(b.blocked())
    assert 0 == b.mirror.status(clock.now).rejected


def test_a_copy_of_an_end_names_what_it_named() -> None:
    """Ids and the highest order are kept over a loss."""
    clock, store, (a, b) = fleet(2)
    a.road.fault = "no answer"
    a.bench(KEY, 300.0)
    a.run()
    a.end(KEY)
    a.road.fault = None
    settle(clock, [a, b])
    (before,) = [each for each in a.road.published if isinstance(each, End)]

    store.lose()
    settle(clock, [a, b])

    copies = [each for each in a.road.published if isinstance(each, End)][1:]
    assert [(before.ids, before.through)] == [(each.ids, each.through) for each in copies]
    assert copies[0].order > 0
