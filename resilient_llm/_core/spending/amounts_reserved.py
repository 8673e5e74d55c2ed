"""How much one attempt reserves in one budget, in its unit: 1e-12 USD, tokens or calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.usage import MOST_TOKENS

if TYPE_CHECKING:
    from resilient_llm._core.spending.accounts import Slot
    from resilient_llm._core.spending.ledger import Reservation


def estimate_in(slot: Slot, reservation: Reservation) -> int | None:
    """Return what an attempt reserves in a budget; None if that is in USD and it has no price."""
    tokens, output, _ = reservation.estimate
    rates = reservation.rates
    if slot.unit == "calls":
        return 1
    if output is None or (rates is None and slot.unit == "usd"):
        return unusual_estimate(slot, reservation)
    if slot.unit == "usd" and rates is not None:
        return rates.cost_of(tokens, output)
    return tokens + output


def unusual_estimate(slot: Slot, reservation: Reservation) -> int | None:
    """Return the same for an attempt without a price, or one whose answer nothing limits.

    Raises:
        ConfigurationError: If nothing limits its answer, and the budget does not say what to do.
    """
    tokens, output, unread = reservation.estimate
    rates = reservation.rates
    if slot.unit == "usd":
        if rates is None:
            return None
        if output is None and rates.is_output_free:
            output = 0
    if output is None:
        output = slot.budget.on_unbounded
    if output is None and unread is not None:
        raise ConfigurationError(
            f"{unread} of the call to {reservation.target.key} is not a number of tokens, so "
            f"budget {slot.budget.name!r} cannot reserve for the answer: pass a whole number from "
            f"0 to {MOST_TOKENS:,}"
        )
    if output is None:
        raise ConfigurationError(
            f"nothing limits the answer of {reservation.target.key}, so budget "
            f"{slot.budget.name!r} cannot reserve for it: pass max_tokens with the call, write "
            "Target(…, max_output=…), or Budget(…, on_unbounded=…)"
        )
    return tokens + output if rates is None or slot.unit != "usd" else rates.cost_of(tokens, output)


def is_free(slot: Slot, reservation: Reservation) -> bool:
    """Return whether a budget must not refuse an attempt since it costs nothing."""
    return slot.unit == "usd" and reservation.rates is not None and reservation.rates.is_free
