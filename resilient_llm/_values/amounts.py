"""Exact amounts of money: whole 1e-12 USD as int inside, `Decimal` outside.

With prices of at most six decimals per million tokens, one token costs a whole number of 1e-12 USD,
so no cost is ever rounded and sums do not depend on their order. No arithmetic of `decimal` is
used: its results depend on a context that users may change.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

from resilient_llm._values.errors import ConfigurationError

DECIMALS: Final = 12
"""Of the smallest amount, in USD."""
_ONE_USD: Final = 10**DECIMALS
_MOST_DIGITS: Final = 12
"""Before the point, of the largest number."""
_LONGEST_INT: Final = 64
"""Bits of the largest whole number that is looked at; Python refuses to write far larger ones."""


def exact(name: str, value: Any, *, decimals: int, allowed: str) -> int:
    """Return a number of 0 or more as a whole number of its last allowed decimal.

    A float is what its shortest text says: 0.1 is a tenth.

    Args:
        name: Of the option, for the message.
        value: What the user wrote.
        decimals: How many it may have.
        allowed: What to write instead, for the message.

    Raises:
        ConfigurationError: If it is no int, float or `Decimal`, is negative, not finite, above
            1e12, or has more decimals.
    """
    number = _decimal(value)
    if number is None:
        raise ConfigurationError(f"{name}={shown(value)} is not allowed: write {allowed}")
    sign, digits, exponent = number.as_tuple()
    text = "".join(map(str, digits)).lstrip("0")
    significant = text.rstrip("0")
    if not significant:
        return 0
    if not isinstance(exponent, int):  # pragma: no cover  # of a number that is not finite
        raise AssertionError(exponent)
    exponent += len(text) - len(significant)
    if sign or exponent < -decimals or len(significant) + exponent > _MOST_DIGITS:
        raise ConfigurationError(f"{name}={shown(value)} is not allowed: write {allowed}")
    return int(significant) * 10 ** (exponent + decimals)


def _decimal(value: Any) -> Decimal | None:
    """Return a finite number, exactly as it is written; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return Decimal(int(value)) if value.bit_length() <= _LONGEST_INT else None
    if isinstance(value, float):
        value = Decimal(float.__repr__(value))
    return value if isinstance(value, Decimal) and value.is_finite() else None


def shown(value: Any) -> str:
    """Return a wrong value as messages show it, which is short."""
    if isinstance(value, int) and value.bit_length() > _LONGEST_INT:
        return f"a number of {value.bit_length()} bits"
    text = repr(value) if isinstance(value, (bool, int, float, Decimal)) else ""
    if text and len(text) <= 40:
        return text
    return "None" if value is None else type(value).__name__


def usd(picos: int) -> Decimal:
    """Return an amount in whole 1e-12 USD as a `Decimal` in USD, without trailing zeros."""
    return decimal_of(picos, DECIMALS)


def units(amount: Decimal) -> int:
    """Return an amount in USD, as `usd` makes it, in whole 1e-12 USD."""
    above, below = amount.as_integer_ratio()
    return above * _ONE_USD // below


def number_of(amount: Decimal) -> int | float:
    """Return an amount as JSON has it: a number that is exact up to 15 digits."""
    number = float(amount)
    return int(number) if number.is_integer() else number


def decimal_of(units: int, decimals: int) -> Decimal:
    """Return a whole number of the last decimal as a `Decimal`, whatever the context is."""
    whole, rest = divmod(abs(units), 10**decimals)
    text = f"{whole}.{rest:0{decimals}d}".rstrip("0").rstrip(".")
    return Decimal(f"-{text}" if units < 0 else text)
