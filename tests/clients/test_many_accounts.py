"""The page about accounts of tenants: real clients whose keys die one by one, on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from resilient_llm import (
    Budget,
    BudgetExceededError,
    Limit,
    bench_model,
    configure,
    health,
    is_benched,
    list_benched,
)
from tests.support.apps import Providers, needs, page_module
from tests.support.server import unused_port

needs("openai")

SEVEN, EIGHT, HOUSE = "key-of-tenant-7", "key-of-tenant-8", "key-of-groq"
OURS = "groq/llama-3.3-70b-versatile: Hi"
THEIRS = "openai/gpt-5-mini: Hi"


@pytest.fixture
def page(server: Providers, tmp_path: Path) -> Iterator[ModuleType]:
    """The code of the page as a module."""
    with page_module("many-accounts", server, tmp_path) as module:
        yield module


def test_each_tenant_is_called_with_its_key(page: ModuleType, server: Providers) -> None:
    """No key is sent for another tenant, and all of them share the connections of one client."""
    assert [THEIRS] * 3 == [page.answer(f"tenant-{n}", "Hi") for n in (7, 8, 7)]

    assert [SEVEN, EIGHT, SEVEN] == server.keys
    assert 1 == server.accepted


def test_a_dead_key_harms_no_other_tenant(page: ModuleType, server: Providers) -> None:
    """Its tenant goes to the other target without asking again, and the others notice nothing."""
    server.moods[SEVEN] = "refused"

    assert [OURS, THEIRS, OURS] == [page.answer(f"tenant-{n}", "Hi") for n in (7, 8, 7)]

    assert [SEVEN, HOUSE, EIGHT, HOUSE] == server.keys
    assert ["openai@tenant-7"] == [each.model for each in list_benched()]
    assert page.key_is_refused("tenant-7")
    assert not page.key_is_refused("tenant-8")
    assert 0 == health()["openai@tenant-8"].errors


def test_an_outage_is_not_a_dead_key(page: ModuleType, server: Providers) -> None:
    """An account that is benched because its provider is unreachable keeps its key."""
    page.CLIENTS["openai"] = page.CLIENTS["openai"].with_options(
        base_url=f"http://127.0.0.1:{unused_port()}/v1"
    )

    assert OURS == page.answer("tenant-7", "Hi")

    assert is_benched("openai@tenant-7")
    assert not page.key_is_refused("tenant-7")


def test_a_new_key_is_used_at_once(page: ModuleType, server: Providers) -> None:
    """Saving it ends the bench, and the next call carries it."""
    server.moods[SEVEN] = "refused"
    assert OURS == page.answer("tenant-7", "Hi")

    page.save_key("tenant-7", "new-key")

    assert THEIRS == page.answer("tenant-7", "Hi")
    assert "new-key" == server.keys[-1]
    assert not page.key_is_refused("tenant-7")


def test_a_bench_of_the_provider_benches_no_account(page: ModuleType, server: Providers) -> None:
    """Benching the account does."""
    bench_model("openai")
    assert THEIRS == page.answer("tenant-7", "Hi")

    bench_model("openai@tenant-7")
    assert OURS == page.answer("tenant-7", "Hi")
    assert THEIRS == page.answer("tenant-8", "Hi")


def test_an_outage_is_found_out_by_each_account(page: ModuleType, server: Providers) -> None:
    """It costs each tenant the attempts of one call."""
    server.moods.update({SEVEN: "down", EIGHT: "down"})

    assert [OURS] * 4 == [page.answer(f"tenant-{n}", "Hi") for n in (7, 8, 7, 8)]

    assert [3, 3] == [server.keys.count(SEVEN), server.keys.count(EIGHT)]


def test_a_limit_and_a_budget_may_be_an_accounts(page: ModuleType, server: Providers) -> None:
    """A limit of `openai` counts no account, that of an account does, and so does a spend key."""
    configure(limits={"openai": Limit(requests=1), "openai@tenant-7": Limit(requests=1)})

    assert [THEIRS, OURS] == [page.answer("tenant-7", "Hi") for _ in range(2)]
    assert [THEIRS, THEIRS] == [page.answer("tenant-8", "Hi") for _ in range(2)]

    configure(budgets=[Budget(calls=1, per="day", of="key")])

    assert [OURS, THEIRS] == [page.answer(f"tenant-{n}", "Hi") for n in (7, 8)]
    with pytest.raises(BudgetExceededError):
        page.answer("tenant-8", "Hi")


def test_a_budget_of_a_provider_counts_its_accounts(page: ModuleType, server: Providers) -> None:
    """Two tenants share the cap of `openai`, and the third call goes elsewhere."""
    configure(budgets=[Budget(calls=2, per="day", of="openai")])

    assert [THEIRS, THEIRS, OURS] == [page.answer(f"tenant-{n}", "Hi") for n in (7, 8, 7)]


def test_idle_tenants_are_let_go_of(page: ModuleType, server: Providers) -> None:
    """The copies of the policy are bounded, and the bench of a tenant outlives its copy."""
    server.moods[SEVEN] = "refused"
    page.answer("tenant-7", "Hi")

    for number in range(1_500):
        page.ask_as(f"passing-{number}")

    assert 1_000 == page.ask_as.cache_info().currsize
    assert is_benched("openai@tenant-7")
    assert OURS == page.answer("tenant-7", "Hi")
    assert 1 == server.keys.count(SEVEN)


def test_no_key_is_in_health_and_benches(page: ModuleType, server: Providers) -> None:
    """They name the account, and nothing that opens it."""
    server.moods[SEVEN] = "refused"
    page.answer("tenant-7", "Hi")

    shown = f"{list_benched()} {health()}"

    assert "tenant-7" in shown
    assert "key-of" not in shown
