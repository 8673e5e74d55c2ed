"""No reservations pass a cap together: many threads and tasks, with every way an attempt can end."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from resilient_llm import (
    Budget,
    BudgetExceededError,
    SpendRecorded,
    Target,
    configure,
    failover,
    observe,
    spend,
)
from resilient_llm._core.spending.local_ledger import LocalLedger
from resilient_llm._runtime.runtime import runtime
from tests.support.ways import GROQ, OPENAI, ProviderError, run_async

MOST_OUTPUT = 20
PRICED = Target(GROQ, price=(10, 20), max_output=MOST_OUTPUT)
OTHER = Target(OPENAI, price=(10, 20), max_output=MOST_OUTPUT)
INPUT = 10
CAPS = {"calls": 1, "usd": 0.01, "tokens": 1000}
CALL_COST = INPUT * 10e-6 + MOST_OUTPUT * 20e-6


class Watched(LocalLedger):
    """Looks at every account after each admission, under the lock."""

    __slots__ = ("above", "admitted")

    def __init__(self) -> None:
        super().__init__()
        self.admitted = 0
        self.above: list[Any] = []

    def reserve(self, reservation: Any, now: float, takes: Any = (), /) -> Any:
        with self._lock:
            refusal = super().reserve(reservation, now, takes)
            if refusal is None:
                self.admitted += 1
                for slot in self._slots.values():
                    for account in slot.accounts.values():
                        if account.spent + account.reserved > slot.cap:
                            self.above.append((account.spent, account.reserved, slot.cap))
            return refusal


@pytest.fixture
def ledger() -> Iterator[Watched]:
    watched = Watched()
    before, runtime.ledger = runtime.ledger, watched
    runtime.unbind_all()
    yield watched
    runtime.ledger = before


class Account:
    """An independent account: what each attempt is to book, as the table in the docs says."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.tokens = self.calls = self.picos = 0

    def add(self, sent: int, received: int, calls: int = 1) -> None:
        with self.lock:
            self.tokens += sent + received
            self.picos += (sent * 10 + received * 20) * 10**6
            self.calls += calls

    def of(self, unit: str) -> int:
        return {"tokens": self.tokens, "calls": self.calls, "usd": self.picos}[unit]


def answer(received: int) -> dict[str, Any]:
    return {
        "choices": [{"message": {"role": "assistant", "content": "hi"}}],
        "usage": {"prompt_tokens": INPUT, "completion_tokens": received},
    }


def chunk(text: str) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": None}]}


def check(unit: str, ledger: Watched, account: Account, events: list[Any]) -> None:
    """Compare what was booked with the independent account."""
    (row,) = spend()
    spent = int(row.spent * 10**12) if unit == "usd" else row.spent
    assert [] == ledger.above
    assert (account.of(unit), account.calls, 0) == (spent, row.calls, row.reserved)
    assert ledger.admitted == len(events)
    assert row.spent <= row.cap
    assert ledger.admitted > 0


def outcome(kind: str, received: int) -> Any:
    if kind == "answer":
        return answer(received)
    raise {
        "timeout": TimeoutError(),
        "status": ProviderError(400),
        "refused": ConnectionRefusedError(111, "refused"),
    }[kind]


BOOKS = {
    "answer": lambda account, received: account.add(INPUT, received),
    "timeout": lambda account, received: account.add(INPUT, 0),
    "status": lambda account, received: account.add(0, 0),
    "refused": lambda account, received: account.add(0, 0, 0),
    "stream": lambda account, received: account.add(INPUT, received),
    "left": lambda account, received: account.add(INPUT, 1),
    "cancelled": lambda account, received: account.add(INPUT, 0),
    "hedged": lambda account, received: None,
}


