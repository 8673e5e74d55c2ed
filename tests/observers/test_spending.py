"""What exporters show of spending and budgets, and that nobody pays for it who does not want it."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client")
pytest.importorskip("opentelemetry.sdk")

from prometheus_client import CollectorRegistry

from resilient_llm import (
    Budget,
    BudgetExceeded,
    BudgetExceededError,
    BudgetWarning,
    ChainExhaustedError,
    SpendRecorded,
    Usage,
    bench_model,
    configure,
    observe,
    reset_spend,
    spend_key,
    spend_total,
)
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.reasons import reason_word
from resilient_llm.observers import prometheus, webhook
from resilient_llm.testing import FakeClock, isolated
from tests.observers.test_prometheus_multiprocess import run
from tests.support.scrapes import Scrape, scrape
from tests.support.spans import attributes, recorded
from tests.support.spending import COST, TARGET, asking


@pytest.fixture
def registry() -> CollectorRegistry:
    found = CollectorRegistry()
    prometheus.install(found)
    return found


# Prometheus.


def test_what_was_booked_is_counted_by_target(clock: FakeClock, registry: Any) -> None:
    """From 0 on, and never less: also after `reset_spend` and at the end of a period."""
    configure(budgets=[Budget(usd=1)])
    ask = asking()
    seen = [scrape(registry).get("spend_usd_total", target=TARGET)]

    for _ in range(3):
        ask()
    seen.append(scrape(registry).get("spend_usd_total", target=TARGET))
    reset_spend()
    clock.advance(timedelta(days=40).total_seconds())
    ask()
    seen.append(scrape(registry).get("spend_usd_total", target=TARGET))

    assert [None, 3 * COST, 4 * COST] == seen
    assert {TARGET: Decimal("0.0006")} == spend_total()


def test_a_counter_of_spending_begins_at_zero(clock: FakeClock, registry: Any) -> None:
    """A target that has cost nothing yet is there, so that its first amount is an increase."""
    configure(budgets=[Budget(usd=1)])
    bench_model(TARGET)

    with pytest.raises(ChainExhaustedError):
        asking()()

    assert 0.0 == scrape(registry).get("spend_usd_total", target=TARGET)


def test_many_small_amounts_add_up_exactly(clock: FakeClock, registry: Any) -> None:
    """A sum of floats would be 0.6000000000000005 or the like."""
    configure(budgets=[Budget(usd=10)])
    ask = asking()

    for _ in range(1000):
        ask()

    assert 0.6 == scrape(registry).get("spend_usd_total", target=TARGET)


def test_the_ratio_is_the_highest_of_the_keys(clock: FakeClock, registry: Any) -> None:
    """A budget has one time series however many keys it counts; its name is the only label."""
    configure(
        budgets=[
            Budget(calls=10, of="key", name="tenants"),
            Budget(usd=Decimal("0.006"), name="month"),
            Budget(calls=5, of="openai", name="unused"),
            Budget(calls=0, of="openai", name="closed"),
        ]
    )
    ask = asking()
    empty = scrape(registry).samples["budget_ratio"]

    for key, calls in (("a", 1), ("b", 4), ("c", 2)):
        with spend_key(key):
            for _ in range(calls):
                ask()
    found = scrape(registry)

    assert [0.0, 0.0, 0.0, 1.0] == list(empty.values())
    assert {"tenants": 0.4, "month": 0.7, "closed": 1.0} == found.rows("budget_ratio", "budget")
    assert 0.0 == found.get("budget_ratio", budget="unused")
    assert "tenant" not in found.text.replace("tenants", "")


def test_the_ratio_begins_anew_with_the_period(clock: FakeClock, registry: Any) -> None:
    """Nobody has to call for that."""
    configure(budgets=[Budget(calls=2, per="hour", name="hourly")])
    asking()()
    before = scrape(registry).get("budget_ratio", budget="hourly")

    clock.advance(3600)

    assert (0.5, 0.0) == (before, scrape(registry).get("budget_ratio", budget="hourly"))


def test_reasons_of_limits_and_budgets_are_labels(clock: FakeClock, registry: Any) -> None:
    """The word alone: the name of a budget may be anything."""
    configure(budgets=[Budget(calls=1, name="a name of our own")])
    ask = asking()
    ask()

    with pytest.raises(BudgetExceededError):
        ask()

    assert {(TARGET, "budget"): 1.0} == scrape(registry).rows("skips_total", "target", "reason")


def test_the_words_of_limits_are_in_the_closed_set() -> None:
    """Each is a label as it is; what follows the word ``budget`` is cut."""
    words = ["request_limit", "token_limit", "request_too_large", "concurrency", "unpriced"]

    assert words == list(map(reason_word, words))
    assert ["budget", "other"] == list(map(reason_word, ["budget a b", "budgets of others"]))


def test_several_processes_show_the_fullest_budget(tmp_path: Path) -> None:
    """The gauge is that of the process that has spent most; amounts are added up."""
    code = """
