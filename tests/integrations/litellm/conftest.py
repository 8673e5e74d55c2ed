"""Keeps LiteLLM off the network, and quiet about what is not ours."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest

# It would fetch its prices from the network when it is imported.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import litellm

    # It loads most of its code with the first call, which may take longer than a scenario has.
    litellm.completion("openai/gpt-5-mini", [{"role": "user", "content": "x"}], mock_response="x")

litellm.suppress_debug_info = True
litellm.telemetry = False

# Of pydantic, about types of LiteLLM that are loaded with its first calls, and about its answers.
_NOT_OURS = (
    "ignore:Item.* on TypedDict class:UserWarning",
    "ignore:Use 'content=:DeprecationWarning",  # of httpx, about how old releases of LiteLLM call it
    "ignore:Accessing the 'model_fields' attribute:DeprecationWarning",
    "ignore:Pydantic serializer warnings:UserWarning",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ignore warnings about LiteLLM's own code in the tests of this folder."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for line in _NOT_OURS:
                item.add_marker(pytest.mark.filterwarnings(line))
