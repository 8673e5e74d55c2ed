"""How libraries that call SDKs of others are pointed at the loopback server, and asked."""

from __future__ import annotations

from typing import Any

from tests.replay.calls import KEY, MESSAGES, QUESTION, Call
from tests.replay.sdks import AWS


def _openai_settings(call: Call) -> dict[str, Any]:
    return {"api_key": KEY, "base_url": f"{call.url}/v1", "max_retries": 0, "timeout": call.timeout}


def _anthropic_settings(call: Call) -> dict[str, Any]:
    return {"api_key": KEY, "base_url": call.url, "max_retries": 0, "timeout": call.timeout}


async def pydantic_ai(call: Call) -> Any:
    from openai import AsyncOpenAI
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    async with AsyncOpenAI(**_openai_settings(call)) as client:
        model = OpenAIChatModel("gpt-4o", provider=OpenAIProvider(openai_client=client))
        return await Agent(model, retries=0).run(QUESTION)


def langchain(call: Call) -> Any:
    from langchain_openai import AzureChatOpenAI, ChatOpenAI, OpenAIEmbeddings

    settings = _openai_settings(call)
    if call.api == "embeddings":
        # Counting tokens would fetch a table from elsewhere.
        model = OpenAIEmbeddings(
            model="text-embedding-3-small", check_embedding_ctx_length=False, **settings
        )
        return model.embed_query(QUESTION)
    if call.api == "azure":
        del settings["base_url"]
        azure = {
            "azure_deployment": "weather",
            "azure_endpoint": call.url,
            "api_version": "2024-10-21",
        }
        chat: Any = AzureChatOpenAI(**azure, **settings)
    else:
        chat = ChatOpenAI(model="gpt-4o", **settings)
    if call.is_async:
        return call.aread(chat.astream(QUESTION) if call.is_stream else chat.ainvoke(QUESTION))
    return call.read(chat.stream(QUESTION) if call.is_stream else chat.invoke(QUESTION))


def instructor(call: Call) -> Any:
    import anthropic
    import instructor
    import openai
    from pydantic import BaseModel

    class Answer(BaseModel):
        answer: int

    question: dict[str, Any] = {
        "messages": MESSAGES,
        "response_model": Answer,
        "max_retries": call.case.options.get("max_retries", 1),
    }
    if call.api == "anthropic":
        client = instructor.from_anthropic(anthropic.Anthropic(**_anthropic_settings(call)))
        return client.messages.create(model="claude-sonnet-4-5", max_tokens=16, **question)
    inner = openai.AsyncOpenAI if call.is_async else openai.OpenAI
    client = instructor.from_openai(inner(**_openai_settings(call)))
    return client.chat.completions.create(model="gpt-4o", **question)


def litellm(call: Call) -> Any:
    import litellm

    litellm.suppress_debug_info = True
    litellm.telemetry = False
    if call.model.startswith("bedrock/"):
        where = {
            "aws_bedrock_runtime_endpoint": call.url,
            "aws_region_name": AWS["region"],
            "aws_access_key_id": AWS["access_key"],
            "aws_secret_access_key": AWS["secret_key"],
        }
    else:
        where = {"api_base": call.url, "api_key": KEY}
    question: dict[str, Any] = {
        "model": call.model,
        "messages": MESSAGES,
        "num_retries": 0,
        "max_retries": 0,
        "timeout": call.timeout,
        **where,
        **call.streamed,
    }
    if call.is_async:
        return call.aread(litellm.acompletion(**question))
    return call.read(litellm.completion(**question))
