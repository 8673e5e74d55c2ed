"""`Store`: what the library asks of a store. Its rules stand in `resilient_llm.stores`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resilient_llm._values.sharing import (
        Balance,
        Bench,
        Changes,
        Claim,
        Claimed,
        End,
        Published,
        Reserve,
        Reserved,
        Settle,
        Stamp,
    )


class Readable(Protocol):
    """Something that can be waited for with `selectors`, such as a socket."""

    def fileno(self) -> int: ...


class Store(Protocol):
    """What the library asks of a store; `resilient_llm.stores` explains each rule.

    Attributes:
        url: Where the data is, for people: without a user and a password.
        has_limits: Whether `Reserve.takes` may be used.
    """

    @property
    def url(self) -> str: ...
    @property
    def has_limits(self) -> bool: ...

    def publish(
        self,
        stamp: Stamp,
        changes: Sequence[Bench | End],
        balances: Sequence[Balance] = (),
        *,
        timeout: float,
    ) -> tuple[Published, ...]:
        """Store benches and ends, in their order, and wake those who wait.

        Args:
            stamp: Of the session.
            changes: New ones, and copies of others after a loss.
            balances: Of accounts, after a loss. ``spent``, ``calls`` and ``estimated`` rise to
                these and never fall; ``reserved`` is not looked at.
            timeout: Seconds.

        Returns:
            What became of each change.
        """
        ...

    def changes(self, stamp: Stamp, since: int, *, limit: int = 1000, timeout: float) -> Changes:
        """Return what has changed since a revision; it costs what has changed.

        The store notes that the session is there, if it can be written.

        Args:
            stamp: Of the session. If its epoch is not that of the data, or the data is older than
                the stamp, ``since`` counts as 0; and then ``is_lost`` is set, unless its epoch is
                None. Nothing is raised for it.
            since: `Changes.revision` of the look before; 0 for everything.
            limit: How many records and balances to return together at most, 1 or more.
            timeout: Seconds.
        """
        ...

    def wait(self, since: int, seconds: float, wake: Readable | None = None) -> bool:
        """Wait until a bench or an end was published after a revision.

        Spending does not wake a waiter. This is a hint only: the answer may be True for nothing,
        and what it misses is found by the next look.

        Args:
            since: `Changes.revision` of the latest look.
            seconds: The longest wait.
            wake: Ends the wait when it can be read, and is not read.

        Returns:
            Whether to look. False if the time is over, ``wake`` can be read, or `close` was called.

        Raises:
            StoreError: If it cannot be used now; at once, so a caller that asks again waits by
                itself.
        """
        ...

    def claim(
        self, stamp: Stamp, claims: Sequence[Claim], *, timeout: float
    ) -> tuple[Claimed, ...]:
        """Claim, renew or give back places of probes, each by itself."""
        ...

    def reserve(
        self, stamp: Stamp, reserves: Sequence[Reserve], *, lasts: float, timeout: float
    ) -> tuple[Reserved, ...]:
        """Reserve what attempts may use; each in all of its accounts and buckets, or in none.

        It is durable when it is answered.

        Args:
            stamp: Of the session.
            reserves: Of several attempts, which are admitted or refused in this order.
            lasts: Seconds until a reservation ends, if it is not renewed.
            timeout: Seconds.
        """
        ...

    def settle(
        self, stamp: Stamp, settles: Sequence[Settle], *, timeout: float
    ) -> tuple[Balance, ...]:
        """Book what attempts have used; it is durable when it is answered.

        Returns:
            Every account that it has changed, as it is afterwards, in no particular order.
        """
        ...

    def close(self) -> None:
        """Close the connections and end a `wait`; the next step opens them again."""
        ...
