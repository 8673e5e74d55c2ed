"""Whatever a store does: calls go on, nothing is raised, and what waits is sent when it is back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from resilient_llm import (
    StoreAvailable,
    StoreLost,
    StoreUnavailable,
    Target,
    bench_model,
    breaker,
    configure,
    failover,
    is_benched,
    list_benched,
    store_status,
    unbench_model,
)
from resilient_llm._core.sharing import mirror as mirrors
from resilient_llm._runtime import mirror
from resilient_llm._runtime.runtime import runtime
from resilient_llm.stores import Bench, Changes, DataLostError, StoreError
from resilient_llm.testing import MemoryStore, capture_events, fake_clock
from tests.support.sharing import eventually, never, peer
from tests.support.ways import GROQ, MISTRAL

METHODS = ("publish", "changes", "wait", "claim", "reserve", "settle")


class Faulty(MemoryStore):
    """A store that raises, hangs or lies on demand, and knows which threads call it."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: Callable[[str], Any] | None = None
        self.threads: set[str] = set()
        self.published: list[Any] = []


def _method(name: str) -> Any:
    real = getattr(MemoryStore, name)

    def call(self: Faulty, *args: Any, **kwargs: Any) -> Any:
        self.threads.add(threading.current_thread().name)
        if self.fault is not None:
            answer = self.fault(name)
            if answer is not None:
                return answer
        if name == "publish":
            self.published += args[1]
        return real(self, *args, **kwargs)

    return call


for each in METHODS:
    setattr(Faulty, each, _method(each))


def raises(error: BaseException, *names: str) -> Callable[[str], Any]:
    """Return a fault of these methods, or of all."""

    def fault(name: str) -> None:
        if not names or name in names:
            raise error

    return fault


@pytest.fixture
def store() -> Iterator[Faulty]:
    made = Faulty()
    configure(state=made)
    assert store_status(wait=5).connected
    yield made
    made.fault = None


def answers() -> str:
    """Make a call that is answered."""

    @failover([MISTRAL])
    def ask(target: Target) -> str:
        return "answer"

    return ask()


FAULTS = [
    pytest.param(StoreError("unreachable", "ConnectionError"), "unreachable", "ConnectionError", id="down"),
    pytest.param(StoreError("timeout", "TimeoutError"), "timeout", "TimeoutError", id="slow"),
    pytest.param(StoreError("auth", "AuthenticationError"), "auth", "AuthenticationError", id="auth"),
    pytest.param(StoreError("read_only", "ReadOnlyError"), "read_only", "ReadOnlyError", id="read only"),
    pytest.param(StoreError("full"), "full", "", id="full"),
    pytest.param(StoreError("newer_schema"), "newer_schema", "", id="newer schema"),
    pytest.param(RuntimeError("secret"), "error", "RuntimeError", id="bug"),
    pytest.param(RecursionError(), "error", "RecursionError", id="deep"),
    pytest.param(MemoryError(), "error", "MemoryError", id="memory"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "reason", "type_name"), FAULTS)
def test_an_outage_costs_freshness_and_nothing_else(
    store: Faulty, error: Exception, reason: str, type_name: str
) -> None:
    """One event for the outage and one for its end; what waited is sent."""
    with capture_events() as events:
        store.fault = raises(error)
        bench_model("groq", reason="waits")
        eventually(lambda: any(type(each) is StoreUnavailable for each in events))
        assert "answer" == answers()
        status = eventually(lambda: (found := store_status()).last_error and found)
        assert 1 == status.pending
        assert (type_name or "StoreError") == status.last_error
        store.fault = None
        with peer(store) as other:
            eventually(lambda: other.state_of("groq") == "open")
        eventually(lambda: any(type(each) is StoreAvailable for each in events))

    told = [each for each in events if isinstance(each, StoreUnavailable | StoreAvailable)]
    assert [StoreUnavailable, StoreAvailable] == [type(each) for each in told]
    assert ("memory:", reason, type_name) == (told[0].url, told[0].reason, told[0].type_name)  # type: ignore[union-attr]
    assert told[1].seconds > 0  # type: ignore[union-attr]
    assert ("", "") == (told[0].target, told[0].call_id)
    assert 0 == store_status().pending


def test_a_store_that_is_read_only_is_still_read(store: Faulty) -> None:
    """Benches of others hold here, though this process cannot tell its own."""
    with peer(store) as other:
        refusing = raises(StoreError("read_only", "ReadOnlyError"), "publish", "claim")

        def fault(name: str) -> None:
            if _is_of_this_state():
                refusing(name)

        bench_model("openai")
        eventually(lambda: other.state_of("openai") == "open")
        store.fault = fault
        bench_model("mistral")
        other.bench("groq")

        eventually(lambda: is_benched("groq"))
        assert "closed" == other.state_of("mistral")
        assert store_status().connected


