"""The providers of the tests of how-to pages about frameworks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.apps import Providers


@pytest.fixture
def server() -> Iterator[Providers]:
    """Groq and OpenAI on loopback; modules with another kind of server have their own fixture."""
    with Providers() as providers:
        yield providers
