"""Guards under limits that all processes share: each entry takes a request from the store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

from resilient_llm import (
    BreakerOpenError,
    CallRejectedError,
    Limit,
    StoreUnavailableError,
    Target,
    breaker,
    configure,
    failover,
    store_status,
)
from resilient_llm._runtime.runtime import runtime
from resilient_llm.stores import Claim, Claimed, Reserve, Reserved, Settle, Stamp, StoreError, Take
from resilient_llm.testing import MemoryStore
from resilient_llm.testing._contract._session import Session
from tests.support.sharing import Peer, cooled_down, eventually, peer
from tests.support.ways import GROQ

POLICY = failover([GROQ], when_all_benched="raise")


def _answer(target: Target) -> str:
    return target.key


class Gated(MemoryStore):
    """A store that can be slow, and down."""

    def __init__(self) -> None:
        super().__init__()
        self.reserving = threading.Event()
        """Set while it is asked."""
        self.gate = threading.Event()
        self.gate.set()
        self.is_down = False

    def reserve(
        self, stamp: Stamp, reserves: Sequence[Reserve], *, lasts: float, timeout: float
    ) -> tuple[Reserved, ...]:
        self.reserving.set()
        self._pass(timeout)
        return super().reserve(stamp, reserves, lasts=lasts, timeout=timeout)

    def claim(
        self, stamp: Stamp, claims: Sequence[Claim], *, timeout: float
    ) -> tuple[Claimed, ...]:
        self._pass(timeout)
        return super().claim(stamp, claims, timeout=timeout)

    def _pass(self, timeout: float) -> None:
        if self.is_down:
            raise StoreError("unreachable")
        if not self.gate.wait(timeout):
            raise StoreError("timeout")


@contextmanager
def _half_open(store: Gated) -> Generator[Peer]:
    """Share a bench with another process, whose cooldown is over."""
    with peer(store, "other:1") as other:
        other.fails("groq")
        eventually(lambda: breaker("groq").state == "open")
        cooled_down(runtime.registry.circuit("groq"))
        yield other


@pytest.fixture
def store() -> Gated:
    made = Gated()
    _share(made)
    return made


def _share(store: Gated) -> None:
    limit = Limit(requests=4, per="hour", shared=True)
    configure(state=store, state_timeout=5.0, limits={"groq": limit})
    assert store_status(wait=5).connected


# --- ways to enter ------------------------------------------------------------------------------


def _guard() -> None:
    with breaker("groq"):
        pass


def _decorated_guard() -> None:
    @breaker("groq")
    def ask() -> None:
        pass

    ask()


def _items() -> None:
    @breaker("groq")
    def ask() -> Any:
        yield "text"

    assert ["text"] == list(ask())


async def _async_guard() -> None:
    async with breaker("groq"):
        pass


async def _async_decorated_guard() -> None:
    @breaker("groq")
    async def ask() -> None:
        pass

    await ask()


async def _async_items() -> None:
    @breaker("groq")
    async def ask() -> Any:
        yield "text"

    items: Any = ask()
    assert ["text"] == [each async for each in items]


WAYS = [
    _guard,
    _decorated_guard,
    _items,
    lambda: anyio.run(_async_guard),
    lambda: anyio.run(_async_guard, backend="trio"),
    lambda: anyio.run(_async_decorated_guard),
    lambda: anyio.run(_async_items),
]
WAY_NAMES = ["with", "function", "generator", "async with", "trio", "coroutine", "async generator"]


def _lacks(store: MemoryStore) -> int:
    """Return how many of the 4 requests of an hour the bucket lacks, as another process has it."""
    eventually(lambda: not store_status().pending)
    session = Session(store)
    session.look()
    name = f"look {session.id}"
    (reserved,) = session.reserve(Reserve(name, (), (Take("groq\nrequests", 4, 900.0, 4),)))
    if reserved.outcome == "admitted":
        session.settle(Settle(name, (), (Take("groq\nrequests", -4, 900.0, 4),)))
        return 0
    assert reserved.retry_after is not None
    return round(reserved.retry_after / 900.0)


def _refusal_of(way: Callable[[], None]) -> CallRejectedError:
    with pytest.raises(CallRejectedError) as caught:
        way()
    return caught.value


@pytest.mark.parametrize("way", WAYS, ids=WAY_NAMES)
def test_a_guard_takes_a_request_from_all(store: Gated, way: Callable[[], None]) -> None:
    """From the bucket in the store, which calls and other processes take from as well."""
    way()
    way()
    assert 2 == _lacks(store)
    POLICY.call(_answer)
    way()

    error = _refusal_of(way)

    assert type(error) is CallRejectedError
    assert ("groq", "request_limit") == (error.target, error.reason)
    assert error.retry_after == pytest.approx(900, abs=10)


def test_a_request_stays_taken_and_nothing_is_held(store: Gated) -> None:
    """Whatever comes of the block; the store has no reservation that would be renewed."""
    for error in (KeyError, KeyboardInterrupt):
        with pytest.raises(error), breaker("groq"):
            raise error

    assert 2 == _lacks(store)
    sharing: Any = runtime.sharing
    eventually(lambda: not sharing._mirror.money._open)


@pytest.mark.parametrize("way", WAYS, ids=WAY_NAMES)
@pytest.mark.parametrize("is_known", [True, False], ids=["known to be down", "no answer"])
def test_without_the_store_a_guard_takes_its_part(way: Callable[[], None], is_known: bool) -> None:
    """The amount divided by the processes; and nothing if calls may not do without either."""
    store = Gated()
    with peer(store, "other:1"):
        _share(store)
        assert 2 == store_status().peers
        configure(state_timeout=0.05)
        if is_known:
            store.is_down = True
            _guard()
        else:
            store.gate.clear()
            way()
        way()

        error = _refusal_of(way)

        assert (CallRejectedError, "request_limit") == (type(error), error.reason)
        configure(on_store_down="refuse")
        error = _refusal_of(way)
        assert isinstance(error, StoreUnavailableError)
        assert "groq" == error.target
        store.is_down = False
        store.gate.set()


def test_a_guard_that_is_not_entered_gives_its_request_back(store: Gated) -> None:
    """A task that is cancelled while it waits for the store has entered nothing."""
    store.gate.clear()

    async def cancelled() -> None:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_async_guard)
                await anyio.to_thread.run_sync(store.reserving.wait)
                scope.cancel()

    anyio.run(cancelled)
    store.gate.set()
    _guard()

    sharing: Any = runtime.sharing
    eventually(lambda: not sharing._mirror.money._open)
    limits = runtime.limits.of("groq", "groq")
    assert limits is not None
    assert not limits.all[0].places.running


def test_a_guard_waits_once_for_both_answers(store: Gated) -> None:
    """After a shared bench: for the place of its probe and for a request, `state_timeout` in all."""
    with _half_open(store):
        configure(state_timeout=0.4)
        store.gate.clear()
        began = time.monotonic()

        _guard()

        assert time.monotonic() - began < 0.75
        store.gate.set()


@pytest.mark.parametrize("way", WAYS, ids=WAY_NAMES)
def test_a_probe_of_another_process_costs_no_request(store: Gated, way: Callable[[], None]) -> None:
    """The place is refused, so what the store admitted in the same wait goes back."""
    with _half_open(store):
        session = Session(store)
        session.look()
        assert session.claim(Claim("groq", 30.0)).is_held

        with pytest.raises(BreakerOpenError) as caught:
            way()

        assert "probes taken" == caught.value.reason
        eventually(lambda: _lacks(store) == 0)
