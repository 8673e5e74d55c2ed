"""What a store shows by itself: `StoreReader`, and the spending of budgets that nobody has here.

A reader is a session of its own, which changes nothing and shares nothing of this process. What is
read is untrusted, so what the mirror would not believe is left out here as well.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._core.sharing.records import SharedBench, read, read_balance
from resilient_llm._core.sharing.session import Session
from resilient_llm._values.amounts import number_of, usd
from resilient_llm._values.money import EACH_KEY, UNITS
from resilient_llm._values.sharing import MANUAL, DataLostError, StoreError
from resilient_llm.admin._plain import plain
from resilient_llm.stores._opening import open_store

if TYPE_CHECKING:
    from collections.abc import Iterable

    from resilient_llm._core.sharing.records import SharedRecord
    from resilient_llm._values.sharing import Balance
    from resilient_llm.stores import Store

_MOST_SEEN: Final = 100_000
"""Changes that are known again after the store has lost data and got them back."""
_PAGE: Final = 1000
MOST_KEYS: Final = 100
"""Keys of a budget that are shown, of those that count each key by itself."""
_PARTS: Final = 5
"""Of the name of an account: name, of, unit, period and zone; then the key, if there is one."""


class StoreReader:
    """Reads the changes of one store; for one thread."""

    def __init__(self, url: str, namespace: str, *, timeout: float) -> None:
        """Take where the store is; nothing is connected yet.

        Args:
            url: As for ``configure(state=…)``.
            namespace: As in its ``state_options``.
            timeout: Seconds that one step may take.

        Raises:
            ConfigurationError: If either cannot be used.
        """
        # Whoever looks moves no file.
        options = {"namespace": namespace, "poll": 0.5, "on_corrupt": "refuse"}
        self._store: Store = open_store(url, options)
        self._timeout = timeout
        self._session = Session(secrets.token_hex(12))
        self._seen: dict[tuple[str, str, int], None] = {}
        self._balances: dict[tuple[str, int], Balance] = {}
        self._now = 0.0

    @property
    def url(self) -> str:
        """Where the store is, without a user and a password."""
        return self._store.url

    def look(self) -> list[dict[str, Any]]:
        """Return what is new since the last look, the oldest first; the first time all there is.

        Raises:
            StoreError: If the store cannot be used.
        """
        found: list[tuple[float, int, dict[str, Any]]] = []
        while True:
            try:
                changes = self._store.changes(
                    self._session.stamp(),
                    self._session.revision,
                    limit=_PAGE,
                    timeout=self._timeout,
                )
            except DataLostError:
                raise StoreError("error", "DataLostError") from None
            self._session.follow(changes)
            self._now = changes.now
            for balance in map(read_balance, changes.balances):
                if balance is not None:
                    self._balances[balance.account, balance.start] = balance
            for raw in changes.records:
                record = read(raw)
                if record is not None and self._is_new(record):
                    line = _line(record, changes.now)
                    found.append((changes.now - record.age, record.order, line))
            if not changes.has_more:
                return [line for _, _, line in sorted(found, key=lambda each: each[:2])]

    def spend(self, key: str | None) -> list[dict[str, Any]]:
        """Return what was spent as of the last look; see `spend_rows`."""
        return spend_rows(self._balances.values(), self._now, key)

    def wait(self, seconds: float) -> None:
        """Wait until there may be something new, for at most so many seconds.

        Raises:
            StoreError: If the store cannot be used.
        """
        self._store.wait(self._session.revision, seconds)

    def close(self) -> None:
        """Close the connections."""
        self._store.close()

    def _is_new(self, record: SharedRecord) -> bool:
        place = record.key, record.layer, record.order
        if place in self._seen:
            return False
        if len(self._seen) >= _MOST_SEEN:
            del self._seen[next(iter(self._seen))]
        self._seen[place] = None
        return True


def _line(record: SharedRecord, now: float) -> dict[str, Any]:
    """Return a change as the journal has it; ``pid`` is not known.

    Args:
        record: The change.
        now: The moment by the clock of the store, in seconds since 1970.
    """
    is_bench = isinstance(record, SharedBench)
    line: dict[str, Any] = {
        "type": "TargetBenched" if is_bench else "TargetUnbenched",
        "at": _moment(now - record.age),
        "target": record.key,
        "call_id": "",
    }
    if is_bench:
        line |= {
            "kind": plain(record.kind),
            "reason": record.reason,
            "trigger": MANUAL if record.layer == MANUAL else record.trigger,
            "until": None if record.ends_in is None else _moment(now + record.ends_in),
            "retry_after": None,
            "enforced": True,
        }
    else:
        line["reason"] = record.reason
    return {**line, "by": record.by, "source": record.source}


def _moment(seconds: float) -> str | None:
    """Return a moment as RFC 3339 writes it; None beyond the range of datetime."""
    try:
        return plain(datetime.fromtimestamp(seconds, UTC))
    except (OverflowError, ValueError, OSError):
        return None


# Spending.


def spend_rows(balances: Iterable[Balance], now: float, key: str | None) -> list[dict[str, Any]]:
    """Return what each budget has spent in its present period, as ``GET api/spend`` has it.

    No store has the caps, which each process enforces by itself: they are None. Budgets are sorted
    by name, and the keys of a budget by what they used.

    Args:
        balances: What the store has.
        now: The moment by the clock of the store, in seconds since 1970.
        key: The only key to show of budgets that count by key; None for the fullest.
    """
    budgets: dict[str, list[dict[str, Any]]] = {}
    for balance in balances:
        if balance.start <= now and (balance.end is None or now < balance.end):
            row = _spend_row(balance)
            if row is not None:
                name = (
                    balance.account if row["key"] is None else balance.account.rpartition("\n")[0]
                )
                budgets.setdefault(name, []).append(row)
    shown: list[dict[str, Any]] = []
    for rows in sorted(budgets.values(), key=lambda each: each[0]["budget"]):
        rows.sort(key=lambda each: (-each["spent"], each["key"] or ""))
        for row in rows:
            row["keys"] = len(rows)
        shown += [each for each in rows if key is None or each["key"] in (None, key)][:MOST_KEYS]
    return shown


def _spend_row(balance: Balance) -> dict[str, Any] | None:
    """Return one account as a row, or None if its name is not that of a budget."""
    parts = balance.account.split("\n")
    if len(parts) not in (_PARTS, _PARTS + 1) or not all(map(str.isprintable, parts)):
        return None
    name, of, unit, per, _ = parts[:_PARTS]
    if unit not in UNITS or (of == EACH_KEY) != (len(parts) > _PARTS):
        return None
    start, end = _moment(balance.start), None if balance.end is None else _moment(balance.end)
    if start is None:
        return None

    def amount(value: int) -> float | int:
        return number_of(usd(value)) if unit == "usd" else value

    return {
        "budget": name or f"{of} {per} {unit}",
        "of": of,
        "key": parts[_PARTS] if len(parts) > _PARTS else None,
        "period_start": start,
        "resets_at": end,
        "spent": amount(balance.spent),
        "reserved": amount(balance.reserved),
        "cap": None,
        "calls": balance.calls,
        "estimated": balance.estimated,
        "unit": unit,
    }
