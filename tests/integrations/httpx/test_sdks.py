"""Clients of SDKs over the transports, alone and in a chain."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Any

import pytest

from resilient_llm import (
    AttemptFailed,
    BreakerOpenError,
    StreamInterruptedError,
    breaker,
    classify,
    failover,
    health,
)
from resilient_llm.testing import capture_events
from tests.support.providers import FAIR, Provider, overloaded
from tests.support.stream_server import StreamServer

MESSAGES: Any = [{"role": "user", "content": "Why is the sky blue?"}]
SDKS = {"openai": "OpenAI", "anthropic": "Anthropic", "groq": "Groq"}


def http_of(sdk: str) -> tuple[Any, Any]:
    """Return the HTTP library that an SDK uses, and our module for it."""
    module = pytest.importorskip(sdk)
    client = getattr(module, SDKS[sdk])(api_key="key")
    name = next(
        root
        for cls in type(client._client).__mro__
        if (root := cls.__module__.partition(".")[0]) in ("httpx", "httpx2")
    )
    client.close()
    return import_module(name), import_module(f"resilient_llm.integrations.{name}")


def client_of(sdk: str, url: str, *, is_async: bool, max_retries: int = 0, **options: Any) -> Any:
    """Return a client of an SDK over a transport with these options."""
    library, ours = http_of(sdk)
    if is_async:
        http = library.AsyncClient(transport=ours.AsyncBreakerTransport(**options))
    else:
        http = library.Client(transport=ours.BreakerTransport(**options))
    cls = getattr(import_module(sdk), ("Async" if is_async else "") + SDKS[sdk])
    base = url.removesuffix("/v1") if sdk == "anthropic" else url
    base = url.removesuffix("/v1") if sdk == "groq" else base
    return cls(api_key="key", base_url=base, http_client=http, max_retries=max_retries)


def ask(sdk: str, client: Any, **options: Any) -> Any:
    """Ask as the SDK does."""
    if sdk == "anthropic":
        return client.messages.create(model="m", max_tokens=9, messages=MESSAGES, **options)
    return client.chat.completions.create(model="m", messages=MESSAGES, **options)


@pytest.fixture(params=SDKS)
def sdk(request: pytest.FixtureRequest) -> str:
    """One SDK that is installed."""
    pytest.importorskip(request.param)
    return str(request.param)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_retries_of_a_client_meet_the_open_circuit(sdk: str, is_async: bool) -> None:
    """Once the circuit is open, the SDK's own retries send nothing, and its error is a rejection."""
    with Provider("anthropic" if sdk == "anthropic" else "openai") as server:
        server.says(overloaded("openai", 503, **{"retry-after": "0"}))

        async def main() -> BaseException:
            client = client_of(sdk, server.url, is_async=is_async, max_retries=3, failures=2)
            error: BaseException | None = None
            try:
                answer = ask(sdk, client)
                if is_async:
                    await answer
            except Exception as caught:
                error = caught
            result = client.close()
            if is_async:
                await result
            assert error is not None
            return error

        error = asyncio.run(main())

        assert 2 == len(server.requests)
        assert "APIConnectionError" == type(error).__name__
        cause = error.__cause__
        library, ours = http_of(sdk)
        assert type(cause) is ours.BreakerOpenTransportError
        assert isinstance(cause, library.TransportError)
        verdict = classify(error)
        assert ("rejected", cause.retry_after) == (verdict.kind, verdict.retry_after)
        assert not verdict.harms_health
        assert "BreakerOpenTransportError" in str(classify.explain(error))


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_an_answer_of_an_sdk_is_a_success(sdk: str, is_async: bool) -> None:
    """A whole answer and a whole stream of an SDK count as one success each."""
    with Provider("anthropic" if sdk == "anthropic" else "openai") as server:
        server.says(FAIR)

        async def main() -> None:
            client = client_of(sdk, server.url, is_async=is_async)
            answer = ask(sdk, client)
            if is_async:
                await answer
                stream = await ask(sdk, client, stream=True)
                assert [item async for item in stream]
                await client.close()
            else:
                assert list(ask(sdk, client, stream=True))
                client.close()

        asyncio.run(main())
        found = health()[f"127.0.0.1:{server.port}"]

        assert (2, 0) == (found.total, found.errors)


