"""Limits and budgets are tested twice: without locks, and with the locked fallback.

The fallback is what an interpreter without a global lock uses; see `window.LOCK_FREE`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.schedules import lock_free

BOTH = (
    "booked_inside",
    "budget_bookings",
    "budget_caps",
    "budget_refusals",
    "concurrency",
    "headers",
    "liveness",
    "passing",
    "together",
    "tokens",
)
"""Modules whose tests run in both ways."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Add the locked fallback to the tests of some modules."""
    if metafunc.module.__name__.rpartition(".test_")[2] in BOTH:
        metafunc.fixturenames.append("is_lock_free")
        metafunc.parametrize("is_lock_free", [True, False], ids=["", "locked"], indirect=True)


@pytest.fixture
def is_lock_free(_fresh_state: None, request: pytest.FixtureRequest) -> Iterator[bool]:
    """Have the test run with the switch for counting without locks as the parameter says."""
    with lock_free(request.param):
        yield request.param
