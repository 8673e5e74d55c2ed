"""Coroutines that synchronous code runs without an event loop."""

from __future__ import annotations

import asyncio

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
