"""Budgets over a store: one cap for all processes, whatever the store does."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from resilient_llm import (
    Budget,
    BudgetExceeded,
    BudgetExceededError,
    BudgetWarning,
    ChainExhaustedError,
    DeadlineExceededError,
    StoreUnavailableError,
    Target,
    TargetSkipped,
    can_call,
    configure,
    failover,
    reset_spend,
    spend,
    spend_key,
    spend_total,
    store_status,
)
from resilient_llm._core.sharing import mirror as mirrors
from resilient_llm._core.spending.asking import Asked, Unavailable
from resilient_llm._core.spending.booking import Booking
from resilient_llm._core.spending.estimates import Estimate
from resilient_llm._core.spending.ledger import Refusal, Reservation
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.usage import Usage
from resilient_llm.stores import StoreError
from resilient_llm.stores.sqlite import SqliteStore
from resilient_llm.testing import MemoryStore, capture_events
from tests.support.sharing import Peer, eventually, peer
from tests.support.ways import GROQ, OPENAI, run_async

ONE_DAY = Budget(calls=3, per="day")


def ask(target: Target) -> str:
    return "x" * 8


POLICY = failover([Target(GROQ, max_output=5)])
FALLBACK = failover([Target(GROQ, max_output=5), Target(OPENAI, max_output=5)])


class Spender:
    """An attempt of another process."""

    def __init__(self, at: Peer, key: str = GROQ, spend_key: str | None = None) -> None:
        self.ledger: Any = at.state.ledger
        self.reservation = Reservation(Target(key), Estimate(0, 5), None, spend_key)
        found: Any = self.ledger.reserve(self.reservation, time.time())
        if isinstance(found, Asked):
            asked = found
            eventually(lambda: asked.answer is not None)
            found = self.ledger.answered(self.reservation, time.time())
        self.refusal = found

    def settle(self, tokens: int = 5) -> None:
        """Book so many tokens, and wait until the store has them."""
        self.ledger.settle(self.reservation, Booking(Usage(tokens, 0)))
        eventually(lambda: not self.ledger._own)


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes look at what others spend without waiting for five seconds."""
    monkeypatch.setattr(mirrors, "LOOK_EVERY", 0.05)


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore()
    configure(state=made, state_timeout=5.0)
    assert store_status(wait=5).connected
    return made


def spent() -> tuple[Any, Any, int]:
    """Return what the first budget has: spent, reserved and calls."""
    (row, *_) = spend()
    return row.spent, row.reserved, row.calls


def settled() -> None:
    """Wait until the store has answered everything."""
    ledger: Any = runtime.ledger
    eventually(lambda: not (store_status().pending or ledger._own))


# One cap.


def test_a_cap_holds_over_processes(store: MemoryStore) -> None:
    """What another process has reserved leaves this one no room."""
    configure(budgets=[ONE_DAY])
    with peer(store, budgets=[ONE_DAY]) as other:
        held = [Spender(other), Spender(other)]
        POLICY.call(ask)

        with pytest.raises(BudgetExceededError) as caught:
            POLICY.call(ask)
        held[0].settle()
        held[1].settle()
        eventually(lambda: spent() == (3, 0, 3))

    assert (1, 2) == (caught.value.spent, caught.value.reserved)
    assert caught.value.retry_after is None  # only reservations are in the way


def test_a_budget_outlives_the_process(store: MemoryStore) -> None:
    """The next one finds what was spent, also by key."""
    budgets = [ONE_DAY, Budget(tokens=100, of="key", per="month")]
    with peer(store, budgets=budgets) as other:
        for key in ("tenant-1", "tenant-2", "tenant-1"):
            Spender(other, spend_key=key).settle(7)

    configure(budgets=budgets)
    eventually(lambda: len(spend()) == 3)

    rows = {(row.budget, row.key): (row.spent, row.calls) for row in spend()}
    assert {
        ("all day calls", None): (3, 3),
        ("key month tokens", "tenant-1"): (14, 2),
        ("key month tokens", "tenant-2"): (7, 1),
    } == rows
    with pytest.raises(BudgetExceededError):
        POLICY.call(ask)


