"""The state of what was spent: periods, events, resets, isolation, forks, settings."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from resilient_llm import (
    Budget,
    BudgetExceeded,
    BudgetExceededError,
    BudgetWarning,
    ConfigurationError,
    Limit,
    Price,
    Target,
    configure,
    failover,
    reset,
    reset_spend,
    settings,
    spend,
    spend_key,
    spend_total,
)
from resilient_llm.testing import Weather, capture_events, isolated, simulate
from tests.support.interrupts import interrupted_at
from tests.support.schedules import WHERE_CPYTHON_SWITCHES
from tests.support.ways import GROQ, OPENAI

FREE = failover([GROQ], tokens=0)


def ask(times: int = 1) -> None:
    for _ in range(times):
        FREE.call(lambda *, target: "x")


def calls() -> list[tuple[str | None, int]]:
    return [(row.key, row.calls) for row in spend()]


def test_events_come_once_per_period_and_key(clock: Any) -> None:
    """A warning at `warn_at`, and one event when a call finds no room."""
    configure(budgets=[Budget(calls=5, per="hour", of="key", warn_at=0.4)])

    with capture_events(BudgetWarning, BudgetExceeded) as told:
        for key in ("a", "b", "a"):
            with spend_key(key):
                for _ in range(4):
                    try:
                        ask()
                    except BudgetExceededError:
                        pass
        first = [(type(each).__name__, each.key, each.spent) for each in told]
        clock.advance(3600)
        with spend_key("a"):
            ask(3)

    assert [
        ("BudgetWarning", "a", 2),
        ("BudgetWarning", "b", 2),
        ("BudgetExceeded", "a", 5),
    ] == first
    assert [("BudgetWarning", "a")] == [(type(e).__name__, e.key) for e in told[3:]]
    assert (5, told[0].resets_at) == (told[0].cap, told[1].resets_at)


def test_a_cap_of_0_is_told_once_per_period_and_key(clock: Any) -> None:
    """It leaves no call room from the first, so there is no warning before."""
    configure(budgets=[Budget(calls=0, per="hour", of="key")])

    with capture_events(BudgetWarning, BudgetExceeded) as told:
        for seconds in (0, 3600):
            clock.advance(seconds)
            for key in ("a", "b", "a"):
                with spend_key(key), pytest.raises(BudgetExceededError):
                    ask()

    assert [("BudgetExceeded", key, 0, 0) for key in ("a", "b", "a", "b")] == [
        (type(each).__name__, each.key, each.spent, each.cap) for each in told
    ]


def test_a_call_above_the_cap_leaves_the_rest_room() -> None:
    """Only what is spent is told of, and that is nothing."""
    configure(budgets=[Budget(tokens=10)])

    with capture_events(BudgetExceeded) as told, pytest.raises(BudgetExceededError):
        failover([Target("groq/m", max_output=11)]).call(lambda *, target: "x")

    assert [] == told


def test_periods_follow_the_wall_clock_of_the_fake_clock(clock: Any) -> None:
    """A new hour starts from 0."""
    configure(budgets=[Budget(calls=1, per="hour")])
    ask()
    with pytest.raises(BudgetExceededError) as raised:
        ask()
    clock.advance(raised.value.retry_after)

    ask()

    assert [(None, 1)] == calls()


def test_a_wall_clock_that_is_set_back_reopens_no_period(clock: Any) -> None:
    """The hour that was in force goes on."""
    from resilient_llm._runtime.runtime import runtime

    configure(budgets=[Budget(calls=1, per="hour")])
    clock.advance(3600)
    ask()
    wall = runtime.wall
    runtime.wall = lambda: wall() - 7200
    runtime.unbind_all()

    with pytest.raises(BudgetExceededError):
        ask()


def test_an_attempt_belongs_to_the_period_in_which_it_began(clock: Any) -> None:
    """What it books is not in the next one."""
    configure(budgets=[Budget(calls=9, per="hour")])

    def late(target: Target) -> str:
        clock.advance(3600)
        return "x"

    FREE.call(late)

    assert (0, 0) == (spend()[0].spent, spend()[0].reserved)


def test_reset_spend_keeps_reservations() -> None:
    """They are booked when their attempts end."""
    configure(budgets=[Budget(calls=3, name="a"), Budget(calls=3, name="b")])
    ask()

    def resetting(target: Target) -> str:
        reset_spend("a")
        assert [(0, 1), (1, 1)] == [(row.spent, row.reserved) for row in spend()]
        return "x"

    FREE.call(resetting)

    assert [1, 2] == [row.spent for row in spend()]
    with pytest.raises(ConfigurationError, match="no budget"):
        reset_spend("c")
    reset_spend()
    assert [0, 0] == [row.spent for row in spend()]
    assert {} == spend_total()


def test_reset_keeps_spending() -> None:
    """It is about health and limits."""
    configure(budgets=[Budget(calls=3)])
    ask()

    reset()

    assert [(None, 1)] == calls()


def test_isolated_has_spending_of_its_own() -> None:
    """Tests book nothing in the process around them."""
    configure(budgets=[Budget(calls=3)])
    ask()

    with isolated():
        assert [] == spend()
        configure(budgets=[Budget(calls=9)])
        ask(2)
        assert [(None, 2)] == calls()

    assert [(None, 1)] == calls()


def test_a_simulation_books_nothing() -> None:
    """Budgets do not count in it, and nothing of it counts in them."""
    configure(budgets=[Budget(calls=1)])

    report = simulate([GROQ], {GROQ: Weather()}, rate=5, seconds=4, seed=1)

    assert 1.0 == report.served
    assert [(None, 0)] == calls()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_keeps_spending_and_no_reservations() -> None:
    """The attempts of the parent go on there."""
    script = """
