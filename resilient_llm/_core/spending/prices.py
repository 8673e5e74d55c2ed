"""What tokens of a target cost: which price applies, and the cost of a usage and of an estimate.

Whole 1e-12 USD, so nothing is rounded but a published price that is finer than that, and then up.
Knows no library of published prices: a function that looks one up is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from resilient_llm._values.amounts import exact
from resilient_llm._values.money import PRICE_DECIMALS, Price, price_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from decimal import Decimal
    from typing import Any, TypeAlias

    from resilient_llm._values.target import Target
    from resilient_llm._values.usage import Usage

    Published: TypeAlias = "Callable[[Target], Rates | None]"
    """Looks up what a target costs in a published list; None if that does not know it."""

ANY: Final = "*"
"""Key of the price of targets without another one."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What one token costs, in 1e-12 USD.

    Attributes:
        input: Tokens of the request that are neither of the next two.
        output: Tokens of the answer.
        cached: Tokens that were read from a cache.
        cache_write: Tokens that were written to a cache.
        reasoning: Tokens of the answer that are reasoning.
        per_call: What each answered call costs besides.
        tiers: ``((tokens, rates), …)``, ascending: above so many tokens of input, all tokens of
            the call cost that. Keep in sync with ``TieredPrices`` of genai-prices.
    """

    input: int
    output: int
    cached: int
    cache_write: int
    reasoning: int
    per_call: int = 0
    tiers: tuple[tuple[int, Rates], ...] = ()

    @property
    def is_free(self) -> bool:
        """Whether no call costs anything, however long it is."""
        per_token = self.input or self.output or self.cached or self.cache_write or self.reasoning
        return not (per_token or self.per_call) and all(rates.is_free for _, rates in self.tiers)

    @property
    def is_output_free(self) -> bool:
        """Whether answers cost nothing, however long they are."""
        return not (self.output or self.reasoning) and all(
            rates.is_output_free for _, rates in self.tiers
        )

    def cost(self, usage: Usage) -> int:
        """Return what a usage costs, in 1e-12 USD."""
        rates = self._for(usage.input) if self.tiers else self
        if not (usage.cached or usage.cache_write or usage.reasoning):
            return usage.input * rates.input + usage.output * rates.output + rates.per_call
        plain = usage.input - usage.cached - usage.cache_write
        return (
            plain * rates.input
            + usage.cached * rates.cached
            + usage.cache_write * rates.cache_write
            + (usage.output - usage.reasoning) * rates.output
            + usage.reasoning * rates.reasoning
            + rates.per_call
        )

    def cost_of(self, tokens: int, output: int) -> int:
        """Return what so many tokens of input and of output cost, in 1e-12 USD; for estimates."""
        rates = self._for(tokens) if self.tiers else self
        return tokens * rates.input + output * rates.output + rates.per_call

    def _for(self, tokens: int) -> Rates:
        found = self
        for above, rates in self.tiers:
            if tokens > above:
                found = rates
        return found


FREE: Final = Rates(0, 0, 0, 0, 0)


@lru_cache(maxsize=1024)
def rates_of(price: Price) -> Rates:
    """Return what one token costs at a price.

    Tokens from a cache cost what input does if the price does not say, so that what is booked is
    never below the bill. Those written to one cost a quarter more, as Anthropic has it, rounded up.
    """
    per_token, output = _units(price.input), _units(price.output)
    return Rates(
        input=per_token,
        output=output,
        cached=per_token if price.cached is None else _units(price.cached),
        cache_write=(
            -(-per_token * 5 // 4) if price.cache_write is None else _units(price.cache_write)
        ),
        reasoning=output,
    )


def _units(price: Decimal) -> int:
    """Return USD per million tokens as 1e-12 USD per token, which is the same number of units."""
    return exact("price", price, decimals=PRICE_DECIMALS, allowed="a price")


def rates_for(
    target: Target, prices: Mapping[str, Any], published: Published | None = None
) -> Rates | None:
    """Return what tokens of a target cost; None if nobody says.

    Args:
        target: Its own ``price`` comes first.
        prices: ``{target, provider or "*": price}``, each a `Price` or ``(input, output)``. The
            target comes before its provider, and with its account before without.
        published: Asked for targets that neither of them knows, before ``"*"``.

    Raises:
        ConfigurationError: If a price has more than six decimals.
    """
    if target.price is not None:
        return _rates("price", target.price)
    for key in (target.key, target.spec, target.provider_key, target.provider):
        if key in prices:
            return _rates(f"prices[{key!r}]", prices[key])
    found = None if published is None else published(target)
    if found is None and ANY in prices:
        return _rates(f"prices[{ANY!r}]", prices[ANY])
    return found


def _rates(name: str, value: Any) -> Rates | None:
    price = price_of(name, value)
    return None if price is None else rates_of(price)
