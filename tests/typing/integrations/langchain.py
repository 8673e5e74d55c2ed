"""A small application over the adapter for LangChain. Checked by pyright and mypy, never run.

Every line that is wrong carries an ignore for each checker, and both report an ignore that hides
nothing.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import assert_type

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.tools import BaseTool

from resilient_llm import Failover, StreamPolicy, Target
from resilient_llm.integrations import langchain
from resilient_llm.integrations.langchain import FailoverChatModel


def by_name(groq: BaseChatModel, openai: BaseChatModel) -> FailoverChatModel:
    return langchain.failover(
        {"groq/llama-3.3-70b-versatile": groq, "openai/gpt-5-mini": openai},
        timeout=30.0,
        attempts=2,
        stream=StreamPolicy(first_item_timeout=5.0),
        cache=True,
    )


def by_target(groq: BaseChatModel) -> FailoverChatModel:
    return langchain.failover({Target("groq/llama", supports=["tools"]): groq})


def from_a_list(groq: BaseChatModel, openai: BaseChatModel) -> FailoverChatModel:
    return langchain.failover([groq, openai])


def ask(llm: FailoverChatModel, tools: list[BaseTool]) -> str:
    assert_type(llm.policy, Failover)
    message = llm.invoke("Why is the sky blue?")
    assert_type(message, AIMessage)
    bound = llm.bind_tools(tools, tool_choice="any").invoke("Why?")
    assert_type(bound, AIMessage)
    for chunk in llm.stream("Why?"):
        assert_type(chunk, AIMessageChunk)
    model: BaseChatModel = llm
    return model.get_name()


async def aask(llm: FailoverChatModel) -> AsyncIterator[AIMessageChunk]:
    assert_type(await llm.ainvoke("Why?"), AIMessage)
    async for chunk in llm.astream("Why?"):
        yield chunk


def wrong(groq: BaseChatModel) -> None:
    langchain.failover({"groq/llama": groq}, attempst=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    langchain.failover({"groq/llama": groq}, attempts="two")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    langchain.failover({"groq/llama": "llama"})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    langchain.failover(groq)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