import os
from resilient_llm import *
configure(budgets=[Budget(calls=3)])
policy = failover(["groq/llama"])
policy.call(lambda *, target: "x")
def fork(target: Target) -> str:
    if os.fork() == 0:
        print("child", [(row.spent, row.reserved) for row in spend()], flush=True)
        policy.call(lambda *, target: "x")
        print("child", [(row.spent, row.reserved) for row in spend()], flush=True)
        os._exit(0)
    os.wait()
    return "x"
policy.call(fork)
print("parent", [(row.spent, row.reserved) for row in spend()])
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True
    )

    assert ["child [(1, 0)]", "child [(2, 0)]", "parent [(2, 0)]"] == done.stdout.splitlines()


def test_a_new_list_replaces_the_old_while_attempts_run() -> None:
    """What kept its name keeps its spending; what is gone is booked nowhere."""
    configure(budgets=[Budget(calls=5, name="kept"), Budget(calls=5, name="gone")])
    ask()

    def replacing(target: Target) -> str:
        configure(budgets=[Budget(calls=7, name="kept"), Budget(calls=7, name="new")])
        return "x"

    FREE.call(replacing)

    rows = [(row.budget, row.spent, row.reserved, row.cap) for row in spend()]
    assert [("kept", 2, 0, 7), ("new", 0, 0, 7)] == rows


def test_settings_show_budgets_and_survive_a_pickle() -> None:
    """With prices of both kinds."""
    budget = Budget(usd=5, of="openai", zone="UTC")
    configure(
        budgets=[budget],
        prices={"own/a": (0.1, 0.2), "own/b": Price(1, 2, cached=0.5)},
        limits={GROQ: Limit(requests=5)},
    )

    copy = pickle.loads(pickle.dumps(settings()))

    assert (budget,) == settings().budgets == copy.budgets
    assert dict(settings().prices) == dict(copy.prices)
    assert "memory" in (type(copy).__doc__ or "")


def test_budgets_are_checked_where_they_are_configured() -> None:
    """Nothing is changed by a list with a mistake."""
    configure(budgets=[Budget(calls=1)])

    for wrong in ("all", [1], [Budget(calls=1), Budget(calls=2)]):
        with pytest.raises(ConfigurationError):
            configure(budgets=wrong)  # type: ignore[arg-type]  # that is the mistake

    assert ("all month calls",) == tuple(each.name for each in settings().budgets)


