"""Whose calls spend, and what they ask about prices and answers: the state of money of a process."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._core.call.spending import Spending
from resilient_llm._core.spending.prices import rates_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient_llm._core.spending.ledger import Ledger
    from resilient_llm._values.money import Usage
    from resilient_llm._values.settings import Settings

present_key: Final[ContextVar[str | None]] = ContextVar("resilient_llm_spend_key", default=None)
"""The innermost key of ``spend_key`` around this code, or None."""


def spending_in(
    ledger: Ledger, settings: Settings, wall: Callable[[], float], own: Callable[[Any], Any] | None
) -> Spending:
    """Return how the calls of one function spend.

    Args:
        ledger: Where they are booked.
        settings: With the configured prices.
        wall: Seconds since 1970, now.
        own: The policy's ``usage=``, or None.
    """
    return Spending(
        ledger,
        rates_of=lambda target: rates_for(target, settings.prices),
        usage_of=lambda answer: _used(answer, own),
        meter=lambda: _StreamMeter(own),
        wall=wall,
    )


def _used(answer: Any, own: Callable[[Any], Any] | None) -> tuple[Usage | None, int]:
    from resilient_llm.answers.usage import characters_in, usage_of  # loaded with the first

    found = usage_of(answer) if own is None else own(answer)
    return found, 0 if found is not None else characters_in(answer)


class _StreamMeter:
    """Reads what one stream used; the last item that says so counts."""

    __slots__ = ("_characters", "_found", "_own", "_text_of", "_usage")

    def __init__(self, own: Callable[[Any], Any] | None) -> None:
        from resilient_llm.answers import _items
        from resilient_llm.answers.usage import StreamUsage  # loaded with the first

        self._own = own
        self._usage = StreamUsage()
        self._text_of = _items.text_of
        self._found: Usage | None = None
        self._characters = 0

    def add(self, item: object) -> None:
        """Look at an item."""
        if self._own is None:
            self._usage.add(item)
        else:
            self._found = self._own(item) or self._found
        self._characters += len(self._text_of(item))

    @property
    def used(self) -> tuple[Usage | None, int]:
        """What it used, or None; and the characters of its text."""
        return (self._usage.usage if self._own is None else self._found), self._characters
