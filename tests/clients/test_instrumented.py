"""The clients of openai and anthropic with their own instrumentation: its spans are below ours."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")
pytest.importorskip("openai")
pytest.importorskip("anthropic")

import anthropic
import openai

from resilient_llm import Target, failover
from resilient_llm.demo.servers import Server
from tests.support.spans import Recorded, attributes, recorded
from tests.support.stream_server import StreamServer
from tests.support.ways import run_async

MESSAGES = [{"role": "user", "content": "Will it rain?"}]
MODELS = {"openai": "gpt-5-mini", "anthropic": "claude-haiku"}
INSTRUMENTORS = {
    "opentelemetry.instrumentation.openai_v2": ("openai", "OpenAIInstrumentor"),
    "openinference.instrumentation.openai": ("openai", "OpenAIInstrumentor"),
    "opentelemetry.instrumentation.anthropic": ("anthropic", "AnthropicInstrumentor"),
    "openinference.instrumentation.anthropic": ("anthropic", "AnthropicInstrumentor"),
}
"""``{module: (client, class)}``. Some cannot be installed beside others; those are skipped."""


@pytest.fixture(params=INSTRUMENTORS)
def instrumented(request: pytest.FixtureRequest) -> Iterator[tuple[str, Recorded]]:
    """One provider, with its instrumentation and ours recording together."""
    provider, name = INSTRUMENTORS[request.param]
    pytest.importorskip(request.param)
    instrumentor = getattr(importlib.import_module(request.param), name)()
    with recorded() as found:
        instrumentor.instrument(tracer_provider=found.tracers)
        try:
            yield provider, found
        finally:
            instrumentor.uninstrument()


@contextmanager
def serving(provider: str, *, stream: bool) -> Iterator[str]:
    """Serve answers, or streams of them; gives the base URL."""
    if stream:
        with StreamServer() as server:
            yield server.url(provider, "healthy")
    else:
        with Server(provider) as server:
            yield server.url


def client(provider: str, url: str, *, is_async: bool = False) -> Any:
    package = {"openai": openai, "anthropic": anthropic}[provider]
    prefix = "Async" if is_async else ""
    http_client = getattr(package, f"Default{prefix}HttpxClient")(trust_env=False)
    name = {"openai": "OpenAI", "anthropic": "Anthropic"}[provider]
    return getattr(package, prefix + name)(
        base_url=url, api_key="not-a-key", max_retries=0, http_client=http_client
    )


def request(provider: str, of: Any, *, stream: bool = False) -> Any:
    """Send a request, or for an asynchronous client return what sends it."""
    options: dict[str, Any] = {"model": MODELS[provider], "messages": MESSAGES, "stream": stream}
    if provider == "openai":
        return of.chat.completions.create(**options)
    return of.messages.create(max_tokens=100, **options)


def check(found: Recorded) -> None:
    """Check that the instrumentation made one span, below that of the attempt."""
    ours = {span.context.span_id: span for span in found.spans if "resilient_llm" in _scope(span)}
    theirs = [span for span in found.spans if span.context.span_id not in ours]
    assert 1 == len(theirs)
    attempt = ours[theirs[0].parent.span_id]
    assert "ok" == attributes(attempt)["outcome"]
    assert attempt.context.trace_id == theirs[0].context.trace_id
    assert 2 == len(ours)


def _scope(span: Any) -> str:
    return span.instrumentation_scope.name


def test_an_answer(instrumented: tuple[str, Recorded]) -> None:
    """Its span has the attempt for a parent, and ours the same tokens."""
    provider, found = instrumented
    with serving(provider, stream=False) as url, client(provider, url) as of:

        @failover(f"{provider}/{MODELS[provider]}")
        def ask(target: Target) -> Any:
            return request(provider, of)

        ask()

    check(found)


def test_a_stream(instrumented: tuple[str, Recorded]) -> None:
    """The instrumentation wraps the stream, and its span ends with it."""
    provider, found = instrumented
    with serving(provider, stream=True) as url, client(provider, url) as of:

        @failover(f"{provider}/{MODELS[provider]}")
        def ask(target: Target) -> Any:
            return request(provider, of, stream=True)

        for _ in ask():
            pass

    check(found)


@pytest.mark.parametrize("stream", [False, True])
def test_on_asyncio(instrumented: tuple[str, Recorded], stream: bool) -> None:
    """The same for the asynchronous clients."""
    provider, found = instrumented

    async def main() -> None:
        async with client(provider, url, is_async=True) as of:

            @failover(f"{provider}/{MODELS[provider]}")
            async def ask(target: Target) -> Any:
                return await request(provider, of, stream=stream)

            answer = await ask()
            if stream:
                async for _ in answer:
                    pass

    with serving(provider, stream=stream) as url:
        run_async(main)

    check(found)
