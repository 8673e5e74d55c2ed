"""Coroutines that synchronous code runs without an event loop."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from resilient_llm._drive.tasks import run_to_end


def test_a_coroutine_that_suspends_is_refused() -> None:
    """A coroutine of synchronous code must not wait for a loop: it is closed, with an error."""
    closed: list[bool] = []

    async def suspends() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            closed.append(True)

    with pytest.raises(RuntimeError, match="was suspended"):
        run_to_end(suspends())
    assert [True] == closed


def test_errors_leave_unchanged() -> None:
    """A RuntimeError with a cause leaves as the object that was raised, with its cause."""
    error = RuntimeError("of the caller")

    async def fails() -> None:
        raise error from StopIteration()

    with pytest.raises(RuntimeError) as caught:
        run_to_end(fails())
    assert error is caught.value


def test_a_users_error_that_looks_like_python_s_leaves_as_it_is() -> None:
    """A RuntimeError of the user's own event loop is not taken for a StopIteration of ours."""

    async def closes() -> None:
        raise StopIteration("inner")

    async def leaves() -> None:
        asyncio.run(closes())

    with pytest.raises(RuntimeError, match="coroutine raised StopIteration"):
        run_to_end(leaves())


def test_a_coroutine_that_is_interrupted_before_it_runs_is_closed() -> None:
    """Nothing warns of a coroutine that was never awaited."""

    class Interrupted:
        is_closed = False

        def send(self, value: None) -> None:
            raise KeyboardInterrupt

        def close(self) -> None:
            self.is_closed = True

    interrupted: Any = Interrupted()

    with pytest.raises(KeyboardInterrupt):
        run_to_end(interrupted)

    assert interrupted.is_closed
