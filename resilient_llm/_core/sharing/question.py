"""`Question`: what one caller asks of the store, and waits for at most so many seconds.

The thread of the store answers it. A caller that waits no longer leaves it, and who answers it then
tells nobody: what the store has given meanwhile is given back by whoever asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Question:
    """One question. It is answered once, from another thread than that of its caller."""

    __slots__ = ("answer", "wake")

    def __init__(self) -> None:
        self.answer: Any = None
        """What the store has said; None until then."""
        self.wake: Callable[[], object] = _nobody
        """Set by who waits, who looks for an answer after that. Called from the thread of the
        store, and must not wait for anything."""

    def answered(self, answer: Any) -> None:
        """Give the answer and wake who waits; raises nothing."""
        self.answer = answer
        try:
            self.wake()
        except Exception:  # noqa: BLE001, S110  # its loop is closed, so nobody waits any more
            pass


class AllOf(Question):
    """Several questions that one caller waits for at once: it is answered when all are."""

    __slots__ = ("_questions",)

    def __init__(self, *questions: Question) -> None:
        super().__init__()
        self._questions = questions
        for each in questions:
            each.wake = self._look
        self._look()  # some may have been answered before there was somebody to wake

    def _look(self) -> None:
        if all(each.answer is not None for each in self._questions):
            self.answered(True)


def _nobody() -> None:
    pass
