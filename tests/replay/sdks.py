"""How the SDK of each provider is pointed at the loopback server, and asked. Their own retries are off.

Each function takes a call and makes it; an async one gives the coroutine that does. SDKs are
imported where they are used, since most environments have few of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from tests.replay.calls import KEY, MESSAGES, QUESTION, Call

AWS = {"region": "us-east-1", "access_key": "AKIAEXAMPLE", "secret_key": "not-a-secret"}
_LEFT_OUT: Any = object()


def _ask_generated(
    call: Call, sync: Any, aio: Any, ask: Callable[..., Any], **settings: Any
) -> Any:
    """Ask a client out of the generator that made those of openai, anthropic, groq and others."""
    usual = {
        "api_key": None if call.api == "no_key" else KEY,
        "max_retries": 0,
        "timeout": call.timeout,
    }
    settings = {
        name: value for name, value in {**usual, **settings}.items() if value is not _LEFT_OUT
    }
    if call.is_async:

        async def story() -> Any:
            async with aio(**settings) as client:
                return await call.aread(ask(client))

        return story()
    with sync(**settings) as client:
        return call.read(ask(client))


def _chat(call: Call) -> Callable[[Any], Any]:
    """Return the question as everybody asks it who has the interface of openai's chat."""
    return lambda client: client.chat.completions.create(
        model=call.model, messages=MESSAGES, **call.streamed
    )


def openai(call: Call) -> Any:
    import openai

    def ask(client: Any) -> Any:
        match call.api:
            case "responses":
                return client.responses.create(model=call.model, input=QUESTION, **call.streamed)
            case "embeddings":
                return client.embeddings.create(model=call.model, input=QUESTION)
            case "images":
                return client.images.generate(model=call.model, prompt=QUESTION)
            case "bad_argument":
                return client.chat.completions.create(
                    model=call.model, messages=MESSAGES, temprature=0.1
                )
            case _:
                return _chat(call)(client)

    if call.api == "azure":
        azure = {"azure_endpoint": call.url, "api_version": "2024-10-21"}
        return _ask_generated(call, openai.AzureOpenAI, openai.AsyncAzureOpenAI, ask, **azure)
    return _ask_generated(call, openai.OpenAI, openai.AsyncOpenAI, ask, base_url=f"{call.url}/v1")


def anthropic(call: Call) -> Any:
    import anthropic

    def ask(client: Any) -> Any:
        # More than it lets one wait for without a stream, unless a timeout is set.
        longest = 1_000_000 if call.api == "long_nonstreaming" else 16
        return client.messages.create(
            model=call.model, max_tokens=longest, messages=MESSAGES, **call.streamed
        )

    if call.api == "bedrock":
        return _ask_generated(
            call,
            anthropic.AnthropicBedrock,
            anthropic.AsyncAnthropicBedrock,
            ask,
            api_key=_LEFT_OUT,
            base_url=call.url,
            aws_region=AWS["region"],
            aws_access_key=AWS["access_key"],
            aws_secret_key=AWS["secret_key"],
        )
    settings = {"timeout": _LEFT_OUT} if call.api == "long_nonstreaming" else {}
    return _ask_generated(
        call, anthropic.Anthropic, anthropic.AsyncAnthropic, ask, base_url=call.url, **settings
    )


def groq(call: Call) -> Any:
    import groq

    return _ask_generated(call, groq.Groq, groq.AsyncGroq, _chat(call), base_url=call.url)


def together(call: Call) -> Any:
    import together

    return _ask_generated(
        call, together.Together, together.AsyncTogether, _chat(call), base_url=call.url
    )


def fireworks(call: Call) -> Any:
    import fireworks

    return _ask_generated(
        call, fireworks.Fireworks, fireworks.AsyncFireworks, _chat(call), base_url=call.url
    )


