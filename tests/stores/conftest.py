"""A server for the tests of `RedisStore`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.valkey import Server


@pytest.fixture(scope="module")
def shared_server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def server(shared_server: Server) -> Server:
    """Return a server without data."""
    with shared_server.client() as client:
        client.flushall()
    return shared_server
