"""Print what a healthy call costs under each strategy, beside an empty wrapper.

    python benchmarks/strategies.py            the table
    python benchmarks/strategies.py --quick    a smoke test of the same

Each row is the ratio to an empty wrapper, measured in turns with it in the same run, beside
the most that it may be with five targets. `_timing.py` says how it is measured. The second
column of figures is the same with a thousand targets, for which there is no limit: it shows
what grows with the chain.
"""

from __future__ import annotations

import argparse
import platform
from typing import TYPE_CHECKING, Any, Final

from _timing import Effort, Function, async_timer, compare, sync_timer
from healthy import FULL, QUICK, plain, plain_async

from resilient_llm import StrategyCall, Target, failover, strategies
from resilient_llm._values.policy import STRATEGIES
from resilient_llm.testing import isolated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from _timing import Ratio

FEW, MANY = 5, 1_000
"""Targets of the chains."""

LIMITS: Final[dict[str, float]] = {
    "priority": 2.0,
    "round_robin": 4.0,
    "random": 4.0,
    "weighted": 4.0,
    "least_cost": 4.0,
    "least_latency": 6.0,
    "least_busy": 6.0,
    "sticky": 50.0,
    "a function": 50.0,
}
"""``{what: ratio to hold with five targets}``; the last is not promised."""


def _user(prompt: str) -> str:
    return prompt


def _as_given(targets: Sequence[Target], call: StrategyCall) -> Sequence[Target]:
    return targets


def _of(what: str) -> Any:
    """Return the value of ``strategy=``."""
    return {"sticky": strategies.sticky(_user), "a function": _as_given}.get(what, what)


def chain_of(number: int) -> list[Target]:
    """Return a chain over ten providers, with weights and prices."""
    return [
        Target(f"provider-{at % 10}/model-{at}", weight=1.0 + at % 3, price=(1.0 + at % 7, 1.0))
        for at in range(number)
    ]


def decorated(what: str, number: int) -> Function:
    """Return a function under a strategy."""

    @failover(chain=chain_of(number), strategy=_of(what))
    def ask(target: Target, prompt: str) -> str:
        return prompt

    return ask


def decorated_async(what: str, number: int) -> Function:
    """Return an asynchronous function under a strategy."""

    @failover(chain=chain_of(number), strategy=_of(what))
    async def ask(target: Target, prompt: str) -> str:
        return prompt

    return ask


def measured(what: str, number: int, effort: Effort) -> Ratio:
    """Return the cost of a healthy call."""
    with isolated():
        ask = decorated(what, number)
        for _ in range(10 * number):  # the first calls of a target are looked at
            ask("hi")
        subject = sync_timer(ask)
        return compare(sync_timer(plain), {what: subject}, effort)[what]


def measured_async(what: str, effort: Effort) -> Ratio:
    """Return the cost of a healthy asynchronous call with five targets."""
    with isolated():
        subject = async_timer(decorated_async(what, FEW))
        return compare(async_timer(plain_async), {what: subject}, effort)[what]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a smoke test: figures mean little")
    effort = QUICK if parser.parse_args().quick else FULL
    print(f"CPython {platform.python_version()} on {platform.machine()}, {platform.system()}")
    print(
        f"{'strategy':16} {'ratio':>6} {'quartiles':>15} {'at most':>8} {'async':>7} "
        f"{f'{MANY} targets':>13} {'baseline':>10}"
    )
    for what, limit in LIMITS.items():
        if what not in (*STRATEGIES, "sticky", "a function"):
            continue
        few, many = (measured(what, number, effort) for number in (FEW, MANY))
        asynchronous = measured_async(what, effort)
        print(
            f"{what:16} {few.median:6.2f} {few.low:7.2f}-{few.high:<7.2f} {limit:8.1f} "
            f"{asynchronous.median:7.2f} {many.median:13.2f} {few.baseline * 1e9:7.0f} ns",
            flush=True,
        )


if __name__ == "__main__":
    main()
