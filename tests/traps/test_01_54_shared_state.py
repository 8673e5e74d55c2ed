"""Traps of breakers and benches, where another process is what benches, recovers or probes.

Those that only a part of the package can show are with that part, with their numbers:
``pytest -k trap tests/sharing tests/stores tests/core``.
"""

import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from resilient_llm import (
    Target,
    TargetBenched,
    bench_model,
    breaker,
    configure,
    failover,
    health,
    is_benched,
    list_benched,
    observe,
    store_status,
    unbench_model,
)
from resilient_llm._core.circuit.permit import Permit, admit
from resilient_llm._runtime.runtime import runtime
from resilient_llm.testing import MemoryStore
from tests.support.sharing import Peer, cooled_down, eventually, never, peer
from tests.support.ways import GROQ, OPENAI, down


@pytest.fixture
def other() -> Iterator[Peer]:
    """Another process; this one shares its store."""
    store = MemoryStore()
    configure(state=store)
    assert store_status(wait=10.0).connected
    with peer(store) as made:
        yield made


def test_trap_08_an_observer_of_what_others_do_may_call_everything(other: Peer) -> None:
    """It runs on the thread of the store, which must neither wait for itself nor end."""
    seen: list[bool] = []

    def observer(event: Any) -> None:
        if event.target == GROQ:
            health()
            bench_model(OPENAI, reason="by an observer")
            seen.append(store_status(wait=0.1).connected)
            unbench_model(GROQ)

    stop = observe(observer, TargetBenched)
    other.bench(GROQ)

    eventually(lambda: seen)
    eventually(lambda: other.state_of(GROQ) == "closed" and not is_benched(GROQ))
    eventually(lambda: other.state_of(OPENAI) == "open")
    stop()


class Prompt(str):
    """A text of which one can see whether it was freed."""


def test_trap_13_a_failing_frame_is_freed_while_its_bench_waits(other: Peer) -> None:
    """What the thread of the store is told refers to no error."""
    prompts: list[weakref.ref[Any]] = []

    def fail() -> None:
        prompt = Prompt("x" * 10_000_000)
        prompts.append(weakref.ref(prompt))
        with breaker(GROQ):
            assert prompt
            raise down()

    for _ in range(5):
        with pytest.raises(type(down())):
            fail()

    gc.collect()
    assert [None] * 5 == [each() for each in prompts]
    eventually(lambda: other.state_of(GROQ) == "open")


def test_trap_15_a_key_that_is_dropped_and_comes_again_is_not_taken_for_the_old_one(
    other: Peer,
) -> None:
    """An end that others publish is applied to the key, not to an object that is gone."""
    other.bench("tenant-1/llama")
    eventually(lambda: is_benched("tenant-1/llama"))
    other.unbench("tenant-1/llama")
    eventually(lambda: not is_benched("tenant-1/llama"))
    gc.collect()

    other.bench("tenant-1/llama", reason="again")

    eventually(lambda: ["again"] == [each.reason for each in list_benched()])


def test_trap_22_a_manual_bench_stands_though_another_process_recovers(other: Peer) -> None:
    """Its recovery ends the automatic bench alone, here and there."""
    other.fails(GROQ)
    eventually(lambda: breaker(GROQ).state == "open")
    cooled_down(other.circuit(GROQ))
    probe = admit(other.circuit(GROQ), runtime.clock())
    assert isinstance(probe, Permit)
    bench_model(GROQ, reason="incident")
    eventually(lambda: other.state_of(GROQ) == "open")

    probe.succeeded(runtime.clock(), 0.1)

    never(lambda: not is_benched(GROQ) or other.state_of(GROQ) != "open")
    assert ["incident"] == [each.reason for each in list_benched() if each.manual]


def test_trap_25_a_bench_by_another_process_ends_the_retries_of_a_call(other: Peer) -> None:
    """It comes while the first target is tried; the call moves on instead of trying it again."""
    called: list[str] = []

    @failover(chain=[GROQ, OPENAI], attempts=3)
    def ask(target: Target) -> str:
        called.append(target.key)
        if target.key == GROQ:
            other.bench(GROQ)
            eventually(lambda: is_benched(GROQ))
            raise down()
        return "answer"

    assert "answer" == ask()
    assert [GROQ, OPENAI] == called


def test_trap_54_a_finaliser_may_bench_inside_the_thread_of_the_store(other: Peer) -> None:
    """Wherever the garbage collector runs there, no lock is waited for that this thread has."""
    ended = threading.Event()

    class Held:
        def __del__(self) -> None:
            if threading.current_thread().name.endswith("-store"):
                bench_model(OPENAI)
                unbench_model(OPENAI)
                ended.set()

    def observer(event: Any) -> None:
        for _ in range(20):
            held = Held()
            held.itself = held  # type: ignore[attr-defined]  # only a collection frees it
        gc.collect()

    stop = observe(observer, TargetBenched)
    other.bench(GROQ)

    assert ended.wait(10.0)
    eventually(lambda: not store_status().pending)
    stop()