from resilient_llm import Budget, configure
exporter = prometheus.install()
configure(budgets=[Budget(calls=4, name="calls")], prices={"*": (1, 1)})

@failover([Target("groq/llama", max_output=10)], tokens=lambda prompt: 10)
def spend(target: Target, prompt: str) -> str:
    return "x" * 40

child = os.fork()
for _ in range(1 if child else 3): spend("a")
exporter.flush()
if child:
    os.waitpid(child, os.WUNTRACED)
    from prometheus_client import CollectorRegistry, generate_latest, multiprocess
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    print(generate_latest(registry).decode())
    os.kill(child, signal.SIGKILL)
else:
    os.kill(os.getpid(), signal.SIGSTOP)
"""
    found = Scrape(run(tmp_path, code).stdout)

    assert 4 * 20e-6 == pytest.approx(found.get("spend_usd_total", target=TARGET))
    assert 0.75 == found.get("budget_ratio", budget="calls")


def test_a_budget_that_is_gone_is_not_spent_for_ever(tmp_path: Path) -> None:
    """Its time series in the files falls to 0, and that of a process at its end."""
    code = """
from resilient_llm import Budget, configure
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
exporter = prometheus.install()
configure(budgets=[Budget(calls=1, name="gone")])
ask()
exporter.flush()
def ratio():
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    text = generate_latest(registry).decode()
    return [line.split()[-1] for line in text.splitlines() if 'budget="gone"' in line]
