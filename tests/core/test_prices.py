"""Which price applies to a target, and what usages and estimates cost."""

import sys
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_llm import ConfigurationError, Target, configure, settings
from resilient_llm._core.spending.prices import FREE, Rates, rates_for, rates_of
from resilient_llm._runtime import published_prices
from resilient_llm._runtime.published_prices import PublishedPrices, rates_in
from resilient_llm._values.amounts import usd
from resilient_llm._values.money import Price
from resilient_llm._values.usage import Usage

NOON = 1_780_000_000.0
LLAMA = Target("groq@eu/llama")


def input_price(rates: Rates | None) -> int | None:
    return None if rates is None else rates.input // 10**6


@pytest.mark.parametrize(
    ("prices", "published", "price"),
    [
        ({}, None, None),
        ({"*": (9, 9)}, None, 9),
        ({"*": (9, 9)}, 8, 8),
        ({"*": (9, 9), "groq": (7, 7)}, 8, 7),
        ({"groq": (7, 7), "groq@eu": (6, 6)}, 8, 6),
        ({"groq@eu": (6, 6), "groq/llama": (5, 5)}, 8, 5),
        ({"groq/llama": (5, 5), "groq@eu/llama": Price(4, 4)}, 8, 4),
        ({"groq/other": (1, 1), "openai": (1, 1), "groq@us": (1, 1)}, None, None),
    ],
    ids=str,
)
def test_the_order_of_prices(
    prices: dict[str, Any], published: int | None, price: int | None
) -> None:
    """The target comes before its provider, an account's entry before the one without, `*` last."""

    def lookup(target: Target) -> Rates | None:
        assert LLAMA is target
        return None if published is None else rates_of(Price(published, published))

    assert price == input_price(rates_for(LLAMA, prices, lookup))


def test_a_targets_own_price_is_asked_first() -> None:
    """Nobody is asked about a target that has a price of its own, be it 0."""

    def lookup(target: Target) -> Rates | None:
        raise AssertionError(target)

    target = Target("groq/llama", price=(0, 0))

    assert FREE == rates_for(target, {"groq/llama": (5, 5)}, lookup)
    assert 5 == input_price(rates_for(Target("groq/llama"), {"groq/llama": (5, 5)}, lookup))


def test_a_price_that_is_too_fine_names_itself() -> None:
    """The message tells which entry is wrong."""
    with pytest.raises(ConfigurationError, match=r"prices\['groq'\]: input=1e-07"):
        rates_for(LLAMA, {"groq": (0.0000001, 1)})


@pytest.mark.parametrize(
    "pair",
    [
        (Decimal("0.1"), Decimal("0.2")),
        (Decimal("0.10"), 0.2),
        (Decimal(0), Decimal(3)),
        (Decimal("123456789012.123457"), 1),
    ],
)
def test_a_pair_takes_what_a_price_takes(pair: tuple[Any, Any]) -> None:
    """Also decimals, as those of a price, and none of their digits is lost."""
    configure(prices={"groq": pair})
    expected = rates_of(Price(*pair))

    assert expected == rates_for(Target("groq/a"), settings().prices)
    assert expected == rates_for(Target("groq/a", price=pair), {})
    assert settings().price_of(Target("groq/a")) == (float(pair[0]), float(pair[1]))


def test_pairs_of_one_price_are_equal() -> None:
    """However they are written: one spec with two prices is refused in a chain."""
    decimals = Decimal("0.1"), Decimal("0.20")

    assert Target("groq/a", price=(0.1, 0.2)) == Target("groq/a", price=decimals)


@pytest.mark.parametrize("wrong", ["-1", "0.0000001", "1e13", "nan", "inf"])
def test_a_decimal_that_is_no_price(wrong: str) -> None:
    """The message says what to write."""
    with pytest.raises(ConfigurationError, match=r"price: output=.* USD per million tokens"):
        Target("groq/a", price=(1, Decimal(wrong)))


