"""A ledger with the time of a test, and shorthand for what attempts do to it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from resilient_llm import Target
from resilient_llm._core.spending.booking import Booking
from resilient_llm._core.spending.estimates import Estimate
from resilient_llm._core.spending.ledger import Refusal, Reservation
from resilient_llm._core.spending.local_ledger import LocalLedger
from resilient_llm._core.spending.prices import rates_of
from resilient_llm._values.money import Budget, Price, SpendReport
from resilient_llm._values.usage import Usage

PRICE = rates_of(Price(1, 2))
"""A token of input costs 0.000001 USD, one of output twice as much."""
GPT = Target("openai/gpt")
LLAMA = Target("groq/llama", tags=["cheap"])
EU = Target("groq@eu/llama")
START = datetime(2026, 11, 29, 12, 30, tzinfo=UTC).timestamp()


class Books:
    """A ledger and its time."""

    def __init__(self, *budgets: Budget, now: float = START) -> None:
        self.now = now
        self.ledger = LocalLedger(budgets, now)

    def try_(
        self,
        target: Target = GPT,
        sent: int = 100,
        received: int | None = 100,
        *,
        key: str | None = None,
        rates: Any = PRICE,
    ) -> Reservation | Refusal:
        """Reserve; return the reservation, or why there is none."""
        reservation = Reservation(target, Estimate(sent, received), rates, key)
        refusal = self.ledger.reserve(reservation, self.now)
        return reservation if refusal is None else refusal

    def reserve(self, *args: Any, **options: Any) -> Reservation:
        """Reserve, which must work."""
        found = self.try_(*args, **options)
        assert isinstance(found, Reservation), found
        return found

    def refuse(self, *args: Any, **options: Any) -> Refusal:
        """Reserve, which must not work."""
        found = self.try_(*args, **options)
        assert isinstance(found, Refusal), found
        return found

    def spend(self, *args: Any, **options: Any) -> int | None:
        """Reserve, and settle with what was estimated."""
        reservation = self.reserve(*args, **options)
        sent, received, _ = reservation.estimate
        return self.ledger.settle(reservation, Booking(Usage(sent, received or 0)))

    def report(self, name: str | None = None, key: str | None = None) -> SpendReport:
        """Return the only report, or that of a budget and a key."""
        found = [
            each
            for each in self.ledger.reports(self.now)
            if name in (None, each.budget) and each.key == key
        ]
        assert 1 == len(found), found
        return found[0]

    def notices(self) -> list[tuple[str, str, str | None]]:
        """Return ``(kind, budget, key)`` of what is to be told."""
        return [(each.kind, each.budget, each.key) for each in self.ledger.take_notices()]