def test_a_budget_covers_what_it_names() -> None:
    """A provider with its accounts, an account, a tag, a target."""
    names = ["groq", "groq@eu", "tag:cheap", OPENAI, "all"]
    configure(budgets=[Budget(calls=99, of=each) for each in names])

    for target in (GROQ, "groq@eu/llama", OPENAI, Target("mistral/large", tags=["cheap"])):
        failover([target]).call(lambda *, target: "x")

    found = {row.of: row.calls for row in spend()}
    assert [2, 1, 1, 1, 4] == [found[each] for each in names]


@pytest.mark.parametrize("step", range(1, 130, 2))
def test_an_interrupt_anywhere_leaves_no_reservation(step: int) -> None:
    """Ctrl-C in the midst of reserving, settling or telling."""
    from resilient_llm._core.call import call, ending, settling, spending
    from resilient_llm._core.limits import held
    from resilient_llm._core.spending import booking, local_ledger

    configure(budgets=[Budget(calls=50), Budget(tokens=50_000, of="groq")])
    policy = failover([Target(GROQ, max_output=5)])

    def interrupt() -> None:
        raise KeyboardInterrupt

    modules = (call, ending, settling, spending, held, booking, local_ledger)
    try:
        with interrupted_at(step, interrupt, *modules, points=WHERE_CPYTHON_SWITCHES):
            policy.call(lambda *, target: "x" * 8)
    except KeyboardInterrupt:
        pass

    rows = spend()
    assert [0, 0] == [row.reserved for row in rows]
    assert all(row.calls <= 1 for row in rows)
    policy.call(lambda *, target: "x")
    assert 0 == spend()[0].reserved


def test_reports_have_the_period() -> None:
    """In UTC, and the next one begins where this one ends."""
    configure(budgets=[Budget(calls=3, per="day")])
    (row,) = spend()

    assert timedelta(days=1) == row.resets_at - row.period_start
    assert UTC is row.period_start.tzinfo
    assert row.period_start <= datetime.now(UTC) < row.resets_at


def test_nothing_imports_published_prices_without_need() -> None:
    """With prices of one's own the package stays away."""
    script = """
import sys
from resilient_llm import *
configure(budgets=[Budget(usd=3)])
failover([Target("groq/llama", price=(1, 1), max_output=9)]).call(lambda *, target: "x")
print("genai_prices" in sys.modules, spend()[0].calls)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert "False 1" == done.stdout.strip()


def test_published_prices_are_imported_at_first_need_and_never_downloaded() -> None:
    """Also with a budget in USD, `can_call` and the doctor's question: no socket, no thread."""
    pytest.importorskip("genai_prices")
    script = """
import sys, threading
used = []
sys.addaudithook(lambda name, args: used.append(name) if name.startswith("socket.") else None)
from resilient_llm import *
from resilient_llm import chains
from resilient_llm.chains import _problems
configure(budgets=[Budget(usd=3)])
policy = failover([Target("openai/gpt-4o-mini", max_output=9), Target("own/x", max_output=9)])
chains.check()
print("genai_prices" in sys.modules)
policy.call(lambda *, target: "x")
print(*can_call(policy).reasons, *map(_problems.price_source, policy.chain))
print("genai_prices" in sys.modules, used, threading.active_count())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert ["False", "own/x genai-prices None", "True [] 1"] == done.stdout.splitlines()


def test_published_prices_are_used_for_targets_without_one() -> None:
    """Offline, if the extra is installed; `prices["*"]` comes after them."""
    pytest.importorskip("genai_prices")
    configure(budgets=[Budget(usd=3)], prices={"*": (1000, 1000)})
    known = Target("openai/gpt-4o-mini", max_output=10)
    unknown = Target("own/thing", max_output=10)

    for target in (known, unknown):
        failover([target], tokens=1000).call(lambda *, target: "x" * 4)

    total = spend_total()
    assert 0 < total[known.key] < total[unknown.key]
