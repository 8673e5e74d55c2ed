"""Fixtures for pytest: ``resilient_llm`` isolates a test, ``fake_clock`` moves its time by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

    from resilient_llm.testing import FakeClock


@pytest.fixture(name="resilient_llm")
def _resilient_llm() -> Generator[Any, None, None]:
    """Run the test in a fresh state of the process; gives the package."""
    import resilient_llm
    from resilient_llm.testing import isolated

    with isolated():
        yield resilient_llm


@pytest.fixture(name="fake_clock")
def _fake_clock() -> Generator[FakeClock, None, None]:
    """Give a clock that is moved by hand."""
    from resilient_llm.testing import fake_clock

    with fake_clock() as clock:
        yield clock
