"""`Budget`, `Price` and `Usage`: exact, checked when built, and the same after a pickle."""

import copy
import decimal
import pickle
import zoneinfo
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import resilient_llm
from resilient_llm import ConfigurationError
from resilient_llm._values.amounts import exact, usd
from resilient_llm._values.money import (
    Budget,
    Price,
    SpendReport,
    budgets_of,
    price_of,
    spend_key_of,
    zone_named,
)
from resilient_llm._values.usage import Usage


def refused(build: Any) -> str:
    """Return what a ConfigurationError says."""
    with pytest.raises(ConfigurationError) as caught:
        build()
    return str(caught.value)


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pickles find the classes where users import them from."""
    for each in (Budget, Price, SpendReport, Usage):
        monkeypatch.setattr(resilient_llm, each.__name__, each, raising=False)


# Amounts.


@pytest.mark.parametrize(
    ("value", "picos"),
    [
        (0, 0),
        (-0.0, 0),
        (0.1, 100_000_000_000),
        (0.1 + 0.2, None),
        (1e-12, 1),
        (Decimal("1e-12"), 1),
        (Decimal("0.10000000000000000"), 100_000_000_000),
        (50, 50_000_000_000_000),
        (Decimal("5E+1"), 50_000_000_000_000),
        (999_999_999_999, 999_999_999_999 * 10**12),
        (10**12, None),
        (1e-13, None),
        (Decimal("1e-999999"), None),
        (Decimal("1e999999"), None),
        (10**5000, None),
        (-1, None),
        (-0.01, None),
        (True, None),
        (float("nan"), None),
        (float("inf"), None),
        (Decimal("NaN"), None),
        (Decimal("sNaN"), None),
        (Decimal("-Infinity"), None),
        ("1", None),
        (1j, None),
    ],
    ids=lambda value: (
        f"{str(value)[:40]}" if not isinstance(value, int) or abs(value) < 10**40 else "huge"
    ),
)
def test_an_amount_is_exactly_what_is_written(value: Any, picos: int | None) -> None:
    """A float is read as it is shown; what is finer than 1e-12 USD or no amount is refused."""

    def read() -> int:
        return exact("usd", value, decimals=12, allowed="an amount")

    if picos is None:
        assert "write an amount" in refused(read)
    else:
        assert picos == read()


@given(st.integers(0, 10**24 - 1))
def test_an_amount_and_its_decimal_are_one(picos: int) -> None:
    """Nothing is lost on the way out and in again, whatever the context of `decimal` is."""
    with decimal.localcontext() as context:
        context.prec = 3
        context.traps[decimal.Inexact] = True

        assert picos == exact("usd", usd(picos), decimals=12, allowed="")


def test_an_amount_is_shown_without_zeros() -> None:
    """Amounts look as people write them."""
    shown = [str(usd(picos)) for picos in (0, 1, 10**12, 5 * 10**11, -(10**9))]

    assert ["0", "1E-12", "1", "0.5", "-0.001"] == shown


# Usages.


@pytest.mark.usefixtures("importable")
def test_a_usage_has_defaults_and_a_sum() -> None:
    """A usage of nothing is allowed; the sum has input and output, whose parts do not count twice."""
    usage = Usage(100, 20, cached=30, cache_write=40, reasoning=5)

    assert 120 == usage.tokens
    assert 0 == Usage().tokens
    assert usage == pickle.loads(pickle.dumps(usage))
    assert usage == copy.deepcopy(usage)


@pytest.mark.parametrize(
    "options",
    [
        {"input": -1},
        {"input": True},
        {"input": 1.0},
        {"output": None},
        {"output": 10**9 + 1},
        {"input": 5, "cached": 3, "cache_write": 3},
        {"output": 5, "reasoning": 6},
    ],
    ids=str,
)
def test_a_usage_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    """Numbers are whole and not negative, and no part is larger than the whole."""
    assert "write" in refused(lambda: Usage(**options))


# Prices.


@pytest.mark.usefixtures("importable")
def test_a_price_is_exact() -> None:
    """Prices are kept as they are written, and equal however they are."""
    price = Price(0.1, 2, cached=Decimal("0.010"))

    assert (Decimal("0.1"), Decimal(2), Decimal("0.01"), None) == (
        price.input,
        price.output,
        price.cached,
        price.cache_write,
    )
    assert Price(Decimal("0.10"), 2.0, 0.01) == price
    assert "Price(input=Decimal('0.1'), output=Decimal('2'), cached=Decimal('0.01'))" == repr(price)
    assert price == pickle.loads(pickle.dumps(price))
    assert {price} == {copy.copy(price)}


@pytest.mark.parametrize("value", [-1, 0.0000001, float("nan"), float("inf"), True, "1", None])
@pytest.mark.parametrize("name", ["input", "output"])
def test_a_price_that_cannot_be_is_refused(name: str, value: Any) -> None:
    """A price is a number from 0, of at most six decimals, so that each token costs whole units."""
    message = refused(lambda: Price(**{"input": 1, "output": 1, name: value}))

    assert message.startswith(f"{name}=")
    assert "at most 6 decimals" in message


@pytest.mark.parametrize(
    ("value", "price"),
    [(None, None), ((1, 2), Price(1, 2)), ([0.1, 0], Price(0.1, 0)), (Price(1, 2), Price(1, 2))],
    ids=str,
)
def test_a_price_is_a_pair_or_more(value: Any, price: Price | None) -> None:
    """A pair is enough."""
    assert price == price_of("price", value)


@pytest.mark.parametrize("value", [1, "ab", (1,), (1, 2, 3), (1, -2), {1: 2}], ids=str)
def test_what_is_no_price_is_refused(value: Any) -> None:
    """The message names the option and says what to write."""
    message = refused(lambda: price_of("prices['groq']", value))

    assert message.startswith("prices['groq']")
    assert "write" in message


# Budgets.


def test_a_budget_has_a_name_of_what_it_caps() -> None:
    """The default name tells scope, period and unit."""
    names = [
        Budget(usd=50, of="openai").name,
        Budget(tokens=1, of=" Groq/llama ", per="day").name,
        Budget(calls=1, of="key", per="hour").name,
        Budget(usd=1, of="tag:eu").name,
        Budget(usd=1, name="team A").name,
    ]

    assert [
        "openai month usd",
        "groq/llama day tokens",
        "key hour calls",
        "tag:eu month usd",
        "team A",
    ] == names


@pytest.mark.usefixtures("importable")
def test_a_budget_is_a_value() -> None:
    """It is equal however its cap is written, can be pickled, and shows what is not the default."""
    budget = Budget(usd=0.5, per="day", of="groq@eu", warn_at=0.5, on_unbounded=7)

    assert Budget(
        usd=Decimal("0.50"), per="day", of="groq@eu", warn_at=0.5, on_unbounded=7
    ) == pickle.loads(pickle.dumps(budget))
    assert {budget} == {copy.deepcopy(budget)}
    assert (
        "Budget(usd=Decimal('0.5'), per='day', of='groq@eu', warn_at=0.5, on_unbounded=7)"
        == repr(budget)
    )
    assert "Budget(calls=3, name='x')" == repr(Budget(calls=3, name="x"))
    assert budget == eval(repr(budget))
    assert ("usd", Decimal("0.5")) == (budget.unit, budget.cap)
    assert ("tokens", 0) == (Budget(tokens=0).unit, Budget(tokens=0).cap)
    with pytest.raises(AttributeError):
        budget.usd = Decimal(3)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "without a cap"),
        ({"usd": 1, "calls": 1}, "usd and calls"),
        ({"usd": -1}, "usd=-1"),
        ({"usd": True}, "usd=True"),
        ({"usd": float("nan")}, "usd=nan"),
        ({"usd": "50"}, "usd=str"),
        ({"tokens": 1.5}, "tokens=1.5"),
        ({"tokens": -1}, "0 or more"),
        ({"calls": True}, "calls=True"),
        ({"per": "week"}, "'hour' or 'day' or 'month'"),
        ({"per": "days"}, "did you mean 'day'"),
        ({"per": None}, "per=None"),
        ({"of": ""}, "blank"),
        ({"of": "groq/"}, "empty half"),
        ({"of": "tag:"}, "names no tag"),
        ({"of": "tag: eu"}, "names no tag"),
        ({"of": None}, "'all'"),
        ({"warn_at": 0}, "warn_at=0"),
        ({"warn_at": 1.1}, "to 1"),
        ({"warn_at": True}, "warn_at=True"),
        ({"zone": "Europe/Berln"}, "did you mean 'Europe/Berlin'"),
        ({"zone": "utc"}, "'UTC'"),
        ({"zone": "../../etc/passwd"}, "not a time zone"),
        ({"zone": "America"}, "not a time zone"),
        ({"zone": "a\0b"}, "not a time zone"),
        ({"zone": "x" * 5000}, "not a time zone"),
        ({"zone": ""}, "not a time zone"),
        ({"zone": None}, "zone of type NoneType"),
        ({"on_unbounded": 0}, "1 or more"),
        ({"on_unbounded": 1.0}, "on_unbounded=1.0"),
        ({"name": ""}, "name of 0 characters"),
        ({"name": "x" * 201}, "name of 201 characters"),
        ({"name": "a\nb"}, "printable"),
        ({"name": " a"}, "without blanks"),
        ({"name": 3}, "name of type int"),
    ],
    ids=str,
)
def test_a_budget_that_cannot_be_is_refused(options: dict[str, Any], said: str) -> None:
    """Each message says what is wrong and what is allowed."""
    if not options.keys() & {"usd", "tokens", "calls"} and options:
        options = {"usd": 1, **options}

    message = refused(lambda: Budget(**options))

    assert said in message
    assert len(message) < 400


def test_a_zone_without_any_data_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without data about time zones only UTC works, and the message tells."""
    monkeypatch.setattr(zoneinfo, "ZoneInfo", lambda name: (_ for _ in ()).throw(KeyError(name)))
    monkeypatch.setattr(zoneinfo, "available_timezones", set)

    message = refused(lambda: Budget(usd=1, zone="Europe/Berlin"))

    assert "install the package tzdata, or write zone='UTC'" in message
    assert "UTC" == Budget(usd=1).zone
    assert "UTC" == str(zone_named("UTC"))


