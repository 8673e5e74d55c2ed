"""What the tests of the drivers have in common."""

from __future__ import annotations

import pytest

from resilient_llm._core.circuit.permit import open_permits


@pytest.fixture(autouse=True)
def _no_lease_is_held() -> None:
    """Start without a lease that a failed test may have left in this thread."""
    open_permits.set(())
