"""LangChain's standard tests for chat models, over models of langchain-openai on loopback.

The integration tests are those of `langchain_tests`. They are skipped where the server cannot
answer (images, sound, documents, Anthropic's own formats) and where they would record traffic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from resilient_llm.integrations.langchain import FailoverChatModel
from tests.integrations.langchain.adapters import chat_openai
from tests.integrations.langchain.model_server import ModelServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_core.language_models import BaseChatModel

# Warnings of langchain-openai: of classes of pydantic 1 as schemas, and of openai's parsed streams.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Received a Pydantic BaseModel V1 schema"),
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings"),
]

LLAMA, MINI = "groq/llama-3.3-70b", "openai/gpt-5-mini"
_urls: dict[str, str] = {}


@pytest.fixture(scope="module", autouse=True)
def _servers() -> Iterator[None]:
    """Run two providers for the tests of this module."""
    with ModelServer() as first, ModelServer() as second:
        _urls.update(groq=first.url, openai=second.url)
        yield


def _models() -> dict[str, Any]:
    # The unit tests call nothing.
    unused = "http://127.0.0.1:9/v1"
    return {
        LLAMA: chat_openai(_urls.get("groq", unused), "llama-3.3-70b", stream_usage=True),
        MINI: chat_openai(_urls.get("openai", unused), stream_usage=True),
    }


class TestUnit(ChatModelUnitTests):
    """LangChain's unit tests, with the parameters that they give to every chat model."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return FailoverChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"models": _models()}


class TestIntegration(ChatModelIntegrationTests):
    """LangChain's integration tests."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return FailoverChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"models": _models()}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_model_override(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str | None:
        return "gpt-5-mini"
