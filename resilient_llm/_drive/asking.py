"""Waits for the answer of a store, for a thread and for a task.

The store is answered by a thread on real time, so these waits are real, too, under a fake clock.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from resilient_llm._drive.tasks import waker
from resilient_llm._runtime.runtime import runtime

if TYPE_CHECKING:
    from resilient_llm._core.sharing.question import Question


def wait_for_answer(question: Question, seconds: float) -> None:
    """Block this thread until a question is answered, or for so many seconds."""
    told = threading.Lock()
    told.acquire()

    def wake() -> None:
        try:
            told.release()
        except RuntimeError:  # it was woken before
            pass

    question.wake = wake
    if question.answer is None and seconds > 0.0:
        told.acquire(timeout=seconds)


async def await_answer(question: Question, seconds: float) -> None:
    """Wait until a question is answered, or for so many seconds."""
    import anyio

    event, soon = anyio.Event(), waker()
    question.wake = lambda: soon(event.set)
    if question.answer is None and seconds > 0.0:
        with runtime.system_clock.cancel_after(seconds):
            await event.wait()