def test_a_connection_error_keeps_its_verdict_without_a_guard(sdk: str) -> None:
    """A connection error of an SDK whose cause is no rejection stays a failure."""
    with Provider("openai") as gone:
        pass
    client = client_of(sdk, gone.url, is_async=False)
    with pytest.raises(Exception, match="Connection error") as caught:
        ask(sdk, client)
    client.close()

    assert "transient" == classify(caught.value).kind
    assert 1 == health()[f"127.0.0.1:{gone.port}"].errors


@pytest.mark.parametrize("path", ["cut-before", "cut-midway", "reset-midway"])
def test_a_stream_that_is_cut_is_a_failure_of_its_host(path: str) -> None:
    """A stream of the openai client that breaks counts as one failure."""
    with StreamServer() as server:
        server.waits_for_client = False
        client = client_of("openai", server.url("openai", path), is_async=False, failures=1)
        with pytest.raises(Exception) as caught:  # of whatever class
            for _ in ask("openai", client, stream=True):
                continue
        client.close()

        assert not isinstance(caught.value, BreakerOpenError)
        found = health()[f"127.0.0.1:{server.port}"]
        assert ("open", 1, 1) == (found.state, found.total, found.errors)


def chain_over(bad: Any, good: Any) -> Any:
    @failover(chain=["bad/m", "good/m"], attempts=1)
    def call(*, provider: str = "", **options: Any) -> Any:
        return ask("openai", {"bad": bad, "good": good}[provider], **options)

    return call


@pytest.mark.parametrize("key", [None, "bad", "bad/m"])
def test_a_chain_over_guarded_clients_charges_each_key_once(key: str | None) -> None:
    """A refusal is charged once to its host or to the key of the transport, once to its target."""
    with Provider("openai") as first, Provider("openai") as second:
        first.says(overloaded("openai", 503))
        host = key or f"127.0.0.1:{first.port}"
        options: dict[str, Any] = {} if key is None else {"key": lambda _: key}
        bad = client_of("openai", first.url, is_async=False, failures=2, **options)
        good = client_of("openai", second.url, is_async=False)
        call = chain_over(bad, good)
        with capture_events() as events:
            assert call().choices
            # A provider's numbers are its own and those of its targets.
            assert {host: 2 if key == "bad" else 1, "bad/m": 1} == {
                each: health()[each].errors for each in (host, "bad/m")
            }
            assert call().choices
            assert call().choices
        bad.close()
        good.close()

        assert "open" == breaker(host).state
        assert 2 == len(first.requests)
        assert 2 == health()["bad/m"].errors
        kinds = [each.kind for each in events if isinstance(each, AttemptFailed)]
        # An open key of the chain is skipped before the attempt; a host refuses it inside.
        assert ["transient", "transient", *(["rejected"] if key is None else [])] == kinds


def test_a_stream_in_a_chain_is_charged_once() -> None:
    """A stream that breaks after content leaves as StreamInterruptedError, each key charged once."""
    with StreamServer() as first, StreamServer() as second:
        first.waits_for_client = False
        bad = client_of("openai", first.url("openai", "cut-midway"), is_async=False)
        good = client_of("openai", second.url("openai", "healthy"), is_async=False)
        with pytest.raises(StreamInterruptedError):
            for _ in chain_over(bad, good)(stream=True):
                continue
        bad.close()
        good.close()

        for key in (f"127.0.0.1:{first.port}", "bad/m"):
            assert 1 == health()[key].errors


def test_the_error_of_an_open_host_may_leave_the_chain() -> None:
    """With reraise, the SDK's error leaves, and what refused the request is beneath it."""
    with Provider("openai") as server:
        client = client_of("openai", server.url, is_async=False, mode="forced_open")

        @failover(chain=["bad/m"], reraise=True)
        def call(*, model: str = "") -> Any:
            return ask("openai", client)

        with pytest.raises(Exception, match="Connection error") as caught:
            call()
        client.close()

        assert isinstance(caught.value.__cause__, BreakerOpenError)
        assert not server.requests
