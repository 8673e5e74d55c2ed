"""Runs the asynchronous tests of this folder, as LangChain's standard tests are."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

import pytest

from resilient_llm.testing import isolated
from tests.integrations.langchain.adapters import Providers
from tests.integrations.langchain.model_server import ModelServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: Any) -> bool | None:
    """Run a test that is a coroutine function, in an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture
def providers() -> Iterator[Providers]:
    """Give two providers on loopback."""
    with isolated(), ModelServer("Groq says so.") as groq, ModelServer("OpenAI says so.") as openai:
        yield Providers(groq, openai)
