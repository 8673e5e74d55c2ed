"""A server with the admin app mounted, for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from resilient_llm import admin, configure
from tests.support.asgi import TOKEN, Client, mounted, served

Serve = Callable[..., Client]


@pytest.fixture
def serve(_fresh_state: None) -> Iterator[Serve]:
    """Serve an admin app with these options, mounted at ``/llm``; return a client of it."""
    configure(logging=False)
    with ExitStack() as stack:

        def start(**options: Any) -> Client:
            options.setdefault("authorize", admin.token(TOKEN))
            port = stack.enter_context(served(mounted(admin.app(**options))))
            return Client(port, "/llm")

        yield start


@pytest.fixture
def client(serve: Serve) -> Client:
    """A client of an app with a token."""
    return serve()
