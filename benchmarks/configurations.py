"""Print what a call costs in the configurations that people run: a healthy one, and a failover.

    python benchmarks/configurations.py            the table
    python benchmarks/configurations.py --quick    a smoke test of the same

Each row is the ratio to an empty wrapper, measured in turns with it in the same run, beside
the most that it may be. `_timing.py` says how it is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import contextvars
import logging
import platform
import threading
from typing import TYPE_CHECKING, Any, Final

from _timing import Effort, Function, Timer, async_timer, compare, sync_timer
from failing import errors, failing_over
from healthy import CHAIN, FULL, QUICK, first, first_async, plain, plain_async, plain_in_time

from resilient_llm import (
    Attempt,
    Budget,
    Limit,
    Target,
    Trace,
    breaker,
    chains,
    configure,
    failover,
    needs,
    observe,
    spend_key,
    store_status,
)
from resilient_llm.testing import MemoryStore, isolated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from _timing import Ratio

    Setup = Callable[[], AbstractContextManager[Function]]


def _decorated(**options: Any) -> Function:
    @failover(chain=options.pop("chain", CHAIN), **options)
    def ask(target: Target, prompt: str, temperature: float = 1.0) -> str:
        return prompt

    return ask


@contextlib.contextmanager
def with_defaults() -> Iterator[Function]:
    yield first()


@contextlib.contextmanager
def observed() -> Iterator[Function]:
    """Have one observer of every type of event, as an exporter of metrics is."""
    stop = observe(lambda event: None)
    try:
        yield first()
    finally:
        stop()


@contextlib.contextmanager
def traced_elsewhere() -> Iterator[Function]:
    """Hold a trace open in another thread."""
    is_open, may_close = threading.Event(), threading.Event()

    def hold() -> None:
        with Trace():
            is_open.set()
            may_close.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    is_open.wait()
    try:
        yield first()
    finally:
        may_close.set()
        thread.join()


@contextlib.contextmanager
def traced() -> Iterator[Function]:
    ask = first()

    def traced_call(prompt: str) -> Any:
        with Trace():
            return ask(prompt)

    yield traced_call


@contextlib.contextmanager
def with_observers() -> Iterator[Function]:
    yield _decorated(observers=(lambda event: None,))


@contextlib.contextmanager
def rejecting() -> Iterator[Function]:
    yield _decorated(reject=lambda answer: None)


@contextlib.contextmanager
def with_slow_call() -> Iterator[Function]:
    configure(breakers={"*": {"slow_call": 5.0}})
    yield first()


@contextlib.contextmanager
def after_one_error() -> Iterator[Function]:
    """Leave one error in a window that never has ``min_calls``."""
    configure(breakers={"*": {"min_calls": 1_000_000_000}})
    yield _after_errors(1)


@contextlib.contextmanager
def degraded() -> Iterator[Function]:
    """Leave so many errors in the window that no number of answers makes up for them here."""
    configure(breakers={"*": {"error_rate": 1.0, "failures": 1_000_000}})
    yield _after_errors(100_000)


def _after_errors(number: int) -> Function:
    ask = first()
    ask("bind")
    guard = breaker(CHAIN[0])
    for _ in range(number):
        guard.record(TimeoutError(), 0.01)
    ask("end the failures in a row")
    return ask


@contextlib.contextmanager
def with_places() -> Iterator[Function]:
    configure(limits={"*": Limit(max_concurrent=8)})
    yield first()


@contextlib.contextmanager
def with_requests() -> Iterator[Function]:
    configure(limits={"*": Limit(requests=1_000_000_000, per="second")})
    yield first()


@contextlib.contextmanager
def with_buckets() -> Iterator[Function]:
    configure(limits={"*": Limit(requests=1_000_000_000, tokens=1_000_000_000, per="second")})
    yield first()


@contextlib.contextmanager
def with_params() -> Iterator[Function]:
    yield _decorated(chain=[Target(CHAIN[0], params={"temperature": 0.0}), CHAIN[1]])


@contextlib.contextmanager
def with_own_call() -> Iterator[Function]:
    def own(prompt: str, temperature: float) -> str:
        return prompt

    yield _decorated(chain=[Target(CHAIN[0], call=own), CHAIN[1]])


@contextlib.contextmanager
def with_attempt() -> Iterator[Function]:
    @failover(chain=CHAIN, attempt_timeout=5.0)
    def ask(target: Target, prompt: str, *, attempt: Attempt) -> str:
        return prompt

    yield ask


@contextlib.contextmanager
def pinned() -> Iterator[Function]:
    @failover(chain=CHAIN)
    def ask(prompt: str, *, model: str | None = None) -> str:
        return prompt

    model = CHAIN[0].partition("/")[2]
    yield lambda prompt: ask(prompt, model=model)


@contextlib.contextmanager
def with_strategy() -> Iterator[Function]:
    yield _decorated(strategy=lambda targets: targets)


@contextlib.contextmanager
def adaptive() -> Iterator[Function]:
    yield _decorated(adaptive=True)


@contextlib.contextmanager
def adaptive_with_a_slow_target() -> Iterator[Function]:
    """Have the first target stand behind the second one for long."""
    from resilient_llm import Adaptive
    from resilient_llm._runtime.runtime import runtime

    options = Adaptive(window=3600.0)
    ask = _decorated(adaptive=options)
    ask("bind")
    figures = runtime.figures_of(ask.policy._policy)  # type: ignore[attr-defined]  # a wrapper
    for _ in range(256):
        for key, seconds in zip(CHAIN, (9.0, 1.0), strict=True):
            figures.answered(key, runtime.clock(), seconds)
    yield ask


@contextlib.contextmanager
def beside_least_busy() -> Iterator[Function]:
    """Have another policy of the process choose by what is in flight."""
    busy = _decorated(strategy="least_busy")
    busy("bind")
    yield first()
    del busy


@contextlib.contextmanager
def with_needs() -> Iterator[Function]:
    yield _decorated(chain=[Target(CHAIN[0], supports=()), CHAIN[1]], needs="tools")


@contextlib.contextmanager
def reading_arguments() -> Iterator[Function]:
    yield _decorated(
        chain=[Target(CHAIN[0], supports=("tools",), context_window=8_000), CHAIN[1]],
        needs=needs.from_messages("prompt"),
        tokens=needs.estimate_tokens(),
    )


@contextlib.contextmanager
def with_a_name() -> Iterator[Function]:
    """Call a chain by its name."""
    chains.define({"fast": CHAIN})
    yield _decorated(chain="@fast")


@contextlib.contextmanager
def with_a_route() -> Iterator[Function]:
    """Call a chain that a rule might have chosen."""
    chains.define({"main": chains.route(chains.rule(CHAIN, contains="refund"), otherwise=CHAIN)})
    yield _decorated(chain="@main")


@contextlib.contextmanager
def with_a_profile_elsewhere() -> Iterator[Function]:
    """Call while another context has a profile."""
    chains.define_profile("cheap", settings={"attempts": 2})
    with chains.profile("cheap"):
        inside = contextvars.copy_context()
    yield _decorated()
    inside.run(lambda: None)


@contextlib.contextmanager
def inside_a_profile() -> Iterator[Function]:
    """Call under a profile of the context."""
    chains.define_profile("cheap", settings={"attempts": 2})
    with chains.profile("cheap"):
        yield _decorated()


@contextlib.contextmanager
def choosing_by_ten_rules() -> Iterator[Function]:
    """Choose a chain for a prompt of 1,000 characters; no rule matches. Needs google-re2."""
    from resilient_llm._binding.injection import injection_of
    from resilient_llm._binding.routing import CallFacts
    from resilient_llm._values.route import route_of, rule_of

    conditions: list[dict[str, Any]] = [
        {"model": "gpt-4*"},
        {"model": "claude-*"},
        {"min_tokens": 30_000},
        {"min_tokens": 100_000},
        {"has_image": True},
        {"has_tools": True},
        {"contains": "refund"},
        {"contains": "Invoice"},
        {"regex": r"\b(order|ticket)\s+#\d{5}\b"},
        {"min_code_share": 0.5},
    ]
    route = route_of([rule_of(CHAIN, each) for each in conditions], CHAIN)
    text = ("Why is the sky blue, and what is order 17? " * 24)[:1_000]

    def ask(target: Target, prompt: str, temperature: float = 1.0) -> str:
        return prompt

    injection = injection_of(ask)
    yield lambda prompt: CallFacts(injection, (text,), {}).choose(route)


@contextlib.contextmanager
def called_by_policy() -> Iterator[Function]:
    policy = failover(chain=CHAIN)

    def ask(target: Target, prompt: str) -> str:
        return prompt

    yield lambda prompt: policy.call(ask, prompt)


@contextlib.contextmanager
def looped() -> Iterator[Function]:
    policy = failover(chain=CHAIN)

    def ask(prompt: str) -> str:
        for attempt in policy:
            with attempt:
                return prompt
        raise AssertionError("no target answered")

    yield ask


@contextlib.contextmanager
def after_debugging() -> Iterator[Function]:
    """Bind a function while the log is at DEBUG, and raise the level then."""
    log = logging.getLogger("resilient_llm")
    before = log.level, log.propagate
    handler = logging.NullHandler()
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.DEBUG)
    ask = first()
    ask("bind")
    log.setLevel(logging.WARNING)
    try:
        yield ask
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]


@contextlib.contextmanager
def with_budget() -> Iterator[Function]:
    """Have each call ask a budget in USD, and tell its usage."""
    configure(budgets=[Budget(usd=1_000_000)])
    answer = {
        "choices": [{"message": {"role": "assistant", "content": "hello"}}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150},
    }

    @failover(chain=[Target(CHAIN[0], price=(1, 10), max_output=1000)])
    def ask(target: Target, prompt: str, temperature: float = 1.0) -> Any:
        return answer

    yield ask


@contextlib.contextmanager
def looking_for_tool_loops() -> Iterator[Function]:
    """Have each call look at a conversation of 50 messages; its last two tool calls differ."""
    conversation: list[dict[str, Any]] = []
    for number in range(25):
        function = {"name": "search", "arguments": f'{{"query": "winner", "page": {number}}}'}
        call = {"id": f"call_{number}", "type": "function", "function": function}
        conversation += [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": f"call_{number}", "content": "nothing found"},
        ]

    @failover(chain=CHAIN, tool_loop="warn")
    def step(target: Target, messages: list[dict[str, Any]]) -> str:
        return "hello"

    yield lambda prompt: step(conversation)


@contextlib.contextmanager
def with_budget_of_texts() -> Iterator[Function]:
    """Have each call ask a budget in USD, and give a text, whose length is booked."""
    configure(budgets=[Budget(usd=1_000_000)])
    yield _decorated(chain=[Target(CHAIN[0], price=(1, 10), max_output=1000)])


@contextlib.contextmanager
def with_budget_in_calls() -> Iterator[Function]:
    configure(budgets=[Budget(calls=1_000_000_000)])
    yield _decorated(chain=[Target(CHAIN[0], price=(0, 0))])


@contextlib.contextmanager
def with_budget_by_key() -> Iterator[Function]:
    """Have each call ask a budget of its provider, and one of its tenant."""
    configure(budgets=[Budget(usd=1_000_000, of="groq"), Budget(tokens=10**12, of="key")])
    with spend_key("tenant"):
        yield _decorated(chain=[Target(CHAIN[0], price=(1, 10), max_output=1000)])


@contextlib.contextmanager
def sharing() -> Iterator[Function]:
    """Share benches through a store, which the thread has read."""
    configure(state=MemoryStore())
    ask = first()
    ask("hi")
    assert store_status(wait=10.0).connected
    yield ask


CONFIGURATIONS: Final[dict[str, tuple[Setup, float]]] = {
    "defaults": (with_defaults, 2.0),
    "a store": (sharing, 2.0),
    "one observer of all events": (observed, 25.0),
    "a trace open in another thread": (traced_elsewhere, 2.0),
    "a trace around each call": (traced, 40.0),
    "observers=": (with_observers, 25.0),
    "reject=": (rejecting, 5.0),
    "slow_call=": (with_slow_call, 3.0),
    "one error below min_calls": (after_one_error, 4.0),
    "target degraded": (degraded, 4.0),
    "Target(params=)": (with_params, 12.0),
    "Target(call=)": (with_own_call, 12.0),
    "attempt_timeout with Attempt": (with_attempt, 20.0),
    "pinned call": (pinned, 25.0),
    "strategy callable": (with_strategy, 30.0),
    "adaptive=True": (adaptive, 5.0),
    "adaptive=, a target moved back": (adaptive_with_a_slow_target, 5.0),
    "beside a policy that is least_busy": (beside_least_busy, 2.6),
    "needs= words, first target skipped": (with_needs, 2.0),
    "needs= and tokens= read the arguments": (reading_arguments, 120.0),
    "ten rules of a route": (choosing_by_ten_rules, 200.0),
    "a name for the chain": (with_a_name, 2.2),
    "a profile block elsewhere": (with_a_profile_elsewhere, 2.2),
    "inside a profile block": (inside_a_profile, 25.0),
    "a route of one rule": (with_a_route, 60.0),
    "policy.call(fn)": (called_by_policy, 25.0),
    "for attempt in policy": (looped, 60.0),
    'tool_loop="warn", 50 messages': (looking_for_tool_loops, 300.0),
    "max_concurrent": (with_places, 4.0),
    "requests limited": (with_requests, 5.0),
    "requests and tokens limited": (with_buckets, 18.0),
    "a budget in calls": (with_budget_in_calls, 14.0),
    "a budget in USD, texts": (with_budget_of_texts, 18.0),
    "a budget in USD": (with_budget, 18.0),
    "a budget in USD, one by key": (with_budget_by_key, 23.0),
    "bound at DEBUG, level raised": (after_debugging, 2.0),
}
"""``{what: (what makes the function, ratio to hold)}``."""


def measured(what: str, effort: Effort) -> str:
    """Return the row of one configuration."""
    set_up, limit = CONFIGURATIONS[what]
    with isolated(), set_up() as ask:
        ratio = compare(sync_timer(plain), {what: sync_timer(ask)}, effort)[what]
    return row(what, ratio, limit)


ASYNC: Final[dict[str, tuple[dict[str, Any], float]]] = {
    "defaults, async": ({}, 2.0),
    "max_concurrent, async": ({"limits": {"*": Limit(max_concurrent=8)}}, 4.0),
    "requests limited, async": ({"limits": {"*": Limit(requests=1_000_000_000)}}, 4.0),
    "requests and tokens limited, async": (
        {"limits": {"*": Limit(requests=1_000_000_000, tokens=1_000_000_000)}},
        12.0,
    ),
    "a budget in calls, async": ({"budgets": [Budget(calls=1_000_000_000)]}, 9.0),
    "a budget in USD, async": ({"budgets": [Budget(usd=1_000_000)]}, 12.0),
}
"""``{what: (what is configured, ratio to hold)}``."""


def measured_async(effort: Effort, what: str = "defaults, async") -> str:
    """Return the row of a healthy asynchronous call, beside an empty asynchronous wrapper."""
    configured, limit = ASYNC[what]
    price = (1, 10) if "USD" in what else (0, 0)

    @failover(chain=[Target(CHAIN[0], price=price, max_output=1000)])
    async def ask(target: Target, prompt: str, temperature: float = 1.0) -> str:
        return prompt

    with isolated():
        configure(**configured)
        subject: dict[str, Timer] = {
            what: async_timer(ask if configured else first_async()),
        }
        ratio = compare(async_timer(plain_async), subject, effort)[what]
    return row(what, ratio, limit)


def measured_hedged(effort: Effort) -> str:
    """Return the row of a call whose first attempt needs no hedge, beside `anyio.fail_after`."""
    what = "hedge, first answers in time (to fail_after)"

    @failover(chain=CHAIN, hedge=2.0)
    async def ask(target: Target, prompt: str) -> str:
        return prompt

    with isolated():
        subject: dict[str, Timer] = {what: async_timer(ask, at_once=100)}
        ratio = compare(async_timer(plain_in_time, at_once=100), subject, effort)[what]
    return row(what, ratio, 1.5)


def measured_error(kind: str, effort: Effort) -> str:
    """Return the row of a call whose first target fails and whose second one answers."""
    what = f"{kind}, next target called"
    with isolated():
        ask = failing_over(errors()[kind])
        ratio = compare(sync_timer(plain), {what: sync_timer(ask)}, effort)[what]
    return row(what, ratio, 110.0)


def row(what: str, ratio: Ratio, limit: float) -> str:
    """Return a row of the table."""
    return (
        f"{what:52} {ratio.median:6.2f} {ratio.low:7.2f}-{ratio.high:<7.2f} {limit:8.1f} "
        f"{ratio.baseline * 1e9:7.0f} ns"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a smoke test: figures mean little")
    effort = QUICK if parser.parse_args().quick else FULL
    print(f"CPython {platform.python_version()} on {platform.machine()}, {platform.system()}")
    print(f"{'configuration':52} {'ratio':>6} {'quartiles':>15} {'at most':>8} {'baseline':>10}")
    for what in CONFIGURATIONS:
        print(measured(what, effort), flush=True)
    for what in ASYNC:
        print(measured_async(effort, what), flush=True)
    print(measured_hedged(effort), flush=True)
    for kind in errors():
        print(measured_error(kind, effort), flush=True)


if __name__ == "__main__":
    main()
