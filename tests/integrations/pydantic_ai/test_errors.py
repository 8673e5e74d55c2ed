"""What the errors of pydantic-ai mean to `classify`, raised by its models on real answers."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic
import openai
import pytest
from pydantic_ai import exceptions
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from resilient_llm import ErrorKind, classify
from tests.integrations.pydantic_ai.test_agents import _asking
from tests.support.providers import Line, Protocol, Provider, Reply, limited, overloaded, refusal
from tests.support.server import unused_port


def _model(protocol: Protocol, url: str) -> Any:
    if protocol == "openai":
        client = openai.AsyncOpenAI(base_url=url, api_key="not-a-key", max_retries=0)
        return OpenAIChatModel("m", provider=OpenAIProvider(openai_client=client))
    claude = anthropic.AsyncAnthropic(base_url=url, api_key="not-a-key", max_retries=0)
    return AnthropicModel("m", provider=AnthropicProvider(anthropic_client=claude))


def _raised(protocol: Protocol, url: str) -> BaseException:
    async def main() -> BaseException:
        model = _model(protocol, url)
        try:
            async with model.client:
                await model.request([_asking()], None, ModelRequestParameters())
        except Exception as error:
            return error
        raise AssertionError

    return asyncio.run(main())


def _both(status: int, kind: str, code: str | None = None) -> dict[Protocol, Line]:
    return {
        "openai": refusal("openai", status, kind, "No.", code=code),
        "anthropic": refusal("anthropic", status, kind, "No."),
    }


CASES: dict[str, tuple[dict[Protocol, Line], ErrorKind, str]] = {
    "rate limit": (
        {
            "openai": limited("openai", retry_after="18"),
            "anthropic": limited("anthropic", retry_after="18"),
        },
        ErrorKind.RATE_LIMITED,
        "rate_limit",
    ),
    "overload": (
        {"openai": overloaded("openai", 503), "anthropic": overloaded("anthropic")},
        ErrorKind.TRANSIENT,
        "overloaded",
    ),
    "server error": (_both(500, "api_error"), ErrorKind.TRANSIENT, "server_error"),
    "dead key": (
        _both(401, "authentication_error", "invalid_api_key"),
        ErrorKind.AUTH_DEAD,
        "invalid_credentials",
    ),
    "bad request": (
        _both(400, "invalid_request_error"),
        ErrorKind.REQUEST_SPECIFIC,
        "invalid_request",
    ),
    "no JSON": (
        {"openai": Reply(200, b"<html>"), "anthropic": Reply(200, b"<html>")},
        ErrorKind.TRANSIENT,
        "invalid_response",
    ),
}
"""``{name: (what each provider answers, the kind, the reason)}``"""


@pytest.mark.parametrize("protocol", ["openai", "anthropic"])
@pytest.mark.parametrize("name", CASES)
def test_answers_that_are_errors(name: str, protocol: Protocol) -> None:
    """An error of pydantic-ai means what the SDK's error below it means."""
    lines, kind, reason = CASES[name]
    with Provider(protocol) as provider:
        provider.says(lines[protocol])
        error = _raised(protocol, provider.url)

    assert (classify(error).kind, classify(error).reason) == (kind, reason)


@pytest.mark.parametrize("protocol", ["openai", "anthropic"])
def test_the_wait_of_a_rate_limit_is_read(protocol: Protocol) -> None:
    """A ``Retry-After`` counts, which old releases of pydantic-ai leave in the SDK's error."""
    with Provider(protocol) as provider:
        provider.says(limited(protocol, retry_after="18"))
        error = _raised(protocol, provider.url)

    assert classify(error).retry_after == 18.0


@pytest.mark.parametrize("protocol", ["openai", "anthropic"])
def test_connections_that_fail(protocol: Protocol) -> None:
    """A connection that is refused is the provider's, and may be tried again."""
    verdict = classify(_raised(protocol, f"http://127.0.0.1:{unused_port()}/v1"))

    assert (verdict.kind, verdict.scope) == (ErrorKind.TRANSIENT, "provider")


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (
            exceptions.UnexpectedModelBehavior("Exceeded maximum output retries (1)"),
            ErrorKind.REQUEST_SPECIFIC,
            None,
        ),
        (exceptions.UnexpectedModelBehavior("No choices"), ErrorKind.TRANSIENT, "invalid_response"),
        (exceptions.ModelHTTPError(529, "m"), ErrorKind.TRANSIENT, "overloaded"),
        (exceptions.UserError("No such tool"), ErrorKind.CALLER_BUG, None),
        (exceptions.UsageLimitExceeded("Too much"), ErrorKind.CALLER_BUG, None),
        (exceptions.ModelRetry("Again"), ErrorKind.CALLER_BUG, "control_flow"),
    ],
)
def test_errors_that_pydantic_ai_raises_itself(
    error: Exception, kind: ErrorKind, reason: str | None
) -> None:
    """An error of pydantic-ai without an answer is known by its class and its words."""
    verdict = classify(error)

    assert verdict.kind is kind
    assert reason is None or verdict.reason == reason


def test_a_content_filter_is_a_refusal() -> None:
    """ContentFilterError follows ``on_content_policy``."""
    kind: Any = getattr(exceptions, "ContentFilterError", None)
    if kind is None:
        pytest.skip("this release has none")

    verdict = classify(kind("Content filter triggered"))

    assert (verdict.kind, verdict.reason) == (ErrorKind.REQUEST_SPECIFIC, "content_policy")