def test_what_a_cache_costs_without_a_price() -> None:
    """Cached tokens cost what input does, and written ones a quarter more, rounded up."""
    rates = rates_of(Price(0.000001, 2))
    named = rates_of(Price(1, 2, cached=0.1, cache_write=3))

    assert (1, 1, 2) == (rates.input, rates.cached, rates.cache_write)
    assert (100_000, 3_000_000) == (named.cached, named.cache_write)
    assert 1_250_000 == rates_of(Price(1, 0)).cache_write


def test_what_a_usage_costs() -> None:
    """Each part has its price, and none counts twice."""
    rates = rates_of(Price(3, 15, cached=0.3, cache_write=3.75))

    cost = usd(rates.cost(Usage(1000, 100, cached=100, cache_write=100, reasoning=50)))

    # 800 x 3 + 100 x 0.3 + 100 x 3.75 + 100 x 15, per million.
    assert Decimal("0.004305") == cost
    assert Decimal("0.0045") == usd(rates.cost(Usage(1000, 100)))
    assert rates.cost(Usage(1000, 100)) == rates.cost_of(1000, 100)
    assert 0 == FREE.cost(Usage(10**9, 10**9))


@given(
    st.integers(0, 10**9),
    st.integers(0, 10**9),
    st.decimals(0, 1000, places=6),
    st.decimals(0, 1000, places=6),
)
def test_costs_are_exact(sent: int, received: int, first: Decimal, second: Decimal) -> None:
    """A cost is the sum of tokens times price, whatever the numbers."""
    rates = rates_of(Price(first, second))

    picos = rates.cost(Usage(sent, received))

    assert sent * first * 10**6 + received * second * 10**6 == picos


def test_what_is_free() -> None:
    """Output is free if no token of an answer costs anything in any tier, and all if nothing does."""
    embedding = rates_of(Price(0.02, 0))
    dear_later = Rates(0, 0, 0, 0, 0, tiers=((10, rates_of(Price(0, 1))),))
    per_call = Rates(0, 0, 0, 0, 0, per_call=1)

    assert [True, True, False, True] == [
        each.is_output_free for each in (FREE, embedding, dear_later, per_call)
    ]
    assert [True, False, False, False] == [
        each.is_free for each in (FREE, embedding, dear_later, per_call)
    ]
    assert not rates_of(Price(0, 0, cached=1)).is_free


# Published prices.


def model_price(**prices: Any) -> Any:
    return SimpleNamespace(**prices)


def tiered(base: str, **tiers: str) -> Any:
    return SimpleNamespace(
        base=Decimal(base),
        tiers=[SimpleNamespace(start=int(n[1:]), price=Decimal(p)) for n, p in tiers.items()],
    )


def test_published_rates() -> None:
    """What is missing is what it is for a price of the user's; what is too fine is rounded up."""
    rates = rates_in(model_price(input_mtok=Decimal("0.1800000000001"), output_mtok=Decimal(2)))

    assert Rates(180_001, 2_000_000, 180_001, 225_002, 2_000_000) == rates
    assert None is rates_in(model_price(audio_hours=Decimal(1)))
    assert Rates(20, 0, 20, 25, 0) == rates_in(model_price(input_mtok=Decimal("0.00002")))


def test_published_models_without_a_price_are_free() -> None:
    """0 is a price, and so is one for each request; hours of audio are none for tokens."""
    nothing: dict[str, Any] = {"input_mtok": None, "output_mtok": None, "audio_hours": None}

    assert FREE == rates_in(model_price(**nothing))
    assert Rates(0, 0, 0, 0, 0, per_call=10**9) == rates_in(
        model_price(**nothing, requests_kcount=Decimal(1))
    )
    assert None is rates_in(model_price(**{**nothing, "audio_hours": Decimal(1)}))


