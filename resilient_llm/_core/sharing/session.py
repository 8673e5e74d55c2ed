"""What a session has seen of its store: the numbers that stand on every stamp.

Owns them. `resilient_llm.stores` says what a store does with a stamp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm._values.sharing import Stamp

if TYPE_CHECKING:
    from resilient_llm._values.sharing import Changes


class Session:
    """One process, as a store sees it."""

    def __init__(self, name: str, order: int = 0) -> None:
        """Begin a session.

        Args:
            name: Random text, another one for each process and after a fork.
            order: The highest order that is known from before.
        """
        self.name = name
        self.number = 0
        self.epoch: str | None = None
        self.revision = 0
        self.answered = 0
        self.order = order

    def child(self, name: str) -> Session:
        """Return the session of a child process, which has seen what its parent has."""
        session = Session(name, self.order)
        session.epoch, session.revision = self.epoch, self.revision
        return session

    def next_number(self) -> int:
        """Return the number of a new step."""
        self.number += 1
        return self.number

    def stamp(self, number: int = 0) -> Stamp:
        """Return the stamp of a step, or without a number that of a look."""
        return Stamp(self.name, number, self.epoch, self.revision, self.answered, self.order)

    def has_answer(self, number: int) -> None:
        """Note that a step was answered."""
        self.answered = max(self.answered, number)

    def follow(self, changes: Changes) -> None:
        """Note what a look has found."""
        if changes.epoch != self.epoch:
            self.epoch, self.answered = changes.epoch, 0
        self.revision = changes.revision

    def saw(self, order: int) -> None:
        """Note an order."""
        self.order = max(self.order, order)
