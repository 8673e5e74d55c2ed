"""Whose calls spend, and what they ask about prices and answers."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._core.call.spending import Spending, has_room
from resilient_llm._core.spending.prices import rates_for
from resilient_llm._runtime.published_prices import PublishedPrices
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from resilient_llm._core.call.spending import UsageReader
    from resilient_llm._core.spending.prices import Rates
    from resilient_llm._values.target import Target

    OwnReader = Callable[[Any], Usage | None]

present_key: Final[ContextVar[str | None]] = ContextVar("resilient_llm_spend_key", default=None)
"""The innermost key of ``spend_key`` around this code, or None."""
published: Final = PublishedPrices(lambda: runtime.wall())
"""Prices of the package ``genai-prices``, if it is installed."""


_NOTHING: Final = Usage()


def _told(found: Usage | None, characters: int) -> tuple[Usage | None, int]:
    """Return a usage and the characters of a text; none if it says that the text cost nothing.

    Some gateways write zeros where they do not count. What ``usage=`` of a policy gives is meant.
    """
    return (None if characters and found == _NOTHING else found), characters


def spending(own: OwnReader | None, *, is_booked: bool = True) -> Spending:
    """Return how the calls of one function spend in the present state.

    Args:
        own: The policy's ``usage=``, which never raises, or None.
        is_booked: Whether the ledger books it, not limits of tokens alone.
    """
    known: UsageReader | None = None

    def usage_of(answer: Any) -> tuple[Usage | None, int]:
        nonlocal known
        reader = known
        if reader is None:
            reader = known = runtime.usage_reader()
        found = reader.usage_of(answer) if own is None else own(answer)
        if found is not None and (own is not None or found != _NOTHING):
            return found, 0
        return _told(found, reader.characters_in(answer))

    return Spending(
        runtime.ledger if is_booked else None,
        rates_of=_RatesInForce(runtime.settings.prices),
        usage_of=usage_of,
        meter=lambda: StreamMeter(runtime.usage_reader(), own),
        wall=runtime.wall,
        counts_of=runtime.usage_reader().plain_counts,
        has_own_reader=own is not None,
    )


def room_in(spending: Spending) -> Callable[[Target, float], bool]:
    """Return what says whether budgets have room on a target for calls that begin here."""
    return lambda target, now: has_room(spending, target, present_key.get(), now)


class _RatesInForce:
    """What targets cost. Remembers prices of the user's own, which need no second look."""

    __slots__ = ("_known", "_prices")

    def __init__(self, prices: Mapping[str, Any]) -> None:
        self._prices = prices
        self._known: dict[Target, Rates] = {}

    def __call__(self, target: Target) -> Rates | None:
        known = self._known.get(target)
        if known is not None:
            return known
        asked = False

        def look_up(target: Target) -> Rates | None:
            nonlocal asked
            asked = True
            return published(target)

        rates = rates_for(target, self._prices, look_up)
        if rates is not None and not asked:  # a published price may change
            self._known[target] = rates
        return rates

    def lasting(self, target: Target) -> tuple[bool, Rates | None]:
        """Return whether the price of a target is known to last, and what it is if it does.

        A published one may change at any time.
        """
        rates = self(target)
        return target in self._known or (rates is None and published.is_missing), rates


class StreamMeter:
    """Reads what one stream used, and how much of it came."""

    __slots__ = ("_characters", "_found", "_own", "_reader", "_usage")

    def __init__(self, reader: UsageReader, own: OwnReader | None) -> None:
        self._reader = reader
        self._own = own
        self._usage = reader.of_stream()
        self._found: Usage | None = None
        self._characters = 0

    def add(self, item: object) -> None:
        """Look at an item."""
        if self._own is None:
            self._usage.add(item)
        else:
            self._found = self._own(item) or self._found
        self._characters += self._reader.characters_of(item)

    @property
    def used(self) -> tuple[Usage | None, int]:
        """What it used, or None; and how many characters the model wrote."""
        if self._own is not None:
            return self._found, self._characters
        return _told(self._usage.usage, self._characters)