def _is_of_this_state() -> bool:
    """Return whether the thread that asks the store now shares the state of this process."""
    return bool(runtime.sharing.thread._worker == threading.get_ident())


def test_a_bench_and_its_unbench_that_were_never_sent_cancel(store: Faulty) -> None:
    """Nobody learns of them."""
    store.fault = raises(StoreError("unreachable"))
    bench_model("openai")
    eventually(lambda: store_status().last_error)
    bench_model("groq")
    unbench_model("groq")
    store.fault = None
    eventually(lambda: store_status().pending == 0 and store.published)

    assert {"openai"} == {each.key for each in store.published}


def test_a_pending_manual_change_loses_to_one_that_it_had_not_seen(store: Faulty) -> None:
    """The store was away when this process benched; meanwhile another one decided."""
    with peer(store, "other:1") as other:

        def fault(name: str) -> None:
            if _is_of_this_state():
                raise StoreError("unreachable")

        store.fault = fault
        bench_model("groq", 3600, reason="unseen")
        eventually(lambda: store_status().last_error)
        other.bench("groq", 60, reason="decided")
        eventually(lambda: any(isinstance(each, Bench) for each in store.published))
        store.fault = None

        found = eventually(lambda: [each for each in list_benched() if each.reason == "decided"])
        assert "other:1" == found[0].source
        never(lambda: other.circuit("groq")._state.manual.reason != "decided")  # type: ignore[union-attr]


def test_what_was_lost_is_written_back(store: Faulty) -> None:
    """A flush of the store: a living process knows its benches, and a later one learns of them."""
    bench_model("groq", reason="known")
    eventually(lambda: store.published)
    with capture_events() as events:
        store.lose()
        eventually(lambda: any(type(each) is StoreLost for each in events))

    with peer(store) as other:
        eventually(lambda: other.state_of("groq") == "open")
    assert is_benched("groq")
    assert 1 == len([each for each in events if type(each) is StoreLost])


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(5, id="number"),
        pytest.param(("x",) * 3, id="texts"),
        pytest.param(None, id="nothing"),
        pytest.param(
            Changes("e", 5, (("groq",),), (), True, False, False, 1, 0.0),  # type: ignore[arg-type]
            id="short record",
        ),
    ],
)
def test_rubbish_is_dropped(answer: Any) -> None:
    """Answers that are none cost freshness, too."""
    made = Faulty()
    configure(state=made)

    def fault(name: str) -> Any:
        if name == "changes":
            return answer if answer is not None else ()
        return None

    made.fault = fault
    bench_model("groq")
    status = store_status(wait=0.1)
    assert status.last_sync_at is None or status.rejected
    made.fault = None
    assert eventually(lambda: store_status(wait=1).connected)
    with peer(made) as other:
        eventually(lambda: other.state_of("groq") == "open")


def test_a_store_that_has_lost_data_at_every_step(store: Faulty) -> None:
    """It fails, and the thread does not spin."""
    count = 0

    def fault(name: str) -> None:
        nonlocal count
        count += 1
        if name in ("publish", "claim"):
            raise DataLostError

    store.fault = fault
    bench_model("groq")
    eventually(lambda: store_status().last_error == "DataLostError")
    before = count
    time.sleep(0.3)

    assert count - before < 20


def test_only_the_thread_calls_the_store(store: Faulty) -> None:
    """Calls, guards, benches, probes and questions do no I/O."""
    answers()
    with breaker(GROQ):
        pass
    bench_model("groq", 60)
    list_benched()
    store_status(wait=1)
    unbench_model("groq")
    for _ in range(5):
        breaker("openai").record(ConnectionError(), 0.1)
    runtime.registry.circuit("openai").unbench(runtime.clock())
    eventually(lambda: store_status().pending == 0)

    assert 1 == len(store.threads)
    assert threading.current_thread().name not in store.threads


def test_the_thread_runs_on_real_time_under_a_fake_clock() -> None:
    """A test that stops the clock does not stop the store."""
    made = Faulty()
    with fake_clock() as clock:
        configure(state=made)
        assert store_status(wait=5).connected
        with peer(made) as other:
            bench_model("groq", 60)
            eventually(lambda: other.state_of("groq") == "open")
            clock.advance(61)
            assert not is_benched("groq")


