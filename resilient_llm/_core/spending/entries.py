"""What is taken from shared limits besides budgets: by entries of guards, and without the store.

A part of the shared ledger. Owns this process's part of each limit, which stands for the bucket in
the store while that gives no answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm._core.limits.buckets import bucket
from resilient_llm._core.spending.asking import Asked, TooSoon, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from resilient_llm._core.limits.buckets import Bucket, Charge
    from resilient_llm._core.limits.shared import SharedTake
    from resilient_llm._core.sharing.steps import AmountsAnswered
    from resilient_llm._core.spending.asking import Sharing


class Entries:
    """Takes what entries of guards need. May be used from any thread."""

    __slots__ = ("_lock", "_new_id", "_own_part", "_sharing")

    def __init__(
        self,
        sharing: Sharing,
        new_id: Callable[[], str],
        lock: Callable[[], AbstractContextManager[object]],
    ) -> None:
        """Begin with all of this process's part.

        Args:
            sharing: The thread of the store.
            new_id: Returns a random text of 1 to 64 characters.
            lock: Returns the lock of the ledger, which a fork replaces.
        """
        self._sharing = sharing
        self._new_id = new_id
        self._lock = lock
        self._own_part: dict[str, tuple[tuple[int, float, int], Bucket]] = {}
        """``{name in the store: (what it was made for, bucket)}``"""

    def asked(self, takes: tuple[SharedTake, ...]) -> Asked:
        """Return what one entry takes; `take` asks for it."""
        return Asked(self._sharing, self._new_id, (), takes)

    def take(self, asked: Asked) -> Unavailable | TooSoon | Asked | None:
        """Ask the store for what an entry takes.

        Returns:
            What is asked: its caller waits until that has an answer, at most so many
            `Asked.seconds`, and then calls `taken`. None if this process's part has room and the
            store is not asked; else why it is refused.
        """
        if self._sharing.view().is_down:
            return self._taken_here(asked)
        asked.ask()
        return asked

    def taken(self, asked: Asked) -> Unavailable | TooSoon | None:
        """Return what the answer of the store means, or that there is none; as `take`."""
        answer: AmountsAnswered | None = asked.answer
        if answer is None or answer.reserved is None:
            asked.give_back()
            return self._taken_here(asked)
        if answer.outcome == "admitted":
            return None
        retry_after = answer.reserved.retry_after
        return Unavailable() if retry_after == 0.0 else TooSoon(retry_after)

    def _taken_here(self, asked: Asked) -> Unavailable | TooSoon | None:
        if self._sharing.on_store_down != "local":
            return Unavailable()
        peers = self._sharing.view().peers
        with self._lock():
            return self.take_locked(asked, peers)

    def take_locked(self, asked: Asked, peers: int) -> TooSoon | None:
        """Take from this process's part of shared limits, or from none of them.

        Args:
            asked: What is asked for.
            peers: Processes that use the store, 1 or more; each has the same part.
        """
        now = self._sharing.clock()
        taken: list[Charge] = []
        for each in asked.takes:
            charge = self._bucket(each, peers).charge(each.take.amount)
            if not charge.take(now):
                for other in taken:
                    other.give_back()
                return TooSoon(charge.retry_after(now))
            taken.append(charge)
        return None

    def _bucket(self, wanted: SharedTake, peers: int) -> Bucket:
        take = wanted.take
        made_for = peers, take.interval, take.burst
        known = self._own_part.get(take.bucket)
        if known is None or known[0] != made_for:
            made = bucket(1, take.interval * peers, max(take.burst // peers, 1))
            known = self._own_part[take.bucket] = made_for, made
        return known[1]