@pytest.fixture
def _many_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_many_switches")
@pytest.mark.parametrize("unit", CAPS)
def test_200_threads_never_pass_a_cap(unit: str, ledger: Watched) -> None:
    """At each admission, and the sum at the end is exact."""
    configure(budgets=[Budget(**{unit: CAPS[unit]})])  # type: ignore[arg-type]  # the unit
    account, events = Account(), list[Any]()
    stop = observe(events.append, SpendRecorded)
    policy = failover([PRICED], tokens=INPUT, attempts=1, on_unknown="next")
    together = threading.Barrier(200)

    @policy
    def ask(target: Target, kind: str, received: int) -> Any:
        BOOKS[kind](account, received)
        return outcome(kind, received)

    @policy
    def stream(target: Target, kind: str, received: int) -> Iterator[Any]:
        BOOKS[kind](account, received)
        yield chunk("abcd")
        if kind == "stream":
            yield {"choices": [], "usage": answer(received)["usage"]}
        yield chunk("")

    def work(seed: int) -> None:
        rng = Random(seed)
        together.wait(30)
        for _ in range(3):
            kind = rng.choice(["answer", "timeout", "status", "refused", "stream", "left"])
            received = rng.randrange(1, MOST_OUTPUT)
            with contextlib.suppress(Exception):
                if kind == "stream":
                    list(stream(kind, received))
                elif kind == "left":
                    items = stream(kind, received)
                    next(items)
                    items.close()
                else:
                    ask(kind, received)

    with ThreadPoolExecutor(200) as pool:
        list(pool.map(work, range(200)))
    stop()

    check(unit, ledger, account, events)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("unit", CAPS)
def test_500_tasks_never_pass_a_cap(  # noqa: C901  # every kind of end
    unit: str, backend: str, ledger: Watched
) -> None:
    """With cancellation, hedges and streams that are left or dropped besides."""
    configure(budgets=[Budget(**{unit: CAPS[unit]})])  # type: ignore[arg-type]  # the unit
    account, events = Account(), list[Any]()
    stop = observe(events.append, SpendRecorded)
    policy = failover([PRICED, OTHER], tokens=INPUT, attempts=1, max_attempts=1)

    @policy
    async def ask(target: Target, kind: str, received: int) -> Any:
        BOOKS[kind](account, received)
        if kind == "cancelled":
            await anyio.sleep(60)
        await anyio.lowlevel.checkpoint()
        return outcome(kind, received)

    @policy.using(hedge=0.001, max_attempts=2)
    async def hedged(target: Target, kind: str, received: int) -> Any:
        if target.key == GROQ:
            account.add(INPUT, 0)
            await anyio.sleep(0.05)
            raise TimeoutError
        account.add(INPUT, 0)
        raise TimeoutError

    @policy
    async def stream(target: Target, kind: str, received: int) -> AsyncIterator[Any]:
        BOOKS[kind](account, received)
        yield chunk("abcd")
        await anyio.lowlevel.checkpoint()
        if kind == "stream":
            yield {"choices": [], "usage": answer(received)["usage"]}
        yield chunk("")

    kinds = ["answer", "timeout", "status", "refused", "cancelled", "hedged", "stream", "left"]

    async def work(seed: int) -> None:
        rng = Random(seed)
        kind = rng.choice(kinds)
        received = rng.randrange(1, MOST_OUTPUT)
        await anyio.sleep(rng.random() * 0.01)
        with contextlib.suppress(Exception):
            if kind == "hedged":
                await hedged(kind, received)
            elif kind == "stream":
                [_ async for _ in stream(kind, received)]
            elif kind == "left":
                items = stream(kind, received)
                await anext(items)
                await items.aclose()
            elif kind == "cancelled":
                with anyio.move_on_after(0.005):
                    await ask(kind, received)
            else:
                await ask(kind, received)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for seed in range(500):
                group.start_soon(work, seed)

    run_async(main, backend=backend)
    stop()

    check(unit, ledger, account, events)


def test_the_cap_is_reached_but_for_one_call(ledger: Watched) -> None:
    """Refusals are not stricter than they must be."""
    configure(budgets=[Budget(tokens=1000)])
    policy = failover([PRICED], tokens=INPUT)

    @policy
    def ask(target: Target) -> Any:
        return answer(MOST_OUTPUT)

    with pytest.raises(BudgetExceededError):
        for _ in range(1000):
            ask()

    assert 1000 // (INPUT + MOST_OUTPUT) == spend()[0].calls
