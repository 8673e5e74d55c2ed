"""The highest totals of accounts that this process saw, to write them back after a loss.

The maximum of what the processes write back counts, and not the sum. What was seen last is kept as
well, for whoever shows the accounts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm._core.sharing.records import read_balance
from resilient_llm._core.sharing.steps import AmountsSeen

if TYPE_CHECKING:
    from collections.abc import Iterable

    from resilient_llm._core.sharing.steps import Effect
    from resilient_llm._values.sharing import Balance

MOST_ACCOUNTS: Final = 100_000
"""Accounts and periods that are remembered; further ones are refused."""
AT_ONCE: Final = 500
"""Balances of one step."""


class Balances:
    """Accounts by name and first moment of their period."""

    def __init__(self) -> None:
        self._highest: dict[tuple[str, int], Balance] = {}
        self._latest: dict[tuple[str, int], Balance] = {}
        self._waiting: dict[tuple[str, int], None] = {}

    def saw(
        self, balances: Iterable[Balance], *, is_whole: bool = False
    ) -> tuple[tuple[Balance, ...], int]:
        """Remember balances; return those that were understood, and how many were not.

        Args:
            balances: In the order in which the store told them.
            is_whole: Whether the store has what this process knows. Then what it tells is newer,
                also if something was taken back; else the highest counts.
        """
        understood: list[Balance] = []
        rejected = 0
        for each in balances:
            balance = read_balance(each)
            old = None if balance is None else self._highest.get((balance.account, balance.start))
            if balance is None or (old is None and len(self._highest) >= MOST_ACCOUNTS):
                rejected += 1
                continue
            place = balance.account, balance.start
            if is_whole or old is None:
                self._highest[place] = balance
            else:
                self._highest[place] = _higher(old, balance)
            self._latest[place] = balance
            understood.append(balance)
        return tuple(understood), rejected

    def believed(self, effects: Iterable[Effect], *, is_whole: bool) -> tuple[list[Effect], int]:
        """Remember the balances of effects; return these without what was not understood."""
        believed: list[Effect] = []
        rejected = 0
        for each in effects:
            if not isinstance(each, AmountsSeen):
                believed.append(each)
                continue
            balances, more = self.saw(each.balances, is_whole=is_whole)
            rejected += more
            seen = each._replace(balances=balances)
            if any(seen):
                believed.append(seen)
        return believed, rejected

    @property
    def all(self) -> tuple[Balance, ...]:
        """Every account that is remembered, as it was last."""
        return tuple(self._latest.values())

    def forget(self, before: float) -> None:
        """Drop periods that ended before a moment of the store's clock."""
        over = [
            place
            for place, each in self._highest.items()
            if each.end is not None and each.end < before
        ]
        for place in over:
            del self._highest[place], self._latest[place]
            self._waiting.pop(place, None)

    def write_back(self) -> None:
        """Have everything written back."""
        self._waiting = dict.fromkeys(self._highest)

    @property
    def to_write_back(self) -> tuple[Balance, ...]:
        """What the next step writes back."""
        return tuple(self._highest[place] for place in list(self._waiting)[:AT_ONCE])

    def wrote(self, balances: Iterable[Balance]) -> None:
        """Note that balances were written back."""
        for each in balances:
            self._waiting.pop((each.account, each.start), None)


def _higher(old: Balance, new: Balance) -> Balance:
    return new._replace(
        spent=max(old.spent, new.spent),
        calls=max(old.calls, new.calls),
        estimated=max(old.estimated, new.estimated),
    )
