"""`spend`, `spend_total`, `reset_spend` and `spend_key`: what was spent, and on whose account."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from decimal import Decimal

from resilient_llm._runtime.runtime import runtime
from resilient_llm._runtime.spending import present_key
from resilient_llm._values.money import SpendReport, spend_key_of


def spend() -> list[SpendReport]:
    """Return what each budget has spent in its present period, sorted by name and key.

    A budget that counts each key of `spend_key` by itself has a row for each key that was used.
    """
    return runtime.ledger.reports(runtime.wall())


def spend_total() -> dict[str, Decimal]:
    """Return ``{target: USD}``, all that was booked since the process began or `reset_spend`."""
    return runtime.ledger.totals()


def reset_spend(name: str | None = None) -> None:
    """Forget what was spent; reservations of attempts in flight stay, and are booked when they end.

    Args:
        name: Name of a budget; None for all of them and for `spend_total`.

    Raises:
        ConfigurationError: If there is no budget of that name.
    """
    runtime.ledger.reset(name)


@contextmanager
def spend_key(key: str) -> Generator[None, None, None]:
    """Have calls that begin inside the block spend on the account of a key, such as a tenant.

    For budgets with ``of="key"``. The innermost block counts; tasks and threads that are started
    there with the context have the key, too.

        with spend_key("tenant-7"):
            await ask("…")

    Args:
        key: 1 to 200 printable characters.

    Raises:
        ConfigurationError: If it is something else.
    """
    token = present_key.set(spend_key_of(key))
    try:
        yield
    finally:
        try:
            present_key.reset(token)
        except ValueError:  # it is left in another context than it was entered in
            present_key.set(None)
