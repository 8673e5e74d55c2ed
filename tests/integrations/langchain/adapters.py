"""Adapters over models on loopback, and how a scenario is played with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_openai import ChatOpenAI

from resilient_llm.integrations import langchain
from tests.integrations.scenarios import LLAMA, MINI, Stage

if TYPE_CHECKING:
    from resilient_llm.integrations.langchain import FailoverChatModel
    from tests.integrations.langchain.model_server import ModelServer

PROMPT = "Why is the sky blue?"


def chat_openai(url: str, model: str = "gpt-5-mini", **fields: Any) -> ChatOpenAI:
    """Return a model of a server on loopback, without retries of its own."""
    known = {"api_key": "not-a-key", "max_retries": 0, **fields}
    return ChatOpenAI(model=model, base_url=url, **known)


def adapter_of(here: Stage, **options: Any) -> FailoverChatModel:
    """Return the adapter over the two providers of a stage."""
    models = {
        LLAMA: chat_openai(here.urls["groq"], "llama-3.3-70b"),
        MINI: chat_openai(here.urls["openai"]),
    }
    known = here.options
    if "timeout" in known:
        known["timeout"] *= 4  # the first request of a model makes a client, on a slow machine late
    return langchain.failover(models, **{**known, **options})


def by_adapter(here: Stage) -> str:
    """Call the adapter in synchronous code."""
    llm = adapter_of(here)
    if here.scenario.streams:
        return "".join(chunk.text for chunk in llm.stream(PROMPT))
    return str(llm.invoke(PROMPT).text)


async def aby_adapter(here: Stage) -> str:
    """Call the adapter in asynchronous code."""
    llm = adapter_of(here)
    if here.scenario.streams:
        return "".join([chunk.text async for chunk in llm.astream(PROMPT)])
    return str((await llm.ainvoke(PROMPT)).text)


class Providers:
    """Two providers, and models of them.

    Attributes:
        groq: The first one.
        openai: The second one.
    """

    def __init__(self, groq: ModelServer, openai: ModelServer) -> None:
        self.groq = groq
        self.openai = openai

    def models(self, **fields: Any) -> dict[str, ChatOpenAI]:
        """Return a model of each."""
        return {
            LLAMA: chat_openai(self.groq.url, "llama-3.3-70b", **fields),
            MINI: chat_openai(self.openai.url, **fields),
        }

    def adapter(self, **options: Any) -> FailoverChatModel:
        """Return the adapter over both, with one attempt on each."""
        return langchain.failover(self.models(), **{"attempts": 1, **options})