print(*ratio())
configure(budgets=[])
exporter.flush()
print(*ratio())
configure(budgets=[Budget(calls=1, name="gone")])
ask()
exporter.flush()
print(*ratio())
exporter()
print(*ratio())
"""
    done = run(tmp_path, code)

    assert ["1.0", "0.0", "1.0", "0.0"] == done.stdout.split()


# OpenTelemetry.


def test_a_span_has_what_its_attempt_cost(clock: FakeClock) -> None:
    """USD, whether it is an estimate, and the tokens; the counter adds the USD up."""
    configure(budgets=[Budget(usd=1)])
    with recorded() as spans:
        asking()()
        with pytest.raises(Exception, match="tired"):
            asking(attempts=1, reraise=True, tokens=200)(TimeoutError("tired"))

    answered, failed = map(attributes, spans.attempts)
    assert (COST, False) == (
        answered["spend_usd"],
        answered["spend_estimated"],
    )
    assert (100, 50) == (
        answered["gen_ai.usage.input_tokens"],
        answered["gen_ai.usage.output_tokens"],
    )
    assert (0.0002, True) == (
        failed["spend_usd"],
        failed["spend_estimated"],
    )
    assert "gen_ai.usage.input_tokens" not in failed
    assert {(TARGET,): pytest.approx(COST + 0.0002)} == spans.counts("resilient_llm.spend")


def test_a_span_without_budgets_says_nothing_of_money(clock: FakeClock) -> None:
    """Nothing is booked then."""
    with recorded() as spans:
        asking()()

    (span,) = map(attributes, spans.attempts)
    assert [] == [name for name in span if "spend" in name]
    assert {} == spans.counts("resilient_llm.spend")


# Webhooks.


def test_webhooks_tell_of_budgets_one_by_one(clock: FakeClock) -> None:
    """Two budgets that run out at one target do not displace each other; keys of one do."""
    sent: list[dict[str, Any]] = []
    exporter = webhook._install(
        "http://127.0.0.1:9/", webhook._classes(webhook._DEFAULTS), webhook._message, {}
    )
    hook: Any = exporter._subscriptions[0].callback.__self__
    hook._endpoint = type("Endpoint", (), {"post": lambda _, body, __: sent.append(body) or ""})()
    configure(budgets=[Budget(calls=1, of="key", name="tenants"), Budget(calls=2, name="all")])
    ask = asking()

    for key in ("a", "b"):
        with spend_key(key):
            ask()
    exporter.flush()

    told = [(each["type"], each["data"]["budget"]) for each in map(json.loads, sent)]
    assert [
        ("BudgetWarning", "all"),
        ("BudgetWarning", "tenants"),
        ("BudgetExceeded", "all"),
        ("BudgetExceeded", "tenants"),
    ] == sorted(told, key=lambda each: (each[0] == "BudgetExceeded", each))


# Who pays.


def _is_booked(ask: Any) -> bool:
    before = spend_total()
    ask()
    return spend_total() != before


def test_exporters_do_not_have_every_call_booked() -> None:
    """Metrics, spans, webhooks and the admin page alone book nothing; an observer of it does."""
    admin = pytest.importorskip("resilient_llm.admin")
    pytest.importorskip("starlette")
    with isolated():
        ask = asking()
        app = admin.app(authorize=lambda request, action: True)
        prometheus.install(CollectorRegistry())
        alerts = webhook.install("http://127.0.0.1:9/")
        with recorded():
            without = _is_booked(ask)
        seen: list[SpendRecorded] = []
        stop = observe(seen.append, SpendRecorded)
        with_observer = _is_booked(ask)
        stop()
        after = _is_booked(ask)
        alerts()
        del app

    assert (False, True, False) == (without, with_observer, after)
    assert [(Decimal("0.0006"), Usage(100, 50))] == [(each.usd, each.usage) for each in seen]


def test_the_fullest_keys_are_found_among_many(clock: FakeClock) -> None:
    """So many of each budget, in one order; or the one that is asked for."""
    configure(budgets=[Budget(calls=9, of="key", name="tenants"), Budget(calls=99, name="all")])
    ask = asking()
    for number in range(1, 8):
        with spend_key(f"k{number}"):
            for _ in range(number % 4 + 1):
                ask()

    rows = runtime.ledger.fullest(runtime.wall(), 3)
    one = runtime.ledger.fullest(runtime.wall(), 3, "k6")
    none = runtime.ledger.fullest(runtime.wall(), 3, "nobody")

    assert [
        ("all", None, 19, 1),
        ("tenants", "k3", 4, 7),
        ("tenants", "k7", 4, 7),
        ("tenants", "k2", 3, 7),
    ] == [(each.report.budget, each.report.key, each.report.spent, each.keys) for each in rows]
    assert [(None, 1), ("k6", 7)] == [(each.report.key, each.keys) for each in one]
    assert [None] == [each.report.key for each in none]
    assert {"calls"} == {each.unit for each in rows}


def test_budget_events_name_the_target_of_the_attempt(clock: FakeClock) -> None:
    """An observer is told once of each, with the target whose attempt came to it."""
    seen: list[Any] = []
    observe(seen.append, BudgetWarning, BudgetExceeded)
    configure(budgets=[Budget(calls=5, of="groq", warn_at=0.5)])
    ask = asking()

    for _ in range(5):
        ask()

    assert [("BudgetWarning", TARGET, 3), ("BudgetExceeded", TARGET, 5)] == [
        (type(each).__name__, each.target, each.spent) for each in seen
    ]