def test_published_tiers() -> None:
    """Above a tier's start all tokens of the call cost its price, input alone decides."""
    rates = rates_in(
        model_price(
            input_mtok=tiered("1", a200="2"), output_mtok=tiered("10", a200="20", a500="30")
        )
    )
    assert rates is not None

    costs = [rates.cost(Usage(n, 1)) // 10**6 for n in (200, 201, 500, 501)]

    assert [210, 422, 1020, 1032] == costs
    assert costs == [rates.cost_of(n, 1) // 10**6 for n in (200, 201, 500, 501)]


def test_published_requests_and_reasoning() -> None:
    """Some calls cost by themselves, and some reasoning has a price of its own."""
    rates = rates_in(
        model_price(
            input_mtok=Decimal(2),
            output_mtok=Decimal(8),
            output_reasoning_mtok=Decimal(3),
            requests_kcount=Decimal(5),
        )
    )
    assert rates is not None

    # 10 x 2 + 3 x 8 + 4 x 3, per million, and 5 per thousand.
    assert Decimal("0.005056") == usd(rates.cost(Usage(10, 7, reasoning=4)))


def test_without_the_package_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing or broken package is asked for once, and makes no call fail."""
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    published = PublishedPrices(lambda: NOON)

    assert None is published(Target("openai/gpt-5-mini"))
    monkeypatch.delitem(sys.modules, "genai_prices")
    assert None is published(Target("openai/gpt-5-mini"))


class Package:
    """Stands in for genai-prices, without its data."""

    class LaterError(LookupError):
        pass

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.snapshot = object()
        self.data_snapshot = SimpleNamespace(get_snapshot=lambda: self.snapshot)
        self.price = model_price(input_mtok=Decimal(1), output_mtok=Decimal(2))
        self.moments: list[Any] = []

    def Usage(self, **counts: int) -> object:  # noqa: N802  # its name there
        return counts

    def calc_price(self, usage: object, name: str, *, provider_id: str) -> Any:
        self.asked.append((provider_id, name))
        if provider_id == "unknown":
            raise self.LaterError(name)
        return SimpleNamespace(model=self)

    def get_prices(self, moment: Any) -> Any:
        self.moments.append(moment)
        return self.price


def test_a_model_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are remembered, also unknown ones, until there are newer prices."""
    package = Package()
    monkeypatch.setattr(published_prices, "_imported", lambda: package)
    published = PublishedPrices(lambda: NOON)

    first = [published(Target("openai@eu/gpt/mini")) for _ in range(3)]
    unknown = [published(Target("unknown/x")) for _ in range(3)]
    package.price = model_price(input_mtok=Decimal(3), output_mtok=Decimal(2))
    dearer = published(Target("openai/gpt/mini"))
    package.snapshot = object()
    published(Target("openai/gpt/mini"))

    assert [1, 1, 1] == [input_price(each) for each in first]
    assert [None] * 3 == unknown
    assert 3 == input_price(dearer)
    assert [("openai", "gpt/mini"), ("unknown", "x"), ("openai", "gpt/mini")] == package.asked
    assert NOON == package.moments[0].timestamp()


def test_a_package_that_raises_harms_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another release may do anything; the target then has no price."""
    package = Package()
    monkeypatch.setattr(package, "get_prices", None)
    monkeypatch.setattr(published_prices, "_imported", lambda: package)

    assert None is PublishedPrices(lambda: NOON)(Target("openai/gpt"))


def test_the_package_is_imported_when_it_is_asked() -> None:
    """Making the object, and prices of the user's own, import nothing."""
    before = "genai_prices" in sys.modules
    PublishedPrices(lambda: NOON)

    assert before == ("genai_prices" in sys.modules)


def test_costs_are_those_of_the_package() -> None:
    """For its own models, a cost is what genai-prices calculates, in each tier."""
    package = pytest.importorskip("genai_prices")
    published = PublishedPrices(lambda: NOON)
    usages = [Usage(1000, 100), Usage(300_000, 100, cached=50_000), Usage(1000, 9, 100, 200)]

    for spec in ("openai/gpt-5-mini", "anthropic/claude-sonnet-4-5", "google/gemini-2.5-pro"):
        target = Target(spec)
        rates = published(target)
        assert rates is not None
        for usage in usages:
            if usage.cache_write and target.provider != "anthropic":
                continue  # of which the package has no price
            counts = package.Usage(
                input_tokens=usage.input,
                output_tokens=usage.output,
                cache_read_tokens=usage.cached or None,
                cache_write_tokens=usage.cache_write or None,
            )
            told = package.calc_price(counts, target.model, provider_id=target.provider)

            assert told.total_price == usd(rates.cost(usage)), (spec, usage)