def cerebras(call: Call) -> Any:
    from cerebras.cloud import sdk

    # It would greet the server before the first call.
    settings = {"base_url": call.url, "warm_tcp_connection": False}
    return _ask_generated(call, sdk.Cerebras, sdk.AsyncCerebras, _chat(call), **settings)


def mistral(call: Call) -> Any:
    try:
        from mistralai.client import Mistral
    except ImportError:  # before 2.0
        from mistralai import Mistral

    settings = {"api_key": KEY, "server_url": call.url, "timeout_ms": int(call.timeout * 1000)}
    question = {"model": call.model, "messages": MESSAGES}
    client = Mistral(**settings)  # not by `with`, which the first releases do not have
    name = "stream" if call.is_stream else "complete"
    if call.is_async:

        async def story() -> Any:
            return await call.aread(getattr(client.chat, f"{name}_async")(**question))

        return story()
    return call.read(getattr(client.chat, name)(**question))


def cohere(call: Call) -> Any:
    import cohere

    settings = {"api_key": KEY, "base_url": call.url, "timeout": call.timeout}
    options: Any = {"max_retries": 0, "timeout_in_seconds": call.timeout}
    if call.api == "v1":
        return cohere.Client(**settings).chat(
            message=QUESTION, model=call.model, request_options=options
        )

    def ask(client: Any) -> Any:
        if call.api == "embed":
            return client.embed(
                model=call.model,
                texts=[QUESTION],
                input_type="search_query",
                embedding_types=["float"],
                request_options=options,
            )
        chat = client.chat_stream if call.is_stream else client.chat
        return chat(model=call.model, messages=MESSAGES, request_options=options)

    if call.is_async:

        async def story() -> Any:
            return await call.aread(ask(cohere.AsyncClientV2(**settings)))

        return story()
    return call.read(ask(cohere.ClientV2(**settings)))


def google(call: Call) -> Any:
    from google import genai
    from google.genai import types

    options: dict[str, Any] = {"base_url": call.url, "timeout": int(call.timeout * 1000)}
    if hasattr(types, "HttpRetryOptions"):  # the first releases do not retry
        options["retry_options"] = types.HttpRetryOptions(attempts=1)
    key = None if call.api == "no_key" else KEY
    client = genai.Client(api_key=key, http_options=types.HttpOptions(**options))
    question = {"model": call.model, "contents": QUESTION}
    name = "generate_content_stream" if call.is_stream else "generate_content"
    if call.is_async:

        async def story() -> Any:
            try:
                return await call.aread(getattr(client.aio.models, name)(**question))
            finally:
                if hasattr(client.aio, "aclose"):
                    await client.aio.aclose()

        return story()
    return call.read(getattr(client.models, name)(**question))


def ollama(call: Call) -> Any:
    import ollama

    def ask(client: Any) -> Any:
        if call.api == "embed":
            return client.embed(model=call.model, input=QUESTION)
        return client.chat(model=call.model, messages=MESSAGES, **call.streamed)

    settings = {"host": call.url, "timeout": call.timeout}
    if call.is_async:

        async def story() -> Any:
            return await call.aread(ask(ollama.AsyncClient(**settings)))

        return story()
    return call.read(ask(ollama.Client(**settings)))


def bedrock(call: Call) -> Any:
    import boto3
    from botocore.config import Config

    once = Config(
        retries={"total_max_attempts": 1, "mode": "standard"},
        connect_timeout=call.timeout,
        read_timeout=call.timeout,
    )
    keys = {"aws_access_key_id": AWS["access_key"], "aws_secret_access_key": AWS["secret_key"]}
    session = boto3.Session(
        region_name=AWS["region"], **({} if call.api == "no_credentials" else keys)
    )
    client = session.client("bedrock-runtime", endpoint_url=call.url, config=once)
    if call.api == "bad_params":
        return client.converse(modelId=call.model, messages=QUESTION)
    if call.api == "invoke_model":
        if call.is_stream:
            return list(
                client.invoke_model_with_response_stream(modelId=call.model, body=b"{}")["body"]
            )
        return client.invoke_model(modelId=call.model, body=b"{}")["body"].read()
    messages = [{"role": "user", "content": [{"text": QUESTION}]}]
    if call.is_stream:
        return list(client.converse_stream(modelId=call.model, messages=messages)["stream"])
    return client.converse(modelId=call.model, messages=messages)


