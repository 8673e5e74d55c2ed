"""`spend`, `spend_total`, `reset_spend` and `spend_key`: what was spent, and on whose account."""

from __future__ import annotations

from contextlib import AbstractContextManager
from contextvars import Token
from decimal import Decimal
from typing import Any, NoReturn

from resilient_llm._runtime.runtime import runtime
from resilient_llm._runtime.spending import present_key
from resilient_llm._values.errors import ConfigurationError
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
    given: Any = name
    if given is not None and not isinstance(given, str):
        raise ConfigurationError(
            f"name of type {type(given).__name__} is not allowed: write the name of a budget, or "
            "None for all"
        )
    runtime.ledger.reset(name)
    runtime.unbind_all()  # the next call of each function shows its target in the totals again


def spend_key(key: str) -> AbstractContextManager[None]:
    """Have calls that begin inside the block spend on the account of a key, such as a tenant.

    For budgets with ``of="key"``. The innermost block counts; tasks and threads that are started
    there with the context also have the key. Python gives a generator the context of its consumer:
    while a generator stands at a ``yield`` inside the block, calls of its consumer have the key.

        with spend_key("tenant-7"):
            await ask("…")

    Args:
        key: 1 to 200 printable characters.

    Raises:
        ConfigurationError: If it is something else, or if it is used as a decorator.
    """
    return _SpendKey(spend_key_of(key))


class _SpendKey(AbstractContextManager[None]):
    """One block. Not made of `contextlib.contextmanager`, whose objects are decorators as well.

    A decorator would give the key to an asynchronous function and to a generator only until their
    coroutine or iterator is made, before the first call begins.
    """

    __slots__ = ("_key", "_token")

    def __init__(self, key: str) -> None:
        self._key = key
        self._token: Token[str | None] | None = None

    def __enter__(self) -> None:
        if self._token is not None:
            raise ConfigurationError("a spend key is entered twice: write spend_key(…) each time")
        self._token = present_key.set(self._key)

    def __exit__(self, *_: object) -> None:
        token, self._token = self._token, None
        if token is None:
            return
        try:
            present_key.reset(token)
        except ValueError:  # it is left in another context, as a generator that is closed late
            if present_key.get() is self._key:  # a copy of the one in which it was entered
                old = token.old_value
                present_key.set(None if old is Token.MISSING else old)

    def __call__(self, *_: object, **__: object) -> NoReturn:
        raise ConfigurationError(
            "spend_key is no decorator: write 'with spend_key(…):' inside the function"
        )