def test_budgets_have_names_of_their_own() -> None:
    """Two budgets with one name are refused, and so is what is none."""
    both = [Budget(usd=1), Budget(usd=2)]

    assert "name 'all month usd'" in refused(lambda: budgets_of("budgets", both))
    assert "write Budget" in refused(lambda: budgets_of("budgets", [1]))
    assert "write a list" in refused(lambda: budgets_of("budgets", Budget(usd=1)))
    assert (Budget(usd=1),) == budgets_of("budgets", [Budget(usd=1)])
    assert () == budgets_of("budgets", ())


@pytest.mark.parametrize(
    "key", ["", "x" * 201, "secret\n", "\ud800secret", 3, None, b"a"], ids=repr
)
def test_a_wrong_spend_key_is_not_repeated(key: Any) -> None:
    """A spend key is 1 to 200 characters; the message does not show a wrong one."""
    message = refused(lambda: spend_key_of(key))

    assert "secret" not in message


def test_a_spend_key_is_kept_as_it_is() -> None:
    """Blanks and case matter in a spend key."""
    assert [" Tenant 7 ", "x" * 200] == [spend_key_of(" Tenant 7 "), spend_key_of("x" * 200)]


def test_public_values_name_the_public_module() -> None:
    """Tracebacks and pickles name what users import."""
    classes = (Budget, Price, SpendReport, Usage)

    assert {"resilient_llm"} == {each.__module__ for each in classes}