def huggingface(call: Call) -> Any:
    import huggingface_hub

    def ask(client: Any) -> Any:
        if call.api == "text_generation":
            return client.text_generation(QUESTION, **call.streamed)
        return client.chat_completion(messages=MESSAGES, **call.streamed)

    # The chat takes a base URL; the other tasks take the URL of a model's own endpoint.
    where = {"base_url": call.url} if call.api == "chat" else {"model": call.url}
    settings = {**where, "token": KEY, "timeout": call.timeout}
    if call.is_async:

        async def story() -> Any:
            aclient = huggingface_hub.AsyncInferenceClient(**settings)
            return await call.aread(ask(aclient))

        return story()
    client = huggingface_hub.InferenceClient(
        **settings
    )  # by name: one that is dropped closes its streams
    return call.read(ask(client))


def replicate(call: Call) -> Any:
    import httpx
    import replicate

    # Its own transport would retry.
    transport = httpx.AsyncHTTPTransport() if call.is_async else httpx.HTTPTransport()
    client = replicate.Client(
        api_token=KEY, base_url=call.url, timeout=httpx.Timeout(call.timeout), transport=transport
    )
    run = client.async_run if call.is_async else client.run
    return run("meta/meta-llama-3-8b-instruct", input={"prompt": QUESTION}, wait=False)


def azure_inference(call: Call) -> Any:
    from azure.core.credentials import AzureKeyCredential

    settings: dict[str, Any] = {
        "endpoint": call.url,
        "credential": AzureKeyCredential(KEY),
        "retry_total": 0,
        "connection_timeout": call.timeout,
        "read_timeout": call.timeout,
    }
    if call.is_async:

        async def story() -> Any:
            from azure.ai.inference.aio import ChatCompletionsClient

            async with ChatCompletionsClient(**settings) as client:
                return await call.aread(client.complete(messages=MESSAGES, **call.streamed))

        return story()
    from azure.ai.inference import ChatCompletionsClient

    with ChatCompletionsClient(**settings) as client:
        return call.read(client.complete(messages=MESSAGES, **call.streamed))


def watsonx(call: Call) -> Any:
    from ibm_watsonx_ai import APIClient, Credentials
    from ibm_watsonx_ai.foundation_models import ModelInference

    call.before.update(
        {
            "/ml/v1/foundation_model_specs": {
                "resources": [{"model_id": call.model, "functions": [{"id": "text_chat"}]}]
            },
            "/v2/version": {"version": "5.2.0"},
            "/v2/projects": {
                "metadata": {"guid": "project"},
                "entity": {
                    "name": "project",
                    "storage": {"type": "bmcos_object_storage"},
                    "compute": [
                        {"type": "machine_learning", "guid": "guid", "name": "name", "crn": "crn"}
                    ],
                },
            },
        }
    )
    logging.disable(logging.CRITICAL)  # it logs every error with its traceback
    try:
        where = Credentials(
            url=call.url, token=KEY, instance_id="openshift", version="5.2", verify=False
        )
        client = APIClient(where)
        model = ModelInference(
            model_id=call.model,
            api_client=client,
            project_id="project",
            validate=False,
            max_retries=0,
        )
        return model.chat(messages=MESSAGES)
    finally:
        logging.disable(logging.NOTSET)


def voyage(call: Call) -> Any:
    import voyageai

    client = voyageai.AsyncClient if call.is_async else voyageai.Client
    settings = {"api_key": KEY, "base_url": call.url, "timeout": call.timeout, "max_retries": 0}
    return client(**settings).embed([QUESTION], model="voyage-3")
