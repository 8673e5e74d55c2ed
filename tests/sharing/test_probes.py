"""After a shared bench one process at a time probes: claims, refusals, and stores without answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

from resilient_llm import (
    BreakerOpenError,
    Target,
    breaker,
    configure,
    failover,
    store_status,
)
from resilient_llm._core.circuit.permit import Permit, admit
from resilient_llm._runtime.runtime import runtime
from resilient_llm.stores import Claimed, Stamp
from resilient_llm.testing import MemoryStore
from tests.support.sharing import DOWN, Peer, cooled_down, eventually, never, peer
from tests.support.ways import GROQ, OPENAI


class Claiming(MemoryStore):
    """A store that knows what was claimed, and can be slow about it."""

    def __init__(self) -> None:
        super().__init__()
        self.claims: list[tuple[str, str, float | None]] = []
        self.gate = threading.Event()
        self.gate.set()

    def claim(self, stamp: Stamp, claims: Any, *, timeout: float) -> tuple[Claimed, ...]:
        self.claims += [(stamp.session, each.key, each.lease) for each in claims]
        self.gate.wait(timeout)
        return super().claim(stamp, claims, timeout=timeout)


@pytest.fixture
def store() -> Claiming:
    return Claiming()


@pytest.fixture
def other(store: Claiming) -> Iterator[Peer]:
    """Another process; both have a key half-open, whose bench they share."""
    options = {"*": {"probe_lease": 30.0}}
    configure(state=store, breakers=options)
    assert store_status(wait=5).connected
    with peer(store, "other:1", breakers=options) as made:
        for key in (GROQ, OPENAI):
            made.fails(key)
            eventually(lambda key=key: breaker(key).state == "open")
            for circuit in (made.circuit(key), runtime.registry.circuit(key)):
                cooled_down(circuit)
        yield made


def _takes_place(other: Peer, key: str) -> Permit:
    """Let the other process probe."""
    from resilient_llm._core.circuit.claims import ask_places

    permit = admit(other.circuit(key), runtime.clock())
    assert isinstance(permit, Permit)
    asked = ask_places(permit, runtime.clock())
    assert asked is not None
    eventually(lambda: asked.answer is not None)
    assert asked.refusal(runtime.clock()) is None
    return permit


# --- ways to call -------------------------------------------------------------------------------


def _guard() -> str:
    with breaker(GROQ):
        return GROQ


def _decorated_guard() -> str:
    @breaker(GROQ)
    def ask() -> str:
        return GROQ

    return ask()


def _function() -> str:
    @failover([GROQ, OPENAI])
    def ask(target: Target) -> str:
        return target.key

    return ask()


async def _async_guard() -> str:
    async with breaker(GROQ):
        return GROQ


async def _async_decorated_guard() -> str:
    @breaker(GROQ)
    async def ask() -> str:
        return GROQ

    return await ask()


async def _async_items() -> str:
    @breaker(GROQ)
    async def ask() -> Any:
        yield GROQ

    found = [str(each) async for each in ask()]
    return found[0]


async def _async_function() -> str:
    @failover([GROQ, OPENAI])
    async def ask(target: Target) -> str:
        return target.key

    return await ask()


SYNC: list[Callable[[], str]] = [_guard, _decorated_guard, _function]
ASYNC: list[Callable[[], Any]] = [
    _async_guard,
    _async_decorated_guard,
    _async_items,
    _async_function,
]


def _called(way: Callable[[], Any], backend: str | None) -> str:
    return str(way() if backend is None else anyio.run(way, backend=backend))


WAYS = [pytest.param(way, None, id=way.__name__) for way in SYNC] + [
    pytest.param(way, backend, id=f"{way.__name__}-{backend}")
    for way in ASYNC
    for backend in ("asyncio", "trio")
]


@pytest.mark.parametrize(("way", "backend"), WAYS)
def test_the_caller_claims_the_place(
    store: Claiming, other: Peer, way: Callable[[], Any], backend: str | None
) -> None:
    """It probes, and what it finds out closes the circuit in all processes."""
    assert GROQ == _called(way, backend)

    assert [GROQ] == [key for _, key, lease in store.claims if lease is not None]
    assert "closed" == breaker(GROQ).state
    eventually(lambda: other.state_of(GROQ) == "closed")


@pytest.mark.parametrize(("way", "backend"), WAYS)
def test_trap_01_while_another_process_probes_none_does_here(
    store: Claiming, other: Peer, way: Callable[[], Any], backend: str | None
) -> None:
    """The caller is told ``probes taken``, or goes on to the next target."""
    permit = _takes_place(other, GROQ)

    if "guard" in way.__name__ or "items" in way.__name__:
        with pytest.raises(BreakerOpenError, match="probes taken") as caught:
            _called(way, backend)
        assert caught.value.retry_after is not None
    else:
        assert OPENAI == _called(way, backend)
    assert "half_open" == breaker(GROQ).state
    permit.succeeded(runtime.clock(), 0.1)
    eventually(lambda: breaker(GROQ).state == "closed")
    assert GROQ == _called(way, backend)


@pytest.mark.parametrize(("way", "backend"), WAYS)
def test_without_an_answer_the_caller_probes_unclaimed(
    store: Claiming, other: Peer, way: Callable[[], Any], backend: str | None
) -> None:
    """After ``state_timeout``: a store that hangs costs that, and nothing else."""
    configure(state_timeout=0.05)
    store.gate.clear()

    assert GROQ == _called(way, backend)
    store.gate.set()


def test_a_refusal_is_remembered_for_a_while(store: Claiming, other: Peer) -> None:
    """Callers do not ask the store again and again while another process probes."""
    permit = _takes_place(other, GROQ)
    asked, began = len(store.claims), time.monotonic()

    for _ in range(20):
        assert OPENAI == _function()

    intervals = (time.monotonic() - began) / 0.25
    claims = [each for each in store.claims[asked:] if each[1] == GROQ]
    assert 1 <= len(claims) <= 1 + intervals
    permit.abandoned()


def test_trap_06_a_probe_that_ends_in_nothing_gives_its_place_back(
    store: Claiming, other: Peer
) -> None:
    """Then another process may probe."""
    with pytest.raises(KeyboardInterrupt), breaker(GROQ):
        raise KeyboardInterrupt

    eventually(lambda: any(key == GROQ and lease is None for _, key, lease in store.claims))
    _takes_place(other, GROQ).abandoned()


def test_a_probe_that_fails_opens_in_every_process(store: Claiming, other: Peer) -> None:
    """And its place is free."""
    configure(breakers={GROQ: {"cooldown": 60.0, "max_cooldown": 600.0}})

    @failover([GROQ], attempts=1)
    def ask(target: Target) -> str:
        raise ConnectionError

    with pytest.raises(Exception, match="groq"):
        ask()

    assert "open" == breaker(GROQ).state
    eventually(lambda: other.state_of(GROQ) == "open")


def test_trap_06_a_cancelled_caller_gives_everything_back(store: Claiming, other: Peer) -> None:
    """Cancelled while it waits for the store: no lease is taken, and no place."""
    configure(state_timeout=5.0)
    store.gate.clear()

    async def main() -> None:
        with anyio.move_on_after(0.05):
            await _async_function()
            pytest.fail("it was answered")
        with anyio.move_on_after(0.05):
            await _async_guard()
            pytest.fail("it was answered")

    anyio.run(main)
    store.gate.set()
    eventually(lambda: any(key == GROQ and lease is None for _, key, lease in store.claims))
    circuit = runtime.registry.circuit(GROQ)
    assert not circuit.has_claimed_probe(runtime.clock())
    _takes_place(other, GROQ).abandoned()


def test_a_store_that_is_known_to_be_down_is_not_asked(store: Claiming, other: Peer) -> None:
    """The caller probes at once."""
    runtime.registry.telling.is_down = True

    assert GROQ == _function()
    assert [] == [each for each in store.claims if each[1] == GROQ and each[2] is not None]


def test_trap_24_last_resorts_are_not_claimed(store: Claiming, other: Peer) -> None:
    """They are made in spite of a bench."""
    configure(breakers={"*": {"cooldown": 300.0, "max_cooldown": 300.0}})
    other.fails("mistral/large")
    eventually(lambda: breaker("mistral/large").state == "open")

    @failover(["mistral/large"], when_all_benched="soonest")
    def ask(target: Target) -> str:
        return target.key

    assert "mistral/large" == ask()
    assert [] == [each for each in store.claims if each[1] == "mistral/large" and each[2]]


def test_a_bench_that_nobody_else_knows_needs_no_place(store: Claiming) -> None:
    """As of a dead key, or in a process alone with its store."""
    for _ in range(5):
        permit = admit(runtime.registry.circuit(GROQ), runtime.clock())
        assert isinstance(permit, Permit)
        permit.failed(None, runtime.clock(), DOWN)
    cooled_down(runtime.registry.circuit(GROQ))
    configure(state=store)

    assert GROQ == _function()
    assert [] == store.claims


def test_waiting_callers_ask_no_more_than_once_a_second(store: Claiming, other: Peer) -> None:
    """``when_all_benched="wait"`` waits for the end of the probe elsewhere without a busy loop."""
    permit = _takes_place(other, GROQ)
    done: list[str] = []

    @failover([GROQ], when_all_benched="wait")
    def ask(target: Target) -> str:
        return target.key

    thread = threading.Thread(target=lambda: done.append(ask()))
    thread.start()
    never(lambda: done, 0.2)
    asked = len([each for each in store.claims if each[1] == GROQ])
    permit.succeeded(runtime.clock(), 0.1)
    thread.join(5)

    assert [GROQ] == done
    assert asked <= 3


def test_trap_01_many_calls_at_once_make_one_probe(store: Claiming, other: Peer) -> None:
    """Of a hundred callers of two processes, one calls the target; the others go on."""
    answers: list[str] = []
    began = threading.Barrier(20)

    @failover([GROQ, OPENAI])
    def ask(target: Target) -> str:
        if target.key == GROQ:
            time.sleep(0.05)
        return target.key

    def work() -> None:
        began.wait(5)
        answers.append(ask())

    _takes_place(other, OPENAI).succeeded(runtime.clock(), 0.01)
    eventually(lambda: breaker(OPENAI).state == "closed")
    threads = [threading.Thread(target=work) for _ in range(20)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(10)

    assert 1 == answers.count(GROQ)
    assert 19 == answers.count(OPENAI)


def test_what_another_process_finds_out_while_a_caller_asks_counts(
    store: Claiming, other: Peer
) -> None:
    """Its probe has failed there: the caller goes on to the next target without a call."""
    configure(state_timeout=5.0)
    permit = admit(other.circuit(GROQ), runtime.clock())
    assert isinstance(permit, Permit)
    answers: list[str] = []
    asks = threading.Event()
    real = store.changes

    here = runtime.sharing._mirror._session.name

    def changes(stamp: Stamp, *args: Any, **kwargs: Any) -> Any:
        if asks.is_set() and stamp.session == here:
            asks.clear()
            permit.failed(None, runtime.clock(), DOWN)
            eventually(lambda: other.sharing.status_now().pending == 0)
        return real(stamp, *args, **kwargs)

    store.changes = changes  # type: ignore[method-assign]
    asks.set()
    thread = threading.Thread(target=lambda: answers.append(_function()))
    thread.start()
    thread.join(10)

    assert [OPENAI] == answers
    assert "open" == breaker(GROQ).state
