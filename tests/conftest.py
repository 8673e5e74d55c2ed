"""Every test starts with a fresh state of the library and leaves none behind."""

from collections.abc import Iterator

import pytest

from resilient_llm import testing


@pytest.fixture(autouse=True)
def _fresh_state() -> Iterator[None]:
    """Run the test on circuits, settings and observers of its own."""
    with testing.isolated():
        yield


@pytest.fixture
def clock(_fresh_state: None) -> Iterator[object]:
    """The library's clock, moved by the test alone: ``clock.advance(seconds)``, ``clock.sleeps``."""
    with testing.fake_clock() as fake:
        yield fake
