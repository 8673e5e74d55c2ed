"""A server with the admin app mounted, for each test."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from resilient_llm import admin, configure
from tests.support.asgi import TOKEN, Client, mounted, served

Serve = Callable[..., Client]


class Switch:
    """An application that has others mounted while tests run: one server is enough for all."""

    def __init__(self) -> None:
        self.apps: dict[str, Any] = {}
        """``{first part of the path: application}``"""
        self.numbers = itertools.count(1)
        self.port = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.apps[scope["path"].split("/")[1]](scope, receive, send)


@pytest.fixture(scope="module")
def _switch() -> Iterator[Switch]:
    switch = Switch()
    with served(switch, lifespan="off") as port:
        switch.port = port
        yield switch


@pytest.fixture
def serve(_fresh_state: None, _switch: Switch) -> Iterator[Serve]:
    """Serve an admin app with these options, or this one; return a client of it."""
    configure(logging=False)

    def start(app: Any = None, **options: Any) -> Client:
        if app is None:
            options.setdefault("authorize", admin.token(TOKEN))
            app = admin.app(**options)
        name = f"llm{next(_switch.numbers)}"
        _switch.apps[name] = mounted(app, f"/{name}")
        return Client(_switch.port, f"/{name}")

    yield start
    _switch.apps.clear()


@pytest.fixture
def client(serve: Serve) -> Client:
    """A client of an app with a token."""
    return serve()