@pytest.mark.parametrize(
    "mine",
    [
        Budget(calls=3, per="day", name="mine"),
        Budget(calls=3, per="day", of="groq"),
        Budget(calls=3, per="hour"),
        Budget(tokens=300, per="day"),
        Budget(calls=3, per="day", zone="Asia/Tokyo"),
    ],
    ids=["name", "of", "per", "unit", "zone"],
)
def test_other_budgets_are_other_accounts(store: MemoryStore, mine: Budget) -> None:
    """A budget is found by its name, else by what it caps, its unit, period and zone."""
    configure(budgets=[mine])
    with peer(store, budgets=[ONE_DAY]) as other:
        for _ in range(3):
            Spender(other).settle()

        POLICY.call(ask)

    assert 1 == spend()[0].calls


def test_each_process_enforces_its_own_cap(store: MemoryStore) -> None:
    """As while a new cap is rolled out: both count on one account."""
    configure(budgets=[Budget(calls=1, per="day")])
    with peer(store, budgets=[ONE_DAY]) as other:
        Spender(other).settle()

        with pytest.raises(BudgetExceededError) as caught:
            POLICY.call(ask)
        assert Spender(other).refusal is None

    assert (1, 1) == (caught.value.cap, caught.value.spent)


def test_all_budgets_are_reserved_in_or_none(store: MemoryStore) -> None:
    """A refusal by one leaves nothing reserved in the others."""
    configure(budgets=[Budget(calls=9, per="day"), Budget(tokens=4, per="day", of="groq")])

    with pytest.raises(BudgetExceededError):
        POLICY.call(ask)
    settled()

    assert [0, 0] == [row.reserved for row in spend()]
    assert [0, 0] == [row.calls for row in spend()]


def test_the_next_target_is_called_when_a_budget_refuses_the_first(store: MemoryStore) -> None:
    """As without a store."""
    configure(budgets=[Budget(calls=0, of="groq")])

    with capture_events(TargetSkipped) as told:
        assert "xxxxxxxx" == FALLBACK.call(ask)

    assert ["budget groq month calls"] == [each.reason for each in told]


def test_what_is_free_is_never_refused(store: MemoryStore) -> None:
    """A budget in USD has nothing against a target whose price is 0, and counts its calls."""
    configure(budgets=[Budget(usd=0)])

    failover([Target("own/llama", price=(0.0, 0.0), max_output=5)]).call(ask)

    assert (Decimal(0), 0, 1) == spent()


def test_amounts_are_exact(store: MemoryStore) -> None:
    """To 1e-12 USD, over processes."""
    budgets = [Budget(usd=10**6, per="month")]
    configure(budgets=budgets, prices={"groq": (0.000001, 0.000001)})
    with peer(store, budgets=budgets):
        for _ in range(3):
            POLICY.call(ask)
        settled()

    assert Decimal("0.000000000006") == spend()[0].spent == spend_total()[GROQ]


# What observers are told.


def test_a_warning_comes_once_in_the_process_that_notices(store: MemoryStore) -> None:
    """The one whose call passes the limit, or finds it passed."""
    configure(budgets=[Budget(calls=4, per="day", warn_at=0.5)])
    with peer(store, budgets=[Budget(calls=4, per="day", warn_at=0.5)]) as other:
        Spender(other).settle()
        eventually(lambda: spent()[0] == 1)
        with capture_events(BudgetWarning, BudgetExceeded) as told:
            for _ in range(3):
                POLICY.call(ask)
            with pytest.raises(BudgetExceededError):
                POLICY.call(ask)
        theirs = [each.kind for each in other.state.ledger.take_notices()]

    assert ["BudgetWarning", "BudgetExceeded"] == [type(each).__name__ for each in told]
    assert [2, 4] == [each.spent for each in told]
    assert [] == theirs


def test_what_can_be_called_is_what_is_known(store: MemoryStore) -> None:
    """It asks nobody, so it is as fresh as the latest answer."""
    configure(budgets=[ONE_DAY])
    assert can_call(POLICY)
    for _ in range(3):
        POLICY.call(ask)

    answer = can_call(POLICY)

    assert (False, {GROQ: "budget all day calls"}) == (answer.allowed, answer.reasons)


def test_reset_spend_frees_the_budget_for_all(store: MemoryStore) -> None:
    """Reservations stay, and nothing comes back after a loss of data."""
    configure(budgets=[ONE_DAY])
    with peer(store, budgets=[ONE_DAY]) as other:
        held = Spender(other)
        for _ in range(2):
            POLICY.call(ask)
        settled()

        reset_spend()
        assert (0, 0) == (spent()[0], spent()[2])
        settled()
        assert Spender(other).refusal is None
        store.lose()
        held.settle()
        eventually(lambda: spent()[0] == 1)

        assert (1, 1) == (spent()[0], spent()[2])