def test_trap_08_56_an_observer_that_fails_or_blocks_stops_no_thread(store: Faulty) -> None:
    """It is foreign code on the thread of the store."""
    from resilient_llm import observe

    def broken(event: object) -> None:
        raise RuntimeError

    observe(broken)
    with peer(store) as other:
        other.bench("groq")
        eventually(lambda: is_benched("groq"))
        other.bench("openai")
        eventually(lambda: is_benched("openai"))


def test_what_ends_threads_does_not_end_that_of_the_store(store: Faulty) -> None:
    """An observer that exits, and a store that raises what is no Exception, are failures."""
    from resilient_llm import observe

    def leaves(event: object) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise SystemExit

    with peer(store) as other:
        stop = observe(leaves)
        for number in range(5):
            other.bench(f"groq/{number}")
        eventually(lambda: len(list_benched()) == 5)
        stop()
        for error in (SystemExit(), KeyboardInterrupt(), GeneratorExit(), Odd()):
            with capture_events() as events:
                store.fault = raises(error)
                runtime.sharing.wake()
                eventually(
                    lambda events=events: any(isinstance(e, StoreUnavailable) for e in events)
                )
                store.fault = None
                eventually(lambda events=events: any(isinstance(e, StoreAvailable) for e in events))
        other.bench("openai")
        eventually(lambda: is_benched("openai"))


class Odd(BaseException):
    """Something that is no Exception."""


def test_connected_ends_ten_seconds_after_the_last_answer(
    store: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long ago the thread has looked at it."""
    assert store_status().connected
    answered_at = runtime.sharing._mirror._answered_at
    monkeypatch.setattr(mirror, "_now", lambda: answered_at + 9.9)
    assert runtime.sharing.status_now().connected
    monkeypatch.setattr(mirror, "_now", lambda: answered_at + 10.1)
    assert not runtime.sharing.status_now().connected


def test_a_first_read_of_many_pages_has_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page may take longer than callers wait, until everything was read once."""
    monkeypatch.setattr(mirrors, "PAGE", 5)
    made = Faulty()
    with peer(made) as other:
        for number in range(23):
            other.bench(f"groq/{number}")
        eventually(lambda: other.sharing.status_now().pending == 0)
    limits: list[float] = []
    real = made.changes

    def changes(*args: Any, **kwargs: Any) -> Any:
        limits.append(kwargs["timeout"])
        return real(*args, **kwargs)

    made.changes = changes  # type: ignore[method-assign]
    configure(state=made, state_timeout=0.01)
    assert store_status(wait=10).last_sync_at is not None
    assert 23 == len(list_benched())

    assert len(limits) >= 5
    assert all(each >= 0.5 for each in limits[:5])


def test_another_store_keeps_the_benches(store: Faulty) -> None:
    """Changing ``state`` sends what waits, for a second at most, and what is benched stays."""
    with peer(store) as other:
        bench_model("groq", reason="own")
        other.bench("openai", reason="foreign")
        eventually(lambda: is_benched("openai"))
        second = MemoryStore()
        configure(state=second)

        eventually(lambda: other.state_of("groq") == "open")
        assert {"groq", "openai"} == {each.model for each in list_benched()}
        with peer(second, "third:1") as third:
            eventually(lambda: third.state_of("groq") == "open")
        configure(state=None)
        assert {"groq", "openai"} == {each.model for each in list_benched()}


def test_changing_a_store_that_hangs_takes_a_second(store: Faulty) -> None:
    """And no longer."""
    released = threading.Event()

    def hang(name: str) -> None:
        released.wait(5)

    bench_model("openai")
    eventually(lambda: store_status().pending == 0)
    store.fault = hang
    bench_model("groq")
    began = time.monotonic()
    configure(state=None)
    took = time.monotonic() - began
    released.set()

    assert took < 4  # the hanging step alone would be 5


def test_a_thread_that_leaves_before_it_is_waited_for_ends(
    store: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if what waits cannot be sent: nothing of a store is left that nobody uses."""

    def refuse(name: str) -> None:
        if name != "wait":
            raise StoreError("unreachable")

    bench_model("openai")
    eventually(lambda: store_status().pending == 0)
    store.fault = refuse
    bench_model("groq")
    sharing = runtime.sharing
    flush = sharing.thread.flush

    def late_flush(seconds: float) -> bool:
        sharing.wake()
        eventually(lambda: sharing.has_left)
        return bool(flush(0.01))

    monkeypatch.setattr(sharing.thread, "flush", late_flush)
    configure(state=None)

    eventually(lambda: not sharing.thread.has_thread)
