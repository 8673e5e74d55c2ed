"""A fresh state of the process and a host for each test, and the ways to run it in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from resilient_llm.testing import isolated
from tests.integrations.httpx.host import Host
from tests.integrations.httpx.ways import WAYS, Way


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    with isolated():
        yield


@pytest.fixture
def host() -> Iterator[Host]:
    """A host on loopback."""
    with Host() as server:
        yield server


@pytest.fixture(params=WAYS, ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    """One way to use the transports."""
    found: Way = request.param
    return found