# A store that gives no answer.


class Slow(MemoryStore):
    """A store whose reservations hang, fail or do both."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self.fails = False

    def reserve(self, *args: Any, **kwargs: Any) -> Any:
        if self.seconds:
            time.sleep(self.seconds)
        if self.fails:
            raise StoreError("timeout")
        return super().reserve(*args, **kwargs)

    def settle(self, *args: Any, **kwargs: Any) -> Any:
        if self.fails:
            raise StoreError("timeout")
        return super().settle(*args, **kwargs)

    def publish(self, *args: Any, **kwargs: Any) -> Any:
        if self.fails:
            raise StoreError("timeout")
        return super().publish(*args, **kwargs)


@pytest.fixture
def slow() -> Slow:
    made = Slow()
    configure(state=made, budgets=[Budget(calls=10, per="day")])
    assert store_status(wait=5).connected
    return made


def test_what_others_have_reserved_stays_with_the_store() -> None:
    """A process that shares nothing any more goes on with what was spent, and with room."""
    made = MemoryStore()
    configure(state=made, budgets=[Budget(calls=3, per="day")])
    assert store_status(wait=5).connected
    POLICY.call(ask)
    with peer(made, budgets=[Budget(calls=3, per="day")]) as other:
        running = [Spender(other), Spender(other)]
        with pytest.raises(BudgetExceededError):
            POLICY.call(ask)
        configure(state=None)
        assert (1, 0) == (spend()[0].spent, spend()[0].reserved)
        for each in running:
            each.settle()

    POLICY.call(ask)
    assert (2, 0) == (spend()[0].spent, spend()[0].reserved)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_the_deadline_of_a_call_ends_its_wait_for_the_store(slow: Slow, is_async: bool) -> None:
    """One deadline over all attempts, waits and targets."""
    configure(state_timeout=10.0)
    slow.seconds = 5.0

    @failover([Target(GROQ, max_output=5)], timeout=0.1)
    def call(target: Target) -> str:
        return "x"

    @failover([Target(GROQ, max_output=5)], timeout=0.1)
    async def acall(target: Target) -> str:
        return "x"

    began = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        if is_async:
            asyncio.run(acall())
        else:
            call()

    assert time.monotonic() - began < 4  # the store takes 5


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_caller_waits_no_longer_than_it_has_to(slow: Slow, is_async: bool) -> None:
    """Whatever the store does; and what it admits too late is released."""
    configure(state_timeout=0.1, on_store_down="refuse")
    slow.seconds = 2.0
    policy = POLICY if not is_async else failover([Target(GROQ, max_output=5)])

    async def aask(target: Target) -> str:
        return "x"

    began = time.monotonic()
    with pytest.raises(StoreUnavailableError):
        if is_async:
            asyncio.run(policy.call(aask))
        else:
            policy.call(ask)
    took = time.monotonic() - began
    slow.seconds = 0.0
    eventually(lambda: spent() == (0, 0, 0))

    assert took < 1.8  # it does not wait for the store


def test_refuse_refuses_and_other_targets_go_on(slow: Slow) -> None:
    """Targets without a budget need no store."""
    configure(budgets=[Budget(calls=10, of="groq")], on_store_down="refuse", state_timeout=0.1)
    slow.fails = True

    with capture_events(TargetSkipped) as told:
        FALLBACK.call(ask)
    with pytest.raises(StoreUnavailableError) as caught:
        POLICY.call(ask)

    assert ["store unavailable"] == [each.reason for each in told]
    assert (GROQ, "store unavailable", None) == (
        caught.value.target,
        caught.value.reason,
        caught.value.retry_after,
    )


def test_a_target_without_the_store_is_a_member_beside_others(slow: Slow) -> None:
    """If something was attempted, the chain is exhausted as always."""
    configure(budgets=[Budget(calls=10, of="groq")], on_store_down="refuse", state_timeout=0.1)
    slow.fails = True

    def fails(target: Target) -> str:
        raise ConnectionError

    with pytest.raises(ChainExhaustedError) as caught:
        FALLBACK.call(fails)

    assert [StoreUnavailableError, ConnectionError] == [
        type(each) for each in caught.value.exceptions
    ]


def test_without_the_store_a_process_spends_its_share(slow: Slow) -> None:
    """What was left at the last answer, divided by the processes; the store gets it later."""
    configure(state_timeout=0.2)
    with peer(slow, budgets=[Budget(calls=10, per="day")]) as other:
        Spender(other).settle()
        in_flight = Spender(other)
        eventually(lambda: (spent(), store_status().peers) == ((1, 1, 1), 2))
        slow.fails = True

        admitted = 0
        with pytest.raises(StoreUnavailableError):
            for _ in range(10):
                POLICY.call(ask)
                admitted += 1
        assert 4 == admitted  # (10 - 1 - 1) / 2
        assert (5, 1, 5) == spent()

        slow.fails = False
        settled()
        eventually(lambda: other.state.ledger.reports(time.time())[0].spent == 5)
        in_flight.settle()


def test_without_any_answer_yet_nothing_is_spent() -> None:
    """A process that has never seen the store does not know what is left."""
    made = Slow()
    made.changes = _fails
    configure(state=made, state_timeout=0.1, budgets=[ONE_DAY])

    with pytest.raises(StoreUnavailableError):
        POLICY.call(ask)


def _fails(*_: Any, **__: Any) -> Any:
    raise StoreError("unreachable")


def test_the_price_of_an_outage_is_one_wait(slow: Slow) -> None:
    """While the store is known to be down nobody waits for it."""
    configure(state_timeout=0.3)
    slow.fails = True
    POLICY.call(ask)

    began = time.monotonic()
    POLICY.call(ask)

    assert time.monotonic() - began < 0.2


# Cancellation and interrupts.


def test_a_caller_that_is_cancelled_while_it_waits_leaves_nothing(slow: Slow) -> None:
    """What the store admits afterwards is released."""
    configure(state_timeout=5.0)
    slow.seconds = 0.3

    async def aask(target: Target) -> str:
        raise AssertionError

    async def main() -> None:
        with anyio.move_on_after(0.05):
            await POLICY.call(aask)

    for backend in ("asyncio", "trio"):
        run_async(main, backend=backend)
    slow.seconds = 0.0

    assert store_status(wait=1).connected
    eventually(lambda: spent() == (0, 0, 0) and not store_status().pending)
    assert not slow._tables._reservations


def test_a_dropped_call_that_waits_leaves_nothing(slow: Slow) -> None:
    """Its flow is closed by the garbage collection, which waits for no lock."""
    configure(state_timeout=5.0)
    slow.seconds = 0.2

    async def aask(target: Target) -> str:
        raise AssertionError

    async def main() -> None:
        task = asyncio.ensure_future(POLICY.call(aask))
        await asyncio.sleep(0.05)
        task.cancel()
        del task

    asyncio.run(main())
    slow.seconds = 0.0

    eventually(lambda: not store_status().pending and not slow._tables._reservations)
    assert (0, 0, 0) == spent()


# Exactness.


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_threads_of_processes_never_pass_a_cap(kind: str, tmp_path: Path) -> None:
    """What is sent is exactly what the cap admits, and everything is booked."""
    budget = Budget(calls=40, per="day")
    made: Any = MemoryStore() if kind == "memory" else None

    def opened() -> Any:
        return made or SqliteStore(str(tmp_path / "state.db"), poll=0.1)

    configure(state=opened(), state_timeout=10.0, budgets=[budget])
    sent: list[str] = []

    def count(target: Target) -> str:
        sent.append(target.key)
        return "x"

    def call(number: int) -> bool:
        if number % 2:
            other = others[number % len(others)]
            spender = Spender(other)
            if spender.refusal is None:
                sent.append("other")
                spender.settle()
            return spender.refusal is None
        try:
            POLICY.call(count)
        except BudgetExceededError:
            return False
        return True

    others = [
        Peer(opened(), f"other:{number}", budgets=[budget], state_timeout=10.0)
        for number in range(2)
    ]
    try:
        with ThreadPoolExecutor(16) as pool:
            admitted = sum(pool.map(call, range(160)))
        settled()
        eventually(lambda: spent() == (40, 0, 40))
    finally:
        for each in others:
            each.close()

    assert 40 == admitted == len(sent)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_tasks_never_pass_a_cap(store: MemoryStore, backend: str) -> None:
    """Hundreds of tasks ask in a few steps."""
    configure(budgets=[Budget(calls=100, per="day")])
    sent: list[str] = []

    @failover([Target(GROQ, max_output=5)])
    async def each(target: Target) -> str:
        sent.append(target.key)
        await anyio.lowlevel.checkpoint()
        return "x"

    async def one() -> None:
        try:
            await each()
        except BudgetExceededError:
            pass

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(300):
                group.start_soon(one)

    run_async(main, backend=backend)
    eventually(lambda: spent() == (100, 0, 100))

    assert 100 == len(sent)


def test_nothing_of_it_is_on_the_calling_thread(store: MemoryStore) -> None:
    """Every step is done by the thread of the store."""
    threads: set[str] = set()
    for name in ("reserve", "settle"):
        real: Callable[..., Any] = getattr(store, name)

        def noted(*args: Any, real: Callable[..., Any] = real, **kwargs: Any) -> Any:
            threads.add(threading.current_thread().name)
            return real(*args, **kwargs)

        setattr(store, name, noted)
    configure(budgets=[ONE_DAY])

    POLICY.call(ask)
    settled()

    assert 1 == len(threads)
    assert threading.current_thread().name not in threads


# The state of the process.


def test_without_the_store_again_what_was_known_stays(store: MemoryStore) -> None:
    """The process goes on alone, with the fleet's spending as far as it was told."""
    configure(budgets=[ONE_DAY])
    with peer(store, budgets=[ONE_DAY]) as other:
        Spender(other).settle()
        eventually(lambda: spent()[0] == 1)

        configure(state=None)
        POLICY.call(ask)
        POLICY.call(ask)

    with pytest.raises(BudgetExceededError):
        POLICY.call(ask)
    assert (3, 0, 3) == spent()


