"""``resilient-llm spend`` against a running service."""

from __future__ import annotations

import json
import re

import pytest

from resilient_llm import Budget, configure, spend_key
from resilient_llm.admin import _views
from resilient_llm.cli._output import shown_amount
from tests.cli.conftest import Run
from tests.support.spending import asking

HOSTILE = "red \u202e"


def test_budgets_are_listed(service: str, run: Run) -> None:
    """Spent, cap, share and reserved in the unit of the budget; when it resets; a row a key."""
    configure(budgets=[Budget(usd=0.0024, name="month"), Budget(calls=2, of="key", per="day")])
    ask = asking()
    for key in ("tenant-7", HOSTILE, HOSTILE):
        with spend_key(key):
            ask()

    status, out, err = run("spend")

    heading, *rows = [re.split(r"  +", line) for line in out.splitlines()]
    assert (0, "") == (status, err)
    assert "\u202e" not in out
    assert "BUDGET KEY SPENT CAP SHARE RESERVED".split() == heading[:6]
    assert ["RESETS IN", "RESETS AT", "CALLS", "ESTIMATED"] == heading[6:]
    first, second, month = rows
    assert ["key day calls", r"red \u202e", "2 calls", "2 calls", "100 %"] == first[:5]
    assert ["key day calls", "tenant-7", "1 calls", "2 calls", "50 %", "0 calls"] == second[:6]
    assert ["month", "$0.0018", "$0.0024", "75 %", "$0"] == month[:5]
    assert re.fullmatch(r"\d{4}-\d\d-01 00:00:00Z", month[6])
    assert ["3", "0"] == month[7:]


def test_json_is_what_the_api_answers(service: str, run: Run) -> None:
    """With the fields of the rows, in ASCII."""
    configure(budgets=[Budget(tokens=1000, of="groq")])
    asking()()

    (row,) = json.loads(run("spend", "--json").out)

    assert ("groq month tokens", 150, 1000, "tokens") == (
        *(row[name] for name in ("budget", "spent", "cap", "unit")),
    )


def test_keys_that_are_not_listed_are_named(
    service: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the table; ``--key`` finds one of them."""
    monkeypatch.setattr(_views, "MOST_KEYS", 1)
    configure(budgets=[Budget(calls=2, of="key", name="tenants")])
    ask = asking()
    for key in ("a", "b", "b"):
        with spend_key(key):
            ask()

    listed, one = run("spend"), run("spend", "--key", "a")

    assert "tenants  b  " in " ".join(listed.out.split(" "))
    assert "tenants: 1 of 2 keys, see --key\n" == listed.err
    assert re.search(r"tenants +a +1 calls", one.out)
    assert "" == one.err


def test_no_budget_is_said_beside_the_output(service: str, run: Run) -> None:
    """Exit 0, and an empty list as JSON."""
    status, out, err = run("spend")

    assert (0, "") == (status, out)
    assert "no budget" in err
    assert [] == json.loads(run("spend", "--json").out)


def test_a_key_that_is_none_is_wrong_use(service: str, run: Run) -> None:
    """As the service says."""
    status, _, err = run("spend", "--key", "")

    assert 2 == status
    assert "a spend key of 0 characters is not allowed" in err


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (50, "50"), (50.25, "50.25"), (1e-12, "0.000000000001"), (1e6, "1000000")],
)
def test_amounts_are_in_full(number: float, text: str) -> None:
    """Never as 1e-12, and without zeros that say nothing."""
    assert text == shown_amount(number)
