"""Print what a healthy call costs, beside an empty wrapper measured in the same run.

    python benchmarks/healthy.py            the table
    python benchmarks/healthy.py --quick    a smoke test of the same

Every row is a ratio to its own baseline; `_timing.py` says how it is measured. `table.py`
prints the same rows beside other libraries.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import platform
import time
from typing import TYPE_CHECKING

from _timing import (
    Effort,
    EmptyManager,
    Function,
    Timer,
    async_timer,
    compare,
    counted_locks,
    empty,
    empty_async,
    import_costs,
    locks_taken,
    statement_timer,
    sync_timer,
)

from resilient_llm import Target, bench_model, breaker, failover
from resilient_llm._runtime.clock import SystemClock
from resilient_llm._runtime.runtime import runtime
from resilient_llm.testing import isolated
from resilient_llm.testing._clock import use_clock

if TYPE_CHECKING:
    from collections.abc import Iterator

CHAIN = ["groq/llama-3.3-70b", "openai/gpt-5-mini"]
FULL = Effort(slices=41, slice_seconds=0.004, most=1_000_000, imports=11)
QUICK = Effort(slices=5, slice_seconds=0.000_4, most=1_000, imports=0)


@empty
def plain(prompt: str) -> str:
    return prompt


@empty_async
async def plain_async(prompt: str) -> str:
    return prompt


async def plain_in_time(prompt: str) -> str:
    """Be the plain call under a deadline of anyio's."""
    import anyio

    with anyio.fail_after(30):
        return await plain_async(prompt)


def first() -> Function:
    """Return a function decorated with default settings, whose first parameter is the target."""

    @failover(chain=CHAIN)
    def ask(target: Target, prompt: str) -> str:
        return prompt

    return ask


def by_name() -> Function:
    @failover(chain=CHAIN)
    def ask(prompt: str, *, model: str | None = None) -> str:
        return prompt

    return ask


def in_time() -> Function:
    @failover(chain=CHAIN, timeout=30)
    def ask(target: Target, prompt: str) -> str:
        return prompt

    return ask


def first_async() -> Function:
    @failover(chain=CHAIN)
    async def ask(target: Target, prompt: str) -> str:
        return prompt

    return ask


def by_name_async() -> Function:
    @failover(chain=CHAIN)
    async def ask(prompt: str, *, model: str | None = None) -> str:
        return prompt

    return ask


def in_time_async() -> Function:
    @failover(chain=CHAIN, timeout=30)
    async def ask(target: Target, prompt: str) -> str:
        return prompt

    return ask


def second() -> Function:
    """Return a function whose first target is benched."""

    @failover(chain=["mistral/large", "openai/gpt-5-mini"])
    def ask(target: Target, prompt: str) -> str:
        return prompt

    bench_model("mistral/large")
    return ask


def empty_with() -> Timer:
    """Time what every guard in a ``with`` statement is at least."""
    return statement_timer(
        "with managers['groq']:\n    pass", {"managers": {"groq": EmptyManager()}}
    )


def breaker_with() -> Timer:
    return statement_timer("with breaker('groq'):\n    pass", {"breaker": breaker})


@contextlib.contextmanager
def moving_clock(step: float) -> Iterator[None]:
    """Let the library's clock move by so many seconds whenever it is read, and not otherwise.

    Of calls that follow each other closely the library times one in a millisecond; of calls
    that are further apart it times every one.
    """

    class Moving(SystemClock):
        monotonic = staticmethod(itertools.count(time.perf_counter(), step).__next__)

    before = runtime.time
    use_clock(Moving())
    try:
        yield
    finally:
        use_clock(before)


def timed(call: Function) -> Timer:
    """Time asynchronous calls under a deadline."""
    return async_timer(call, at_once=100)


def rows() -> list[tuple[str, Timer, Timer, float]]:
    """Return ``(what, baseline, subject, ratio to hold)``."""
    return [
        ("failover, sync, target first", sync_timer(plain), sync_timer(first()), 2.0),
        ("failover, sync, injected by name", sync_timer(plain), sync_timer(by_name()), 2.0),
        ("failover, sync, with timeout", sync_timer(plain), sync_timer(in_time()), 2.5),
        ("failover, async", async_timer(plain_async), async_timer(first_async()), 2.0),
        ("failover, async, with timeout", timed(plain_in_time), timed(in_time_async()), 1.5),
        ("with breaker(...)", empty_with(), breaker_with(), 2.5),
        (
            "skip a benched target (to a healthy call)",
            sync_timer(first()),
            sync_timer(second()),
            1.5,
        ),
    ]


def locks_on_healthy_calls(times: int) -> int:
    """Return how often a lock of the library is taken during so many healthy calls."""
    with counted_locks(), isolated():
        return locks_taken(first(), times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a smoke test: figures mean little")
    effort = QUICK if parser.parse_args().quick else FULL
    print(f"CPython {platform.python_version()} on {platform.machine()}, {platform.system()}")
    print(f"{'work':45} {'ratio':>6} {'quartiles':>15} {'at most':>8} {'baseline':>10}")
    with isolated():
        for what, baseline, subject, limit in rows():
            ratio = compare(baseline, {what: subject}, effort)[what]
            print(
                f"{what:45} {ratio.median:6.2f} {ratio.low:7.2f}-{ratio.high:<7.2f} {limit:8.1f} "
                f"{ratio.baseline * 1e9:7.0f} ns"
            )
    print(f"{'locks taken in 10,000 healthy calls':45} {locks_on_healthy_calls(10_000):6d}")
    statements = (
        "import resilient_llm",
        "from resilient_llm import failover, breaker, list_benched",
    )
    for statement, cost in import_costs(
        {each: each for each in statements}, effort.imports
    ).items():
        print(f"{statement:60} {cost[0]:6.1f} ms of processor time")


if __name__ == "__main__":
    main()