def test_keys_are_shared_as_they_are(store: MemoryStore) -> None:
    """Each key has its own account, in all processes."""
    configure(budgets=[Budget(calls=1, of="key", per="day")])
    with peer(store, budgets=[Budget(calls=1, of="key", per="day")]) as other:
        Spender(other, spend_key="a b/ü:1").settle()

        with spend_key("a b/ü:1"), pytest.raises(BudgetExceededError) as caught:
            POLICY.call(ask)
        with spend_key("c"):
            POLICY.call(ask)
        POLICY.call(ask)

    assert "a b/ü:1" == caught.value.key


def test_a_refused_attempt_says_why(store: MemoryStore) -> None:
    """By the ledger's own words, as `Refusal` has them."""
    configure(budgets=[ONE_DAY])
    with peer(store, budgets=[Budget(calls=0, per="day")]) as other:
        refusal = Spender(other).refusal

    assert isinstance(refusal, Refusal)
    assert ("budget all day calls", 0, 0) == (refusal.reason, refusal.spent, refusal.cap)
    assert Unavailable().reason == "store unavailable"
    assert runtime.ledger.is_shared


# Hedges.


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("is_late", [False, True], ids=["answered", "not answered"])
def test_a_hedge_asks_while_the_race_goes_on(slow: Slow, backend: str, is_late: bool) -> None:
    """It starts when the store has admitted it; without an answer the slow attempt goes on."""
    configure(state_timeout=0.3, on_store_down="refuse")
    started: list[str] = []

    @failover([Target(OPENAI, max_output=5), Target(GROQ, max_output=5)], hedge=0.02)
    async def ask_both(target: Target) -> str:
        started.append(target.key)
        if target.key == OPENAI:
            slow.seconds = 0.15 if not is_late else 0.6
            await anyio.sleep(0.5)
        return target.key

    began = time.monotonic()
    answer = run_async(ask_both, backend=backend)
    took = time.monotonic() - began
    slow.seconds = 0.0
    settled()

    if is_late:
        assert ([OPENAI], OPENAI) == (started, answer)
    else:
        assert ([OPENAI, GROQ], GROQ) == (started, answer)
        assert took < 1.8  # it does not wait for the store
    assert not slow._tables._reservations
    assert len(started) == spent()[2]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_answer_before_the_stores_releases_the_hedge(slow: Slow, backend: str) -> None:
    """The slow attempt answers while the store is asked."""
    configure(state_timeout=5.0)
    started: list[str] = []

    @failover([Target(OPENAI, max_output=5), Target(GROQ, max_output=5)], hedge=0.02)
    async def ask_both(target: Target) -> str:
        started.append(target.key)
        slow.seconds = 0.3
        await anyio.sleep(0.1)
        return target.key

    assert OPENAI == run_async(ask_both, backend=backend)
    slow.seconds = 0.0
    settled()
    eventually(lambda: not slow._tables._reservations)

    assert ([OPENAI], (1, 0, 1)) == (started, spent())
