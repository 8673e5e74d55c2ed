"""Prices out of the package ``genai-prices``, the extra ``prices``; nothing is ever downloaded.

The package is imported when the first target without a price of the user's own is asked for, which
takes about 0.2 s. It has the prices that were known when it was released; a program that starts its
``UpdatePrices`` has newer ones, which are used from then on.

Owns a cache of what was found, and a lock-free one: its entries are replaced as a whole, and two
threads that look for the same find the same.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._core.spending.prices import Rates

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient_llm._values.target import Target

_MOST: Final = 10_000
"""Targets that are remembered; then all are forgotten."""
_PICOS_PER_UNIT: Final = 10**6
"""Of 1 USD per million tokens: 1e-12 USD per token."""
_PICOS_PER_THOUSANDTH: Final = 10**9
"""Of 1 USD per thousand requests: 1e-12 USD per request."""
_OTHERS: Final = {
    "cached": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "reasoning": "output_reasoning_mtok",
}
"""``{rate: what the package calls it}``"""

_REQUESTS: Final = "requests_kcount"
_PER_CALL: Final = frozenset((_REQUESTS,))


class PublishedPrices:
    """What targets cost, according to ``genai-prices``. May be used from any thread."""

    __slots__ = ("_found", "_package", "_rates", "_wall")

    def __init__(self, wall: Callable[[], float]) -> None:
        """Take the wall clock: some prices depend on the time of day."""
        self._wall = wall
        self._package: Any = None
        """The package, False if there is none, None until that was tried."""
        self._found: dict[tuple[str, str], tuple[object, Any]] = {}
        """``{(provider, model): (all prices that there were, the model or None)}``"""
        self._rates: dict[int, tuple[object, Rates | None]] = {}
        """``{id of the prices of a model: (the prices, the same as rates)}``"""

    def __call__(self, target: Target) -> Rates | None:
        """Return what tokens of a target cost; None if that is not known. Never raises."""
        if self._package is None:
            self._package = _imported()
        if not self._package:
            return None
        try:
            model = self._model(target.provider, target.model)
            if model is None:
                return None
            prices = model.get_prices(datetime.fromtimestamp(self._wall(), UTC))
        except Exception:  # noqa: BLE001  # whatever another release does
            return None
        known = self._rates.get(id(prices))
        if known is None or known[0] is not prices:
            if len(self._rates) >= _MOST:
                self._rates = {}
            known = self._rates[id(prices)] = (prices, rates_in(prices))
        return known[1]

    @property
    def is_missing(self) -> bool:
        """Whether it was tried to import the package, and there is none."""
        return self._package is False

    def _model(self, provider: str, name: str) -> Any:
        """Return a model of the package, or None."""
        package = self._package
        snapshot = package.data_snapshot.get_snapshot()
        known = self._found.get((provider, name))
        if known is None or known[0] is not snapshot:
            if len(self._found) >= _MOST:
                self._found = {}
            try:
                nothing = package.Usage(input_tokens=0, output_tokens=0)
                model = package.calc_price(nothing, name, provider_id=provider).model
            except LookupError:
                model = None
            known = self._found[provider, name] = (snapshot, model)
        return known[1]


def _imported() -> Any:
    """Return the package, or False if there is none or it cannot be used."""
    import importlib

    try:
        importlib.import_module("genai_prices.data_snapshot")
        return importlib.import_module("genai_prices")
    except Exception:  # noqa: BLE001  # also one that does not fit the pydantic that is there
        return False


def rates_in(prices: Any) -> Rates | None:
    """Return the rates of a ``ModelPrice`` of the package; None if tokens have no price there.

    A model without any price is free, as in ``calc_price`` of the package; one that has other
    prices alone, such as for hours of audio, has none for tokens. What a rate is finer than 1e-12
    USD per token is rounded up. A tier holds for all tokens of a call whose input is above its
    start, as in ``genai_prices.types.calc_unit_price``.
    """
    held: dict[str, Any] = prices.__dict__
    sent, received = held.get("input_mtok"), held.get("output_mtok")
    if sent is None and received is None and not _PER_CALL.issuperset(_given(held)):
        return None
    named: dict[str, Any] = {"input": sent, "output": received}
    named |= {rate: held.get(name) for rate, name in _OTHERS.items()}
    starts = sorted(
        {tier.start for price in named.values() for tier in getattr(price, "tiers", ())}
    )
    per_call = _picos(held.get(_REQUESTS), _PICOS_PER_THOUSANDTH, 0) or 0
    tiers = tuple((start, _rates_at(named, start + 1, per_call)) for start in starts)
    base = _rates_at(named, 0, per_call)
    return Rates(
        base.input, base.output, base.cached, base.cache_write, base.reasoning, per_call, tiers
    )


def _given(held: dict[str, Any]) -> list[str]:
    return [name for name, price in held.items() if price is not None]


def _rates_at(named: dict[str, Any], tokens: int, per_call: int) -> Rates:
    """Return the rates of calls with so many tokens of input."""
    of = {rate: _picos(price, _PICOS_PER_UNIT, tokens) for rate, price in named.items()}
    sent, received = of["input"] or 0, of["output"] or 0
    cached, written, thought = of["cached"], of["cache_write"], of["reasoning"]
    return Rates(
        input=sent,
        output=received,
        cached=sent if cached is None else cached,
        cache_write=-(-sent * 5 // 4) if written is None else written,
        reasoning=received if thought is None else thought,
        per_call=per_call,
    )


def _picos(price: Any, unit: int, tokens: int) -> int | None:
    """Return a price in 1e-12 USD, rounded up; None if there is none."""
    value = getattr(price, "base", price)
    for tier in _tiers(price):  # ascending
        if tokens > tier.start:
            value = tier.price
    if not isinstance(value, Decimal) or not value.is_finite() or value < 0:
        return None
    above, below = value.as_integer_ratio()
    return -(-above * unit // below)


def _tiers(price: Any) -> tuple[Any, ...]:
    return tuple(getattr(price, "tiers", ()))
